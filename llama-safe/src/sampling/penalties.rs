//! Penalties for tokens that came lately.

use std::collections::{HashMap, VecDeque};

use crate::error::SamplingError;

use super::field::Field;

/// The last tokens, and how often each of them is among them.
#[derive(Clone, Debug)]
pub(super) struct History {
    window: usize,
    tokens: VecDeque<i32>,
    counts: HashMap<i32, u32>,
}

impl History {
    pub(super) fn new(window: usize) -> Self {
        Self { window, tokens: VecDeque::new(), counts: HashMap::new() }
    }

    pub(super) fn accept(&mut self, token: i32) {
        if self.tokens.len() >= self.window
            && let Some(old) = self.tokens.pop_front()
            && let Some(count) = self.counts.get_mut(&old)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&old);
            }
        }
        self.tokens.push_back(token);
        *self.counts.entry(token).or_default() += 1;
    }

    pub(super) fn reset(&mut self) {
        self.tokens.clear();
        self.counts.clear();
    }
}

#[derive(Clone, Debug)]
pub(super) struct Penalise {
    pub(super) history: History,
    pub(super) repeat: f32,
    pub(super) frequency: f32,
    pub(super) presence: f32,
}

impl Penalise {
    pub(super) fn apply(&self, field: &mut Field<'_>) -> Result<(), SamplingError> {
        field.adjust(&self.history.counts, |logit, &count| {
            // A negative logit is multiplied: divided by more than 1 it would become likelier.
            let repeated = if logit <= 0.0 { logit * self.repeat } else { logit / self.repeat };
            finite(repeated - (count as f32 * self.frequency + self.presence))
        })
    }
}

/// A penalty makes a token unlikely; it neither forbids it nor makes it the only one.
pub(super) fn finite(logit: f32) -> f32 {
    if logit.is_nan() { f32::MIN } else { logit.clamp(f32::MIN, f32::MAX) }
}
