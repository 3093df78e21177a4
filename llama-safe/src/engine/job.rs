//! A request inside the engine.
#![forbid(unsafe_code)]

use std::time::Instant;

use crate::error::GenerateError;
use crate::id::Token;

use super::lookup::Lookup;
use super::prefix::HolderId;

/// Why an answer ended, as the engine knows it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Ending<R> {
    /// What was said is whole.
    Over(R),
    /// No room for another token.
    ContextFull,
    Cancelled,
    Deadline,
    Failed(GenerateError),
}

/// The next token, and whether it is the last.
pub(crate) struct Spoken<R> {
    pub token: Token,
    pub over: Option<R>,
}

/// Who chooses a request's tokens, and hands them out.
pub(crate) trait Voice {
    /// Why a text is whole.
    type Reason;

    /// Whether nobody wants to hear any more.
    fn is_gone(&self) -> bool;

    /// Whether the listener is so far behind that nothing more should be said for now.
    fn is_full(&self) -> bool;

    /// From now on it says everything, whether anybody listens or not.
    fn speak_on(&mut self);

    /// It has a sequence now, in which so many tokens of its text were found.
    fn start(&mut self, reused: u32);

    /// Chooses the next token.
    fn speak(&mut self, logits: &[f32]) -> Result<Spoken<Self::Reason>, GenerateError>;

    /// The end, and the last that is heard of it.
    fn end(self, ending: Ending<Self::Reason>);
}

/// What a request brings along.
pub(crate) struct Task<V> {
    pub prompt: Vec<Token>,
    pub voice: V,
    pub priority: i8,
    pub deadline: Option<Instant>,
    /// Where the context is full, keep so many tokens of the text's beginning and the later half of the rest; `None` ends it.
    pub keep: Option<u32>,
}

/// A request that waits or runs.
pub(crate) struct Job<S, C, V> {
    pub holder: HolderId,
    pub order: i64,
    pub deadline: Option<Instant>,
    pub keep: Option<u32>,
    pub voice: V,
    /// The prompt and what was said, without what was discarded.
    pub text: Vec<Token>,
    /// Its sequence, while it runs.
    pub seat: Option<S>,
    /// Tokens of the text that are in the sequence.
    pub computed: u32,
    /// What its sequence held when that was taken.
    pub saved: Option<(C, u32)>,
    /// Whether it has said anything.
    pub spoke: bool,
    /// Whether what it has in memory cannot be computed from its text.
    pub shifted: bool,
    /// The step in which it had its last turn.
    pub served: u64,
    /// Where its next chunk must end at the latest, so that another request can fork it there.
    pub stop: Option<u32>,
    /// Whether it is computed by itself, since it was in a batch that failed, until it gives an output.
    pub suspect: bool,
    /// Whether it gave numbers that are none, with others in memory: it is the first to be computed by itself.
    pub accused: bool,
    /// Times that it has failed by itself, one after the other.
    pub failures: u32,
    pub lookup: Option<Lookup>,
}

impl<S, C, V> Job<S, C, V> {
    /// Tokens of its text that are not in memory.
    pub(crate) fn rest(&self) -> u32 {
        // Texts are at most one token longer than a sequence.
        self.text.len() as u32 - self.computed
    }

    /// Whether its next token follows one that it said just now.
    pub(crate) fn decodes(&self) -> bool {
        self.spoke && self.rest() == 1
    }
}
