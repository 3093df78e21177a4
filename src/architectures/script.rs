//! What the comparison makes a context do: ways to compute the same texts, as data.

use llama_safe::KvLayout;

/// One thing to do.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// Decode, in one batch, the next tokens of these texts, as many as the second number says.
    Decode(&'static [(usize, usize)], Ask),
    /// The second text goes on from the first so many tokens of the first one's sequence; all if `None`.
    Fork(usize, usize, Option<u32>),
    /// Take a text back to so many tokens.
    Truncate(usize, u32),
    /// Give a text's sequence up.
    Drop(usize),
    /// Save a text's sequence, give it up, and restore it.
    Restore(usize),
}

/// Which rows are asked for their output.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ask {
    /// All of them.
    All,
    /// The last of each text.
    Last,
}

use Ask::{All, Last};
use Step::{Decode, Drop, Fork, Restore, Truncate};

/// A way to compute texts.
pub(super) struct Script {
    /// Its name in the table.
    pub name: &'static str,
    /// Sequences that the context has room for.
    pub sequences: u32,
    /// Tokens of a micro-batch.
    pub micro_batch: u32,
    /// How cells are shared out.
    pub layout: KvLayout,
    /// What is done.
    pub steps: &'static [Step],
}

impl Script {
    const fn new(name: &'static str, sequences: u32, steps: &'static [Step]) -> Self {
        Self { name, sequences, micro_batch: 128, layout: KvLayout::Split, steps }
    }

    const fn micro(mut self) -> Self {
        self.micro_batch = 5;
        self
    }

    const fn unified(mut self) -> Self {
        self.layout = KvLayout::Unified;
        self
    }
}

/// Tokens of each text.
pub(super) const LENGTH: usize = 24;
/// Texts. The last begins as the first does.
pub(super) const TEXTS: usize = 4;
/// Tokens that the first and the last text have in common.
pub(super) const COMMON: u32 = 7;

const WHOLE: &[Step] = &[Decode(&[(0, 24)], All)];
const SINGLE: &[Step] = &[Decode(&[(0, 24)], Last)];
const CHUNKS: &[Step] =
    &[Decode(&[(0, 9)], Last), Decode(&[(0, 3)], Last), Decode(&[(0, 11)], Last), Decode(&[(0, 1)], Last)];
const ONE_OF_MANY: &[Step] = &[Decode(&[(2, 24)], All)];
const SEQUENCES: &[Step] = &[Decode(&[(0, 11), (1, 7), (2, 16)], All), Decode(&[(0, 13), (1, 17), (2, 8)], All)];
const LAST: &[Step] = &[Decode(&[(0, 11), (1, 7), (2, 16)], Last), Decode(&[(0, 1), (1, 1), (2, 1)], Last)];
const EQUAL: &[Step] = &[Decode(&[(0, 12), (1, 12), (2, 12)], Last), Decode(&[(0, 12), (1, 12), (2, 12)], Last)];
const MIXED: &[Step] = &[
    Decode(&[(0, 9)], Last),
    Decode(&[(0, 1), (1, 8)], Last),
    Decode(&[(0, 1), (1, 1), (2, 13)], Last),
    Decode(&[(2, 1), (0, 1)], Last),
    Decode(&[(1, 1)], Last),
    Decode(&[(2, 1), (1, 4), (0, 1)], Last),
];
const STEPS: &[Step] = &[
    Decode(&[(0, 1), (1, 1), (2, 1)], Last),
    Decode(&[(0, 1), (1, 1), (2, 1)], Last),
    Decode(&[(0, 1), (2, 1)], Last),
    Decode(&[(1, 1), (2, 1)], Last),
    Decode(&[(0, 1), (1, 1), (2, 1)], Last),
];
const FORK: &[Step] = &[
    Decode(&[(0, 7), (1, 5)], Last),
    Fork(0, 3, None),
    Decode(&[(0, 4), (3, 6), (1, 2)], Last),
    Decode(&[(3, 4), (0, 3)], Last),
];
const PREFIX: &[Step] =
    &[Decode(&[(0, 9), (1, 5)], Last), Fork(0, 3, Some(COMMON)), Decode(&[(0, 4), (3, 6), (1, 2)], Last)];
const TRUNCATE: &[Step] = &[
    Decode(&[(0, 9), (1, 5)], Last),
    Truncate(0, 6),
    Decode(&[(0, 2), (1, 2)], Last),
    Truncate(1, 6),
    Decode(&[(0, 3), (1, 3)], Last),
];
const REUSE: &[Step] = &[
    Decode(&[(0, 12), (1, 5)], Last),
    Drop(0),
    Decode(&[(2, 6), (1, 3)], Last),
    Drop(1),
    Decode(&[(1, 4), (2, 4)], Last),
    Decode(&[(0, 4), (2, 4)], Last),
];
const STATE: &[Step] = &[Decode(&[(0, 11), (1, 7)], Last), Restore(0), Decode(&[(1, 3), (0, 5)], Last)];

/// All ways.
pub(super) const SCRIPTS: &[Script] = &[
    Script::new("whole", 1, WHOLE),
    Script::new("single output", 1, SINGLE),
    Script::new("chunks", 1, CHUNKS),
    Script::new("micro-batches", 1, WHOLE).micro(),
    Script::new("one of many", 3, ONE_OF_MANY),
    Script::new("sequences", 3, SEQUENCES),
    Script::new("sequences, micro-batches", 3, SEQUENCES).micro(),
    Script::new("sequences, unified", 3, SEQUENCES).unified(),
    Script::new("sequences, unified, micro-batches", 3, SEQUENCES).unified().micro(),
    Script::new("last outputs", 3, LAST),
    Script::new("last outputs, unified, micro-batches", 3, LAST).unified().micro(),
    Script::new("equal lengths", 3, EQUAL),
    Script::new("equal lengths, micro-batches", 3, EQUAL).micro(),
    Script::new("mixed", 3, MIXED),
    Script::new("mixed, unified, micro-batches", 3, MIXED).unified().micro(),
    Script::new("steps", 3, STEPS),
    Script::new("steps, unified", 3, STEPS).unified(),
    Script::new("fork", 4, FORK),
    Script::new("fork, unified", 4, FORK).unified(),
    Script::new("fork of a prefix, unified", 4, PREFIX).unified(),
    Script::new("truncate", 3, TRUNCATE),
    Script::new("truncate, unified", 3, TRUNCATE).unified(),
    Script::new("slot reuse", 3, REUSE),
    Script::new("slot reuse, unified", 3, REUSE).unified(),
    Script::new("state", 3, STATE),
    Script::new("state, unified", 3, STATE).unified(),
];
