//! Log probabilities of tokens: the logarithm of a softmax.
#![forbid(unsafe_code)]

use std::cmp::Ordering;

use crate::error::{SamplingError, VocabError};
use crate::id::Token;

/// The log probabilities that logits stand for: natural logarithms, normalised over the whole vocabulary, in `f64`.
///
/// Making one reads all logits once; a token's log probability is a subtraction then. The logits may be those of an
/// [output](crate::Outputs::logprobs), or ones that were changed since: divided by a temperature, say.
///
/// ```
/// use llama_safe::{LogProbs, Token};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let logits = [1.0, 3.0, 2.0, f32::NEG_INFINITY];
/// let logprobs = LogProbs::new(&logits)?;
/// assert!((logprobs.get(Token(1))? - 0.6652f64.ln()).abs() < 1e-4);
/// assert_eq!(logprobs.rank(Token(2))?, 2);
/// let best: Vec<Token> = logprobs.top(2).iter().map(|best| best.token).collect();
/// assert_eq!(best, [Token(1), Token(2)]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct LogProbs<'logits> {
    /// `[vocabulary]`; none is NaN or plus infinity, and one at least is finite.
    logits: &'logits [f32],
    highest: f64,
    /// The logarithm of the sum of `exp(logit - highest)`.
    log_sum: f64,
}

/// A token with its log probability.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct TokenLogProb {
    /// The token.
    pub token: Token,
    /// Natural logarithm of its probability.
    pub logprob: f64,
}

impl<'logits> LogProbs<'logits> {
    /// Of the tokens that `logits` stand for, whose ids are the indices. Minus infinity forbids a token.
    ///
    /// # Errors
    ///
    /// [`SamplingError`]: there are no logits, or one is NaN or infinite, or all are forbidden.
    pub fn new(logits: &'logits [f32]) -> Result<Self, SamplingError> {
        let Some(highest) = highest(logits) else {
            let mut numbers = logits.iter().copied().enumerate();
            let bad = numbers.find(|(_, value)| value.is_nan() || *value == f32::INFINITY);
            return Err(bad.map_or(SamplingError::NoLogits, |(token, value)| SamplingError::NotFinite { token, value }));
        };
        if highest == f32::NEG_INFINITY {
            return Err(SamplingError::NothingAllowed);
        }
        // The highest itself is one of the terms: the sum is 1 at least.
        let log_sum = sum_of_exp(logits, highest).ln();
        Ok(Self { logits, highest: f64::from(highest), log_sum })
    }

    /// The log probability of a token; minus infinity if it is forbidden.
    ///
    /// # Errors
    ///
    /// [`VocabError::TokenOutOfRange`]: there is no logit for it.
    pub fn get(&self, token: Token) -> Result<f64, VocabError> {
        Ok(self.of(self.logit(token)?))
    }

    /// The token's place among all, by their logits: 1 is the most likely. Of equal ones the lower id comes first.
    ///
    /// # Errors
    ///
    /// [`VocabError::TokenOutOfRange`]: there is no logit for it.
    pub fn rank(&self, token: Token) -> Result<usize, VocabError> {
        let own = self.logit(token)?;
        let index = token.0 as usize;
        let before = self.logits[..index].iter().filter(|logit| **logit >= own).count();
        let behind = self.logits[index..].iter().filter(|logit| **logit > own).count();
        Ok(1 + before + behind)
    }

    /// The `n` most likely tokens in the order of their [ranks](Self::rank), or as many as there are: forbidden ones are
    /// not among them.
    #[must_use]
    pub fn top(&self, n: usize) -> Vec<TokenLogProb> {
        let mut best = Vec::new();
        self.top_into(n, &mut best);
        best
    }

    /// [`top`](Self::top) into a list that is kept, and emptied before: it allocates nothing where there is room for
    /// `2 * n`.
    pub fn top_into(&self, n: usize, best: &mut Vec<TokenLogProb>) {
        best.clear();
        if n == 0 {
            return;
        }
        let order = |a: &TokenLogProb, b: &TokenLogProb| self.order(a.token, b.token);
        let full = n.saturating_mul(2).min(self.logits.len());
        best.reserve(full);
        // As soon as there are twice as many as asked for, the worse half is left out, and only what is better than the
        // rest comes in from there: each token is looked at once, and those that come in twice on average.
        let mut least = f32::NEG_INFINITY;
        for (index, &logit) in self.logits.iter().enumerate() {
            // A later one of equals is behind the others in any case.
            if logit > least {
                best.push(TokenLogProb { token: Token(index as i32), logprob: self.of(logit) });
                if best.len() == full && n < full {
                    let (_, last, _) = best.select_nth_unstable_by(n - 1, order);
                    least = self.logits[last.token.0 as usize];
                    best.truncate(n);
                }
            }
        }
        best.sort_unstable_by(order);
        best.truncate(n);
    }

    fn of(&self, logit: f32) -> f64 {
        f64::from(logit) - self.highest - self.log_sum
    }

