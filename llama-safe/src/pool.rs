//! Sequence slots: who holds which, and how far each sequence has come. Plain data, no llama.cpp.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::error::SequenceError;
use crate::id::{ContextId, SeqId};

/// One lease of a slot, held by the [`Sequence`](crate::Sequence) and by the pool; batches hold it while they name it.
///
/// The lease is shared with handles that may be dropped on another thread than the context's, hence the atomics. Only
/// the context writes, all but `released`; it needs `&mut self` for that, so that no two writes race.
#[derive(Debug)]
pub(crate) struct Lease {
    context: ContextId,
    id: SeqId,
    /// Tokens in memory: the position of the next one.
    length: AtomicU32,
    released: AtomicBool,
    damaged: AtomicBool,
    /// Where the last embedding with a [place](crate::Place) of its own was followed by the next position; 0 without any.
    placed_end: AtomicU32,
    /// How far that position is ahead of the last one in memory.
    placed_lead: AtomicU32,
    /// Sequences with the same number may share cells: of a unified cache, or the one of a recurrent state.
    family: AtomicU64,
    /// Tokens that snapshots of a recurrent state go back.
    rollback: AtomicU32,
    /// Whether it went back to a snapshot, and no decode has made that its state yet.
    taken_back: AtomicBool,
    /// Leases of this pool that were released and are not reclaimed yet.
    released_in_pool: Arc<AtomicU32>,
}

impl Lease {
    pub(crate) fn id(&self) -> SeqId {
        self.id
    }

    pub(crate) fn slot(&self) -> i32 {
        // Slots are below `llama_max_parallel_sequences()`, 256.
        self.id.slot as i32
    }

    pub(crate) fn length(&self) -> u32 {
        self.length.load(Ordering::Relaxed)
    }

    /// Also forgets about snapshots, which are of a length.
    pub(crate) fn set_length(&self, length: u32) {
        self.length.store(length, Ordering::Relaxed);
        self.rollback.store(0, Ordering::Relaxed);
        self.taken_back.store(false, Ordering::Relaxed);
        if length < self.placed_end() {
            self.set_placed(0, 0);
        }
    }

    /// The positions before this one hold embeddings with places of their own, which cannot be told apart by position.
    pub(crate) fn placed_end(&self) -> u32 {
        self.placed_end.load(Ordering::Relaxed)
    }

    /// How far the next position is ahead of the last one in memory, but for the usual step of 1: a picture is at one
    /// position there.
    pub(crate) fn lead(&self) -> u32 {
        if self.placed_end() == self.length() { self.placed_lead.load(Ordering::Relaxed) } else { 0 }
    }

    /// What [`lead`](Self::lead) is where the last of these embeddings is the last of all.
    pub(crate) fn placed_lead(&self) -> u32 {
        self.placed_lead.load(Ordering::Relaxed)
    }

    pub(crate) fn set_placed(&self, end: u32, lead: u32) {
        self.placed_end.store(end, Ordering::Relaxed);
        self.placed_lead.store(lead, Ordering::Relaxed);
    }

    /// A copy of `from` as far as its own length has the same embeddings.
    pub(crate) fn copy_placed(&self, from: &Self) {
        if self.length() >= from.placed_end() {
            self.set_placed(from.placed_end(), from.placed_lead.load(Ordering::Relaxed));
        }
    }

    pub(crate) fn rollback(&self) -> u32 {
        self.rollback.load(Ordering::Relaxed)
    }

    pub(crate) fn set_rollback(&self, tokens: u32) {
        self.rollback.store(tokens, Ordering::Relaxed);
    }

    pub(crate) fn is_taken_back(&self) -> bool {
        self.taken_back.load(Ordering::Relaxed)
    }

