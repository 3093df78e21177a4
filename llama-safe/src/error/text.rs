//! Text, tokens, and the choice of the next one.

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

/// Why no token was sampled.
#[derive(Debug, Error, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum SamplingError {
    /// A temperature that is not a positive number.
    #[error("the temperature is {got}, it must be above 0 and finite: use greedy() for the most likely token")]
    Temperature {
        /// What was given.
        got: f32,
    },
    /// There is nothing to choose from.
    #[error("no logits were given")]
    NoLogits,
    /// A logit that cannot be compared.
    #[error("the logit of token {token} is {value}: the model's computation has failed")]
    NotFinite {
        /// The token.
        token: usize,
        /// Its logit.
        value: f32,
    },
    /// Every token is forbidden.
    #[error("every token's logit is minus infinity: nothing can be chosen")]
    NothingAllowed,
}