    fn logit(&self, token: Token) -> Result<f32, VocabError> {
        let index = usize::try_from(token.0).ok();
        let vocabulary = u32::try_from(self.logits.len()).unwrap_or(u32::MAX);
        let missing = VocabError::TokenOutOfRange { token: token.0, vocabulary };
        index.and_then(|index| self.logits.get(index)).copied().ok_or(missing)
    }

    /// Of two tokens of these logits, the more likely first, and the lower id of equals.
    fn order(&self, a: Token, b: Token) -> Ordering {
        // No NaN is among them.
        let (left, right) = (self.logits[a.0 as usize], self.logits[b.0 as usize]);
        right.partial_cmp(&left).unwrap_or(Ordering::Equal).then(a.cmp(&b))
    }
}

/// Numbers that are computed side by side: what vector instructions hold, or a multiple of it.
const LANES: usize = 16;
/// Terms that one lane adds up in `f32` before the sum goes on in `f64`: the rounding of so few does not show.
const TERMS: usize = 16;

/// The highest of `logits`; `None` if there are none, or one is NaN or plus infinity.
fn highest(logits: &[f32]) -> Option<f32> {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut are_numbers = !logits.is_empty();
    let (chunks, rest) = logits.as_chunks::<LANES>();
    for chunk in chunks.iter().map(<[f32; LANES]>::as_slice).chain([rest]) {
        for (lane, &logit) in lanes.iter_mut().zip(chunk) {
            // False for NaN as well.
            are_numbers &= logit < f32::INFINITY;
            *lane = if logit > *lane { logit } else { *lane };
        }
    }
    are_numbers.then(|| lanes.into_iter().fold(f32::NEG_INFINITY, f32::max))
}

/// The sum of `exp(logit - highest)`, to about 1e-6 of it: the logarithm of that is as good absolutely.
fn sum_of_exp(logits: &[f32], highest: f32) -> f64 {
    let mut sum = 0.0;
    for block in logits.chunks(LANES * TERMS) {
        let mut lanes = [0.0f32; LANES];
        let (chunks, rest) = block.as_chunks::<LANES>();
        for chunk in chunks {
            for (lane, logit) in lanes.iter_mut().zip(chunk) {
                *lane += exp(logit - highest);
            }
        }
        for (lane, logit) in lanes.iter_mut().zip(rest) {
            *lane += exp(logit - highest);
        }
        sum += lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>();
    }
    sum
}

