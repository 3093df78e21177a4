//! Which parameters give most tokens a second on this machine, with this model: measured, not guessed.

mod choice;
mod record;
mod search;
mod trial;

use std::fmt;
use std::time::{Duration, Instant};

use crate::engine::{Engine, EngineBuilder, StepCosts};
use crate::error::TunerError;
use crate::limits::KvLayout;
use crate::model::Model;
use crate::params::ContextParams;

use choice::Aim;
pub use record::Measured;
use record::Record;
use search::{Found, Search};
use trial::Subject;

/// Finds out which threads, micro-batch, layout of the KV cache and number of sequences give most tokens a second.
///
/// It makes contexts and computes with them, for a few seconds, while nothing else should run. What is best depends on what requests
/// are like, which it is told.
///
/// ```
/// use std::time::Duration;
///
/// use llama_safe::Tuner;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let gguf = fixtures::Llama::tiny().gguf(fixtures::Weights::Q8_0, 1)?;
/// # let model = llama_safe::Model::from_bytes(&gguf, &llama_safe::ModelParams::default())?;
/// let tuned = Tuner::new(&model)
///     .requests(128, 64)
///     .sequence_tokens(1024)
///     .most_sequences(8)
///     .token_gap(Duration::from_secs(2))
/// #    .patience(Duration::from_secs(2))
///     .tune()?;
/// println!("{tuned}");
/// let engine = tuned.engine(&model).start()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "it measures when it is told to: tune()"]
pub struct Tuner {
    model: Model,
    base: ContextParams,
    prompt: u32,
    generated: u32,
    sequence_tokens: u32,
    most_sequences: u32,
    threads: Vec<u32>,
    gap: Option<Duration>,
    patience: Duration,
}

/// What was found out.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Tuned {
    /// Threads, for batches of any size.
    pub threads: u32,
    /// Tokens of a pass.
    pub micro_batch_tokens: u32,
    /// How sequences share cells.
    pub kv_layout: KvLayout,
    /// Sequences that run together.
    pub sequences: u32,
    /// Tokens that requests of that kind have generated in a second, all sequences together, the time of their prompts included.
    pub tokens_per_second: f64,
    /// The time of a step, from one token of a sequence to its next.
    pub token_gap: Duration,
    /// Tokens of prompts that are computed in a second.
    pub prompt_tokens_per_second: f64,
    /// All that was measured, in the order in which it was first.
    pub measured: Vec<Measured>,
    /// Whether it ended before all was measured that it would have, since that took too long.
    pub cut_short: bool,
    base: ContextParams,
    sequence_tokens: u32,
}

impl Tuner {
    /// For requests with 128 tokens of prompt and as many generated, of up to 1,024 tokens in a sequence, with up to 32 sequences,
    /// in at most 20 seconds.
    pub fn new(model: &Model) -> Self {
        Self {
            model: model.clone(),
            base: ContextParams::default(),
            prompt: 128,
            generated: 128,
            sequence_tokens: 1024,
            most_sequences: 32,
            threads: threads(),
            gap: None,
            patience: Duration::from_secs(20),
        }
    }

    /// What requests are like: tokens of a prompt, and tokens generated for it.
    pub fn requests(mut self, prompt: u32, generated: u32) -> Self {
        (self.prompt, self.generated) = (prompt, generated);
        self
    }

    /// The most tokens that a sequence must have room for.
    pub fn sequence_tokens(mut self, tokens: u32) -> Self {
        self.sequence_tokens = tokens;
        self
    }

    /// The most sequences to run together.
    pub fn most_sequences(mut self, sequences: u32) -> Self {
        self.most_sequences = sequences;
        self
    }

    /// Numbers of threads to try, those that are likely first. As many as there are cores, half of them, and so on where this says
    /// nothing.
    pub fn threads(mut self, threads: impl IntoIterator<Item = u32>) -> Self {
        self.threads = threads.into_iter().collect();
        self
    }

    /// The longest that may pass between two tokens of a sequence.
    pub fn token_gap(mut self, gap: Duration) -> Self {
        self.gap = Some(gap);
        self
    }

    /// The longest that measuring may take: nothing more is begun when the longest measurement so far would not end in time. What is left
    /// over is used to measure the best ones several times more, in turn.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Everything else about the contexts: attention, number types, and the most memory that one may take
    /// ([`memory_limit`](ContextParams::memory_limit)), which bounds the sequences.
    pub fn context(mut self, params: ContextParams) -> Self {
        self.base = params;
        self
    }

