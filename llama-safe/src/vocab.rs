//! Text to tokens and back.

use std::ffi::c_char;

use llama_sys as sys;

use crate::backend;
use crate::error::VocabError;
use crate::id::Token;
use crate::model::Model;

/// What tokenizing does about special tokens, those that a tokenizer adds or that stand for no text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Special {
    /// Text is text: nothing is added, and `<s>` is three characters.
    None,
    /// Adds what the model expects around a text (BOS, EOS), but reads no special token from the text itself: right for
    /// text that comes from others.
    #[default]
    Bos,
    /// Reads special tokens from the text, adds none: right for a chat template's output.
    Parse,
    /// Both.
    BosAndParse,
}

/// How a vocabulary cuts text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum VocabKind {
    /// There is none.
    None,
    /// SentencePiece with byte fallback (Llama 2).
    SentencePiece,
    /// Byte-level byte pairs (GPT-2, Llama 3).
    BytePair,
    /// WordPiece (BERT).
    WordPiece,
    /// Unigram (T5).
    Unigram,
    /// Greedy longest match (RWKV).
    Rwkv,
    /// What this version has no name for.
    Other,
}

/// A model's vocabulary.
///
/// ```compile_fail,E0061
/// // A text knows its own length, and its tokens come in a list that is as long as they are.
/// fn with_a_length(model: &llama_safe::Model, text: &str, special: llama_safe::Special) {
///     model.tokenize(text, 100, special).unwrap();
/// }
/// ```
///
/// ```compile_fail,E0505
/// // A vocabulary is a part of its model.
/// fn without_its_model(model: llama_safe::Model) {
///     let vocab = model.vocab();
///     drop(model);
///     vocab.size();
/// }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Vocab<'model> {
    model: &'model Model,
}

impl Model {
    /// The vocabulary.
    #[must_use]
    pub fn vocab(&self) -> Vocab<'_> {
        Vocab { model: self }
    }

    /// [`Vocab::tokenize`].
    ///
    /// # Errors
    ///
    /// See there.
    pub fn tokenize(&self, text: &str, special: Special) -> Result<Vec<Token>, VocabError> {
        self.vocab().tokenize(text, special)
    }

    /// [`Vocab::detokenize`].
    ///
    /// # Errors
    ///
    /// See there.
    pub fn detokenize(&self, tokens: &[Token]) -> Result<String, VocabError> {
        self.vocab().detokenize(tokens)
    }
}

