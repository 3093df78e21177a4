//! Vocabularies and text.

use std::ptr;

use fixtures::{Llama, Weights};
use llama_safe::{Model, ModelParams, Special, Token};
use llama_sys::*;

use crate::child::wrong;
use crate::raw::{guarded, model, model_with, tiny};
use crate::row::{Group, Outcome, Row, Safe};
use crate::safe::{Setup, told};

/// What llama.cpp's vocabulary throws for an id that it lacks.
const RANGE: Outcome =
    Outcome::Exception { kind: "std::out_of_range", says: "vector::_M_range_check", at: "llama-vocab.cpp:4100" };

/// Text has its length, and a buffer is made for it.
const NO_BUFFER: Safe = Safe::Unwritable { file: "vocab.rs", line: "model.tokenize(text, 100" };

macro_rules! out_of_range {
    ($name:ident, $function:literal, $more:expr, $outcome:expr, $operation:literal, $vocab:ident => $call:expr, $safe:expr) => {
        Row {
            group: Group::Text,
            name: stringify!($name),
            done: concat!("a token that the vocabulary lacks is asked about with ", $function),
            functions: $more,
            operation: $operation,
            outcome: $outcome,
            raw: {
                unsafe fn raw() {
                    let $vocab = llama_model_get_vocab(tiny());
                    $call;
                }
                raw
            },
            safe: Safe::Refused {
                error: "VocabError::TokenOutOfRange { token: 2000000000, vocabulary: .. }",
                on: Setup::Tiny,
                attempt: $safe,
            },
        }
    };
}

const BEYOND: i32 = 2_000_000_000;

