//! Which cells of a unified KV cache each sequence uses, where forks share them. Plain data, no llama.cpp.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::ops::Range;

use super::prefix::HolderId;

/// The accounting of one cache: a token of a sequence takes a cell, and its forks take none for it.
///
/// Cells are numbered as they come, which is not where llama.cpp puts them: only their number has to be right.
#[derive(Debug)]
pub(crate) struct Cells {
    capacity: u32,
    /// How many holders use each cell.
    users: Vec<u32>,
    /// Cells without a user.
    unused: Vec<u32>,
    /// The cells of each holder, in the order of its tokens; never an empty list.
    held: HashMap<HolderId, Vec<u32>>,
}

impl Cells {
    /// A cache without tokens.
    pub(crate) fn new(capacity: u32) -> Self {
        Self { capacity, users: Vec::new(), unused: Vec::new(), held: HashMap::new() }
    }

    /// Cells that hold a token.
    pub(crate) fn used(&self) -> u32 {
        (self.users.len() - self.unused.len()) as u32
    }

    /// Cells that hold none.
    pub(crate) fn free(&self) -> u32 {
        self.capacity - self.used()
    }

    /// Tokens of a holder.
    pub(crate) fn length(&self, holder: HolderId) -> u32 {
        self.of(holder).len() as u32
    }

    /// Cells that would come free if this holder were removed: those that it shares with nobody.
    #[cfg(test)]
    pub(crate) fn freed_by(&self, holder: HolderId) -> u32 {
        self.of(holder).iter().filter(|cell| self.users[**cell as usize] == 1).count() as u32
    }

    /// Takes cells for more tokens of a holder. False, and nothing is taken, if fewer are free.
    #[must_use]
    pub(crate) fn grow(&mut self, holder: HolderId, tokens: u32) -> bool {
        if tokens > self.free() {
            return false;
        }
        if tokens > 0 {
            let again = self.unused.split_off(self.unused.len().saturating_sub(tokens as usize));
            let new = tokens as usize - again.len();
            let first_new = self.users.len() as u32;
            self.users.resize(self.users.len() + new, 0);
            let held = self.held.entry(holder).or_default();
            held.extend(again.into_iter().chain(first_new..first_new + new as u32));
            let taken = held.len() - tokens as usize;
            held[taken..].iter().for_each(|cell| self.users[*cell as usize] += 1);
        }
        true
    }

    /// Gives `to` the first `length` tokens of `from`, or all if it has fewer, in the same cells. What `to` had before is
    /// given back.
    pub(crate) fn fork(&mut self, from: HolderId, to: HolderId, length: u32) {
        let cells = self.of(from);
        let cells = cells[..cells.len().min(length as usize)].to_vec();
        cells.iter().for_each(|cell| self.users[*cell as usize] += 1);
        self.remove(to);
        if !cells.is_empty() {
            self.held.insert(to, cells);
        }
    }

    /// Takes a holder's tokens away from `length` on.
    pub(crate) fn truncate(&mut self, holder: HolderId, length: u32) {
        self.discard(holder, length..u32::MAX);
    }

    /// Takes a range of a holder's tokens away, as far as it has them; those behind it move up.
    pub(crate) fn discard(&mut self, holder: HolderId, range: Range<u32>) {
        let Some(cells) = self.held.get_mut(&holder) else { return };
        let end = cells.len().min(range.end as usize);
        let start = end.min(range.start as usize);
        let given_back: Vec<u32> = cells.drain(start..end).collect();
        if cells.is_empty() {
            self.held.remove(&holder);
        }
        self.give_back(&given_back);
    }

    /// Takes all of a holder's tokens away.
    pub(crate) fn remove(&mut self, holder: HolderId) {
        let cells = self.held.remove(&holder).unwrap_or_default();
        self.give_back(&cells);
    }

    fn of(&self, holder: HolderId) -> &[u32] {
        self.held.get(&holder).map_or(&[], Vec::as_slice)
    }

