//! llama.cpp's own functions for the text of tokens, without the safe layer.

use std::ffi::CString;
use std::sync::atomic::{AtomicU32, Ordering};

use llama_safe::Token;
use llama_sys as sys;

/// A vocabulary as llama.cpp loads it.
pub struct RawVocabulary(*mut sys::llama_model);

impl Drop for RawVocabulary {
    fn drop(&mut self) {
        // SAFETY: the only owner of a model that was loaded.
        unsafe { sys::llama_model_free(self.0) }
    }
}

impl RawVocabulary {
    pub fn new(gguf: &[u8]) -> Self {
        static FILES: AtomicU32 = AtomicU32::new(0);
        let number = FILES.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("vocabulary-{}-{number}.gguf", std::process::id()));
        std::fs::write(&path, gguf).expect("a file");
        let name = CString::new(path.to_str().expect("a path that is text")).expect("no NUL");
        // SAFETY: the path is terminated, and the parameters are llama.cpp's own.
        let model = unsafe {
            let mut params = sys::llama_model_default_params();
            params.vocab_only = true;
            params.load_mode = sys::LLAMA_LOAD_MODE_NONE;
            sys::llama_model_load_from_file(name.as_ptr(), params)
        };
        std::fs::remove_file(path).expect("the file");
        assert!(!model.is_null());
        Self(model)
    }

    /// `llama_detokenize`.
    pub fn detokenize(&self, tokens: &[Token], special: bool) -> String {
        let ids: Vec<i32> = tokens.iter().map(|token| token.0).collect();
        let mut text = vec![0u8; 64 * ids.len() + 64];
        // SAFETY: the model lives; tokens and text are as long as said, and the tokens are of this vocabulary.
        let length = unsafe {
            let vocab = sys::llama_model_get_vocab(self.0);
            let (count, room) = (ids.len() as i32, text.len() as i32);
            sys::llama_detokenize(vocab, ids.as_ptr(), count, text.as_mut_ptr().cast(), room, false, special)
        };
        text.truncate(usize::try_from(length).expect("enough room"));
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The pieces of all tokens, one behind the other.
    pub fn pieces(&self, tokens: &[Token]) -> String {
        let mut text = Vec::new();
        for token in tokens {
            let mut piece = [0u8; 64];
            // SAFETY: the model lives, the token is of this vocabulary, and the buffer is as long as said.
            let length = unsafe {
                let vocab = sys::llama_model_get_vocab(self.0);
                sys::llama_token_to_piece(vocab, token.0, piece.as_mut_ptr().cast(), piece.len() as i32, 0, false)
            };
            text.extend_from_slice(&piece[..usize::try_from(length).expect("enough room")]);
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// What `llama_detokenize` makes of a text for vocabularies whose spaces it "cleans up" (llama-vocab.cpp:3890).
pub fn cleaned(text: &str) -> String {
    let mut text = text.to_owned();
    for (from, to) in [
        (" ?", "?"),
        (" !", "!"),
        (" .", "."),
        (" ,", ","),
        (" ' ", "'"),
        (" 's", "'s"),
        (" 'm", "'m"),
        (" 're", "'re"),
        (" 've", "'ve"),
    ] {
        text = text.replace(from, to);
    }
    text
}
