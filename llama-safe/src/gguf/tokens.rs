//! What a model file may say about its vocabulary.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use crate::error::GgufError;
use crate::gguf::{Header, Kind, TOKENS, Value};

/// Tokens of a vocabulary: 16 times as many as the largest there is. Each takes llama.cpp some hundred bytes.
const MOST_TOKENS: u64 = 1 << 22;

/// Refuses vocabularies that llama.cpp would abort on.
pub(crate) fn check(header: &Header) -> Result<(), GgufError> {
    if let Some(Value::List(tokens)) = header.metadata.get(TOKENS) {
        // Some tokenizers divide by their number (llama-vocab.cpp:3694).
        if tokens.length == 0 {
            return Err(GgufError::OutOfRange { key: TOKENS.to_owned(), got: 0, min: 1, max: MOST_TOKENS.into() });
        }
        if tokens.length > MOST_TOKENS {
            return Err(GgufError::List { key: TOKENS.to_owned(), got: tokens.length, max: MOST_TOKENS });
        }
        twice(&tokens.texts)?;
    }
    // Without a vocabulary, this many tokens are made up (llama-vocab.cpp:1995).
    if let Some(architecture) = header.text("general.architecture") {
        let key = format!("{architecture}.vocab_size");
        if let Some(got) = header.number(&key, Kind::U32) {
            let max = i128::from(MOST_TOKENS);
            if got > max {
                return Err(GgufError::OutOfRange { key, got, min: 0, max });
            }
        }
    }
    Ok(())
}

/// Refuses texts that stand twice: llama.cpp looks tokens up by text, and aborts (llama-vocab.cpp:2578). It has a text of
/// its own for a token without one.
fn twice(texts: &[Vec<u8>]) -> Result<(), GgufError> {
    let told = |text: &[u8], first, second| {
        Err(GgufError::DuplicateToken { text: String::from_utf8_lossy(text).into_owned(), first, second })
    };
    let mut seen = HashMap::with_capacity(texts.len());
    for (second, text) in texts.iter().enumerate().filter(|(_, text)| !text.is_empty()) {
        if let Some(first) = seen.insert(text.as_slice(), second) {
            return told(text, first, second);
        }
    }
    for (index, _) in texts.iter().enumerate().filter(|(_, text)| text.is_empty()) {
        let text = format!("[EMPTY_{index}]");
        if let Some(&other) = seen.get(text.as_bytes()) {
            return told(text.as_bytes(), other.min(index), other.max(index));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::List;

    fn checked(texts: &[&str]) -> Result<(), GgufError> {
        let texts: Vec<Vec<u8>> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
        let list = List { of: Kind::Text, length: texts.len() as u64, numbers: Vec::new(), floats: Vec::new(), texts };
        let mut header = Header::default();
        header.metadata.insert(TOKENS.to_owned(), Value::List(list));
        check(&header)
    }

    #[test]
    fn tokens_stand_once() {
        checked(&["a", "b", "", "", "A"]).unwrap();
        let error = checked(&["a", "b", "a"]).unwrap_err();
        assert!(matches!(error, GgufError::DuplicateToken { first: 0, second: 2, .. }), "{error}");
        // What llama.cpp calls the second, which has no text.
        let error = checked(&["[EMPTY_1]", ""]).unwrap_err();
        assert!(matches!(error, GgufError::DuplicateToken { first: 0, second: 1, .. }), "{error}");
    }

    #[test]
    fn made_up_vocabularies_have_a_bound() {
        let mut header = Header::default();
        header.metadata.insert("general.architecture".to_owned(), Value::Text("llama".to_owned()));
        header.metadata.insert("llama.vocab_size".to_owned(), Value::Number(Kind::U32, u32::MAX.into()));
        let error = check(&header).unwrap_err();
        assert!(matches!(error, GgufError::OutOfRange { max: 4_194_304, .. }), "{error}");
    }
}
