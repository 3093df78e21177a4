//! Which characters of a rendered text come from the template, and which from the conversation.
//!
//! The engine does not keep track of that. So the template is rendered again with the conversation's texts in another
//! alphabet: where the result differs, and in no other way than this, the character is the conversation's. Letters
//! become letters, capitals capitals, spaces spaces, so that what templates do to a text (trimming, changing the case, splitting at lines,
//! sorting) goes the same way. What does not is a template that compares a text with words of its own (`"function"`,
//! `"</think>"`): then the results do not agree, and the texts are tried in parts, those words apart from the rest. What
//! still cannot be told apart is refused.

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;

use crate::error::ChatError;

/// Renderings that finding out may take.
const MOST_RENDERINGS: usize = 200;

/// Finds out whose each character is.
pub(super) struct Origin<'a> {
    /// The rendered text.
    pub(super) text: &'a str,
    /// The conversation's texts, in the order in which they are altered.
    pub(super) inputs: &'a [String],
    /// What the template compares texts with.
    pub(super) words: &'a BTreeSet<String>,
    /// Texts of the control tokens that stand in the rendered text.
    pub(super) tokens: &'a BTreeSet<&'a str>,
}

/// A part of an input: what is a word of the template's, or the rest.
#[derive(Clone, Debug)]
struct Piece {
    input: usize,
    is_word: bool,
    bytes: Vec<Range<usize>>,
}

/// Renders the template with inputs that the function alters, by index; `None` where that fails.
pub(super) type Render<'a> = dyn FnMut(&mut dyn FnMut(usize, &str) -> Option<String>) -> Option<String> + 'a;

struct Search<'a, 'render> {
    origin: &'a Origin<'a>,
    alphabet: Alphabet,
    render: &'a mut Render<'render>,
    renderings: usize,
    /// Of each character of the text, whether it is the conversation's.
    theirs: Vec<bool>,
    /// Pieces that change more than themselves.
    unknown: Vec<Piece>,
}

impl Origin<'_> {
    /// For each byte of the text whether it is the conversation's. Bytes of characters that no control token has may be
    /// marked wrong.
    pub(super) fn find(&self, render: &mut Render<'_>) -> Result<Vec<bool>, ChatError> {
        let alphabet = Alphabet::for_tokens(self.tokens);
        let whole: Vec<_> = self.inputs.iter().enumerate().map(|(input, text)| Piece::whole(input, text)).collect();
        let theirs = vec![false; self.text.chars().count()];
        let mut search = Search { origin: self, alphabet, render, renderings: 0, theirs, unknown: vec![] };
        if !search.try_pieces(&whole) {
            let (words, rest): (Vec<_>, Vec<_>) = self.pieces().into_iter().partition(|piece| piece.is_word);
            search.find(&rest);
            search.find(
                &words
                    .into_iter()
                    .filter(|piece| self.concerned(piece, self.tokens.iter().copied()).is_some())
                    .collect::<Vec<_>>(),
            );
        }
        let Search { theirs, unknown, .. } = search;
        let by_byte: Vec<bool> = self
            .text
            .chars()
            .zip(theirs)
            .flat_map(|(letter, theirs)| std::iter::repeat_n(theirs, letter.len_utf8()))
            .collect();
        // A piece that nothing is known of does no harm if all tokens that it could be a part of are the conversation's.
        for piece in &unknown {
            if let Some(token) = self.doubtful(piece, &by_byte) {
                let text = piece.text(self).chars().take(40).collect();
                return Err(ChatError::Indistinguishable { token: token.to_owned(), text });
            }
        }
        Ok(by_byte)
    }

    /// The inputs in parts: for each word of the template's, longer ones first, where it stands; and the rest.
    fn pieces(&self) -> Vec<Piece> {
        let single = |word: &str| matches!(word.as_bytes(), [] | [b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9']);
        let mut words: Vec<&str> = self.words.iter().map(String::as_str).filter(|word| !single(word)).collect();
        words.sort_by_key(|word| std::cmp::Reverse(word.len()));
        let mut pieces = Vec::new();
        for (input, text) in self.inputs.iter().enumerate() {
            if self.words.contains(text) {
                pieces.push(Piece { is_word: true, ..Piece::whole(input, text) });
                continue;
            }
            let mut taken = vec![false; text.len()];
            for word in &words {
                let places = text.match_indices(word).map(|(at, _)| at..at + word.len());
                let bytes: Vec<_> = places.filter(|bytes| !taken[bytes.clone()].contains(&true)).collect();
                bytes.iter().for_each(|bytes| taken[bytes.clone()].fill(true));
                pieces.extend((!bytes.is_empty()).then_some(Piece { input, is_word: true, bytes }));
            }
            let bytes = free(&taken);
            pieces.extend((!bytes.is_empty()).then_some(Piece { input, is_word: false, bytes }));
        }
        pieces
    }

    /// The first of these tokens that a piece could be a part of, or contain. A template that decides by the text of a piece
    /// writes it as a whole.
    fn concerned<'t>(&self, piece: &Piece, mut tokens: impl Iterator<Item = &'t str>) -> Option<&'t str> {
        let text = &self.inputs[piece.input];
        tokens.find(|token| piece.bytes.iter().any(|bytes| overlap(&text[bytes.clone()], token)))
    }

    /// A token that such a piece could be a part of, at a place that is not known to be the conversation's.
    fn doubtful(&self, piece: &Piece, theirs: &[bool]) -> Option<&str> {
        let open =
            |token: &&str| self.text.match_indices(token).any(|(at, _)| !theirs[at..at + token.len()].contains(&true));
        self.concerned(piece, self.tokens.iter().copied().filter(open))
    }
}

