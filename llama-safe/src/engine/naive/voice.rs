//! A voice whose words are decided by the logits, and what it would say alone.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::engine::job::{Ending, Spoken, Voice};
use crate::error::GenerateError;
use crate::id::Token;

use super::memory::{BREAKS, Hash, VOCABULARY, mix};

/// How a text goes on, and how far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Script {
    /// The likeliest token, or one by this number.
    pub choice: Option<u8>,
    /// Tokens that it says at most, at least 1.
    pub most: u32,
    /// A token that ends it.
    pub end: Option<u8>,
    /// It fails in place of its token of this number.
    pub fails_at: Option<u32>,
    /// After each so many tokens its listener is behind for so many steps.
    pub slow: Option<(u32, u32)>,
}

/// What was heard of a request.
#[derive(Default, Debug)]
pub(super) struct Heard {
    pub tokens: Vec<Token>,
    /// The step of each token.
    pub steps: Vec<u64>,
    /// The steps in which it got a sequence.
    pub started: Vec<u64>,
    pub ending: Option<Ending<()>>,
    /// The step in which it ended.
    pub ended: u64,
    /// The last step in which its listener is behind.
    pub full_until: u64,
    /// Times that it was asked whether its listener is behind.
    pub asked: Cell<u64>,
    pub gone: bool,
}

pub(super) struct Actor {
    pub script: Script,
    pub heard: Rc<RefCell<Heard>>,
    pub clock: Rc<Cell<u64>>,
}

/// The token that a script chooses, and whether it is the last; `None` where it fails.
fn choose(script: &Script, said: usize, logits: &[f32]) -> Option<(Token, bool)> {
    if script.fails_at == Some(said as u32) {
        return None;
    }
    let token = match script.choice {
        None => (0..VOCABULARY).max_by(|a, b| logits[*a].total_cmp(&logits[*b]))?,
        Some(seed) => {
            let all = logits.iter().fold(u64::from(seed), |all, logit| mix(all, u64::from(logit.to_bits())));
            all as usize % VOCABULARY
        }
    };
    let over = said + 1 >= script.most as usize || script.end.is_some_and(|end| usize::from(end) == token);
    Some((Token(token as i32), over))
}

fn fails() -> GenerateError {
    GenerateError::Panicked { message: "on purpose".to_owned() }
}

impl Voice for Actor {
    type Reason = ();

    fn is_gone(&self) -> bool {
        self.heard.borrow().gone
    }

    fn is_full(&self) -> bool {
        let heard = self.heard.borrow();
        heard.asked.set(heard.asked.get() + 1);
        self.clock.get() <= heard.full_until
    }

    fn speak_on(&mut self) {
        self.script.slow = None;
        self.heard.borrow_mut().full_until = 0;
    }

    fn start(&mut self, _: u32) {
        self.heard.borrow_mut().started.push(self.clock.get());
    }

    fn speak(&mut self, logits: &[f32]) -> Result<Spoken<()>, GenerateError> {
        let now = self.clock.get();
        let mut heard = self.heard.borrow_mut();
        assert!(heard.full_until < now || heard.steps.last() == Some(&now), "its listener is behind");
        let (token, over) = choose(&self.script, heard.tokens.len(), logits).ok_or_else(fails)?;
        heard.tokens.push(token);
        heard.steps.push(now);
        if let Some((every, steps)) = self.script.slow
            && heard.tokens.len().is_multiple_of(every as usize)
        {
            heard.full_until = now + u64::from(steps);
        }
        Ok(Spoken { token, over: over.then_some(()) })
    }

    fn end(self, ending: Ending<()>) {
        let mut heard = self.heard.borrow_mut();
        heard.ended = self.clock.get();
        assert!(heard.ending.replace(ending).is_none(), "ended once");
    }
}

/// How a text ends that nothing comes in the way of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Last {
    Over,
    ContextFull,
    /// By a fault of its own.
    Failed,
}

/// What a request says alone, a token at a time.
pub(super) fn alone(prompt: &[Token], script: &Script, keep: Option<u32>, room: u32) -> (Vec<Token>, Last) {
    let mut text = prompt.to_vec();
    let mut said = Vec::new();
    if prompt.contains(&BREAKS) {
        return (said, Last::Failed);
    }
    loop {
        let Some(logits) = Hash::of(&text).logits() else { return (said, Last::Failed) };
        let Some((token, over)) = choose(script, said.len(), &logits) else { return (said, Last::Failed) };
        said.push(token);
        text.push(token);
        if over {
            return (said, Last::Over);
        }
        if text.len() > room as usize && !make_room(&mut text, keep, room) {
            return (said, Last::ContextFull);
        }
    }
}

/// Discards a part of a text that has filled its sequence; `false` where none of it may go.
fn make_room(text: &mut Vec<Token>, keep: Option<u32>, room: u32) -> bool {
    let Some(keep) = keep else { return false };
    // Of what was computed, half of what is not to be kept.
    let discard = (room.saturating_sub(keep) / 2).max(1);
    text.drain(keep as usize..(keep + discard).min(room) as usize);
    true
}

/// A request's text in its sequence with what it had said before a step: what was discarded is not in it.
pub(super) fn text_before(step: u64, prompt: &[Token], heard: &Heard, keep: Option<u32>, room: u32) -> Vec<Token> {
    let mut text = prompt.to_vec();
    let said = heard.tokens.iter().zip(&heard.steps).take_while(|(_, at)| **at < step);
    for (token, _) in said {
        text.push(*token);
        if text.len() > room as usize {
            make_room(&mut text, keep, room);
        }
    }
    text
}
