//! How far each kind of memory reaches back: what may be asked of it, decided before llama.cpp is. Plain data, no
//! llama.cpp: it removes, copies and moves without looking, and computes with what is left.
#![forbid(unsafe_code)]

use crate::error::Obstacle;
use crate::limits::{KvLayout, MemoryKind};

/// What is known of a sequence and its memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach {
    pub kind: MemoryKind,
    pub length: u32,
    /// The first position that llama.cpp still holds.
    pub first: u32,
    /// Tokens that a layer with a sliding window looks back on, itself included; 0 without such layers.
    pub window: u32,
    /// Positions before this one hold embeddings at places of their own, several to a position.
    pub placed_end: u32,
    /// Tokens that the snapshots of a recurrent state go back, now.
    pub rollback: u32,
    /// Whether it went back to a snapshot, and no decode has made that its state yet.
    pub taken_back: bool,
    /// Whether a fork has the same recurrent state, in the same cell.
    pub shares_state: bool,
    /// Whether its positions can be renumbered.
    pub renumbers: bool,
}

impl Reach {
    fn has_state(&self) -> bool {
        has_state(self.kind)
    }

    /// Whether all that comes after the first `length` tokens can be forgotten. `length` is at most its own.
    pub(crate) fn truncate(&self, length: u32) -> Result<(), Obstacle> {
        if length == 0 || length == self.length {
            return Ok(());
        }
        if self.has_state() {
            if self.shares_state {
                // Both name one cell, and its position would change for both (llama-memory-recurrent.cpp:212).
                return Err(Obstacle::SharedState);
            }
            // llama.cpp takes any number up to `n_rs_seq`, and then reads a snapshot that nothing was written to
            // (llama-memory-recurrent.cpp:210; models/delta-net-base.cpp:588, models/mamba-base.cpp:269).
            let back = self.length - length;
            return if back <= self.rollback { Ok(()) } else { Err(Obstacle::State { rollback: self.rollback }) };
        }
        self.splits(length)?;
        self.holds(length)
    }

    /// Whether the first `length` tokens can be copied. `length` is at most its own.
    pub(crate) fn fork(&self, length: u32) -> Result<(), Obstacle> {
        if length == 0 {
            return Ok(());
        }
        if self.has_state() {
            if length < self.length {
                // The copy has the same cell: it cannot go back without the other.
                return Err(Obstacle::State { rollback: 0 });
            }
            // Which snapshot is the state is noted by sequence, and not copied (llama-memory-recurrent.cpp:292).
            return if self.taken_back { Err(Obstacle::TakenBack) } else { Ok(()) };
        }
        self.splits(length)?;
        self.holds(length)
    }

    /// Whether tokens can be removed and later ones moved down.
    pub(crate) fn shift(&self) -> Result<(), Obstacle> {
        if self.has_state() {
            // It says that it can, but keeps what was to be forgotten (llama-memory-recurrent.cpp:354).
            return Err(Obstacle::State { rollback: 0 });
        }
        if self.window > 0 {
            // Cells would be taken from the first on again (llama-kv-cache.cpp:635), no longer in the order of positions, and
            // a batch of several passes be computed without what the last of them leaves behind (llama-kv-cache.cpp:1196 and
            // :823): see `windows_share_cells`.
            return Err(Obstacle::Window { window: self.window });
        }
        if self.renumbers { Ok(()) } else { Err(Obstacle::Positions) }
    }

    /// Whether embeddings that share a position would be torn apart.
    fn splits(&self, length: u32) -> Result<(), Obstacle> {
        if length < self.length && length < self.placed_end {
            return Err(Obstacle::Placed { end: self.placed_end });
        }
        Ok(())
    }

    /// Whether a memory of attention has all that a token at position `length` looks back on.
    pub(crate) fn holds(&self, length: u32) -> Result<(), Obstacle> {
        // The token at position p sees those from p + 1 - window on (llama-hparams.h:489); a window in chunks sees fewer.
        // Something must be left: the position of the last token held is how llama.cpp knows the next.
        let seen = (length + 1).saturating_sub(self.window.max(2));
        if self.window == 0 || self.first == 0 || self.first <= seen {
            Ok(())
        } else {
            Err(Obstacle::Forgotten { first: self.first, window: self.window })
        }
    }
}

/// Whether a memory has a recurrent state, one cell a sequence.
pub(crate) fn has_state(kind: MemoryKind) -> bool {
    matches!(kind, MemoryKind::Recurrent | MemoryKind::Hybrid)
}

/// llama.cpp's `LLAMA_MAX_SEQ`.
const SLOTS: usize = 256;

