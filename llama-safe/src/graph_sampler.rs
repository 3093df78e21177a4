//! What samplers inside the computation may be: plain data, with the rules that llama.cpp asserts or does not look at.
#![forbid(unsafe_code)]

use crate::error::GraphSamplerError;
use crate::id::Token;

/// The most candidates: llama.cpp tries every sampler with a row of that many (`llama_sampler_backend_probe_graph`,
/// llama-sampler.cpp:647 and :767), of which more cannot be taken (an assertion, ggml.c:5472).
const MOST_CANDIDATES: u32 = 128 * 1024;
/// The most steps. The graph that they are tried in has 2,048 nodes and is not asked whether it is full; top-p, the longest,
/// takes about 25.
const MOST_STEPS: usize = 16;
/// llama.cpp keeps what is strictly above `highest + ln p` (llama-sampler.cpp:1853): nothing, where rounding takes the small
/// logarithm away. With this most, that takes a logit beyond a million.
const MOST_MIN_P: f32 = 0.9;
/// The reciprocal is a factor of the logits, and must not make them infinite.
const TEMPERATURES: (f32, f32) = (0.001, 1000.0);
/// llama.cpp's `LLAMA_DEFAULT_SEED`.
const RANDOM_SEED: u32 = u32::MAX;
/// Candidates of which the most likely one is chosen: llama.cpp's own greedy takes the last of several that are equally
/// likely (`ggml_vec_argmax_f32`), and after a truncation the index among the candidates, not the token (llama-sampler.cpp:1076).
const GREEDY_CANDIDATES: u32 = 8;

/// A step of a chain, in the order of the computation.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Step {
    TopK(u32),
    TopP(f32),
    MinP(f32),
    Temperature(f32),
}

/// What comes of the candidates that are left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Selector {
    /// The most likely one.
    Greedy,
    /// A random one.
    Dist(u32),
    /// They are handed out.
    Candidates,
}

/// The steps of a [`GraphSampler`] before its selector: each takes candidates away or changes their logits.
///
/// They are computed in the order in which they are added, logit biases first.
#[derive(Clone, PartialEq, Debug, Default)]
#[must_use = "a chain samples once it has its selector: greedy(), dist() or candidates()"]
pub struct GraphChain {
    biases: Vec<(Token, f32)>,
    steps: Vec<Step>,
}

impl GraphChain {
    /// Adds a number to the logit of some tokens before anything else; minus infinity forbids them.
    ///
    /// # Errors
    ///
    /// [`GraphSamplerError`]: NaN or infinity, or a token that has a bias already.
    pub fn logit_bias(mut self, biases: &[(Token, f32)]) -> Result<Self, GraphSamplerError> {
        for &(token, got) in biases {
            if got.is_nan() || got == f32::INFINITY {
                return Err(GraphSamplerError::Bias { token, got });
            }
            if self.biases.iter().any(|(other, _)| *other == token) {
                return Err(GraphSamplerError::BiasTwice { token });
            }
            self.biases.push((token, got));
        }
        Ok(self)
    }

    /// Keeps the `k` tokens of the highest logits.
    ///
    /// # Errors
    ///
    /// [`GraphSamplerError`]: 0, or more than 131,072, or a second one.
    pub fn top_k(self, k: u32) -> Result<Self, GraphSamplerError> {
        if k == 0 || k > MOST_CANDIDATES {
            return Err(GraphSamplerError::TopK { got: k, max: MOST_CANDIDATES });
        }
        self.step(Step::TopK(k))
    }

    /// Keeps the most likely tokens that make up a share `p` of the probability together. After a [`top_k`](Self::top_k), since
    /// the candidates are sorted for it.
    ///
    /// # Errors
    ///
    /// [`GraphSamplerError`]: not within 0 (exclusive) and 1, no top_k before, or a second one.
    pub fn top_p(self, p: f32) -> Result<Self, GraphSamplerError> {
        if !(p > 0.0 && p <= 1.0) {
            return Err(GraphSamplerError::TopP { got: p });
        }
        self.needs_top_k("top_p")?;
        self.step(Step::TopP(p))
    }

