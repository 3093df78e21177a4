//! The last step of a chain, which chooses.

use super::candidates::Candidate;
use super::field::{self, Field};
use super::random::Random;

/// How a token is chosen from what is left.
#[derive(Clone, Debug)]
pub(super) enum Selector {
    Greedy,
    Distribution(Box<Random>),
    Mirostat(Box<Mirostat>),
    MirostatV2(Box<Mirostat>),
    AdaptiveP(Box<Adaptive>),
}

impl Selector {
    /// The token. What it draws and learns counts after [`keep`](Self::keep) alone.
    pub(super) fn choose(&mut self, field: &mut Field<'_>) -> i32 {
        match self {
            Self::Greedy => field.place_of_highest().map_or(0, |place| token_at(field, place)),
            Self::Distribution(random) => {
                random.begin();
                distribution(field, random.double())
            }
            Self::Mirostat(mirostat) => mirostat.first(field),
            Self::MirostatV2(mirostat) => mirostat.second(field),
            Self::AdaptiveP(adaptive) => adaptive.choose(field),
        }
    }

    pub(super) fn keep(&mut self) {
        match self {
            Self::Greedy => {}
            Self::Distribution(random) => random.keep(),
            Self::Mirostat(mirostat) | Self::MirostatV2(mirostat) => mirostat.keep(),
            Self::AdaptiveP(adaptive) => adaptive.keep(),
        }
    }

    pub(super) fn reset(&mut self) {
        match self {
            Self::Greedy => {}
            Self::Distribution(random) => random.reset(),
            Self::Mirostat(mirostat) | Self::MirostatV2(mirostat) => mirostat.reset(),
            Self::AdaptiveP(adaptive) => adaptive.reset(),
        }
    }
}

fn token_at(field: &Field<'_>, place: usize) -> i32 {
    if field.row().is_some() { place as i32 } else { field.buffers.list[place].token }
}

/// Chooses with the probabilities of the softmax: where their running sum, in 64 bits, reaches `chance` of the whole.
fn distribution(field: &mut Field<'_>, chance: f64) -> i32 {
    if field.row().is_some() {
        field.weigh_row();
        let weights = &field.buffers.weights;
        return reached(weights.iter().copied(), chance).map_or(0, |place| place as i32);
    }
    let highest = field.highest();
    let list = &mut field.buffers.list;
    list.iter_mut().for_each(|one| one.p = (one.logit - highest).exp());
    reached(list.iter().map(|one| one.p), chance).map_or(0, |place| list[place].token)
}

fn reached(weights: impl Iterator<Item = f32> + Clone, chance: f64) -> Option<usize> {
    let mut sum = 0.0f64;
    weights.clone().for_each(|weight| sum += f64::from(weight));
    let target = sum * chance;
    let mut running = 0.0f64;
    let mut last = None;
    for (place, weight) in weights.enumerate() {
        // llama.cpp takes a token without weight where the chance is exactly 0 (llama-sampler.cpp:1201).
        if weight > 0.0 {
            last = Some(place);
            running += f64::from(weight);
            if running >= target {
                break;
            }
        }
    }
    last
}

/// A place of the list, by its probabilities, as `std::discrete_distribution` of libstdc++ draws it: with no random number
/// where there is one candidate.
fn discrete(list: &[Candidate], count: usize, random: &mut Random) -> usize {
    if count < 2 {
        return 0;
    }
    let mut sum = 0.0f64;
    list.iter().for_each(|one| sum += f64::from(one.p));
    let chance = random.double();
    let mut running = 0.0f64;
    let mut last = 0;
    for (place, one) in list.iter().enumerate() {
        if one.p > 0.0 {
            last = place;
            running += f64::from(one.p) / sum;
            if running >= chance {
                break;
            }
        }
    }
    last
}

/// Mirostat (Basu et al., "Mirostat: A Neural Text Decoding Algorithm that Directly Controls Perplexity", 2020): keeps the
/// surprise of the text, in bits a token, near `tau`.
#[derive(Clone, Debug)]
pub(super) struct Mirostat {
    tau: f32,
    eta: f32,
    considered: usize,
    mu: f32,
    next_mu: f32,
    random: Random,
}

impl Mirostat {
    pub(super) fn new(tau: f32, eta: f32, considered: usize, seed: u32) -> Self {
        Self { tau, eta, considered, mu: 2.0 * tau, next_mu: 2.0 * tau, random: Random::new(seed) }
    }

    fn reset(&mut self) {
        self.mu = 2.0 * self.tau;
        self.random.reset();
    }

