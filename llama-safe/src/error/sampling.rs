//! The choice of the next token, and the numbers that steer it.

use thiserror::Error;

#[cfg(feature = "grammar")]
use super::GrammarError;
use super::VocabError;

/// Why no token was sampled. The sampler is as it was before: its history, its random numbers, its targets.
#[derive(Debug, Error, Clone, PartialEq)]
#[non_exhaustive]
pub enum SamplingError {
    /// There is nothing to choose from.
    #[error("no logits were given")]
    NoLogits,
    /// More logits than there are token ids.
    #[error("{got} logits are too many: token ids end at {max}")]
    TooManyLogits {
        /// What was given.
        got: usize,
        /// The most.
        max: usize,
    },
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
    /// The grammar allows no token of this vocabulary here, and the text is not whole.
    #[cfg(feature = "grammar")]
    #[error("the grammar allows no token of this vocabulary here: the text cannot be finished")]
    DeadEnd,
    /// The text is whole, and the vocabulary has no token that says so.
    #[cfg(feature = "grammar")]
    #[error("the text is whole by its grammar, and this vocabulary has no token that ends it: stop here")]
    GrammarFinished,
    /// The grammar could not read the token that was chosen or given.
    #[cfg(feature = "grammar")]
    #[error(transparent)]
    Grammar(#[from] GrammarError),
    /// A bias names a token that has no logit.
    #[error("a logit bias was given for token {token}, and there are {vocabulary} tokens")]
    BiasOutOfRange {
        /// The token.
        token: i32,
        /// Tokens of the vocabulary, as the logits have it.
        vocabulary: usize,
    },
    /// A chain that knows the texts of tokens was given the logits of another vocabulary.
    #[error("the sampler was made for a vocabulary of {expected} tokens, and there are {got} logits")]
    OtherVocabulary {
        /// Tokens of the model that the sampler was made for.
        expected: usize,
        /// Logits that were given.
        got: usize,
    },
    /// A custom step gave a logit that cannot be compared.
    #[error("the custom sampler {step} set the logit of token {token} to {value}")]
    CustomNotFinite {
        /// The step's place in the chain, from 0.
        step: usize,
        /// The token.
        token: i32,
        /// Its logit.
        value: f32,
    },
    /// A custom step left nothing to choose from.
    #[error("the custom sampler {step} left no token to choose from")]
    CustomLeftNothing {
        /// The step's place in the chain, from 0.
        step: usize,
    },
    /// A custom step panicked.
    #[error("the custom sampler {step} panicked: {message}")]
    CustomPanicked {
        /// The step's place in the chain, from 0.
        step: usize,
        /// What the panic said.
        message: String,
    },
}

/// Why a sampler was not made.
#[derive(Debug, Error, Clone, PartialEq)]
#[non_exhaustive]
pub enum SamplerParamError {
    /// A number is not what the parameter may be.
    #[error("{parameter} is {got}, it must be {allowed}")]
    OutOfRange {
        /// Which one.
        parameter: &'static str,
        /// What was given.
        got: f32,
        /// What it may be.
        allowed: &'static str,
    },
    /// A count is not what the parameter may be.
    #[error("{parameter} is {got}, it must be from {min} to {max}")]
    CountOutOfRange {
        /// Which one.
        parameter: &'static str,
        /// What was given.
        got: u32,
        /// The least.
        min: u32,
        /// The most.
        max: u32,
    },
    /// A text is held to one grammar.
    #[cfg(feature = "grammar")]
    #[error("the chain has a grammar already: join the two in one")]
    SecondGrammar,
    /// A token id that no vocabulary has.
    #[error("a logit bias was given for token {token}: token ids begin at 0")]
    NegativeToken {
        /// The token.
        token: i32,
    },
    /// A text that begins the search for repetitions anew is empty or too long.
    #[error("the sequence breaker {breaker:?} has {} bytes, it must have from 1 to {max}", breaker.len())]
    BreakerLength {
        /// The text.
        breaker: String,
        /// The most bytes.
        max: usize,
    },
    /// The vocabulary has no token that ends a text.
    #[error("this vocabulary has neither EOT nor EOS: filling in cannot end")]
    NoEndToken,
    /// The texts of the vocabulary could not be read.
    #[error(transparent)]
    Vocab(#[from] VocabError),
    /// The model's metadata recommends what cannot be done.
    #[error("the model's metadata has {key} = {value:?}: {reason}")]
    Metadata {
        /// The metadata's key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is wrong.
        reason: String,
    },
}
