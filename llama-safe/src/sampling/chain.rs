//! Building a chain: steps in the order of the calls, and at the end what chooses.

use std::sync::Arc;

use crate::error::SamplerParamError;
#[cfg(feature = "grammar")]
use crate::grammar::Grammar;
use crate::id::Token;
use crate::model::Model;

use super::bias::Bias;
use super::candidates::Candidates;
use super::custom::{Custom, CustomSampler};
use super::dry::{Breakers, DontRepeat};
use super::field::Buffers;
use super::infill::Pieces;
use super::params::{AdaptiveP, Dry, Mirostat, MirostatV2, Penalties, Xtc};
use super::penalties::{History, Penalise, finite};
use super::random::Random;
use super::select::{self, Selector};
use super::step::Step;
use super::temperature::Dynamic;
use super::truncate::{ExcludeTop, Share};
use super::{Line, Sampler};

/// A chain of samplers that has no end yet.
///
/// Steps work in the order of the calls. What chooses the token comes last and makes the [`Sampler`]:
/// [`greedy`](Self::greedy), [`dist`](Self::dist), [`mirostat`](Self::mirostat), [`mirostat_v2`](Self::mirostat_v2),
/// [`adaptive_p`](Self::adaptive_p). A chain that chooses twice, or never, does not compile:
///
/// ```compile_fail
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut sampler = llama_safe::Sampler::chain().top_k(40)?;
/// sampler.sample(&[0.0, 1.0])?;
/// # Ok(())
/// # }
/// ```
///
/// ```compile_fail
/// let sampler = llama_safe::Sampler::chain().dist(1).greedy();
/// ```
///
/// ```compile_fail
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let sampler = llama_safe::Sampler::chain().greedy().top_k(40)?;
/// # Ok(())
/// # }
/// ```
///
/// Parameters are checked when they are given:
///
/// ```
/// use llama_safe::{Sampler, SamplerParamError};
///
/// let error = Sampler::chain().top_p(1.5).unwrap_err();
/// assert_eq!(error, SamplerParamError::OutOfRange { parameter: "top_p", got: 1.5, allowed: "from 0 to 1" });
/// assert_eq!(error.to_string(), "top_p is 1.5, it must be from 0 to 1");
/// ```
#[must_use = "a chain becomes a sampler by what chooses: greedy, dist, mirostat, mirostat_v2, adaptive_p"]
#[derive(Clone, Debug, Default)]
pub struct SamplerChain {
    pub(super) steps: Vec<Step>,
    #[cfg(feature = "grammar")]
    pub(super) grammar: Option<Box<Grammar>>,
}

impl Sampler {
    /// The beginning of a chain.
    pub fn chain() -> SamplerChain {
        SamplerChain::default()
    }
}

impl SamplerChain {
    /// The most tokens of a history, of penalties and of DRY.
    pub const MAX_WINDOW: u32 = 1 << 20;

    /// The highest temperature.
    pub const MAX_TEMPERATURE: f32 = 1000.0;

    fn with(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    fn with_if(self, active: bool, step: impl FnOnce() -> Step) -> Self {
        if active { self.with(step()) } else { self }
    }

    /// Keeps the `k` likeliest tokens; of equals those with the lowest ids.
    ///
    /// # Errors
    ///
    /// [`SamplerParamError::CountOutOfRange`]: `k` is 0, or more than token ids there can be.
    pub fn top_k(self, k: u32) -> Result<Self, SamplerParamError> {
        count("top_k", k, 1, i32::MAX as u32)?;
        Ok(self.with(Step::TopK(k as usize)))
    }

    /// Keeps the likeliest tokens whose probabilities add up to `p`, from 0 (the likeliest alone) to 1 (all).
    ///
    /// # Errors
    ///
    /// [`SamplerParamError::OutOfRange`].
    pub fn top_p(self, p: f32) -> Result<Self, SamplerParamError> {
        self.top_p_keep(p, 1)
    }

    /// [`top_p`](Self::top_p) that keeps at least `min_keep` tokens.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn top_p_keep(self, p: f32, min_keep: u32) -> Result<Self, SamplerParamError> {
        let share = share("top_p", p, min_keep)?;
        Ok(self.with_if(p < 1.0, || Step::TopP(share)))
    }

