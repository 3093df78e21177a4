//! An answer while it is generated.
#![forbid(unsafe_code)]

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use async_channel::Receiver;

use crate::error::GenerateError;
use crate::id::Token;
use crate::logprobs::TokenLogProb;
use crate::stop::StopReason;

use super::prefix::HolderId;
use super::worker::Command;

/// A token of an answer, with the text that is certain now.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Piece {
    /// Text in whole characters. Empty while a character is not whole, or the text may become a stop string.
    pub text: String,
    /// The token; `None` where text that was held back comes at the end.
    pub token: Option<Token>,
    /// Log probabilities, where the [request](crate::Request::logprobs) wants them.
    pub logprobs: Option<TokenLogProbs>,
}

/// How likely a token was, and which others.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct TokenLogProbs {
    /// The token that was chosen.
    pub chosen: TokenLogProb,
    /// The likeliest in its place, the first one first; as many as were asked for.
    pub top: Vec<TokenLogProb>,
}

/// Why an answer ended.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum EndReason {
    /// The text is whole: the model or a condition ended it, or it has as many tokens as were asked for.
    Stop(StopReason),
    /// It has filled its sequence.
    ContextFull,
    /// Nobody wanted the rest.
    Cancelled,
    /// Its time was over.
    Deadline,
    /// It could not go on.
    Failed(GenerateError),
}

/// How long an answer took, from when it was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Timings {
    /// Until it got a sequence; `None` if it never did.
    pub queued: Option<Duration>,
    /// Until its first token.
    pub first_token: Option<Duration>,
    /// Until its end.
    pub total: Duration,
}

/// A whole answer.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Completion {
    /// What was said.
    pub text: String,
    /// Its tokens, with those of what ended it.
    pub tokens: Vec<Token>,
    /// Log probabilities of each token, where they were wanted.
    pub logprobs: Vec<TokenLogProbs>,
    /// Why it ended.
    pub reason: EndReason,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Of these, those that were in memory already.
    pub reused_tokens: u32,
    /// How long it took.
    pub timings: Timings,
}

/// What the engine tells a generation.
#[derive(Debug)]
pub(crate) enum Event {
    Piece(Piece),
    End { reason: EndReason, rest: String, prompt_tokens: u32, reused_tokens: u32, timings: Timings },
}

/// An answer while it is generated: an iterator over its pieces that blocks, and with the feature `async` a stream as well.
///
/// It may be read on any thread. Dropping it cancels the rest. A reader who is far behind
/// ([`EngineBuilder::unread_pieces`](crate::EngineBuilder::unread_pieces)) makes the engine pause this answer, and nobody else's.
#[derive(Debug)]
#[must_use = "an answer that is dropped is cancelled"]
pub struct Generation {
    // Pinned, since a stream is read through a pinned channel and this is to move freely.
    events: Pin<Box<Receiver<Event>>>,
    canceller: Canceller,
    text: String,
    tokens: Vec<Token>,
    logprobs: Vec<TokenLogProbs>,
    end: Option<Completion>,
    /// Whether the error at the end has been handed out.
    told: bool,
}

impl Generation {
    pub(super) fn new(events: Receiver<Event>, canceller: Canceller) -> Self {
        Self {
            events: Box::pin(events),
            canceller,
            text: String::new(),
            tokens: Vec::new(),
            logprobs: Vec::new(),
            end: None,
            told: false,
        }
    }

    /// Ends the answer. What was said until then is kept, and [`wait`](Self::wait) gives it.
    pub fn cancel(&self) {
        self.canceller.cancel();
    }

    /// What can stop this answer from elsewhere.
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    /// Waits for the end, and gives the whole answer, also what was read before.
    #[must_use]
    pub fn wait(mut self) -> Completion {
        loop {
            if let Some(end) = self.end.take() {
                return end;
            }
            let event = self.events.recv_blocking().ok();
            self.hear(event);
        }
    }

