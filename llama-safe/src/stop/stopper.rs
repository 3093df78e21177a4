//! Looks for the end of one text, token by token, and gives what is certain to be part of it.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;

use crate::detokenizer::Detokenizer;
use crate::error::StopError;
use crate::id::Token;

use super::{Progress, Rules, StopReason};

/// Looks for the end of one sequence's text, token by token. [`StopConditions::stopper`](super::StopConditions::stopper)
/// makes it.
///
/// Text is held back while it is the beginning of a stop string, or that of tokens that are the beginning of a token list,
/// and never longer. What was given, put together, is the whole text up to its end: in whole characters, without what
/// ended it, and nothing missing.
///
/// A clone goes on on its own, as a [fork](crate::Context::fork) of its sequence does.
#[derive(Clone, Debug)]
pub struct Stopper {
    rules: Arc<Rules>,
    detokenizer: Detokenizer,
    /// All of it, with what is held back.
    text: String,
    /// Bytes of `text` that were given.
    given: usize,
    tokens: u32,
    /// Bytes of each stop string that `text` ends with.
    strings: Vec<usize>,
    /// Tokens of each list that the last tokens are.
    lists: Vec<usize>,
    /// Where the last tokens began, as many as the longest list has.
    marks: VecDeque<Mark>,
    longest_list: usize,
    ended: bool,
    reason: Option<StopReason>,
}

/// A place between two tokens.
#[derive(Clone, Copy, Debug)]
struct Mark {
    /// Bytes of whole characters before it.
    at: usize,
    /// Whether there is the beginning of another one.
    within_character: bool,
}

/// What a token brought.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use = "it has the text, and says whether that has ended"]
#[non_exhaustive]
pub struct Step<'stopper> {
    /// Text that is certain now, which may be none.
    pub text: &'stopper str,
    /// Why the text ends here, if it does.
    pub stop: Option<StopReason>,
}

impl Stopper {
    pub(super) fn new(rules: Arc<Rules>, detokenizer: Detokenizer) -> Self {
        let longest_list = rules.lists.iter().map(|list| list.len()).max().unwrap_or(0);
        Self {
            detokenizer,
            text: String::new(),
            given: 0,
            tokens: 0,
            strings: vec![0; rules.strings.len()],
            lists: vec![0; rules.lists.len()],
            marks: VecDeque::with_capacity(longest_list),
            longest_list,
            ended: false,
            reason: None,
            rules,
        }
    }

    /// Takes the next token.
    ///
    /// # Errors
    ///
    /// [`StopError::Ended`]: the text has ended before. [`StopError::Vocab`]: the token is not of this model. Nothing
    /// changes.
    pub fn push(&mut self, token: Token) -> Result<Step<'_>, StopError> {
        if self.ended {
            return Err(StopError::Ended);
        }
        let before = self.here();
        let is_end = self.rules.end_of_text && self.detokenizer.vocab().is_end_of_generation(token)?;
        let piece = self.detokenizer.push(token)?;
        let string = find(&self.rules, &mut self.strings, piece);
        self.text.push_str(piece);
        self.tokens = self.tokens.saturating_add(1);
        let list = self.find_list(token, before);

        let here = self.here();
        let include = self.rules.include_stop;
        let end = is_end.then_some((if include { here } else { before }, StopReason::EndOfText { token }));
        let string = string.map(|Found { index, end }| {
            let (string, pattern) = &self.rules.strings[index];
            let end = before.at + end;
            let at = if include { end } else { end - pattern.len() };
            (Mark { at, within_character: false }, StopReason::String { string: Arc::clone(string) })
        });
        let list = list.map(|index| {
            let list = &self.rules.lists[index];
            let from = if include { here } else { self.marks[self.marks.len() - list.len()] };
            (from, StopReason::Tokens { tokens: Arc::clone(list.items()) })
        });
        // With several, the text ends where the first of them begins.
        let found = [end, string, list].into_iter().flatten().min_by_key(|(cut, _)| cut.at);
        let found = found.or_else(|| self.find_custom(token).map(|reason| (here, reason)));
        let is_full = self.rules.max_tokens.is_some_and(|most| self.tokens >= most);
        let found = found.or_else(|| is_full.then_some((here, StopReason::Length)));

