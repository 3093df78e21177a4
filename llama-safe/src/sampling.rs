//! Choosing a token from logits: the most likely, or by chance and temperature.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::error::SamplingError;
use crate::id::Token;

/// Chooses tokens for one sequence.
///
/// It belongs to one sequence and no other: what it draws depends on its seed and how often it was asked, so that a
/// text is the same whatever batch it was computed in.
#[derive(Clone, Debug)]
pub struct Sampler {
    choice: Choice,
}

#[derive(Clone, Debug)]
enum Choice {
    Greedy,
    Temperature { temperature: f32, random: Box<ChaCha8Rng> },
}

impl Sampler {
    /// Always the most likely token; the lowest id of several.
    #[must_use]
    pub fn greedy() -> Self {
        Self { choice: Choice::Greedy }
    }

    /// A random token, with the probabilities of the softmax of logits divided by `temperature`. The same seed draws the
    /// same tokens on every machine and in every version (ChaCha8).
    ///
    /// # Errors
    ///
    /// [`SamplingError::Temperature`]: it is not above 0 and finite.
    pub fn temperature(temperature: f32, seed: u64) -> Result<Self, SamplingError> {
        if !(temperature.is_finite() && temperature > 0.0) {
            return Err(SamplingError::Temperature { got: temperature });
        }
        let random = Box::new(ChaCha8Rng::seed_from_u64(seed));
        Ok(Self { choice: Choice::Temperature { temperature, random } })
    }

    /// Chooses one of the tokens that `logits` stand for, whose ids are the indices. Minus infinity forbids a token.
    ///
    /// # Errors
    ///
    /// [`SamplingError`]: there are no logits, or one is NaN or infinite, or all are forbidden.
    pub fn sample(&mut self, logits: &[f32]) -> Result<Token, SamplingError> {
        let (best, highest) = highest(logits)?;
        let chosen = match &mut self.choice {
            Choice::Greedy => best,
            Choice::Temperature { temperature, random } => {
                draw(logits, highest, f64::from(*temperature), uniform(random))
            }
        };
        // A vocabulary's ids are `int32_t`s.
        Ok(Token(chosen as i32))
    }
}

/// The first index of the highest logit, and that logit.
fn highest(logits: &[f32]) -> Result<(usize, f32), SamplingError> {
    let mut best = (0, f32::NEG_INFINITY);
    for (token, &value) in logits.iter().enumerate() {
        if value.is_nan() || value == f32::INFINITY {
            return Err(SamplingError::NotFinite { token, value });
        }
        if value > best.1 {
            best = (token, value);
        }
    }
    match best.1 {
        _ if logits.is_empty() => Err(SamplingError::NoLogits),
        f32::NEG_INFINITY => Err(SamplingError::NothingAllowed),
        _ => Ok(best),
    }
}

/// The index at which the running sum of probabilities passes `chance`, a number of `0..1`.
fn draw(logits: &[f32], highest: f32, temperature: f64, chance: f64) -> usize {
    let weight = |logit: &f32| (f64::from(*logit - highest) / temperature).exp();
    let total: f64 = logits.iter().map(weight).sum();
    let mut rest = chance * total;
    let mut last = 0;
    for (token, weight) in logits.iter().map(weight).enumerate() {
        if weight > 0.0 {
            last = token;
            rest -= weight;
            if rest < 0.0 {
                break;
            }
        }
    }
    // Rounding may leave a rest after the last: it stays with the last token that is possible at all.
    last
}

/// A number of `0..1`, of the 53 bits that a double holds.
fn uniform(random: &mut ChaCha8Rng) -> f64 {
    (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greedy_takes_the_first_of_the_highest() {
        assert_eq!(Sampler::greedy().sample(&[0.0, 2.0, 2.0, 1.0]), Ok(Token(1)));
        assert_eq!(Sampler::greedy().sample(&[f32::NEG_INFINITY, -5.0]), Ok(Token(1)));
    }

    #[test]
    fn what_cannot_be_chosen_from_is_an_error() {
        let mut sampler = Sampler::greedy();
        assert_eq!(sampler.sample(&[]), Err(SamplingError::NoLogits));
        assert_eq!(sampler.sample(&[f32::NEG_INFINITY; 3]), Err(SamplingError::NothingAllowed));
        assert!(matches!(sampler.sample(&[0.0, f32::NAN]), Err(SamplingError::NotFinite { token: 1, .. })));
        assert!(matches!(sampler.sample(&[f32::INFINITY]), Err(SamplingError::NotFinite { token: 0, .. })));
        for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            assert!(matches!(Sampler::temperature(bad, 1), Err(SamplingError::Temperature { .. })));
        }
    }

    #[test]
    fn a_seed_repeats_and_forbidden_tokens_never_come() {
        let logits = [1.0, f32::NEG_INFINITY, 0.5, 0.0];
        let draw = |seed| -> Vec<Token> {
            let mut sampler = Sampler::temperature(0.8, seed).unwrap();
            (0..200).map(|_| sampler.sample(&logits).unwrap()).collect()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert!(!draw(7).contains(&Token(1)));
    }

    /// Chi-square against the softmax: 4 degrees of freedom, 18.47 is passed by chance once in a thousand seeds.
    #[test]
    fn draws_follow_the_softmax() {
        const DRAWS: usize = 50_000;
        let logits = [1.0f32, 0.0, -1.0, 2.0, 0.5];
        let temperature = 1.5f64;
        let weights: Vec<f64> = logits.iter().map(|logit| (f64::from(*logit) / temperature).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut counts = [0usize; 5];
        let mut sampler = Sampler::temperature(temperature as f32, 1).unwrap();
        for _ in 0..DRAWS {
            counts[sampler.sample(&logits).unwrap().0 as usize] += 1;
        }
        let chi: f64 = counts
            .iter()
            .zip(&weights)
            .map(|(count, weight)| {
                let expected = weight / total * DRAWS as f64;
                (*count as f64 - expected).powi(2) / expected
            })
            .sum();
        assert!(chi < 18.47, "chi-square {chi}");
    }

    #[test]
    fn the_ends_of_chance_stay_within_what_is_possible() {
        let logits = [f32::NEG_INFINITY, 0.0, 0.0, f32::NEG_INFINITY];
        assert_eq!(draw(&logits, 0.0, 1.0, 0.0), 1);
        assert_eq!(draw(&logits, 0.0, 1.0, 1.0), 2);
    }
}