    /// Keeps the tokens that are more than `p` times as likely as the most likely one.
    ///
    /// # Errors
    ///
    /// [`GraphSamplerError::MinP`]: not within 0 (exclusive) and 0.9.
    pub fn min_p(self, p: f32) -> Result<Self, GraphSamplerError> {
        if !(p > 0.0 && p <= MOST_MIN_P) {
            return Err(GraphSamplerError::MinP { got: p, max: MOST_MIN_P });
        }
        self.step(Step::MinP(p))
    }

    /// Divides the logits by `temperature`.
    ///
    /// # Errors
    ///
    /// [`GraphSamplerError::Temperature`]: not within 0.001 and 1,000.
    pub fn temperature(self, temperature: f32) -> Result<Self, GraphSamplerError> {
        let (min, max) = TEMPERATURES;
        if !(min..=max).contains(&temperature) {
            return Err(GraphSamplerError::Temperature { got: temperature, min, max });
        }
        self.step(Step::Temperature(temperature))
    }

    /// Then chooses the most likely token: of several with exactly the same logit the one with the lowest id (of the first 8
    /// that the backend finds). The other steps leave it the most likely one, and so are not computed, but for biases.
    #[must_use]
    pub fn greedy(self) -> GraphSampler {
        GraphSampler { chain: self, selector: Selector::Greedy }
    }

    /// Then draws a token by its probability. The same seed draws the same random numbers, one for each output of the sequence.
    ///
    /// # Errors
    ///
    /// [`GraphSamplerError::RandomSeed`]: `u32::MAX`, which would be a random seed.
    pub fn dist(self, seed: u32) -> Result<GraphSampler, GraphSamplerError> {
        if seed == RANDOM_SEED {
            return Err(GraphSamplerError::RandomSeed { seed });
        }
        Ok(GraphSampler { chain: self, selector: Selector::Dist(seed) })
    }

    /// Chooses nothing, but hands out what is left, with [`Outputs::candidates`](crate::Outputs::candidates): a few numbers
    /// in the place of a row of logits, to go on with.
    ///
    /// # Errors
    ///
    /// [`GraphSamplerError::NeedsTopK`]: without a top_k these would be all tokens.
    pub fn candidates(self) -> Result<GraphSampler, GraphSamplerError> {
        self.needs_top_k("candidates")?;
        Ok(GraphSampler { chain: self, selector: Selector::Candidates })
    }

    fn step(mut self, step: Step) -> Result<Self, GraphSamplerError> {
        let again = |name| Err(GraphSamplerError::Twice { step: name });
        match step {
            // After another one llama.cpp takes its list of candidates for one of a single row (llama-sampler.cpp:1490).
            Step::TopK(_) if self.has_top_k() => return again("top_k"),
            // Likewise, an assertion (llama-sampler.cpp:1638).
            Step::TopP(_) if self.steps.iter().any(|step| matches!(step, Step::TopP(_))) => return again("top_p"),
            _ => {}
        }
        if self.steps.len() == MOST_STEPS {
            return Err(GraphSamplerError::TooManySteps { max: MOST_STEPS });
        }
        self.steps.push(step);
        Ok(self)
    }

    fn has_top_k(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::TopK(_)))
    }

    fn needs_top_k(&self, step: &'static str) -> Result<(), GraphSamplerError> {
        if self.has_top_k() { Ok(()) } else { Err(GraphSamplerError::NeedsTopK { step }) }
    }
}

/// A sampler that runs inside the computation, on the device that computes the logits: llama.cpp's backend samplers, which it
/// calls experimental. It is given to a sequence with [`Context::set_graph_sampler`](crate::Context::set_graph_sampler).
///
/// It pays where rows of logits are slow to fetch, which is on another device than the CPU. There, sampling from
/// [`Outputs::get`](crate::Outputs::get) is as good, and offers more samplers.
///
/// ```
/// use llama_safe::GraphSampler;
///
/// # fn main() -> Result<(), llama_safe::GraphSamplerError> {
/// let creative = GraphSampler::chain().top_k(40)?.top_p(0.95)?.temperature(0.8)?.dist(7)?;
/// let greedy = GraphSampler::greedy();
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct GraphSampler {
    chain: GraphChain,
    selector: Selector,
}

