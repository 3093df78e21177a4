//! Text to tokens and back, whatever the text.

use batch_suite::{encoder, tiny};
use fixtures::{Llama, Weights};
use llama_safe::{Model, ModelParams, Special, Token, VocabError, VocabKind};
use proptest::prelude::*;

/// The tiny model's vocabulary with texts of its metadata replaced by others of the same length.
fn patched(replacements: &[(&str, &str)]) -> Model {
    let mut gguf = Llama::tiny().gguf(Weights::F16, 1).unwrap();
    for (old, new) in replacements {
        assert_eq!(old.len(), new.len());
        let mut places = gguf.windows(old.len()).enumerate().filter(|(_, bytes)| *bytes == old.as_bytes());
        let (place, _) = places.next().expect("a text of the metadata");
        assert!(places.next().is_none(), "{old} should be there once");
        gguf[place..place + new.len()].copy_from_slice(new.as_bytes());
    }
    Model::from_bytes(&gguf, &ModelParams::default().vocab_only(true)).unwrap()
}

#[test]
fn special_tokens_are_added_and_read_only_when_asked() {
    let model = tiny(Weights::F16);
    let vocab = model.vocab();
    assert_eq!(vocab.kind(), VocabKind::BytePair);
    let (bos, eos) = (vocab.bos().unwrap(), vocab.eos().unwrap());
    let plain = model.tokenize("a<s>b", Special::None).unwrap();
    assert!(plain.len() >= 3 && !plain.contains(&bos));
    assert_eq!(model.tokenize("a<s>b", Special::Bos).unwrap(), [vec![bos], plain].concat());
    let parsed = model.tokenize("a<s>b", Special::Parse).unwrap();
    assert_eq!(parsed.iter().filter(|token| **token == bos).count(), 1);
    assert_ne!(parsed[0], bos);
    assert_eq!(model.tokenize("", Special::None).unwrap(), []);
    assert_eq!(model.tokenize("", Special::Bos).unwrap(), [bos]);

    assert!(vocab.is_end_of_generation(eos).unwrap() && !vocab.is_end_of_generation(Token(65)).unwrap());
    assert!(vocab.is_control(bos).unwrap() && !vocab.is_control(Token(65)).unwrap());
    assert_eq!(vocab.piece(bos, false).unwrap(), b"");
    assert_eq!(vocab.piece(bos, true).unwrap(), b"<s>");
    assert_eq!(vocab.text(bos).unwrap(), "<s>");
    assert_eq!(model.detokenize(&[bos, Token(72), Token(105)]).unwrap(), "Hi");
}

#[test]
fn ids_out_of_range_are_refused_by_every_function() {
    for model in [tiny(Weights::F16), encoder()] {
        let vocab = model.vocab();
        let vocabulary = vocab.size();
        for token in [-1, vocabulary as i32, i32::MIN, i32::MAX].map(Token) {
            let error = VocabError::TokenOutOfRange { token: token.0, vocabulary };
            assert_eq!(vocab.piece(token, true).unwrap_err(), error);
            assert_eq!(vocab.text(token).unwrap_err(), error);
            assert_eq!(vocab.score(token).unwrap_err(), error);
            assert_eq!(vocab.is_control(token).unwrap_err(), error);
            assert_eq!(vocab.is_end_of_generation(token).unwrap_err(), error);
            assert_eq!(vocab.detokenize(&[Token(1), token]).unwrap_err(), error);
            let mut detokenizer = vocab.detokenizer();
            assert_eq!(detokenizer.push(token).unwrap_err(), error);
        }
    }
}

#[test]
fn nul_bytes_are_text() {
    let model = tiny(Weights::F16);
    let tokens = model.tokenize("a\0b", Special::None).unwrap();
    assert_eq!(model.detokenize(&tokens).unwrap(), "a\0b");
}

#[test]
fn characters_come_whole() {
    let model = tiny(Weights::F16);
    let vocab = model.vocab();
    let tokens = model.tokenize("é🙂", Special::None).unwrap();
    let mut detokenizer = vocab.detokenizer();
    let pieces: Vec<String> = tokens.iter().map(|token| detokenizer.push(*token).unwrap().to_owned()).collect();
    assert_eq!(pieces.concat(), "é🙂");
    assert!(pieces.iter().filter(|piece| !piece.is_empty()).count() <= 2, "{pieces:?}");
    // What never becomes a character is told at the end.
    let mut detokenizer = vocab.detokenizer();
    assert_eq!(detokenizer.push(Token(0xf0)).unwrap(), "");
    assert_eq!(detokenizer.finish(), "\u{fffd}");
}

/// This splitter recurses once a character (`std::regex` in llama.cpp's unicode.cpp): on the 2 MiB stack of a test's
/// thread, 6,500 letters in a row overflow it if they are cut there.
#[test]
fn long_texts_do_not_overflow_the_stack() {
    let model = patched(&[("qwen2", "bloom")]);
    let text = "a".repeat(60_000);
    let tokens = model.tokenize(&text, Special::None).unwrap();
    assert_eq!(model.detokenize(&tokens).unwrap(), text);
}

/// A vocabulary that is told to begin every text with a token that it does not have: llama.cpp asserts that it has it.
#[test]
fn a_missing_special_token_is_an_error() {
    // RWKV's tokenizer is the one without default ids for its special tokens.
    let model = patched(&[("gpt2", "rwkv"), ("tokenizer.ggml.bos_token_id", "tokenizer.ggml.xxx_token_id")]);
    let vocab = model.vocab();
    assert_eq!((vocab.adds_bos(), vocab.bos()), (true, None));
    assert_eq!(model.tokenize("a", Special::Bos), Err(VocabError::NoSuchSpecial { name: "BOS" }));
    assert!(model.tokenize("a", Special::None).is_ok());
}

proptest! {
    /// A byte-level vocabulary takes any text, and gives it back, at once and piece by piece.
    #[test]
    fn any_text_comes_back(text in any::<String>()) {
        let model = tiny(Weights::F16);
        let tokens = model.tokenize(&text, Special::None).unwrap();
        prop_assert_eq!(&model.detokenize(&tokens).unwrap(), &text);
        let mut detokenizer = model.vocab().detokenizer();
        let mut pieces = String::new();
        for token in &tokens {
            pieces.push_str(detokenizer.push(*token).unwrap());
        }
        pieces.push_str(&detokenizer.finish());
        prop_assert_eq!(&pieces, &text);
    }
}
