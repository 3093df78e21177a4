//! What can be done with the memory of a sequence: look at it, shorten it, copy it, move it.

use std::ops::Range;
use std::sync::atomic::Ordering;

use llama_sys as sys;

use crate::context::Context;
use crate::error::{MemoryError, SequenceError};
use crate::limits::{KvLayout, MemoryKind};
use crate::pool::Lease;
use crate::sequence::Sequence;

impl Context {
    /// The positions that llama.cpp holds of a sequence.
    ///
    /// As a rule this is `0..sequence.len()`. A sliding window may have forgotten the first ones; a recurrent memory
    /// knows its last position alone; an encoder has none. A picture is at one position, whatever comes after it.
    ///
    /// # Errors
    ///
    /// [`SequenceError`]: the sequence is not of this context.
    pub fn span(&self, sequence: &Sequence) -> Result<Range<u32>, SequenceError> {
        sequence.lease().check(self.id)?;
        Ok(self.positions(sequence.lease()))
    }

    /// Forgets everything after the first `length` tokens.
    ///
    /// # Errors
    ///
    /// [`MemoryError`]: the sequence is shorter, or its memory cannot go back that far. Nothing has changed then.
    pub fn truncate(&mut self, sequence: &Sequence, length: u32) -> Result<(), MemoryError> {
        let lease = sequence.lease();
        if length == 0 {
            return self.clear(sequence);
        }
        lease.check_usable(self.id)?;
        let old = lease.length();
        if length > old {
            return Err(MemoryError::OutOfRange { id: lease.id(), asked: 0..length, length: old });
        }
        if length == old {
            return Ok(());
        }
        if length < lease.placed_end() || !self.can_go_back(lease, length) || !self.remove(lease, length as i32, -1)? {
            return Err(MemoryError::CannotTruncate { id: lease.id() });
        }
        lease.set_length(length);
        Ok(())
    }

    /// Forgets a sequence. A damaged one is good again.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Sequence`]: the sequence is not of this context.
    pub fn clear(&mut self, sequence: &Sequence) -> Result<(), MemoryError> {
        let lease = sequence.lease();
        lease.check(self.id)?;
        self.remove(lease, -1, -1)?;
        lease.set_length(0);
        lease.set_damaged(false);
        // Its cells were its only tie to the sequences that it was forked from or to.
        lease.set_family(self.pool.new_family());
        Ok(())
    }

    /// Forgets all sequences. They stay leased.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Failed`].
    pub fn clear_all(&mut self) -> Result<(), MemoryError> {
        if let Some(memory) = self.memory() {
            sys::guarded_unit(|error| {
                // SAFETY: the memory lives as long as the context.
                unsafe { sys::guard_llama_memory_clear(error, memory, true) }
            })
            .map_err(|reason| MemoryError::Failed { reason })?;
        }
        let families: Vec<u64> = (0..self.limits.sequences).map(|_| self.pool.new_family()).collect();
        for (lease, family) in self.pool.live().zip(families) {
            lease.set_length(0);
            lease.set_damaged(false);
            lease.set_family(family);
        }
        Ok(())
    }

    /// A new sequence with the same tokens in memory.
    ///
    /// With [`KvLayout::Unified`] the two share cells, and it costs nothing; with [`KvLayout::Split`] the next decode copies
    /// the sequence's share of the cache.
    ///
    /// # Errors
    ///
    /// [`MemoryError`]: the sequence cannot be used, or there is no free slot.
    pub fn fork(&mut self, sequence: &Sequence) -> Result<Sequence, MemoryError> {
        self.fork_prefix(sequence, sequence.len())
    }

    /// A new sequence with the first `length` tokens of another in memory.
    ///
    /// # Errors
    ///
    /// [`MemoryError`]: as [`fork`](Self::fork), or the sequence is shorter, or its memory cannot be copied in part.
    pub fn fork_prefix(&mut self, sequence: &Sequence, length: u32) -> Result<Sequence, MemoryError> {
        let lease = sequence.lease();
        lease.check_usable(self.id)?;
        let Some(memory) = self.memory() else {
            return Err(MemoryError::NoMemory);
        };
        let whole = lease.length();
        if length > whole {
            return Err(MemoryError::OutOfRange { id: lease.id(), asked: 0..length, length: whole });
        }
        let partial = length < whole && length > 0;
        let recurrent = matches!(self.limits.memory(), MemoryKind::Recurrent | MemoryKind::Hybrid);
        if partial && (recurrent || length < lease.placed_end() || !self.can_go_back(lease, length)) {
            return Err(MemoryError::CannotTruncate { id: lease.id() });
        }
        let fork = self.new_sequence()?;
        if length == 0 {
            return Ok(fork);
        }
        let unified = self.limits.kv_layout() == KvLayout::Unified;
        // Between streams llama.cpp copies whole sequences only, and asserts it (llama-kv-cache.cpp:545): the rest of
        // the copy is removed afterwards.
        let (start, end) = if partial && unified { (0, length as i32) } else { (-1, -1) };
        sys::guarded_unit(|error| {
            // SAFETY: the memory lives as long as the context, both slots are below `n_seq_max`, and the fork's is empty.
            unsafe { sys::guard_llama_memory_seq_cp(error, memory, lease.slot(), fork.lease().slot(), start, end) }
        })
        .map_err(|reason| MemoryError::Failed { reason })?;
        self.copies_wait |= !unified;
        if partial && !unified && !self.remove(fork.lease(), length as i32, -1)? {
            return Err(MemoryError::CannotTruncate { id: lease.id() });
        }
        fork.lease().set_length(length);
        fork.lease().copy_placed(lease);
        if let Some(encoded) = &mut self.encoded {
            encoded.fork(lease.id(), fork.lease().id());
        }
        if unified {
            fork.lease().set_family(lease.family());
        }
        Ok(fork)
    }

