//! Samplers that run inside the computation.

use thiserror::Error;

use crate::error::SequenceError;
use crate::id::Token;

/// Why a sampler of the computation was not made, or not given to a sequence. The sequence is as it was.
#[derive(Debug, Error, Clone, PartialEq)]
#[non_exhaustive]
pub enum GraphSamplerError {
    /// No candidates, or more than llama.cpp tries a sampler with.
    #[error("top_k is {got}: it can be 1 to {max}; without it, all tokens stay")]
    TopK {
        /// What was asked for.
        got: u32,
        /// The most.
        max: u32,
    },
    /// A share of the probability that is none.
    #[error("top_p is {got}: it must be above 0 and at most 1")]
    TopP {
        /// What was asked for.
        got: f32,
    },
    /// A share of the highest probability that is none, or so near to 1 that rounding may leave no token at all.
    #[error("min_p is {got}: it must be above 0 and at most {max}; greedy() leaves the most likely token alone")]
    MinP {
        /// What was asked for.
        got: f32,
        /// The most.
        max: f32,
    },
    /// A temperature that is no number, or out of range.
    #[error("temperature is {got}: it must be within {min} and {max}; for the most likely token use greedy()")]
    Temperature {
        /// What was asked for.
        got: f32,
        /// The least.
        min: f32,
        /// The most.
        max: f32,
    },
    /// A bias that is neither finite nor minus infinity.
    #[error("the bias of token {token} is {got}: it must be finite, or minus infinity to forbid the token")]
    Bias {
        /// The token.
        token: Token,
        /// What was asked for.
        got: f32,
    },
    /// Two biases for one token.
    #[error("token {token} has two biases: add them up")]
    BiasTwice {
        /// The token.
        token: Token,
    },
    /// A bias for a token that the model does not have.
    #[error("the bias is for token {token}, which is not in the vocabulary of {vocabulary} tokens")]
    TokenOutOfRange {
        /// The token.
        token: Token,
        /// Tokens of the vocabulary.
        vocabulary: u32,
    },
    /// Every token is forbidden.
    #[error("the biases forbid all {vocabulary} tokens of the vocabulary")]
    NothingAllowed {
        /// Tokens of the vocabulary.
        vocabulary: u32,
    },
    /// A step that would sort, or hand out, the whole vocabulary.
    #[error("{step} needs a top_k() before it, so that it does not sort or copy the whole vocabulary")]
    NeedsTopK {
        /// The step.
        step: &'static str,
    },
    /// A step that llama.cpp aborts on when it comes again.
    #[error("{step} can be in a chain once")]
    Twice {
        /// The step.
        step: &'static str,
    },
    /// More steps than llama.cpp has room for in the graph that it tries a chain with.
    #[error("a chain has at most {max} steps")]
    TooManySteps {
        /// The most.
        max: usize,
    },
    /// The number that means a random seed to llama.cpp.
    #[error("the seed {seed} stands for a random one in llama.cpp: take another, so that the draws can be repeated")]
    RandomSeed {
        /// What was asked for.
        seed: u32,
    },
    /// The context computes no logits with a memory: it embeds, encodes, or is a diffusion model's.
    #[error(
        "this context has no rows of logits to sample from: sampling in the graph needs a decoder, without embeddings(true)"
    )]
    NoLogits,
    /// Every row of a batch gives an output here, and a sequence can be sampled from once in a batch.
    #[error(
        "llama.cpp computes batches of this architecture wrong unless every row gives an output ({reason}): sample from Outputs::get()"
    )]
    EveryRowIsOutput {
        /// What llama.cpp does wrong.
        reason: &'static str,
    },
    /// The device that computes the logits lacks an operation.
    #[error("the model's output device cannot compute the step '{step}': sample from Outputs::get()")]
    Unsupported {
        /// llama.cpp's name of the sampler.
        step: String,
    },
    /// The model is split by tensors, for which llama.cpp does not sample in the graph.
    #[error("llama.cpp did not take the sampler: {reason}")]
    Rejected {
        /// What llama.cpp logged.
        reason: String,
    },
    /// The sequence is not of this context.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// llama.cpp threw.
    #[error("llama.cpp failed to set up the sampler: {reason}")]
    Failed {
        /// Its exception.
        reason: String,
    },
}
