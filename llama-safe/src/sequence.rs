//! Sequences: leases of a context's slots.

use std::sync::Arc;

use llama_sys as sys;

use crate::context::Context;
use crate::error::SequenceError;
use crate::id::SeqId;
use crate::pool::Lease;

/// One text in the memory of a context: a lease of one of its slots.
///
/// Dropping it gives the slot back. It can be dropped on any thread, and after its context. It is not `Clone`: a copy of
/// the text is a [fork](Context::fork).
///
/// ```compile_fail,E0599
/// fn copy(sequence: llama_safe::Sequence) -> (llama_safe::Sequence, llama_safe::Sequence) {
///     (sequence.clone(), sequence)
/// }
/// ```
///
/// ```compile_fail,E0382
/// fn after_drop(sequence: llama_safe::Sequence) -> u32 {
///     drop(sequence);
///     sequence.len()
/// }
/// ```
#[derive(Debug)]
#[must_use = "a sequence that is dropped gives its slot back"]
pub struct Sequence {
    lease: Arc<Lease>,
}

impl Sequence {
    pub(crate) fn new(lease: Arc<Lease>) -> Self {
        Self { lease }
    }

    pub(crate) fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }

    /// Its name in errors.
    #[must_use]
    pub fn id(&self) -> SeqId {
        self.lease.id()
    }

    /// The position of the next token, and so the number of those in memory, but for [pictures](crate::Place), which take more
    /// cells than positions. Tokens in a batch do not count before it is decoded.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.lease.length()
    }

    /// Whether nothing is in memory.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a failed decode damaged it: it must be [cleared](Context::clear) before it can be used again.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.lease.is_damaged()
    }
}

impl Drop for Sequence {
    fn drop(&mut self) {
        self.lease.release();
    }
}

impl Context {
    /// Leases a slot for a new, empty sequence.
    ///
    /// # Errors
    ///
    /// [`SequenceError::NoFreeSlot`].
    pub fn new_sequence(&mut self) -> Result<Sequence, SequenceError> {
        self.reclaim();
        Ok(Sequence::new(self.pool.lease()?))
    }

    /// Clears the cells of dropped sequences, so that their slots and cells can be used.
    pub(crate) fn reclaim(&mut self) {
        let memory = self.memory();
        // Where llama.cpp throws, the slot stays taken and is tried again the next time.
        let _ = self.pool.reclaim(|slot| match memory {
            None => Ok(()),
            Some(memory) => sys::guarded(false, |result, error| {
                // SAFETY: the memory lives as long as the context, and `slot` is below `n_seq_max`. Removing a whole
                // sequence cannot fail.
                unsafe { sys::guard_llama_memory_seq_rm(result, error, memory, slot, -1, -1) }
            })
            .map(drop),
        });
    }
}
