//! Tokens to text as they come.

use crate::error::VocabError;
use crate::id::Token;
use crate::vocab::Vocab;

impl<'model> Vocab<'model> {
    /// Turns tokens into text as they come.
    #[must_use]
    pub fn detokenizer(&self) -> Detokenizer<'model> {
        Detokenizer { vocab: *self, piece: vec![0; 64], pending: Vec::new(), text: String::new() }
    }
}

/// Turns tokens into text as they come, in whole characters: a character that is spread over several tokens comes with
/// the last of them.
#[derive(Clone, Debug)]
pub struct Detokenizer<'model> {
    vocab: Vocab<'model>,
    piece: Vec<u8>,
    /// Bytes that are the beginning of a character.
    pending: Vec<u8>,
    text: String,
}

impl Detokenizer<'_> {
    /// The text that this token completes, which may be none. Bytes that can never be a character become U+FFFD.
    ///
    /// # Errors
    ///
    /// [`VocabError`]: the model has no vocabulary, or the token is not in it. What came before is kept.
    pub fn push(&mut self, token: Token) -> Result<&str, VocabError> {
        let length = self.vocab.piece_into(token, false, &mut self.piece)?;
        self.pending.extend_from_slice(&self.piece[..length]);
        self.text.clear();
        let whole = complete_prefix(&self.pending);
        self.text.push_str(&String::from_utf8_lossy(&self.pending[..whole]));
        self.pending.drain(..whole);
        Ok(&self.text)
    }

    /// What is left when no more tokens come: an unfinished character, as U+FFFD.
    #[must_use]
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}

/// Length of `bytes` without an unfinished character at its end.
fn complete_prefix(bytes: &[u8]) -> usize {
    let mut start = 0;
    while let Err(error) = std::str::from_utf8(&bytes[start..]) {
        start += error.valid_up_to();
        match error.error_len() {
            Some(bad) => start += bad,
            None => return start,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::complete_prefix;

    #[test]
    fn an_unfinished_character_is_kept_back() {
        assert_eq!(complete_prefix("aé".as_bytes()), 3);
        assert_eq!(complete_prefix(&"aé".as_bytes()[..2]), 1);
        assert_eq!(complete_prefix(&"🙂".as_bytes()[..3]), 0);
        assert_eq!(complete_prefix(b"a\xffb"), 3, "what can never be a character is not waited for");
        assert_eq!(complete_prefix(b""), 0);
    }

    proptest! {
        /// Cut anywhere, text comes out whole.
        #[test]
        fn text_survives_any_cuts(text in "\\PC{0,40}", cuts in prop::collection::vec(1usize..4, 0..80)) {
            let (mut out, mut pending, mut rest) = (String::new(), Vec::new(), text.as_bytes());
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                rest = after;
                pending.extend_from_slice(piece);
                let whole = complete_prefix(&pending);
                out.push_str(std::str::from_utf8(&pending[..whole]).expect("whole characters"));
                pending.drain(..whole);
            }
            prop_assert_eq!(out, text);
        }
    }
}