/// Whether one of two texts can be a part of the other, or the end of one the beginning of the other, in any case of letters.
fn overlap(text: &str, token: &str) -> bool {
    // Some letters have only the other case in common: a long s is an S as a capital.
    let fold = |text: &str| text.to_uppercase().to_lowercase();
    let (text, token) = (fold(text), fold(token));
    let meet = |left: &str, right: &str| {
        left.char_indices().any(|(at, _)| right.starts_with(&left[at..]) && left.len() - at < right.len())
    };
    text.contains(&token) || token.contains(&text) || meet(&text, &token) || meet(&token, &text)
}

/// A character, and what becomes of it in capitals or small letters.
fn cases(letter: char) -> impl Iterator<Item = char> {
    std::iter::once(letter).chain(letter.to_lowercase()).chain(letter.to_uppercase())
}

impl Piece {
    fn whole(input: usize, text: &str) -> Self {
        Self { input, is_word: false, bytes: std::iter::once(0..text.len()).collect() }
    }

    fn text<'a>(&self, origin: &Origin<'a>) -> &'a str {
        self.bytes.first().map_or("", |bytes| &origin.inputs[self.input][bytes.clone()])
    }
}

impl Search<'_, '_> {
    /// Tries pieces together, then in halves, until each is known or has been tried alone.
    fn find(&mut self, pieces: &[Piece]) {
        if pieces.is_empty() || self.try_pieces(pieces) {
            return;
        }
        if let [piece] = pieces {
            self.unknown.push(piece.clone());
        } else {
            let (left, right) = pieces.split_at(pieces.len() / 2);
            self.find(left);
            self.find(right);
        }
    }

    /// Renders with these pieces in the other alphabet. Whether that changed nothing but characters of theirs.
    fn try_pieces(&mut self, pieces: &[Piece]) -> bool {
        if self.renderings >= MOST_RENDERINGS {
            return false;
        }
        self.renderings += 1;
        let mut by_input: Vec<Vec<Range<usize>>> = vec![vec![]; self.origin.inputs.len()];
        pieces.iter().for_each(|piece| by_input[piece.input].extend(piece.bytes.iter().cloned()));
        by_input.iter_mut().for_each(|bytes| bytes.sort_by_key(|bytes| bytes.start));
        let alphabet = &self.alphabet;
        let mut alter = |input: usize, text: &str| {
            let bytes = by_input.get(input).filter(|bytes| !bytes.is_empty())?;
            Some(alphabet.replace(text, bytes))
        };
        let Some(rendered) = (self.render)(&mut alter) else { return false };
        let mut others = rendered.chars();
        let mut changed = Vec::new();
        for (index, letter) in self.origin.text.chars().enumerate() {
            match others.next() {
                Some(other) if other == letter => {}
                Some(other) if Some(other) == self.alphabet.of(letter) => changed.push(index),
                _ => return false,
            }
        }
        if others.next().is_some() {
            return false;
        }
        changed.into_iter().for_each(|index| self.theirs[index] = true);
        true
    }
}

/// Ranges of bytes that are not taken.
fn free(taken: &[bool]) -> Vec<Range<usize>> {
    let mut free: Vec<Range<usize>> = Vec::new();
    for at in (0..taken.len()).filter(|at| !taken[*at]) {
        match free.last_mut() {
            Some(range) if range.end == at => range.end += 1,
            _ => free.push(at..at + 1),
        }
    }
    free
}

/// Another character for each that a control token has, and for each letter, so that texts are sorted as before.
struct Alphabet {
    of_tokens: HashSet<char>,
}

impl Alphabet {
    fn for_tokens(tokens: &BTreeSet<&str>) -> Self {
        Self { of_tokens: tokens.iter().flat_map(|token| token.chars()).collect() }
    }

