//! llama.cpp's own sampler chain, called as it is: the oracle of the samplers in Rust.

use std::ffi::CString;
use std::path::Path;
use std::ptr::NonNull;

use llama_sys as sys;

/// A `llama_sampler_chain`, and the array of candidates that `llama_sampler_sample` fills for each token.
#[derive(Debug)]
pub struct RawChain {
    chain: NonNull<sys::llama_sampler>,
    candidates: Vec<sys::llama_token_data>,
}

/// What a chain leaves of the candidates.
#[derive(Debug, Clone, PartialEq)]
pub struct Left {
    /// Ids and logits, in the chain's order.
    pub candidates: Vec<(i32, f32)>,
    /// The place of the chosen one; -1 without a selector.
    pub selected: i64,
}

/// Samplers that are made of numbers alone.
macro_rules! samplers {
    ($($name:ident($($argument:ident: $type:ty),*) = $function:ident;)*) => {
        impl RawChain {
            $(
                #[doc = concat!("Adds `", stringify!($function), "`.")]
                #[must_use]
                pub fn $name(self, $($argument: $type),*) -> Self {
                    // SAFETY: it takes numbers, and returns a sampler that nobody else owns.
                    let sampler = unsafe { sys::$function($($argument),*) };
                    self.with(sampler)
                }
            )*
        }
    };
}

samplers! {
    greedy() = llama_sampler_init_greedy;
    dist(seed: u32) = llama_sampler_init_dist;
    top_k(k: i32) = llama_sampler_init_top_k;
    top_p(p: f32, min_keep: usize) = llama_sampler_init_top_p;
    min_p(p: f32, min_keep: usize) = llama_sampler_init_min_p;
    typical(p: f32, min_keep: usize) = llama_sampler_init_typical;
    temp(temperature: f32) = llama_sampler_init_temp;
    temp_ext(temperature: f32, range: f32, exponent: f32) = llama_sampler_init_temp_ext;
    xtc(probability: f32, threshold: f32, min_keep: usize, seed: u32) = llama_sampler_init_xtc;
    top_n_sigma(n: f32) = llama_sampler_init_top_n_sigma;
    mirostat(vocabulary: i32, seed: u32, tau: f32, eta: f32, considered: i32) = llama_sampler_init_mirostat;
    mirostat_v2(seed: u32, tau: f32, eta: f32) = llama_sampler_init_mirostat_v2;
    penalties(vocabulary: i32, window: i32, repeat: f32, frequency: f32, presence: f32) = llama_sampler_init_penalties;
    adaptive_p(target: f32, decay: f32, seed: u32) = llama_sampler_init_adaptive_p;
}

impl Default for RawChain {
    fn default() -> Self {
        Self::new()
    }
}

impl RawChain {
    /// An empty chain.
    ///
    /// # Panics
    ///
    /// If llama.cpp makes none, which it does not say it may.
    #[must_use]
    pub fn new() -> Self {
        // SAFETY: takes numbers alone.
        let chain = unsafe { sys::llama_sampler_chain_init(sys::llama_sampler_chain_default_params()) };
        Self { chain: NonNull::new(chain).expect("a chain"), candidates: Vec::new() }
    }

    fn with(self, sampler: *mut sys::llama_sampler) -> Self {
        // SAFETY: both live, and the chain takes ownership.
        unsafe { sys::llama_sampler_chain_add(self.chain.as_ptr(), sampler) };
        self
    }

    /// Adds `llama_sampler_init_logit_bias`.
    #[must_use]
    pub fn logit_bias(self, vocabulary: i32, biases: &[(i32, f32)]) -> Self {
        let biases: Vec<_> = biases.iter().map(|&(token, bias)| sys::llama_logit_bias { token, bias }).collect();
        // SAFETY: the array is readable for its length; it is copied.
        let sampler = unsafe { sys::llama_sampler_init_logit_bias(vocabulary, biases.len() as i32, biases.as_ptr()) };
        self.with(sampler)
    }