/// A batch, as far as it matters for the cells that llama.cpp finds for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mix {
    /// Two of its sequences may be computed in one pass. llama.cpp then moves their states into neighbouring cells, and
    /// the states that were there, of any sequence, elsewhere (llama-memory-recurrent.cpp:648). The cells are renamed
    /// before the pass; within it the numbers are copied, and empty cells in between zeroed. A pass that stops half way
    /// leaves wrong numbers to sequences that are not in it, and to ones to come.
    pub moves_cells: bool,
    /// If it stops half way, the cells of a sequence whose turn had not come are looked for from another sequence's place
    /// on (llama-kv-cache.cpp:824 takes the heads of the first streams for those of the batch). With a sliding window
    /// the cells are out of order then, which costs a later batch what its first pass needs (:1196).
    pub loses_places: bool,
    /// Every sequence has its last tokens in a pass after which no cell moves.
    pub keeps_snapshots: bool,
}

impl Mix {
    /// The mix of a batch of `(slot, rows)` in any order; `micro_batch` is `n_ubatch`.
    pub(crate) fn of(
        kind: MemoryKind,
        layout: KvLayout,
        window: u32,
        micro_batch: u32,
        parts: impl Iterator<Item = (i32, u32)> + Clone,
    ) -> Self {
        // Only a hybrid memory on unified cells takes sequences of any slots into one pass; all others such as follow
        // one another (llama-memory-hybrid.cpp:89, llama-memory-recurrent.cpp:457).
        let any_slots = kind == MemoryKind::Hybrid && layout == KvLayout::Unified;
        let mut taken = [false; SLOTS];
        for (slot, _) in parts.clone() {
            taken[slot as usize % SLOTS] = true;
        }
        let count = parts.clone().count();
        let pairs = taken.windows(2).filter(|pair| pair[0] && pair[1]).count();
        let moves_cells = has_state(kind) && count > 1 && (any_slots || pairs > 0);
        let one_run = any_slots || pairs + 1 == count;
        // The first pass has all of one run.
        let all_at_first = one_run && count as u64 <= u64::from(micro_batch);
        let loses_places = window > 0 && layout == KvLayout::Split && count > 1 && !all_at_first;
        let mut rows = parts.map(|(_, rows)| rows);
        let first = rows.next().unwrap_or(0);
        let one_pass = one_run && rows.all(|rows| rows == first) && first.saturating_mul(count as u32) <= micro_batch;
        Self { moves_cells, loses_places, keeps_snapshots: !moves_cells || one_pass }
    }

    /// How many tokens a sequence can go back after it was decoded with `rows` tokens, with `snapshots` kept for each.
    ///
    /// A pass of n tokens writes the states after its last n tokens, not the one before the first.
    pub(crate) fn rollback(self, rows: u32, snapshots: u32) -> u32 {
        if self.keeps_snapshots { rows.saturating_sub(1).min(snapshots) } else { 0 }
    }
}

