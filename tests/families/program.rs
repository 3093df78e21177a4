//! Random programs of decodes and memory operations, run on a context and on a naive model of its memory.
//!
//! What an operation may do is told twice before it is done: by `can_*`, which must be what then happens, and by the naive
//! model wherever that knows. What is in memory afterwards is told by the logits, compared with those of the same text
//! computed from scratch.

use std::collections::HashMap;
use std::ops::Range;

use batch_suite::{assert_equal, nmse, params, prompt};
use llama_safe::{
    Context, ContextParams, DecodeError, KvLayout, MemoryError, MemoryKind, Model, PushError, Sampler, Sequence,
    SequenceError, State, StateError, Token,
};
use proptest::prelude::*;

/// Sequences of each context.
pub const SLOTS: u32 = 4;

/// A model, how its contexts are made, and how nearly two ways to the same text agree.
pub struct Subject {
    pub model: Model,
    /// [`SLOTS`] sequences.
    pub settings: ContextParams,
    /// The settings of one sequence, in which a text is computed from scratch.
    pub alone: ContextParams,
    pub layout: KvLayout,
    /// The most that the error may be; `None` for bit for bit. The second is for texts that were shifted.
    pub tolerance: [Option<f64>; 2],
}

/// What has happened to a sequence since it was empty.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Step {
    Push(Token),
    Shift(Range<u32>),
    Truncate(u32),
}

/// The naive memory: a list of steps, and which cells each position is in.
#[derive(Clone, Debug, Default)]
struct History {
    steps: Vec<Step>,
    /// Names of cells, by position. A fork on the unified cache has the same ones.
    cells: Vec<u64>,
    /// Name of the cell of its recurrent state. A fork has the same one.
    state: u64,
    /// Tokens that the snapshots of that state go back; `None` where llama.cpp may have kept them or not.
    rollback: Option<u32>,
    taken_back: bool,
}

impl History {
    fn len(&self) -> u32 {
        self.cells.len() as u32
    }

    fn clear(&mut self) {
        *self = Self { rollback: Some(0), ..Self::default() };
    }

    fn truncate(&mut self, length: u32) {
        if length == 0 {
            return self.clear();
        }
        if length == self.len() {
            return;
        }
        self.cells.truncate(length as usize);
        self.rollback = Some(0);
        self.taken_back = true;
        if self.has_shifts() {
            self.steps.push(Step::Truncate(length));
        } else {
            self.steps.truncate(length as usize);
        }
    }

    fn has_shifts(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Shift(_)))
    }
}

/// Logits by histories, computed one step at a time in a context of their own.
pub struct Oracle {
    context: Context,
    sequence: Sequence,
    /// What the sequence holds.
    done: Vec<Step>,
    known: HashMap<Vec<Step>, Vec<f32>>,
}

impl Oracle {
    pub fn new(subject: &Subject) -> Self {
        let mut context = Context::new(&subject.model, &subject.alone).unwrap();
        let sequence = context.new_sequence().unwrap();
        Self { context, sequence, done: Vec::new(), known: HashMap::new() }
    }

    /// The logits after `steps`, of which the last is a push.
    fn logits(&mut self, steps: &[Step]) -> &[f32] {
        if !self.known.contains_key(steps) {
            if !steps.starts_with(&self.done) {
                self.context.clear(&self.sequence).unwrap();
                self.done.clear();
            }
            for step in &steps[self.done.len()..] {
                self.done.push(step.clone());
                match step {
                    Step::Push(token) => {
                        let mut batch = self.context.new_batch();
                        let slot = batch.push_output(&self.sequence, *token).unwrap();
                        let logits = self.context.decode(&mut batch).unwrap().get(slot).unwrap().to_vec();
                        if self.done.len() + 8 > steps.len() {
                            self.known.insert(self.done.clone(), logits);
                        }
                    }
                    Step::Shift(discard) => self.context.shift(&self.sequence, discard.clone()).unwrap(),
                    Step::Truncate(length) => self.context.truncate(&self.sequence, *length).unwrap(),
                }
            }
        }
        &self.known[steps]
    }
}

