//! The crate's identifiers: tokens, sequences, outputs, contexts.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// A token's id in its model's vocabulary.
///
/// Any number can be written down; it is checked where it is used.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Token(pub i32);

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names a sequence in errors and logs: its slot in the context, and how many leases that slot has had before.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SeqId {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

impl SeqId {
    /// The slot: llama.cpp's `llama_seq_id`.
    #[must_use]
    pub fn slot(self) -> u32 {
        self.slot
    }

    /// Leases of the slot before this one.
    #[must_use]
    pub fn generation(self) -> u32 {
        self.generation
    }
}

impl fmt::Display for SeqId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.slot, self.generation)
    }
}

/// The promise of one output row, handed out by the push that asked for it.
///
/// Good for the decode of that batch alone; afterwards it is refused with
/// [`OutputError::OtherDecode`](crate::OutputError::OtherDecode).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct OutputSlot {
    /// Which filling of which batch.
    pub(crate) fill: FillId,
    /// The token's place in the batch.
    pub(crate) row: u32,
}

/// Tells contexts apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct ContextId(u64);

impl ContextId {
    /// One that was never given before.
    pub(crate) fn next() -> Self {
        Self(unique())
    }
}

/// Tells the fillings of batches apart: a batch gets a new one whenever it is emptied.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct FillId(u64);

impl FillId {
    /// One that was never given before.
    pub(crate) fn next() -> Self {
        Self(unique())
    }
}

fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
