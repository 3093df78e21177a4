//! What can be done with the memory of a sequence: look at it, shorten it, copy it, move it.

use std::ops::Range;
use std::sync::atomic::Ordering;

use llama_sys as sys;

use crate::context::{Context, learns_positions};
use crate::error::{MemoryError, SequenceError};
use crate::limits::KvLayout;
use crate::pool::Lease;
use crate::reach::{self, Reach};
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

    /// Whether [`truncate`](Self::truncate) would succeed.
    ///
    /// Attention goes back anywhere, but for windows that have forgotten; a recurrent state only to nothing, or some
    /// tokens with [`rollback_tokens`](crate::ContextParams::rollback_tokens).
    #[must_use]
    pub fn can_truncate(&self, sequence: &Sequence, length: u32) -> bool {
        match length {
            0 => sequence.lease().check(self.id).is_ok(),
            _ => self.check_truncate(sequence.lease(), length).is_ok(),
        }
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
        self.check_truncate(lease, length)?;
        if length == lease.length() {
            return Ok(());
        }
        // The checks leave nothing for it to refuse.
        if !self.remove(lease, length as i32, -1)? {
            return Err(MemoryError::Failed { reason: format!("it cannot remove what follows {length} tokens") });
        }
        lease.set_length(length);
        if self.has_state() {
            lease.set_taken_back();
        }
        Ok(())
    }

    fn check_truncate(&self, lease: &Lease, length: u32) -> Result<(), MemoryError> {
        lease.check_usable(self.id)?;
        within(lease, 0..length)?;
        let obstacle = self.reach(lease).truncate(length);
        obstacle.map_err(|obstacle| MemoryError::CannotTruncate { id: lease.id(), length, obstacle })
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
    /// All memory is zeroed, which no other call does: it is what a context needs after a computation that gave
    /// [no numbers](crate::OutputError::NotNumbers).
    ///
    /// ```compile_fail,E0502
    /// // Outputs of a text cannot be read once its memory is cleared.
    /// fn cleared(context: &mut llama_safe::Context, slot: llama_safe::OutputSlot) {
    ///     let outputs = context.outputs().unwrap();
    ///     context.clear_all().unwrap();
    ///     outputs.get(slot).unwrap();
    /// }
    /// ```
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
    /// the sequence's share of the cache. A recurrent state is shared until one of the two is decoded.
    ///
    /// # Errors
    ///
    /// [`MemoryError`]: the sequence cannot be used, or there is no free slot.
    pub fn fork(&mut self, sequence: &Sequence) -> Result<Sequence, MemoryError> {
        self.fork_prefix(sequence, sequence.len())
    }

    /// Whether [`fork_prefix`](Self::fork_prefix) would succeed with that length, and [`fork`](Self::fork) with the whole.
    #[must_use]
    pub fn can_fork_at(&self, sequence: &Sequence, length: u32) -> bool {
        self.check_fork(sequence.lease(), length).is_ok() && self.pool.has_free()
    }

    /// [`can_fork_at`](Self::can_fork_at), were there a free sequence.
    pub(crate) fn reaches(&self, sequence: &Sequence, length: u32) -> bool {
        self.check_fork(sequence.lease(), length).is_ok()
    }

    /// Whether positions of its sequences can be renumbered, so that the beginning of one can be discarded.
    pub(crate) fn renumbers(&self) -> bool {
        // SAFETY: the memory lives as long as the context.
        let can_shift = self.memory().is_some_and(|memory| unsafe { sys::llama_memory_can_shift(memory) });
        can_shift && !learns_positions(self.model()) && self.model().sliding_window() == 0
    }

    /// A new sequence with the first `length` tokens of another in memory.
    ///
    /// # Errors
    ///
    /// [`MemoryError`]: as [`fork`](Self::fork), or the sequence is shorter, or its memory cannot be copied in part.
    pub fn fork_prefix(&mut self, sequence: &Sequence, length: u32) -> Result<Sequence, MemoryError> {
        let lease = sequence.lease();
        let memory = self.check_fork(lease, length)?;
        let fork = self.new_sequence()?;
        if length == 0 {
            return Ok(fork);
        }
        let unified = self.limits.kv_layout() == KvLayout::Unified;
        let partial = length < lease.length();
        // Between streams llama.cpp copies whole sequences only, and asserts it (llama-kv-cache.cpp:524): the rest of
        // the copy is removed afterwards.
        let (start, end) = if partial && unified { (0, length as i32) } else { (-1, -1) };
        sys::guarded_unit(|error| {
            // SAFETY: the memory lives as long as the context, both slots are below `n_seq_max`, and the fork's is empty.
            unsafe { sys::guard_llama_memory_seq_cp(error, memory, lease.slot(), fork.lease().slot(), start, end) }
        })
        .map_err(|reason| MemoryError::Failed { reason })?;
        self.copies_wait |= !unified;
        if partial && !unified && !self.remove(fork.lease(), length as i32, -1)? {
            return Err(MemoryError::Failed { reason: format!("it cannot remove what follows {length} tokens") });
        }
        fork.lease().set_length(length);
        fork.lease().copy_placed(lease);
        if let Some(encoded) = &mut self.encoded {
            encoded.fork(lease.id(), fork.lease().id());
        }
        if unified || self.has_state() {
            fork.lease().set_family(lease.family());
        }
        Ok(fork)
    }

    fn check_fork(&self, lease: &Lease, length: u32) -> Result<sys::llama_memory_t, MemoryError> {
        lease.check_usable(self.id)?;
        let memory = self.memory().ok_or(MemoryError::NoMemory)?;
        within(lease, 0..length)?;
        let obstacle = self.reach(lease).fork(length);
        obstacle.map_err(|obstacle| MemoryError::CannotFork { id: lease.id(), length, obstacle })?;
        Ok(memory)
    }

    /// Whether [`shift`](Self::shift) would succeed.
    #[must_use]
    pub fn can_shift(&self, sequence: &Sequence, discard: Range<u32>) -> bool {
        self.check_shift(sequence.lease(), discard).is_ok()
    }

    /// Removes the tokens at the positions `discard`, and moves the later ones down to close the gap: room for more
    /// text at the price of what is forgotten.
    ///
    /// The tokens that stay were computed with the removed ones in view, so that this is not the same as a text without
    /// them.
    ///
    /// ```compile_fail,E0061
    /// // Positions are not moved onto others: what is discarded leaves a gap, which is closed.
    /// fn onto_others(context: &mut llama_safe::Context, sequence: &llama_safe::Sequence) {
    ///     context.shift(sequence, 4.., -4).unwrap();
    /// }
    /// ```
    ///
    /// ```compile_fail,E0599
    /// // Positions cannot be divided, by 0 or otherwise.
    /// fn divided(context: &mut llama_safe::Context, sequence: &llama_safe::Sequence) {
    ///     context.divide(sequence, 0).unwrap();
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`MemoryError`]: the positions are not within the sequence, the memory cannot shift, or other sequences share the
    /// cells. Nothing has changed then.
    pub fn shift(&mut self, sequence: &Sequence, discard: Range<u32>) -> Result<(), MemoryError> {
        let lease = sequence.lease();
        let memory = self.check_shift(lease, discard.clone())?;
        let length = lease.length();
        if discard.is_empty() {
            return Ok(());
        }
        if discard.end == length {
            return self.truncate(sequence, discard.start);
        }
        let (start, end) = (discard.start as i32, discard.end as i32);
        if !self.remove(lease, start, end)? {
            return Err(MemoryError::Failed { reason: format!("it cannot remove the positions {discard:?}") });
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

    fn check_shift(&self, lease: &Lease, discard: Range<u32>) -> Result<sys::llama_memory_t, MemoryError> {
        lease.check_usable(self.id)?;
        let memory = self.memory().ok_or(MemoryError::NoMemory)?;
        within(lease, discard.clone())?;
        if discard.is_empty() {
            return Ok(memory);
        }
        if discard.end == lease.length() {
            self.check_truncate(lease, discard.start)?;
            return Ok(memory);
        }
        let obstacle = self.reach(lease).shift();
        obstacle.map_err(|obstacle| MemoryError::CannotShift { id: lease.id(), obstacle })?;
        if self.limits.kv_layout() == KvLayout::Unified && self.pool.has_relatives(lease) {
            return Err(MemoryError::SharedCells { id: lease.id() });
        }
        Ok(memory)
    }

    /// What is known of a sequence and its memory.
    pub(crate) fn reach(&self, lease: &Lease) -> Reach {
        // SAFETY: the memory lives as long as the context.
        let can_shift = self.memory().is_some_and(|memory| unsafe { sys::llama_memory_can_shift(memory) });
        // What was learned for a position is in the token's hidden state, and does not move with its key.
        let learned = learns_positions(self.model());
        Reach {
            kind: self.limits.memory(),
            length: lease.length(),
            first: self.positions(lease).start,
            window: self.model().sliding_window(),
            placed_end: lease.placed_end(),
            rollback: lease.rollback(),
            taken_back: lease.is_taken_back(),
            shares_state: self.has_state() && self.pool.has_relatives(lease),
            renumbers: can_shift && !learned,
        }
    }

    /// Whether the memory has recurrent states.
    pub(crate) fn has_state(&self) -> bool {
        reach::has_state(self.limits.memory())
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

/// Positions that a sequence has.
fn within(lease: &Lease, asked: Range<u32>) -> Result<(), MemoryError> {
    let length = lease.length();
    if asked.start > asked.end || asked.end > length {
        return Err(MemoryError::OutOfRange { id: lease.id(), asked, length });
    }
    Ok(())
}