/// One step of a random program. Numbers are taken modulo what there is.
#[derive(Clone, Debug)]
pub enum Op {
    New,
    Drop(usize),
    /// For each part a sequence, a salt and a number of tokens; one decode.
    Decode(Vec<(usize, u32, u32)>),
    /// The same, aborted after so many checks.
    Abort(Vec<(usize, u32, u32)>, u32),
    Truncate(usize, u32),
    /// By so many tokens.
    GoBack(usize, u32),
    Clear(usize),
    ClearAll,
    Fork(usize),
    ForkPrefix(usize, u32),
    Shift(usize, u32, u32),
    Save(usize),
    /// One of the states that were saved, into a new sequence.
    Restore(usize),
    /// Tokens in a batch that is never decoded, because another is decoded before it: of this sequence, or of none.
    Stale(usize, u32, bool),
    /// Something that cannot be done, which of it, and with which number.
    Bad(usize, u32, u32),
}

/// Kinds of [`Op::Bad`].
const BAD: u32 = 9;

/// A program with up to `most` tokens for a sequence at a time.
pub fn program(most: u32) -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(op(most), 1..40)
}

fn op(most: u32) -> impl Strategy<Value = Op> {
    let who = 0..SLOTS as usize;
    let parts = prop::collection::vec((who.clone(), 0..4u32, 1..=most), 1..4);
    prop_oneof![
        3 => Just(Op::New),
        2 => who.clone().prop_map(Op::Drop),
        10 => parts.clone().prop_map(Op::Decode),
        3 => (parts, 0..400u32).prop_map(|(parts, checks)| Op::Abort(parts, checks)),
        2 => (who.clone(), any::<u32>()).prop_map(|(who, length)| Op::Truncate(who, length)),
        2 => (who.clone(), 1..5u32).prop_map(|(who, tokens)| Op::GoBack(who, tokens)),
        1 => who.clone().prop_map(Op::Clear),
        1 => Just(Op::ClearAll),
        3 => who.clone().prop_map(Op::Fork),
        3 => (who.clone(), any::<u32>()).prop_map(|(who, length)| Op::ForkPrefix(who, length)),
        4 => (who.clone(), any::<u32>(), any::<u32>()).prop_map(|(who, start, length)| Op::Shift(who, start, length)),
        2 => who.clone().prop_map(Op::Save),
        2 => (0..KEPT).prop_map(Op::Restore),
        2 => (who.clone(), 1..=most, any::<bool>()).prop_map(|(who, tokens, same)| Op::Stale(who, tokens, same)),
        2 => (who, 0..BAD, any::<u32>()).prop_map(|(who, kind, number)| Op::Bad(who, kind, number)),
    ]
}

/// States that a program keeps.
const KEPT: usize = 3;

/// A context, its sequences, and what they should hold.
struct Machine<'a> {
    subject: &'a Subject,
    kind: MemoryKind,
    window: u32,
    renumbers: bool,
    context: Context,
    live: Vec<(Sequence, History)>,
    states: Vec<(State, History)>,
    cells: u64,
    oracle: &'a mut Oracle,
}

impl<'a> Machine<'a> {
    fn new(subject: &'a Subject, oracle: &'a mut Oracle) -> Self {
        let context = Context::new(&subject.model, &subject.settings).unwrap();
        let kind = context.limits().memory();
        Self {
            subject,
            kind,
            window: subject.model.sliding_window(),
            renumbers: subject.model.architecture() != "qwen2vl",
            context,
            live: Vec::new(),
            states: Vec::new(),
            cells: 0,
            oracle,
        }
    }

