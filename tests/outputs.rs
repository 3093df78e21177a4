//! What can be read after a computation: its own outputs, bit for bit, or nothing; whatever was done or refused since.

use batch_suite::{exact_params, prompt, tiny};
use fixtures::Weights;
use llama_safe::{Batch, Context, DecodeError, KvLayout, OutputSlot, Sequence, State, Token};

/// A context after a decode of two sequences, and what there is besides.
struct Scene {
    context: Context,
    first: Option<Sequence>,
    second: Sequence,
    /// Of the decode, with what was read then.
    read: [(OutputSlot, Vec<f32>); 2],
    /// A batch that has been filled.
    next: Batch,
    /// What that batch promises.
    promised: OutputSlot,
    state: State,
    other: (Context, Sequence),
}

impl Scene {
    fn new(layout: KvLayout) -> Self {
        let settings = exact_params().sequences(4).context_tokens(1024).kv_layout(layout);
        let mut context = Context::new(&tiny(Weights::F32), &settings).unwrap();
        let (first, second) = (context.new_sequence().unwrap(), context.new_sequence().unwrap());
        let mut batch = context.new_batch();
        batch.extend(&first, &prompt(3, 9)).unwrap();
        context.decode(&mut batch).unwrap();
        let state = context.save(&first).unwrap();
        let slots = [batch.prompt(&first, &prompt(1, 7)).unwrap(), batch.prompt(&second, &prompt(2, 5)).unwrap()];
        let outputs = context.decode(&mut batch).unwrap();
        let read = slots.map(|slot| (slot, outputs.get(slot).unwrap().to_vec()));
        let mut next = context.new_batch();
        let promised = next.push_output(&second, Token(9)).unwrap();
        let mut other = Context::new(&tiny(Weights::F32), &settings).unwrap();
        let stranger = other.new_sequence().unwrap();
        Self { context, first: Some(first), second, read, next, promised, state, other: (other, stranger) }
    }

    fn decode_next(&mut self) -> Result<(), DecodeError> {
        self.context.decode(&mut self.next).map(drop)
    }
}

/// What must be left of the outputs.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Left {
    /// All of them: nothing was computed since.
    Same,
    /// None of them: something was computed, or tried.
    Gone,
}

/// What is done, whether it works, and what is left of the outputs.
type Row = (&'static str, fn(&mut Scene) -> bool, bool, Left);

const ROWS: &[Row] = &[
    ("nothing", |_| true, true, Left::Same),
    // Refused before anything is computed.
    ("an empty batch", |s| s.context.decode(&mut s.other.0.new_batch()).is_ok(), false, Left::Same),
    (
        "a batch without rows",
        |s| {
            s.next.clear();
            s.decode_next().is_ok()
        },
        false,
        Left::Same,
    ),
    ("a batch of another context", |s| s.other.0.decode(&mut s.next).is_ok(), false, Left::Same),
    ("a token out of range", |s| s.next.push(&s.second, Token(-1)).is_ok(), false, Left::Same),
    (
        "a decode of a sequence that moved",
        |s| {
            s.context.truncate(&s.second, 2).unwrap();
            s.decode_next().is_ok()
        },
        false,
        Left::Same,
    ),
    ("encoding where nothing encodes", |s| s.context.encode(&mut s.next).is_ok(), false, Left::Same),
    // Computations that fail.
    (
        "an aborted decode",
        |s| {
            s.context.abort_handle().abort_after(20);
            s.decode_next().is_ok()
        },
        false,
        Left::Gone,
    ),
    (
        "a decode aborted at once",
        |s| {
            s.context.abort_handle().abort();
            s.decode_next().is_ok()
        },
        false,
        Left::Gone,
    ),
    // Memory.
    ("truncate", |s| s.context.truncate(s.first.as_ref().unwrap(), 3).is_ok(), true, Left::Same),
    ("truncate beyond", |s| s.context.truncate(&s.second, 99).is_ok(), false, Left::Same),
    ("shift", |s| s.context.shift(s.first.as_ref().unwrap(), 2..5).is_ok(), true, Left::Same),
    ("shift of a stranger", |s| s.context.shift(&s.other.1, 0..1).is_ok(), false, Left::Same),
    ("fork", |s| s.context.fork(s.first.as_ref().unwrap()).is_ok(), true, Left::Same),
    ("fork of a part", |s| s.context.fork_prefix(s.first.as_ref().unwrap(), 4).is_ok(), true, Left::Same),
    ("clear", |s| s.context.clear(s.first.as_ref().unwrap()).is_ok(), true, Left::Same),
    ("clear_all", |s| s.context.clear_all().is_ok(), true, Left::Same),
    (
        "drop",
        |s| {
            s.first = None;
            s.context.new_sequence().is_ok()
        },
        true,
        Left::Same,
    ),
    // States.
    ("save", |s| s.context.save(s.first.as_ref().unwrap()).is_ok(), true, Left::Same),
    (
        "save after a shift",
        |s| {
            s.context.shift(s.first.as_ref().unwrap(), 2..5).unwrap();
            s.context.save(s.first.as_ref().unwrap()).is_ok()
        },
        true,
        Left::Gone,
    ),
    ("restore", |s| s.context.restore(&s.state).is_ok(), true, Left::Gone),
    (
        "restore without a slot",
        |s| {
            let _all: Vec<_> = (0..2).map(|_| s.context.new_sequence().unwrap()).collect();
            s.context.restore(&s.state).is_ok()
        },
        false,
        Left::Same,
    ),
    // What is computed with.
    (
        "a control vector",
        |s| {
            let width = s.context.model().width() as usize;
            s.context.set_control_vector(&vec![0.1; width], 1..=1).is_ok()
        },
        true,
        Left::Same,
    ),
    ("a control vector that is none", |s| s.context.set_control_vector(&[], 1..=1).is_ok(), false, Left::Same),
    // Another computation.
    ("a decode", |s| s.decode_next().is_ok(), true, Left::Gone),
];

#[test]
fn outputs_are_those_of_the_last_computation_or_none() {
    for layout in [KvLayout::Split, KvLayout::Unified] {
        for (what, act, works, left) in ROWS {
            let mut scene = Scene::new(layout);
            assert_eq!(act(&mut scene), *works, "{what}, {layout:?}");
            let outputs = scene.context.outputs();
            assert!(*left == Left::Gone || outputs.is_some(), "{what}, {layout:?}: nothing was computed");
            for (slot, read) in &scene.read {
                match (*left, outputs.map(|outputs| outputs.get(*slot))) {
                    (Left::Same, Some(Ok(values))) => assert!(values == read, "{what}, {layout:?}: other values"),
                    (Left::Gone, None | Some(Err(_))) => {}
                    (_, found) => panic!("{what}, {layout:?}: {:?}", found.map(|found| found.is_ok())),
                }
            }
            let promised = outputs.map(|outputs| outputs.get(scene.promised).is_ok());
            assert_eq!(promised == Some(true), *what == "a decode", "{what}, {layout:?}: what the next batch promises");
            // And what comes after is what it is without all that.
            scene.context.abort_handle().reset();
            scene.context.clear_control_vector().unwrap();
            scene.first = None;
            batch_suite::still_works(&mut scene.context);
        }
    }
}
