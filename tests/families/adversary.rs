//! Random programs against the safe interface, good calls and bad ones in any order, on contexts of any shape. Whatever
//! they do, the process lives, every error is a typed one, what is refused changes nothing, outputs are those of the
//! last computation, and sequences hold what one-at-a-time inference holds.
//!
//! The programs run in a child process of this binary, so that one that takes llama.cpp down is found and named.
//! `ADVERSARY_PROGRAMS=2000 cargo test --test families survives_random_programs` tries more of them for each family, and
//! `ADVERSARY_FIRST=N ADVERSARY_PROGRAMS=1` repeats program `N` alone.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use batch_suite::{exact_params, family, is_leak_check, nmse, params, prompt};
use fixtures::{Family, Weights};
use llama_safe::{
    Batch, Context, ContextParams, DecodeError, EmbedError, Embedder, EmbedderParams, FlashAttention, KvLayout, KvType,
    MemoryKind, Model, OutputError, OutputSlot, Outputs, Place, Pooling, Sequence, SequenceError, State, StateError,
    Token,
};

/// Where the child finds what to do.
const CHILD: &str = "ADVERSARY_CHILD";

/// A small generator (SplitMix64): a number gives the same program on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, count: u32) -> u32 {
        (self.next() % u64::from(count.max(1))) as u32
    }

    fn once_in(&mut self, times: u32) -> bool {
        self.below(times) == 0
    }

    fn of<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u32) as usize]
    }
}

/// What was put at the end of a sequence.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Step {
    Token(Token),
    Embedding(u32, Option<Place>),
}

struct Live {
    sequence: Sequence,
    /// `None` where inference from scratch does not tell what it holds.
    history: Option<Vec<Step>>,
    /// What the encoder of an encoder-decoder was given for it.
    text: Option<Vec<Token>>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    Tokens,
    Encoder,
    Embeddings,
}

struct Filled {
    batch: Batch,
    kind: Kind,
    rows: Vec<(Step, usize, Option<OutputSlot>)>,
}

struct Machine<'random> {
    random: &'random mut Random,
    model: Model,
    params: ContextParams,
    context: Context,
    live: Vec<(u32, Live)>,
    names: u32,
    batches: Vec<Filled>,
    /// Rows of the last computation that succeeded.
    last: Vec<(OutputSlot, Vec<f32>)>,
    old: Vec<OutputSlot>,
    states: Vec<(State, Option<Vec<Step>>)>,
    other: Option<(Context, Sequence, Batch)>,
    foreign_state: Option<State>,
    steered: bool,
    trace: bool,
    errors: BTreeMap<String, u32>,
    compared: u32,
    worst: f64,
}

fn embedding(width: u32, seed: u32) -> Vec<f32> {
    (0..width).map(|index| ((seed * 131 + index * 7919) % 997) as f32 / 500.0 - 1.0).collect()
}

fn tokens(random: &mut Random, model: &Model, count: u32) -> Vec<Token> {
    let most = model.vocabulary_size().min(250);
    (0..count).map(|_| Token(random.below(most.saturating_sub(3)) as i32 + 3)).collect()
}

