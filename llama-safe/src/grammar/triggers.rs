//! What a lazy grammar begins on.

use regex::bytes::{Regex, RegexBuilder};

use crate::error::GrammarError;
use crate::id::Token;

/// Bytes of memory of a pattern, compiled.
const MAX_PATTERN: usize = 4 << 20;

/// What a lazy grammar begins on: tokens, words, patterns; the first of any to appear. See
/// [`Grammar::lazy`](crate::Grammar::lazy).
#[derive(Clone, Debug, Default)]
pub struct Triggers {
    pub(super) tokens: Vec<Token>,
    pub(super) texts: Vec<Trigger>,
}

#[derive(Clone, Debug)]
pub(super) enum Trigger {
    Word(String),
    Pattern(String),
}

impl Triggers {
    /// None so far.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins on this token, with the token. It is read as its name, even where it is a control token.
    #[must_use]
    pub fn token(mut self, token: Token) -> Self {
        self.tokens.push(token);
        self
    }

    /// Begins where this text first appears, with the text.
    #[must_use]
    pub fn word(mut self, text: impl Into<String>) -> Self {
        self.texts.push(Trigger::Word(text.into()));
        self
    }

    /// Begins where this regular expression (of the `regex` crate, which reads any text in linear time) first matches: with
    /// its first group that is not empty, or with the whole match. `^` is the beginning of what was generated.
    #[must_use]
    pub fn pattern(mut self, pattern: impl Into<String>) -> Self {
        self.texts.push(Trigger::Pattern(pattern.into()));
        self
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tokens.is_empty() && self.texts.is_empty()
    }

    /// The expressions of the words and patterns, in their order.
    pub(super) fn compile(&self) -> Result<Vec<Regex>, GrammarError> {
        let compiled = self.texts.iter().map(|trigger| {
            let pattern = match trigger {
                Trigger::Word(text) if text.is_empty() => return Err(refused("an empty word is everywhere")),
                Trigger::Word(text) => regex::escape(text),
                Trigger::Pattern(pattern) => pattern.clone(),
            };
            RegexBuilder::new(&pattern).size_limit(MAX_PATTERN).build().map_err(refused)
        });
        compiled.collect()
    }
}

fn refused(reason: impl ToString) -> GrammarError {
    GrammarError::Pattern { reason: reason.to_string() }
}

/// Where the grammar begins in a text: at the first match of the first expression that has one.
pub(super) fn find(expressions: &[Regex], text: &[u8]) -> Option<usize> {
    let found = expressions.iter().find_map(|expression| expression.captures(text))?;
    let group = found.iter().skip(1).flatten().find(|group| !group.is_empty());
    group.or_else(|| found.get(0)).map(|place| place.start())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(triggers: &Triggers, text: &str) -> Option<usize> {
        find(&triggers.compile().unwrap(), text.as_bytes())
    }

    #[test]
    fn a_grammar_begins_with_the_first_group_that_is_not_empty() {
        assert_eq!(found(&Triggers::new().word("{").word("["), "a [ {"), Some(4), "the first that was given");
        assert_eq!(found(&Triggers::new().word("."), "abc"), None, "a word is no pattern");
        assert_eq!(found(&Triggers::new().pattern("<t>(x)?([{])"), "<t>{"), Some(3));
        assert_eq!(found(&Triggers::new().pattern("<t>(x)?"), "a<t>"), Some(1));
        assert_eq!(found(&Triggers::new().pattern("^a"), "ba"), None);
    }

    #[test]
    fn patterns_are_bounded() {
        for bad in ["(", "(a{1000}){1000}", "\\"] {
            assert!(matches!(Triggers::new().pattern(bad).compile(), Err(GrammarError::Pattern { .. })), "{bad}");
        }
        assert!(matches!(Triggers::new().word("").compile(), Err(GrammarError::Pattern { .. })));
        // Exponential where it is matched by trying: linear here.
        let text = "a".repeat(100_000);
        assert_eq!(found(&Triggers::new().pattern("(a*)*b"), &text), None);
    }
}