    /// Removes the tokens at the positions `discard`, and moves the later ones down to close the gap: room for more
    /// text at the price of what is forgotten.
    ///
    /// The tokens that stay were computed with the removed ones in view, so that this is not the same as a text without
    /// them.
    ///
    /// # Errors
    ///
    /// [`MemoryError`]: the positions are not within the sequence, the memory cannot shift, or other sequences share the
    /// cells. Nothing has changed then.
    pub fn shift(&mut self, sequence: &Sequence, discard: Range<u32>) -> Result<(), MemoryError> {
        let lease = sequence.lease();
        lease.check_usable(self.id)?;
        let Some(memory) = self.memory() else {
            return Err(MemoryError::NoMemory);
        };
        let length = lease.length();
        if discard.start > discard.end || discard.end > length {
            return Err(MemoryError::OutOfRange { id: lease.id(), asked: discard, length });
        }
        if discard.is_empty() {
            return Ok(());
        }
        if discard == (0..length) {
            return self.clear(sequence);
        }
        if discard.end == length {
            return self.truncate(sequence, discard.start);
        }
        // SAFETY: the memory lives as long as the context.
        let can_shift = unsafe { sys::llama_memory_can_shift(memory) };
        // Recurrent memories say that they can, but keep what was to be forgotten (llama-memory-recurrent.cpp:349).
        // A window that has forgotten tokens cannot tell which are left.
        if !can_shift || self.limits.memory() != MemoryKind::Attention || self.positions(lease).start != 0 {
            return Err(MemoryError::CannotShift { id: lease.id() });
        }
        if self.limits.kv_layout() == KvLayout::Unified && self.pool.has_relatives(lease) {
            return Err(MemoryError::SharedCells { id: lease.id() });
        }
        let (start, end) = (discard.start as i32, discard.end as i32);
        if !self.remove(lease, start, end)? {
            return Err(MemoryError::CannotShift { id: lease.id() });
        }
        // The keys are rotated at the next decode, which must not be aborted half way through that.
        self.abort.deferred.store(true, Ordering::Relaxed);
        let moved = sys::guarded_unit(|error| {
            // SAFETY: the memory lives as long as the context, the slot is below `n_seq_max`, the positions are the
            // sequence's, and the memory can shift.
            unsafe { sys::guard_llama_memory_seq_add(error, memory, lease.slot(), end, -1, start - end) }
        });
        lease.set_length(length - (discard.end - discard.start));
        moved.map_err(|reason| {
            lease.set_damaged(true);
            MemoryError::Failed { reason }
        })
    }

    /// Whether a memory with a sliding window still holds all that the token after `length` looks back on. True of
    /// every other memory.
    ///
    /// llama.cpp removes cells without asking (llama-kv-cache-iswa.cpp:112), and computes with the hole.
    pub(crate) fn can_go_back(&self, lease: &Lease, length: u32) -> bool {
        let window = self.model().sliding_window();
        if window == 0 || length == 0 {
            return true;
        }
        let start = self.positions(lease).start;
        start == 0 || start.saturating_add(window) <= length
    }

    /// [`span`](Self::span) of a lease that was checked.
    pub(crate) fn positions(&self, lease: &Lease) -> Range<u32> {
        let Some(memory) = self.memory() else { return 0..0 };
        let read =
            |function: unsafe extern "C" fn(*mut i32, *mut sys::guard_error, sys::llama_memory_t, i32) -> bool| {
                // SAFETY: the memory lives as long as the context, and the slot is below `n_seq_max`.
                sys::guarded(-1, |result, error| unsafe { function(result, error, memory, lease.slot()) }).unwrap_or(-1)
            };
        let first = u32::try_from(read(sys::guard_llama_memory_seq_pos_min));
        let last = u32::try_from(read(sys::guard_llama_memory_seq_pos_max));
        match (first, last) {
            (Ok(first), Ok(last)) => first..last + 1,
            _ => 0..0,
        }
    }

    /// Removes positions of a lease that was checked; -1 stands for the beginning or the end. False where the memory
    /// cannot, and has not.
    pub(crate) fn remove(&mut self, lease: &Lease, start: i32, end: i32) -> Result<bool, MemoryError> {
        let Some(memory) = self.memory() else { return Ok(true) };
        sys::guarded(false, |result, error| {
            // SAFETY: the memory lives as long as the context, and the slot is below `n_seq_max`.
            unsafe { sys::guard_llama_memory_seq_rm(result, error, memory, lease.slot(), start, end) }
        })
        .map_err(|reason| MemoryError::Failed { reason })
    }
}