    fn keep(&mut self) {
        self.mu = self.next_mu;
        self.random.keep();
    }

    /// Draws from the sorted list and learns from the surprise.
    fn draw(&mut self, field: &mut Field<'_>) -> i32 {
        field.softmax();
        self.random.begin();
        let chosen = field.buffers.list[discrete(&field.buffers.list, field.len(), &mut self.random)];
        let surprise = -chosen.p.log2();
        self.next_mu = self.mu - self.eta * (surprise - self.tau);
        chosen.token
    }

    /// Version 1: estimates how fast probabilities fall, and from that how many tokens to keep.
    fn first(&mut self, field: &mut Field<'_>) -> i32 {
        field.sort();
        field.softmax();
        let (mut products, mut squares) = (0.0f32, 0.0f32);
        for (place, pair) in field.buffers.list.windows(2).enumerate().take(self.considered - 1) {
            // llama.cpp divides by zero here, and then always takes the likeliest (llama-sampler.cpp:2471).
            if pair[1].p <= 0.0 {
                break;
            }
            let place = place as f32;
            let fall = ((place + 2.0) / (place + 1.0)).ln();
            products += fall * (pair[0].p / pair[1].p).ln();
            squares += fall * fall;
        }
        let exponent = products / squares;
        let epsilon = exponent - 1.0;
        let vocabulary = field.vocabulary() as f32;
        let count = ((epsilon * 2.0f32.powf(self.mu)) / (1.0 - vocabulary.powf(-epsilon))).powf(1.0 / exponent);
        // Numbers beyond `int` keep all, not one as they happen to do in C++ (llama-sampler.cpp:2483).
        field.truncate((count as i32).max(1) as usize);
        self.draw(field)
    }

    /// Version 2: keeps the tokens whose surprise is at most `mu`.
    fn second(&mut self, field: &mut Field<'_>) -> i32 {
        field.sort();
        field.softmax();
        let mu = self.mu;
        let list = &field.buffers.list;
        let end = list.iter().position(|one| -one.p.log2() > mu).unwrap_or(list.len());
        field.truncate(end.max(1));
        self.draw(field)
    }
}

/// Adaptive p (llama.cpp, 2025): prefers tokens whose probability is near a target, which moves so that the mean of those
/// chosen comes to it.
#[derive(Clone, Debug)]
pub(super) struct Adaptive {
    target: f32,
    decay: f32,
    weighted: f32,
    total: f32,
    chosen: f32,
    random: Random,
}

impl Adaptive {
    pub(super) fn new(target: f32, decay: f32, seed: u32) -> Self {
        let mut adaptive = Self { target, decay, weighted: 0.0, total: 0.0, chosen: 0.0, random: Random::new(seed) };
        adaptive.reset();
        adaptive
    }

    fn reset(&mut self) {
        self.weighted = self.target / (1.0 - self.decay);
        self.total = 1.0 / (1.0 - self.decay);
        self.random.reset();
    }

    fn keep(&mut self) {
        self.weighted = self.chosen + self.decay * self.weighted;
        self.total = 1.0 + self.decay * self.total;
        self.random.keep();
    }

    fn choose(&mut self, field: &mut Field<'_>) -> i32 {
        const WIDTH: f32 = 0.3;
        const PEAK: f32 = 5.0;
        const SHARPNESS: f32 = 10.0;
        field.list();
        field.softmax();
        let count = field.len();
        let target = (2.0 * self.target - self.weighted / self.total).clamp(0.0, 1.0);
        let list = &mut field.buffers.list;
        field.buffers.scores.clear();
        field.buffers.scores.extend(list.iter().map(|one| (one.p, 0)));
        for one in &mut *list {
            let distance = ((one.p - target) * (1.0 / WIDTH)).abs();
            one.logit = PEAK - SHARPNESS * distance * distance / (1.0 + distance);
        }
        // llama.cpp compares with the first logit where the list was sorted before; these are near enough for any.
        let first = list[0].logit;
        let highest = if field.sorted { first } else { list.iter().map(|one| one.logit).fold(first, f32::max) };
        field::softmax(list, highest);
        self.random.begin();
        let place = discrete(list, count, &mut self.random);
        self.chosen = field.buffers.scores[place].0;
        list[place].token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_chance_stay_within_what_is_possible() {
        let weights = [0.0f32, 1.0, 1.0, 0.0];
        assert_eq!(reached(weights.iter().copied(), 0.0), Some(1));
        assert_eq!(reached(weights.iter().copied(), 1.0), Some(2));
        assert_eq!(reached([0.0f32; 3].into_iter(), 0.5), None);
    }
}
