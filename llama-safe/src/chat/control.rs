//! Where special tokens stand in a text, and which of them count.
//!
//! llama.cpp looks for the special tokens of a vocabulary from the longest to the shortest, each in what the ones before left
//! (`tokenizer_st_partition`, llama-vocab.cpp:3289). Here the same is done with one difference: a control token
//! that has a character of somebody else's text in it is no token.

use std::collections::HashMap;
use std::ops::Range;

use llama_sys as sys;

use crate::error::VocabError;
use crate::id::Token;
use crate::vocab::Vocab;

/// A token that is found by its text before any other text is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SpecialToken {
    pub(super) token: Token,
    /// Stands for no text, as opposed to one that users of the vocabulary have added for their texts.
    pub(super) control: bool,
    /// Takes the whitespace before it away.
    strips_left: bool,
    /// Takes the whitespace after it away.
    strips_right: bool,
}

/// All special tokens of a vocabulary.
#[derive(Clone, Debug, Default)]
pub(super) struct SpecialTokens {
    /// By length in bytes, the longest first.
    by_length: Vec<(usize, HashMap<String, SpecialToken>)>,
    /// Bytes that one of them begins with.
    begins: Vec<bool>,
}

/// A special token's text in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Occurrence {
    pub(super) bytes: Range<usize>,
    pub(super) special: SpecialToken,
}

/// A part of a text: a token, or text to be cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Token(SpecialToken),
    Text(Range<usize>),
}

impl SpecialTokens {
    pub(super) fn of(vocab: Vocab<'_>) -> Result<Self, VocabError> {
        let mut all = Vec::new();
        for id in 0..i32::try_from(vocab.size()).unwrap_or(i32::MAX) {
            let token = Token(id);
            let attributes = vocab.attributes(token)?;
            let is = |attribute: sys::llama_token_attr| attributes & attribute != 0;
            let control = is(sys::LLAMA_TOKEN_ATTR_CONTROL) || is(sys::LLAMA_TOKEN_ATTR_UNKNOWN);
            if control || is(sys::LLAMA_TOKEN_ATTR_USER_DEFINED) {
                let strips_left = is(sys::LLAMA_TOKEN_ATTR_LSTRIP);
                let strips_right = is(sys::LLAMA_TOKEN_ATTR_RSTRIP);
                all.push((vocab.text(token)?, SpecialToken { token, control, strips_left, strips_right }));
            }
        }
        Ok(Self::new(all))
    }

    fn new(all: impl IntoIterator<Item = (String, SpecialToken)>) -> Self {
        let mut lengths: HashMap<usize, HashMap<String, SpecialToken>> = HashMap::new();
        let mut begins = vec![false; 256];
        for (text, special) in all {
            // A text with U+FFFD stands for one that is not UTF-8, which is in no text.
            if let Some(first) = text.bytes().next().filter(|_| !text.contains('\u{fffd}')) {
                begins[usize::from(first)] = true;
                lengths.entry(text.len()).or_default().entry(text).or_insert(special);
            }
        }
        let mut by_length: Vec<_> = lengths.into_iter().collect();
        by_length.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
        Self { by_length, begins }
    }

    /// Every place of every special token, whatever else is there: the longest first, then from left to right.
    pub(super) fn occurrences(&self, text: &str) -> Vec<Occurrence> {
        let mut found: Vec<(usize, Occurrence)> = Vec::new();
        let starts = text.bytes().enumerate().filter(|(_, byte)| self.begins.get(usize::from(*byte)) == Some(&true));
        for (start, _) in starts {
            for (rank, (length, tokens)) in self.by_length.iter().enumerate() {
                let bytes = start..start + length;
                if let Some(special) = text.get(bytes.clone()).and_then(|part| tokens.get(part)) {
                    found.push((rank, Occurrence { bytes, special: *special }));
                }
            }
        }
        found.sort_by_key(|(rank, found)| (*rank, found.special.token, found.bytes.start));
        found.into_iter().map(|(_, found)| found).collect()
    }
}

