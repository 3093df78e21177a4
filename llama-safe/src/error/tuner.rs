//! Finding the best parameters.

use std::time::Duration;

use thiserror::Error;

use super::{ContextError, DecodeError, GenerateError, MemoryError, PushError, SequenceError, StateError};

/// Why nothing was tuned.
#[derive(Debug, Error, Clone, PartialEq)]
#[non_exhaustive]
pub enum TunerError {
    /// A number that must be 1 or more.
    #[error("{what}: 1 or more, 0 was given")]
    Zero {
        /// Which one.
        what: &'static str,
    },
    /// Requests that do not fit into a sequence.
    #[error("requests of {tokens} tokens do not fit into a sequence of {limit}: raise sequence_tokens")]
    RequestTooLong {
        /// Prompt and answer.
        tokens: u32,
        /// Tokens of a sequence.
        limit: u32,
    },
    /// No setting is fast enough.
    #[error("a step takes {fastest:?} at the least, more than the {gap:?} between two tokens that were asked for")]
    GapTooShort {
        /// What was asked for.
        gap: Duration,
        /// What a step takes.
        fastest: Duration,
    },
    /// A context was refused.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// Computing failed.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// A state did not come back.
    #[error("a sequence could not be copied: {0}")]
    Copy(String),
}

/// The errors of calls that a measurement makes.
macro_rules! of_a_call {
    ($($error:ty),*) => { $(
        impl From<$error> for TunerError {
            fn from(error: $error) -> Self {
                Self::Generate(error.into())
            }
        }
    )* };
}
of_a_call!(DecodeError, PushError, SequenceError, MemoryError);

impl From<StateError> for TunerError {
    fn from(error: StateError) -> Self {
        Self::Copy(error.to_string())
    }
}