    fn give_back(&mut self, cells: &[u32]) {
        for &cell in cells {
            let users = &mut self.users[cell as usize];
            *users -= 1;
            if *users == 0 {
                self.unused.push(cell);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const A: HolderId = HolderId(0);
    const B: HolderId = HolderId(1);

    #[test]
    fn a_fork_costs_what_it_adds() {
        let mut cells = Cells::new(10);
        assert!(cells.grow(A, 6));
        cells.fork(A, B, 4);
        assert_eq!((cells.used(), cells.length(B), cells.freed_by(A), cells.freed_by(B)), (6, 4, 2, 0));
        assert!(cells.grow(B, 3));
        assert_eq!((cells.used(), cells.free(), cells.freed_by(B)), (9, 1, 3));
        cells.remove(A);
        assert_eq!((cells.used(), cells.freed_by(B), cells.length(A)), (7, 7, 0));
    }

    #[test]
    fn no_room_changes_nothing() {
        let mut cells = Cells::new(4);
        assert!(cells.grow(A, 3));
        assert!(!cells.grow(A, 2));
        assert!(!cells.grow(B, u32::MAX));
        assert_eq!((cells.used(), cells.length(A), cells.length(B)), (3, 3, 0));
        assert!(cells.grow(B, 1) && cells.grow(B, 0) && !cells.grow(B, 1));
    }

    #[test]
    fn a_shift_gives_back_what_it_discards() {
        let mut cells = Cells::new(8);
        assert!(cells.grow(A, 8));
        cells.discard(A, 2..5);
        assert_eq!((cells.length(A), cells.free()), (5, 3));
        cells.fork(A, B, 3);
        cells.discard(A, 1..3);
        assert_eq!((cells.length(A), cells.free()), (3, 3), "shared cells stay");
        cells.truncate(B, 1);
        assert_eq!((cells.length(B), cells.free()), (1, 5));
        cells.discard(A, Range { start: 9, end: 2 });
        assert_eq!(cells.length(A), 3, "an empty range");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Grow(u64, u32),
        Fork(u64, u64, u32),
        Truncate(u64, u32),
        Discard(u64, Range<u32>),
        Remove(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let (id, length) = (0..5u64, 0..14u32);
        prop_oneof![
            (id.clone(), length.clone()).prop_map(|(holder, tokens)| Step::Grow(holder, tokens)),
            (id.clone(), id.clone(), length.clone()).prop_map(|(from, to, length)| Step::Fork(from, to, length)),
            (id.clone(), length.clone()).prop_map(|(holder, length)| Step::Truncate(holder, length)),
            (id.clone(), length.clone(), length.clone())
                .prop_map(|(holder, start, end)| Step::Discard(holder, start..end)),
            id.prop_map(Step::Remove),
        ]
    }

    proptest! {
        /// Against lists of numbers that are never used twice.
        #[test]
        fn as_sets_of_cells(capacity in 0..40u32, steps in prop::collection::vec(step(), 0..60)) {
            let mut cells = Cells::new(capacity);
            let mut held: [Vec<u64>; 5] = Default::default();
            let mut next = 0..;
            for step in steps {
                let used = held.iter().flatten().collect::<BTreeSet<_>>().len() as u32;
                match step {
                    Step::Grow(holder, tokens) => {
                        let fits = used + tokens <= capacity;
                        prop_assert_eq!(cells.grow(HolderId(holder), tokens), fits);
                        if fits {
                            held[holder as usize].extend(next.by_ref().take(tokens as usize));
                        }
                    }
                    Step::Fork(from, to, length) => {
                        cells.fork(HolderId(from), HolderId(to), length);
                        held[to as usize] = held[from as usize].iter().copied().take(length as usize).collect();
                    }
                    Step::Truncate(holder, length) => {
                        cells.truncate(HolderId(holder), length);
                        held[holder as usize].truncate(length as usize);
                    }
                    Step::Discard(holder, range) => {
                        cells.discard(HolderId(holder), range.clone());
                        let mut at = 0..;
                        held[holder as usize].retain(|_| !range.contains(&at.next().unwrap()));
                    }
                    Step::Remove(holder) => {
                        cells.remove(HolderId(holder));
                        held[holder as usize].clear();
                    }
                }
                let used: BTreeSet<&u64> = held.iter().flatten().collect();
                prop_assert_eq!(cells.used(), used.len() as u32);
                prop_assert_eq!(cells.free(), capacity - used.len() as u32);
                for (holder, list) in held.iter().enumerate() {
                    let others: BTreeSet<&u64> =
                        held.iter().enumerate().filter(|(other, _)| *other != holder).flat_map(|(_, list)| list).collect();
                    let alone = list.iter().filter(|cell| !others.contains(cell)).count() as u32;
                    let holder = HolderId(holder as u64);
                    prop_assert_eq!((cells.length(holder), cells.freed_by(holder)), (list.len() as u32, alone));
                }
            }
        }
    }
}
