//! A model's weights: loaded once, shared by every context, tokenizer and thread that uses them.

pub(crate) mod adapter;
#[cfg(feature = "grammar")]
mod derived;
pub(crate) mod file;
pub(crate) mod generated;
pub(crate) mod load;
pub(crate) mod metadata;
pub(crate) mod quantize;
pub(crate) mod save;
pub(crate) mod simulation;
pub(crate) mod template;

use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use llama_sys as sys;

use crate::fingerprint::Fingerprint;
use crate::gguf::Shapes;

use crate::id::Token;

/// A loaded model. Clones share the weights, which are freed with the last clone and the last context of it.
///
/// ```compile_fail,E0277
/// // A model is no number, and there is none that was not loaded.
/// fn of_a_handle(handle: i64) -> llama_safe::Model { handle.into() }
/// ```
///
/// ```compile_fail,E0382
/// // What was dropped cannot be used, nor be dropped again.
/// fn after_drop(model: llama_safe::Model) { drop(model); model.width(); }
/// ```
#[derive(Clone, Debug)]
pub struct Model {
    raw: Arc<RawModel>,
}

/// The only owner of the `llama_model`.
#[derive(Debug)]
struct RawModel {
    model: NonNull<sys::llama_model>,
    sizes: Sizes,
    /// What tells it from other models; `None` where nothing does.
    fingerprint: Option<Fingerprint>,
    /// Shapes of its tensors; `None` without weights.
    shapes: Option<Shapes>,
    /// Weights that llama.cpp applies no adapter to, see [`weights::scaled`](crate::gguf::weights::scaled).
    scaled: Vec<String>,
    /// Tensors that the kernels for small batches took.
    taken: Vec<String>,
    /// What it takes to make it again without its weights.
    plan: Option<simulation::Plan>,
    /// Whether weights may have been rearranged for this processor: they cannot be read back then.
    repacked: bool,
    /// Making a context writes to the model (llama-context.cpp:3896), as loading and freeing adapters does: one at a time.
    exclusive: Mutex<()>,
    /// What other modules made of its vocabulary.
    #[cfg(feature = "grammar")]
    derived: derived::Derived,
}

/// Numbers that never change, read once: the C functions that return them are not synchronised with `exclusive`.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    trained_tokens: u32,
    width: u32,
    input_width: u32,
    output_width: u32,
    layers: u32,
    heads: u32,
    kv_heads: u32,
    window: u32,
    parameters: u64,
    bytes: u64,
    vocabulary: u32,
}

// SAFETY: after loading, llama.cpp only reads a model, except while a context is made, which `exclusive`
// serialises, and which writes only a number (n_ctx_train) that is not read from C again.
unsafe impl Send for RawModel {}
// SAFETY: as above.
unsafe impl Sync for RawModel {}

impl Drop for RawModel {
    fn drop(&mut self) {
        // SAFETY: this is the only owner, and every context holds a clone of the `Arc` around it: none is left.
        // An exception cannot be reported from here, and leaves nothing to be done.
        let _ = sys::guarded_unit(|error| unsafe { sys::guard_llama_model_free(error, self.model.as_ptr()) });
    }
}

