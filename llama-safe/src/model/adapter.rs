//! LoRA adapters: small changes to a model's weights, loaded beside it.

use std::ffi::c_void;
use std::io::Cursor;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use llama_sys as sys;

use crate::error::{AdapterError, LoadError};
use crate::fingerprint::Fingerprint;
use crate::gguf::lora::{self, Base};
use crate::gguf::reader::read_header;
use crate::id::Token;
use crate::log;
use crate::memory_file::MemoryFile;
use crate::model::Model;
use crate::model::file::check_start;

/// An adapter for one model. Clones share it; it is freed with the last clone and the last context that uses it.
///
/// [`Context::set_adapters`](crate::Context::set_adapters) puts it to use, for all sequences of a context.
///
/// ```
/// use llama_safe::{Adapter, Context, ContextParams, Model, ModelParams};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let gguf = fixtures::Llama::tiny().gguf(fixtures::Weights::F16, 1)?;
/// # let model = Model::from_bytes(&gguf, &ModelParams::default())?;
/// # let lora = fixtures::Lora::tiny().gguf(&fixtures::Llama::tiny(), 1)?;
/// # let adapter = Adapter::from_bytes(&model, &lora)?;
/// # /*
/// let adapter = Adapter::load(&model, "lora.gguf")?;
/// # */
/// assert!(adapter.ignored().is_empty());
/// let mut context = Context::new(&model, &ContextParams::default())?;
/// context.set_adapters(&[(&adapter, 1.0)])?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Adapter {
    raw: Arc<RawAdapter>,
}

/// The only owner of the `llama_adapter_lora`.
#[derive(Debug)]
struct RawAdapter {
    adapter: NonNull<sys::llama_adapter_lora>,
    invocation: Vec<Token>,
    ignored: Vec<String>,
    fingerprint: Fingerprint,
    /// Freed after the adapter: llama.cpp frees the adapters that a model still has, and would free this one twice.
    model: Model,
}

// SAFETY: after loading, an adapter is only read, until it is freed by its last owner.
unsafe impl Send for RawAdapter {}
// SAFETY: as above.
unsafe impl Sync for RawAdapter {}

impl Drop for RawAdapter {
    fn drop(&mut self) {
        // Freeing takes it off the model's list of adapters, which a context that is made or reserved walks through.
        let _ = self.model.exclusively(|| {
            // SAFETY: this is the only owner, every context that uses it holds a clone of the `Arc` around it, and its
            // model still lives. An exception cannot be reported from here, and leaves nothing to be done.
            sys::guarded_unit(|error| unsafe { sys::guard_llama_adapter_lora_free(error, self.adapter.as_ptr()) })
        });
    }
}

