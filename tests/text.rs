//! Text to tokens and back, whatever the text.

mod text {
    pub mod counting;
    pub mod raw;
}

use batch_suite::{encoder, tiny, vocabulary};
use fixtures::gguf::Value;
use fixtures::vocab::Tokenizer;
use fixtures::{Llama, Weights};
use llama_safe::{Detokenizer, Model, ModelParams, Special, Token, VocabError, VocabKind};
use proptest::prelude::*;
use text::counting;
use text::raw::{RawVocabulary, cleaned};

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
    assert_eq!(detokenizer.push(Token(0xf0)).unwrap(), "");
    assert!(detokenizer.is_within_character());
    assert_eq!(detokenizer.finish(), "\u{fffd}");
    assert_eq!(detokenizer.finish(), "");
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
        pieces.push_str(detokenizer.finish());
        prop_assert_eq!(&pieces, &text);
    }
}

/// Metadata to write into a file.
type Changes = Vec<(&'static str, Value)>;

/// Every kind of vocabulary, as its file says and otherwise: with and without a space before a text, and, `true`, where
/// llama.cpp's own function "cleans up" spaces.
fn vocabularies() -> Vec<(Tokenizer, Changes, bool)> {
    let space = |yes: bool| vec![("tokenizer.ggml.add_space_prefix", Value::from(yes))];
    let mut all = Vec::new();
    for tokenizer in Tokenizer::ALL {
        let cleans = tokenizer == Tokenizer::WordPiece;
        all.extend([(tokenizer, vec![], cleans), (tokenizer, space(true), cleans), (tokenizer, space(false), cleans)]);
    }
    let llama3 = ("tokenizer.ggml.pre", Value::from("llama-bpe"));
    all.push((Tokenizer::BytePair, vec![llama3.clone()], true));
    all.push((Tokenizer::BytePair, [vec![llama3], space(true)].concat(), true));
    all
}

fn streamed(detokenizer: &Detokenizer, tokens: &[Token]) -> String {
    let mut detokenizer = detokenizer.clone();
    let mut text = String::new();
    for token in tokens {
        text.push_str(detokenizer.push(*token).unwrap());
    }
    text + detokenizer.finish()
}

/// Text at once, piece by piece, and by llama.cpp's own functions, of tokens that nobody tokenized: bytes that are no
/// text, control tokens anywhere, spaces before spaces.
#[test]
fn pieces_are_the_text_in_every_vocabulary() {
    for (tokenizer, changes, cleans) in vocabularies() {
        let model = vocabulary(tokenizer, &changes);
        let raw = RawVocabulary::new(&tokenizer.gguf(&changes));
        let vocab = model.vocab();
        let detokenizer = vocab.detokenizer();
        let special = vocab.detokenizer().render_special(true);
        let continuing = vocab.detokenizer().continuing();
        let any = prop::collection::vec((0..vocab.size() as i32).prop_map(Token), 0..40);
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let result = runner.run(&any, |tokens| {
            let text = model.detokenize(&tokens).unwrap();
            prop_assert_eq!(&streamed(&detokenizer, &tokens), &text);
            prop_assert_eq!(streamed(&continuing, &tokens), raw.pieces(&tokens));

            // llama.cpp takes the space of the very first token only, even if that has no text.
            let silent = tokens.iter().take_while(|token| vocab.piece(**token, false).unwrap().is_empty()).count();
            let expected = raw.detokenize(&tokens[silent..], false);
            prop_assert_eq!(if cleans { cleaned(&text) } else { text }, expected);
            let text = streamed(&special, &tokens);
            prop_assert_eq!(if cleans { cleaned(&text) } else { text }, raw.detokenize(&tokens, true));
            Ok(())
        });
        assert!(result.is_ok(), "{tokenizer:?} {changes:?}: {}", result.unwrap_err());
    }
}

/// What is tokenized comes back, with a beginning of the text or without, where a vocabulary has tokens for everything.
#[test]
fn any_text_comes_back_from_every_vocabulary_of_bytes() {
    for (tokenizer, changes, _) in vocabularies() {
        if [Tokenizer::WordPiece, Tokenizer::Unigram].contains(&tokenizer) {
            continue;
        }
        // Tokenizers of bytes put no space before a text, whatever their file says; llama.cpp takes one away all the same.
        if tokenizer != Tokenizer::SentencePiece && changes.iter().any(|(_, value)| *value == Value::Bool(true)) {
            continue;
        }
        let model = vocabulary(tokenizer, &changes);
        let words = prop::collection::vec(
            prop_oneof!["balo", " ", "\\PC", "[ '?!.,a-z]{0,4}", "é", "🙂"]
                .prop_filter("a space's sign", |word| !word.contains('▁')),
            0..12,
        );
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let result = runner.run(&words, |words| {
            let text = words.concat();
            for special in [Special::None, Special::Bos] {
                let tokens = model.tokenize(&text, special).unwrap();
                prop_assert_eq!(&model.detokenize(&tokens).unwrap(), &text);
            }
            Ok(())
        });
        assert!(result.is_ok(), "{tokenizer:?} {changes:?}: {}", result.unwrap_err());
    }
}

/// "Once upon" and " a time": what continues a text keeps its first space, what begins one does not have one.
#[test]
fn a_continuation_keeps_its_space() {
    let model = vocabulary(Tokenizer::SentencePiece, &[]);
    let tokens = model.tokenize("balo ? 's x", Special::Bos).unwrap();
    let continuing = model.vocab().detokenizer().continuing();
    for cut in 1..tokens.len() {
        let (prompt, generated) = tokens.split_at(cut);
        let prompt = model.detokenize(prompt).unwrap();
        let begins = prompt.is_empty();
        let generated = streamed(&continuing, generated);
        assert_eq!(prompt + &generated, if begins { " balo ? 's x" } else { "balo ? 's x" });
    }
}

/// Bytes that a SentencePiece vocabulary has no piece for come one a token, and may be anything.
#[test]
fn byte_tokens_are_whole_characters_or_a_sign_for_none() {
    let model = vocabulary(Tokenizer::SentencePiece, &[]);
    let byte = |byte: u8| Token(3 + i32::from(byte));
    let mut detokenizer = model.vocab().detokenizer();
    for (bytes, pieces) in [
        (&[0xf0, 0x9f, 0x99, 0x82][..], &["", "", "", "🙂"][..]),
        // The second byte cannot follow the first, and begins a character itself.
        (&[0xf0, 0xc3, 0xa9], &["", "\u{fffd}", "é"]),
        (&[0xff, b'a'], &["\u{fffd}", "a"]),
        // A surrogate, which is none in UTF-8: no byte of it can follow the one before.
        (&[0xed, 0xa0, 0x80], &["", "\u{fffd}\u{fffd}", "\u{fffd}"]),
    ] {
        detokenizer.reset();
        for (at, expected) in bytes.iter().zip(pieces) {
            assert_eq!(detokenizer.push(byte(*at)).unwrap(), *expected, "{bytes:x?} at {at:x}");
        }
    }
}

/// A refused token leaves what came before, a clone goes on alone, and it needs nobody who keeps the model.
#[test]
fn detokenizers_are_values() {
    fn owned<T: Send + Sync + Clone + 'static>(value: T) -> T {
        value
    }
    let mut detokenizer = owned(tiny(Weights::F16).vocab().detokenizer());
    assert_eq!(detokenizer.push(Token(0xc3)).unwrap(), "");
    let mut clone = detokenizer.clone();
    assert!(detokenizer.push(Token(-1)).is_err());
    assert_eq!(detokenizer.push(Token(0xa9)).unwrap(), "é");
    assert_eq!(clone.push(Token(0xa8)).unwrap(), "è");
    assert_eq!(clone.push(Token(0xc3)).unwrap(), "");
    clone.reset();
    assert_eq!(clone.push(Token(i32::from(b'a'))).unwrap(), "a");

    // Control tokens have a text when asked for, and end an unfinished character.
    let mut special = detokenizer.render_special(true);
    assert_eq!(special.push(Token(0xc3)).unwrap(), "");
    assert_eq!(special.push(Token(256)).unwrap(), "\u{fffd}<s>");
}

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

/// Once the longest token and the longest unfinished character have been there.
#[test]
fn a_warm_detokenizer_allocates_nothing() {
    let model = tiny(Weights::F16);
    let tokens: Vec<Token> = (0..model.vocab().size() as i32).map(Token).collect();
    let mut detokenizer = model.vocab().detokenizer();
    let mut all = || {
        for token in &tokens {
            assert!(detokenizer.push(*token).is_ok());
        }
    };
    assert!(counting::allocations(&mut all) > 0, "it counts");
    assert_eq!(counting::allocations(all), 0);
}
