//! The numbers of a context, as llama.cpp settled them when it was made.

use std::fmt;

use crate::error::ContextError;

/// How the cells of the KV cache are shared out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum KvLayout {
    /// Each sequence has cells of its own: `context_tokens / sequences` each. Best for unrelated sequences.
    #[default]
    Split,
    /// All sequences draw on one pool of cells, and a fork shares its parent's. Best for long common prefixes.
    Unified,
}

/// How the embeddings of a sequence's tokens become one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Pooling {
    /// What the model file says.
    #[default]
    Model,
    /// Not at all: one embedding a token.
    None,
    /// Their mean.
    Mean,
    /// The first token's.
    Cls,
    /// The last token's.
    Last,
    /// A reranker's score. It comes with the model, and is refused for any other.
    Rank,
}

/// What a model remembers between calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemoryKind {
    /// Nothing: an encoder, or a diffusion model.
    None,
    /// Keys and values of each token.
    Attention,
    /// A state without positions, which cannot go back (Mamba, RWKV).
    Recurrent,
    /// Both.
    Hybrid,
}

/// The numbers of a context. Those asked for may have been rounded; these are the ones that hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    pub(crate) context_tokens: u32,
    pub(crate) sequence_tokens: u32,
    pub(crate) batch_tokens: u32,
    pub(crate) micro_batch_tokens: u32,
    pub(crate) sequences: u32,
    pub(crate) vocabulary: u32,
    pub(crate) input_width: u32,
    pub(crate) output_width: u32,
    pub(crate) positions_per_embedding: u32,
    /// Whether a row can be an embedding.
    pub(crate) takes_embeddings: bool,
    pub(crate) causal: bool,
    pub(crate) embeddings: bool,
    pub(crate) pooling: Pooling,
    pub(crate) memory: MemoryKind,
    pub(crate) kv_layout: KvLayout,
    /// Whether the decoder attends to what the encoder left.
    pub(crate) encodes_first: bool,
    /// Whether the graph has an output head.
    pub(crate) output_head: bool,
    pub(crate) rollback_tokens: u32,
    pub(crate) fallback: Option<Fallback>,
}

/// A slower way that is in force, since llama.cpp computes this architecture's batches wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fallback {
    /// What is wrong.
    pub(crate) wrong: &'static str,
    pub(crate) way: Way,
}

/// What is done instead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// Every row gives an output, asked for or not.
    AllOutputs,
    /// Passes of one token of each sequence, every one with an output.
    OneToken,
    /// Passes of one token, which takes shared cells: llama.cpp cuts the others sequence by sequence, whatever the micro-batch
    /// (`split_equal` in llama-batch.cpp).
    OneTokenShared,
}

impl Fallback {
    /// What llama.cpp does wrong with this architecture.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.wrong
    }

    /// Whether a pass computes no more than one token of each sequence: right, and for prompts as slow as without batches.
    #[must_use]
    pub fn is_one_token_at_a_time(&self) -> bool {
        matches!(self.way, Way::OneToken | Way::OneTokenShared)
    }
}

impl fmt::Display for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instead = match self.way {
            Way::AllOutputs => "every row gives an output, asked for or not",
            Way::OneToken => "a pass computes one token of each sequence",
            Way::OneTokenShared => "a pass computes one token, and all sequences share their cells",
        };
        write!(f, "{}; instead, {instead}", self.wrong)
    }
}

impl Limits {
    /// Cells of the context, over all sequences (`n_ctx`), tokens.
    #[must_use]
    pub fn context_tokens(&self) -> u32 {
        self.context_tokens
    }

    /// The most tokens of one sequence (`n_ctx_seq`).
    #[must_use]
    pub fn sequence_tokens(&self) -> u32 {
        self.sequence_tokens
    }

    /// The most tokens of one batch.
    ///
    /// `n_batch`; `n_ubatch` where a batch must be computed in one pass: without causal attention, and where
    /// embeddings are pooled (llama.cpp pools each micro-batch by itself).
    #[must_use]
    pub fn batch_tokens(&self) -> u32 {
        if self.one_pass() { self.batch_tokens.min(self.micro_batch_tokens) } else { self.batch_tokens }
    }

    fn one_pass(&self) -> bool {
        !self.causal || self.memory == MemoryKind::None || (self.embeddings && self.is_pooled())
    }

    /// The most tokens of one [encoder batch](crate::Context::new_encoder_batch): an encoder computes in one pass, since every
    /// token sees all others (an assertion, llama-context.cpp:1505).
    #[must_use]
    pub fn encoder_tokens(&self) -> u32 {
        self.batch_tokens.min(self.micro_batch_tokens)
    }