    /// Measures, and chooses.
    ///
    /// # Errors
    ///
    /// [`TunerError`]: a number is out of its range, a context is refused, or nothing keeps the gap between tokens.
    pub fn tune(&self) -> Result<Tuned, TunerError> {
        self.check()?;
        let subject =
            Subject { model: self.model.clone(), base: self.base.clone(), sequence_tokens: self.sequence_tokens };
        let aim = Aim { prompt: self.prompt, generated: self.generated, gap: self.gap };
        let search = Search {
            subject,
            aim,
            most_sequences: self.most_sequences,
            threads: self.threads.clone(),
            until: Instant::now() + self.patience,
            longest: Duration::ZERO,
            record: Record::default(),
            room: Vec::new(),
            text: None,
            cut_short: false,
        };
        let Found { best, measured, cut_short } = search.run()?;
        Ok(Tuned {
            threads: best.way.threads,
            micro_batch_tokens: best.micro_batch,
            kv_layout: best.way.layout,
            sequences: best.step.sequences,
            tokens_per_second: best.rate(aim),
            token_gap: best.step.time,
            prompt_tokens_per_second: best.prefill,
            measured,
            cut_short,
            base: self.base.clone(),
            sequence_tokens: self.sequence_tokens,
        })
    }

    fn check(&self) -> Result<(), TunerError> {
        let longest = self.prompt.saturating_add(self.generated);
        let numbers = [
            ("prompt tokens", self.prompt),
            ("generated tokens", self.generated),
            ("most_sequences", self.most_sequences),
            ("the first of threads", self.threads.first().copied().unwrap_or(0)),
        ];
        match numbers.into_iter().find(|(_, number)| *number == 0) {
            Some((what, _)) => Err(TunerError::Zero { what }),
            None if longest > self.sequence_tokens => {
                Err(TunerError::RequestTooLong { tokens: longest, limit: self.sequence_tokens })
            }
            None => Ok(()),
        }
    }
}

/// As many threads as there are cores, and fewer.
fn threads() -> Vec<u32> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX));
    std::iter::successors(Some(cores.max(1)), |threads| Some(threads / 2).filter(|threads| *threads > 0)).collect()
}

impl Tuned {
    /// The parameters of a context.
    #[must_use]
    pub fn context_params(&self) -> ContextParams {
        let tokens = self.sequence_tokens.saturating_mul(self.sequences);
        let params = self.base.clone().sequences(self.sequences).context_tokens(tokens).kv_layout(self.kv_layout);
        params.threads(self.threads).batch_threads(self.threads).micro_batch_tokens(self.micro_batch_tokens)
    }

    /// An engine with these parameters.
    #[must_use]
    pub fn engine(&self, model: &Model) -> EngineBuilder {
        let tokens = self.sequence_tokens.saturating_mul(self.sequences);
        let builder = Engine::builder(model).sequences(self.sequences).context_tokens(tokens).layout(self.kv_layout);
        let builder = builder.context(self.context_params());
        match self.step_costs() {
            Some(costs) => builder.step_costs(costs),
            None => builder,
        }
    }

    /// What a step costs at each number of sequences, as it was measured with these parameters.
    #[must_use]
    pub fn step_costs(&self) -> Option<StepCosts> {
        let same = |one: &&Measured| (one.threads, one.kv_layout) == (self.threads, self.kv_layout);
        let steps = self.measured.iter().filter(same).filter_map(|one| Some((one.sequences?, one.tokens_per_second)));
        StepCosts::new(steps.map(|(width, rate)| (width, Duration::from_secs_f64(f64::from(width) / rate)))).ok()
    }
}

impl fmt::Display for Tuned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Measured { threads, kv_layout, micro_batch_tokens, sequences, tokens_per_second } in &self.measured {
            write!(f, "{threads:>3} threads, {kv_layout:?} cells, ")?;
            match sequences {
                Some(sequences) => write!(f, "{sequences:>3} sequences together:")?,
                None => write!(f, "prompts, passes of {micro_batch_tokens:>3}:")?,
            }
            writeln!(f, " {tokens_per_second:>8.1} tokens/s")?;
        }
        let Self { threads, micro_batch_tokens, kv_layout, sequences, tokens_per_second, token_gap, .. } = self;
        write!(
            f,
            "best: {threads} threads, {sequences} sequences on {kv_layout:?} cells, micro-batches of {micro_batch_tokens}: \
             {tokens_per_second:.1} generated tokens/s, prompts included, one each {:.1} ms",
            token_gap.as_secs_f64() * 1e3
        )?;
        if self.cut_short { write!(f, " (not all was measured in the time given)") } else { Ok(()) }
    }
}
