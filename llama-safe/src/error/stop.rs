//! Stop conditions.

use thiserror::Error;

use super::VocabError;

/// Why a stop condition was refused, or a token was not taken.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopError {
    /// A condition that would end every text before it begins.
    #[error("an empty {what} would end every text at once: leave it out")]
    Empty {
        /// A stop string or a token list.
        what: &'static str,
    },
    /// More conditions of a kind than are looked for.
    #[error("{got} {what} are too many, the most is {max}")]
    TooMany {
        /// Stop strings or token lists.
        what: &'static str,
        /// How many there would be.
        got: usize,
        /// The most.
        max: usize,
    },
    /// A condition that would hold too much of a text back.
    #[error("a {what} of {got} {unit} is too long, the most is {max}")]
    TooLong {
        /// A stop string or a token list.
        what: &'static str,
        /// Its length.
        got: usize,
        /// The most.
        max: usize,
        /// Bytes or tokens.
        unit: &'static str,
    },
    /// No token at all.
    #[error("max_tokens is 0, a text ends with its first token at the earliest: use 1 or more")]
    NoTokens,
    /// The text has ended.
    #[error("this text has ended, it takes no more tokens: reset() begins another one")]
    Ended,
    /// The token, or one of a token list, is not of this model.
    #[error(transparent)]
    Vocab(#[from] VocabError),
}
