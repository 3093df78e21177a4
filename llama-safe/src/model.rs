//! A model's weights: loaded once, shared by every context, tokenizer and thread that uses them.

use std::ffi::{CString, c_void};
use std::fs::File;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use llama_sys as sys;

use crate::backend;
use crate::error::LoadError;
use crate::log;
use crate::params::{LoadMode, ModelParams};

/// A loaded model. Clones share the weights, which are freed with the last clone and the last context of it.
#[derive(Clone, Debug)]
pub struct Model {
    raw: Arc<RawModel>,
}

/// The only owner of the `llama_model`.
#[derive(Debug)]
struct RawModel {
    model: NonNull<sys::llama_model>,
    sizes: Sizes,
    vocab_only: bool,
    /// Making a context writes to the model (llama-context.cpp:3896): one at a time.
    making_context: Mutex<()>,
}

/// Numbers that never change, read once: the C functions that return them are not synchronised with `making_context`.
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

// SAFETY: after loading, llama.cpp only reads a model, except while a context is made, which `making_context`
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
    /// Loads a GGUF file.
    ///
    /// # Errors
    ///
    /// [`LoadError`]: the file is not there, cannot be read, is no GGUF file, is damaged, or of an unknown architecture.
    pub fn load(path: impl AsRef<Path>, params: &ModelParams) -> Result<Self, LoadError> {
        Self::load_with_progress(path, params, |_| ControlFlow::Continue(()))
    }

    /// Loads a GGUF file, telling how far it is (0 to 1). [`ControlFlow::Break`] cancels.
    ///
    /// A panic of `progress` stops the loading and goes on after it.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load), and [`LoadError::Cancelled`].
    pub fn load_with_progress(
        path: impl AsRef<Path>,
        params: &ModelParams,
        progress: impl FnMut(f32) -> ControlFlow<()>,
    ) -> Result<Self, LoadError> {
        let path = path.as_ref();
        let c_path = c_path(path)?;
        check_file(path)?;
        load(params, progress, |params| {
            sys::guarded(std::ptr::null_mut(), |result, error| {
                // SAFETY: the path is terminated and outlives the call, as does what `params` points to.
                unsafe { sys::guard_llama_model_load_from_file(result, error, c_path.as_ptr(), params) }
            })
        })
    }

    /// Loads a GGUF file that is in memory, an embedded one for example. The bytes are not needed afterwards.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load), and [`LoadError::Buffer`].
    pub fn from_bytes(gguf: &[u8], params: &ModelParams) -> Result<Self, LoadError> {
        check_start(gguf)?;
        let file = MemoryFile::new(gguf).map_err(|source| LoadError::Buffer { source })?;
        load(
            params,
            |_| ControlFlow::Continue(()),
            |params| {
                sys::guarded(std::ptr::null_mut(), |result, error| {
                    // SAFETY: the stream is open for the call. llama.cpp does not close it (llama-mmap.cpp:229), and
                    // what it maps of the file outlives the stream.
                    unsafe {
                        sys::guard_llama_model_load_from_file_ptr(result, error, file.stream.as_ptr().cast(), params)
                    }
                })
            },
        )
    }

    /// llama.cpp's model, for the modules that call it.
    pub(crate) fn as_ptr(&self) -> *mut sys::llama_model {
        self.raw.model.as_ptr()
    }

    /// Runs `make`, which makes a context, while no other context of this model is being made.
    pub(crate) fn while_making_context<T>(&self, make: impl FnOnce() -> T) -> T {
        let _guard = self.raw.making_context.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        make()
    }

    pub(crate) fn is_vocab_only(&self) -> bool {
        self.raw.vocab_only
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

    /// Whether it has an encoder and a decoder that attends to what it encoded (T5).
    pub(crate) fn needs_encode_before_decode(&self) -> bool {
        // SAFETY: as in `is_recurrent`.
        unsafe { sys::llama_model_has_encoder(self.as_ptr()) }
    }
}

/// Refuses what cannot be a model file, in words that say more than llama.cpp's.
fn check_file(path: &Path) -> Result<(), LoadError> {
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => LoadError::NotFound { path: path.to_owned() },
        _ => LoadError::Unreadable { path: path.to_owned(), source },
    };
    if path.metadata().map_err(unreadable)?.is_dir() {
        return Err(LoadError::IsDirectory { path: path.to_owned() });
    }
    let mut start = Vec::with_capacity(4);
    File::open(path).and_then(|file| file.take(4).read_to_end(&mut start)).map_err(unreadable)?;
    check_start(&start)
}

/// Refuses what does not begin as a GGUF file does.
fn check_start(bytes: &[u8]) -> Result<(), LoadError> {
    if bytes.is_empty() {
        return Err(LoadError::Empty);
    }
    if !bytes.starts_with(b"GGUF") {
        return Err(LoadError::NotGguf { found: bytes[..bytes.len().min(4)].to_vec() });
    }
    Ok(())
}

fn c_path(path: &Path) -> Result<CString, LoadError> {
    #[cfg(unix)]
    let bytes = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()).to_vec();
    // llama.cpp takes UTF-8 there.
    #[cfg(not(unix))]
    let bytes = path.to_string_lossy().into_owned().into_bytes();
    CString::new(bytes).map_err(|_| LoadError::PathHasNul { path: path.to_owned() })
}

