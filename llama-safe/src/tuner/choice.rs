//! What is best of what was measured: plain numbers.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::limits::KvLayout;

/// Micro-batches, tokens, the usual one first.
pub(super) const MICRO_BATCHES: [u32; 4] = [512, 256, 128, 64];

/// How sequences are computed together: what the time of a step depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Way {
    pub threads: u32,
    pub layout: KvLayout,
}

/// What requests are like, and what they may take.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Aim {
    /// Tokens of a prompt.
    pub prompt: u32,
    /// Tokens generated for it.
    pub generated: u32,
    /// The longest between two tokens of a sequence.
    pub gap: Option<Duration>,
}

/// A decode step of so many sequences, as it was measured.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Step {
    pub sequences: u32,
    pub time: Duration,
}

/// What could be chosen.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Candidate {
    pub way: Way,
    pub micro_batch: u32,
    pub step: Step,
    /// Tokens of prompts computed in a second.
    pub prefill: f64,
}

impl Candidate {
    /// Its [rate].
    pub(super) fn rate(&self, aim: Aim) -> f64 {
        rate(aim, self.step, self.prefill)
    }
}

/// Generated tokens in a second, where each request first has its prompt computed, at `prefill` tokens a second, and is then one of
/// `step.sequences` that are decoded together.
pub(super) fn rate(aim: Aim, step: Step, prefill: f64) -> f64 {
    let generated = f64::from(aim.generated);
    let of_prompt = f64::from(aim.prompt) / prefill;
    let of_steps = generated * step.time.as_secs_f64() / f64::from(step.sequences);
    generated / (of_prompt + of_steps)
}

/// The best of some candidates, by their [rates](rate); of those within 2 % of it the one with the fewest sequences, which waits least
/// and takes least memory, and the first of these. `None` if none keeps the gap.
pub(super) fn best(aim: Aim, candidates: &[Candidate]) -> Option<Candidate> {
    let kept = || candidates.iter().copied().filter(|one| aim.gap.is_none_or(|gap| one.step.time <= gap));
    let most = kept().map(|one| one.rate(aim)).fold(0.0, f64::max);
    let near = kept().filter(|one| one.rate(aim) >= most * (1.0 - NEAR));
    near.min_by_key(|one| one.step.sequences)
}

/// What is too little to be told from noise.
pub(super) const NEAR: f64 = 0.02;

/// The next number of sequences to measure; `None` when more would be in vain.
///
/// It doubles, and ends where two doublings in a row gave no more tokens a second, or a step takes longer than it may. The prompts are
/// left aside: they take the same time for each number of sequences.
pub(super) fn next(aim: Aim, steps: &[Step], most: u32) -> Option<u32> {
    let Some(last) = steps.last() else { return Some(1.min(most)).filter(|first| *first > 0) };
    if last.sequences >= most || aim.gap.is_some_and(|gap| last.time > gap) {
        return None;
    }
    let rates: Vec<f64> = steps.iter().map(|step| rate(aim, *step, f64::INFINITY)).collect();
    let so_far = |steps: &[f64]| steps.iter().copied().fold(0.0, f64::max);
    let (before, lately) = rates.split_at(rates.len().saturating_sub(2));
    if rates.len() > 3 && so_far(lately) <= so_far(before) {
        return None;
    }
    Some(last.sequences.saturating_mul(2).min(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AIM: Aim = Aim { prompt: 128, generated: 64, gap: None };

    fn steps(rates: &[(u32, f64)]) -> Vec<Step> {
        let time = |sequences: u32, rate: f64| Duration::from_secs_f64(f64::from(sequences) / rate);
        rates.iter().map(|(sequences, rate)| Step { sequences: *sequences, time: time(*sequences, *rate) }).collect()
    }

    fn candidates(rates: &[(u32, f64)], micro_batch: u32, prefill: f64) -> Vec<Candidate> {
        let way = Way { threads: 2, layout: KvLayout::Split };
        steps(rates).into_iter().map(|step| Candidate { way, micro_batch, step, prefill }).collect()
    }

    fn best_of(aim: Aim, candidates: &[Candidate]) -> Option<(u32, u32)> {
        best(aim, candidates).map(|one| (one.step.sequences, one.micro_batch))
    }

    /// The 135M shape with Q8_0 weights on two cores.
    const Q8_0: [(u32, f64); 6] = [(1, 137.0), (2, 115.0), (4, 183.0), (8, 278.0), (16, 349.0), (32, 416.0)];

    #[test]
    fn the_rate_counts_the_prompt() {
        let one = Step { sequences: 1, time: Duration::from_millis(10) };
        // 128 tokens in 0.128 s, and 64 steps of 0.01 s.
        assert!((rate(AIM, one, 1000.0) - 64.0 / 0.768).abs() < 1e-9);
        let four = Step { sequences: 4, time: Duration::from_millis(20) };
        assert!((rate(AIM, four, 1000.0) - 64.0 / (0.128 + 0.32)).abs() < 1e-9);
    }

    #[test]
    fn the_most_tokens_or_what_the_gap_allows() {
        let all = candidates(&Q8_0, 512, 750.0);
        assert_eq!(best_of(AIM, &all), Some((32, 512)));
        let gap = Aim { gap: Some(Duration::from_millis(30)), ..AIM };
        assert_eq!(best_of(gap, &all), Some((8, 512)), "8 in 28.8 ms, 16 in 45.8 ms");
        assert_eq!(best_of(Aim { gap: Some(Duration::from_millis(1)), ..AIM }, &all), None);
    }

    #[test]
    fn of_equals_the_fewest() {
        let all = candidates(&[(1, 100.0), (2, 180.0), (4, 200.0), (8, 201.0)], 512, 1e9);
        assert_eq!(best_of(AIM, &all), Some((4, 512)));
    }

    #[test]
    fn another_micro_batch_has_to_be_faster() {
        let with = |prefill| [candidates(&Q8_0, 512, 750.0), candidates(&Q8_0, 256, prefill)].concat();
        assert_eq!(best_of(AIM, &with(760.0)), Some((32, 512)));
        assert_eq!(best_of(AIM, &with(900.0)), Some((32, 256)));
        // One that leaves room for more sequences may be slower.
        let room = [candidates(&Q8_0[..3], 512, 750.0), candidates(&Q8_0[..5], 64, 700.0)].concat();
        assert_eq!(best_of(AIM, &room), Some((16, 64)));
    }

    #[test]
    fn it_goes_on_while_that_is_of_use() {
        let all = steps(&Q8_0);
        assert_eq!(next(AIM, &[], 64), Some(1));
        for (count, expected) in [(1, 2), (2, 4), (3, 8), (6, 64)] {
            assert_eq!(next(AIM, &all[..count], 64), Some(expected), "a dip at 2 does not end it");
        }
        assert_eq!(next(AIM, &all, 32), None, "as many as there are");
        assert_eq!(next(AIM, &all[..5], 20), Some(20));
        let falling = steps(&[(1, 100.0), (2, 150.0), (4, 140.0), (8, 130.0)]);
        assert_eq!(next(AIM, &falling, 64), None);
        let gap = Aim { gap: Some(Duration::from_millis(20)), ..AIM };
        assert_eq!(next(gap, &all[..3], 64), None, "4 take 21.9 ms");
        assert_eq!(next(AIM, &[], 0), None);
    }
}
