//! The engine's memory, as a context has it.

use std::ops::Range;

use crate::batch::Batch;
use crate::context::Context;
use crate::error::GenerateError;
use crate::id::OutputSlot;
use crate::limits::{KvLayout, MemoryKind};
use crate::saved::State;
use crate::sequence::Sequence;

use super::faults::{Call, Faults};
use super::machine::{Facts, Machine, Rows};

/// A context, a batch for it, and where the outputs of the last decode are.
pub(crate) struct Contextual {
    context: Context,
    batch: Batch,
    /// Slots of all outputs, one part behind the other.
    slots: Vec<OutputSlot>,
    /// For each part, where its slots begin.
    firsts: Vec<usize>,
    facts: Facts,
    faults: Faults,
}

impl Contextual {
    pub(crate) fn new(context: Context, faults: Faults) -> Self {
        let limits = context.limits();
        let unified = limits.kv_layout() == KvLayout::Unified;
        let attention = limits.memory() == MemoryKind::Attention;
        let facts = Facts {
            sequences: limits.sequences(),
            shared_cells: (unified && limits.memory() != MemoryKind::Recurrent).then_some(limits.context_tokens()),
            sequence_tokens: limits.sequence_tokens(),
            rows: limits.batch_tokens(),
            cuts: attention,
            // On shared cells it depends on who else has them: computed again, the text is the same whoever runs beside it.
            shifts: attention && !unified && context.renumbers(),
        };
        let batch = context.new_batch();
        Self { context, batch, slots: Vec::new(), firsts: Vec::new(), facts, faults }
    }

    fn fill(&mut self, rows: &[Rows<'_, Sequence>]) -> Result<(), GenerateError> {
        self.slots.clear();
        self.firsts.clear();
        for Rows { sequence, tokens, draft, output } in rows {
            self.firsts.push(self.slots.len());
            if !output {
                self.batch.extend(sequence, tokens)?;
                continue;
            }
            self.slots.push(self.batch.prompt(sequence, tokens)?);
            for token in *draft {
                self.slots.push(self.batch.push_output(sequence, *token)?);
            }
        }
        Ok(())
    }
}

impl Machine for Contextual {
    type Sequence = Sequence;
    type Saved = State;

    fn facts(&self) -> Facts {
        self.facts
    }

    fn lease(&mut self) -> Result<Sequence, GenerateError> {
        Ok(self.context.new_sequence()?)
    }

    fn fork(&mut self, sequence: &Sequence, length: u32) -> Result<Sequence, GenerateError> {
        self.faults.check(Call::Fork)?;
        Ok(self.context.fork_prefix(sequence, length)?)
    }

    fn reaches(&self, sequence: &Sequence, length: u32) -> bool {
        self.context.reaches(sequence, length)
    }

    fn truncate(&mut self, sequence: &Sequence, length: u32) -> Result<(), GenerateError> {
        self.faults.check(Call::Truncate)?;
        Ok(self.context.truncate(sequence, length)?)
    }

    fn shift(&mut self, sequence: &Sequence, discard: Range<u32>) -> Result<(), GenerateError> {
        self.faults.check(Call::Shift)?;
        Ok(self.context.shift(sequence, discard)?)
    }

    fn clear(&mut self, sequence: &Sequence) -> Result<(), GenerateError> {
        Ok(self.context.clear(sequence)?)
    }

    fn clear_all(&mut self) -> Result<(), GenerateError> {
        Ok(self.context.clear_all()?)
    }

    fn save(&mut self, sequence: &Sequence) -> Option<State> {
        self.faults.check(Call::Save).ok()?;
        self.context.save(sequence).ok()
    }

    fn bytes(saved: &State) -> usize {
        saved.as_bytes().len()
    }

    fn restore(&mut self, saved: &State) -> Option<Sequence> {
        self.faults.check(Call::Restore).ok()?;
        self.context.restore(saved).ok()
    }

    fn is_damaged(&self, sequence: &Sequence) -> bool {
        sequence.is_damaged()
    }

    fn decode(&mut self, rows: &[Rows<'_, Sequence>]) -> Result<(), GenerateError> {
        let filled = self.faults.check(Call::Decode).and_then(|()| self.fill(rows));
        let abort = self.faults.abort_after().map(|checks| {
            let handle = self.context.abort_handle();
            handle.abort_after(checks);
            handle
        });
        let decoded = filled.and_then(|()| Ok(self.context.decode(&mut self.batch).map(drop)?));
        if let Some(handle) = abort {
            handle.reset();
        }
        if decoded.is_err() {
            self.batch.clear();
        }
        decoded
    }

    fn logits(&self, place: usize, row: usize) -> Result<&[f32], GenerateError> {
        let slot = self.firsts.get(place).and_then(|first| self.slots.get(first + row));
        let outputs = self.context.outputs();
        let (Some(slot), Some(outputs)) = (slot, outputs) else {
            return Err(crate::error::OutputError::OtherDecode.into());
        };
        Ok(outputs.get(*slot)?)
    }
}
