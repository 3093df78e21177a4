//! Filling batches and computing them.

use std::collections::BTreeMap;

use batch_suite::nmse;
use llama_safe::{Context, DecodeError, KvLayout, MemoryKind, OutputSlot, Outputs, Place, Sequence, Token};

use super::random::{embedding, tokens};
use super::{Filled, Kind, Machine, Step};

pub(super) fn row<'a>(
    outputs: Outputs<'a>,
    context_is_pooled: bool,
    slot: OutputSlot,
    sequence: &Sequence,
) -> Option<&'a [f32]> {
    let row = match outputs.get(slot) {
        Ok(row) => Ok(row),
        Err(_) if context_is_pooled => outputs.sequence_embedding(sequence),
        Err(_) => outputs.embedding(slot),
    };
    row.ok()
}

impl Machine<'_> {
    pub(super) fn fill(&mut self) {
        if self.batches.len() < 4 && (self.batches.is_empty() || self.random.once_in(4)) {
            let kind = self.random.of(&[Kind::Tokens, Kind::Tokens, Kind::Encoder, Kind::Embeddings]);
            let batch = match kind {
                Kind::Tokens => self.context.new_batch(),
                Kind::Encoder => self.context.new_encoder_batch(),
                Kind::Embeddings => self.context.new_embedding_batch(),
            };
            self.batches.push(Filled { batch, kind, rows: Vec::new() });
        }
        let which = self.random.below(self.batches.len() as u32) as usize;
        if self.random.once_in(30) {
            let filled = &mut self.batches[which];
            filled.batch.clear();
            filled.rows.clear();
            return;
        }
        for _ in 0..1 + self.random.below(4) {
            let Some(index) = self.pick() else { return self.lease() };
            self.push(which, index);
        }
    }

    pub(super) fn push(&mut self, which: usize, index: usize) {
        let width = self.context.limits().input_width();
        let capacity = self.batches[which].batch.capacity();
        let sequence_tokens = self.context.limits().sequence_tokens();
        let count = match self.random.below(12) {
            0 => 0,
            1 => capacity,
            2 | 10 => capacity - self.batches[which].batch.len(),
            3 => sequence_tokens.saturating_sub(self.live[index].1.sequence.len()).min(capacity),
            4..7 => 1 + self.random.below(20),
            _ => 1 + self.random.below(4),
        };
        let count = count.min(600);
        let kind = self.batches[which].kind;
        let before = self.batches[which].batch.len();
        if kind == Kind::Embeddings {
            let base = self.live[index].1.sequence.len();
            let mut column = 0;
            for _ in 0..count.min(8) {
                let seed = self.random.below(1000);
                let mut values = embedding(width, seed);
                if self.random.once_in(40) {
                    values[0] = self.random.of(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
                } else if self.random.once_in(40) {
                    values.pop();
                }
                let place = self.random.once_in(2).then(|| {
                    column += 1;
                    if self.random.once_in(10) {
                        let wild = [0, 1, 7, base, base + 1, 200, u32::MAX, i32::MAX as u32];
                        Place {
                            time: self.random.of(&wild),
                            height: self.random.of(&wild),
                            width: self.random.of(&wild),
                            fourth: self.random.of(&wild),
                        }
                    } else {
                        Place { time: base, height: base + column / 3, width: base + column % 3, fourth: 0 }
                    }
                });
                let filled = &mut self.batches[which];
                let sequence = &self.live[index].1.sequence;
                let output = self.random.once_in(2);
                let result = match (place, output) {
                    (None, true) => filled.batch.push_embedding_output(sequence, &values).map(Some),
                    (None, false) => filled.batch.push_embedding(sequence, &values).map(|()| None),
                    (Some(place), true) => filled.batch.push_embedding_output_at(sequence, &values, place).map(Some),
                    (Some(place), false) => filled.batch.push_embedding_at(sequence, &values, place).map(|()| None),
                };
                if let Ok(slot) = &result {
                    filled.rows.push((Step::Embedding(seed, place), self.live[index].0 as usize, *slot));
                } else {
                    // Most models take no places.
                    self.note("push_embedding", &result);
                }
                assert_eq!(self.batches[which].batch.len() as usize, self.batches[which].rows.len());
            }
            return;
        }
        let mut many = tokens(self.random, &self.model, count);
        if self.random.once_in(30) {
            let bad = self.random.of(&[-1, i32::MAX, i32::MIN, self.model.vocabulary_size() as i32]);
            if let Some(token) = many.last_mut() {
                *token = Token(bad);
            }
        }
        let output = self.random.once_in(2);
        let filled = &mut self.batches[which];
        let live = &self.live[index].1;
        let result = match output {
            true => filled.batch.prompt(&live.sequence, &many).map(Some),
            false => filled.batch.extend(&live.sequence, &many).map(|()| None),
        };
        match &result {
            Ok(slot) => {
                let last = many.len() - 1;
                let name = self.live[index].0 as usize;
                for (row, token) in many.iter().enumerate() {
                    let slot = if row == last { *slot } else { None };
                    filled.rows.push((Step::Token(*token), name, slot));
                }
            }
            Err(_) => {
                assert_eq!(filled.batch.len(), before, "a push that is refused changes nothing");
                self.note("push", &result);
            }
        }
    }

    pub(super) fn pick_batch(&mut self) -> usize {
        let full = self.batches.iter().position(|filled| !filled.batch.is_empty());
        match full {
            Some(which) if !self.random.once_in(5) => which,
            _ => self.random.below(self.batches.len() as u32) as usize,
        }
    }

    /// Has an encoder-decoder encode the texts of all sequences of a batch, mostly.
    pub(super) fn prepare(&mut self, which: usize) {
        let Some(filled) = self.batches.get(which) else { return };
        if filled.kind == Kind::Encoder || !self.context.limits().encodes_first() || self.random.once_in(6) {
            return;
        }
        let mut batch = self.context.new_encoder_batch();
        let mut texts = Vec::new();
        for (name, live) in &self.live {
            if !filled.rows.iter().any(|(_, other, _)| *other == *name as usize) {
                continue;
            }
            let text = match &live.text {
                Some(text) if !live.sequence.is_empty() || self.random.once_in(2) => text.clone(),
                _ => {
                    let count = 1 + self.random.below(9);
                    tokens(self.random, &self.model, count)
                }
            };
            if batch.extend(&live.sequence, &text).is_ok() {
                texts.push((*name, text));
            }
        }
        let result = self.context.encode(&mut batch).map(drop);
        if result.is_ok() {
            self.last.clear();
            for (name, text) in texts {
                if let Some((_, live)) = self.live.iter_mut().find(|(other, _)| *other == name) {
                    live.text = Some(text);
                }
            }
        }
        self.note("prepare", &result);
    }

    pub(super) fn compute(&mut self, which: usize, abort: Option<u32>) {
        let Some(kind) = self.batches.get(which).map(|filled| filled.kind) else { return };
        let limits = self.context.limits().clone();
        let mut encode = match kind {
            Kind::Encoder => limits.encodes_first() || limits.memory() == MemoryKind::None,
            _ => limits.memory() == MemoryKind::None,
        };
        if self.random.once_in(25) {
            encode = !encode;
        }
        let handle = self.context.abort_handle();
        if let Some(checks) = abort {
            handle.abort_after(checks);
        }
        let before = self.lengths();
        let had_outputs = self.context.outputs().is_some();
        let filled = &mut self.batches[which];
        let count = filled.batch.len();
        let rows = filled.rows.clone();
        let live = &self.live;
        let context = &mut self.context;
        let batch = &mut filled.batch;
        let pooled = limits.has_embeddings() && limits.is_pooled();
        let mut compute = || {
            let outputs = if encode { context.encode(batch) } else { context.decode(batch) };
            outputs.map(|outputs| {
                let mut found = Vec::new();
                for (_, name, slot) in &rows {
                    let (Some(slot), Some((_, live))) = (slot, live.iter().find(|(other, _)| *other as usize == *name))
                    else {
                        continue;
                    };
                    let values = row(outputs, pooled && !limits.encodes_first(), *slot, &live.sequence);
                    found.push((*slot, *name, values.map(<[f32]>::to_vec)));
                }
                found
            })
        };
        let result = if self.random.once_in(20) {
            std::thread::scope(|scope| scope.spawn(compute).join().expect("no panic"))
        } else {
            compute()
        };
        handle.reset();
        self.note(if encode { "encode" } else { "decode" }, &result);
        match result {
            Ok(found) => {
                assert_eq!(self.batches[which].batch.len(), 0, "a batch is empty afterwards");
                self.batches[which].rows.clear();
                if encode && limits.encodes_first() {
                    let mut texts: BTreeMap<usize, Vec<Token>> = BTreeMap::new();
                    for (step, name, _) in &rows {
                        if let Step::Token(token) = step {
                            texts.entry(*name).or_default().push(*token);
                        }
                    }
                    for (name, text) in texts {
                        if let Some((_, live)) = self.live.iter_mut().find(|(other, _)| *other as usize == name) {
                            live.text = Some(text);
                        }
                    }
                }
                let mut now: BTreeMap<usize, Vec<Step>> = BTreeMap::new();
                for (step, name, slot) in &rows {
                    now.entry(*name).or_default().push(*step);
                    if let Some(live) = self.live.iter_mut().find(|(other, _)| *other as usize == *name)
                        && !encode
                        && let Some(history) = &mut live.1.history
                    {
                        history.push(*step);
                        if self.steered {
                            live.1.history = None;
                        }
                    }
                    if let (Some(slot), true) = (slot, self.old.len() < 200) {
                        self.old.push(*slot);
                    }
                }
                self.last.clear();
                for (slot, name, values) in &found {
                    let Some(values) = values else {
                        let nothing = !limits.has_logits() && !limits.has_embeddings();
                        assert!(
                            nothing || (encode && limits.encodes_first() && pooled),
                            "an output that was asked for"
                        );
                        continue;
                    };
                    self.last.push((*slot, values.clone()));
                    let Some((_, live)) = self.live.iter().find(|(other, _)| *other as usize == *name) else {
                        continue;
                    };
                    if encode && limits.encodes_first() {
                        continue;
                    }
                    assert!(!self.compares || values.iter().all(|value| value.is_finite()), "numbers");
                    // Rows before the last of a sequence are checked at times as well, where they are cheap to find.
                    let last_of_it = rows.iter().rev().find(|(_, other, _)| other == name).map(|row| row.2);
                    if last_of_it != Some(Some(*slot)) && !pooled {
                        continue;
                    }
                    let history = if limits.memory() == MemoryKind::None {
                        Some(now[name].clone())
                    } else {
                        live.history.clone()
                    };
                    let Some(history) = history else { continue };
                    if self.steered || history.len() > 400 || !self.random.once_in(1 + history.len() as u32 / 20) {
                        continue;
                    }
                    let text = live.text.clone();
                    self.compare(values, &history, text.as_deref());
                }
            }
            Err(error) => {
                match &error {
                    DecodeError::Rejected { .. } | DecodeError::Failed { .. } => panic!("not refused before: {error}"),
                    DecodeError::Aborted { .. } => assert!(abort.is_some(), "nobody aborted"),
                    DecodeError::NoSlot { .. } => {
                        let total: u32 = before.iter().sum::<u32>() + count;
                        let few_cells = self.settings.forgets;
                        let room = limits.kv_layout() == KvLayout::Split || total <= limits.context_tokens();
                        assert!(few_cells || !room, "no slot for {count} with {before:?}");
                    }
                    _ => {}
                }
                for ((_, live), before) in self.live.iter().zip(&before) {
                    if !live.sequence.is_damaged() {
                        assert_eq!(live.sequence.len(), *before, "{error}");
                    }
                }
                if self.context.outputs().is_some() {
                    assert!(had_outputs);
                }
            }
        }
    }

    /// What comes of a history on a context of its own.
    pub(super) fn compare(&mut self, got: &[f32], history: &[Step], text: Option<&[Token]>) {
        if !self.compares {
            return;
        }
        let limits = self.context.limits().clone();
        let mut settings =
            self.settings.params.clone().threads(1).sequences(1).rollback_tokens(0).keep_past_window(true);
        settings = settings.context_tokens(1024).batch_tokens(1024).micro_batch_tokens(1024);
        let mut context = Context::new(&self.model, &settings).expect("a context of one sequence");
        let sequence = context.new_sequence().expect("a sequence");
        if limits.encodes_first() {
            let mut batch = context.new_encoder_batch();
            let Some(text) = text else { panic!("decoded without a text") };
            batch.extend(&sequence, text).expect("room");
            context.encode(&mut batch).expect("an encoding");
        }
        let no_memory = limits.memory() == MemoryKind::None;
        let together = no_memory || (limits.has_embeddings());
        let width = limits.input_width();
        let mut want = Vec::new();
        let mut from = 0;
        while from < history.len() {
            let is_token = |step: &Step| matches!(step, Step::Token(_));
            let mut to = from + 1;
            while to < history.len()
                && is_token(&history[to]) == is_token(&history[from])
                && (together || matches!(history[to], Step::Embedding(..)))
            {
                to += 1;
            }
            let mut slot = None;
            let mut batch = if is_token(&history[from]) { context.new_batch() } else { context.new_embedding_batch() };
            for step in &history[from..to] {
                slot = Some(match step {
                    Step::Token(token) => batch.push_output(&sequence, *token).expect("a token"),
                    Step::Embedding(seed, None) => {
                        batch.push_embedding_output(&sequence, &embedding(width, *seed)).expect("an embedding")
                    }
                    Step::Embedding(seed, Some(place)) => {
                        batch.push_embedding_output_at(&sequence, &embedding(width, *seed), *place).expect("a place")
                    }
                });
            }
            let outputs = if no_memory { context.encode(&mut batch) } else { context.decode(&mut batch) };
            let slot = slot.expect("a row");
            want =
                row(outputs.expect("a computation"), limits.is_pooled(), slot, &sequence).expect("an output").to_vec();
            from = to;
        }
        let error = nmse(got, &want);
        self.compared += 1;
        self.worst = self.worst.max(error);
        // Numbers kept in 16 bits, or rounded to them by the fused attention, round to another neighbour now and then.
        let most = if self.settings.exact { 1e-6 } else { 1e-3 };
        assert!(error <= most, "not as one at a time: {error:e} after {} of {history:?}", history.len());
    }
}