    /// The other character: never the same, and of the same kind.
    fn of(&self, letter: char) -> Option<char> {
        let offset = |base: u32| char::from_u32(base + letter as u32);
        match letter {
            // Deseret has 40 letters, each as a capital and a small one, in this order.
            'a'..='z' => char::from_u32(0x10428 + (letter as u32 - 'a' as u32)),
            'A'..='Z' => char::from_u32(0x10400 + (letter as u32 - 'A' as u32)),
            _ if !cases(letter).any(|letter| self.of_tokens.contains(&letter)) => None,
            '0'..='9' => char::from_u32(0xff10 + (letter as u32 - '0' as u32)),
            '\n' => Some('\u{2028}'),
            ' ' => Some('\u{2004}'),
            _ if letter.is_whitespace() => Some(if letter == '\u{2005}' { '\u{2006}' } else { '\u{2005}' }),
            // Private use, in the first plane for what sorts before letters; beyond it each has its own as well.
            _ if letter.is_ascii() => offset(0xe000),
            // Beyond what fits, U+E0FF will do: the same is not asked of two.
            _ => offset(0xf0000).or(Some('\u{e0ff}')),
        }
    }

    /// The text with the characters of these ranges replaced.
    fn replace(&self, text: &str, bytes: &[Range<usize>]) -> String {
        let mut replaced = String::with_capacity(text.len() * 2);
        let mut at = 0;
        for range in bytes {
            replaced.push_str(&text[at..range.start]);
            replaced.extend(text[range.clone()].chars().map(|letter| self.of(letter).unwrap_or(letter)));
            at = range.end;
        }
        replaced.push_str(&text[at..]);
        replaced
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Renders by a function of the inputs, and shows the bytes that are theirs as `^`.
    fn find(
        inputs: &[&str],
        words: &[&str],
        tokens: &[&str],
        render: impl Fn(&[String]) -> String,
    ) -> Result<String, ChatError> {
        let inputs: Vec<String> = inputs.iter().map(|&text| text.to_owned()).collect();
        let words = words.iter().map(|&text| text.to_owned()).collect();
        let tokens = tokens.iter().copied().collect();
        let text = render(&inputs);
        let origin = Origin { text: &text, inputs: &inputs, words: &words, tokens: &tokens };
        let theirs = origin.find(&mut |alter| {
            let altered: Vec<String> = inputs
                .iter()
                .enumerate()
                .map(|(index, text)| alter(index, text).unwrap_or_else(|| text.clone()))
                .collect();
            Some(render(&altered))
        })?;
        Ok(theirs.iter().map(|theirs| if *theirs { '^' } else { '.' }).collect())
    }

    #[test]
    fn characters_of_inputs_are_found_whatever_happens_to_them() {
        let join = |inputs: &[String]| format!("<s>{}<s>", inputs[0].trim());
        assert_eq!(find(&[" <s>\n"], &[], &["<s>"], join).as_deref(), Ok("...^^^..."));
        let upper = |inputs: &[String]| format!("<{}>", inputs[0].to_uppercase());
        assert_eq!(find(&["s"], &[], &["<S>"], upper).as_deref(), Ok(".^."));
        assert!(find(&["\u{17f}"], &[], &["<S>"], upper).is_err(), "a long s in capitals is an S");
    }

    #[test]
    fn words_of_the_template_are_told_from_the_rest() {
        // Decides by one text, writes the other.
        let decide =
            |inputs: &[String]| if inputs[0] == "function" { format!("<s>{}", inputs[1]) } else { String::new() };
        assert_eq!(find(&["function", "<s>"], &["function"], &["<s>"], decide).as_deref(), Ok("...^^^"));
        // Cuts a text at a word.
        let cut = |inputs: &[String]| format!("<s>{}", inputs[0].rsplit("</think>").next().unwrap_or_default());
        assert_eq!(find(&["a</think><s>"], &["</think>"], &["<s>"], cut).as_deref(), Ok("...^^^"));
    }

    #[test]
    fn what_cannot_be_told_apart_is_refused() {
        let cut = |inputs: &[String]| format!("</t>{}", inputs[0].rsplit("</t>").next().unwrap_or_default());
        let error = ChatError::Indistinguishable { token: "</t>".to_owned(), text: "</t>".to_owned() };
        assert_eq!(find(&["a</t>b"], &["</t>"], &["</t>"], cut), Err(error));
    }

    #[test]
    fn sorted_names_are_no_trouble() {
        let sorted = |inputs: &[String]| {
            let mut inputs = inputs.to_vec();
            inputs.sort();
            format!("<s>{}", inputs.join(","))
        };
        assert_eq!(find(&["days", "city", "Name_x"], &[], &["<s>", "_"], sorted).map(|marks| marks.len()), Ok(19));
        assert!(find(&["days", "city", "name"], &["name"], &["<s>"], sorted).is_ok());
    }

    proptest! {
        /// The other alphabet has no character at the place of itself.
        #[test]
        fn no_character_stays_itself(text in "\\PC{1,20}") {
            let alphabet = Alphabet::for_tokens(&[text.as_str()].into());
            let replaced = alphabet.replace(&text, std::slice::from_ref(&(0..text.len())));
            prop_assert_eq!(replaced.chars().count(), text.chars().count());
            prop_assert!(replaced.chars().zip(text.chars()).all(|(new, old)| new != old));
        }
    }
}