    pub(crate) fn set_taken_back(&self) {
        self.taken_back.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    pub(crate) fn set_damaged(&self, damaged: bool) {
        self.damaged.store(damaged, Ordering::Relaxed);
    }

    pub(crate) fn family(&self) -> u64 {
        self.family.load(Ordering::Relaxed)
    }

    pub(crate) fn set_family(&self, family: u64) {
        self.family.store(family, Ordering::Relaxed);
    }

    /// Whether the lease may be used with a context.
    pub(crate) fn check(&self, context: ContextId) -> Result<(), SequenceError> {
        let id = self.id;
        if self.context != context {
            return Err(SequenceError::Foreign { id });
        }
        if self.released.load(Ordering::Acquire) {
            return Err(SequenceError::Stale { id });
        }
        Ok(())
    }

    /// [`check`](Self::check), and that the sequence's memory is what its length says.
    pub(crate) fn check_usable(&self, context: ContextId) -> Result<(), SequenceError> {
        self.check(context)?;
        if self.is_damaged() { Err(SequenceError::Damaged { id: self.id }) } else { Ok(()) }
    }

    /// Gives the slot back. The context clears its cells before it is leased again.
    pub(crate) fn release(&self) {
        if !self.released.swap(true, Ordering::AcqRel) {
            self.released_in_pool.fetch_add(1, Ordering::Release);
        }
    }
}

/// The slots of one context.
#[derive(Debug)]
pub(crate) struct Pool {
    context: ContextId,
    slots: Vec<Slot>,
    released: Arc<AtomicU32>,
    families: u64,
}

#[derive(Debug, Default)]
struct Slot {
    /// Leases so far.
    generation: u32,
    lease: Option<Arc<Lease>>,
}

impl Pool {
    /// A pool of free slots.
    pub(crate) fn new(context: ContextId, slots: u32) -> Self {
        Self { context, slots: (0..slots).map(|_| Slot::default()).collect(), released: Arc::default(), families: 0 }
    }

    /// Leases the lowest free slot. Reclaim released ones first.
    pub(crate) fn lease(&mut self) -> Result<Arc<Lease>, SequenceError> {
        let limit = self.slots.len() as u32;
        let free = self.slots.iter().position(|slot| slot.lease.is_none());
        let Some(index) = free else {
            return Err(SequenceError::NoFreeSlot { limit });
        };
        self.families += 1;
        let slot = &mut self.slots[index];
        let lease = Arc::new(Lease {
            context: self.context,
            id: SeqId { slot: index as u32, generation: slot.generation },
            length: AtomicU32::new(0),
            released: AtomicBool::new(false),
            damaged: AtomicBool::new(false),
            placed_end: AtomicU32::new(0),
            placed_lead: AtomicU32::new(0),
            family: AtomicU64::new(self.families),
            rollback: AtomicU32::new(0),
            taken_back: AtomicBool::new(false),
            released_in_pool: Arc::clone(&self.released),
        });
        slot.generation = slot.generation.wrapping_add(1);
        slot.lease = Some(Arc::clone(&lease));
        Ok(lease)
    }

    /// Frees the slots of released leases; `clear` empties the cells of each before its slot can be leased again.
    ///
    /// A slot whose cells could not be cleared stays taken, and is tried again at the next call.
    pub(crate) fn reclaim<E>(&mut self, mut clear: impl FnMut(i32) -> Result<(), E>) -> Result<(), E> {
        if self.released.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        for slot in &mut self.slots {
            let Some(lease) = &slot.lease else { continue };
            if lease.released.load(Ordering::Acquire) {
                clear(lease.slot())?;
                slot.lease = None;
                self.released.fetch_sub(1, Ordering::AcqRel);
            }
        }
        Ok(())
    }

    /// The leases that live.
    pub(crate) fn live(&self) -> impl Iterator<Item = &Arc<Lease>> {
        self.slots.iter().filter_map(|slot| slot.lease.as_ref()).filter(|lease| !lease.released.load(Ordering::Acquire))
    }