    fn run(&mut self, op: &Op) {
        if self.live.is_empty() && !matches!(op, Op::New) {
            return;
        }
        let at = |who: usize| who % self.live.len();
        match *op {
            Op::New => {
                let made = self.context.new_sequence();
                self.add(made.map_err(MemoryError::from), History { rollback: Some(0), ..History::default() });
            }
            Op::Drop(who) => drop(self.live.swap_remove(at(who))),
            Op::Decode(ref parts) => self.decode(parts),
            Op::Abort(ref parts, checks) => {
                let abort = self.context.abort_handle();
                // After an abort llama.cpp looks for cells from another place on (llama-kv-cache.cpp:824 puts back the heads
                // of the first streams, whichever streams they are of), and sums are of another order: not bit for bit.
                if self.subject.tolerance[0].is_some() {
                    abort.abort_after(checks);
                }
                self.decode(parts);
                abort.reset();
            }
            Op::Truncate(who, length) => {
                let index = at(who);
                self.truncate(index, length % (self.live[index].1.len() + 1));
            }
            Op::GoBack(who, tokens) => {
                let index = at(who);
                self.truncate(index, self.live[index].1.len().saturating_sub(tokens));
            }
            Op::Clear(who) => {
                let index = at(who);
                let (sequence, history) = &mut self.live[index];
                self.context.clear(sequence).unwrap();
                history.clear();
            }
            Op::ClearAll => {
                self.context.clear_all().unwrap();
                self.live.iter_mut().for_each(|(_, history)| history.clear());
            }
            Op::Fork(who) => {
                let index = at(who);
                self.fork(index, self.live[index].1.len(), true);
            }
            Op::ForkPrefix(who, length) => {
                let index = at(who);
                self.fork(index, length % (self.live[index].1.len() + 1), false);
            }
            Op::Shift(who, start, length) => {
                let index = at(who);
                let whole = self.live[index].1.len();
                let start = start % (whole + 1);
                self.shift(index, start..start + length % (whole - start + 1));
            }
            Op::Save(who) => {
                let index = at(who);
                self.save(index);
            }
            Op::Restore(which) => self.restore(which),
            Op::Stale(who, tokens, same) => {
                let index = at(who);
                self.stale(index, tokens, same);
            }
            Op::Bad(who, kind, number) => {
                let index = at(who);
                self.bad(index, kind, number);
            }
        }
        self.check_spans();
    }

    fn check_spans(&self) {
        for (sequence, history) in &self.live {
            let length = history.len();
            let span = self.context.span(sequence).unwrap();
            assert_eq!(sequence.len(), length);
            assert!(!sequence.is_damaged());
            match self.kind {
                MemoryKind::Recurrent | MemoryKind::Hybrid => assert_eq!(span, length.saturating_sub(1)..length),
                _ if self.window == 0 => assert_eq!(span, 0..length),
                // What the next token looks back on.
                _ => assert!(span.end == length && span.start <= (length + 1).saturating_sub(self.window), "{span:?}"),
            }
        }
    }

    /// A name for a cell that no other has.
    fn cell(&mut self) -> u64 {
        self.cells += 1;
        self.cells
    }

    fn has_state(&self) -> bool {
        matches!(self.kind, MemoryKind::Recurrent | MemoryKind::Hybrid)
    }

    fn shares_state(&self, index: usize) -> bool {
        let state = self.live[index].1.state;
        (0..).zip(&self.live).any(|(other, (_, history))| other != index && state != 0 && history.state == state)
    }

    /// Whether a sequence can go on from `length`; `None` where this model does not know.
    fn goes_back(&self, index: usize, length: u32) -> Option<bool> {
        let (sequence, history) = &self.live[index];
        if length == 0 || length == history.len() {
            return Some(true);
        }
        if self.has_state() {
            // A fork that was decoded has let go of the state, which this model sees and the context need not.
            return if self.shares_state(index) {
                Some(false)
            } else {
                history.rollback.map(|rollback| history.len() - length <= rollback)
            };
        }
        let start = self.context.span(sequence).unwrap().start;
        Some(start == 0 || start + self.window <= length + 1)
    }

    fn truncate(&mut self, index: usize, length: u32) {
        let expected = self.goes_back(index, length);
        let (sequence, history) = &mut self.live[index];
        let can = self.context.can_truncate(sequence, length);
        let result = self.context.truncate(sequence, length);
        assert_eq!(can, result.is_ok(), "can_truncate to {length} of {}: {result:?}", history.len());
        match result {
            Ok(()) => history.truncate(length),
            Err(MemoryError::CannotTruncate { id, length: asked, .. }) => {
                assert_eq!((id, asked), (sequence.id(), length))
            }
            Err(error) => panic!("truncate: {error}"),
        }
        if let Some(expected) = expected {
            assert_eq!(can, expected, "truncating to {length}");
        }
    }

