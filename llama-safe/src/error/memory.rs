//! What is done to a sequence's memory.

use std::ops::Range;

use thiserror::Error;

use crate::error::batch::SequenceError;
use crate::id::SeqId;

/// Why a memory cannot do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Obstacle {
    /// A recurrent state has no positions. With [`rollback_tokens`](crate::ContextParams::rollback_tokens) it can go back
    /// some tokens of the last decode, but be neither copied nor shifted there.
    #[error(
        "its recurrent state can go back {rollback} tokens now and no further: clear it, and decode what is to stay"
    )]
    State {
        /// Tokens that it can go back now.
        rollback: u32,
    },
    /// A recurrent state that was taken back, and is another's only once it was decoded.
    #[error("its recurrent state was taken back, and takes effect with its next decode: decode it first")]
    TakenBack,
    /// Two sequences with one recurrent state, as forks have before the next decode.
    #[error("a fork has the same recurrent state: decode one of them first, or clear it")]
    SharedState,
    /// A sliding window has forgotten what would be looked back on.
    #[error(
        "its sliding window of {window} tokens has forgotten what came before position {first}: \
         make the context with keep_past_window(true), or clear the sequence and decode what is to stay"
    )]
    Forgotten {
        /// The first position still held.
        first: u32,
        /// Tokens that a layer with a window looks back on.
        window: u32,
    },
    /// Embeddings at [places](crate::Place) of their own, of which several may have one position.
    #[error(
        "embeddings before position {end} have places of their own and cannot be told apart: go back to {end} or to 0"
    )]
    Placed {
        /// The first position after them.
        end: u32,
    },
    /// Layers with a sliding window, of which llama.cpp forgets too much once a sequence was shifted.
    #[error(
        "its layers with a sliding window of {window} tokens forget too much after a shift: \
         clear it, and decode what is to stay"
    )]
    Window {
        /// Tokens that a layer with a window looks back on.
        window: u32,
    },
    /// Positions that are several numbers each, or learned.
    #[error("positions of this model cannot be renumbered: clear it, and decode what is to stay")]
    Positions,
}

/// Why an operation on a sequence's memory was not done. Memory is as it was.
#[derive(Debug, Error, Clone, PartialEq)]
#[non_exhaustive]
pub enum MemoryError {
    /// The sequence cannot be used.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// Positions that the sequence does not have.
    #[error("sequence {id} holds {length} tokens, {asked:?} is not within it")]
    OutOfRange {
        /// The sequence.
        id: SeqId,
        /// What was asked for.
        asked: Range<u32>,
        /// Its length.
        length: u32,
    },
    /// The memory cannot forget what comes after the first `length` tokens of a sequence.
    #[error("sequence {id} cannot go back to {length} tokens: {obstacle}")]
    CannotTruncate {
        /// The sequence.
        id: SeqId,
        /// The length that was asked for.
        length: u32,
        /// What is in the way, and what to do about it.
        obstacle: Obstacle,
    },
    /// The memory cannot copy the first `length` tokens of a sequence.
    #[error("the first {length} tokens of sequence {id} cannot be forked: {obstacle}")]
    CannotFork {
        /// The sequence.
        id: SeqId,
        /// The length that was asked for.
        length: u32,
        /// What is in the way, and what to do about it.
        obstacle: Obstacle,
    },
    /// The memory cannot renumber positions.
    #[error("sequence {id} cannot be shifted: {obstacle}")]
    CannotShift {
        /// The sequence.
        id: SeqId,
        /// What is in the way, and what to do about it.
        obstacle: Obstacle,
    },
    /// Cells of this sequence belong to others as well, which a shift would renumber too.
    #[error("sequence {id} shares cells with a fork on the unified cache: shifting it would move the fork's positions")]
    SharedCells {
        /// The sequence.
        id: SeqId,
    },
    /// The model keeps no memory between calls.
    #[error("this model keeps no memory of sequences")]
    NoMemory,
    /// A C++ exception.
    #[error("llama.cpp failed: {reason}")]
    Failed {
        /// The exception's text.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message that goes over two lines of source ends the first with a backslash, or has a gap.
    #[test]
    fn messages_have_no_gaps() {
        let obstacles = [
            Obstacle::State { rollback: 1 },
            Obstacle::TakenBack,
            Obstacle::SharedState,
            Obstacle::Forgotten { first: 9, window: 8 },
            Obstacle::Placed { end: 3 },
            Obstacle::Window { window: 8 },
            Obstacle::Positions,
        ];
        for obstacle in obstacles {
            assert!(!obstacle.to_string().contains("  "), "{obstacle}");
        }
    }
}