/// A special token of the vocabulary, by the C function that knows it.
macro_rules! special_tokens {
    ($($(#[$doc:meta])* $name:ident = $function:ident;)*) => {
        impl Vocab<'_> {
            $(
                $(#[$doc])*
                #[must_use]
                pub fn $name(&self) -> Option<Token> {
                    // SAFETY: the vocabulary lives as long as the model, and the function only reads it.
                    let token = unsafe { sys::$function(self.raw()) };
                    (token >= 0).then_some(Token(token))
                }
            )*
        }
    };
}

special_tokens! {
    /// Begin of a text.
    bos = llama_vocab_bos;
    /// End of a text.
    eos = llama_vocab_eos;
    /// End of a turn of a conversation.
    eot = llama_vocab_eot;
    /// Separates sentences (BERT).
    sep = llama_vocab_sep;
    /// A new line.
    nl = llama_vocab_nl;
    /// Fills up.
    pad = llama_vocab_pad;
    /// Stands for a token to be guessed.
    mask = llama_vocab_mask;
}

impl Vocab<'_> {
    fn raw(&self) -> *const sys::llama_vocab {
        // SAFETY: the model lives.
        unsafe { sys::llama_model_get_vocab(self.model.as_ptr()) }
    }

    pub(crate) fn model(&self) -> &Model {
        self.model
    }

    /// Tokens of the vocabulary.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.model.vocabulary_size()
    }

    /// How it cuts text.
    #[must_use]
    pub fn kind(&self) -> VocabKind {
        // SAFETY: the vocabulary lives as long as the model.
        match unsafe { sys::llama_vocab_type(self.raw()) } {
            sys::LLAMA_VOCAB_TYPE_NONE => VocabKind::None,
            sys::LLAMA_VOCAB_TYPE_SPM => VocabKind::SentencePiece,
            sys::LLAMA_VOCAB_TYPE_BPE => VocabKind::BytePair,
            sys::LLAMA_VOCAB_TYPE_WPM => VocabKind::WordPiece,
            sys::LLAMA_VOCAB_TYPE_UGM => VocabKind::Unigram,
            sys::LLAMA_VOCAB_TYPE_RWKV => VocabKind::Rwkv,
            _ => VocabKind::Other,
        }
    }

    /// Whether [`Special::Bos`] puts a token before a text.
    #[must_use]
    pub fn adds_bos(&self) -> bool {
        // SAFETY: the vocabulary lives as long as the model.
        unsafe { sys::llama_vocab_get_add_bos(self.raw()) }
    }

    /// Whether [`Special::Bos`] puts a token after a text.
    #[must_use]
    pub fn adds_eos(&self) -> bool {
        // SAFETY: the vocabulary lives as long as the model.
        unsafe { sys::llama_vocab_get_add_eos(self.raw()) }
    }

    /// Whether the model expects a token between two texts that belong together, a query and a document.
    #[must_use]
    pub fn adds_sep(&self) -> bool {
        // SAFETY: the vocabulary lives as long as the model.
        unsafe { sys::llama_vocab_get_add_sep(self.raw()) }
    }

    /// Cuts a text into tokens.
    ///
    /// # Errors
    ///
    /// [`VocabError`]: the model has no vocabulary, or the text is of 2 GiB and more.
    pub fn tokenize(&self, text: &str, special: Special) -> Result<Vec<Token>, VocabError> {
        self.tokenize_bytes(text.as_bytes(), special)
    }

    /// [`tokenize`](Self::tokenize) of bytes that may be cut within a character.
    pub(crate) fn tokenize_bytes(&self, text: &[u8], special: Special) -> Result<Vec<Token>, VocabError> {
        self.require()?;
        let length = length(text.len(), "bytes of text")?;
        let add = matches!(special, Special::Bos | Special::BosAndParse);
        let parse = matches!(special, Special::Parse | Special::BosAndParse);
        if add {
            self.require_added_tokens()?;
        }
        let cut = || {
            // No tokenizer needs more tokens than bytes but for the special ones and a prefixed space.
            let mut tokens = vec![Token(0); text.len() + 4];
            let count = fill(&mut tokens, |result, error, buffer, room| {
                // SAFETY: the vocabulary lives, `text` is readable for `length` bytes, and `buffer` is writable for
                // `room` tokens: `Token` is transparent over `llama_token`.
                unsafe {
                    let (text, buffer) = (text.as_ptr().cast(), buffer.cast());
                    sys::guard_llama_tokenize(result, error, self.raw(), text, length, buffer, room, add, parse)
                }
            })?;
            tokens.truncate(count);
            Ok(tokens)
        };
        if text.len() > SHORT_TEXT && self.kind() == VocabKind::BytePair {
            with_stack_for(text.len(), cut)
        } else {
            cut()
        }
    }

    /// llama.cpp asserts that the tokens it adds exist (llama-vocab.cpp:3477, 3514, 3561, 3581).
    fn require_added_tokens(&self) -> Result<(), VocabError> {
        let word_piece = self.kind() == VocabKind::WordPiece;
        for (wanted, token, name) in [
            (word_piece || self.adds_bos(), self.bos(), "BOS"),
            (!word_piece && self.adds_eos(), self.eos(), "EOS"),
            (word_piece, self.sep(), "SEP"),
        ] {
            if wanted && token.is_none() {
                return Err(VocabError::NoSuchSpecial { name });
            }
        }
        Ok(())
    }

    /// The text of one token alone, special ones rendered: unlike [`piece`](Self::piece) without the space that some
    /// vocabularies put before a text. Into a buffer that is not empty and grows; its length.
    pub(crate) fn alone_into(&self, token: Token, text: &mut Vec<u8>) -> Result<usize, VocabError> {
        self.check(token)?;
        let tokens = [token.0];
        fill(text, |result, error, buffer, room| {
            // SAFETY: the vocabulary lives, `tokens` is one token that is in it, and `buffer` is writable for `room` bytes.
            unsafe {
                let (tokens, buffer) = (tokens.as_ptr(), buffer.cast());
                sys::guard_llama_detokenize(result, error, self.raw(), tokens, 1, buffer, room, false, true)
            }
        })
    }

    /// The bytes of one token, which need not be whole characters. Special tokens are empty unless asked for.
    ///
    /// # Errors
    ///
    /// [`VocabError`]: the model has no vocabulary, or the token is not in it.
    pub fn piece(&self, token: Token, render_special: bool) -> Result<Vec<u8>, VocabError> {
        let mut bytes = vec![0u8; 64];
        let length = self.piece_into(token, render_special, &mut bytes)?;
        bytes.truncate(length);
        Ok(bytes)
    }

    /// [`piece`](Self::piece) into a buffer that is kept.
    pub(crate) fn piece_into(
        &self,
        token: Token,
        render_special: bool,
        bytes: &mut Vec<u8>,
    ) -> Result<usize, VocabError> {
        self.check(token)?;
        fill(bytes, |result, error, buffer, room| {
            // SAFETY: the vocabulary lives, the token is in it, and `buffer` is writable for `room` bytes.
            unsafe {
                sys::guard_llama_token_to_piece(
                    result,
                    error,
                    self.raw(),
                    token.0,
                    buffer.cast::<c_char>(),
                    room,
                    0,
                    render_special,
                )
            }
        })
    }

    /// Whether the space that a piece of `length` bytes begins with only marks the beginning of a text, as a SentencePiece
    /// vocabulary has it, and one of another kind if its file says so.
    pub(crate) fn begins_with_space(
        &self,
        token: Token,
        render_special: bool,
        length: usize,
    ) -> Result<bool, VocabError> {
        self.check(token)?;
        // No function tells. But `llama_detokenize` leaves the space out, and with no room it tells the bytes that it would
        // need, before it does anything else to the text (llama-vocab.cpp:3856, 3874, 3886).
        let (mut nothing, tokens) = (0, [token.0]);
        let needed = sys::guarded(0, |result, error| {
            // SAFETY: the vocabulary lives, `tokens` is one token that is in it, and no byte of `nothing` is written.
            unsafe {
                let (tokens, buffer) = (tokens.as_ptr(), &raw mut nothing);
                sys::guard_llama_detokenize(result, error, self.raw(), tokens, 1, buffer, 0, false, render_special)
            }
        })
        .map_err(|reason| VocabError::Failed { reason })?;
        Ok((needed.unsigned_abs() as usize) < length)
    }

    /// The token as the vocabulary writes it, with its markers for spaces and bytes.
    ///
    /// # Errors
    ///
    /// [`VocabError`]: the model has no vocabulary, or the token is not in it.
    pub fn text(&self, token: Token) -> Result<String, VocabError> {
        self.check(token)?;
        let text = sys::guarded(std::ptr::null(), |result, error| {
            // SAFETY: the vocabulary lives, and the token is in it.
            unsafe { sys::guard_llama_vocab_get_text(result, error, self.raw(), token.0) }
        })
        .map_err(|reason| VocabError::Failed { reason })?;
        // SAFETY: llama.cpp returns a string of the vocabulary, terminated, which lives as long as the model.
        Ok(unsafe { backend::string(text) })
    }

    /// `enum llama_token_attr`'s bits of the token.
    #[cfg(feature = "chat")]
    pub(crate) fn attributes(&self, token: Token) -> Result<sys::llama_token_attr, VocabError> {
        self.check(token)?;
        sys::guarded(0, |result, error| {
            // SAFETY: the vocabulary lives, and the token is in it.
            unsafe { sys::guard_llama_vocab_get_attr(result, error, self.raw(), token.0) }
        })
        .map_err(|reason| VocabError::Failed { reason })
    }

    /// The token's score, which means something in SentencePiece and Unigram vocabularies.
    ///
    /// # Errors
    ///
    /// [`VocabError`]: the model has no vocabulary, or the token is not in it.
    pub fn score(&self, token: Token) -> Result<f32, VocabError> {
        self.check(token)?;
        sys::guarded(0.0, |result, error| {
            // SAFETY: the vocabulary lives, and the token is in it.
            unsafe { sys::guard_llama_vocab_get_score(result, error, self.raw(), token.0) }
        })
        .map_err(|reason| VocabError::Failed { reason })
    }

    /// Whether a generation ends with this token.
    ///
    /// # Errors
    ///
    /// [`VocabError`]: the model has no vocabulary, or the token is not in it.
    pub fn is_end_of_generation(&self, token: Token) -> Result<bool, VocabError> {
        self.check(token)?;
        // SAFETY: the vocabulary lives, and the token is in it.
        Ok(unsafe { sys::llama_vocab_is_eog(self.raw(), token.0) })
    }

    /// Tokens that the model's file wants never to be chosen (`tokenizer.ggml.suppress_tokens`): give them to
    /// [`SamplerChain::logit_bias`](crate::SamplerChain::logit_bias) with minus infinity.
    #[must_use]
    pub fn suppressed(&self) -> Vec<Token> {
        let mut count = 0;
        // SAFETY: the vocabulary lives, and `count` is writable.
        let tokens = unsafe { sys::llama_vocab_get_suppress_tokens(self.raw(), &raw mut count) };
        if tokens.is_null() || count <= 0 {
            return Vec::new();
        }
        // SAFETY: llama.cpp returns that many tokens, which live as long as the model; `Token` is transparent over
        // `llama_token`.
        unsafe { std::slice::from_raw_parts(tokens.cast::<Token>(), count as usize) }.to_vec()
    }

    /// Whether the token stands for no text.
    ///
    /// # Errors
    ///
    /// [`VocabError`]: the model has no vocabulary, or the token is not in it.
    pub fn is_control(&self, token: Token) -> Result<bool, VocabError> {
        self.check(token)?;
        // SAFETY: the vocabulary lives, and the token is in it: the C function reads out of bounds otherwise.
        Ok(unsafe { sys::llama_vocab_is_control(self.raw(), token.0) })
    }

    /// llama.cpp aborts when a model without vocabulary is asked for text.
    pub(crate) fn require(&self) -> Result<(), VocabError> {
        if self.kind() == VocabKind::None { Err(VocabError::NoVocabulary) } else { Ok(()) }
    }

    pub(crate) fn check(&self, token: Token) -> Result<(), VocabError> {
        self.require()?;
        let vocabulary = self.size();
        // A negative id wraps to one that is above any vocabulary.
        if (token.0 as u32) < vocabulary {
            Ok(())
        } else {
            Err(VocabError::TokenOutOfRange { token: token.0, vocabulary })
        }
    }
}