    fn fork(&mut self, index: usize, length: u32, whole: bool) {
        let (sequence, history) = &self.live[index];
        let partial = length > 0 && length < history.len();
        let expected = match self.has_state() {
            true => !partial && (length == 0 || !history.taken_back),
            false => self.goes_back(index, length).unwrap(),
        };
        let can = self.context.can_fork_at(sequence, length);
        let made = match whole {
            true => self.context.fork(sequence),
            false => self.context.fork_prefix(sequence, length),
        };
        assert_eq!(can, made.is_ok(), "can_fork_at {length} of {}: {made:?}", history.len());
        if !expected {
            match made.unwrap_err() {
                MemoryError::CannotFork { id, length: asked, .. } => assert_eq!((id, asked), (sequence.id(), length)),
                error => panic!("fork: {error}"),
            }
            return;
        }
        let mut copy = self.live[index].1.clone();
        copy.truncate(length);
        copy.rollback = Some(0);
        if self.subject.layout == KvLayout::Split {
            copy.cells = copy.cells.iter().map(|_| self.cell()).collect();
        }
        self.add(made, copy);
    }

    fn add(&mut self, made: Result<Sequence, MemoryError>, history: History) {
        match made {
            Ok(sequence) => self.live.push((sequence, history)),
            Err(error) => {
                assert_eq!(error, SequenceError::NoFreeSlot { limit: SLOTS }.into());
                assert_eq!(self.live.len() as u32, SLOTS);
            }
        }
    }

    fn shift(&mut self, index: usize, discard: Range<u32>) {
        let (sequence, history) = &self.live[index];
        let whole = history.len();
        let moves = !discard.is_empty() && discard.end < whole;
        let shared = (0..)
            .zip(&self.live)
            .any(|(other, (_, others))| other != index && others.cells.iter().any(|cell| history.cells.contains(cell)));
        let expected = match moves {
            true => Some(!self.has_state() && self.renumbers && !shared && self.window == 0),
            false if discard.is_empty() => Some(true),
            false => self.goes_back(index, discard.start),
        };
        let can = self.context.can_shift(sequence, discard.clone());
        let result = self.context.shift(sequence, discard.clone());
        assert_eq!(can, result.is_ok(), "can_shift {discard:?} of {whole}: {result:?}");
        if let Some(expected) = expected {
            assert_eq!(can, expected, "shifting {discard:?} of {whole}: {result:?}");
        }
        if result.is_err() {
            return;
        }
        let history = &mut self.live[index].1;
        if moves {
            history.cells.drain(discard.start as usize..discard.end as usize);
            history.steps.push(Step::Shift(discard));
        } else if !discard.is_empty() {
            history.truncate(discard.start);
        }
    }

    fn save(&mut self, index: usize) {
        let (sequence, history) = &self.live[index];
        match self.context.save(sequence) {
            Ok(state) => {
                assert_eq!(state.sequences().iter().map(|saved| saved.len()).collect::<Vec<_>>(), [history.len()]);
                self.states.push((state, history.clone()));
                if self.states.len() > KEPT {
                    self.states.remove(0);
                }
            }
            // One token more is computed to carry out what waits, which a full context has no room for.
            Err(StateError::Unsettled) => assert_eq!(self.live.len() as u32, SLOTS),
            Err(StateError::Unsupported { .. }) => {}
            Err(error) => panic!("save: {error}"),
        }
        // That token may have moved states, without their snapshots.
        for (_, history) in &mut self.live {
            history.rollback = history.rollback.filter(|rollback| *rollback == 0);
        }
    }

    fn restore(&mut self, which: usize) {
        let Some((state, history)) = self.states.get(which) else { return };
        let mut history = history.clone();
        let restored = self.context.restore(state);
        if self.live.len() as u32 == SLOTS {
            assert!(matches!(restored, Err(StateError::NotEnoughSequences { needed: 1, free: 0 })), "{restored:?}");
            return;
        }
        match restored {
            Ok(sequence) => {
                assert_eq!(sequence.len(), history.len());
                history.cells = history.cells.iter().map(|_| self.cell()).collect();
                (history.state, history.rollback, history.taken_back) = (self.cell(), Some(0), false);
                self.live.push((sequence, history));
            }
            // Where cells are few they may be taken, and need not lie together.
            Err(StateError::NoRoom { .. }) => assert!(self.window > 0 || self.subject.layout == KvLayout::Unified),
            Err(error) => panic!("restore: {error}"),
        }
        for (_, history) in &mut self.live {
            history.rollback = history.rollback.filter(|rollback| *rollback == 0);
        }
    }