/// What the progress callback sees.
struct Progress<F> {
    function: F,
    cancelled: bool,
    panic: Option<Box<dyn std::any::Any + Send>>,
}

unsafe extern "C" fn on_progress<F: FnMut(f32) -> ControlFlow<()>>(progress: f32, state: *mut c_void) -> bool {
    // SAFETY: `load` passes a `Progress<F>` that outlives the loading, which calls back on the loading thread alone.
    let state = unsafe { &mut *state.cast::<Progress<F>>() };
    match catch_unwind(AssertUnwindSafe(|| (state.function)(progress))) {
        Ok(ControlFlow::Continue(())) => true,
        Ok(ControlFlow::Break(())) => {
            state.cancelled = true;
            false
        }
        Err(panic) => {
            state.panic = Some(panic);
            false
        }
    }
}

/// Loads by `call`, which is given llama.cpp's parameters.
fn load<F: FnMut(f32) -> ControlFlow<()>>(
    params: &ModelParams,
    progress: F,
    call: impl FnOnce(sys::llama_model_params) -> Result<*mut sys::llama_model, String>,
) -> Result<Model, LoadError> {
    backend::init();
    let mut state = Progress { function: progress, cancelled: false, panic: None };
    // SAFETY: returns a plain value.
    let mut raw = unsafe { sys::llama_model_default_params() };
    // A negative count means all of them; no model has as many layers as would not fit.
    raw.n_gpu_layers = params.gpu_layers.map_or(-1, |layers| i32::try_from(layers).unwrap_or(i32::MAX));
    raw.load_mode = match params.load_mode {
        LoadMode::Auto => sys::LLAMA_LOAD_MODE_AUTO,
        LoadMode::Mmap => sys::LLAMA_LOAD_MODE_MMAP,
        LoadMode::MmapLocked => sys::LLAMA_LOAD_MODE_MMAP_MLOCK,
        LoadMode::Read => sys::LLAMA_LOAD_MODE_NONE,
    };
    raw.vocab_only = params.vocab_only;
    raw.check_tensors = params.check_tensors;
    raw.use_extra_bufts = params.repack;
    raw.progress_callback = Some(on_progress::<F>);
    raw.progress_callback_user_data = (&raw mut state).cast();
    log::forget_errors();
    let result = call(raw);
    if let Some(panic) = state.panic {
        // A model that was loaded in spite of it is freed on the way.
        drop(result.map(|model| NonNull::new(model).map(|model| own(model, params.vocab_only))));
        resume_unwind(panic);
    }
    match result.map(NonNull::new) {
        Ok(Some(model)) => Ok(own(model, params.vocab_only)),
        Ok(None) if state.cancelled => Err(LoadError::Cancelled),
        Ok(None) => Err(LoadError::Rejected { reason: log::errors_or("it gives no reason") }),
        Err(reason) => Err(LoadError::Rejected { reason }),
    }
}

/// Takes ownership of a model that llama.cpp has just returned.
fn own(model: NonNull<sys::llama_model>, vocab_only: bool) -> Model {
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
            heads: if vocab_only { 0 } else { count(sys::llama_model_n_head(raw)) },
            kv_heads: if vocab_only { 0 } else { count(sys::llama_model_n_head_kv(raw)) },
            window: count(sys::llama_model_n_swa(raw)),
            parameters: sys::llama_model_n_params(raw),
            bytes: sys::llama_model_size(raw),
            vocabulary: count(sys::llama_vocab_n_tokens(sys::llama_model_get_vocab(raw))),
        }
    };
    Model { raw: Arc::new(RawModel { model, sizes, vocab_only, making_context: Mutex::new(()) }) }
}

/// A C stream over bytes, closed when dropped.
struct MemoryFile {
    stream: NonNull<libc::FILE>,
}

impl MemoryFile {
    fn new(bytes: &[u8]) -> io::Result<Self> {
        let file = Self { stream: NonNull::new(open_stream()).ok_or_else(io::Error::last_os_error)? };
        // SAFETY: the stream is open for writing, and `bytes` is readable for its length.
        let written = unsafe { libc::fwrite(bytes.as_ptr().cast(), 1, bytes.len(), file.stream.as_ptr()) };
        // SAFETY: the stream is open. Rewinding flushes it as well.
        if written != bytes.len() || unsafe { libc::fseek(file.stream.as_ptr(), 0, libc::SEEK_SET) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(file)
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        // SAFETY: opened in `new`, closed only here.
        unsafe { libc::fclose(self.stream.as_ptr()) };
    }
}

/// A file without a name, in memory: it works where no folder can be written.
#[cfg(target_os = "linux")]
fn open_stream() -> *mut libc::FILE {
    // SAFETY: both strings are terminated, and the descriptor is fresh; the stream owns it if it is made.
    unsafe {
        let descriptor = libc::memfd_create(c"gguf".as_ptr(), libc::MFD_CLOEXEC);
        if descriptor < 0 {
            return std::ptr::null_mut();
        }
        let stream = libc::fdopen(descriptor, c"w+b".as_ptr());
        if stream.is_null() {
            libc::close(descriptor);
        }
        stream
    }
}

/// A file that the system deletes when it is closed.
#[cfg(not(target_os = "linux"))]
fn open_stream() -> *mut libc::FILE {
    // SAFETY: takes nothing.
    unsafe { libc::tmpfile() }
}
