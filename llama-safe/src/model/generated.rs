//! Models without a file: metadata as a GGUF header, and weights from a function.

use std::any::Any;
use std::ffi::{CStr, c_void};
use std::io::Cursor;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::NonNull;

use llama_sys as sys;

use crate::error::LoadError;
use crate::fingerprint::Fingerprint;
use crate::gguf::Shapes;
use crate::gguf::reader::read_header;
use crate::log;
use crate::memory_file::MemoryFile;
use crate::model::Model;
use crate::model::file::{check, check_start};
use crate::model::load::{changed, load};
use crate::model::simulation::Plan;
use crate::params::ModelParams;

/// A tensor that [`Model::generate`] asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TensorShape<'a> {
    /// Its name, such as `blk.0.attn_q.weight`.
    pub name: &'a str,
    /// ggml's order, the length of a row first; as many lengths as there are, at most four.
    pub shape: &'a [u64],
}

impl Model {
    /// Makes a model of metadata and of weights that a function fills in, all of them in 32 bits.
    ///
    /// `metadata` is a GGUF header without tensors: which there are, and of what shape, llama.cpp takes from the
    /// architecture and its numbers. It asks for *every* tensor that the architecture can have, also those that a file
    /// may leave out. `fill` is called once for each, on this thread, with room that is all zero: `[product of the shape]`.
    ///
    /// A panic of `fill` goes on when the model has been freed.
    ///
    /// ```
    /// use llama_safe::{Model, ModelParams};
    ///
    /// # let mut gguf = fixtures::gguf::Gguf::default();
    /// # gguf.set("general.architecture", "llama");
    /// # for (key, value) in [("context_length", 64), ("embedding_length", 32), ("block_count", 1)] {
    /// #     gguf.set(format!("llama.{key}"), value as u32);
    /// # }
    /// # for (key, value) in [("feed_forward_length", 64), ("attention.head_count", 2), ("vocab_size", 16)] {
    /// #     gguf.set(format!("llama.{key}"), value as u32);
    /// # }
    /// # gguf.set("llama.attention.layer_norm_rms_epsilon", 1e-5_f32);
    /// # gguf.set("tokenizer.ggml.model", "none");
    /// # let header = gguf.header();
    /// let model = Model::generate(&header, &ModelParams::default(), |tensor, values| {
    ///     if tensor.name.ends_with("norm.weight") {
    ///         values.fill(1.0);
    ///     }
    /// })?;
    /// assert_eq!(model.width(), 32);
    /// # Ok::<(), llama_safe::LoadError>(())
    /// ```
    ///
    /// ```compile_fail,E0277
    /// // There is always something that gives the weights.
    /// fn from_nowhere(gguf: &[u8], params: &llama_safe::ModelParams) {
    ///     llama_safe::Model::generate(gguf, params, None).unwrap();
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`LoadError`]: metadata that is damaged, incomplete, or of an unknown architecture;
    /// [`LoadError::HasTensors`] if the header announces tensors.
    pub fn generate(
        metadata: &[u8],
        params: &ModelParams,
        fill: impl FnMut(TensorShape<'_>, &mut [f32]),
    ) -> Result<Self, LoadError> {
        check_start(metadata)?;
        let mut header = read_header(Cursor::new(metadata))?;
        if !header.tensors.is_empty() {
            return Err(LoadError::HasTensors { tensors: header.tensors.len() });
        }
        check(&mut header, params)?;
        let parsed = Parsed::new(metadata)?;
        let fingerprint = Fingerprint::of_bytes(metadata);
        let shapes = Shapes::new();
        let mut state =
            Fill { function: fill, values: Vec::new(), shapes, bytes: 0, fingerprint, panic: None, failed: None };
        let set = setter(&state);
        let result = load(
            params,
            &header,
            |_| ControlFlow::Continue(()),
            |params| {
                sys::guarded(std::ptr::null_mut(), |result, error| {
                    let user_data = (&raw mut state).cast();
                    // SAFETY: the metadata, and what `user_data` and `params` point to, outlive the call, which calls
                    // back on this thread alone and keeps none of them (llama.cpp:316).
                    unsafe {
                        sys::guard_llama_model_init_from_user(
                            result,
                            error,
                            parsed.gguf.as_ptr(),
                            Some(set),
                            user_data,
                            params,
                        )
                    }
                })
            },
        );
        if let Some(panic) = state.panic {
            drop(result);
            resume_unwind(panic);
        }
        if let Some(reason) = state.failed {
            return Err(LoadError::Rejected { reason });
        }
        let model = result?;
        let plan = Plan::of_shapes(&header, &state.shapes, state.bytes, params, model.vocabulary_size());
        Ok(model.planned(plan).with_shapes(state.shapes).identified(changed(state.fingerprint, params)))
    }
}