pub const ROWS: &[Row] = &[
    out_of_range!(text_out_of_range, "llama_vocab_get_text", &["llama_vocab_get_text", "llama_token_get_text"], RANGE,
        "none: the list of tokens checks the index, and throws", vocab => llama_vocab_get_text(vocab, BEYOND),
        |context| told(context.model().vocab().text(Token(BEYOND)))),
    out_of_range!(score_out_of_range, "llama_vocab_get_score", &["llama_vocab_get_score", "llama_token_get_score"], RANGE,
        "none: the list of tokens checks the index, and throws", vocab => llama_vocab_get_score(vocab, BEYOND),
        |context| told(context.model().vocab().score(Token(BEYOND)))),
    out_of_range!(attribute_out_of_range, "llama_vocab_get_attr", &["llama_vocab_get_attr", "llama_token_get_attr"], RANGE,
        "none: the list of tokens checks the index, and throws", vocab => llama_vocab_get_attr(vocab, BEYOND),
        |context| told(context.model().vocab().is_control(Token(BEYOND)))),
    out_of_range!(control_out_of_range, "llama_vocab_is_control", &["llama_vocab_is_control", "llama_token_is_control"],
        Outcome::Segfault { at: "llama-vocab.cpp:3203" },
        "out-of-bounds read: this list does not check the index; near the end it reads what is there",
        vocab => llama_vocab_is_control(vocab, BEYOND),
        |context| told(context.model().vocab().is_control(Token(BEYOND)))),
    out_of_range!(piece_out_of_range, "llama_token_to_piece", &["llama_token_to_piece"], RANGE,
        "none: the list of tokens checks the index, and throws", vocab => {
            let mut buffer = [0; 64];
            llama_token_to_piece(vocab, BEYOND, buffer.as_mut_ptr(), 64, 0, true)
        },
        |context| told(context.model().vocab().piece(Token(BEYOND), true))),
    out_of_range!(detokenize_out_of_range, "llama_detokenize", &["llama_detokenize"], RANGE,
        "none: the list of tokens checks the index, and throws", vocab => {
            let mut buffer = [0; 64];
            llama_detokenize(vocab, [3, BEYOND].as_ptr(), 2, buffer.as_mut_ptr(), 64, false, false)
        },
        |context| told(context.model().detokenize(&[Token(3), Token(BEYOND)]))),
    Row {
        group: Group::Text,
        name: "no_vocabulary",
        done: "a text is cut into tokens for a model without vocabulary",
        functions: &["llama_tokenize", "llama_vocab_type"],
        operation: "none: it is asserted that there is a tokenizer",
        outcome: Outcome::Assertion {
            at: "llama-vocab.cpp:3456",
            says: "GGML_ASSERT(tokenizer && \"Tokenizer not initialized. Call llama_vocab::init_tokenizer() first.\") failed",
        },
        raw: no_vocabulary,
        safe: Safe::Refused {
            error: "VocabError::NoVocabulary",
            on: Setup::Tiny,
            attempt: |_| {
                let model = Model::from_bytes(&without_vocabulary(), &ModelParams::default()).unwrap();
                told(model.tokenize("a text", Special::None))
            },
        },
    },
    Row {
        group: Group::Text,
        name: "piece_without_vocabulary",
        done: "a token of a model without vocabulary is turned into text",
        functions: &["llama_token_to_piece"],
        operation: "none: it is asserted that there is a vocabulary",
        outcome: Outcome::Assertion {
            at: "llama-vocab.cpp:3249",
            says: "GGML_ASSERT(type != LLAMA_VOCAB_TYPE_NONE) failed",
        },
        raw: piece_without_vocabulary,
        safe: Safe::Refused {
            error: "VocabError::NoVocabulary",
            on: Setup::Tiny,
            attempt: |_| {
                let model = Model::from_bytes(&without_vocabulary(), &ModelParams::default()).unwrap();
                told(model.vocab().piece(Token(3), false))
            },
        },
    },
    Row {
        group: Group::Text,
        name: "null_text",
        done: "NULL is cut into tokens",
        functions: &["llama_tokenize"],
        operation: "none: a string is made of NULL, and throws",
        outcome: Outcome::Exception { kind: "std::logic_error", says: "null", at: "llama-vocab.cpp:4269" },
        raw: null_text,
        safe: NO_BUFFER,
    },
    Row {
        group: Group::Text,
        name: "longer_than_it_is",
        done: "a text of 4 bytes is said to have 100",
        functions: &["llama_tokenize"],
        operation: "out-of-bounds read",
        outcome: Outcome::GuardPage { array: "text", at: "llama-vocab.cpp:4269" },
        raw: longer_than_it_is,
        safe: NO_BUFFER,
    },
    Row {
        group: Group::Text,
        name: "of_negative_length",
        done: "a text is said to have -1 bytes",
        functions: &["llama_tokenize"],
        operation: "none: a string of 2^64 - 1 bytes is asked for, and throws",
        outcome: Outcome::Exception { kind: "std::length_error", says: "basic_string", at: "llama-vocab.cpp:4269" },
        raw: of_negative_length,
        safe: NO_BUFFER,
    },
    Row {
        group: Group::Text,
        name: "tokens_beyond_their_buffer",
        done: "the buffer for tokens is said to hold 64, and holds 2",
        functions: &["llama_tokenize"],
        operation: "out-of-bounds write",
        outcome: Outcome::GuardPage { array: "destination", at: "llama-vocab.cpp:4281" },
        raw: tokens_beyond_their_buffer,
        safe: NO_BUFFER,
    },
    Row {
        group: Group::Text,
        name: "text_beyond_its_buffer",
        done: "the buffer for text is said to hold 64 bytes, and holds 2",
        functions: &["llama_detokenize"],
        operation: "out-of-bounds write",
        outcome: Outcome::GuardPage { array: "destination", at: "llama-vocab.cpp:3732" },
        raw: text_beyond_its_buffer,
        safe: NO_BUFFER,
    },
    Row {
        group: Group::Text,
        name: "piece_read_as_a_string",
        done: "a piece is read up to its NUL",
        functions: &["llama_token_to_piece"],
        operation: "out-of-bounds read by the caller: no NUL is written",
        outcome: Outcome::GuardPage { array: "destination", at: "llama-vocab.cpp:3732" },
        raw: piece_read_as_a_string,
        safe: NO_BUFFER,
    },
    Row {
        group: Group::Text,
        name: "negative_count_taken_for_a_length",
        done: "tokens are counted by what llama_tokenize returned, with too small a buffer",
        functions: &["llama_tokenize"],
        operation: "none: a negative number, which is 4 billion as an unsigned one",
        outcome: Outcome::Wrong { at: "llama-vocab.cpp:4277" },
        raw: negative_count_taken_for_a_length,
        safe: NO_BUFFER,
    },
    Row {
        group: Group::Text,
        name: "special_that_is_not_there",
        done: "the vocabulary wants a BOS before each text, and has none",
        functions: &["llama_tokenize", "llama_vocab_get_add_bos", "llama_vocab_bos", "llama_token_bos"],
        operation: "none: it is asserted that there is one",
        outcome: Outcome::Assertion {
            at: "llama-vocab.cpp:595",
            says: "GGML_ASSERT(vocab.token_bos() != LLAMA_TOKEN_NULL) failed",
        },
        raw: special_that_is_not_there,
        safe: Safe::Refused {
            error: "VocabError::NoSuchSpecial { name: \"BOS\" }",
            on: Setup::Tiny,
            attempt: |_| {
                let params = ModelParams::default().vocab_only(true).override_metadata("tokenizer.ggml.pre", "glm4");
                told(Model::from_bytes(&without_bos(), &params).unwrap().tokenize("a text", Special::Bos))
            },
        },
    },
    Row {
        group: Group::Text,
        name: "a_very_long_word",
        done: "a word of 400,000 letters is cut by a byte-pair tokenizer that splits with a regular expression",
        functions: &["llama_tokenize"],
        operation: "the stack overflows: the expression's matcher calls itself for each letter",
        outcome: Outcome::StackOverflow { at: "unicode.cpp:739" },
        raw: a_very_long_word,
        safe: Safe::Right {
            why: "a long text is cut on a stack that is large enough",
            on: Setup::Tiny,
            attempt: |_| {
                let model =
                    Model::from_bytes(&splits_by_expression(), &ModelParams::default().vocab_only(true)).unwrap();
                let text = "a".repeat(40_000);
                let tokens = model.tokenize(&text, Special::None).unwrap();
                assert_eq!(model.detokenize(&tokens).unwrap(), text);
            },
        },
    },
    Row {
        group: Group::Text,
        name: "metadata_by_no_key",
        done: "metadata is asked for by NULL",
        functions: &["llama_model_meta_val_str"],
        operation: "none: a string is made of NULL, and throws",
        outcome: Outcome::Exception { kind: "std::logic_error", says: "null", at: "llama-model.cpp:3236" },
        raw: metadata_by_no_key,
        safe: NO_BUFFER,
    },
    Row {
        group: Group::Text,
        name: "metadata_longer_than_its_buffer",
        done: "metadata is read by the length that llama_model_meta_val_str returns, in a smaller buffer",
        functions: &["llama_model_meta_val_str", "llama_model_desc", "llama_model_meta_key_by_index"],
        operation: "out-of-bounds read by the caller: the length is that of the whole value",
        outcome: Outcome::GuardPage { array: "destination", at: "llama-model.cpp:3243" },
        raw: metadata_longer_than_its_buffer,
        safe: NO_BUFFER,
    },
];