    /// Slots that cannot be leased: their leases live, or are not reclaimed yet.
    pub(crate) fn taken(&self) -> usize {
        self.slots.iter().filter(|slot| slot.lease.is_some()).count()
    }

    /// Whether a slot can be leased, once those released are reclaimed.
    pub(crate) fn has_free(&self) -> bool {
        self.live().count() < self.slots.len()
    }

    /// A family that no other sequence is of.
    pub(crate) fn new_family(&mut self) -> u64 {
        self.families += 1;
        self.families
    }

    /// Whether another sequence may share cells with this one.
    pub(crate) fn has_relatives(&self, lease: &Lease) -> bool {
        self.live().any(|other| other.id != lease.id && other.family() == lease.family() && other.length() > 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reclaim(pool: &mut Pool) -> Vec<i32> {
        let mut cleared = Vec::new();
        pool.reclaim(|slot| {
            cleared.push(slot);
            Ok::<(), ()>(())
        })
        .expect("clearing cannot fail here");
        cleared
    }

    #[test]
    fn a_full_pool_names_its_limit() {
        let mut pool = Pool::new(ContextId::next(), 2);
        let leases = [pool.lease().unwrap(), pool.lease().unwrap()];
        assert_eq!(pool.lease().unwrap_err(), SequenceError::NoFreeSlot { limit: 2 });
        leases[0].release();
        assert_eq!(
            pool.lease().unwrap_err(),
            SequenceError::NoFreeSlot { limit: 2 },
            "not before its cells are cleared"
        );
        assert_eq!(reclaim(&mut pool), [0]);
        assert_eq!(pool.lease().unwrap().id(), SeqId { slot: 0, generation: 1 });
    }

    #[test]
    fn foreign_and_stale_leases_are_told_apart() {
        let (here, there) = (ContextId::next(), ContextId::next());
        let lease = Pool::new(here, 1).lease().unwrap();
        assert_eq!(lease.check(here), Ok(()));
        assert_eq!(lease.check(there), Err(SequenceError::Foreign { id: lease.id() }));
        lease.release();
        assert_eq!(lease.check(here), Err(SequenceError::Stale { id: lease.id() }));
    }

    #[test]
    fn a_slot_that_cannot_be_cleared_is_not_leased_again() {
        let mut pool = Pool::new(ContextId::next(), 1);
        pool.lease().unwrap().release();
        assert_eq!(pool.reclaim(|_| Err("no")), Err("no"));
        assert!(pool.lease().is_err());
        assert_eq!(reclaim(&mut pool), [0]);
        assert!(pool.lease().is_ok());
    }

    proptest! {
        /// Against a set of slots in use: no slot is leased twice, none is lost, generations only grow.
        #[test]
        fn slots_are_neither_shared_nor_lost(operations in prop::collection::vec((any::<bool>(), 0usize..8), 0..200)) {
            let context = ContextId::next();
            let mut pool = Pool::new(context, 8);
            let mut held: Vec<Arc<Lease>> = Vec::new();
            let mut seen = std::collections::HashSet::new();
            for (take, which) in operations {
                if take {
                    reclaim(&mut pool);
                    match pool.lease() {
                        Ok(lease) => {
                            prop_assert!(held.iter().all(|other| other.slot() != lease.slot()));
                            prop_assert!(seen.insert(lease.id()), "{} was given before", lease.id());
                            held.push(lease);
                        }
                        Err(error) => {
                            prop_assert_eq!(error, SequenceError::NoFreeSlot { limit: 8 });
                            prop_assert_eq!(held.len(), 8);
                        }
                    }
                } else if !held.is_empty() {
                    let lease = held.swap_remove(which % held.len());
                    lease.release();
                    lease.release();
                    prop_assert_eq!(lease.check(context), Err(SequenceError::Stale { id: lease.id() }));
                }
                prop_assert_eq!(pool.live().count(), held.len());
            }
        }
    }
}
