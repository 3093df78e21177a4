//! Sequences, batches, and what they give.

use thiserror::Error;

use crate::id::SeqId;
use crate::place::Place;

/// What is wrong with a sequence.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SequenceError {
    /// Every sequence of the context is leased.
    #[error("all {limit} sequences of this context are in use: drop one, or make the context with more")]
    NoFreeSlot {
        /// Sequences that the context was made with.
        limit: u32,
    },
    /// The sequence was dropped, or its context cleared it away.
    #[error("sequence {id} has been released")]
    Stale {
        /// The sequence.
        id: SeqId,
    },
    /// The sequence is of another context.
    #[error("sequence {id} belongs to another context")]
    Foreign {
        /// The sequence.
        id: SeqId,
    },
    /// A failed decode left it in a state that its kind of memory cannot undo.
    #[error(
        "sequence {id} was damaged by a failed decode and its memory cannot be rolled back: clear it, then decode it anew"
    )]
    Damaged {
        /// The sequence.
        id: SeqId,
    },
}

/// Why something was not added to a batch. The batch is as it was.
#[derive(Debug, Error, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum PushError {
    /// No room left.
    #[error(
        "the batch holds {have} of {limit} tokens, {adding} more do not fit: \
         compute it first; what is longer than a batch goes in parts, or needs larger batch_tokens and micro_batch_tokens"
    )]
    BatchFull {
        /// The most tokens it can hold.
        limit: u32,
        /// Tokens it holds.
        have: u32,
        /// Tokens that were to be added.
        adding: u64,
    },
    /// The model has no such token.
    #[error("token {token} is not in the vocabulary of {vocabulary} tokens")]
    TokenOutOfRange {
        /// The token's id.
        token: i32,
        /// Tokens of the vocabulary.
        vocabulary: u32,
    },
    /// Nothing was given where at least one token is needed.
    #[error("no tokens were given: a prompt has at least one")]
    NoTokens,
    /// The sequence cannot be used.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// The sequence would outgrow its share of the context.
    #[error(
        "sequence {id} holds {length} tokens with this batch, {adding} more exceed its {limit}: \
         shift or clear it, or make the context larger"
    )]
    SequenceFull {
        /// The sequence.
        id: SeqId,
        /// Tokens in memory and in this batch.
        length: u32,
        /// Tokens that were to be added.
        adding: u64,
        /// The most that one sequence can hold.
        limit: u32,
    },
    /// A token for a batch of embeddings.
    #[error("this batch takes embeddings: use new_batch() for tokens")]
    TakesEmbeddings,
    /// An embedding for a batch of tokens.
    #[error("this batch takes tokens: use new_embedding_batch() for embeddings")]
    TakesTokens,
    /// An embedding for a model whose graph llama.cpp builds of tokens alone.
    #[error("this model takes tokens alone: what it computes depends on which they are")]
    TokensAlone,
    /// An embedding of another width than the model's.
    #[error("the embedding has {got} numbers, the model's input has {expected}")]
    EmbeddingWidth {
        /// Numbers given.
        got: usize,
        /// Numbers that the model reads for each token.
        expected: u32,
    },
    /// Mean and class pooling see the tokens of one decode alone.
    #[error(
        "sequence {id} holds {length} tokens already, and its pooled embedding would leave them out: clear it first"
    )]
    PooledAcrossDecodes {
        /// The sequence.
        id: SeqId,
        /// Its length.
        length: u32,
    },
    /// A place for an embedding of a model that has none.
    #[error("an embedding of this model has one position, which follows from its sequence: use push_embedding()")]
    OnePosition,
    /// A place before what the sequence holds in memory.
    #[error("sequence {id} holds everything before time {first}, and the embedding is for {place:?}")]
    PlaceInThePast {
        /// The sequence.
        id: SeqId,
        /// What was given.
        place: Place,
        /// The first time that is free.
        first: u32,
    },
    /// A place that does not come after the one before: by time, then height, then width.
    #[error("the place {place:?} does not come after {after:?} of the same sequence {id}, by time, height and width")]
    PlaceOutOfOrder {
        /// The sequence.
        id: SeqId,
        /// What was given.
        place: Place,
        /// That of the sequence's last embedding in the batch.
        after: Place,
    },
    /// A place of which a number is beyond the sequence's share of the context.
    #[error("the place {place:?} for sequence {id} has a number that is not below {limit}: make the context larger")]
    PlaceBeyondContext {
        /// The sequence.
        id: SeqId,
        /// What was given.
        place: Place,
        /// The most tokens of a sequence.
        limit: u32,
    },
    /// Models with another number of positions than 1 or 4, which llama.cpp does not have.
    #[error("this model gives each embedding {positions} positions, which this batch cannot carry")]
    SeveralPositions {
        /// Positions of an embedding.
        positions: u32,
    },
    /// An embedding that is not a number throughout.
    #[error("the embedding's number {index} is {value}")]
    EmbeddingNotFinite {
        /// Which of its numbers.
        index: usize,
        /// What it is.
        value: f32,
    },
}

