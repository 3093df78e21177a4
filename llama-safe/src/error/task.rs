//! What is built on contexts: embedding, ranking, verifying.

use thiserror::Error;

use crate::error::batch::DecodeError;
use crate::error::batch::OutputError;
use crate::error::batch::PushError;
use crate::error::batch::SequenceError;
use crate::error::context::ContextError;
use crate::error::memory::MemoryError;
use crate::error::text::VocabError;

/// Why texts were not embedded, or documents not ranked. The embedder can be used again.
#[derive(Debug, Error, Clone, PartialEq)]
#[non_exhaustive]
pub enum EmbedError {
    /// The context for it was not made.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// A text was not tokenized.
    #[error("text {text}: {source}")]
    Vocab {
        /// Which of the texts or documents.
        text: usize,
        /// Why.
        source: VocabError,
    },
    /// The vocabulary lacks what every text or query needs.
    #[error(transparent)]
    Vocabulary(#[from] VocabError),
    /// There is nothing in it, or nothing that the vocabulary has tokens for.
    #[error("text {text} has no tokens: leave it out")]
    Empty {
        /// Which of the texts or documents.
        text: usize,
    },
    /// A query without tokens.
    #[error("the query has no tokens")]
    EmptyQuery,
    /// It does not fit into one batch, and pooling a part of it would be pooling another text.
    #[error(
        "text {text} has {tokens} tokens, at most {limit} are computed at once: \
         cut it, or raise batch_tokens as far as the model has positions"
    )]
    TooLong {
        /// Which of the texts or documents.
        text: usize,
        /// Its tokens, with those that the vocabulary adds; of a document, with the query's.
        tokens: usize,
        /// The most.
        limit: u32,
    },
    /// The model has no such token.
    #[error("text {text}: token {token} is not in the vocabulary of {vocabulary} tokens")]
    TokenOutOfRange {
        /// Which of the texts.
        text: usize,
        /// The token's id.
        token: i32,
        /// Tokens of the vocabulary.
        vocabulary: u32,
    },
    /// An embedding that is not a number throughout.
    #[error("number {index} of the embedding of text {text} is {value}: the model's computation has failed")]
    NotFinite {
        /// Which of the texts or documents.
        text: usize,
        /// Which number.
        index: usize,
        /// What it is.
        value: f32,
    },
    /// A model that scores pairs.
    #[error("this model ranks documents for a query: use Reranker, or ask for another pooling than the model's")]
    IsReranker,
    /// A model that does not score pairs.
    #[error("this model does not rank: its pooling is not by rank, use Embedder")]
    NotReranker,
    /// Nothing tells query and document apart.
    #[error(
        "this vocabulary puts no token between query and document, and the model has no template for them: \
         join them yourself and use scores_of_tokens()"
    )]
    NoSeparator,
    /// The model's template leaves out one of the two, so that scores would not depend on it.
    #[error(
        "the model's template for reranking, tokenizer.chat_template.rerank, has no {lacks} in it: \
         the file has to be corrected"
    )]
    Template {
        /// The place that it lacks.
        lacks: &'static str,
    },
    /// The texts did not go into a batch, which the checks made before should have prevented.
    #[error(transparent)]
    Push(#[from] PushError),
    /// A batch was not computed. What it holds is lost; the next call begins with empty sequences.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// An output was not found, which the checks made before should have prevented.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A sequence was not emptied.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A sequence was not leased.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// The engine that was to do it was shut down.
    #[error("the engine was shut down before it came to these texts")]
    Stopped,
}

/// Why a model could not be verified.
#[derive(Debug, Error, Clone, PartialEq)]
#[non_exhaustive]
pub enum VerifyError {
    /// The parameters leave no room for the texts that are compared.
    #[error(
        "the {what} has room for {has} tokens with these parameters, {needs} are needed to verify: \
         raise batch_tokens, micro_batch_tokens and context_tokens"
    )]
    TooSmall {
        /// A sequence, batch or context.
        what: &'static str,
        /// Tokens that it has room for.
        has: u32,
        /// Tokens that the texts have.
        needs: u32,
    },
    /// Equal outputs would say nothing.
    #[error("this model gives the same outputs whatever its tokens: there is nothing to compare")]
    AlwaysTheSame,
    /// A context cannot be made.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// A sequence cannot be had.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// A token cannot be given.
    #[error(transparent)]
    Push(#[from] PushError),
    /// A batch cannot be computed.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// An output cannot be read.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A memory operation failed.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}