/// The tiny model with texts of its metadata replaced by others of the same length.
fn patched(replacements: &[(&str, &str)]) -> Vec<u8> {
    let mut gguf = Llama::tiny().gguf(Weights::F32, 1).expect("a shape that holds together");
    for (old, new) in replacements {
        let place = gguf.windows(old.len()).position(|bytes| bytes == old.as_bytes()).expect("a text of the metadata");
        gguf[place..place + new.len()].copy_from_slice(new.as_bytes());
    }
    gguf
}

fn without_vocabulary() -> Vec<u8> {
    patched(&[("gpt2", "none")])
}

/// A byte-pair tokenizer without a default BOS, and a file that names none.
fn without_bos() -> Vec<u8> {
    patched(&[("tokenizer.ggml.bos_token_id", "tokenizer.ggml.xxx_token_id")])
}

fn splits_by_expression() -> Vec<u8> {
    patched(&[("qwen2", "bloom")])
}

unsafe fn tokenize(vocab: *const llama_vocab, text: *const i8, length: i32, special: bool) -> i32 {
    let mut tokens = [0; 64];
    llama_tokenize(vocab, text.cast(), length, tokens.as_mut_ptr(), 64, special, false)
}

unsafe fn no_vocabulary() {
    tokenize(llama_model_get_vocab(model(&without_vocabulary())), c"a text".as_ptr().cast(), 6, false);
}

