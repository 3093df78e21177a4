//! Samplers ready made: plain ones, and what a model's own file recommends.

use crate::error::SamplerParamError;
use crate::id::Token;
use crate::model::Model;

use super::params::{Mirostat, MirostatV2, Penalties, Xtc};
use super::step::Step;
use super::truncate::Share;
use super::{Sampler, SamplerChain};

impl Sampler {
    /// Always the likeliest token; the lowest id of several.
    #[must_use]
    pub fn greedy() -> Self {
        Self::chain().greedy()
    }

    /// Varied text that stays sensible: the 100 likeliest tokens, those at least 0.05 times as likely as the likeliest, at a
    /// temperature of 1.1.
    #[must_use]
    pub fn creative(seed: u32) -> Self {
        preset(100, 0.05, 1.1).dist(seed)
    }

    /// Sober text that a seed repeats: the 40 likeliest tokens, those at least 0.1 times as likely as the likeliest, at a
    /// temperature of 0.2. For the likeliest token each time, take [`greedy`](Self::greedy).
    #[must_use]
    pub fn deterministic(seed: u32) -> Self {
        preset(40, 0.1, 0.2).dist(seed)
    }

    /// What the model's own metadata recommends (`general.sampling.*`), and what llama.cpp's programs take where it is
    /// silent: penalties of the last 64 tokens if there are any, the 40 likeliest tokens, 0.95 of the probability, 0.05 times
    /// the likeliest, a temperature of 0.8. Tokens that the file suppresses are forbidden.
    ///
    /// The order is the metadata's (`general.sampling.sequence`). Steps in it that llama.cpp leaves without effect until they
    /// get numbers, which no metadata gives (`dry`, `top_n_sigma`, `typ_p`), have none here either; `adaptive_p` likewise
    /// chooses by the plain probabilities.
    ///
    /// # Errors
    ///
    /// [`SamplerParamError::Metadata`]: a value is no number, or names a sampler that is not known;
    /// [`SamplerParamError::OutOfRange`], [`SamplerParamError::CountOutOfRange`]: a number is not what the sampler takes;
    /// those of [`SamplerChain::infill`], if the sequence has it.
    pub fn recommended(model: &Model, seed: u32) -> Result<Self, SamplerParamError> {
        let forbidden = model.vocab().suppressed().into_iter().map(|token: Token| (token, f32::NEG_INFINITY));
        let chain = Self::chain().logit_bias(forbidden)?;
        follow(chain, seed, &Advice(|key: &str| model.metadata_value(key)), |chain| chain.infill(model))
    }
}

/// Numbers that are known to be in range.
fn preset(k: usize, min_p: f32, temperature: f32) -> SamplerChain {
    let steps = vec![Step::TopK(k), Step::MinP(Share { p: min_p, keep: 1 }), Step::Temperature(temperature)];
    let mut chain = Sampler::chain();
    chain.steps = steps;
    chain
}

/// The chain that the metadata ask for; `infill` adds that step.
fn follow(
    mut chain: SamplerChain,
    seed: u32,
    advice: &Advice<impl Fn(&str) -> Option<String>>,
    infill: impl Fn(SamplerChain) -> Result<SamplerChain, SamplerParamError>,
) -> Result<Sampler, SamplerParamError> {
    // A temperature below 0 means 0 to llama.cpp, and a count below 0 means none.
    let temperature = advice.number("general.sampling.temp", 0.8f32)?;
    let temperature = if temperature < 0.0 { 0.0 } else { temperature };
    let tau = advice.number("general.sampling.mirostat_tau", 5.0)?;
    let eta = advice.number("general.sampling.mirostat_eta", 0.1)?;
    match advice.number(MIROSTAT, 0i32)? {
        0 => {}
        1 => return chain.temperature(temperature)?.mirostat(Mirostat { tau, eta, seed, ..Mirostat::default() }),
        2 => return chain.temperature(temperature)?.mirostat_v2(MirostatV2 { tau, eta, seed }),
        got => return Err(wrong(MIROSTAT, got.to_string(), "it must be 0, 1 or 2".to_owned())),
    }
    for kind in advice.sequence()? {
        chain = match kind {
            Kind::Penalties => chain.penalties(Penalties {
                window: positive(advice.number("general.sampling.penalty_last_n", 64)?),
                repeat: advice.number("general.sampling.penalty_repeat", 1.0)?,
                ..Penalties::default()
            })?,
            Kind::TopK => match positive(advice.number("general.sampling.top_k", 40)?) {
                0 => chain,
                k => chain.top_k(k)?,
            },
            Kind::TopP => chain.top_p(advice.number("general.sampling.top_p", 0.95)?)?,
            Kind::MinP => chain.min_p(advice.number("general.sampling.min_p", 0.05)?)?,
            Kind::Xtc => chain.xtc(Xtc {
                probability: advice.number("general.sampling.xtc_probability", 0.0)?,
                threshold: advice.number("general.sampling.xtc_threshold", 0.1)?,
                min_keep: 1,
                seed,
            })?,
            Kind::Temperature => chain.temperature(temperature)?,
            Kind::Infill => infill(chain)?,
            Kind::Off => chain,
        }
    }
    Ok(chain.dist(seed))
}

