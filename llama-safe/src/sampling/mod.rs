//! Choosing the next token from logits: every sampler of llama.cpp, as a chain that is a value.
//!
//! It is Rust throughout: rules on plain data. A step works on what the steps before left ([`field`]), and results are
//! those of llama.cpp, number by number: its order of sums, its rounding to 32 bits, its random numbers. Where
//! llama.cpp leaves the result to chance, it is defined here: of equal logits the lowest id comes first (C++ sorts
//! unstably), and what is not a number there (a logarithm of 0, an overflow) is what the limit would be. Each such place
//! names the line.
#![forbid(unsafe_code)]

mod bias;
mod candidates;
mod chain;
mod custom;
mod dry;
mod field;
#[cfg(feature = "grammar")]
mod held;
mod infill;
mod params;
mod penalties;
mod presets;
mod random;
mod select;
mod step;
mod temperature;
mod truncate;

pub use candidates::{Candidate, Candidates};
pub use chain::SamplerChain;
pub use custom::CustomSampler;
pub use params::{AdaptiveP, Dry, Mirostat, MirostatV2, Penalties, Xtc};

use crate::error::SamplingError;
#[cfg(feature = "grammar")]
use crate::grammar::Grammar;
use crate::id::Token;

use field::{Buffers, Field};
use select::Selector;
use step::Step;

/// Chooses tokens for one sequence.
///
/// It belongs to one sequence and no other: what it chooses depends on its seed, the tokens that it has seen and the logits
/// that it is given, so that a text is the same whatever batch it was computed in. A clone is a fork: it has the whole state,
/// the history of penalties and the random numbers as well, and goes its own way from there.
///
/// ```
/// use llama_safe::{Penalties, Sampler, Token};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let penalties = Penalties { repeat: 1.1, ..Penalties::default() };
/// let mut sampler =
///     Sampler::chain().penalties(penalties)?.top_k(40)?.top_p(0.95)?.min_p(0.05)?.temperature(0.8)?.dist(42);
/// // The prompt counts as well when repetitions are penalised.
/// sampler.accept_prompt(Token(3))?;
/// # let logits = [0.5, 1.5, 3.0, 0.25];
/// let mut fork = sampler.clone();
/// let token = sampler.sample(&logits)?;
/// assert_eq!(fork.sample(&logits)?, token);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Sampler {
    line: Line,
    #[cfg(feature = "grammar")]
    grammar: Option<Box<Grammar>>,
}

impl Sampler {
    /// Chooses one of the tokens that `logits` stand for, whose ids are the indices, and accepts it. Minus infinity forbids a
    /// token.
    ///
    /// # Errors
    ///
    /// [`SamplingError`]: there are no logits, one is NaN or plus infinity, all are forbidden, a custom sampler failed, the
    /// chain's grammar allows nothing, or the logits are not of the vocabulary that the chain was made for. The sampler is
    /// as it was before, its random numbers and its history too.
    pub fn sample(&mut self, logits: &[f32]) -> Result<Token, SamplingError> {
        let token = self.choose(logits)?;
        self.line.keep();
        self.line.accept(token);
        Ok(token)
    }

    /// Takes a token of the text that came otherwise, by force or from a draft, into the history of penalties, DRY and custom
    /// samplers, and has the chain's grammar read it. Random numbers and targets stay as they are.
    ///
    /// # Errors
    ///
    /// [`SamplingError::CustomPanicked`]; the grammar does not allow the token (`SamplingError::Grammar`). Nothing has
    /// changed then.
    pub fn accept(&mut self, token: Token) -> Result<(), SamplingError> {
        self.line.prepare(token)?;
        #[cfg(feature = "grammar")]
        if let Some(grammar) = &mut self.grammar {
            grammar.accept(token)?;
        }
        self.line.accept(token);
        Ok(())
    }

    /// Takes a token of the prompt into the history of penalties, DRY and custom samplers: repetitions of it are penalised as
    /// those of the text are. A grammar is of the text alone, and does not read it.
    ///
    /// # Errors
    ///
    /// [`SamplingError::CustomPanicked`]: and nothing has changed.
    pub fn accept_prompt(&mut self, token: Token) -> Result<(), SamplingError> {
        self.line.prepare(token)?;
        self.line.accept(token);
        Ok(())
    }

    /// Back to the beginning: no history, the random numbers of the seed again, and the grammar before any text.
    pub fn reset(&mut self) {
        self.line.reset();
        #[cfg(feature = "grammar")]
        if let Some(grammar) = &mut self.grammar {
            grammar.reset();
        }
    }

    /// Chooses a token that can be accepted, and has the grammar read it. What that draws and learns is left to be kept.
    fn choose(&mut self, logits: &[f32]) -> Result<Token, SamplingError> {
        #[cfg(feature = "grammar")]
        if let Some(grammar) = &mut self.grammar {
            return held::choose(&mut self.line, grammar, logits);
        }
        self.line.choose(logits, None)
    }
}

/// The steps of a chain, and what chooses at their end.
#[derive(Clone, Debug)]
struct Line {
    steps: Vec<Step>,
    selector: Selector,
    buffers: Buffers,
}

impl Line {
    /// Chooses among the tokens whose bits are set in `mask`, or all: bit `i % 64` of word `i / 64` is token `i`. The steps
    /// are prepared for it, and what was drawn and learned waits to be kept.
    fn choose(&mut self, logits: &[f32], mask: Option<&[u64]>) -> Result<Token, SamplingError> {
        let Self { steps, selector, buffers } = self;
        steps.iter_mut().for_each(Step::begin);
        let mut field = Field::new(logits, mask, buffers)?;
        for (place, step) in steps.iter_mut().enumerate() {
            step.apply(place, &mut field)?;
        }
        let token = Token(selector.choose(&mut field));
        self.prepare(token)?;
        Ok(token)
    }

    fn prepare(&mut self, token: Token) -> Result<(), SamplingError> {
        self.steps.iter_mut().enumerate().try_for_each(|(place, step)| step.prepare(place, token))
    }

    fn keep(&mut self) {
        self.steps.iter_mut().for_each(Step::keep);
        self.selector.keep();
    }

    fn accept(&mut self, token: Token) {
        self.steps.iter_mut().for_each(|step| step.accept(token));
    }

    fn reset(&mut self) {
        self.steps.iter_mut().for_each(Step::reset);
        self.selector.reset();
    }
}