fn random_params(random: &mut Random) -> ContextParams {
    let sequences = random.of(&[1, 2, 3, 3, 4, 7, 7, 64, 256]);
    let mut params = params().sequences(sequences);
    match random.below(4) {
        0 => params = params.context_tokens(1 + random.below(300)),
        1 => params = params.context_tokens(sequences * (1 + random.below(40))),
        _ => params = params.context_tokens(sequences.min(16) * 256),
    }
    let batch = match random.below(4) {
        0 => sequences + random.below(4),
        1 => 1 + random.below(20),
        2 => 64.max(sequences),
        _ => random.of(&[256, 512, 300, 2048]),
    };
    params = params.batch_tokens(batch).micro_batch_tokens(random.of(&[1, 2, 3, 4, 8, 16, 64, 64, 512]));
    params = params.kv_layout(random.of(&[KvLayout::Split, KvLayout::Unified]));
    params = params.kv_type(random.of(&[KvType::F32, KvType::F32, KvType::F16]));
    params = params.flash_attention(random.of(&[
        FlashAttention::Off,
        FlashAttention::Off,
        FlashAttention::On,
        FlashAttention::Auto,
    ]));
    if random.once_in(3) {
        params = params.keep_past_window(false);
    }
    if random.once_in(4) {
        params = params.rollback_tokens(random.below(5));
    }
    if random.once_in(3) {
        params = params.embeddings(true);
    }
    if random.once_in(3) {
        params = params.pooling(random.of(&[
            Pooling::Model,
            Pooling::None,
            Pooling::Mean,
            Pooling::Cls,
            Pooling::Last,
            Pooling::Rank,
        ]));
    }
    if random.once_in(20) {
        params = params.threads(random.of(&[0, 1, 2, 3, 513, u32::MAX])).batch_threads(1);
    }
    if random.once_in(40) {
        let extreme = random.of(&[0, u32::MAX, i32::MAX as u32, i32::MAX as u32 + 1]);
        params = match random.below(4) {
            0 => params.sequences(extreme),
            1 => params.batch_tokens(extreme),
            2 => params.micro_batch_tokens(extreme),
            _ => params.rollback_tokens(extreme),
        };
    }
    params
}

fn row<'a>(outputs: Outputs<'a>, context_is_pooled: bool, slot: OutputSlot, sequence: &Sequence) -> Option<&'a [f32]> {
    let row = match outputs.get(slot) {
        Ok(row) => Ok(row),
        Err(_) if context_is_pooled => outputs.sequence_embedding(sequence),
        Err(_) => outputs.embedding(slot),
    };
    row.ok()
}

impl<'random> Machine<'random> {
    fn new(which: Family, random: &'random mut Random, trace: bool) -> Result<Self, String> {
        let weights = random.of(&[Weights::F32, Weights::F32, Weights::F16]);
        let model = family(which, weights);
        let params = random_params(random);
        if trace {
            println!("{which} {weights} {params:?}");
        }
        let context = Context::new(&model, &params).map_err(|error| {
            let _ = error.to_string();
            format!("new {error:?}")
        })?;
        Ok(Self {
            random,
            model,
            params,
            context,
            live: Vec::new(),
            names: 0,
            batches: Vec::new(),
            last: Vec::new(),
            old: Vec::new(),
            states: Vec::new(),
            other: None,
            foreign_state: None,
            steered: false,
            trace,
            errors: BTreeMap::new(),
            compared: 0,
            worst: 0.0,
        })
    }

