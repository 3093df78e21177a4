//! The combinations that a sweep goes through, and which of them is best within bounds: plain numbers.

use llama_safe::KvLayout;
use serde::{Deserialize, Serialize};

use crate::others::OTHERS;

/// Micro-batches, tokens, as the tuner tries them; the usual one first.
pub const MICRO_BATCHES: [u32; 4] = [512, 256, 128, 64];

/// How sequences share cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Each has cells of its own.
    Split,
    /// All draw on one pool.
    Unified,
}

impl Layout {
    /// As tables call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Split => "split",
            Self::Unified => "unified",
        }
    }
}

impl From<Layout> for KvLayout {
    fn from(layout: Layout) -> Self {
        match layout {
            Layout::Split => Self::Split,
            Layout::Unified => Self::Unified,
        }
    }
}

impl From<KvLayout> for Layout {
    fn from(layout: KvLayout) -> Self {
        match layout {
            KvLayout::Split => Self::Split,
            KvLayout::Unified => Self::Unified,
        }
    }
}

/// What a tuner chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Combination {
    /// Threads that compute.
    pub threads: u32,
    /// How sequences share cells.
    pub layout: Layout,
    /// Tokens of a pass.
    pub micro_batch: u32,
    /// Sequences that run together.
    pub sequences: u32,
}

impl Combination {
    /// In words.
    #[must_use]
    pub fn described(&self) -> String {
        let Self { threads, layout, micro_batch, sequences } = self;
        format!("{sequences} sequences, {} cells, passes of {micro_batch}, {threads} threads", layout.name())
    }
}

/// All combinations: as many threads as cores, half of them and so on; both layouts; each micro-batch; one sequence, twice as many and
/// so on, and the most.
#[must_use]
pub fn all(cores: u32, most_sequences: u32) -> Vec<Combination> {
    let mut all = Vec::new();
    for threads in halved(cores) {
        for layout in [Layout::Split, Layout::Unified] {
            for micro_batch in MICRO_BATCHES {
                let sequences = doubled(most_sequences).into_iter();
                all.extend(sequences.map(|sequences| Combination { threads, layout, micro_batch, sequences }));
            }
        }
    }
    all
}

fn halved(number: u32) -> Vec<u32> {
    std::iter::successors(Some(number.max(1)), |number| Some(number / 2).filter(|half| *half > 0)).collect()
}

fn doubled(most: u32) -> Vec<u32> {
    let below = std::iter::successors(Some(1_u32), |number| number.checked_mul(2)).take_while(|number| *number < most);
    below.chain([most]).collect()
}

/// What a combination really gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Which one.
    pub combination: Combination,
    /// Bytes that its context takes, as the library estimates them.
    pub memory_bytes: u64,
    /// Tokens of prompts that were computed in a second.
    pub prompt_tokens_per_second: f64,
    /// Milliseconds of a decode step of all sequences, choosing tokens included.
    pub step_ms: f64,
    /// Tokens generated in a second, the time of their prompts included.
    pub tokens_per_second: f64,
    /// The largest share of the cores' time that other processes had, 0 to 1; none where the system does not tell.
    pub others: Option<f64>,
    /// How often it was looked at: these are means.
    pub looks: u32,
}

impl Cell {
    /// Whether others had too much of the cores for it to be worth anything.
    #[must_use]
    pub fn is_disturbed(&self) -> bool {
        self.others.is_some_and(|share| share > OTHERS)
    }
}

/// What a choice has to keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    /// Milliseconds between two tokens of a sequence, at most.
    pub gap_ms: Option<f64>,
    /// Bytes that a context takes, at most.
    pub memory_bytes: Option<u64>,
}

impl Bounds {
    /// Whether a cell keeps them.
    #[must_use]
    pub fn keeps(&self, cell: &Cell) -> bool {
        self.gap_ms.is_none_or(|gap| cell.step_ms <= gap)
            && self.memory_bytes.is_none_or(|limit| cell.memory_bytes <= limit)
    }
}