    /// Whether sequences must be [encoded](crate::Context::encode) before they are decoded: the model is an encoder and a
    /// decoder that attends to what was encoded (T5).
    #[must_use]
    pub fn encodes_first(&self) -> bool {
        self.encodes_first
    }

    /// The most tokens that are computed in one pass (`n_ubatch`).
    #[must_use]
    pub fn micro_batch_tokens(&self) -> u32 {
        self.micro_batch_tokens
    }

    /// The slower way that is in force where llama.cpp computes this architecture's batches wrong; `None` for most. What is
    /// known is in `docs/architectures.md` of this project.
    #[must_use]
    pub fn fallback(&self) -> Option<&Fallback> {
        self.fallback.as_ref()
    }

    /// Sequences that can live at a time (`n_seq_max`).
    #[must_use]
    pub fn sequences(&self) -> u32 {
        self.sequences
    }

    /// Tokens of the vocabulary: the length of a row of logits.
    #[must_use]
    pub fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    /// Numbers of an input embedding.
    #[must_use]
    pub fn input_width(&self) -> u32 {
        self.input_width
    }

    /// Numbers that say where an input embedding stands: 1, or 4 for models whose embeddings have
    /// [places](crate::Place) (M-RoPE).
    #[must_use]
    pub fn positions_per_embedding(&self) -> u32 {
        self.positions_per_embedding
    }

    /// Numbers of an output embedding.
    #[must_use]
    pub fn output_width(&self) -> u32 {
        self.output_width
    }

    /// How the KV cache is shared out.
    #[must_use]
    pub fn kv_layout(&self) -> KvLayout {
        self.kv_layout
    }

    /// What the model remembers between calls.
    #[must_use]
    pub fn memory(&self) -> MemoryKind {
        self.memory
    }

    /// Tokens that a recurrent state can go back, at most (`n_rs_seq`): 0 unless
    /// [asked for](crate::ContextParams::rollback_tokens), and for other memories.
    #[must_use]
    pub fn rollback_tokens(&self) -> u32 {
        self.rollback_tokens
    }

    /// The pooling in force, never [`Pooling::Model`].
    #[must_use]
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// Whether computing gives logits: for the tokens asked for, or for all, as diffusion models do.
    #[must_use]
    pub fn has_logits(&self) -> bool {
        // An encoder's logits buffer exists and is never written (llama-context.cpp:1558): it must not be read.
        self.output_head && !self.embeddings
    }

    /// Whether computing gives embeddings.
    #[must_use]
    pub fn has_embeddings(&self) -> bool {
        self.embeddings
    }

    /// Whether embeddings are one a sequence.
    #[must_use]
    pub fn is_pooled(&self) -> bool {
        self.pooling != Pooling::None
    }
}

/// The most cells: llama.cpp pads them to a multiple of 256 in 32 bits, and counts them in `int32_t`.
pub(crate) const MAX_CONTEXT_TOKENS: u32 = i32::MAX as u32 - 511;

/// Numbers that a context was asked for, before llama.cpp sees them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub context_tokens: u32,
    pub batch_tokens: u32,
    pub micro_batch_tokens: u32,
    pub sequences: u32,
    pub threads: u32,
    pub batch_threads: u32,
    pub rollback_tokens: u32,
}

/// Refuses every number that makes llama.cpp abort or overflow when the context is made.
///
/// `max_sequences` is `llama_max_parallel_sequences()`, `max_threads` is `GGML_MAX_N_THREADS`.
pub(crate) fn check(asked: &Asked, max_sequences: u32, max_threads: u32) -> Result<(), ContextError> {
    if asked.sequences == 0 || asked.sequences > max_sequences {
        return Err(ContextError::SequencesOutOfRange { got: asked.sequences, max: max_sequences });
    }
    if asked.batch_tokens == 0 {
        return Err(ContextError::BatchTokensZero);
    }
    if asked.micro_batch_tokens == 0 {
        return Err(ContextError::MicroBatchTokensZero);
    }
    for (what, got) in [("context_tokens", asked.context_tokens), ("batch_tokens", asked.batch_tokens)] {
        if got > MAX_CONTEXT_TOKENS {
            return Err(ContextError::TooLarge { what, got: got.into(), max: MAX_CONTEXT_TOKENS.into() });
        }
    }
    // The batch is cut to the context (llama-context.cpp:241, and here where that does not), and the first
    // output buffer asserts that a batch has room for every sequence (llama-context.cpp:2275).
    let batch_tokens = asked.batch_tokens.min(asked.context_tokens);
    if batch_tokens < asked.sequences {
        return Err(ContextError::BatchSmallerThanSequences { batch_tokens, sequences: asked.sequences });
    }
    // The tokens of a snapshot each and one more must fit in one pass, and llama.cpp asserts one more than that
    // (llama-batch.cpp:702).
    let max = batch_tokens.min(asked.micro_batch_tokens).saturating_sub(2);
    if asked.rollback_tokens > max {
        return Err(ContextError::RollbackOutOfRange { got: asked.rollback_tokens, max });
    }
    for got in [asked.threads, asked.batch_threads] {
        if got == 0 || got > max_threads {
            return Err(ContextError::ThreadsOutOfRange { got, max: max_threads });
        }
    }
    Ok(())
}

