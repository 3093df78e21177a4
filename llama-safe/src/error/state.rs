//! Saved states.

use std::path::PathBuf;

use thiserror::Error;

use crate::error::batch::SequenceError;

/// Why a state was not saved, read or restored. The context is as it was, but for outputs, which may be gone, and
/// the encoding of an encoder-decoder: sequences must be encoded again with their texts then.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StateError {
    /// A sequence cannot be used, or there is no slot for one.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// The model keeps no memory between calls.
    #[error("this model is an encoder: it keeps no memory of sequences that could be saved")]
    NoMemory,
    /// A kind of memory whose states have no checked way out and in.
    #[error("states of architecture {architecture} cannot be saved: {reason}")]
    Unsupported {
        /// The model's `general.architecture`.
        architecture: String,
        /// Why.
        reason: &'static str,
    },
    /// A shift or a copy is carried out by the next decode, and there is no room to make one.
    #[error(
        "sequences were shifted or forked and not decoded since, and there is no free sequence to carry that out with: \
         decode, or drop a sequence, before saving"
    )]
    Unsettled,
    /// The bytes are no saved state.
    #[error("this is no saved state: it begins with {found:02x?}")]
    NotAState {
        /// The first bytes.
        found: Vec<u8>,
    },
    /// Of another version of this crate.
    #[error("this state has format {found}, this version reads format {expected}")]
    Version {
        /// The state's.
        found: u32,
        /// This crate's.
        expected: u32,
    },
    /// Of a machine with another order of bytes.
    #[error("this state was saved on a machine with another byte order")]
    ByteOrder,
    /// Cut off, or longer than it was.
    #[error("this state has {got} bytes where {expected} were written: it was cut off or added to")]
    Length {
        /// Bytes that there are.
        got: u64,
        /// Bytes that its header tells of, or that the shortest state has.
        expected: u64,
    },
    /// A byte is not as it was written.
    #[error("the checksum of this state is wrong: it was altered")]
    Altered,
    /// Of other weights or other metadata.
    #[error("this state was saved with another model")]
    OtherModel,
    /// With other adapters, at another scale, or with another control vector.
    #[error("this state was saved with other adapters or another control vector than are in use now")]
    OtherAdapters,
    /// Of another llama.cpp, whose states have no version.
    #[error("this state was saved with llama.cpp {found}, this is {expected}: decode the text again")]
    OtherLlamaCpp {
        /// The state's.
        found: String,
        /// The one in use.
        expected: String,
    },
    /// The memory of the context is of another kind, or stores other numbers, or in another order.
    #[error(
        "this state has {what} {found}, the context has {expected}: make it with the parameters of the one that saved"
    )]
    OtherContext {
        /// Which parameter.
        what: &'static str,
        /// The state's.
        found: i64,
        /// The context's.
        expected: i64,
    },
    /// One sequence was asked for.
    #[error("this state holds {found} sequences, one was asked for: use restore_all()")]
    SeveralSequences {
        /// Sequences of the state.
        found: usize,
    },
    /// The context has not enough free sequences.
    #[error("this state holds {needed} sequences, the context has {free} free: drop some, or make it with more")]
    NotEnoughSequences {
        /// Sequences of the state.
        needed: usize,
        /// Those that are not leased.
        free: usize,
    },
    /// Longer than a sequence of this context can be.
    #[error("a sequence of this state has {length} tokens, one of this context holds {limit}: make the context larger")]
    TooLong {
        /// Tokens of the state's sequence.
        length: u32,
        /// The most that one sequence can hold.
        limit: u32,
    },
    /// The context's cells are in use.
    #[error("no room in the context's {context_tokens} cells for {tokens} tokens: drop, truncate or shift sequences")]
    NoRoom {
        /// Tokens that were to be restored.
        tokens: u64,
        /// Cells of the context.
        context_tokens: u32,
    },
    /// Bytes that no context like this one writes, with a checksum that fits them.
    #[error("this state is malformed at byte {at} of a sequence: {what}")]
    Malformed {
        /// Where.
        at: u64,
        /// What should stand there.
        what: &'static str,
    },
    /// Numbers that would reach other sequences.
    #[error("numbers at byte {at} of a sequence's state are not finite, or close to it: the computation had failed")]
    NotFinite {
        /// Where they begin.
        at: u64,
    },
    /// llama.cpp failed, or refused what the checks made before have passed.
    #[error("llama.cpp failed: {reason}")]
    Failed {
        /// What llama.cpp logged or threw.
        reason: String,
    },
    /// More than memory holds.
    #[error("a state of {bytes} bytes does not fit into memory")]
    TooLarge {
        /// Bytes of the state.
        bytes: u64,
    },
    /// The file cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// The path that was given.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The file was not written. What was there before is still there.
    #[error("{} was not written: {source}", path.display())]
    NotWritten {
        /// The path that was given.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
}
