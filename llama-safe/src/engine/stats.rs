//! What an engine has done, in numbers.
#![forbid(unsafe_code)]

use std::time::Duration;

/// How often a step could not be computed as it was planned, and what was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Fallbacks {
    /// A cached prefix was dropped.
    pub evicted: u64,
    /// A request gave up its sequence, to go on later.
    pub preempted: u64,
    /// A batch was tried again in smaller ones.
    pub split: u64,
    /// A request was tried once more by itself.
    pub repeated: u64,
    /// Requests that ended with the error.
    pub ended: u64,
}

impl Fallbacks {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.evicted + self.preempted + self.split + self.repeated + self.ended
    }
}

/// What an engine does now, and has done since it was started.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Requests that wait for a sequence.
    pub queued: usize,
    /// Requests that have one.
    pub running: usize,
    /// Sequences whose requests are over, kept for prompts that begin like their texts.
    pub cached: usize,
    /// Cells of the KV cache in use, where sequences share them, or tokens in memory where they do not.
    pub kv_used: u64,
    /// All of them.
    pub kv_cells: u64,
    /// Bytes of prefixes and paused sequences kept outside of the context.
    pub spilled_bytes: u64,
    /// Requests taken.
    pub submitted: u64,
    /// Requests whose text is whole.
    pub completed: u64,
    /// Requests that were cancelled, or ran out of time.
    pub cancelled: u64,
    /// Requests that ended with an error.
    pub failed: u64,
    /// Batches computed.
    pub steps: u64,
    /// Rows of these batches.
    pub rows: u64,
    /// Tokens of prompts computed.
    pub prompt_tokens: u64,
    /// Tokens of prompts taken from what was in memory.
    pub reused_tokens: u64,
    /// Requests that took some.
    pub prefix_hits: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Tokens guessed.
    pub drafted_tokens: u64,
    /// Of these, those that were right.
    pub accepted_tokens: u64,
    /// Cached prefixes dropped.
    pub evictions: u64,
    /// Of these, those of which a copy was kept outside of the context.
    pub spilled: u64,
    /// Copies that were brought back.
    pub restored: u64,
    /// Times that a request gave up its sequence.
    pub preemptions: u64,
    /// Times that a text discarded a part of itself, since its sequence was full.
    pub shifts: u64,
    /// Texts embedded.
    pub embedded: u64,
    /// Steps that could not be computed as planned.
    pub fallbacks: Fallbacks,
    /// Time in which the engine had something to do.
    pub busy: Duration,
    /// Of this, the time that llama.cpp computed batches; the rest is sampling, text and the engine itself.
    pub computing: Duration,
}

impl Stats {
    /// Tokens generated in a second of the time in which there was something to do; 0 before that.
    #[must_use]
    pub fn tokens_per_second(&self) -> f64 {
        let seconds = self.busy.as_secs_f64();
        if seconds > 0.0 { self.generated_tokens as f64 / seconds } else { 0.0 }
    }
}