/// Bytes of text that any stack has room for.
const SHORT_TEXT: usize = 2048;

/// Runs `cut` on a thread whose stack suits the text.
///
/// Most byte-pair vocabularies cut text by `std::regex` (llama.cpp's unicode.cpp), which recurses once a character: a run
/// of 6,500 letters overflows a stack of 2 MiB, at 320 bytes a letter as measured. Stacks are mapped, not filled: what
/// is not used costs nothing.
fn with_stack_for<T: Send>(
    text_bytes: usize,
    cut: impl FnOnce() -> Result<T, VocabError> + Send,
) -> Result<T, VocabError> {
    let stack = text_bytes.saturating_mul(1024).saturating_add(4 << 20);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(stack).spawn_scoped(scope, cut).map_err(|error| {
            VocabError::Failed { reason: format!("no thread with a stack of {stack} bytes for this text: {error}") }
        })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn length(got: usize, unit: &'static str) -> Result<i32, VocabError> {
    // Half of what an `int32_t` holds: llama.cpp adds to it.
    let max = i32::MAX as usize / 2;
    if got <= max { Ok(got as i32) } else { Err(VocabError::TooLong { got, max, unit }) }
}

/// Calls `write` until the buffer is large enough. `write` gives the number of elements written, or minus the number
/// that are needed. Returns the number written.
fn fill<T: Clone>(
    buffer: &mut Vec<T>,
    write: impl Fn(*mut i32, *mut sys::guard_error, *mut T, i32) -> bool,
) -> Result<usize, VocabError> {
    let empty = buffer[0].clone();
    loop {
        let room = i32::try_from(buffer.len()).unwrap_or(i32::MAX);
        let count = sys::guarded(0, |result, error| write(result, error, buffer.as_mut_ptr(), room))
            .map_err(|reason| VocabError::Failed { reason })?;
        if let Ok(count) = usize::try_from(count) {
            return Ok(count);
        }
        let needed = count.unsigned_abs() as usize;
        if count == i32::MIN || needed <= buffer.len() {
            return Err(VocabError::Failed { reason: "the result is too long for 32-bit lengths".to_owned() });
        }
        buffer.resize(needed, empty.clone());
    }
}
