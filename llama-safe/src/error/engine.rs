//! The engine: starting it, what it is asked for, and why an answer failed.

use thiserror::Error;

use super::{
    ContextError, DecodeError, EmbedError, MemoryError, OutputError, PushError, SamplingError, SequenceError,
    StopError, VocabError,
};

/// Why an engine was not started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The context was refused.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The model generates no text token by token.
    #[error("a model of the architecture {architecture} does not continue texts: {reason}")]
    CannotGenerate {
        /// `general.architecture`.
        architecture: String,
        /// What to use instead.
        reason: &'static str,
    },
    /// What it was to measure or to try out before it begins.
    #[error("the engine could not try out its context: {0}")]
    TryOut(#[from] GenerateError),
    /// The context for embeddings was refused.
    #[error("the engine's context for embeddings: {0}")]
    Embed(#[from] EmbedError),
    /// A number out of its range.
    #[error("{what} is {got}, it must be {allowed}")]
    OutOfRange {
        /// Which one.
        what: &'static str,
        /// What was given.
        got: u64,
        /// What it may be.
        allowed: &'static str,
    },
    /// Sequences that share cells are computed with rounding that depends on the others.
    #[error(
        "deterministic(true) needs cells of their own for each sequence, and {got}: leave the layout to the engine, \
         and its sequences to split cells"
    )]
    NotDeterministic {
        /// What stands in the way.
        got: &'static str,
    },
    /// A text would have several vectors.
    #[error("an engine gives one vector for each text: choose a pooling for its embeddings, or use Embedder")]
    Unpooled,
    /// The system gave no thread.
    #[error("the engine's thread could not be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// Why a request was not taken. Nothing has been computed for it.
#[derive(Debug, Error, Clone, PartialEq)]
#[non_exhaustive]
pub enum RequestError {
    /// Nothing to continue.
    #[error("the prompt has no tokens: give it one at least")]
    EmptyPrompt,
    /// More tokens than a sequence has room for.
    #[error(
        "the prompt's {tokens} tokens do not fit into a sequence of {limit}: \
         shorten it, or make the engine with more context_tokens or fewer sequences"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// The most tokens of one sequence.
        limit: u32,
    },
    /// A token that the model does not have.
    #[error("token {token} of the prompt is not in the vocabulary of {vocabulary} tokens")]
    TokenOutOfRange {
        /// The token's id.
        token: i32,
        /// Tokens of the vocabulary.
        vocabulary: u32,
    },
    /// More tokens are to be kept when the context is full than it has room for.
    #[error("{keep} tokens are to be kept of a full sequence of {limit}: keep {} at the most", .limit.saturating_sub(2))]
    KeepTooLong {
        /// Tokens to be kept.
        keep: u32,
        /// The most tokens of one sequence.
        limit: u32,
    },
    /// Nothing to sample with.
    #[error("no samplers were given: one for each answer")]
    NoSamplers,
    /// The prompt could not be tokenized.
    #[error(transparent)]
    Vocab(#[from] VocabError),
    /// The conditions are not of this model.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// The sampler did not take the prompt.
    #[error("the sampler did not take the prompt: {0}")]
    Sampling(#[from] SamplingError),
    /// As many requests wait as may.
    #[error("{limit} requests wait already: try again later, or use generate(), which waits for room")]
    QueueFull {
        /// The most that wait.
        limit: usize,
    },
    /// The engine makes no embeddings.
    #[error("this engine makes no embeddings: start it with EngineBuilder::embeddings")]
    NoEmbeddings,
    /// The engine was shut down.
    #[error("the engine has been shut down")]
    Stopped,
}

/// Why an answer failed. What came before is good.
#[derive(Debug, Error, Clone, PartialEq)]
#[non_exhaustive]
pub enum GenerateError {
    /// Computing it failed, alone as well.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Its tokens were refused.
    #[error(transparent)]
    Push(#[from] PushError),
    /// It was not given a sequence.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// Its memory could not be changed.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// What was computed cannot be read, or is no number.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// No token could be chosen.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// Its text could not be followed.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// A function of the request's panicked.
    #[error("a function of this request panicked: {message}")]
    Panicked {
        /// What the panic said.
        message: String,
    },
    /// The engine's thread is gone.
    #[error("the engine ended before this answer did")]
    EngineGone,
}

/// Why measured step costs were refused.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StepCostsError {
    /// Nothing was measured.
    #[error("no step costs were given: at least the cost of one number of rows is needed")]
    Empty,
    /// A step computes something.
    #[error("a cost was given for a step of 0 rows: leave it out")]
    ZeroWidth,
    /// A step takes time.
    #[error("a step of {width} rows was said to take no time")]
    ZeroDuration {
        /// Rows of the step.
        width: u32,
    },
    /// Which of the two is meant?
    #[error("two costs were given for a step of {width} rows")]
    Twice {
        /// Rows of the step.
        width: u32,
    },
}