/// `exp(x)` for `x` of at most 0, in steps that a compiler makes vector instructions of, which the one of the C library is
/// not: a fifth of the time for 150,000 of them. Below -87 it is as good as nothing, 1e-38.
///
/// A power of 2 times the exponential of a small rest: Cody and Waite, "Software Manual for the Elementary Functions", 1980.
fn exp(x: f32) -> f32 {
    /// Added to a small number, it leaves no room for a fraction in 24 bits: the number is rounded.
    const ROUND: f32 = 1.5 * (1 << 23) as f32;
    /// The logarithm of 2 in two parts, the first of so few bits that a small integer times it is exact.
    const LN_2: (f32, f32) = (355.0 / 512.0, -2.121_944_4e-4);

    // Minus infinity, and differences that are too large for a number, become -87 as well.
    let x = if x > -87.0 { x } else { -87.0 };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let power = shifted - ROUND;
    let rest = (x - power * LN_2.0) - power * LN_2.1;
    // Of a rest of at most ln(2) / 2 the eighth term of the series is below 2^-24 of the sum.
    let terms = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
    let series = terms.into_iter().fold(0.0f32, |sum, term| sum * rest + term);
    // The integer stands in the lowest bits of the shifted number; an exponent of `f32` is kept 127 too high.
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127);
    series * f32::from_bits(exponent << 23)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A softmax as it stands in a textbook, with the sum from the smallest term up, and all tokens in the order of their
    /// probabilities.
    fn slow(logits: &[f32]) -> Vec<TokenLogProb> {
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sorted: Vec<(usize, f64)> = logits.iter().map(|logit| f64::from(*logit)).enumerate().collect();
        sorted.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap());
        let weight = |logit: f64| (logit - f64::from(highest)).exp();
        let sum: f64 = sorted.iter().rev().map(|(_, logit)| weight(*logit)).sum();
        sorted
            .iter()
            .map(|&(token, logit)| {
                // Directly where it is a number that can be divided, by logarithms where it is too small for one.
                let direct = (weight(logit) / sum).ln();
                let logprob = if weight(logit) > 1e-300 { direct } else { logit - f64::from(highest) - sum.ln() };
                TokenLogProb { token: Token(token as i32), logprob }
            })
            .collect()
    }

    fn close(a: f64, b: f64) -> bool {
        a == b || (a - b).abs() <= 1e-5 * b.abs().max(1.0)
    }

    fn same(logits: &[f32], numbers: &[usize]) -> Result<(), TestCaseError> {
        let logprobs = LogProbs::new(logits).expect("one at least is allowed");
        let all = slow(logits);
        for (index, expected) in all.iter().enumerate() {
            let got = logprobs.get(expected.token).expect("a token");
            prop_assert!(close(got, expected.logprob), "{:?}: {} for {}", expected.token, got, expected.logprob);
            if logits.len() < 200 {
                prop_assert_eq!(logprobs.rank(expected.token).expect("a token"), index + 1);
            }
        }
        for n in numbers {
            let top = logprobs.top(*n);
            let expected: Vec<_> = all.iter().filter(|one| one.logprob > f64::NEG_INFINITY).take(*n).collect();
            prop_assert_eq!(top.len(), expected.len());
            for (got, expected) in top.iter().zip(expected) {
                prop_assert_eq!(got.token, expected.token);
                prop_assert_eq!(got.logprob, logprobs.get(got.token).expect("a token"));
            }
        }
        Ok(())
    }

    fn logit() -> impl Strategy<Value = f32> {
        prop_oneof![
            6 => -30.0f32..30.0,
            3 => (-4i8..4).prop_map(f32::from),
            1 => prop_oneof![Just(f32::NEG_INFINITY), Just(-0.0), Just(0.0), Just(f32::MIN), Just(f32::MAX)],
            1 => prop::num::f32::NORMAL | prop::num::f32::SUBNORMAL | prop::num::f32::ZERO,
            1 => 1e4f32..1e5,
        ]
    }

    proptest! {
        #[test]
        fn it_is_the_softmax(logits in prop::collection::vec(logit(), 1..120), n in 0usize..150) {
            prop_assume!(logits.iter().any(|logit| *logit > f32::NEG_INFINITY));
            same(&logits, &[n])?;
        }
    }

    /// A generator good enough for tests: Knuth's 64-bit linear congruence.
    fn numbers(mut seed: u64) -> impl Iterator<Item = f32> {
        std::iter::repeat_with(move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 40) as f32 / (1u64 << 24) as f32
        })
    }

    #[test]
    fn large_vocabularies_in_any_order() {
        let random: Vec<f32> = numbers(1).map(|number| number * 40.0 - 20.0).take(150_000).collect();
        let rising: Vec<f32> = (0..150_000).map(|index| index as f32 * 1e-4).collect();
        let falling: Vec<f32> = rising.iter().rev().copied().collect();
        let equal = vec![3.0; 150_000];
        for logits in [random, rising, falling, equal] {
            same(&logits, &[1, 5, 20, 4000]).unwrap();
        }
        // Equal tokens share the whole: the logarithm of one in 150,000.
        let logprob = LogProbs::new(&[3.0; 150_000]).unwrap().get(Token(149_999)).unwrap();
        assert!((logprob + 150_000f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn the_exponential_is_good_to_its_last_bits() {
        for index in 0..87_000 {
            let x = -(index as f32) * 1e-3;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 3e-7, "{x}: {} for {exact}", exp(x));
        }
        for x in [-87.5, -1e30, f32::MIN, f32::NEG_INFINITY] {
            assert!((0.0..1e-37).contains(&exp(x)), "{x}");
        }
    }

    #[test]
    fn more_than_there_are() {
        let logits = [0.0, f32::NEG_INFINITY, 1.0];
        let logprobs = LogProbs::new(&logits).unwrap();
        for n in [2, 3, 4, 1000, usize::MAX] {
            let tokens: Vec<_> = logprobs.top(n).iter().map(|one| one.token.0).collect();
            assert_eq!(tokens, [2, 0], "{n}");
        }
        assert_eq!(logprobs.top(0), []);
        assert_eq!(logprobs.get(Token(1)).unwrap(), f64::NEG_INFINITY);
        assert_eq!(logprobs.rank(Token(1)).unwrap(), 3);
    }

    #[test]
    fn a_kept_list_is_not_allocated_again() {
        let logits: Vec<f32> = numbers(2).take(10_000).collect();
        let logprobs = LogProbs::new(&logits).unwrap();
        let mut best = Vec::with_capacity(40);
        let place = best.as_ptr();
        for _ in 0..3 {
            logprobs.top_into(20, &mut best);
            assert_eq!((best.len(), best.capacity(), best.as_ptr()), (20, 40, place));
        }
    }

    #[test]
    fn what_has_no_probabilities_is_an_error() {
        assert_eq!(LogProbs::new(&[]).unwrap_err(), SamplingError::NoLogits);
        assert_eq!(LogProbs::new(&[f32::NEG_INFINITY; 3]).unwrap_err(), SamplingError::NothingAllowed);
        assert!(matches!(LogProbs::new(&[0.0, f32::NAN]), Err(SamplingError::NotFinite { token: 1, .. })));
        assert!(matches!(LogProbs::new(&[f32::INFINITY]), Err(SamplingError::NotFinite { token: 0, .. })));
        let logprobs = LogProbs::new(&[0.0, 1.0]).unwrap();
        for token in [-1, 2, i32::MIN, i32::MAX] {
            let error = VocabError::TokenOutOfRange { token, vocabulary: 2 };
            assert_eq!(logprobs.get(Token(token)).unwrap_err(), error);
            assert_eq!(logprobs.rank(Token(token)).unwrap_err(), error);
        }
    }
}
