//! Text and tokens.

use thiserror::Error;

/// Why text or tokens were not converted.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum VocabError {
    /// The model file has no vocabulary.
    #[error("this model has no vocabulary: it takes and gives token ids only")]
    NoVocabulary,
    /// The vocabulary has no such token.
    #[error("token {token} is not in the vocabulary of {vocabulary} tokens")]
    TokenOutOfRange {
        /// The token's id.
        token: i32,
        /// Tokens of the vocabulary.
        vocabulary: u32,
    },
    /// The vocabulary is told to add a token that it does not have.
    #[error("this vocabulary wants a {name} token around a text and has none: tokenize with Special::None")]
    NoSuchSpecial {
        /// Which one.
        name: &'static str,
    },
    /// More than llama.cpp's 32-bit lengths can tell.
    #[error("{got} {unit} are too many, the most is {max}")]
    TooLong {
        /// What was given.
        got: usize,
        /// The most.
        max: usize,
        /// Bytes or tokens.
        unit: &'static str,
    },
    /// A C++ exception.
    #[error("llama.cpp failed: {reason}")]
    Failed {
        /// The exception's text.
        reason: String,
    },
}