    /// Keeps tokens that are at least `p` times as likely as the likeliest, from 0 (all) to 1 (the likeliest alone).
    ///
    /// # Errors
    ///
    /// [`SamplerParamError::OutOfRange`].
    pub fn min_p(self, p: f32) -> Result<Self, SamplerParamError> {
        self.min_p_keep(p, 1)
    }

    /// [`min_p`](Self::min_p) that keeps at least `min_keep` tokens.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn min_p_keep(self, p: f32, min_keep: u32) -> Result<Self, SamplerParamError> {
        let share = share("min_p", p, min_keep)?;
        Ok(self.with_if(p > 0.0, || Step::MinP(share)))
    }

    /// Keeps the tokens whose surprise is nearest to the one to be expected, until their probabilities add up to `p`, from 0
    /// (one alone) to 1 (all).
    ///
    /// # Errors
    ///
    /// [`SamplerParamError::OutOfRange`].
    pub fn typical(self, p: f32) -> Result<Self, SamplerParamError> {
        self.typical_keep(p, 1)
    }

    /// [`typical`](Self::typical) that keeps at least `min_keep` tokens.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn typical_keep(self, p: f32, min_keep: u32) -> Result<Self, SamplerParamError> {
        let share = share("typical", p, min_keep)?;
        Ok(self.with_if(p < 1.0, || Step::Typical(share)))
    }

    /// Keeps tokens whose logit is at most `n` standard deviations below the highest. `n` is above 0.
    ///
    /// # Errors
    ///
    /// [`SamplerParamError::OutOfRange`].
    pub fn top_n_sigma(self, n: f32) -> Result<Self, SamplerParamError> {
        within("top_n_sigma", n, n > 0.0 && n < f32::INFINITY, "above 0 and finite")?;
        Ok(self.with(Step::TopNSigma(n)))
    }

    /// Excludes top choices now and then.
    ///
    /// # Errors
    ///
    /// [`SamplerParamError::OutOfRange`]: the probability or the threshold is not from 0 to 1.
    pub fn xtc(self, xtc: Xtc) -> Result<Self, SamplerParamError> {
        let Xtc { probability, threshold, min_keep, seed } = xtc;
        from_0_to_1("xtc.probability", probability)?;
        from_0_to_1("xtc.threshold", threshold)?;
        let keep = min_keep as usize;
        Ok(self.with_if(probability > 0.0 && threshold <= 0.5, || {
            Step::ExcludeTop(Box::new(ExcludeTop { probability, threshold, keep, random: Random::new(seed) }))
        }))
    }

    /// Divides logits by a temperature of 0 to [`MAX_TEMPERATURE`](Self::MAX_TEMPERATURE): below 1 likely tokens become
    /// likelier, above 1 less likely. At 0 the likeliest token alone stays.
    ///
    /// # Errors
    ///
    /// [`SamplerParamError::OutOfRange`].
    pub fn temperature(self, temperature: f32) -> Result<Self, SamplerParamError> {
        from_0_to_max("temperature", temperature)?;
        Ok(self.with_if(temperature != 1.0, || Step::Temperature(temperature)))
    }

    /// A temperature between `temperature - range` (but at least 0) where the model is sure of the next token, and
    /// `temperature + range` where it is not. The higher the `exponent`, the longer it stays low; 1 is a straight line.
    ///
    /// # Errors
    ///
    /// [`SamplerParamError::OutOfRange`]: the temperature or range is not from 0 to
    /// [`MAX_TEMPERATURE`](Self::MAX_TEMPERATURE), or the exponent negative or not finite.
    pub fn dynamic_temperature(self, temperature: f32, range: f32, exponent: f32) -> Result<Self, SamplerParamError> {
        from_0_to_max("temperature", temperature)?;
        from_0_to_max("temperature range", range)?;
        within("temperature exponent", exponent, (0.0..f32::INFINITY).contains(&exponent), AT_LEAST_0)?;
        let active = temperature != 1.0 || range > 0.0;
        Ok(self.with_if(active, || Step::Dynamic(Dynamic { temperature, range, exponent })))
    }

    /// Penalises tokens that came lately.
    ///
    /// # Errors
    ///
    /// [`SamplerParamError`]: the window is above [`MAX_WINDOW`](Self::MAX_WINDOW), `repeat` is not above 0, or a number is
    /// not finite.
    pub fn penalties(self, penalties: Penalties) -> Result<Self, SamplerParamError> {
        let Penalties { window, repeat, frequency, presence } = penalties;
        count("penalties.window", window, 0, Self::MAX_WINDOW)?;
        within("penalties.repeat", repeat, repeat > 0.0 && repeat < f32::INFINITY, "above 0 and finite")?;
        within("penalties.frequency", frequency, frequency.is_finite(), "finite")?;
        within("penalties.presence", presence, presence.is_finite(), "finite")?;
        let active = window > 0 && (repeat, frequency, presence) != (1.0, 0.0, 0.0);
        let history = || History::new(window as usize);
        Ok(self
            .with_if(active, || Step::Penalise(Box::new(Penalise { history: history(), repeat, frequency, presence }))))
    }

    /// Penalises tokens that continue a repetition. The texts of the model's vocabulary are searched for the sequence
    /// breakers once, here.
    ///
    /// # Errors
    ///
    /// [`SamplerParamError`]: a number is out of its range, a breaker is empty or longer than 40 bytes, or the model has no
    /// vocabulary.
    pub fn dry(self, model: &Model, dry: Dry) -> Result<Self, SamplerParamError> {
        let Dry { multiplier, base, allowed_length, window, sequence_breakers } = dry;
        within("dry.multiplier", multiplier, (0.0..f32::INFINITY).contains(&multiplier), AT_LEAST_0)?;
        within("dry.base", base, (1.0..f32::INFINITY).contains(&base), "at least 1 and finite")?;
        count("dry.allowed_length", allowed_length, 0, Self::MAX_WINDOW)?;
        count("dry.window", window, 0, Self::MAX_WINDOW)?;
        let breakers = Breakers::of(&model.vocab(), &sequence_breakers)?;
        let (allowed, window) = (allowed_length as usize, window as usize);
        Ok(self.with_if(multiplier > 0.0 && window > 0, || {
            Step::DontRepeat(Box::new(DontRepeat::new(multiplier, base, allowed, window, breakers)))
        }))
    }

    /// Adds a number to the logits of some tokens. Minus infinity forbids a token; several numbers for one are added up.
    ///
    /// # Errors
    ///
    /// [`SamplerParamError`]: a bias is NaN or plus infinity, or a token negative. That a token is not in the vocabulary is
    /// an error of [`Sampler::sample`].
    pub fn logit_bias(self, biases: impl IntoIterator<Item = (Token, f32)>) -> Result<Self, SamplerParamError> {
        let mut bias = Bias::default();
        for (token, by) in biases {
            if token.0 < 0 {
                return Err(SamplerParamError::NegativeToken { token: token.0 });
            }
            within("logit_bias", by, by < f32::INFINITY, "finite or minus infinity")?;
            let sum = bias.of.entry(token.0).or_default();
            let forbids = by == f32::NEG_INFINITY || *sum == f32::NEG_INFINITY;
            *sum = if forbids { f32::NEG_INFINITY } else { finite(*sum + by) };
            bias.highest = bias.highest.max(token.0);
        }
        Ok(self.with_if(!bias.of.is_empty(), || Step::Bias(Arc::new(bias))))
    }

    /// For filling in between two texts, after [`top_k`](Self::top_k) and [`top_p`](Self::top_p): ends the text as soon as
    /// that is not unlikely, lets one of several tokens that begin with the same text stand for all, and removes what is
    /// unlikely then. Where nothing is left, the text ends.
    ///
    /// # Errors
    ///
    /// [`SamplerParamError`]: the model has no vocabulary, or no token that ends a text.
    pub fn infill(self, model: &Model) -> Result<Self, SamplerParamError> {
        let pieces = Pieces::of(&model.vocab())?;
        Ok(self.with(Step::Infill(pieces)))
    }

    /// A sampler of one's own; see [`CustomSampler`].
    pub fn custom(self, sampler: impl CustomSampler + Clone + 'static) -> Self {
        self.with(Step::Custom(Box::new(Custom::new(sampler))))
    }

    /// A closure as a sampler of one's own; the rules are those of [`CustomSampler`].
    ///
    /// ```
    /// use llama_safe::{Sampler, Token};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let odd_alone = |candidates: &mut llama_safe::Candidates<'_>| candidates.retain(|one| one.token().0 % 2 == 1);
    /// let mut sampler = Sampler::chain().custom_fn(odd_alone).greedy();
    /// assert_eq!(sampler.sample(&[9.0, 1.0, 9.0, 2.0])?, Token(3));
    /// # Ok(())
    /// # }
    /// ```
    pub fn custom_fn(self, apply: impl Fn(&mut Candidates<'_>) + Send + Sync + 'static) -> Self {
        self.with(Step::Custom(Box::new(Custom::closure(apply))))
    }

    fn choosing(self, selector: Selector) -> Sampler {
        Sampler {
            line: Line { steps: self.steps, selector, buffers: Buffers::default() },
            #[cfg(feature = "grammar")]
            grammar: self.grammar,
        }
    }

    /// Chooses the likeliest token: the lowest id of several.
    #[must_use]
    pub fn greedy(self) -> Sampler {
        self.choosing(Selector::Greedy)
    }

    /// Chooses by chance, with the probabilities of the softmax. The same seed draws what llama.cpp's `dist` draws with it
    /// (the Mersenne Twister, as libstdc++ makes numbers of it). No seed is special: `u32::MAX` does not mean a random one.
    #[must_use]
    pub fn dist(self, seed: u32) -> Sampler {
        self.choosing(Selector::Distribution(Box::new(Random::new(seed))))
    }

    /// Chooses by chance such that the text's surprise stays near a target, by version 1 of the algorithm.
    ///
    /// # Errors
    ///
    /// [`SamplerParamError`]: a number is out of its range.
    pub fn mirostat(self, mirostat: Mirostat) -> Result<Sampler, SamplerParamError> {
        let Mirostat { tau, eta, considered, seed } = mirostat;
        check_mirostat(tau, eta)?;
        count("mirostat.considered", considered, 2, i32::MAX as u32)?;
        let mirostat = select::Mirostat::new(tau, eta, considered as usize, seed);
        Ok(self.choosing(Selector::Mirostat(Box::new(mirostat))))
    }

    /// Chooses by chance such that the text's surprise stays near a target, by version 2 of the algorithm.
    ///
    /// # Errors
    ///
    /// [`SamplerParamError`]: a number is out of its range.
    pub fn mirostat_v2(self, mirostat: MirostatV2) -> Result<Sampler, SamplerParamError> {
        let MirostatV2 { tau, eta, seed } = mirostat;
        check_mirostat(tau, eta)?;
        Ok(self.choosing(Selector::MirostatV2(Box::new(select::Mirostat::new(tau, eta, 2, seed)))))
    }

    /// Chooses by chance, and prefers tokens whose probability is near a target.
    ///
    /// # Errors
    ///
    /// [`SamplerParamError`]: a number is out of its range.
    pub fn adaptive_p(self, adaptive: AdaptiveP) -> Result<Sampler, SamplerParamError> {
        let AdaptiveP { target, decay, seed } = adaptive;
        from_0_to_1("adaptive_p.target", target)?;
        within("adaptive_p.decay", decay, (0.0..=0.99).contains(&decay), "from 0 to 0.99")?;
        Ok(self.choosing(Selector::AdaptiveP(Box::new(select::Adaptive::new(target, decay, seed)))))
    }
}

