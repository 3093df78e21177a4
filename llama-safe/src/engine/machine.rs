//! What the engine needs of a context: the seam at which its tests put a naive model of one.
#![forbid(unsafe_code)]

use std::ops::Range;

use crate::error::GenerateError;
use crate::id::Token;

/// What does not change while an engine runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Facts {
    /// Sequences that can hold something at a time.
    pub sequences: u32,
    /// Cells that all sequences draw on; `None` where each has its own.
    pub shared_cells: Option<u32>,
    /// The most tokens of one sequence.
    pub sequence_tokens: u32,
    /// The most rows of a batch.
    pub rows: u32,
    /// Whether a sequence can be cut at any length: forked and truncated there. Recurrent states cannot.
    pub cuts: bool,
    /// Whether the beginning of a sequence can be discarded without computing the rest again.
    pub shifts: bool,
}

/// What one sequence has computed in a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a, S> {
    pub sequence: &'a S,
    pub tokens: &'a [Token],
    /// Tokens that are guessed to follow.
    pub draft: &'a [Token],
    /// Whether the last token and each of the draft's gives logits.
    pub output: bool,
}

/// Memory for several sequences, and the computation on it.
pub(crate) trait Machine {
    /// Gives its slot back when it is dropped.
    type Sequence;
    /// What a sequence has in memory, elsewhere.
    type Saved;

    fn facts(&self) -> Facts;

    /// An empty sequence.
    fn lease(&mut self) -> Result<Self::Sequence, GenerateError>;

    /// A new sequence with the first `length` tokens of another.
    fn fork(&mut self, sequence: &Self::Sequence, length: u32) -> Result<Self::Sequence, GenerateError>;

    /// Whether a sequence can be forked and truncated at `length`.
    fn reaches(&self, sequence: &Self::Sequence, length: u32) -> bool;

    /// Forgets what comes after the first `length` tokens.
    fn truncate(&mut self, sequence: &Self::Sequence, length: u32) -> Result<(), GenerateError>;

    /// Forgets these, and moves the later ones down.
    fn shift(&mut self, sequence: &Self::Sequence, discard: Range<u32>) -> Result<(), GenerateError>;

    /// Forgets a sequence; a damaged one is good again.
    fn clear(&mut self, sequence: &Self::Sequence) -> Result<(), GenerateError>;

    /// Forgets everything, and the traces of numbers that were none.
    fn clear_all(&mut self) -> Result<(), GenerateError>;

    /// Copies what a sequence has in memory; `None` where that cannot be.
    fn save(&mut self, sequence: &Self::Sequence) -> Option<Self::Saved>;

    /// The size of a copy, bytes.
    fn bytes(saved: &Self::Saved) -> usize;

    /// A new sequence of a copy; `None` where that cannot be.
    fn restore(&mut self, saved: &Self::Saved) -> Option<Self::Sequence>;

    /// Whether a failed computation left a sequence unusable until it is cleared.
    fn is_damaged(&self, sequence: &Self::Sequence) -> bool;

    /// Computes all rows or none. Where it fails, sequences are as they were, or damaged.
    fn decode(&mut self, rows: &[Rows<'_, Self::Sequence>]) -> Result<(), GenerateError>;

    /// Logits of the last decode: of the rows at this place there, after their last token (0) or the draft's first, second, …
    /// token.
    fn logits(&self, place: usize, row: usize) -> Result<&[f32], GenerateError>;
}
