//! Tokens to text as they come.

use crate::error::VocabError;
use crate::id::Token;
use crate::model::Model;
use crate::vocab::Vocab;

impl Vocab<'_> {
    /// Turns tokens into text as they come.
    #[must_use]
    pub fn detokenizer(&self) -> Detokenizer {
        Detokenizer {
            model: self.model().clone(),
            continues: false,
            renders_special: false,
            begins: true,
            piece: vec![0; 64],
            pending: Vec::new(),
            text: String::new(),
        }
    }

    /// The text of tokens, from its beginning; special ones are left out. Bytes that are no UTF-8 become U+FFFD.
    ///
    /// It is what a [`Detokenizer`] gives piece by piece, and exactly what the tokens say: spaces before punctuation stay,
    /// which `llama_detokenize` takes away for some vocabularies (Llama 3, GPT-2, BERT), so that `a ? b` comes back as it
    /// was. Tokens that continue a text are for a detokenizer that is told so.
    ///
    /// ```
    /// use llama_safe::{Model, ModelParams, Special};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let gguf = fixtures::Llama::tiny().gguf(fixtures::Weights::F16, 1)?;
    /// # let model = Model::from_bytes(&gguf, &ModelParams::default())?;
    /// let tokens = model.tokenize("size > 0 ? 'a' : 'b'", Special::Bos)?;
    /// assert_eq!(model.detokenize(&tokens)?, "size > 0 ? 'a' : 'b'");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`VocabError`]: the model has no vocabulary, or a token is not in it.
    pub fn detokenize(&self, tokens: &[Token]) -> Result<String, VocabError> {
        self.require()?;
        let mut detokenizer = self.detokenizer();
        let mut text = String::with_capacity(tokens.len().saturating_mul(4));
        for token in tokens {
            text.push_str(detokenizer.push(*token)?);
        }
        text.push_str(detokenizer.finish());
        Ok(text)
    }
}

/// Turns tokens into text as they come, in whole characters: a character that is spread over several tokens comes with
/// the last of them.
///
/// The pieces together are what [`Vocab::detokenize`] gives for all tokens. It keeps the model alive, and allocates nothing
/// once its buffers are as long as the longest token.
///
/// ```
/// use llama_safe::{Model, ModelParams, Special};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let gguf = fixtures::Llama::tiny().gguf(fixtures::Weights::F16, 1)?;
/// # let model = Model::from_bytes(&gguf, &ModelParams::default())?;
/// // A vocabulary of bytes: "é" is two tokens, and comes with the second.
/// let tokens = model.tokenize("né", Special::None)?;
/// let mut detokenizer = model.vocab().detokenizer();
/// assert_eq!(detokenizer.push(tokens[0])?, "n");
/// assert_eq!(detokenizer.push(tokens[1])?, "");
/// assert_eq!(detokenizer.push(tokens[2])?, "é");
/// assert_eq!(detokenizer.finish(), "");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Detokenizer {
    model: Model,
    continues: bool,
    renders_special: bool,
    /// Whether no token had a text yet.
    begins: bool,
    piece: Vec<u8>,
    /// Bytes that are the beginning of a character.
    pending: Vec<u8>,
    text: String,
}

impl Detokenizer {
    /// The tokens continue a text, as what is generated continues its prompt.
    ///
    /// Vocabularies of the SentencePiece kind write "Hello world" as `▁Hello ▁world`, and the first of these spaces is no
    /// part of a text that begins there. Of one that goes on it is: "Once upon" and `▁a ▁time`.
    #[must_use]
    pub fn continuing(mut self) -> Self {
        self.continues = true;
        self
    }

    /// Whether control tokens are written as the vocabulary names them, such as `<s>`. They have no text otherwise.
    #[must_use]
    pub fn render_special(mut self, render: bool) -> Self {
        self.renders_special = render;
        self
    }