/// Tokens of a pass for numbers that were checked: as many as were asked for, or a whole batch where it has to be computed `at_once`;
/// and where embeddings are computed no more than is a multiple of the sequences.
///
/// Making a context, llama.cpp tries out a pass of all sequences with the same number of tokens each, for which it rounds
/// the tokens up, but not the outputs (llama-context.cpp:2531): the product that takes the mean of them does not fit then,
/// and aborts.
pub(crate) fn micro_batch_tokens(asked: &Asked, embeddings: bool, at_once: bool) -> u32 {
    let batch_tokens = asked.batch_tokens.min(asked.context_tokens);
    let wanted = if at_once { batch_tokens } else { asked.micro_batch_tokens };
    if !embeddings {
        return wanted;
    }
    let most = wanted.min(batch_tokens);
    (most - most % asked.sequences).max(asked.sequences)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Asked = Asked {
        context_tokens: 512,
        batch_tokens: 64,
        micro_batch_tokens: 32,
        sequences: 8,
        threads: 2,
        batch_threads: 2,
        rollback_tokens: 0,
    };

    #[test]
    fn good_numbers_pass() {
        assert_eq!(check(&GOOD, 256, 512), Ok(()));
    }

    #[test]
    fn each_bad_number_is_named() {
        let bad = |asked: Asked| check(&asked, 256, 512).unwrap_err();
        assert_eq!(bad(Asked { sequences: 0, ..GOOD }), ContextError::SequencesOutOfRange { got: 0, max: 256 });
        assert_eq!(bad(Asked { sequences: 257, ..GOOD }), ContextError::SequencesOutOfRange { got: 257, max: 256 });
        assert_eq!(bad(Asked { batch_tokens: 0, ..GOOD }), ContextError::BatchTokensZero);
        assert_eq!(bad(Asked { micro_batch_tokens: 0, ..GOOD }), ContextError::MicroBatchTokensZero);
        assert_eq!(
            bad(Asked { batch_tokens: 7, ..GOOD }),
            ContextError::BatchSmallerThanSequences { batch_tokens: 7, sequences: 8 }
        );
        assert_eq!(
            bad(Asked { context_tokens: 4, ..GOOD }),
            ContextError::BatchSmallerThanSequences { batch_tokens: 4, sequences: 8 }
        );
        assert_eq!(bad(Asked { threads: 0, ..GOOD }), ContextError::ThreadsOutOfRange { got: 0, max: 512 });
        assert_eq!(bad(Asked { batch_threads: 513, ..GOOD }), ContextError::ThreadsOutOfRange { got: 513, max: 512 });
        assert_eq!(check(&Asked { rollback_tokens: 30, ..GOOD }, 256, 512), Ok(()));
        for (got, micro_batch_tokens, max) in [(31, 32, 30), (1, 1, 0), (63, 100, 62), (u32::MAX, 32, 30)] {
            let error = ContextError::RollbackOutOfRange { got, max };
            assert_eq!(bad(Asked { rollback_tokens: got, micro_batch_tokens, ..GOOD }), error);
        }
        assert!(matches!(
            bad(Asked { context_tokens: u32::MAX, ..GOOD }),
            ContextError::TooLarge { what: "context_tokens", .. }
        ));
    }

    #[test]
    fn passes_of_embeddings_are_multiples_of_the_sequences() {
        let passes = |asked_for, sequences| {
            micro_batch_tokens(&Asked { micro_batch_tokens: asked_for, sequences, ..GOOD }, true, false)
        };
        assert_eq!(passes(32, 8), 32);
        assert_eq!(passes(32, 5), 30);
        assert_eq!(passes(32, 33), 33, "a pass has room for each sequence");
        assert_eq!(passes(1000, 7), 63, "of at most a batch");
        assert_eq!(micro_batch_tokens(&Asked { sequences: 5, ..GOOD }, false, false), 32);
        // A batch of 64, at once.
        assert_eq!(micro_batch_tokens(&Asked { sequences: 5, ..GOOD }, false, true), 64);
        assert_eq!(micro_batch_tokens(&Asked { sequences: 5, ..GOOD }, true, true), 60);
    }
}