/// Cuts a text at special tokens. `theirs` says of each byte whether it is somebody else's; empty for none.
pub(super) fn partition(text: &str, occurrences: &[Occurrence], theirs: &[bool]) -> Vec<Part> {
    let is_theirs = |bytes: &Range<usize>| theirs.get(bytes.clone()).is_some_and(|bytes| bytes.contains(&true));
    let own: Vec<&Range<usize>> =
        occurrences.iter().filter(|o| o.special.control && !is_theirs(&o.bytes)).map(|o| &o.bytes).collect();
    let counts = |occurrence: &Occurrence| {
        // A token for texts is no danger in itself, but must not swallow a part of a control token.
        let bytes = &occurrence.bytes;
        let overlaps = |other: &&Range<usize>| other.start < bytes.end && bytes.start < other.end;
        !is_theirs(bytes) || (!occurrence.special.control && !own.iter().any(overlaps))
    };
    let mut taken = vec![false; text.len()];
    let mut tokens: Vec<&Occurrence> = Vec::new();
    for occurrence in occurrences.iter().filter(|occurrence| counts(occurrence)) {
        let Range { start, end } = occurrence.bytes;
        if taken[start..end].contains(&true) {
            continue;
        }
        tokens.push(occurrence);
        taken[start..end].fill(true);
        let is_space = |at: usize| matches!(text.as_bytes()[at], b' ' | b'\t'..=b'\r');
        if occurrence.special.strips_left {
            (0..start)
                .rev()
                .take_while(|at| !taken[*at] && is_space(*at))
                .collect::<Vec<_>>()
                .iter()
                .for_each(|at| taken[*at] = true);
        }
        if occurrence.special.strips_right {
            (end..text.len())
                .take_while(|at| !taken[*at] && is_space(*at))
                .collect::<Vec<_>>()
                .iter()
                .for_each(|at| taken[*at] = true);
        }
    }
    tokens.sort_by_key(|occurrence| occurrence.bytes.start);
    let mut parts = Vec::new();
    let mut at = 0;
    for occurrence in tokens {
        parts.extend(free(&taken, at..occurrence.bytes.start).map(Part::Text));
        parts.push(Part::Token(occurrence.special));
        at = occurrence.bytes.end;
    }
    parts.extend(free(&taken, at..text.len()).map(Part::Text));
    parts
}

/// What is left between two tokens without the whitespace that they took at its ends.
fn free(taken: &[bool], bytes: Range<usize>) -> Option<Range<usize>> {
    let start = bytes.clone().find(|at| !taken[*at])?;
    let end = bytes.rev().find(|at| !taken[*at])? + 1;
    Some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPECIALS: [(&str, bool); 5] =
        [("<s>", true), ("</s>", true), ("<s><s>", true), ("  ", false), ("> <", false)];

    fn specials(strips: bool) -> SpecialTokens {
        let special = |(id, (text, control)): (usize, &(&str, bool))| {
            let token = Token(id as i32);
            ((*text).to_owned(), SpecialToken { token, control: *control, strips_left: strips, strips_right: strips })
        };
        SpecialTokens::new(SPECIALS.iter().enumerate().map(special))
    }

    /// Tokens by their text, texts in brackets.
    fn cut(text: &str, theirs: Range<usize>, strips: bool) -> String {
        let mut marks = vec![false; text.len()];
        marks[theirs].fill(true);
        let parts = partition(text, &specials(strips).occurrences(text), &marks);
        let show = |part: &Part| match part {
            Part::Token(special) => format!("{} ", SPECIALS[special.token.0 as usize].0),
            Part::Text(bytes) => format!("[{}] ", &text[bytes.clone()]),
        };
        parts.iter().map(show).collect::<String>().trim_end().to_owned()
    }

    #[test]
    fn the_longest_comes_first() {
        assert_eq!(cut("a<s><s><s>b</s>", 0..0, false), "[a] <s><s> <s> [b] </s>");
        assert_eq!(cut("", 0..0, false), "");
        assert_eq!(cut("é", 0..0, false), "[é]");
    }

    #[test]
    fn a_character_of_somebody_else_makes_it_text() {
        assert_eq!(cut("<s>a<s>", 4..7, false), "<s> [a<s>]");
        assert_eq!(cut("<s>", 1..2, false), "[<s>]");
        assert_eq!(cut("<s><s>", 3..6, false), "<s> [<s>]", "the longer one would be made of both");
        assert_eq!(cut("<s> <s>", 3..4, false), "<s> [ ] <s>", "a token for texts does not swallow the ends of others");
        assert_eq!(cut("x> <y", 0..5, false), "[x] > < [y]");
    }

    #[test]
    fn whitespace_is_stripped_where_the_token_asks_for_it() {
        assert_eq!(cut("a \n<s>\tb <s> c", 0..0, true), "[a] <s> [b] <s> [c]");
        assert_eq!(cut(" <s> ", 0..0, true), "<s>");
        assert_eq!(cut("<s>\u{a0}", 0..0, true), "<s> [\u{a0}]");
    }
}