impl Model {
    /// Takes ownership of a model that llama.cpp has just returned.
    pub(crate) fn own(model: NonNull<sys::llama_model>, shapes: Option<Shapes>, repacked: bool) -> Self {
        let raw = model.as_ptr();
        // Sizes of a model are positive `int32_t`s; a missing one is 0.
        let count = |number: i32| u32::try_from(number).unwrap_or(0);
        // SAFETY: the model was just loaded and nobody else knows of it; these functions only read it.
        let sizes = unsafe {
            Sizes {
                trained_tokens: count(sys::llama_model_n_ctx_train(raw)),
                width: count(sys::llama_model_n_embd(raw)),
                input_width: count(sys::llama_model_n_embd_inp(raw)),
                output_width: count(sys::llama_model_n_embd_out(raw)),
                layers: count(sys::llama_model_n_layer(raw)),
                heads: if shapes.is_none() { 0 } else { count(sys::llama_model_n_head(raw)) },
                kv_heads: if shapes.is_none() { 0 } else { count(sys::llama_model_n_head_kv(raw)) },
                window: count(sys::llama_model_n_swa(raw)),
                parameters: sys::llama_model_n_params(raw),
                bytes: sys::llama_model_size(raw),
                vocabulary: count(sys::llama_vocab_n_tokens(sys::llama_model_get_vocab(raw))),
            }
        };
        Self {
            raw: Arc::new(RawModel {
                model,
                sizes,
                fingerprint: None,
                shapes,
                scaled: Vec::new(),
                taken: Vec::new(),
                plan: None,
                repacked,
                exclusive: Mutex::new(()),
                #[cfg(feature = "grammar")]
                derived: derived::Derived::default(),
            }),
        }
    }

    /// llama.cpp's model, for the modules that call it.
    pub(crate) fn as_ptr(&self) -> *mut sys::llama_model {
        self.raw.model.as_ptr()
    }

    /// Runs what changes the model, or reads what such a call changes, while no other thread does.
    pub(crate) fn exclusively<T>(&self, call: impl FnOnce() -> T) -> T {
        let _guard = self.raw.exclusive.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        call()
    }