    /// Fills a batch and decodes another before it, with a token of the same sequence or without any. The first is refused
    /// where its sequence has moved, and the outputs of the second stay.
    fn stale(&mut self, index: usize, tokens: u32, same: bool) {
        let sequence = &self.live[index].0;
        let mut first = self.context.new_batch();
        let Ok(slot) = first.prompt(sequence, &prompt(7, tokens)) else { return };
        if !same {
            return drop(first);
        }
        let (id, before) = (sequence.id(), sequence.len());
        self.decode(&[(index, 3, 1)]);
        let (sequence, history) = &self.live[index];
        if sequence.len() == before {
            return;
        }
        let had_outputs = self.context.outputs().is_some();
        let refused = self.context.decode(&mut first).map(drop);
        assert_eq!(refused, Err(DecodeError::SequenceChanged { id, expected: before, found: history.len() }));
        assert_eq!(first.len(), tokens, "the batch is kept");
        assert!(self.context.outputs().is_some() == had_outputs);
        let read = self.context.outputs().map(|outputs| outputs.get(slot).is_ok());
        assert_ne!(read, Some(true), "an output of a batch that was never decoded");
        assert_eq!(sequence.len(), before + 1);
    }

    /// What cannot be done is refused with its numbers, and nothing changes.
    fn bad(&mut self, index: usize, kind: u32, number: u32) {
        let vocabulary = self.context.limits().vocabulary();
        let (sequence, history) = &self.live[index];
        let (id, length) = (sequence.id(), history.len());
        let beyond = length.saturating_add(1 + number % 1000);
        let out_of_range = |asked: Range<u32>| MemoryError::OutOfRange { id, asked, length };
        match kind {
            0 | 1 => {
                let token = [-1, vocabulary as i32, i32::MIN, i32::MAX][number as usize % 4];
                let mut batch = self.context.new_batch();
                let got = batch.prompt(sequence, &[Token(5), Token(token)]);
                let full = length + 2 > self.context.limits().sequence_tokens();
                let refused = matches!(got, Err(PushError::TokenOutOfRange { .. }));
                assert!(refused || (full && got.is_err()), "{got:?}");
                assert_eq!((batch.len(), self.context.decode(&mut batch).map(drop)), (0, Err(DecodeError::EmptyBatch)));
            }
            2 => {
                let embedding = vec![0.5; self.context.limits().input_width() as usize];
                assert_eq!(self.context.new_batch().push_embedding(sequence, &embedding), Err(PushError::TakesTokens));
                let mut batch = self.context.new_embedding_batch();
                assert!(matches!(
                    batch.push_embedding(sequence, &embedding[1..]),
                    Err(PushError::EmbeddingWidth { .. })
                ));
                assert_eq!(batch.push(sequence, Token(5)), Err(PushError::TakesEmbeddings));
            }
            3 => assert_eq!(self.context.truncate(sequence, beyond), Err(out_of_range(0..beyond))),
            4 => assert_eq!(self.context.fork_prefix(sequence, beyond).unwrap_err(), out_of_range(0..beyond)),
            5 => assert_eq!(self.context.shift(sequence, length..beyond), Err(out_of_range(length..beyond))),
            6 => {
                let asked = Range { start: length + 1, end: length };
                assert_eq!(self.context.shift(sequence, asked.clone()), Err(out_of_range(asked)));
            }
            7 => {
                // A sequence of another context.
                let mut other = Context::new(&self.subject.model, &self.subject.alone).unwrap();
                let stranger = other.new_sequence().unwrap();
                let mut batch = self.context.new_batch();
                assert!(batch.push(&stranger, Token(5)).is_err() && self.context.span(&stranger).is_err());
                assert!(self.context.fork(&stranger).is_err() && self.context.clear(&stranger).is_err());
                let mut theirs = other.new_batch();
                theirs.push(&stranger, Token(5)).unwrap();
                assert_eq!(self.context.decode(&mut theirs).map(drop), Err(DecodeError::ForeignBatch));
            }
            _ => {
                let mut bytes = match self.states.first() {
                    Some((state, _)) => state.as_bytes().to_vec(),
                    None => vec![7; number as usize % 500],
                };
                if let Some(byte) = bytes.len().checked_sub(1).map(|last| number as usize % (last + 1)) {
                    bytes[byte] ^= 0x40;
                }
                assert!(State::from_bytes(bytes).is_err(), "a forged state");
            }
        }
    }