/// Whether a failed decode that moved no cells has left a recurrent state as it was: of a sequence that held `start`
/// tokens and holds `end` now.
///
/// llama.cpp takes the tokens of the pass that failed out of its memory (llama-context.cpp:1915). Without snapshots that
/// fails, and the position tells; with them it succeeds, and names a snapshot that this pass should have written.
pub(crate) fn is_untouched(snapshots: u32, start: u32, end: u32) -> bool {
    snapshots == 0 && end == start
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEN: Reach = Reach {
        kind: MemoryKind::Attention,
        length: 10,
        first: 0,
        window: 0,
        placed_end: 0,
        rollback: 0,
        taken_back: false,
        shares_state: false,
        renumbers: true,
    };

    #[test]
    fn attention_goes_anywhere() {
        for length in 0..=10 {
            assert_eq!(TEN.truncate(length), Ok(()));
            assert_eq!(TEN.fork(length), Ok(()));
        }
        assert_eq!(TEN.shift(), Ok(()));
        assert_eq!(Reach { renumbers: false, ..TEN }.shift(), Err(Obstacle::Positions));
        assert_eq!(Reach { window: 20, ..TEN }.shift(), Err(Obstacle::Window { window: 20 }));
    }

    #[test]
    fn what_has_places_stays_whole() {
        let ten = Reach { placed_end: 6, ..TEN };
        for length in 0..=10 {
            let want = if (1..6).contains(&length) { Err(Obstacle::Placed { end: 6 }) } else { Ok(()) };
            assert_eq!((ten.truncate(length), ten.fork(length)), (want, want));
        }
        assert_eq!(Reach { length: 6, ..ten }.fork(6), Ok(()));
    }

    #[test]
    fn a_state_stays_where_it_is() {
        for kind in [MemoryKind::Recurrent, MemoryKind::Hybrid] {
            // What llama.cpp tells of such a memory is its last position.
            let ten = Reach { kind, first: 9, ..TEN };
            for length in 1..10 {
                assert_eq!(ten.truncate(length), Err(Obstacle::State { rollback: 0 }));
                assert_eq!(ten.fork(length), Err(Obstacle::State { rollback: 0 }));
            }
            for length in [0, 10] {
                assert_eq!(ten.truncate(length), Ok(()));
                assert_eq!(ten.fork(length), Ok(()));
            }
            assert_eq!(ten.shift(), Err(Obstacle::State { rollback: 0 }));

            let snapshots = Reach { rollback: 3, ..ten };
            assert_eq!(snapshots.truncate(6), Err(Obstacle::State { rollback: 3 }));
            assert_eq!(snapshots.truncate(7), Ok(()));
            assert_eq!(snapshots.fork(7), Err(Obstacle::State { rollback: 0 }));
            assert_eq!(Reach { shares_state: true, ..snapshots }.truncate(7), Err(Obstacle::SharedState));
            assert_eq!(Reach { taken_back: true, ..ten }.fork(10), Err(Obstacle::TakenBack));
            assert_eq!(Reach { taken_back: true, ..ten }.truncate(0), Ok(()));
        }
    }

    proptest! {
        /// Against the definition of a window: every position that the next token looks back on is held.
        #[test]
        fn windows(length in 1u32..60, first: u32, window in 1u32..60, to: u32) {
            let to = to % (length + 1);
            // llama.cpp forgets no sooner: a sequence that stays as it is has all that it needs, and something.
            let first = first % ((length + 1).saturating_sub(window) + 1).min(length);
            let reach = Reach { length, first, window, ..TEN };
            let held = |position: u32| (first..length).contains(&position);
            let seen = (0..to).filter(|position| to - position < window);
            let all = to == 0 || (first < to && seen.clone().all(held));
            prop_assert_eq!(reach.fork(to).is_ok(), all);
            prop_assert_eq!(reach.truncate(to).is_ok(), all);
        }
    }

    fn mix(kind: MemoryKind, layout: KvLayout, micro_batch: u32, parts: &[(i32, u32)]) -> (bool, bool) {
        let mix = Mix::of(kind, layout, 0, micro_batch, parts.iter().copied());
        assert!(!mix.loses_places, "without a window");
        (mix.moves_cells, mix.keeps_snapshots)
    }

    #[test]
    fn one_run_keeps_its_places() {
        let loses = |layout, micro_batch, parts: &[(i32, u32)]| {
            let mix = Mix::of(MemoryKind::Attention, layout, 8, micro_batch, parts.iter().copied());
            assert!(!mix.moves_cells);
            mix.loses_places
        };
        assert!(!loses(KvLayout::Split, 16, &[(3, 40)]));
        assert!(!loses(KvLayout::Split, 16, &[(2, 9), (1, 40)]));
        assert!(loses(KvLayout::Split, 16, &[(3, 9), (1, 40)]), "two runs");
        assert!(loses(KvLayout::Split, 1, &[(2, 9), (1, 40)]), "a pass has room for one");
        assert!(!loses(KvLayout::Unified, 16, &[(3, 9), (1, 40)]), "one stream");
    }

    #[test]
    fn neighbours_are_computed_together() {
        use KvLayout::{Split, Unified};
        use MemoryKind::{Hybrid, Recurrent};
        for (kind, layout) in [(Recurrent, Split), (Recurrent, Unified), (Hybrid, Split)] {
            assert_eq!(mix(kind, layout, 16, &[(3, 40)]), (false, true), "one moves nobody");
            assert_eq!(mix(kind, layout, 16, &[(4, 3), (0, 9), (2, 40)]), (false, true), "no neighbours");
            assert_eq!(mix(kind, layout, 16, &[(1, 4), (0, 4), (2, 4)]), (true, true), "all in one pass");
            assert_eq!(mix(kind, layout, 16, &[(1, 4), (0, 3), (2, 4)]), (true, false), "a second pass");
            assert_eq!(mix(kind, layout, 16, &[(1, 6), (0, 6), (2, 6)]), (true, false), "too many for one");
            assert_eq!(mix(kind, layout, 16, &[(1, 4), (0, 4), (3, 4)]), (true, false), "two runs");
        }
        assert_eq!(mix(Hybrid, Unified, 16, &[(0, 40)]), (false, true));
        assert_eq!(mix(Hybrid, Unified, 16, &[(0, 3), (5, 3)]), (true, true), "any slots in one pass");
        assert_eq!(mix(Hybrid, Unified, 16, &[(0, 3), (5, 4)]), (true, false));
    }

    #[test]
    fn snapshots_are_of_the_last_pass() {
        let kept = Mix { keeps_snapshots: true, ..Mix::default() };
        let rollback: Vec<u32> = (1..7).map(|rows| kept.rollback(rows, 3)).collect();
        assert_eq!(rollback, [0, 1, 2, 3, 3, 3]);
        assert_eq!(Mix { moves_cells: true, ..Mix::default() }.rollback(6, 3), 0);
        assert_eq!(kept.rollback(6, 0), 0, "none were asked for");
    }

    #[test]
    fn what_a_failure_leaves() {
        assert!(is_untouched(0, 5, 5), "its turn had not come");
        assert!(!is_untouched(0, 5, 8), "it was computed");
        assert!(!is_untouched(3, 5, 5), "its turn had not come, or a snapshot was named that was not written");
    }
}
