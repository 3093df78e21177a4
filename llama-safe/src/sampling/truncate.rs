//! Samplers that take candidates away: what is unlikely, or too likely.
//!
//! Sums and products are rounded to 32 bits in llama.cpp's order, so that the same candidates survive.

use super::candidates::Candidate;
use super::field::{Buffers, Field};
use super::random::Random;

/// A probability to reach or stay above, and how many candidates to keep at least.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    pub(super) p: f32,
    pub(super) keep: usize,
}

/// Keeps the likeliest tokens whose probabilities add up to `p` (Holtzman et al., "The Curious Case of Neural Text
/// Degeneration", 2019).
pub(super) fn top_p(field: &mut Field<'_>, Share { p, keep }: Share) {
    let count = field.len();
    if field.row().is_none() {
        field.softmax();
        field.top(count);
        if let Some(end) = reach(&field.buffers.list, p, keep, |one| one.p) {
            field.truncate(end);
        }
        return;
    }
    // The probabilities of the whole row, but only the upper part in order: mostly 256 tokens are enough.
    field.weigh_row();
    let sum: f32 = field.buffers.weights.iter().sum();
    let mut part = count.min(keep.max(256));
    loop {
        field.top_of_row(part);
        let Buffers { list, weights, .. } = &mut *field.buffers;
        let found = reach(list, p, keep, |one| weights[one.token as usize] / sum);
        if let Some(end) = found {
            return field.truncate(end);
        }
        if part == count {
            return;
        }
        part = count.min(part.saturating_mul(16));
    }
}

/// How many of a sorted list it takes until their probabilities add up to `p`. `None`: they never do.
fn reach(list: &[Candidate], p: f32, keep: usize, probability: impl Fn(&Candidate) -> f32) -> Option<usize> {
    let mut sum = 0.0f32;
    for (index, one) in list.iter().enumerate() {
        sum += probability(one);
        if sum >= p {
            return Some(keep.max(index + 1));
        }
    }
    None
}

/// Keeps tokens at least `p` times as likely as the likeliest.
pub(super) fn min_p(field: &mut Field<'_>, Share { p, keep }: Share) {
    let bound = field.highest() + p.ln();
    let reaches = |one: &Candidate| one.logit >= bound;
    if field.row().is_some() {
        field.list_from(bound);
        if field.buffers.list.len() < keep {
            field.top_of_row(keep.min(field.vocabulary()));
        }
    } else if field.sorted {
        let end = field.buffers.list.partition_point(reaches);
        field.truncate(end.max(keep).max(1));
    } else if field.buffers.list.iter().filter(|one| reaches(one)).count() >= keep.max(1) {
        field.buffers.list.retain(reaches);
        field.forbidden = 0;
    } else {
        field.top(keep.max(1));
    }
}

/// Keeps tokens whose surprise is near the one to be expected, up to a probability of `p` (Meister et al., "Locally Typical
/// Sampling", 2022).
pub(super) fn typical(field: &mut Field<'_>, Share { p, keep }: Share) {
    field.sort();
    field.softmax();
    let Buffers { list, spare, scores, .. } = &mut *field.buffers;
    let mut entropy = 0.0f32;
    for one in list.iter() {
        // llama.cpp takes the logarithm of zero here, and sorts NaN (llama-sampler.cpp:1921).
        if one.p > 0.0 {
            entropy += -one.p * one.p.ln();
        }
    }
    scores.clear();
    scores.extend((0..).zip(list.iter()).map(|(place, one)| ((-one.p.ln() - entropy).abs(), place)));
    scores.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    spare.clear();
    spare.extend(scores.iter().map(|(_, place)| list[*place as usize]));
    std::mem::swap(list, spare);
    let mut sum = 0.0f32;
    let mut end = None;
    for (index, one) in list.iter().enumerate() {
        sum += one.p;
        if sum > p && index + 1 >= keep {
            end = Some(index + 1);
            break;
        }
    }
    if let Some(end) = end {
        field.truncate(end);
    }
    field.sorted = false;
}

/// Keeps tokens at most `n` standard deviations below the highest logit ("Top-nσ: Not All Logits Are You Need", 2024).
pub(super) fn top_n_sigma(field: &mut Field<'_>, n: f32) {
    if field.len() <= 1 {
        return;
    }
    field.list();
    let highest = field.highest();
    let list = &mut field.buffers.list;
    let count = list.len() as f32;
    let mut sum = 0.0f32;
    list.iter().for_each(|one| sum += one.logit);
    let mean = sum / count;
    let mut squares = 0.0f32;
    for one in list.iter() {
        squares = (f64::from(squares) + f64::from(one.logit - mean).powi(2)) as f32;
    }
    let bound = highest - n * (squares / count).sqrt();
    let before = list.len();
    // NaN, of logits near the largest float, keeps all.
    list.retain(|one| bound.is_nan() || one.logit >= bound);
    field.forbidden += before - list.len();
}

/// Exclude top choices: by chance, takes away the likeliest but for the last of those above a threshold.
#[derive(Clone, Debug)]
pub(super) struct ExcludeTop {
    pub(super) probability: f32,
    pub(super) threshold: f32,
    pub(super) keep: usize,
    pub(super) random: Random,
}

impl ExcludeTop {
    pub(super) fn apply(&mut self, field: &mut Field<'_>) {
        if field.len() < 2 || self.random.float() > self.probability {
            return;
        }
        field.sort();
        field.softmax();
        let above = field.buffers.list.iter().take_while(|one| one.p >= self.threshold).count();
        let last = above.saturating_sub(1);
        if last > 0 && field.len() - last >= self.keep {
            field.buffers.list.drain(..last);
        }
    }
}