    fn decode(&mut self, parts: &[(usize, u32, u32)]) {
        let mut batch = self.context.new_batch();
        let mut outputs = Vec::new();
        let before: Vec<History> = self.live.iter().map(|(_, history)| history.clone()).collect();
        let mut rows = vec![0; self.live.len()];
        for &(who, salt, count) in parts {
            let index = who % self.live.len();
            let tokens = prompt(salt, count);
            let cells: Vec<u64> = tokens.iter().map(|_| self.cell()).collect();
            let state = self.cell();
            let (sequence, history) = &mut self.live[index];
            let slot = match batch.prompt(sequence, &tokens) {
                Ok(slot) => slot,
                Err(PushError::SequenceFull { .. } | PushError::BatchFull { .. }) => continue,
                Err(error) => panic!("a push: {error}"),
            };
            rows[index] += count;
            history.cells.extend(cells);
            history.state = state;
            history.steps.extend(tokens.into_iter().map(Step::Push));
            outputs.push((slot, history.steps.clone()));
        }
        if outputs.is_empty() {
            return;
        }
        let (has_state, forgets) = (self.has_state(), self.window > 0);
        let got = match self.context.decode(&mut batch) {
            Ok(got) => got,
            Err(DecodeError::NoSlot { .. }) if self.window > 0 => {
                for ((_, history), before) in self.live.iter_mut().zip(before) {
                    *history = before;
                }
                return;
            }
            Err(DecodeError::Aborted { damaged }) => {
                for ((index, (sequence, history)), before) in self.live.iter_mut().enumerate().zip(before) {
                    *history = before;
                    assert_eq!(sequence.is_damaged(), damaged.contains(&sequence.id()));
                    if sequence.is_damaged() {
                        assert!(rows[index] > 0, "a sequence that was not in the batch");
                        assert!(has_state || forgets, "a memory that goes back anywhere");
                        self.context.clear(sequence).unwrap();
                        history.clear();
                    }
                }
                return;
            }
            Err(error) => panic!("a decode: {error}"),
        };
        for (slot, steps) in outputs {
            let (got, want) = (got.get(slot).unwrap(), self.oracle.logits(&steps));
            check_samplers(got);
            let shifted = steps.iter().any(|step| matches!(step, Step::Shift(_)));
            match self.subject.tolerance[usize::from(shifted)] {
                None => assert!(got == want, "not bit for bit, error {:e}", nmse(got, want)),
                Some(most) => assert_equal(got, want, most, "against one step at a time"),
            }
        }
        let snapshots = self.context.limits().rollback_tokens();
        let alone = rows.iter().filter(|rows| **rows > 0).count() == 1;
        for ((_, history), rows) in self.live.iter_mut().zip(rows) {
            if rows > 0 {
                history.taken_back = false;
                history.rollback = (alone || snapshots == 0).then(|| snapshots.min(rows - 1));
            } else if !alone && snapshots > 0 && history.rollback != Some(0) {
                history.rollback = None;
            }
        }
    }
}

/// What samplers choose of logits: the largest, and the same by chance for the same seed.
fn check_samplers(logits: &[f32]) {
    let chosen = Sampler::greedy().sample(logits).unwrap();
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    assert_eq!(logits.iter().position(|logit| *logit == largest), Some(chosen.0 as usize));
    let drawn = || Sampler::chain().temperature(0.7).unwrap().dist(11).sample(logits).unwrap();
    assert!(drawn() == drawn() && logits[drawn().0 as usize].is_finite());
}

/// Runs a program, and then has every sequence say what it remembers.
pub fn run(subject: &Subject, program: &[Op]) {
    let mut oracle = Oracle::new(subject);
    let mut machine = Machine::new(subject, &mut oracle);
    for op in program {
        machine.run(op);
    }
    for index in 0..machine.live.len() {
        machine.run(&Op::Decode(vec![(index, 0, 1)]));
    }
}

/// Settings in which rounding hides nothing, for a layout.
pub fn settings(layout: KvLayout) -> ContextParams {
    params().sequences(SLOTS).context_tokens(SLOTS * 256).batch_tokens(64).micro_batch_tokens(16).kv_layout(layout)
}