/// Why a batch was not computed.
#[derive(Debug, Error, Clone, PartialEq)]
#[non_exhaustive]
pub enum DecodeError {
    /// Nothing to do.
    #[error("the batch is empty")]
    EmptyBatch,
    /// More outputs than there is room for below the context's memory limit.
    #[error(
        "{outputs} outputs do not fit below the memory limit of the context, {most} do: compute the batch in parts"
    )]
    MemoryLimit {
        /// Outputs of the batch.
        outputs: u32,
        /// The most that there is room for.
        most: u32,
    },
    /// The batch was made by another context.
    #[error("the batch was made by another context")]
    ForeignBatch,
    /// A sequence of the batch cannot be used any more.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// A sequence was changed after its tokens were pushed, so that their positions are wrong.
    #[error(
        "sequence {id} held {expected} tokens when the batch was filled and holds {found} now: clear and refill the batch"
    )]
    SequenceChanged {
        /// The sequence.
        id: SeqId,
        /// Its length when it was pushed.
        expected: u32,
        /// Its length now.
        found: u32,
    },
    /// The context's memory is full. It is as it was before the call.
    #[error(
        "no room in the context's {context_tokens} cells for {tokens} tokens: \
         drop, truncate or shift sequences, or decode fewer"
    )]
    NoSlot {
        /// Tokens of the batch.
        tokens: u32,
        /// Cells of the context.
        context_tokens: u32,
    },
    /// `encode` on a model without an encoder.
    #[error("this model has no encoder: use decode()")]
    NoEncoder,
    /// `decode` on a model that only encodes, or on a diffusion model.
    #[error("this model computes without memory: use encode()")]
    NoDecoder,
    /// A sequence of an encoder-decoder that the last encoding does not have, so that its decoder would see no text.
    #[error(
        "sequence {id} was not encoded, or another encoding has replaced the one that it was in: \
         encode() its text again, with those of all sequences that are to go on"
    )]
    NotEncoded {
        /// The sequence.
        id: SeqId,
    },
    /// Another text for a sequence that holds tokens already, which were decoded with the first one in view.
    #[error(
        "the {length} tokens of sequence {id} were decoded from another text: clear it first, or encode the same text"
    )]
    EncodedOtherwise {
        /// The sequence.
        id: SeqId,
        /// Its length.
        length: u32,
    },
    /// `decode` with a batch of texts to be encoded.
    #[error("this batch holds texts for the encoder: use encode(), and new_batch() for what is decoded")]
    NotForDecoder,
    /// `encode` with a batch of tokens to be decoded.
    #[error("this batch holds tokens for the decoder: use decode(), and new_encoder_batch() for what is encoded")]
    NotForEncoder,
    /// Several outputs of a sequence that is sampled inside the computation. Nothing was computed.
    #[error(
        "the batch asks for {outputs} outputs of sequence {id}, which is sampled in the graph: ask for one, \
         or take its sampler off with set_graph_sampler()"
    )]
    SeveralSampled {
        /// The sequence.
        id: SeqId,
        /// Outputs that the batch asks for.
        outputs: u32,
    },
    /// An abort handle was used. Memory was rolled back but for the sequences listed.
    #[error("the computation was aborted; sequences that could not be rolled back: {damaged:?}")]
    Aborted {
        /// Sequences that must be cleared before their next use.
        damaged: Vec<SeqId>,
    },
    /// The computation failed. Memory was rolled back but for the sequences listed.
    #[error("llama.cpp failed to compute the batch ({reason}); sequences that could not be rolled back: {damaged:?}")]
    Failed {
        /// llama.cpp's code, its log or its exception.
        reason: String,
        /// Sequences that must be cleared before their next use.
        damaged: Vec<SeqId>,
    },
    /// llama.cpp found the batch malformed, which the checks made before should have found. Memory is as it was.
    #[error("llama.cpp refused the batch: {reason}")]
    Rejected {
        /// What llama.cpp logged.
        reason: String,
    },
}

/// Why an output was not given.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutputError {
    /// The slot is of a batch that is not the one decoded last.
    #[error("this output was promised by another batch than the one decoded last: read outputs before the next decode")]
    OtherDecode,
    /// The context computes embeddings, or the model has no output head.
    #[error("this context computes no logits: make it without embeddings(true), for a model that has a decoder")]
    NoLogits,
    /// The context does not compute embeddings.
    #[error("this context computes no embeddings: make it with embeddings(true)")]
    NoEmbeddings,
    /// The context pools: there is one embedding a sequence, not one a token.
    #[error("this context pools embeddings by sequence: use sequence_embedding()")]
    Pooled,
    /// The context does not pool: there is one embedding a token.
    #[error("this context does not pool embeddings: use embedding(), or choose a pooling for the context")]
    NotPooled,
    /// The sequence had no token in the batch.
    #[error("sequence {id} had no token in the batch decoded last")]
    SequenceNotInBatch {
        /// The sequence.
        id: SeqId,
    },
    /// llama.cpp has no such row, which the checks made before should have found.
    #[error("llama.cpp has no output for row {row}")]
    Missing {
        /// The token's place in the batch.
        row: u32,
    },
    /// The row was sampled inside the computation, and its logits were not kept.
    #[error(
        "row {row} was sampled in the graph, which leaves no logits: use sampled() or candidates(), \
         or take the sampler off its sequence before the decode"
    )]
    SampledInGraph {
        /// The token's place in the batch.
        row: u32,
    },
    /// The row's sequence had no sampler inside the computation.
    #[error(
        "row {row} was not sampled in the graph: use get(), or give its sequence a sampler with set_graph_sampler()"
    )]
    NotSampled {
        /// The token's place in the batch.
        row: u32,
    },
    /// The row's sampler ends with `candidates()`.
    #[error("the sampler of row {row} chooses no token: use candidates(), or end its chain with greedy() or dist()")]
    NothingChosen {
        /// The token's place in the batch.
        row: u32,
    },
    /// The computation overflowed. The numbers that it left in memory are multiplied with whatever a mask hides, and so
    /// reach every sequence that shares cells with this one, and those that take its cells over.
    #[error(
        "the logits of row {row} are no numbers: a weight, an adapter, a control vector or an input is too large; \
         take it away, and clear_all() before anything else is decoded"
    )]
    NotNumbers {
        /// The token's place in the batch.
        row: u32,
    },
}
