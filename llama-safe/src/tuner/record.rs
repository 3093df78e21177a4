//! What was measured so far: each thing once or several times.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::limits::KvLayout;

use super::choice::{Step, Way};

/// One measurement, or the middle one of several of the same thing.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub struct Measured {
    /// Threads.
    pub threads: u32,
    /// How sequences share cells.
    pub kv_layout: KvLayout,
    /// Tokens of a pass.
    pub micro_batch_tokens: u32,
    /// Sequences decoded together; `None` of prompts.
    pub sequences: Option<u32>,
    /// Tokens computed in a second.
    pub tokens_per_second: f64,
}

/// A thing with the rates that it was measured at.
#[derive(Clone, Debug)]
struct Entry {
    way: Way,
    micro_batch: u32,
    sequences: Option<u32>,
    rates: Vec<f64>,
}

impl Entry {
    /// The middle one, of an even number the slower one of the two in the middle: a machine that others use has fast spells and
    /// slow ones.
    fn rate(&self) -> f64 {
        let mut sorted = self.rates.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[(sorted.len() - 1) / 2]
    }
}

/// All of them, in the order in which each was measured first.
#[derive(Clone, Default, Debug)]
pub(super) struct Record(Vec<Entry>);

impl Record {
    /// Tokens computed in a second, in steps of so many sequences, or of prompts.
    pub(super) fn add(&mut self, way: Way, micro_batch: u32, sequences: Option<u32>, rate: f64) {
        let same =
            |entry: &&mut Entry| (entry.way, entry.micro_batch, entry.sequences) == (way, micro_batch, sequences);
        match self.0.iter_mut().find(same) {
            Some(entry) => entry.rates.push(rate),
            None => self.0.push(Entry { way, micro_batch, sequences, rates: vec![rate] }),
        }
    }

    /// The steps of a way.
    pub(super) fn steps(&self, way: Way) -> Vec<Step> {
        let of_way = self.0.iter().filter(|entry| entry.way == way);
        let step = |entry: &Entry| {
            let sequences = entry.sequences?;
            Some(Step { sequences, time: Duration::from_secs_f64(f64::from(sequences) / entry.rate()) })
        };
        of_way.filter_map(step).collect()
    }

    /// Tokens of prompts computed in a second.
    pub(super) fn prefill(&self, way: Way, micro_batch: u32) -> Option<f64> {
        let same = |entry: &&Entry| (entry.way, entry.micro_batch, entry.sequences) == (way, micro_batch, None);
        self.0.iter().find(same).map(Entry::rate)
    }

    /// The ways of which there are steps.
    pub(super) fn ways(&self) -> Vec<Way> {
        let mut ways: Vec<Way> = Vec::new();
        for entry in self.0.iter().filter(|entry| entry.sequences.is_some()) {
            if !ways.contains(&entry.way) {
                ways.push(entry.way);
            }
        }
        ways
    }

    /// All of it.
    pub(super) fn measured(&self) -> Vec<Measured> {
        let measured = |entry: &Entry| Measured {
            threads: entry.way.threads,
            kv_layout: entry.way.layout,
            micro_batch_tokens: entry.micro_batch,
            sequences: entry.sequences,
            tokens_per_second: entry.rate(),
        };
        self.0.iter().map(measured).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_the_middle_one() {
        let (split, unified) =
            (Way { threads: 2, layout: KvLayout::Split }, Way { threads: 2, layout: KvLayout::Unified });
        let mut record = Record::default();
        record.add(split, 64, Some(4), 100.0);
        record.add(split, 512, None, 300.0);
        record.add(unified, 64, Some(4), 80.0);
        assert_eq!(record.steps(split), [Step { sequences: 4, time: Duration::from_millis(40) }]);
        for (rate, middle) in [(200.0, 100.0), (150.0, 150.0), (160.0, 150.0)] {
            record.add(split, 64, Some(4), rate);
            assert_eq!(record.measured()[0].tokens_per_second, middle);
        }
        assert_eq!((record.prefill(split, 512), record.prefill(split, 64)), (Some(300.0), None));
        assert_eq!(record.ways(), [split, unified]);
        let kinds: Vec<_> = record.measured().iter().map(|one| (one.kv_layout, one.sequences)).collect();
        assert_eq!(kinds, [(KvLayout::Split, Some(4)), (KvLayout::Split, None), (KvLayout::Unified, Some(4))]);
    }
}