    /// The vocabulary.
    #[must_use]
    pub fn vocab(&self) -> Vocab<'_> {
        self.model.vocab()
    }

    /// The text that this token completes, which may be none. Bytes that can never be a character become U+FFFD.
    ///
    /// # Errors
    ///
    /// [`VocabError`]: the model has no vocabulary, or the token is not in it. What came before is kept.
    pub fn push(&mut self, token: Token) -> Result<&str, VocabError> {
        let vocab = self.model.vocab();
        let length = vocab.piece_into(token, self.renders_special, &mut self.piece)?;
        let mut bytes = &self.piece[..length];
        if let [b' ', rest @ ..] = bytes
            && self.begins
            && !self.continues
            && vocab.begins_with_space(token, self.renders_special, length)?
        {
            bytes = rest;
        }
        self.begins &= length == 0;
        self.pending.extend_from_slice(bytes);
        self.text.clear();
        take_characters(&mut self.pending, &mut self.text);
        Ok(&self.text)
    }

    /// Whether the last token ended within a character.
    #[must_use]
    pub fn is_within_character(&self) -> bool {
        !self.pending.is_empty()
    }

    /// What is left when no more tokens come: an unfinished character, as U+FFFD. Then it is ready for another text.
    pub fn finish(&mut self) -> &str {
        let rest = if self.is_within_character() { "\u{fffd}" } else { "" };
        self.reset();
        rest
    }

    /// Forgets the text, and is ready for another one of the same kind.
    pub fn reset(&mut self) {
        self.pending.clear();
        self.begins = true;
    }
}

/// Moves whole characters from `bytes` to the end of `text`, and U+FFFD for what can never be one. What stays is the
/// beginning of a character.
fn take_characters(bytes: &mut Vec<u8>, text: &mut String) {
    let mut taken = 0;
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        taken += chunk.valid().len();
        let invalid = chunk.invalid();
        let is_last = taken + invalid.len() == bytes.len();
        match std::str::from_utf8(invalid) {
            Ok(_) => {}
            // Nothing wrong with it, but that more has to come.
            Err(error) if is_last && error.error_len().is_none() => break,
            Err(_) => {
                text.push(char::REPLACEMENT_CHARACTER);
                taken += invalid.len();
            }
        }
    }
    bytes.drain(..taken);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::take_characters;

    /// What is taken of `bytes`, and what stays.
    fn taken(bytes: &[u8]) -> (String, Vec<u8>) {
        let (mut bytes, mut text) = (bytes.to_vec(), String::new());
        take_characters(&mut bytes, &mut text);
        (text, bytes)
    }

    #[test]
    fn an_unfinished_character_is_kept_back() {
        assert_eq!(taken("aé".as_bytes()), ("aé".to_owned(), vec![]));
        assert_eq!(taken(&"aé".as_bytes()[..2]), ("a".to_owned(), vec![0xc3]));
        assert_eq!(taken(&"🙂".as_bytes()[..3]), (String::new(), "🙂".as_bytes()[..3].to_vec()));
        assert_eq!(
            taken(b"a\xffb"),
            ("a\u{fffd}b".to_owned(), vec![]),
            "what can never be a character is not waited for"
        );
        assert_eq!(taken(b"\xe2\x82a\xe2\x82"), ("\u{fffd}a".to_owned(), vec![0xe2, 0x82]));
        assert_eq!(taken(b""), (String::new(), vec![]));
    }

    proptest! {
        /// Cut anywhere, bytes are the same text as at once.
        #[test]
        fn cuts_change_nothing(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select("aé🙂€".as_bytes())], 0..40),
            cuts in prop::collection::vec(1usize..4, 0..80),
        ) {
            let (mut text, mut pending, mut rest) = (String::new(), Vec::new(), bytes.as_slice());
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                rest = after;
                pending.extend_from_slice(piece);
                take_characters(&mut pending, &mut text);
                prop_assert!(pending.len() < 4);
            }
            text.push_str(if pending.is_empty() { "" } else { "\u{fffd}" });
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }
    }
}