    fn note<T, E: Debug + std::error::Error>(&mut self, what: &str, result: &Result<T, E>) {
        if let Err(error) = result {
            let text = format!("{error:?}");
            assert!(!error.to_string().is_empty());
            let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '(').collect();
            if self.trace {
                println!("    {what}: {error}");
            }
            *self.errors.entry(format!("{what} {name}")).or_default() += 1;
        }
    }

    fn pick(&mut self) -> Option<usize> {
        if self.live.is_empty() { None } else { Some(self.random.below(self.live.len() as u32) as usize) }
    }

    fn add(&mut self, sequence: Sequence, history: Option<Vec<Step>>, text: Option<Vec<Token>>) {
        self.names += 1;
        self.live.push((self.names, Live { sequence, history, text }));
    }

    fn has_memory(&self) -> bool {
        self.context.limits().memory() != MemoryKind::None
    }

    fn lengths(&self) -> Vec<u32> {
        self.live.iter().map(|(_, live)| live.sequence.len()).collect()
    }

    fn step(&mut self) {
        let op = self.random.below(100);
        if self.trace {
            println!("  op {op} lengths {:?}", self.lengths());
        }
        match op {
            0..10 => self.lease(),
            10..13 => {
                if let Some(index) = self.pick() {
                    self.live.swap_remove(index);
                }
            }
            13..40 => self.fill(),
            40..62 => {
                let which = self.pick_batch();
                self.prepare(which);
                self.compute(which, None);
            }
            62..66 => {
                let which = self.pick_batch();
                let most = self.random.of(&[1, 5, 30, 100, 300]);
                let checks = self.random.below(most);
                self.compute(which, Some(checks));
            }
            66..72 => self.truncate(),
            72..78 => self.fork(),
            78..81 => self.shift(),
            81..83 => self.clear(),
            83..88 => self.save(),
            88..92 => self.restore(),
            92..94 => self.steer(),
            94..97 => self.strangers(),
            _ => self.look(),
        }
        self.check_outputs();
    }

    fn lease(&mut self) {
        let made = self.context.new_sequence();
        self.note("lease", &made);
        match made {
            Ok(sequence) => {
                assert_eq!(sequence.len(), 0);
                self.add(sequence, Some(Vec::new()), None);
            }
            Err(_) => assert_eq!(self.live.len() as u32, self.context.limits().sequences()),
        }
    }

    fn fill(&mut self) {
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

    fn push(&mut self, which: usize, index: usize) {
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

    fn pick_batch(&mut self) -> usize {
        let full = self.batches.iter().position(|filled| !filled.batch.is_empty());
        match full {
            Some(which) if !self.random.once_in(5) => which,
            _ => self.random.below(self.batches.len() as u32) as usize,
        }
    }

    /// Has an encoder-decoder encode the texts of all sequences of a batch, mostly.
    fn prepare(&mut self, which: usize) {
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

    fn compute(&mut self, which: usize, abort: Option<u32>) {
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
                    assert!(values.iter().all(|value| value.is_finite()), "numbers");
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
                        let few_cells = format!("{:?}", self.params).contains("keep_past_window: false");
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
    fn compare(&mut self, got: &[f32], history: &[Step], text: Option<&[Token]>) {
        let limits = self.context.limits().clone();
        let mut settings = self.params.clone().threads(1).sequences(1).rollback_tokens(0).keep_past_window(true);
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
        let debug = format!("{:?}", self.params);
        let exact = debug.contains("kv_type: F32") && debug.contains("flash_attention: Off");
        let most = if exact { 1e-6 } else { 1e-3 };
        assert!(error <= most, "not as one at a time: {error:e} after {} of {history:?}", history.len());
    }

    fn some_length(&mut self, index: usize) -> u32 {
        let length = self.live[index].1.sequence.len();
        match self.random.below(8) {
            0 => self.random.of(&[0, 1, length + 1, u32::MAX, i32::MAX as u32, i32::MAX as u32 + 1]),
            1 => length,
            2..5 => length.saturating_sub(1 + self.random.below(3)),
            _ => self.random.below(length + 1),
        }
    }

    fn truncate(&mut self) {
        let Some(index) = self.pick() else { return };
        let length = self.some_length(index);
        let can = self.context.can_truncate(&self.live[index].1.sequence, length);
        let before = self.live[index].1.sequence.len();
        let result = self.context.truncate(&self.live[index].1.sequence, length);
        self.note("truncate", &result);
        assert_eq!(can, result.is_ok());
        let live = &mut self.live[index].1;
        assert_eq!(live.sequence.len(), if result.is_ok() { length } else { before });
        if result.is_ok() {
            cut(&mut live.history, length, before);
        }
    }

    fn fork(&mut self) {
        let Some(index) = self.pick() else { return };
        let length = if self.random.once_in(2) { self.live[index].1.sequence.len() } else { self.some_length(index) };
        let sequence = &self.live[index].1.sequence;
        let can = self.context.can_fork_at(sequence, length);
        let whole = sequence.len();
        let made =
            if length == whole { self.context.fork(sequence) } else { self.context.fork_prefix(sequence, length) };
        self.note("fork", &made);
        assert_eq!(can, made.is_ok());
        if let Ok(made) = made {
            assert_eq!(made.len(), length);
            let mut history = self.live[index].1.history.clone();
            cut(&mut history, length, whole);
            let text = self.live[index].1.text.clone();
            self.add(made, history, text);
        }
    }

    fn shift(&mut self) {
        let Some(index) = self.pick() else { return };
        let (start, end) = (self.some_length(index), self.some_length(index));
        let before = self.live[index].1.sequence.len();
        let can = self.context.can_shift(&self.live[index].1.sequence, start..end);
        let result = self.context.shift(&self.live[index].1.sequence, start..end);
        self.note("shift", &result);
        assert_eq!(can, result.is_ok());
        let live = &mut self.live[index].1;
        match result {
            Ok(()) if start == end => assert_eq!(live.sequence.len(), before),
            Ok(()) if end == before => cut(&mut live.history, start, before),
            Ok(()) => {
                assert_eq!(live.sequence.len(), before - (end - start));
                live.history = None;
            }
            Err(_) => assert_eq!(live.sequence.len(), before),
        }
    }

    fn clear(&mut self) {
        if self.random.once_in(4) {
            let result = self.context.clear_all();
            self.note("clear_all", &result);
            for (_, live) in &mut self.live {
                assert!(live.sequence.is_empty() && !live.sequence.is_damaged());
                live.history = Some(Vec::new());
            }
        } else if let Some(index) = self.pick() {
            let result = self.context.clear(&self.live[index].1.sequence);
            self.note("clear", &result);
            let live = &mut self.live[index].1;
            assert!(live.sequence.is_empty() && !live.sequence.is_damaged());
            live.history = Some(Vec::new());
        }
    }

    fn save(&mut self) {
        let Some(index) = self.pick() else { return };
        let before = self.lengths();
        let saved = if self.random.once_in(5) {
            self.context.save_all().map(|state| (state, None))
        } else {
            let history = self.live[index].1.history.clone();
            self.context.save(&self.live[index].1.sequence).map(|state| (state, history))
        };
        self.note("save", &saved);
        if let Err(error @ StateError::Failed { .. }) = &saved {
            panic!("not refused before: {error}");
        }
        assert_eq!(self.lengths(), before);
        if let Ok(saved) = saved {
            if self.random.once_in(4) {
                let bytes = saved.0.as_bytes();
                let mut bytes = bytes.to_vec();
                let at = self.random.below(bytes.len() as u32) as usize;
                bytes[at] ^= 1 << self.random.below(8);
                assert!(State::from_bytes(bytes).is_err());
            }
            self.states.push(saved);
            if self.states.len() > 4 {
                self.states.remove(0);
            }
        }
    }

    fn restore(&mut self) {
        if self.states.is_empty() {
            return;
        }
        if let (Some(foreign), true) = (&self.foreign_state, self.random.once_in(4)) {
            let result = self.context.restore_all(foreign);
            if let Err(error @ StateError::Failed { .. }) = &result {
                panic!("not refused before: {error}");
            }
            self.note("restore foreign", &result);
            for sequence in result.into_iter().flatten() {
                self.add(sequence, None, None);
            }
            return;
        }
        let which = self.random.below(self.states.len() as u32) as usize;
        let before = self.lengths();
        let (state, history) = &self.states[which];
        let (result, history) = (self.context.restore_all(state), history.clone());
        self.note("restore", &result);
        if let Err(error @ StateError::Failed { .. }) = &result {
            panic!("not refused before: {error}");
        }
        assert_eq!(self.lengths(), before);
        if let Ok(sequences) = result {
            let saved: Vec<u32> = self.states[which].0.sequences().iter().map(|saved| saved.len()).collect();
            assert_eq!(saved, sequences.iter().map(Sequence::len).collect::<Vec<_>>());
            for sequence in sequences {
                self.add(sequence, history.clone(), None);
            }
        }
    }

    fn steer(&mut self) {
        if self.steered {
            let cleared = self.context.clear_control_vector();
            self.note("clear_control_vector", &cleared);
            self.steered = false;
            return;
        }
        let (width, last) = (self.model.width(), self.model.layers().saturating_sub(1));
        let mut directions: Vec<f32> = (0..width * last).map(|index| (index * 37 % 101) as f32 / 50.0 - 1.0).collect();
        let mut layers = 1..=last;
        match self.random.below(8) {
            0 => directions[0] = f32::NAN,
            1 => drop(directions.pop()),
            2 => layers = 0..=self.random.of(&[0, last, u32::MAX]),
            3 => layers = u32::MAX..=u32::MAX,
            4 => layers = 1..=u32::MAX,
            _ => {}
        }
        let set = self.context.set_control_vector(&directions, layers);
        self.note("steer", &set);
        if set.is_ok() {
            self.steered = true;
            for (_, live) in &mut self.live {
                live.history = None;
            }
            for (_, history) in &mut self.states {
                *history = None;
            }
        }
    }

    /// What belongs to another context.
    fn strangers(&mut self) {
        if self.other.is_none() {
            let params = random_params(self.random);
            let model = if self.random.once_in(2) {
                self.model.clone()
            } else {
                family(self.random.of(Family::ALL), Weights::F32)
            };
            let made = Context::new(&model, &params);
            self.note("new other", &made);
            let Ok(mut context) = made else { return };
            let sequence = context.new_sequence().expect("the first sequence");
            let mut batch = context.new_batch();
            if batch.extend(&sequence, &tokens(self.random, &model, 1)).is_ok() && context.decode(&mut batch).is_ok() {
                self.foreign_state = context.save(&sequence).ok();
            }
            self.other = Some((context, sequence, batch));
        }
        let Some((other, sequence, batch)) = &mut self.other else { return };
        assert!(self.context.decode(batch).is_err());
        assert!(self.context.encode(batch).is_err());
        assert!(self.context.span(sequence).is_err());
        assert!(self.context.truncate(sequence, 0).is_err());
        assert!(self.context.truncate(sequence, 1).is_err());
        assert!(self.context.clear(sequence).is_err());
        assert!(self.context.fork(sequence).is_err());
        assert!(self.context.fork_prefix(sequence, 0).is_err());
        assert!(self.context.shift(sequence, 0..0).is_err());
        assert!(self.context.save(sequence).is_err());
        assert!(!self.context.can_truncate(sequence, 0) && !self.context.can_fork_at(sequence, 0));
        assert!(!self.context.can_shift(sequence, 0..0));
        for filled in &mut self.batches {
            let before = filled.batch.len();
            assert!(filled.batch.extend(sequence, &[Token(5)]).is_err());
            assert!(filled.batch.push_embedding(sequence, &[]).is_err());
            assert!(other.decode(&mut filled.batch).is_err());
            assert_eq!(filled.batch.len(), before);
        }
        if let (Some((state, _)), true) = (self.states.last(), self.random.once_in(3)) {
            let restored = other.restore_all(state);
            if let Err(error @ StateError::Failed { .. }) = &restored {
                panic!("not refused before: {error}");
            }
            self.note("restore elsewhere", &restored);
        }
        if self.random.once_in(3) {
            self.other = None;
        }
    }

    fn look(&mut self) {
        for (_, live) in &self.live {
            let span = self.context.span(&live.sequence).expect("its own");
            let kind = self.context.limits().memory();
            if kind == MemoryKind::Attention && !live.sequence.is_damaged() {
                // A picture is at one position.
                let placed = |step: &Step| matches!(step, Step::Embedding(_, Some(_)));
                let placed = live.history.as_ref().is_none_or(|history| history.iter().any(placed));
                assert!(placed || span.end == live.sequence.len(), "{span:?} of {}", live.sequence.len());
            }
            let _ = self.context.is_encoded(&live.sequence);
        }
        for filled in &self.batches {
            for row in [0, filled.batch.len(), filled.batch.len().wrapping_sub(1), u32::MAX] {
                let _ = (filled.batch.token(row), filled.batch.position(row), filled.batch.sequence(row));
                let _ = (filled.batch.embedding(row).map(<[f32]>::len), filled.batch.is_output(row));
            }
        }
        let _ = format!("{:?} {:?}", self.context, self.batches.first().map(|filled| &filled.batch));
    }

    /// Outputs are those of the last computation, or there are none.
    fn check_outputs(&mut self) {
        let Some(outputs) = self.context.outputs() else { return };
        let _ = format!("{outputs:?}");
        for (slot, values) in self.last.iter().take(4) {
            let pooled = self.context.limits().is_pooled();
            let found = match outputs.get(*slot) {
                Ok(row) => Some(row),
                Err(_) if pooled => None,
                Err(_) => outputs.embedding(*slot).ok(),
            };
            if let Some(found) = found {
                assert!(found == values, "an output has changed");
            }
        }
        for slot in &self.old {
            if !self.last.iter().any(|(last, _)| last == slot) && outputs.get(*slot).is_ok() {
                panic!("an output of an earlier computation is read");
            }
        }
    }

    /// A known prompt gives the known result.
    fn end(&mut self) {
        let _ = self.context.clear_control_vector();
        self.steered = false;
        self.batches.clear();
        // What lives goes on from what it holds.
        for _ in 0..2 {
            let Some(index) = self.pick() else { break };
            let (_, live) = self.live.swap_remove(index);
            if live.history.as_ref().is_none_or(|history| history.len() > 60) || live.sequence.is_damaged() {
                continue;
            }
            if self.context.limits().encodes_first() || !self.has_memory() {
                continue;
            }
            let mut batch = self.context.new_batch();
            let Ok(slot) = batch.push_output(&live.sequence, Token(9)) else { continue };
            let pooled = self.context.limits().is_pooled();
            let Ok(outputs) = self.context.decode(&mut batch) else { continue };
            let got = row(outputs, pooled, slot, &live.sequence).map(<[f32]>::to_vec);
            let Some(got) = got else { continue };
            let mut history = live.history.expect("looked at above");
            history.push(Step::Token(Token(9)));
            self.compare(&got, &history, None);
        }
        self.live.clear();
        let sequence = self.context.new_sequence().expect("all are free");
        let limits = self.context.limits().clone();
        let text = tokens(self.random, &self.model, 5.min(limits.batch_tokens()).min(limits.encoder_tokens()));
        if limits.encodes_first() {
            let mut batch = self.context.new_encoder_batch();
            batch.extend(&sequence, &text).expect("room");
            self.context.encode(&mut batch).expect("an encoding");
        }
        let mut batch = self.context.new_batch();
        let slot = batch.prompt(&sequence, &text).expect("room");
        let outputs = if limits.memory() == MemoryKind::None {
            self.context.encode(&mut batch)
        } else {
            self.context.decode(&mut batch)
        };
        let outputs = outputs.expect("a right batch");
        if !limits.has_logits() && !limits.has_embeddings() {
            return;
        }
        let got = row(outputs, limits.is_pooled(), slot, &sequence).expect("an output").to_vec();
        let history: Vec<Step> = text.iter().copied().map(Step::Token).collect();
        self.compare(&got, &history, Some(&text));
    }
}

/// A computation that overflows is an error where its outputs are read, and its numbers, which stay in memory and go
/// wherever a mask only hides them, are gone after `clear_all`. The fused attention of the CPU passes over what a mask
/// hides (ggml-cpu/ops.cpp, `ggml_compute_forward_flash_attn_ext_f16_one_chunk`), the other one adds to it.
pub fn numbers_that_are_none_are_told_and_cleared(which: Family) {
    let model = family(which, Weights::F32);
    let mut context = Context::new(&model, &exact_params().kv_layout(KvLayout::Unified)).expect("a context");
    let decode = |context: &mut Context, tokens: &[Token]| {
        let sequence = context.new_sequence().expect("a free sequence");
        let mut batch = context.new_batch();
        let slot = batch.prompt(&sequence, tokens).expect("room");
        context.decode(&mut batch).expect("a computation").get(slot).map(<[f32]>::to_vec)
    };
    let right = decode(&mut context, &prompt(1, 5)).expect("logits");
    let (width, last) = (model.width(), model.layers() - 1);
    context.set_control_vector(&vec![f32::MAX; (width * last) as usize], 1..=last).expect("finite numbers");
    assert_eq!(decode(&mut context, &prompt(2, 20)), Err(OutputError::NotNumbers { row: 19 }));
    context.clear_control_vector().expect("nothing to refuse");
    // Hidden by a mask, and multiplied with it.
    assert_eq!(
        decode(&mut context, &prompt(1, 5)),
        Err(OutputError::NotNumbers { row: 4 }),
        "if not, the error need not be"
    );
    context.clear_all().expect("nothing to refuse");
    assert_eq!(decode(&mut context, &prompt(1, 5)), Ok(right));
}

/// The same of an embedder, which clears its memory itself.
pub fn numbers_that_are_none_do_not_reach_the_next_texts(which: Family) {
    let model = family(which, Weights::F32);
    let settings = EmbedderParams::default().pooling(Pooling::Mean).batch_tokens(64).context(exact_params());
    let mut embedder = Embedder::new(&model, &settings).expect("an embedder");
    let texts: Vec<_> = (0..5).map(|text| prompt(text, 3 + 2 * text)).collect();
    let want = embedder.embed_tokens(&texts).expect("vectors");
    let (width, last) = (model.width(), model.layers() - 1);
    let context = embedder.context_mut();
    context.set_control_vector(&vec![f32::MAX; (width * last) as usize], 1..=last).expect("finite numbers");
    // In more cells than the others take over.
    assert!(matches!(embedder.embed_tokens(&[prompt(7, 60)]), Err(EmbedError::NotFinite { .. })));
    embedder.context_mut().clear_control_vector().expect("nothing to refuse");
    assert!(embedder.embed_tokens(&texts).expect("vectors") == want);
}

/// A sequence that another thread drops while it is decoded: its slot is good for the next, whichever came first.
pub fn sequences_dropped_while_they_are_decoded_leave_nothing(which: Family) {
    let mut context = Context::new(&family(which, Weights::F32), &exact_params().sequences(1)).expect("a context");
    for round in 0..if is_leak_check() { 20 } else { 500 } {
        let sequence = context.new_sequence().expect("the one sequence is free");
        let mut batch = context.new_batch();
        batch.extend(&sequence, &[Token(5), Token(6)]).expect("room");
        if let Err(error) = context.decode(&mut batch) {
            panic!("round {round}: {error}");
        }
        batch.push(&sequence, Token(7)).expect("room");
        let (ready, go) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                ready.store(true, Ordering::Release);
                while !go.load(Ordering::Acquire) {
                    std::hint::spin_loop();
                }
                (0..round % 50).for_each(|_| std::hint::spin_loop());
                drop(sequence);
            });
            while !ready.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            go.store(true, Ordering::Release);
            (0..round / 50 % 10).for_each(|_| std::hint::spin_loop());
            match context.decode(&mut batch) {
                Ok(_) | Err(DecodeError::Sequence(SequenceError::Stale { .. })) => {}
                Err(error) => panic!("round {round}: {error}"),
            }
        });
    }
}