        let from = self.given;
        if let Some((cut, reason)) = found {
            self.reason = Some(reason);
            self.end(cut);
        } else {
            self.given = self.certain();
        }
        Ok(Step { text: &self.text[from..self.given], stop: self.reason.clone() })
    }

    /// Ends the text where no condition did, and gives what was held back; nothing if it has ended.
    pub fn finish(&mut self) -> &str {
        let from = self.given;
        if !self.ended {
            self.end(self.here());
        }
        &self.text[from..]
    }

    /// All the text that was given.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text[..self.given]
    }

    /// Tokens that were taken, with those of what ended the text.
    #[must_use]
    pub fn tokens(&self) -> u32 {
        self.tokens
    }

    /// Why the text has ended; `None` while it goes on, and if [`finish`](Self::finish) ended it.
    #[must_use]
    pub fn reason(&self) -> Option<&StopReason> {
        self.reason.as_ref()
    }

    /// Begins another text with the same conditions.
    pub fn reset(&mut self) {
        self.detokenizer.reset();
        self.text.clear();
        self.given = 0;
        self.tokens = 0;
        self.strings.fill(0);
        self.lists.fill(0);
        self.marks.clear();
        self.ended = false;
        self.reason = None;
    }

    fn here(&self) -> Mark {
        Mark { at: self.text.len(), within_character: self.detokenizer.is_within_character() }
    }

    /// The longest list that is complete with `token`, which began at `mark`.
    fn find_list(&mut self, token: Token, mark: Mark) -> Option<usize> {
        if self.longest_list == 0 {
            return None;
        }
        if self.marks.len() == self.longest_list {
            self.marks.pop_front();
        }
        self.marks.push_back(mark);
        let lists = self.rules.lists.iter().zip(&mut self.lists).enumerate();
        let complete = lists.filter_map(|(index, (list, matched))| {
            *matched = list.advance(*matched, token);
            (*matched == list.len()).then_some((list.len(), index))
        });
        complete.max_by_key(|(length, _)| *length).map(|(_, index)| index)
    }

    /// The first custom condition that says so.
    fn find_custom(&self, token: Token) -> Option<StopReason> {
        let progress = Progress { text: &self.text, token, tokens: self.tokens };
        let index = self.rules.custom.iter().position(|ends| ends(&progress))?;
        Some(StopReason::Custom { index })
    }

    /// Bytes of the text that no condition can take away any more.
    fn certain(&self) -> usize {
        if self.rules.include_stop {
            return self.text.len();
        }
        let string = self.strings.iter().copied().max().unwrap_or(0);
        let list = self.lists.iter().copied().max().unwrap_or(0);
        // The oldest of that many last tokens; there is none behind the last.
        let list = self.marks.get(self.marks.len() - list).map_or(self.text.len(), |mark| mark.at);
        (self.text.len() - string).min(list)
    }

    fn end(&mut self, cut: Mark) {
        self.text.truncate(cut.at);
        if cut.within_character {
            self.text.push(char::REPLACEMENT_CHARACTER);
        }
        self.given = self.text.len();
        self.ended = true;
    }
}

/// A stop string that is complete.
struct Found {
    index: usize,
    /// Bytes of the piece up to its end.
    end: usize,
}

/// The stop string that is complete first in `piece`, the longest of several: `matched` says for each how much of it came
/// before.
fn find(rules: &Rules, matched: &mut [usize], piece: &str) -> Option<Found> {
    for (at, byte) in piece.bytes().enumerate() {
        let mut longest: Option<(usize, usize)> = None;
        for (index, ((_, pattern), matched)) in rules.strings.iter().zip(&mut *matched).enumerate() {
            *matched = pattern.advance(*matched, byte);
            if *matched == pattern.len() && longest.is_none_or(|(length, _)| *matched > length) {
                longest = Some((*matched, index));
            }
        }
        if let Some((_, index)) = longest {
            return Some(Found { index, end: at + 1 });
        }
    }
    None
}
