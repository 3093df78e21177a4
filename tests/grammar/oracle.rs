//! What is allowed is what llama.cpp's own grammar leaves, where that is right.
//!
//! Where it is not, by its sources:
//! - control tokens, and the unknown one, are text there, by their names (llama-vocab.cpp:3093): left out of the comparison;
//! - a token that is allowed by its id is refused if its bytes are no whole characters (llama-grammar.cpp:1086);
//! - a token with a NUL is read up to it, or not at all (`c_str` in `decode_utf8`, llama-grammar.cpp:38);
//! - bytes that are no UTF-8 begin characters there: surrogates, numbers above U+10FFFF, bytes from 0xF5 on (:37);
//! - a character that is cut is refused by `[^é]` if `é` could come of it, whatever else could (:825).

use std::ffi::CString;

use fixtures::{Llama, Weights};
use llama_safe::{Grammar, Model, ModelParams, Token};
use llama_sys as sys;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::draw::{below, piece};
use crate::samples::{ARITHMETIC, CHESS, JSON, LIST};
use crate::vocabularies::sentence_piece_file;

const NESTED: &str = r#"
root ::= "x"{2,4} (pair | [^a-m"]+ "." )* "end"?
pair ::= "(" (pair | "," | "<" .{0,3} ">")* ")"
"#;

const NAMED: &str = r#"
root ::= "a" <[70]> ("b" | !<[66]>)* <[80]>
"#;

/// llama.cpp's grammar sampler, and the vocabulary that it was made for.
struct Raw {
    model: *mut sys::llama_model,
    sampler: *mut sys::llama_sampler,
}

impl Raw {
    fn new(gguf: &[u8], name: &str, text: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("grammar-oracle-{}-{name}", std::process::id()));
        std::fs::write(&folder, gguf).unwrap();
        let path = CString::new(folder.to_str().unwrap()).unwrap();
        let text = CString::new(text).unwrap();
        // SAFETY: the strings are terminated and outlive the calls; the vocabulary lives as long as the model, which is
        // freed after the sampler.
        let raw = unsafe {
            sys::llama_backend_init();
            let mut params = sys::llama_model_default_params();
            params.vocab_only = true;
            let model = sys::llama_model_load_from_file(path.as_ptr(), params);
            assert!(!model.is_null());
            let vocab = sys::llama_model_get_vocab(model);
            let sampler = sys::llama_sampler_init_grammar(vocab, text.as_ptr(), c"root".as_ptr());
            assert!(!sampler.is_null());
            Self { model, sampler }
        };
        std::fs::remove_file(folder).unwrap();
        raw
    }

    /// The tokens that it leaves.
    fn allowed(&self, vocabulary: u32) -> Vec<bool> {
        let mut data: Vec<_> =
            (0..vocabulary as i32).map(|id| sys::llama_token_data { id, logit: 0.0, p: 0.0 }).collect();
        let mut array =
            sys::llama_token_data_array { data: data.as_mut_ptr(), size: data.len(), selected: -1, sorted: false };
        // SAFETY: the sampler lives, and the array holds `size` tokens of its vocabulary.
        unsafe { sys::llama_sampler_apply(self.sampler, &raw mut array) };
        data.iter().map(|token| token.logit.is_finite()).collect()
    }

    fn accept(&mut self, token: Token) {
        // SAFETY: the sampler lives; that it allows the token, without which it throws, was seen before.
        unsafe { sys::llama_sampler_accept(self.sampler, token.0) };
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // SAFETY: both are owned, and freed once, the sampler first.
        unsafe {
            sys::llama_sampler_free(self.sampler);
            sys::llama_model_free(self.model);
        }
    }
}

/// Whether bytes are the beginning of a text.
fn begins_text(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).err().is_none_or(|error| error.error_len().is_none())
}

