//! Contexts that are made to be measured, and what they take.

use std::time::Duration;

use crate::batch::Batch;
use crate::context::Context;
use crate::engine::timed;
use crate::error::TunerError;
use crate::id::Token;
use crate::model::Model;
use crate::params::ContextParams;
use crate::saved::State;
use crate::sequence::Sequence;

use super::choice::{Step, Way};

/// How often a step is timed, at least and at most, and how long, but for the least number of times.
const TIMES: (u32, u32) = (3, 12);
const LONG: Duration = Duration::from_millis(120);

/// Cells beyond the text of each sequence: a step adds one, and is forgotten.
const SPARE: u32 = 16;

/// What is measured: a model, and everything about contexts that is not varied.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub model: Model,
    pub base: ContextParams,
    /// The most tokens that a sequence has room for.
    pub sequence_tokens: u32,
}

impl Subject {
    /// The parameters of contexts.
    pub(super) fn params(&self, way: Way, micro_batch: u32) -> ContextParams {
        let params = self.base.clone().threads(way.threads).batch_threads(way.threads);
        params.kv_layout(way.layout).micro_batch_tokens(micro_batch).embeddings(false)
    }

    /// Those of a context with so many sequences of full length.
    pub(super) fn full(&self, way: Way, micro_batch: u32, sequences: u32) -> ContextParams {
        let tokens = self.sequence_tokens.saturating_mul(sequences);
        self.params(way, micro_batch).sequences(sequences).context_tokens(tokens)
    }

    /// One with so many sequences that a text has room in each of, and a little more: never more than in a full one.
    fn context(&self, way: Way, micro_batch: u32, sequences: u32, text: u32) -> Result<Context, TunerError> {
        let cells = self.cells(text).saturating_mul(sequences);
        let params = self.params(way, micro_batch).sequences(sequences).context_tokens(cells);
        Ok(Context::new(&self.model, &params)?)
    }

    fn cells(&self, text: u32) -> u32 {
        text.saturating_add(SPARE).min(self.sequence_tokens)
    }
}

/// Sequences with a text in memory, each in cells of its own.
pub(super) struct Decoding {
    context: Context,
    batch: Batch,
    sequences: Vec<Sequence>,
    length: u32,
    cells: u32,
}

impl Decoding {
    /// Room for up to `most` sequences, with the text of one: `length` tokens that are computed, or taken from `text` if that holds them,
    /// and kept there.
    pub(super) fn new(
        subject: &Subject,
        way: Way,
        micro_batch: u32,
        most: u32,
        length: u32,
        text: &mut Option<State>,
    ) -> Result<Self, TunerError> {
        let cells = subject.cells(length);
        // A step adds a token.
        let length = length.min(cells.saturating_sub(1));
        let mut context = subject.context(way, micro_batch, most, length)?;
        let mut batch = context.new_batch();
        let first = match text.as_ref().and_then(|state| context.restore(state).ok()) {
            Some(first) => first,
            None => {
                let first = context.new_sequence()?;
                compute(&mut context, &mut batch, [(&first, tokens(&subject.model, length).as_slice())])?;
                // States of some architectures cannot be saved: those are computed each time.
                *text = context.save(&first).ok();
                first
            }
        };
        Ok(Self { context, batch, sequences: vec![first], length, cells })
    }

    /// The time of a step of so many sequences.
    pub(super) fn step(&mut self, sequences: u32) -> Result<Step, TunerError> {
        if (self.sequences.len() as u32) < sequences {
            self.fill(sequences)?;
        }
        let running = &self.sequences[..sequences as usize];
        let (context, batch, length, cells) = (&mut self.context, &mut self.batch, self.length, self.cells);
        let mut once = || {
            for sequence in running {
                // What grew too long for a memory that cannot go back is begun again.
                if sequence.len() >= cells {
                    context.clear(sequence)?;
                }
                batch.push_output(sequence, Token(0))?;
            }
            context.decode(batch)?;
            for sequence in running.iter().filter(|sequence| sequence.len() > length) {
                if context.can_truncate(sequence, length) {
                    context.truncate(sequence, length)?;
                }
            }
            Ok::<_, TunerError>(())
        };
        // The first one builds a graph.
        once()?;
        Ok(Step { sequences, time: middle(&timed(TIMES, LONG, once)?) })
    }

    /// Copies the first sequence until there are so many: as a state, so that no cells are shared.
    fn fill(&mut self, sequences: u32) -> Result<(), TunerError> {
        let state = self.context.save(&self.sequences[0]);
        while (self.sequences.len() as u32) < sequences {
            let copy = match &state {
                Ok(state) => self.context.restore(state)?,
                // Of architectures whose states cannot be saved: a copy that may share cells.
                Err(_) => self.context.fork(&self.sequences[0])?,
            };
            self.sequences.push(copy);
        }
        Ok(())
    }
}

/// Tokens of prompts that are computed in a second: of as many of `length` tokens as a pass holds whole, one at least, `most` at most.
pub(super) fn prefill(
    subject: &Subject,
    way: Way,
    micro_batch: u32,
    most: u32,
    length: u32,
) -> Result<f64, TunerError> {
    let prompts = (micro_batch / length).clamp(1, most);
    let mut context = subject.context(way, micro_batch, prompts, length)?;
    let mut batch = context.new_batch();
    let tokens = tokens(&subject.model, length);
    let mut all = |tokens: &[Token]| {
        let sequences = (0..prompts).map(|_| context.new_sequence()).collect::<Result<Vec<_>, _>>()?;
        compute(&mut context, &mut batch, sequences.iter().map(|sequence| (sequence, tokens)))
    };
    // A few tokens wake the threads: what a whole prompt takes is long enough to be measured once.
    all(&tokens[..tokens.len().min(8)])?;
    let time = middle(&timed((1, TIMES.1), LONG, || all(&tokens))?);
    Ok(f64::from(length) * f64::from(prompts) / time.as_secs_f64())
}

/// The middle one: what is to be expected, where the shortest is what there could be.
fn middle(sorted: &[Duration]) -> Duration {
    sorted[(sorted.len() - 1) / 2]
}

/// Computes texts, as many in a batch as have room.
fn compute<'a>(
    context: &mut Context,
    batch: &mut Batch,
    texts: impl IntoIterator<Item = (&'a Sequence, &'a [Token])>,
) -> Result<(), TunerError> {
    for (sequence, text) in texts {
        let mut rest = text;
        while !rest.is_empty() {
            if batch.len() == batch.capacity() {
                context.decode(batch)?;
            }
            let room = (batch.capacity() - batch.len()) as usize;
            let (now, later) = rest.split_at(rest.len().min(room));
            batch.extend(sequence, now)?;
            rest = later;
        }
    }
    if !batch.is_empty() {
        context.decode(batch)?;
    }
    Ok(())
}

/// So many tokens that differ from one another.
fn tokens(model: &Model, length: u32) -> Vec<Token> {
    let vocabulary = model.vocabulary_size().max(1);
    // Below the vocabulary, an `i32`.
    (0..length).map(|index| Token((index.wrapping_mul(7919) % vocabulary) as i32)).collect()
}