unsafe fn piece_without_vocabulary() {
    let mut buffer = [0; 64];
    llama_token_to_piece(llama_model_get_vocab(model(&without_vocabulary())), 3, buffer.as_mut_ptr(), 64, 0, false);
}

unsafe fn null_text() {
    tokenize(llama_model_get_vocab(tiny()), ptr::null(), 3, false);
}

unsafe fn longer_than_it_is() {
    tokenize(llama_model_get_vocab(tiny()), guarded("text", b"text").cast(), 100_000, false);
}

unsafe fn of_negative_length() {
    tokenize(llama_model_get_vocab(tiny()), c"a text".as_ptr().cast(), -1, false);
}

unsafe fn tokens_beyond_their_buffer() {
    let text = c"a text that is longer than two tokens";
    let buffer = guarded("destination", &[0_i32; 2]);
    llama_tokenize(llama_model_get_vocab(tiny()), text.as_ptr(), 37, buffer, 64, false, false);
}

unsafe fn text_beyond_its_buffer() {
    let buffer = guarded("destination", &[0_i8; 2]);
    let tokens = crate::raw::text(1, 30);
    llama_detokenize(llama_model_get_vocab(tiny()), tokens.as_ptr(), 30, buffer.cast(), 64, false, false);
}

unsafe fn piece_read_as_a_string() {
    let vocab = llama_model_get_vocab(tiny());
    let buffer = guarded("destination", &[b'x'; 8]);
    llama_token_to_piece(vocab, 70, buffer.cast(), 8, 0, true);
    libc::strlen(buffer.cast());
}

unsafe fn negative_count_taken_for_a_length() {
    let text = c"a text that is longer than two tokens";
    let mut tokens = [0; 2];
    let count = llama_tokenize(llama_model_get_vocab(tiny()), text.as_ptr(), 37, tokens.as_mut_ptr(), 2, false, false);
    if count < 0 {
        wrong(&format!("2 tokens fit, and the count is {count}, {} as an unsigned number", count as u32));
    }
}

unsafe fn special_that_is_not_there() {
    let mut overrides: [llama_model_kv_override; 2] = std::mem::zeroed();
    overrides[0].tag = LLAMA_KV_OVERRIDE_TYPE_STR;
    ptr::copy_nonoverlapping(c"tokenizer.ggml.pre".as_ptr(), overrides[0].key.as_mut_ptr(), 19);
    ptr::copy_nonoverlapping(c"glm4".as_ptr(), (&raw mut overrides[0].__bindgen_anon_1.val_str).cast(), 5);
    let model = model_with(&without_bos(), |params| params.kv_overrides = overrides.as_ptr());
    tokenize(llama_model_get_vocab(model), c"a text".as_ptr().cast(), 6, true);
}

unsafe fn a_very_long_word() {
    let vocab = llama_model_get_vocab(model(&splits_by_expression()));
    let text = vec![b'a'; 400_000];
    tokenize(vocab, text.as_ptr().cast(), 400_000, false);
}

unsafe fn metadata_by_no_key() {
    let mut buffer = [0; 64];
    llama_model_meta_val_str(tiny(), ptr::null(), buffer.as_mut_ptr(), 64);
}

unsafe fn metadata_longer_than_its_buffer() {
    let buffer = guarded("destination", &[0_u8; 2]);
    let length = llama_model_meta_val_str(tiny(), c"general.architecture".as_ptr(), buffer.cast(), 2);
    libc::memchr(buffer.cast(), 0xff, length as usize);
}