    /// Whether both are clones of one that was loaded.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.raw, &other.raw)
    }

    /// Shapes of its tensors by name; `None` for a vocabulary alone.
    pub(crate) fn shapes(&self) -> Option<&Shapes> {
        self.raw.shapes.as_ref()
    }

    /// The model, with what tells it from others. To be called before it is cloned.
    pub(crate) fn identified(mut self, fingerprint: Fingerprint) -> Self {
        if let Some(raw) = Arc::get_mut(&mut self.raw) {
            raw.fingerprint = Some(fingerprint);
        }
        self
    }

    /// Weights that llama.cpp applies no adapter to.
    pub(crate) fn scaled(&self) -> &[String] {
        &self.raw.scaled
    }

    /// The model, with the weights that llama.cpp applies no adapter to. To be called before it is cloned.
    pub(crate) fn with_scaled(mut self, scaled: Vec<String>) -> Self {
        if let Some(raw) = Arc::get_mut(&mut self.raw) {
            raw.scaled = scaled;
        }
        self
    }

    /// The model, with the tensors that the kernels for small batches took. To be called before it is cloned.
    pub(crate) fn with_taken(mut self, taken: Vec<String>) -> Self {
        if let Some(raw) = Arc::get_mut(&mut self.raw) {
            raw.taken = taken;
        }
        self
    }

    /// Names of the weights that the [kernels for small batches](crate::kernels()) multiply with; all others are llama.cpp's.
    #[must_use]
    pub fn kernel_tensors(&self) -> &[String] {
        &self.raw.taken
    }

    /// The model, with what it takes to make it again without its weights. To be called before it is cloned.
    fn planned(mut self, plan: Option<simulation::Plan>) -> Self {
        if let Some(raw) = Arc::get_mut(&mut self.raw) {
            raw.plan = plan;
        }
        self
    }

    /// The model, with the shapes of tensors that no file lists. To be called before it is cloned.
    pub(crate) fn with_shapes(mut self, shapes: Shapes) -> Self {
        if let Some(raw) = Arc::get_mut(&mut self.raw) {
            raw.shapes = raw.shapes.is_some().then_some(shapes);
        }
        self
    }

    /// What tells it from other models.
    pub(crate) fn fingerprint(&self) -> Option<Fingerprint> {
        self.raw.fingerprint
    }

    pub(crate) fn is_vocab_only(&self) -> bool {
        self.raw.shapes.is_none()
    }

    pub(crate) fn may_be_repacked(&self) -> bool {
        self.raw.repacked
    }

    /// Tokens of context that the model was trained on.
    #[must_use]
    pub fn context_length(&self) -> u32 {
        self.raw.sizes.trained_tokens
    }

    /// Width of the model: numbers of its hidden state for each token.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.raw.sizes.width
    }

    /// Numbers of an input embedding.
    #[must_use]
    pub fn input_width(&self) -> u32 {
        self.raw.sizes.input_width
    }

    /// Numbers of an output embedding.
    #[must_use]
    pub fn output_width(&self) -> u32 {
        self.raw.sizes.output_width
    }

    /// Layers.
    #[must_use]
    pub fn layers(&self) -> u32 {
        self.raw.sizes.layers
    }

    /// Attention heads.
    #[must_use]
    pub fn heads(&self) -> u32 {
        self.raw.sizes.heads
    }

    /// Attention heads that have keys and values of their own.
    #[must_use]
    pub fn kv_heads(&self) -> u32 {
        self.raw.sizes.kv_heads
    }

    /// Tokens that a sliding window looks back on; 0 for a model without one.
    #[must_use]
    pub fn sliding_window(&self) -> u32 {
        self.raw.sizes.window
    }

    /// Parameters.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.raw.sizes.parameters
    }

    /// Bytes of all its tensors.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.raw.sizes.bytes
    }

    /// Tokens of the vocabulary, 0 if it has none.
    #[must_use]
    pub fn vocabulary_size(&self) -> u32 {
        self.raw.sizes.vocabulary
    }

    /// Whether it keeps a state without positions (Mamba, RWKV).
    #[must_use]
    pub fn is_recurrent(&self) -> bool {
        // SAFETY: the model lives, and the function only reads what loading settled.
        unsafe { sys::llama_model_is_recurrent(self.as_ptr()) }
    }

    /// Whether some layers attend and others keep a recurrent state.
    #[must_use]
    pub fn is_hybrid(&self) -> bool {
        // SAFETY: as in `is_recurrent`.
        unsafe { sys::llama_model_is_hybrid(self.as_ptr()) }
    }

    /// Whether it is an encoder, and a decoder that attends to what was encoded (T5): sequences are
    /// [encoded](crate::Context::encode) before they are decoded.
    #[must_use]
    pub fn is_encoder_decoder(&self) -> bool {
        self.has_encoder() && self.has_decoder()
    }

    /// The token that a decoder's text begins with, where the model file names one; where it does not, models begin with
    /// [`Vocab::bos`](crate::Vocab::bos).
    #[must_use]
    pub fn decoder_start_token(&self) -> Option<Token> {
        // SAFETY: as in `is_recurrent`.
        let token = unsafe { sys::llama_model_decoder_start_token(self.as_ptr()) };
        // llama.cpp takes any number from the file.
        u32::try_from(token).is_ok_and(|id| id < self.vocabulary_size()).then_some(Token(token))
    }

    /// Whether it guesses all tokens of a text at once (Dream, LLaDA): each [encode](crate::Context::encode) gives logits for
    /// every token, and remembers nothing.
    #[must_use]
    pub fn is_diffusion(&self) -> bool {
        // SAFETY: as in `is_recurrent`.
        unsafe { sys::llama_model_is_diffusion(self.as_ptr()) }
    }

    /// Whether it has an encoder that llama.cpp calls one, which those of the BERT kind have not.
    pub(crate) fn has_encoder(&self) -> bool {
        // SAFETY: as in `is_recurrent`.
        unsafe { sys::llama_model_has_encoder(self.as_ptr()) }
    }

    /// Whether llama.cpp says that it has a decoder; it says so of models of the BERT kind as well.
    pub(crate) fn has_decoder(&self) -> bool {
        // SAFETY: as in `is_recurrent`.
        unsafe { sys::llama_model_has_decoder(self.as_ptr()) }
    }
}
