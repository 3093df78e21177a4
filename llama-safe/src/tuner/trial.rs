//! Contexts that are made to be measured, and what they take.

use std::time::Duration;

use crate::batch::Batch;
use crate::context::Context;
use crate::engine::fastest;
use crate::error::TunerError;
use crate::id::Token;
use crate::limits::KvLayout;
use crate::model::Model;
use crate::params::ContextParams;
use crate::sequence::Sequence;

use super::choice::Step;

/// What is varied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Setting {
    pub threads: u32,
    pub layout: KvLayout,
    pub micro_batch: u32,
}

/// How often a thing is measured, at least, and how long, at most, but for that.
const TIMES: (u32, u32) = (3, 12);
const LONG: Duration = Duration::from_millis(120);

/// Cells beyond the text of each sequence: a step adds one, and is forgotten.
const SPARE: u32 = 16;

/// Sequences with texts of `length` tokens in memory, each in cells of its own.
pub(super) struct Decoding {
    context: Context,
    batch: Batch,
    sequences: Vec<Sequence>,
    length: u32,
}

impl Decoding {
    /// Room for up to `most` sequences, with the text of one computed.
    pub(super) fn new(
        model: &Model,
        base: &ContextParams,
        setting: Setting,
        most: u32,
        length: u32,
    ) -> Result<Self, TunerError> {
        let cells = length.saturating_add(SPARE);
        let params = params(base, setting).sequences(most).context_tokens(cells.saturating_mul(most));
        let mut context = Context::new(model, &params)?;
        let mut batch = context.new_batch();
        let first = context.new_sequence()?;
        for chunk in text(model, length).chunks(batch.capacity() as usize) {
            batch.extend(&first, chunk)?;
            context.decode(&mut batch)?;
        }
        Ok(Self { context, batch, sequences: vec![first], length })
    }

    /// The time of a step of so many sequences.
    pub(super) fn step(&mut self, sequences: u32) -> Result<Step, TunerError> {
        if (self.sequences.len() as u32) < sequences {
            self.fill(sequences)?;
        }
        let running = &self.sequences[..sequences as usize];
        let (context, batch, length) = (&mut self.context, &mut self.batch, self.length);
        let time = fastest(TIMES, LONG, || {
            for sequence in running {
                // What grew too long for a memory that cannot go back is begun again.
                if sequence.len() >= length + SPARE - 1 {
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
        })?;
        Ok(Step { sequences, time })
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

/// Tokens of a prompt that are computed in a second.
pub(super) fn prefill(model: &Model, base: &ContextParams, setting: Setting, length: u32) -> Result<f64, TunerError> {
    let mut context =
        Context::new(model, &params(base, setting).sequences(1).context_tokens(length.saturating_add(SPARE)))?;
    let tokens = text(model, length);
    let mut batch = context.new_batch();
    let time = fastest(TIMES, LONG, || {
        let sequence = context.new_sequence()?;
        for chunk in tokens.chunks(batch.capacity() as usize) {
            batch.extend(&sequence, chunk)?;
            context.decode(&mut batch)?;
        }
        Ok::<_, TunerError>(())
    })?;
    Ok(f64::from(length) / time.as_secs_f64())
}

pub(super) fn params(base: &ContextParams, setting: Setting) -> ContextParams {
    let params = base.clone().threads(setting.threads).batch_threads(setting.threads);
    params.kv_layout(setting.layout).micro_batch_tokens(setting.micro_batch).embeddings(false)
}

/// So many tokens that differ from one another.
fn text(model: &Model, length: u32) -> Vec<Token> {
    let vocabulary = model.vocabulary_size().max(1);
    // Below the vocabulary, an `i32`.
    (0..length).map(|index| Token((index.wrapping_mul(7919) % vocabulary) as i32)).collect()
}
