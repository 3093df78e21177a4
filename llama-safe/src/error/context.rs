//! Making a context.

use thiserror::Error;

/// Why a context was not made.
#[derive(Debug, Error, Clone, PartialEq)]
#[non_exhaustive]
pub enum ContextError {
    /// No sequences, or more than llama.cpp has room for.
    #[error("a context has 1 to {max} sequences, {got} were asked for")]
    SequencesOutOfRange {
        /// What was asked for.
        got: u32,
        /// llama.cpp's maximum.
        max: u32,
    },
    /// A batch that holds no token.
    #[error("batch_tokens is 0: a batch must hold at least one token")]
    BatchTokensZero,
    /// A micro-batch that holds no token.
    #[error("micro_batch_tokens is 0: a micro-batch must hold at least one token")]
    MicroBatchTokensZero,
    /// A batch that has no room for one token of each sequence.
    #[error(
        "a batch of {batch_tokens} tokens has no room for one token of each of {sequences} sequences: \
         raise batch_tokens and context_tokens to {sequences} or more"
    )]
    BatchSmallerThanSequences {
        /// Tokens in a batch (never more than the context's).
        batch_tokens: u32,
        /// Sequences asked for.
        sequences: u32,
    },
    /// A number that llama.cpp's 32-bit arithmetic would overflow on.
    #[error("{what} is {got}, the most is {max}")]
    TooLarge {
        /// Which number.
        what: &'static str,
        /// What was asked for.
        got: u64,
        /// The most that is accepted.
        max: u64,
    },
    /// No threads, or more than ggml's thread pool holds.
    #[error("{got} threads were asked for, 1 to {max} are possible")]
    ThreadsOutOfRange {
        /// What was asked for.
        got: u32,
        /// ggml's maximum.
        max: u32,
    },
    /// More snapshots of a recurrent state than one pass can write.
    #[error("rollback_tokens is {got}: with this batch_tokens and micro_batch_tokens the most is {max}")]
    RollbackOutOfRange {
        /// What was asked for.
        got: u32,
        /// The most, two less than the tokens of a pass.
        max: u32,
    },
    /// Snapshots of a recurrent state that cannot be taken, or not rightly.
    #[error("rollback_tokens cannot be had with architecture {architecture}: {reason}")]
    RollbackUnsupported {
        /// The model's `general.architecture`.
        architecture: String,
        /// What is in the way.
        reason: &'static str,
    },
    /// The model was loaded without its weights.
    #[error("the model was loaded with vocab_only: it has no weights to compute with")]
    VocabularyOnly,
    /// A kind of model that this version has no safe path for.
    #[error("models of architecture {architecture} are not supported: {reason}")]
    UnsupportedModel {
        /// The model's `general.architecture`.
        architecture: String,
        /// What is missing.
        reason: &'static str,
    },
    /// An architecture that llama.cpp computes wrong as soon as there are several sequences.
    #[error("models of architecture {architecture} can have one sequence, not {got}: {reason}")]
    OneSequence {
        /// The model's `general.architecture`.
        architecture: String,
        /// Sequences that were asked for.
        got: u32,
        /// What llama.cpp does wrong.
        reason: &'static str,
    },
    /// Pooling by rank for a model that is no reranker.
    #[error(
        "this model's pooling is not by rank, and that cannot be asked for: it takes a head that the model has not"
    )]
    NotReranker,
    /// A reranker without a head of as many outputs as it claims to have scores: llama.cpp would read other numbers.
    #[error(
        "this reranker has {scores} scores for each text, but its head leaves {width} numbers: \
         the file lacks its classification head, ask for another pooling"
    )]
    NoClassifier {
        /// Scores that llama.cpp would read.
        scores: u32,
        /// Numbers that the model computes.
        width: u32,
    },
    /// Pooling with an encoder-decoder, whose decoder attends to the encoder's output for each token.
    #[error(
        "the model's decoder needs the encoder's output for each token: leave the pooling to the model, or choose none"
    )]
    PooledEncoder,
    /// More memory than [`memory_limit`](crate::ContextParams::memory_limit) allows.
    #[error(
        "the context takes {needed} bytes and may take {limit}: lower context_tokens or sequences for its cache of {cache} bytes, \
         micro_batch_tokens for {compute} bytes of computations, batch_tokens or sequences for {outputs} bytes of outputs"
    )]
    MemoryLimit {
        /// Bytes that it would take; at least, if its states and outputs alone are too many.
        needed: u64,
        /// Bytes that it may take.
        limit: u64,
        /// Of those needed, keys and values of tokens and states of sequences.
        cache: u64,
        /// Of those needed, what computations keep between their steps.
        compute: u64,
        /// Of those needed, logits and embeddings.
        outputs: u64,
    },
    /// llama.cpp could not make the context, for want of memory as a rule.
    #[error("llama.cpp cannot make this context: {reason}")]
    Rejected {
        /// What llama.cpp logged or threw.
        reason: String,
    },
}
