//! What is done to the memory of sequences, against a naive model of it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Mutex;

use batch_suite::{alone, assert_equal, encoder, model, params, prompt, tiny};
use fixtures::{Llama, Weights};
use llama_safe::{Context, ContextParams, KvLayout, KvType, MemoryError, Model, Sequence, SequenceError, Token};
use proptest::prelude::*;

const LAYOUTS: [KvLayout; 2] = [KvLayout::Split, KvLayout::Unified];
const SLOTS: u32 = 4;

fn settings(layout: KvLayout) -> ContextParams {
    params().sequences(SLOTS).context_tokens(SLOTS * 256).batch_tokens(64).micro_batch_tokens(16).kv_layout(layout)
}

fn context(layout: KvLayout) -> Context {
    Context::new(&tiny(Weights::F16), &settings(layout)).unwrap()
}

/// A sequence that holds `tokens`.
fn sequence_of(context: &mut Context, tokens: &[Token]) -> Sequence {
    let sequence = context.new_sequence().unwrap();
    decode(context, &sequence, tokens);
    sequence
}

/// The logits after the last of `tokens`.
fn decode(context: &mut Context, sequence: &Sequence, tokens: &[Token]) -> Vec<f32> {
    let mut batch = context.new_batch();
    let slot = batch.prompt(sequence, tokens).unwrap();
    context.decode(&mut batch).unwrap().get(slot).unwrap().to_vec()
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
}

impl History {
    fn len(&self) -> u32 {
        self.cells.len() as u32
    }

    fn clear(&mut self) {
        *self = Self::default();
    }

    fn truncate(&mut self, length: u32) {
        if length == 0 {
            return self.clear();
        }
        self.cells.truncate(length as usize);
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
struct Oracle {
    context: Context,
    sequence: Sequence,
    /// What the sequence holds.
    done: Vec<Step>,
    known: HashMap<Vec<Step>, Vec<f32>>,
}

impl Oracle {
    fn new() -> Self {
        let mut context = Context::new(&tiny(Weights::F16), &params().context_tokens(256)).unwrap();
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
                        let logits = decode(&mut self.context, &self.sequence, &[*token]);
                        self.known.insert(self.done.clone(), logits);
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
enum Op {
    New,
    Drop(usize),
    /// For each part a sequence, a salt and a number of tokens; one decode.
    Decode(Vec<(usize, u32, u32)>),
    Truncate(usize, u32),
    Clear(usize),
    ClearAll,
    Fork(usize),
    ForkPrefix(usize, u32),
    Shift(usize, u32, u32),
}

fn op() -> impl Strategy<Value = Op> {
    let who = 0..SLOTS as usize;
    prop_oneof![
        3 => Just(Op::New),
        2 => who.clone().prop_map(Op::Drop),
        10 => prop::collection::vec((who.clone(), 0..4u32, 1..7u32), 1..4).prop_map(Op::Decode),
        2 => (who.clone(), any::<u32>()).prop_map(|(who, length)| Op::Truncate(who, length)),
        1 => who.clone().prop_map(Op::Clear),
        1 => Just(Op::ClearAll).boxed(),
        3 => who.clone().prop_map(Op::Fork),
        3 => (who.clone(), any::<u32>()).prop_map(|(who, length)| Op::ForkPrefix(who, length)),
        4 => (who, any::<u32>(), any::<u32>()).prop_map(|(who, start, length)| Op::Shift(who, start, length)),
    ]
}

/// A context, its sequences, and what they should hold.
struct Machine<'oracle> {
    layout: KvLayout,
    context: Context,
    live: Vec<(Sequence, History)>,
    cells: u64,
    oracle: &'oracle mut Oracle,
}

impl<'oracle> Machine<'oracle> {
    fn new(layout: KvLayout, oracle: &'oracle mut Oracle) -> Self {
        Self { layout, context: context(layout), live: Vec::new(), cells: 0, oracle }
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::New => match self.context.new_sequence() {
                Ok(sequence) => self.live.push((sequence, History::default())),
                Err(error) => {
                    assert_eq!(error, SequenceError::NoFreeSlot { limit: SLOTS });
                    assert_eq!(self.live.len() as u32, SLOTS);
                }
            },
            Op::ClearAll => {
                self.context.clear_all().unwrap();
                self.live.iter_mut().for_each(|(_, history)| history.clear());
            }
            _ if self.live.is_empty() => {}
            Op::Drop(who) => drop(self.live.swap_remove(who % self.live.len())),
            Op::Decode(ref parts) => self.decode(parts),
            Op::Truncate(who, length) => {
                let (sequence, history) = self.pick(who);
                let length = length % (history.len() + 1);
                history.truncate(length);
                let sequence = &*sequence as *const Sequence;
                let _ = sequence;
                let index = who % self.live.len();
                self.context.truncate(&self.live[index].0, length).unwrap();
            }
            _ => {}
        }
    }
}
