//! Saved states as a program holds them, in memory and in files. Plain data, no llama.cpp.
#![forbid(unsafe_code)]

pub(crate) mod payload;
pub(crate) mod snapshot;

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use crate::error::StateError;
use crate::saved::snapshot::{Entry, Header};
use crate::whole_file;

/// What one sequence, or several, had in the memory of a context: as bytes, with all that tells where they fit.
///
/// The tokens themselves are not in it, as they are not in the context.
///
/// Bytes from outside are checked before llama.cpp sees any of them: that they are complete and unchanged when the state
/// is made ([`from_bytes`](Self::from_bytes), [`read`](Self::read)), and that they fit the context, number by number, when
/// they are restored. Whoever forges a state, with its checksum, gets nonsense out of the sequence that is restored
/// from it, and nothing else.
#[derive(Clone, PartialEq, Eq)]
pub struct State {
    pub(crate) bytes: Vec<u8>,
    pub(crate) header: Header,
    pub(crate) sequences: Vec<SavedSequence>,
}

/// A sequence of a [`State`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SavedSequence {
    pub(crate) length: u32,
    slot: u32,
}

impl SavedSequence {
    /// Tokens that it had in memory.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.length
    }

    /// Whether nothing was in memory.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The [slot](crate::SeqId::slot) that it was saved from, which tells the sequences of
    /// [`save_all`](crate::Context::save_all) apart. It is restored into any.
    #[must_use]
    pub fn slot(&self) -> u32 {
        self.slot
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, sequences, .. } = self;
        f.debug_struct("State").field("bytes", &bytes.len()).field("sequences", sequences).finish_non_exhaustive()
    }
}

impl State {
    /// A state from its bytes, which are read once to see that none has changed.
    ///
    /// # Errors
    ///
    /// [`StateError`]: the bytes are no state, not all of one, altered, or of another version.
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Result<Self, StateError> {
        let bytes = bytes.into();
        let header = snapshot::read(&bytes)?;
        Ok(Self::new(bytes, header))
    }

    pub(crate) fn new(bytes: Vec<u8>, header: Header) -> Self {
        let saved = |entry: &Entry| SavedSequence { length: entry.length, slot: entry.slot };
        let sequences = header.entries.iter().map(saved).collect();
        Self { bytes, header, sequences }
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its bytes.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The sequences in it, in the order in which they are restored.
    #[must_use]
    pub fn sequences(&self) -> &[SavedSequence] {
        &self.sequences
    }

    /// Writes it to a file: all of it or nothing. It is written to a new file in the same folder, which takes the name
    /// once it is on the disk; whatever fails, a file that was there before is there still. It is a new file in every way: with
    /// the permissions that new files get, and in the place of a symbolic link, not where that leads to.
    ///
    /// # Errors
    ///
    /// [`StateError::NotWritten`].
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), StateError> {
        let path = path.as_ref();
        let failed = |source| StateError::NotWritten { path: path.to_owned(), source };
        whole_file::write(path, &self.bytes).map_err(failed)
    }

    /// Reads it from a file. Memory is taken only for a file that is as long as its header says.
    ///
    /// # Errors
    ///
    /// [`StateError`]: as [`from_bytes`](Self::from_bytes), or the file cannot be read.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, StateError> {
        let path = path.as_ref();
        let unreadable = |source| StateError::Unreadable { path: path.to_owned(), source };
        // Before it is opened: opening a pipe waits for whoever writes to it.
        if !fs::metadata(path).map_err(unreadable)?.is_file() {
            return Err(unreadable(io::Error::other("it is no regular file")));
        }
        let mut file = File::open(path).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        let mut bytes = Vec::new();
        (&mut file).take(snapshot::START as u64).read_to_end(&mut bytes).map_err(unreadable)?;
        snapshot::check_start(&bytes, length)?;
        let too_large = StateError::TooLarge { bytes: length };
        match usize::try_from(length).map(|length| bytes.try_reserve_exact(length - bytes.len())) {
            Ok(Ok(())) => {}
            _ => return Err(too_large),
        }
        file.take(length - bytes.len() as u64).read_to_end(&mut bytes).map_err(unreadable)?;
        Self::from_bytes(bytes)
    }
}
