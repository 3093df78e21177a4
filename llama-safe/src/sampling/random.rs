//! Random numbers, the very ones that llama.cpp draws for a seed: the Mersenne Twister, and libstdc++'s way from its
//! words to numbers of `0..1`.

use rand_mt::Mt;

/// A state of the generator, and the state after what was drawn since, which counts only once a token was sampled.
#[derive(Clone)]
pub(super) struct Random {
    seed: u32,
    now: Mt,
    ahead: Mt,
    drawn: bool,
}

impl Random {
    pub(super) fn new(seed: u32) -> Self {
        Self { seed, now: Mt::new(seed), ahead: Mt::new(seed), drawn: false }
    }

    pub(super) fn reset(&mut self) {
        *self = Self::new(self.seed);
    }

    /// Takes back what was drawn and not kept.
    pub(super) fn begin(&mut self) {
        self.drawn = false;
    }

    /// What was drawn counts.
    pub(super) fn keep(&mut self) {
        if std::mem::take(&mut self.drawn) {
            std::mem::swap(&mut self.now, &mut self.ahead);
        }
    }

    fn word(&mut self) -> u32 {
        if !std::mem::replace(&mut self.drawn, true) {
            self.ahead.clone_from(&self.now);
        }
        self.ahead.next_u32()
    }

    /// A number of `0..1`: `std::generate_canonical<double, 53>` takes two words, the low one first.
    pub(super) fn double(&mut self) -> f64 {
        const WORD: f64 = 4_294_967_296.0;
        let low = f64::from(self.word());
        let sum = low + f64::from(self.word()) * WORD;
        (sum / (WORD * WORD)).min(1.0f64.next_down())
    }

    /// A number of `0..1`: `std::generate_canonical<float, 24>` takes one word, rounded to 24 bits.
    pub(super) fn float(&mut self) -> f32 {
        (self.word() as f32 / 4_294_967_296.0).min(1.0f32.next_down())
    }
}

impl std::fmt::Debug for Random {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Random").field("seed", &self.seed).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The 10,000th word of the default seed is what the C++ standard says it is.
    #[test]
    fn the_generator_is_the_standard_one() {
        let mut random = Random::new(5489);
        let word = (0..10_000).map(|_| random.word()).last();
        assert_eq!(word, Some(4_123_659_995));
    }

    #[test]
    fn what_is_not_kept_is_drawn_again() {
        let mut random = Random::new(7);
        let first = random.double();
        random.begin();
        assert_eq!(random.double(), first);
        random.keep();
        random.begin();
        assert_ne!(random.double(), first);
        random.reset();
        assert_eq!(random.double(), first);
    }

    #[test]
    fn numbers_are_below_one() {
        let mut random = Random::new(1);
        for _ in 0..10_000 {
            assert!((0.0..1.0).contains(&random.double()));
            assert!((0.0..1.0).contains(&random.float()));
        }
    }
}