    /// Adds `llama_sampler_init_dry`.
    ///
    /// # Panics
    ///
    /// If a breaker has a NUL byte.
    #[must_use]
    pub fn dry(
        self,
        vocab: &RawVocab,
        (multiplier, base): (f32, f32),
        allowed_length: i32,
        window: i32,
        breakers: &[&str],
    ) -> Self {
        let texts: Vec<_> = breakers.iter().map(|text| CString::new(*text).expect("no NUL")).collect();
        let mut pointers: Vec<_> = texts.iter().map(|text| text.as_ptr()).collect();
        // SAFETY: the vocabulary lives, and the texts for the call, which copies what it needs.
        let sampler = unsafe {
            sys::llama_sampler_init_dry(
                vocab.as_ptr(),
                multiplier,
                base,
                allowed_length,
                window,
                pointers.as_mut_ptr(),
                pointers.len(),
            )
        };
        self.with(sampler)
    }

    /// Adds `llama_sampler_init_infill`. The vocabulary has to outlive the chain.
    #[must_use]
    pub fn infill(self, vocab: &'static RawVocab) -> Self {
        // SAFETY: the vocabulary lives as long as the program.
        self.with(unsafe { sys::llama_sampler_init_infill(vocab.as_ptr()) })
    }

    /// What the chain leaves of all tokens, and which it chooses.
    ///
    /// # Panics
    ///
    /// If it leaves none.
    pub fn apply(&mut self, logits: &[f32]) -> Left {
        let array = self.run(logits);
        assert!(array.size > 0, "the chain leaves nothing");
        // SAFETY: the chain leaves a part of the array that it was given.
        let left = unsafe { std::slice::from_raw_parts(array.data, array.size) };
        let candidates = left.iter().map(|one| (one.id, one.logit)).collect();
        Left { candidates, selected: array.selected }
    }

    /// As `llama_sampler_sample`, for logits of any origin: chooses, and accepts.
    ///
    /// # Panics
    ///
    /// If the chain chooses none.
    pub fn sample(&mut self, logits: &[f32]) -> i32 {
        let array = self.run(logits);
        let selected = usize::try_from(array.selected).expect("a selector");
        assert!(selected < array.size, "a token that was chosen is left");
        // SAFETY: just checked.
        let token = unsafe { (*array.data.add(selected)).id };
        self.accept(token);
        token
    }

    fn run(&mut self, logits: &[f32]) -> sys::llama_token_data_array {
        self.candidates.clear();
        let token_data = |(id, &logit)| sys::llama_token_data { id, logit, p: 0.0 };
        self.candidates.extend((0..).zip(logits).map(token_data));
        let mut array = sys::llama_token_data_array {
            data: self.candidates.as_mut_ptr(),
            size: self.candidates.len(),
            selected: -1,
            sorted: false,
        };
        // SAFETY: the chain lives, and so does the array, until it is written anew.
        unsafe { sys::llama_sampler_apply(self.chain.as_ptr(), &raw mut array) };
        array
    }

    /// Tells the chain of a token.
    pub fn accept(&mut self, token: i32) {
        // SAFETY: the chain lives.
        unsafe { sys::llama_sampler_accept(self.chain.as_ptr(), token) };
    }
}

impl Drop for RawChain {
    fn drop(&mut self) {
        // SAFETY: owned, and its samplers with it.
        unsafe { sys::llama_sampler_free(self.chain.as_ptr()) };
    }
}

/// The vocabulary of a model file, without its weights.
#[derive(Debug)]
pub struct RawVocab {
    model: NonNull<sys::llama_model>,
}

// SAFETY: the vocabulary is only read once it is loaded.
unsafe impl Send for RawVocab {}
// SAFETY: as above.
unsafe impl Sync for RawVocab {}

impl RawVocab {
    /// Loads it.
    ///
    /// # Panics
    ///
    /// If that is not possible.
    #[must_use]
    pub fn load(path: &Path) -> Self {
        let path = CString::new(path.to_str().expect("a path of text")).expect("no NUL");
        // SAFETY: takes nothing.
        let mut params = unsafe { sys::llama_model_default_params() };
        params.vocab_only = true;
        // SAFETY: the path is terminated.
        let model = unsafe { sys::llama_model_load_from_file(path.as_ptr(), params) };
        Self { model: NonNull::new(model).expect("a model") }
    }

    fn as_ptr(&self) -> *const sys::llama_vocab {
        // SAFETY: the model lives.
        unsafe { sys::llama_model_get_vocab(self.model.as_ptr()) }
    }
}

impl Drop for RawVocab {
    fn drop(&mut self) {
        // SAFETY: owned.
        unsafe { sys::llama_model_free(self.model.as_ptr()) };
    }
}