fn positive(count: i32) -> u32 {
    u32::try_from(count).unwrap_or(0)
}

/// A sampler by its name in a sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Penalties,
    TopK,
    TopP,
    MinP,
    Xtc,
    Temperature,
    Infill,
    /// One that is off unless it gets a number.
    Off,
}

impl Kind {
    /// Names as llama.cpp's programs read them (common/sampling.cpp:959).
    fn named(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().replace(['_', '-'], "").as_str() {
            "penalties" => Some(Self::Penalties),
            "topk" => Some(Self::TopK),
            "topp" | "nucleus" => Some(Self::TopP),
            "minp" => Some(Self::MinP),
            "xtc" => Some(Self::Xtc),
            "temperature" | "temp" => Some(Self::Temperature),
            "infill" => Some(Self::Infill),
            "dry" | "topnsigma" | "typp" | "typ" | "adaptivep" => Some(Self::Off),
            _ => None,
        }
    }
}

const SEQUENCE: &str = "general.sampling.sequence";
const MIROSTAT: &str = "general.sampling.mirostat";

/// Looks up metadata, as text.
struct Advice<F>(F);

impl<F: Fn(&str) -> Option<String>> Advice<F> {
    fn number<T: std::str::FromStr<Err: ToString>>(
        &self,
        key: &'static str,
        otherwise: T,
    ) -> Result<T, SamplerParamError> {
        match (self.0)(key) {
            None => Ok(otherwise),
            Some(text) => text.trim().parse().map_err(|error: T::Err| wrong(key, text.clone(), error.to_string())),
        }
    }

    fn sequence(&self) -> Result<Vec<Kind>, SamplerParamError> {
        let Some(text) = (self.0)(SEQUENCE).filter(|text| !text.is_empty()) else {
            return Ok(vec![Kind::Penalties, Kind::TopK, Kind::TopP, Kind::MinP, Kind::Xtc, Kind::Temperature]);
        };
        let kind = |name: &str| {
            Kind::named(name).ok_or_else(|| wrong(SEQUENCE, text.clone(), format!("there is no sampler {name:?}")))
        };
        text.split(';').map(|name| kind(name.trim())).collect()
    }
}

fn wrong(key: &'static str, value: String, reason: String) -> SamplerParamError {
    SamplerParamError::Metadata { key, value, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(metadata: &[(&str, &str)]) -> Result<Sampler, SamplerParamError> {
        let value = |key: &str| {
            let found = metadata.iter().find(|(name, _)| key == format!("general.sampling.{name}"));
            found.map(|(_, value)| (*value).to_owned())
        };
        follow(Sampler::chain(), 7, &Advice(value), Ok)
    }

    fn steps(metadata: &[(&str, &str)]) -> String {
        format!("{:?}", sampler(metadata).unwrap())
    }

    #[test]
    fn silence_means_the_usual_numbers() {
        let usual = Sampler::chain().top_k(40).and_then(|c| c.top_p(0.95)?.min_p(0.05)?.temperature(0.8)).unwrap();
        assert_eq!(steps(&[]), format!("{:?}", usual.dist(7)));
    }

    #[test]
    fn the_sequence_is_followed() {
        let asked = [("sequence", "temp;Top-K;nucleus;dry"), ("top_k", "5"), ("temp", "0.500000"), ("top_p", "0.9")];
        let chain = Sampler::chain().temperature(0.5).and_then(|c| c.top_k(5)?.top_p(0.9)).unwrap();
        assert_eq!(steps(&asked), format!("{:?}", chain.dist(7)));
        let off = [("top_k", "0"), ("top_p", "1.0"), ("min_p", "0"), ("temp", "-1")];
        assert_eq!(steps(&off), format!("{:?}", Sampler::chain().temperature(0.0).unwrap().dist(7)));
        let mirostat = Sampler::chain().temperature(0.8).unwrap();
        let mirostat = mirostat.mirostat_v2(MirostatV2 { tau: 3.0, eta: 0.1, seed: 7 }).unwrap();
        assert_eq!(steps(&[("mirostat", "2"), ("mirostat_tau", "3.0")]), format!("{mirostat:?}"));
    }

    #[test]
    fn what_cannot_be_done_is_named() {
        for (name, value, key) in [
            ("top_k", "many", "general.sampling.top_k"),
            ("top_k", "99999999999", "general.sampling.top_k"),
            ("mirostat", "3", MIROSTAT),
            ("sequence", "top_k;magic", SEQUENCE),
        ] {
            match sampler(&[(name, value)]).unwrap_err() {
                SamplerParamError::Metadata { key: told, value: got, .. } => assert_eq!((told, &*got), (key, value)),
                other => panic!("{other:?}"),
            }
        }
        let error = sampler(&[("top_p", "1.5")]).unwrap_err();
        assert_eq!(error, SamplerParamError::OutOfRange { parameter: "top_p", got: 1.5, allowed: "from 0 to 1" });
        let error = sampler(&[("penalty_repeat", "1.1"), ("penalty_last_n", "2147483647")]).unwrap_err();
        assert!(matches!(error, SamplerParamError::CountOutOfRange { got: 2_147_483_647, max: 1_048_576, .. }));
        assert!(matches!(sampler(&[("temp", "nan")]), Err(SamplerParamError::OutOfRange { .. })));
    }
}