fn cut(history: &mut Option<Vec<Step>>, length: u32, whole: u32) {
    let Some(steps) = history else { return };
    if length == whole {
        return;
    }
    let placed = steps.iter().any(|step| matches!(step, Step::Embedding(_, Some(_))));
    if length == 0 {
        *history = Some(Vec::new());
    } else if placed || steps.len() as u32 != whole {
        *history = None;
    } else {
        steps.truncate(length as usize);
    }
}

/// Runs one program.
fn program(which: Family, number: u64, errors: &mut BTreeMap<String, u32>, trace: bool) -> (u32, f64) {
    let mut random = Random(number.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ which as u64);
    let steps = 5 + random.below(60);
    let mut machine = match Machine::new(which, &mut random, trace) {
        Ok(machine) => machine,
        Err(error) => {
            *errors.entry(error.split([' ', '{']).take(2).collect::<Vec<_>>().join(" ")).or_default() += 1;
            return (0, 0.0);
        }
    };
    for _ in 0..steps {
        machine.step();
    }
    machine.end();
    for (name, count) in &machine.errors {
        *errors.entry(name.clone()).or_default() += count;
    }
    (machine.compared, machine.worst)
}

/// What the child does: the programs of its range, and a line for each.
fn child(which: Family, range: &str) {
    let (first, end) = range.split_once(' ').expect("two numbers");
    let (first, end): (u64, u64) = (first.parse().expect("a number"), end.parse().expect("a number"));
    let mut errors = BTreeMap::new();
    let (mut compared, mut worst) = (0, 0.0_f64);
    for number in first..end {
        println!("TRY {number}");
        std::io::stdout().flush().expect("a pipe");
        let trace = std::env::var_os("ADVERSARY_TRACE").is_some();
        let ran = catch_unwind(AssertUnwindSafe(|| program(which, number, &mut errors, trace)));
        match ran {
            Ok((count, error)) => {
                compared += count;
                worst = worst.max(error);
            }
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                println!("WRONG {which} program {number}: {}", text.unwrap_or_default().replace('\n', " "));
            }
        }
    }
    println!("SAW {compared} comparisons, the worst {worst:e}; {errors:?}");
    println!("END");
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Random programs of a family; `test` is the name of the test that calls this.
pub fn survives_random_programs(which: Family, test: &str, count: u64) {
    if let Ok(range) = std::env::var(CHILD) {
        return child(which, &range);
    }
    let first = variable("ADVERSARY_FIRST").unwrap_or(0);
    let count = variable("ADVERSARY_PROGRAMS").unwrap_or(if is_leak_check() { 2 } else { count });
    let (mut next, end) = (first, first + count);
    let mut wrong = Vec::new();
    while next < end {
        let binary = std::env::current_exe().expect("this binary");
        let mut command = Command::new(binary);
        command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
        command.env(CHILD, format!("{next} {end}")).env_remove("RUST_BACKTRACE");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = command.output().expect("a child");
        let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if std::env::var_os("ADVERSARY_TRACE").is_some() {
            println!("{text}");
        }
        wrong.extend(text.lines().filter(|line| line.starts_with("WRONG ")).map(str::to_owned));
        for line in text.lines().filter(|line| line.starts_with("SAW ")) {
            println!("{which}: {line}");
        }
        if output.status.success() && text.lines().any(|line| line == "END") {
            break;
        }
        let last = text.lines().rev().find_map(|line| line.rsplit_once("TRY ")?.1.parse::<u64>().ok()).unwrap_or(end);
        let why: Vec<&str> =
            errors.lines().filter(|line| line.contains(".cpp:") || line.contains("panicked")).collect();
        wrong.push(format!("{which} program {last}: {}: {}", output.status, why.join(" | ")));
        next = last + 1;
    }
    assert!(wrong.is_empty(), "{} of {count} programs went wrong:\n{}", wrong.len(), wrong.join("\n"));
}