/// One of llama.cpp's samplers, with parameters that it takes as they are.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Link {
    LogitBias(Vec<(Token, f32)>),
    TopK(i32),
    TopP(f32),
    MinP(f32),
    Temperature(f32),
    Dist(u32),
}

impl GraphSampler {
    /// A chain without steps, to which steps and a selector are added.
    pub fn chain() -> GraphChain {
        GraphChain::default()
    }

    /// The most likely token, see [`GraphChain::greedy`].
    #[must_use]
    pub fn greedy() -> Self {
        Self::chain().greedy()
    }

    pub(crate) fn selector(&self) -> Selector {
        self.selector
    }

    /// Whether the two are the same computation, but for the state of the random numbers.
    pub(crate) fn has_shape_of(&self, other: &Self) -> bool {
        let kind = |selector| if let Selector::Dist(_) = selector { Selector::Dist(0) } else { selector };
        self.chain == other.chain && kind(self.selector) == kind(other.selector)
    }

    /// What llama.cpp is to compute for a vocabulary of so many tokens.
    ///
    /// None of the links is one that does nothing, and where logits are handed out they are in a tensor of their own. Otherwise
    /// llama.cpp marks a view of all rows as an output, which need not keep the rows from being written over
    /// (ggml-alloc.c:691).
    pub(crate) fn plan(&self, vocabulary: u32) -> Result<Vec<Link>, GraphSamplerError> {
        let mut links = Vec::new();
        let biases = &self.chain.biases;
        if let Some((token, _)) = biases.iter().find(|(token, _)| token.0 as u32 >= vocabulary) {
            return Err(GraphSamplerError::TokenOutOfRange { token: *token, vocabulary });
        }
        let forbidden = biases.iter().filter(|(_, bias)| *bias == f32::NEG_INFINITY).count();
        if forbidden == vocabulary as usize {
            return Err(GraphSamplerError::NothingAllowed { vocabulary });
        }
        if !biases.is_empty() {
            links.push(Link::LogitBias(biases.clone()));
        }
        if self.selector == Selector::Greedy {
            // Below `MOST_CANDIDATES`, as every count below: it fits.
            links.push(Link::TopK(GREEDY_CANDIDATES.min(vocabulary) as i32));
            return Ok(links);
        }
        for step in &self.chain.steps {
            match *step {
                Step::TopK(k) => {
                    // More than there are is an assertion (ggml.c:5472).
                    links.push(Link::TopK(k.min(vocabulary) as i32));
                }
                Step::TopP(p) if p < 1.0 => links.push(Link::TopP(p)),
                Step::MinP(p) => links.push(Link::MinP(p)),
                Step::Temperature(temperature) if temperature != 1.0 => links.push(Link::Temperature(temperature)),
                Step::TopP(_) | Step::Temperature(_) => {}
            }
        }
        if let Selector::Dist(seed) = self.selector {
            links.push(Link::Dist(seed));
        }
        Ok(links)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain() -> GraphChain {
        GraphSampler::chain()
    }

    #[test]
    fn each_bad_number_is_named_with_its_range() {
        let most = MOST_CANDIDATES;
        for got in [0, most + 1, u32::MAX] {
            assert_eq!(chain().top_k(got), Err(GraphSamplerError::TopK { got, max: most }));
        }
        for got in [0.0, -0.5, 1.001, f32::INFINITY] {
            assert_eq!(chain().top_k(9).unwrap().top_p(got), Err(GraphSamplerError::TopP { got }));
        }
        for got in [0.0, 0.95, 1.0, -1.0] {
            assert_eq!(chain().min_p(got), Err(GraphSamplerError::MinP { got, max: 0.9 }));
        }
        for got in [0.0, 0.0009, 1001.0, f32::INFINITY, -1.0] {
            let error = GraphSamplerError::Temperature { got, min: 0.001, max: 1000.0 };
            assert_eq!(chain().temperature(got), Err(error));
        }
        assert!(chain().top_k(9).unwrap().top_p(f32::NAN).is_err());
        assert!(chain().min_p(f32::NAN).is_err());
        assert!(chain().temperature(f32::NAN).is_err());
        let token = Token(3);
        let got = f32::INFINITY;
        assert_eq!(chain().logit_bias(&[(token, got)]), Err(GraphSamplerError::Bias { token, got }));
        assert!(matches!(chain().logit_bias(&[(token, f32::NAN)]), Err(GraphSamplerError::Bias { .. })));
        let twice = chain().logit_bias(&[(token, 1.0)]).unwrap().logit_bias(&[(token, 1.0)]);
        assert_eq!(twice, Err(GraphSamplerError::BiasTwice { token }));
        assert_eq!(chain().dist(u32::MAX), Err(GraphSamplerError::RandomSeed { seed: u32::MAX }));
        assert_eq!(chain().top_p(0.5), Err(GraphSamplerError::NeedsTopK { step: "top_p" }));
        assert_eq!(chain().min_p(0.5).unwrap().candidates(), Err(GraphSamplerError::NeedsTopK { step: "candidates" }));
    }

    #[test]
    fn a_chain_has_an_end() {
        let mut long = chain();
        for _ in 0..MOST_STEPS {
            long = long.min_p(0.1).unwrap();
        }
        assert_eq!(long.clone().min_p(0.1), Err(GraphSamplerError::TooManySteps { max: MOST_STEPS }));
    }

    #[test]
    fn a_second_list_of_candidates_is_refused() {
        let once = chain().top_k(9).unwrap().top_p(0.5).unwrap();
        assert_eq!(once.clone().top_k(9), Err(GraphSamplerError::Twice { step: "top_k" }));
        assert_eq!(once.top_p(0.5), Err(GraphSamplerError::Twice { step: "top_p" }));
    }

    #[test]
    fn what_does_nothing_is_left_out() {
        let steps = || chain().temperature(1.0).unwrap().top_k(500).unwrap().top_p(1.0).unwrap();
        let plan = |sampler: GraphSampler| sampler.plan(100).unwrap();
        assert_eq!(plan(steps().dist(5).unwrap()), [Link::TopK(100), Link::Dist(5)]);
        assert_eq!(plan(steps().candidates().unwrap()), [Link::TopK(100)]);
        assert_eq!(plan(steps().greedy()), [Link::TopK(8)]);
        assert_eq!(GraphSampler::greedy().plan(3).unwrap(), [Link::TopK(3)]);
        assert_eq!(plan(chain().dist(1).unwrap()), [Link::Dist(1)]);
        let all = chain().logit_bias(&[(Token(2), -1.0)]).unwrap().temperature(2.0).unwrap().min_p(0.5).unwrap();
        let bias = Link::LogitBias(vec![(Token(2), -1.0)]);
        assert_eq!(
            plan(all.clone().dist(1).unwrap()),
            [bias.clone(), Link::Temperature(2.0), Link::MinP(0.5), Link::Dist(1)]
        );
        assert_eq!(plan(all.greedy()), [bias, Link::TopK(8)]);
    }

    #[test]
    fn biases_are_checked_against_the_vocabulary() {
        let of = |biases: &[(Token, f32)]| chain().logit_bias(biases).unwrap().greedy().plan(4);
        let out = |token| Err(GraphSamplerError::TokenOutOfRange { token, vocabulary: 4 });
        assert_eq!(of(&[(Token(4), 1.0)]), out(Token(4)));
        assert_eq!(of(&[(Token(-1), 1.0)]), out(Token(-1)));
        let forbid = |count| (0..count).map(|token| (Token(token), f32::NEG_INFINITY)).collect::<Vec<_>>();
        assert!(of(&forbid(3)).is_ok());
        assert_eq!(of(&forbid(4)), Err(GraphSamplerError::NothingAllowed { vocabulary: 4 }));
    }

    #[test]
    fn a_seed_is_not_a_shape() {
        let seeded = |seed| chain().top_k(4).unwrap().dist(seed).unwrap();
        assert!(seeded(1).has_shape_of(&seeded(2)));
        assert!(!seeded(1).has_shape_of(&chain().top_k(5).unwrap().dist(1).unwrap()));
        assert!(!seeded(1).has_shape_of(&chain().top_k(4).unwrap().greedy()));
    }
}
