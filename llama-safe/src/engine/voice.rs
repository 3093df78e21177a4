//! Who speaks for a request: its sampler, its text, and the channel to whoever listens.
#![forbid(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use async_channel::Sender;

use crate::error::GenerateError;
use crate::logprobs::{LogProbs, TokenLogProb};
use crate::panics;
use crate::sampling::Sampler;
use crate::stop::{StopReason, Stopper};

use super::generation::{EndReason, Event, Piece, Timings, TokenLogProbs};
use super::job::{Ending, Spoken, Voice};
use super::queue::Permit;

/// The voice of a request from outside.
pub(crate) struct Speaker {
    pub sampler: Sampler,
    pub stopper: Stopper,
    /// How many of the likeliest tokens are told, if any are.
    pub logprobs: Option<u32>,
    pub events: Sender<Event>,
    /// Pieces that may wait to be read before it falls silent.
    pub unread: usize,
    pub cancelled: Arc<AtomicBool>,
    /// Whether everybody's request is cancelled.
    pub stopping: Arc<AtomicBool>,
    /// Its place among those that wait.
    pub permit: Option<Arc<Permit>>,
    pub submitted: Instant,
    pub started: Option<Instant>,
    pub first: Option<Instant>,
    pub prompt_tokens: u32,
    pub reused_tokens: u32,
}

impl Speaker {
    fn logprobs(&self, logits: &[f32], token: crate::id::Token) -> Result<Option<TokenLogProbs>, GenerateError> {
        let Some(top) = self.logprobs else { return Ok(None) };
        let all = LogProbs::new(logits)?;
        let logprob = all.get(token).map_err(crate::error::StopError::from)?;
        Ok(Some(TokenLogProbs { chosen: TokenLogProb { token, logprob }, top: all.top(top as usize) }))
    }

    fn timings(&self) -> Timings {
        let since = |at: Option<Instant>| at.map(|at| at - self.submitted);
        Timings { queued: since(self.started), first_token: since(self.first), total: self.submitted.elapsed() }
    }
}

impl Voice for Speaker {
    type Reason = StopReason;

    fn is_gone(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed) || self.stopping.load(Ordering::Relaxed)
    }

    fn is_full(&self) -> bool {
        self.events.len() >= self.unread
    }

    fn speak_on(&mut self) {
        self.unread = usize::MAX;
    }

    fn start(&mut self, reused: u32) {
        self.permit = None;
        if self.started.is_none() {
            self.started = Some(Instant::now());
            self.reused_tokens = reused;
        }
    }

    fn speak(&mut self, logits: &[f32]) -> Result<Spoken<StopReason>, GenerateError> {
        let token = self.sampler.sample(logits)?;
        let logprobs = self.logprobs(logits, token)?;
        self.first.get_or_insert_with(Instant::now);
        // Custom conditions are functions of the user's.
        let step = catch_unwind(AssertUnwindSafe(|| {
            let step = self.stopper.push(token)?;
            Ok::<_, GenerateError>((step.text.to_owned(), step.stop))
        }));
        // Where one panics the token counts, and its text comes with the end.
        let (piece, result) = match step {
            Ok(step) => step.map(|(text, over)| (text, Ok(Spoken { token, over })))?,
            Err(panic) => (String::new(), Err(GenerateError::Panicked { message: panics::message(panic) })),
        };
        // Whoever listened may be gone: the next step ends it.
        let _ = self.events.try_send(Event::Piece(Piece { text: piece, token: Some(token), logprobs }));
        result
    }

    fn end(mut self, ending: Ending<StopReason>) {
        let reason = match ending {
            Ending::Over(reason) => EndReason::Stop(reason),
            Ending::ContextFull => EndReason::ContextFull,
            Ending::Cancelled => EndReason::Cancelled,
            Ending::Deadline => EndReason::Deadline,
            Ending::Failed(error) => EndReason::Failed(error),
        };
        let rest = self.stopper.finish().to_owned();
        let (prompt_tokens, reused_tokens) = (self.prompt_tokens, self.reused_tokens);
        let end = Event::End { reason, rest, prompt_tokens, reused_tokens, timings: self.timings() };
        let _ = self.events.try_send(end);
        // What belongs to the user may panic when it is dropped, which is nobody's business but its own.
        let Self { sampler, stopper, .. } = self;
        for dropped in
            [catch_unwind(AssertUnwindSafe(|| drop(sampler))), catch_unwind(AssertUnwindSafe(|| drop(stopper)))]
        {
            if let Err(panic) = dropped {
                panics::message(panic);
            }
        }
    }
}