/// Those that keep the bounds, the fastest first.
#[must_use]
pub fn ranked<'a>(cells: &'a [Cell], bounds: &Bounds) -> Vec<&'a Cell> {
    let mut kept: Vec<&Cell> = cells.iter().filter(|cell| bounds.keeps(cell)).collect();
    kept.sort_by(|one, other| other.tokens_per_second.total_cmp(&one.tokens_per_second));
    kept
}

/// Milliseconds between what steps take at a quarter of a cell's sequences and at half of them: a bound that neither is near to. Of
/// fewer than four sequences, what its own step takes and half as much again.
#[must_use]
pub fn gap_below(cells: &[Cell], best: &Cell) -> f64 {
    let step_of = |part: u32| {
        let narrower = Combination { sequences: best.combination.sequences / part, ..best.combination };
        cells.iter().find(|cell| cell.combination == narrower).map(|cell| cell.step_ms)
    };
    match (step_of(4), step_of(2)) {
        (Some(quarter), Some(half)) => (quarter * half).sqrt(),
        _ => best.step_ms * 1.5,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn cell(sequences: u32, micro_batch: u32, tokens_per_second: f64, step_ms: f64, memory_bytes: u64) -> Cell {
        let combination = Combination { threads: 2, layout: Layout::Split, micro_batch, sequences };
        let prompt_tokens_per_second = 300.0;
        Cell {
            combination,
            memory_bytes,
            prompt_tokens_per_second,
            step_ms,
            tokens_per_second,
            others: Some(0.01),
            looks: 1,
        }
    }

    /// Steps that take longer the wider they are.
    fn cells() -> Vec<Cell> {
        vec![
            cell(1, 512, 40.0, 10.0, 100),
            cell(2, 512, 50.0, 16.0, 120),
            cell(4, 512, 60.0, 25.0, 140),
            cell(8, 512, 70.0, 64.0, 160),
            cell(8, 64, 65.0, 64.0, 60),
        ]
    }

    fn best(bounds: Bounds) -> Option<(u32, u32)> {
        let cells = cells();
        ranked(&cells, &bounds).first().map(|cell| (cell.combination.sequences, cell.combination.micro_batch))
    }

    #[test]
    fn each_combination_is_there_once() {
        let all = all(4, 6);
        assert_eq!(all.len(), 3 * 2 * 4 * 4, "4, 2 and 1 threads; 1, 2, 4 and 6 sequences");
        for (index, one) in all.iter().enumerate() {
            assert!(!all[..index].contains(one), "{one:?}");
        }
        assert_eq!(all[0], Combination { threads: 4, layout: Layout::Split, micro_batch: 512, sequences: 1 });
        assert_eq!(doubled(1), [1]);
        assert_eq!(doubled(8), [1, 2, 4, 8]);
        assert_eq!(halved(3), [3, 1]);
    }

    #[test]
    fn the_best_keeps_the_bounds() {
        assert_eq!(best(Bounds::default()), Some((8, 512)));
        assert_eq!(best(Bounds { gap_ms: Some(25.0), ..Bounds::default() }), Some((4, 512)));
        assert_eq!(best(Bounds { memory_bytes: Some(130), ..Bounds::default() }), Some((8, 64)));
        assert_eq!(best(Bounds { memory_bytes: Some(130), gap_ms: Some(20.0) }), Some((2, 512)));
        assert_eq!(best(Bounds { memory_bytes: Some(59), ..Bounds::default() }), None);
    }

    #[test]
    fn a_gap_lies_between_two_widths() {
        let cells = cells();
        assert_eq!(gap_below(&cells, &cells[3]), 20.0, "16 of 2 sequences, 25 of 4");
        assert_eq!(gap_below(&cells, &cells[1]), 24.0);
    }
}
