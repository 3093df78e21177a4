//! A model's tokens as a grammar sees them.

use std::collections::HashMap;
use std::sync::Arc;

use super::parse::Tokens;
use crate::error::GrammarError;
use crate::id::Token;
use crate::model::Model;
use crate::token_set::TokenSet;
use crate::token_trie::TokenTrie;
use crate::vocab::Special;

/// The tree of a model's tokens, made once for each model.
pub(super) fn trie(model: &Model) -> Result<Arc<TokenTrie>, GrammarError> {
    model.derived(|| {
        let vocab = model.vocab();
        let mut ends = TokenSet::empty(vocab.size());
        let mut pieces = Vec::with_capacity(vocab.size() as usize);
        let mut names = HashMap::new();
        let mut buffer = vec![0; 64];
        for id in 0..vocab.size() {
            // A vocabulary's ids are `int32_t`s.
            let token = Token(id as i32);
            if vocab.is_end_of_generation(token)? {
                ends.insert(id);
            }
            // Without the text of control tokens, which no text of a grammar is: llama.cpp takes them for their names
            // (llama-vocab.cpp:3093), and a model that is asked for `</s>` would be given its end token.
            let length = vocab.piece_into(token, false, &mut buffer)?;
            if length > 0 && !vocab.is_control(token)? {
                pieces.push(buffer[..length].to_vec());
            } else {
                pieces.push(Vec::new());
                let length = vocab.piece_into(token, true, &mut buffer)?;
                names.insert(id, buffer[..length].to_vec());
            }
        }
        if pieces.is_empty() {
            // Asked for a token, a vocabulary that has none says what is wrong with it.
            vocab.piece_into(Token(0), false, &mut buffer)?;
        }
        Ok(TokenTrie::new(&pieces, names, ends))
    })
}

/// The tokens that a grammar's text names.
pub(super) struct Named<'model>(pub(super) &'model Model);

impl Tokens for Named<'_> {
    fn by_text(&self, text: &str) -> Option<u32> {
        match self.0.tokenize(text, Special::Parse).ok()?.as_slice() {
            [token] => u32::try_from(token.0).ok(),
            _ => None,
        }
    }

    fn vocabulary(&self) -> u32 {
        self.0.vocabulary_size()
    }
}