const AT_LEAST_0: &str = "at least 0 and finite";

fn within(parameter: &'static str, got: f32, fits: bool, allowed: &'static str) -> Result<(), SamplerParamError> {
    if fits { Ok(()) } else { Err(SamplerParamError::OutOfRange { parameter, got, allowed }) }
}

fn from_0_to_1(parameter: &'static str, got: f32) -> Result<(), SamplerParamError> {
    within(parameter, got, (0.0..=1.0).contains(&got), "from 0 to 1")
}

fn from_0_to_max(parameter: &'static str, got: f32) -> Result<(), SamplerParamError> {
    within(parameter, got, (0.0..=SamplerChain::MAX_TEMPERATURE).contains(&got), "from 0 to 1000")
}

fn count(parameter: &'static str, got: u32, min: u32, max: u32) -> Result<(), SamplerParamError> {
    if (min..=max).contains(&got) {
        Ok(())
    } else {
        Err(SamplerParamError::CountOutOfRange { parameter, got, min, max })
    }
}

fn share(parameter: &'static str, p: f32, min_keep: u32) -> Result<Share, SamplerParamError> {
    from_0_to_1(parameter, p)?;
    Ok(Share { p, keep: min_keep as usize })
}

fn check_mirostat(tau: f32, eta: f32) -> Result<(), SamplerParamError> {
    within("mirostat.tau", tau, (0.0..=100.0).contains(&tau), "from 0 to 100")?;
    from_0_to_1("mirostat.eta", eta)
}