/// Random walks, both asked at each step.
fn compare(gguf: &[u8], name: &str, text: &str) {
    let params = ModelParams::default().vocab_only(true);
    let model = Model::from_bytes(gguf, &params).unwrap();
    let start = Grammar::gbnf(&model, text, "root").unwrap();
    let vocab = model.vocab();
    let pieces: Vec<Vec<u8>> = (0..vocab.size() as i32).map(|id| piece(&model, Token(id))).collect();
    let by_name = text == NAMED;
    let mut compared = 0;
    for walk in 0..12 {
        let mut random = ChaCha8Rng::seed_from_u64(walk);
        let (mut grammar, mut raw) = (start.clone(), Raw::new(gguf, name, text));
        let mut bytes: Vec<u8> = Vec::new();
        for _ in 0..20 {
            let allowed = grammar.allowed().unwrap().clone();
            let expected = raw.allowed(vocab.size());
            let mut both = Vec::new();
            for id in 0..vocab.size() as usize {
                let token = Token(id as i32);
                let end = vocab.is_end_of_generation(token).unwrap();
                if pieces[id].is_empty() && !end {
                    continue;
                }
                let read = [bytes.as_slice(), &pieces[id]].concat();
                match (allowed.contains(token), expected[id]) {
                    (true, true) if !end => both.push(token),
                    (true, false) => {
                        let cut = by_name && std::str::from_utf8(&pieces[id]).is_err();
                        assert!(pieces[id].contains(&0) || cut, "{token} after {:?}", String::from_utf8_lossy(&bytes));
                    }
                    (false, true) => {
                        assert!(!begins_text(&read), "{token} after {:?}", String::from_utf8_lossy(&bytes));
                    }
                    _ => {}
                }
            }
            compared += 1;
            if both.is_empty() {
                break;
            }
            // Rather those that go on with structure than one of hundreds of words.
            let short: Vec<Token> = both.iter().copied().filter(|token| pieces[token.0 as usize].len() < 3).collect();
            let from = if short.is_empty() || below(&mut random, 3) == 0 { &both } else { &short };
            let chosen = from[below(&mut random, from.len())];
            grammar.accept(chosen).unwrap();
            raw.accept(chosen);
            bytes.extend(&pieces[chosen.0 as usize]);
        }
    }
    assert!(compared > 40, "only {compared} states");
}

#[test]
fn byte_pairs_as_llama_cpp() {
    let gguf = Llama::tiny().gguf(Weights::F16, 1).unwrap();
    for (name, text) in [("sum", ARITHMETIC), ("json", JSON), ("list", LIST), ("chess", CHESS), ("nested", NESTED)] {
        compare(&gguf, &format!("pairs-{name}"), text);
    }
}

#[test]
fn sentence_pieces_as_llama_cpp() {
    let gguf = sentence_piece_file();
    for (name, text) in [("sum", ARITHMETIC), ("json", JSON), ("list", LIST), ("chess", CHESS), ("nested", NESTED)] {
        compare(&gguf, &format!("pieces-{name}"), text);
    }
}

#[test]
fn named_tokens_as_llama_cpp() {
    compare(&Llama::tiny().gguf(Weights::F16, 1).unwrap(), "pairs-named", NAMED);
    compare(&sentence_piece_file(), "pieces-named", NAMED);
}

/// The first of the differences above, shown: `[^é]` takes the other characters that begin with its byte.
#[test]
fn a_negated_set_takes_characters_that_are_cut() {
    let gguf = sentence_piece_file();
    let model = Model::from_bytes(&gguf, &ModelParams::default().vocab_only(true)).unwrap();
    let byte = Token(3 + 0xC3);
    let mut grammar = Grammar::gbnf(&model, "root ::= [^é]", "root").unwrap();
    let raw = Raw::new(&gguf, "negated", "root ::= [^é]");
    assert!(!raw.allowed(model.vocab().size())[byte.0 as usize], "llama.cpp has become right: compare it above");
    assert!(grammar.allowed().unwrap().contains(byte));
    grammar.accept(byte).unwrap();
    let allowed: Vec<Token> = grammar.allowed().unwrap().iter().collect();
    assert!(allowed.contains(&Token(3 + 0xA8)) && !allowed.contains(&Token(3 + 0xA9)), "è and not é");
}