/// Metadata as llama.cpp parsed it.
struct Parsed {
    gguf: NonNull<sys::gguf_context>,
}

impl Parsed {
    fn new(header: &[u8]) -> Result<Self, LoadError> {
        let file = MemoryFile::new(header).map_err(|source| LoadError::Buffer { source })?;
        let params = sys::gguf_init_params { no_alloc: true, ctx: std::ptr::null_mut() };
        let gguf = sys::guarded(std::ptr::null_mut(), |result, error| {
            // SAFETY: the stream is open for the call, which reads it and does not close it.
            unsafe { sys::guard_gguf_init_from_file_ptr(result, error, file.as_ptr().cast(), params) }
        })
        .map_err(|reason| LoadError::Rejected { reason })?;
        let gguf = NonNull::new(gguf);
        gguf.map(|gguf| Self { gguf }).ok_or_else(|| LoadError::Rejected { reason: "it cannot be parsed".to_owned() })
    }
}

impl Drop for Parsed {
    fn drop(&mut self) {
        // SAFETY: made in `new`, freed only here.
        unsafe { sys::gguf_free(self.gguf.as_ptr()) };
    }
}

/// What the callback sees.
struct Fill<F> {
    function: F,
    /// Room for the values of one tensor.
    values: Vec<f32>,
    /// Of the tensors so far.
    shapes: Shapes,
    /// Of all values so far.
    bytes: u64,
    /// Of the metadata, and of all values so far.
    fingerprint: Fingerprint,
    panic: Option<Box<dyn Any + Send>>,
    /// What a backend has thrown that could not take the values.
    failed: Option<String>,
}

/// [`on_tensor`] for the state's own type of function, which has no name.
fn setter<F: FnMut(TensorShape<'_>, &mut [f32])>(
    _: &Fill<F>,
) -> unsafe extern "C" fn(*mut sys::ggml_tensor, *mut c_void) {
    on_tensor::<F>
}

unsafe extern "C" fn on_tensor<F: FnMut(TensorShape<'_>, &mut [f32])>(
    tensor: *mut sys::ggml_tensor,
    state: *mut c_void,
) {
    // SAFETY: `generate` passes a `Fill<F>` that outlives the loading, which calls back on the loading thread alone.
    let state = unsafe { &mut *state.cast::<Fill<F>>() };
    if state.panic.is_some() {
        return;
    }
    let filled = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: llama.cpp passes a tensor that it has just made, with a terminated name and four lengths.
        let (name, shape, count) = unsafe {
            let name = CStr::from_ptr(sys::ggml_get_name(tensor)).to_string_lossy();
            // Lengths are positive (llama-model-loader.cpp:1319).
            let shape = (*tensor).ne.map(|length| length as u64);
            (name, shape, sys::ggml_n_dims(tensor) as usize)
        };
        state.shapes.insert(name.clone().into_owned(), shape);
        let values = shape.iter().product::<u64>() as usize;
        state.values.clear();
        state.values.resize(values, 0.0);
        log::aside(|| (state.function)(TensorShape { name: &name, shape: &shape[..count] }, &mut state.values));
    }));
    if let Err(panic) = filled {
        state.panic = Some(panic);
        return;
    }
    state.fingerprint = state.fingerprint.with_numbers(&state.values);
    let bytes = size_of_val(state.values.as_slice());
    state.bytes += bytes as u64;
    let set = sys::guarded_unit(|error| {
        // SAFETY: the tensor has its memory, and is of 32-bit floats since the metadata named no tensor of another type
        // (llama-model-loader.cpp:1296), so that it takes exactly these bytes.
        unsafe { sys::guard_ggml_backend_tensor_set(error, tensor, state.values.as_ptr().cast(), 0, bytes) }
    });
    state.failed = state.failed.take().or(set.err());
}