impl Adapter {
    /// Loads an adapter (a GGUF file of `general.type` "adapter") for a model.
    ///
    /// # Errors
    ///
    /// [`AdapterError`]: the file cannot be read or is no adapter, it was made for another architecture, or its tensors
    /// do not fit the model's.
    pub fn load(model: &Model, path: impl AsRef<Path>) -> Result<Self, AdapterError> {
        let path = path.as_ref();
        // Adapters are small. What was checked must be what is loaded, which a file that changes would not be.
        let bytes = std::fs::read(path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => LoadError::NotFound { path: path.to_owned() },
            std::io::ErrorKind::IsADirectory => LoadError::IsDirectory { path: path.to_owned() },
            _ => LoadError::Unreadable { path: path.to_owned(), source },
        })?;
        Self::from_bytes(model, &bytes)
    }

    /// Loads an adapter that is in memory. The bytes are not needed afterwards.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn from_bytes(model: &Model, gguf: &[u8]) -> Result<Self, AdapterError> {
        check_start(gguf)?;
        let header = read_header(Cursor::new(gguf)).map_err(LoadError::from)?;
        let Some(shapes) = model.shapes() else {
            return Err(AdapterError::VocabularyOnly);
        };
        let architecture = model.architecture();
        let base =
            Base { architecture: &architecture, vocabulary: model.vocabulary_size(), shapes, scaled: model.scaled() };
        let ignored = lora::check(&header, &base)?;

        let fingerprint = Fingerprint::of_bytes(gguf);
        let file = MemoryFile::new(gguf).map_err(|source| LoadError::Buffer { source })?;
        log::forget_errors();
        let loaded = model.exclusively(|| {
            sys::guarded(std::ptr::null_mut(), |result, error| {
                let stream: *mut c_void = file.as_ptr();
                // SAFETY: the model lives, and the stream is open for the call, which does not close it. The tensors
                // were checked to be what llama.cpp takes on trust.
                unsafe {
                    sys::guard_llama_adapter_lora_init_from_file_ptr(result, error, model.as_ptr(), stream.cast())
                }
            })
        });
        let adapter = loaded
            .map(NonNull::new)
            .map_err(|reason| AdapterError::Failed { reason })?
            .ok_or_else(|| AdapterError::Failed { reason: log::errors_or("it gives no reason") })?;
        let invocation = invocation_tokens(adapter);
        Ok(Self { raw: Arc::new(RawAdapter { adapter, invocation, ignored, fingerprint, model: model.clone() }) })
    }

    /// The model that it was loaded for.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.raw.model
    }

    /// The tokens from which on an activated adapter (aLoRA) is meant to be applied; empty for any other.
    ///
    /// llama.cpp does not look for them: a program decodes up to them without the adapter, and on from there with it.
    #[must_use]
    pub fn invocation_tokens(&self) -> &[Token] {
        &self.raw.invocation
    }

    /// Tensors of the file that llama.cpp does not apply, by name: norms and other vectors, and matrices that its computation
    /// reads by a way that adapters are not put on (convolutions, position tables, classification heads, the small products
    /// of RWKV). Empty for most adapters.
    #[must_use]
    pub fn ignored(&self) -> &[String] {
        &self.raw.ignored
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::llama_adapter_lora {
        self.raw.adapter.as_ptr()
    }
}

/// What a context computes with besides its model's weights.
#[derive(Debug, Default)]
pub(crate) struct Steering {
    /// The adapters that llama.cpp holds pointers to.
    pub(crate) adapters: Vec<(Adapter, f32)>,
    /// The next computation begins by reserving its graph anew, which reads the model's list of adapters.
    pub(crate) reserve_pending: bool,
    /// What tells the control vector from others; `None` without one.
    pub(crate) control_vector: Option<Fingerprint>,
    /// A control vector that was not set up to its end must not be set again (llama-adapter.cpp:110).
    pub(crate) control_vector_failed: bool,
}

impl Steering {
    /// What tells it from any other, in whatever order the adapters are: part of a saved state. Zeros for none.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        let scaled = |(adapter, scale): &(Adapter, f32)| *adapter.raw.fingerprint.with(&scale.to_le_bytes()).as_bytes();
        // A scale of 0 takes nothing from the model.
        let mut parts: Vec<_> = self.adapters.iter().filter(|(_, scale)| *scale != 0.0).map(scaled).collect();
        parts.sort_unstable();
        parts.extend(self.control_vector.map(|vector| *vector.with(b"control vector").as_bytes()));
        match parts.is_empty() {
            true => [0; 32],
            false => *Fingerprint::of_bytes(parts.as_flattened()).as_bytes(),
        }
    }
}

impl PartialEq for Adapter {
    /// Whether both are clones of one that was loaded.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.raw, &other.raw)
    }
}

impl Eq for Adapter {}

fn invocation_tokens(adapter: NonNull<sys::llama_adapter_lora>) -> Vec<Token> {
    // SAFETY: the adapter was just loaded; the function only counts.
    let count = unsafe { sys::llama_adapter_get_alora_n_invocation_tokens(adapter.as_ptr()) };
    // SAFETY: as above; gives the tokens' first, or NULL where there are none.
    let tokens = unsafe { sys::llama_adapter_get_alora_invocation_tokens(adapter.as_ptr()) };
    if tokens.is_null() || count == 0 {
        return Vec::new();
    }
    // SAFETY: that many tokens stand there for as long as the adapter lives.
    unsafe { std::slice::from_raw_parts(tokens, count as usize) }.iter().map(|token| Token(*token)).collect()
}
