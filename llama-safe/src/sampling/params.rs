//! The numbers of the samplers that take several.

/// Penalties for tokens that are among the last ones. [`Default`] has none.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Penalties {
    /// How many of the last tokens count, at most [`SamplerChain::MAX_WINDOW`](crate::SamplerChain::MAX_WINDOW). 0 penalises
    /// none.
    pub window: u32,
    /// Positive logits of such tokens are divided by it, negative ones multiplied. Above 0; 1 changes nothing.
    pub repeat: f32,
    /// Taken from the logit once for each time the token came. 0 changes nothing.
    pub frequency: f32,
    /// Taken from the logit once. 0 changes nothing.
    pub presence: f32,
}

impl Default for Penalties {
    fn default() -> Self {
        Self { window: 64, repeat: 1.0, frequency: 0.0, presence: 0.0 }
    }
}

/// DRY: penalties for tokens that continue a repetition. [`Default`] are the usual numbers.
///
/// A token that would make a repetition of `n` tokens longer loses `multiplier * base ^ (n - allowed_length)` of its logit,
/// from `allowed_length` on.
#[derive(Clone, PartialEq, Debug)]
pub struct Dry {
    /// How strong it is; at least 0, which penalises none.
    pub multiplier: f32,
    /// How fast the penalty grows; at least 1.
    pub base: f32,
    /// The longest repetition that may be continued without a penalty, in tokens.
    pub allowed_length: u32,
    /// How many of the last tokens are searched, at most [`SamplerChain::MAX_WINDOW`](crate::SamplerChain::MAX_WINDOW). 0
    /// penalises none.
    pub window: u32,
    /// Texts that no repetition goes across, of 1 to 40 bytes.
    pub sequence_breakers: Vec<String>,
}

impl Default for Dry {
    fn default() -> Self {
        let sequence_breakers = ["\n", ":", "\"", "*"].map(str::to_owned).to_vec();
        Self { multiplier: 0.8, base: 1.75, allowed_length: 2, window: 1024, sequence_breakers }
    }
}

/// Exclude top choices (XTC): now and then, the likeliest tokens are taken away but for the least likely of those above a
/// threshold. [`Default`] are the usual numbers.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Xtc {
    /// How often, from 0 (never) to 1 (each time).
    pub probability: f32,
    /// The probability that makes a token a top choice, from 0 to 1. Above 0.5 there are never two of them, and nothing is
    /// taken away.
    pub threshold: f32,
    /// Nothing is taken away where fewer would be left.
    pub min_keep: u32,
    /// Of its own random numbers.
    pub seed: u32,
}

impl Default for Xtc {
    fn default() -> Self {
        Self { probability: 0.5, threshold: 0.1, min_keep: 1, seed: 0 }
    }
}

/// Mirostat 1: keeps the surprise of the text near a target. [`Default`] are the paper's numbers.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Mirostat {
    /// The target, in bits a token, from 0 to 100.
    pub tau: f32,
    /// How fast it corrects itself, from 0 to 1.
    pub eta: f32,
    /// From how many of the likeliest tokens it estimates how fast probabilities fall, at least 2.
    pub considered: u32,
    /// Of its random numbers.
    pub seed: u32,
}

impl Default for Mirostat {
    fn default() -> Self {
        Self { tau: 5.0, eta: 0.1, considered: 100, seed: 0 }
    }
}

/// Mirostat 2: as [`Mirostat`], by cutting off what is too surprising. [`Default`] are the usual numbers.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct MirostatV2 {
    /// The target, in bits a token, from 0 to 100.
    pub tau: f32,
    /// How fast it corrects itself, from 0 to 1.
    pub eta: f32,
    /// Of its random numbers.
    pub seed: u32,
}

impl Default for MirostatV2 {
    fn default() -> Self {
        Self { tau: 5.0, eta: 0.1, seed: 0 }
    }
}

/// Adaptive p: prefers tokens whose probability is near a target. [`Default`] are the usual numbers; little truncation
/// before it is best, such as [`min_p`](crate::SamplerChain::min_p).
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct AdaptiveP {
    /// The probability that chosen tokens have in the mean, from 0 to 1.
    pub target: f32,
    /// How much older tokens count in that mean, from 0 to 0.99: it is over some 1 / (1 - decay) tokens.
    pub decay: f32,
    /// Of its random numbers.
    pub seed: u32,
}

impl Default for AdaptiveP {
    fn default() -> Self {
        Self { target: 0.5, decay: 0.9, seed: 0 }
    }
}
