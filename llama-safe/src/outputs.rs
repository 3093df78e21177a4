//! What a computation gives: logits and embeddings, read through the slots that the batch handed out.

use std::fmt;

use llama_sys as sys;

use crate::context::Context;
use crate::error::OutputError;
use crate::id::OutputSlot;
use crate::limits::Limits;
use crate::logprobs::LogProbs;
use crate::sequence::Sequence;

/// The outputs of the last computation of a context, which they borrow: they cannot be kept past the next one.
///
/// ```compile_fail,E0499
/// fn stale(context: &mut llama_safe::Context, batch: &mut llama_safe::Batch) {
///     let first = context.decode(batch).unwrap();
///     let second = context.decode(batch).unwrap();
///     first.len();
/// }
/// ```
///
/// ```compile_fail,E0505
/// fn of_a_dropped_context(mut context: llama_safe::Context, batch: &mut llama_safe::Batch) {
///     let outputs = context.decode(batch).unwrap();
///     drop(context);
///     outputs.len();
/// }
/// ```
///
/// ```compile_fail,E0308
/// // There is no index, only what the push of that very token handed out.
/// fn by_index(outputs: llama_safe::Outputs<'_>) -> &[f32] { outputs.get(0).unwrap() }
/// ```
#[derive(Clone, Copy)]
pub struct Outputs<'context> {
    pub(crate) context: &'context Context,
}

impl fmt::Debug for Outputs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outputs").field("sequences", &self.context.last_sequences).finish_non_exhaustive()
    }
}

impl Context {
    /// The outputs of the last computation; `None` before the first, and after one that failed.
    ///
    /// A batch that is refused before it is computed (empty, of another context, with a stale sequence) leaves them as
    /// they are.
    #[must_use]
    pub fn outputs(&self) -> Option<Outputs<'_>> {
        self.last.map(|_| Outputs::new(self))
    }
}

impl<'context> Outputs<'context> {
    pub(crate) fn new(context: &'context Context) -> Self {
        Self { context }
    }

    /// The numbers of the context that computed them.
    pub(crate) fn limits(&self) -> &'context Limits {
        self.context.limits()
    }

    /// The logits of a row, one for each token of the vocabulary: not probabilities, and not normalised.
    ///
    /// # Errors
    ///
    /// [`OutputError`]: the slot is of another batch, the context computes no logits, or they are no numbers, or the row was
    /// [sampled](Self::sampled) by the computation.
    pub fn get(&self, slot: OutputSlot) -> Result<&'context [f32], OutputError> {
        self.check(slot)?;
        let limits = self.context.limits();
        if !limits.has_logits() || self.context.last_is_encoding {
            return Err(OutputError::NoLogits);
        }
        // llama.cpp hands out what the sampler left in their place, followed by an earlier decode's numbers
        // (llama-context.cpp:4009).
        if self.context.graph.selector_of(slot.row).is_some() {
            return Err(OutputError::SampledInGraph { row: slot.row });
        }
        let row = self.context.by_slot.place(slot.row);
        let pointer = sys::guarded(std::ptr::null_mut(), |result, error| {
            // SAFETY: the context lives, and a row that it does not know gives NULL.
            unsafe { sys::guard_llama_get_logits_ith(result, error, self.context.as_ptr(), row as i32) }
        });
        let logits = self.row(pointer, limits.vocabulary(), slot.row)?;
        // A hidden state with one number that is none makes all of its logits so: the first tells.
        match logits.first() {
            Some(first) if first.is_nan() => Err(OutputError::NotNumbers { row: slot.row }),
            _ => Ok(logits),
        }
    }

    /// The log probabilities of a row, over the whole vocabulary.
    ///
    /// # Errors
    ///
    /// [`OutputError`]: as of [`get`](Self::get).
    pub fn logprobs(&self, slot: OutputSlot) -> Result<LogProbs<'context>, OutputError> {
        // A model's own logits, of a vocabulary that is not empty: what is no number came from the computation.
        LogProbs::new(self.get(slot)?).map_err(|_| OutputError::NotNumbers { row: slot.row })
    }

    /// The embedding of a row.
    ///
    /// # Errors
    ///
    /// [`OutputError`]: the slot is of another batch, or the context computes no embeddings, or pools them.
    pub fn embedding(&self, slot: OutputSlot) -> Result<&'context [f32], OutputError> {
        self.check(slot)?;
        let limits = self.context.limits();
        // An encoder-decoder has room for them in any case (llama-context.cpp:2134), which encoding fills.
        if !limits.has_embeddings() && !self.context.last_is_encoding {
            return Err(OutputError::NoEmbeddings);
        }
        if limits.is_pooled() {
            return Err(OutputError::Pooled);
        }
        let row = self.context.by_slot.place(slot.row);
        let pointer = sys::guarded(std::ptr::null_mut(), |result, error| {
            // SAFETY: the context lives, and a row that it does not know gives NULL.
            unsafe { sys::guard_llama_get_embeddings_ith(result, error, self.context.as_ptr(), row as i32) }
        });
        self.row(pointer, limits.output_width(), slot.row)
    }

    /// The pooled embedding of a sequence of the batch; a reranker's scores.
    ///
    /// # Errors
    ///
    /// [`OutputError`]: the sequence had no token in the batch, or the context computes no embeddings or does not pool.
    pub fn sequence_embedding(&self, sequence: &Sequence) -> Result<&'context [f32], OutputError> {
        let limits = self.context.limits();
        if !limits.has_embeddings() {
            return Err(OutputError::NoEmbeddings);
        }
        if !limits.is_pooled() {
            return Err(OutputError::NotPooled);
        }
        let lease = sequence.lease();
        if lease.check(self.context.id).is_err() || !self.context.last_sequences.contains(&lease.id()) {
            return Err(OutputError::SequenceNotInBatch { id: lease.id() });
        }
        let pointer = sys::guarded(std::ptr::null_mut(), |result, error| {
            // SAFETY: the context lives, and a sequence without embedding gives NULL.
            unsafe { sys::guard_llama_get_embeddings_seq(result, error, self.context.as_ptr(), lease.slot()) }
        });
        self.row(pointer, limits.output_width(), lease.id().slot())
    }

    pub(crate) fn check(&self, slot: OutputSlot) -> Result<(), OutputError> {
        if self.context.last == Some(slot.fill) { Ok(()) } else { Err(OutputError::OtherDecode) }
    }

    /// A row of `width` numbers that llama.cpp points to.
    pub(crate) fn row(
        &self,
        pointer: Result<*mut f32, String>,
        width: u32,
        row: u32,
    ) -> Result<&'context [f32], OutputError> {
        match pointer {
            Ok(pointer) if !pointer.is_null() => {
                // SAFETY: llama.cpp returns a row of that many floats of its output buffer, which is written by the
                // next computation at the earliest; that needs the context mutably, which this borrow forbids.
                Ok(unsafe { std::slice::from_raw_parts(pointer, width as usize) })
            }
            _ => Err(OutputError::Missing { row }),
        }
    }
}