    /// [`wait`](Self::wait) without blocking a thread.
    #[cfg(feature = "async")]
    pub async fn finished(mut self) -> Completion {
        loop {
            if let Some(end) = self.end.take() {
                return end;
            }
            let event = self.events.recv().await.ok();
            self.hear(event);
        }
    }

    /// The next piece, without blocking a thread; `None` after the last one. What [`Stream`](futures_core::Stream) gives, which shares
    /// its method's name with an iterator's.
    #[cfg(feature = "async")]
    pub async fn next_async(&mut self) -> Option<Result<Piece, GenerateError>> {
        use futures_core::Stream;
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// What has been read so far.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The end, once it was read.
    #[must_use]
    pub fn end(&self) -> Option<&Completion> {
        self.end.as_ref()
    }

    fn ended(&mut self, reason: EndReason, prompt_tokens: u32, reused_tokens: u32, timings: Timings) -> Completion {
        Completion {
            text: self.text.clone(),
            tokens: std::mem::take(&mut self.tokens),
            logprobs: std::mem::take(&mut self.logprobs),
            reason,
            prompt_tokens,
            reused_tokens,
            timings,
        }
    }

    /// What an event means to whoever reads; `None` for an end without text.
    fn hear(&mut self, event: Option<Event>) -> Option<Piece> {
        // The engine may have paused until this was read.
        self.canceller.send(Command::Heard(self.canceller.ticket));
        match event {
            Some(Event::Piece(piece)) => {
                self.text.push_str(&piece.text);
                self.tokens.extend(piece.token);
                self.logprobs.extend(piece.logprobs.clone());
                Some(piece)
            }
            Some(Event::End { reason, rest, prompt_tokens, reused_tokens, timings }) => {
                self.text.push_str(&rest);
                self.end = Some(self.ended(reason, prompt_tokens, reused_tokens, timings));
                (!rest.is_empty()).then_some(Piece { text: rest, token: None, logprobs: None })
            }
            None => {
                let gone = EndReason::Failed(GenerateError::EngineGone);
                self.end = Some(self.ended(gone, 0, 0, Timings::default()));
                None
            }
        }
    }

    /// What comes after the last piece.
    fn closing(&mut self) -> Option<Result<Piece, GenerateError>> {
        match self.end.as_ref().map(|end| &end.reason) {
            Some(EndReason::Failed(error)) if !self.told => {
                self.told = true;
                Some(Err(error.clone()))
            }
            _ => None,
        }
    }
}

/// The pieces, one after the other; an error is the last.
impl Iterator for Generation {
    type Item = Result<Piece, GenerateError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.end.is_none() {
            let event = self.events.recv_blocking().ok();
            if let Some(piece) = self.hear(event) {
                return Some(Ok(piece));
            }
        }
        self.closing()
    }
}

#[cfg(feature = "async")]
impl futures_core::Stream for Generation {
    type Item = Result<Piece, GenerateError>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        use std::task::Poll;
        while self.end.is_none() {
            let Poll::Ready(event) = self.events.as_mut().poll_next(context) else { return Poll::Pending };
            if let Some(piece) = self.hear(event) {
                return Poll::Ready(Some(Ok(piece)));
            }
        }
        Poll::Ready(self.closing())
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if self.end.is_none() {
            self.cancel();
        }
    }
}

/// Stops an answer from elsewhere than where it is read. It can be cloned, and outlive the answer.
#[derive(Clone, Debug)]
pub struct Canceller {
    ticket: HolderId,
    commands: mpsc::Sender<Command>,
    cancelled: Arc<AtomicBool>,
}

impl Canceller {
    pub(super) fn new(ticket: HolderId, commands: mpsc::Sender<Command>, cancelled: Arc<AtomicBool>) -> Self {
        Self { ticket, commands, cancelled }
    }

    /// Ends the answer. Nothing happens if it has ended.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.send(Command::Cancel(self.ticket));
    }

    fn send(&self, command: Command) {
        // An engine that is gone has nothing to do.
        let _ = self.commands.send(command);
    }
}
