//! Requests that are really computed, with the parameters of one combination.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use llama_safe::{Batch, Context, ContextParams, Model, OutputSlot, Sampler, Sequence, Token};

use super::grid::Combination;
use crate::workload;

/// What requests are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requests {
    /// Tokens of a prompt.
    pub prompt: u32,
    /// Tokens generated for it: the first comes with the prompt.
    pub generated: u32,
    /// Cells of each sequence.
    pub cells: u32,
}

impl Requests {
    /// Tokens generated in a second, where prompts take so long a token and steps of `sequences` together so long.
    #[must_use]
    pub fn rate(&self, sequences: u32, taken: Taken) -> f64 {
        let prompt = f64::from(self.prompt) / taken.prompt_tokens_per_second;
        let steps = f64::from(self.generated - 1) * taken.step.as_secs_f64() / f64::from(sequences);
        f64::from(self.generated) / (prompt + steps)
    }
}

/// How much of the requests is computed while the clock runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portion {
    /// Prompts, at most: the other sequences are copies.
    pub prompts: u32,
    /// Steps, at most: those in the middle of the answers, where as much is remembered as on average.
    pub steps: u32,
}

impl Portion {
    /// All of it.
    pub const WHOLE: Self = Self { prompts: u32::MAX, steps: u32::MAX };
}

/// What the two parts of the work took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Taken {
    /// Tokens of prompts that were computed in a second.
    pub prompt_tokens_per_second: f64,
    /// A step of all sequences.
    pub step: Duration,
}

/// The parameters of a context for a combination: those that a tuner hands out.
#[must_use]
pub fn params(combination: Combination, requests: Requests) -> ContextParams {
    let Combination { threads, layout, micro_batch, sequences } = combination;
    let params = ContextParams::default().sequences(sequences).context_tokens(sequences * requests.cells);
    params.kv_layout(layout.into()).threads(threads).batch_threads(threads).micro_batch_tokens(micro_batch)
}

/// Computes that much of the requests, one for each sequence, in a context of its own.
///
/// # Errors
///
/// What the library reports: requests that do not fit the model.
pub fn compute(model: &Model, combination: Combination, requests: Requests, portion: Portion) -> Result<Taken> {
    let sequences = combination.sequences;
    let prompts = prompts(model, sequences.min(portion.prompts), requests.prompt);
    let steps = portion.steps.min(requests.generated - 1);
    let mut run = Run::new(model, &params(combination, requests))?;
    for _ in &prompts {
        run.sequences.push((run.context.new_sequence()?, Token(0)));
    }
    let prompt_time = run.prompts(&prompts)?;
    if (prompts.len() as u32, steps) != (sequences, requests.generated - 1) {
        let before = (requests.generated - 1 - steps) / 2;
        run.fill(sequences, &vec![Token(3); before as usize])?;
    }
    let started = Instant::now();
    for _ in 0..steps {
        run.step()?;
    }
    let tokens = prompts.len() as f64 * f64::from(requests.prompt);
    let step = started.elapsed() / steps.max(1);
    Ok(Taken { prompt_tokens_per_second: tokens / prompt_time.as_secs_f64(), step })
}

fn prompts(model: &Model, count: u32, length: u32) -> Vec<Vec<Token>> {
    let order = workload::uniform(model.vocabulary_size(), count, 1);
    let tokens = |prompt: Vec<i32>| prompt.into_iter().cycle().take(length as usize).map(Token).collect();
    order.requests.into_iter().map(|request| tokens(request.prompt)).collect()
}

/// Sequences that are under way, each with its next token.
struct Run {
    context: Context,
    batch: Batch,
    sampler: Sampler,
    sequences: Vec<(Sequence, Token)>,
    asked: Vec<(usize, OutputSlot)>,
}

impl Run {
    /// Wakes the threads and touches the memory, before a clock runs.
    fn new(model: &Model, params: &ContextParams) -> Result<Self> {
        let mut context = Context::new(model, params)?;
        let mut batch = context.new_batch();
        let sequence = context.new_sequence()?;
        batch.prompt(&sequence, &[Token(3); 16])?;
        context.decode(&mut batch)?;
        drop(sequence);
        Ok(Self { context, batch, sampler: Sampler::greedy(), sequences: Vec::new(), asked: Vec::new() })
    }

    /// All prompts, as many in a batch as have room.
    fn prompts(&mut self, prompts: &[Vec<Token>]) -> Result<Duration> {
        let started = Instant::now();
        for (index, prompt) in prompts.iter().enumerate() {
            if self.batch.capacity() - self.batch.len() < prompt.len() as u32 {
                self.decode()?;
            }
            self.asked.push((index, self.batch.prompt(&self.sequences[index].0, prompt)?));
        }
        self.decode()?;
        Ok(started.elapsed())
    }

    /// Makes so many sequences of the first one, behind whose prompt comes a text.
    fn fill(&mut self, sequences: u32, text: &[Token]) -> Result<()> {
        self.sequences.truncate(1);
        let (first, next) = self.sequences.first().context("a sequence")?;
        let next = *next;
        if !text.is_empty() {
            self.batch.extend(first, text)?;
            self.context.decode(&mut self.batch)?;
        }
        // As a state: a copy's cells are its own.
        let state = self.context.save(first)?;
        while (self.sequences.len() as u32) < sequences {
            self.sequences.push((self.context.restore(&state)?, next));
        }
        Ok(())
    }

    /// One more token for each sequence.
    fn step(&mut self) -> Result<()> {
        for (index, (sequence, next)) in self.sequences.iter().enumerate() {
            self.asked.push((index, self.batch.push_output(sequence, *next)?));
        }
        self.decode()
    }

    /// Decodes what is in the batch, and chooses a token for each output that was asked for.
    fn decode(&mut self) -> Result<()> {
        let outputs = self.context.decode(&mut self.batch)?;
        for (index, slot) in self.asked.drain(..) {
            self.sequences[index].1 = self.sampler.sample(outputs.get(slot)?)?;
        }
        Ok(())
    }
}
