//! A model again, without its weights: contexts of it take no memory for keys, values and computations, but tell how much
//! they would.

use std::ptr::NonNull;

use llama_sys as sys;

use crate::gguf::outline::Outline;
use crate::gguf::{Header, Shapes};
use crate::kernels::Share;
use crate::log;
use crate::memory_file::MemoryFile;
use crate::params::{LoadMode, ModelParams};

use super::Model;
use super::load::raw_params;

/// What it takes to make a model again without its weights.
#[derive(Debug)]
pub(crate) struct Plan {
    outline: Outline,
    params: ModelParams,
    share: Share,
    origin: Origin,
}

/// Where the weights came from.
#[derive(Clone, Copy, Debug)]
enum Origin {
    /// Mapped from the file, as far as they are as it has them.
    Mapped,
    Read,
    /// From a function, which gave so many bytes: a tensor that is used twice is there twice.
    Generated(u64),
}

impl Plan {
    /// Of a model that was loaded from a file, or files, that say this.
    pub(super) fn of_file(header: &Header, params: &ModelParams, share: Share, vocabulary: u32) -> Option<Self> {
        let origin = if params.load_mode == LoadMode::Read { Origin::Read } else { Origin::Mapped };
        Some(Self::of(Outline::of(header, vocabulary)?, params, share, origin))
    }

    /// Of a model whose tensors were generated, `bytes` in all.
    pub(super) fn of_shapes(
        header: &Header,
        shapes: &Shapes,
        bytes: u64,
        params: &ModelParams,
        vocabulary: u32,
    ) -> Option<Self> {
        let outline = Outline::of_shapes(header, shapes, vocabulary)?;
        // llama.cpp rearranges none of them (llama.cpp:456).
        let share = Share { matrices: false, embedding: false };
        Some(Self::of(outline, &params.clone().repack(false), share, Origin::Generated(bytes)))
    }

    fn of(outline: Outline, params: &ModelParams, share: Share, origin: Origin) -> Self {
        // Overrides are in the outline, and nothing can be mapped of what is not there (an assertion, llama-model.cpp:1857).
        let params =
            ModelParams { overrides: Vec::new(), check_tensors: false, load_mode: LoadMode::Read, ..params.clone() };
        Self { outline, params, share, origin }
    }
}

/// A model without weights, of which nothing can be computed.
pub(crate) struct Simulation<'a> {
    model: NonNull<sys::llama_model>,
    plan: &'a Plan,
}

impl Drop for Simulation<'_> {
    fn drop(&mut self) {
        // SAFETY: this is the only owner, and contexts of it end in `with_context`. An exception leaves nothing to be done.
        let _ = sys::guarded_unit(|error| unsafe { sys::guard_llama_model_free(error, self.model.as_ptr()) });
    }
}

impl Model {
    /// The model without its weights.
    ///
    /// # Errors
    ///
    /// Why llama.cpp cannot make it.
    pub(crate) fn simulation(&self) -> Result<Simulation<'_>, String> {
        let plan = self.raw.plan.as_ref().ok_or("what the model is made of is not known")?;
        let file = MemoryFile::with_zeros(&plan.outline.header, plan.outline.weights);
        let file = file.map_err(|error| format!("no room for the outline of the model: {error}"))?;
        log::quietly(|| {
            let mut raw = raw_params(&plan.params);
            raw.no_alloc = true;
            raw.progress_callback = Some(on_progress);
            let (model, _) = plan.share.while_loading(|| {
                sys::guarded(std::ptr::null_mut(), |result, error| {
                    // SAFETY: the stream is open for the call. llama.cpp does not close it, and maps nothing of it. There are
                    // no overrides, and the callback looks at no data.
                    unsafe { sys::guard_llama_model_load_from_file_ptr(result, error, file.as_ptr().cast(), raw) }
                })
            });
            let model = model?;
            let model = NonNull::new(model).ok_or_else(|| log::errors_or("it gives no reason"))?;
            Ok(Simulation { model, plan })
        })
    }
}

/// Nothing is loaded of which to tell how far it is; without a callback, llama.cpp prints dots.
unsafe extern "C" fn on_progress(_: f32, _: *mut std::ffi::c_void) -> bool {
    true
}

impl Simulation<'_> {
    /// Makes a context and reads from it.
    ///
    /// Memory for recurrent states, and for one row of outputs for each sequence, is really taken meanwhile: llama.cpp
    /// simulates neither (llama-memory-recurrent.cpp:105, llama-context.cpp:2203).
    ///
    /// # Errors
    ///
    /// Why llama.cpp cannot make it.
    ///
    /// # Safety
    ///
    /// The numbers of `params` are those that a context of the model can be made with.
    pub(crate) unsafe fn with_context<T>(
        &self,
        mut params: sys::llama_context_params,
        read: impl FnOnce(NonNull<sys::llama_context>, sys::guard_memory) -> T,
    ) -> Result<T, String> {
        params.abort_callback = None;
        params.abort_callback_data = std::ptr::null_mut();
        log::quietly(|| {
            let context = sys::guarded(std::ptr::null_mut(), |result, error| {
                // SAFETY: the model lives, and nobody else knows of it; the numbers are the caller's to check.
                unsafe { sys::guard_llama_init_from_model(result, error, self.model.as_ptr(), params) }
            })?;
            let context = NonNull::new(context).ok_or_else(|| log::errors_or("it gives no reason"))?;
            let read = memory_of(context).map(|memory| read(context, memory));
            // SAFETY: it was made here, and what was read of it borrows nothing. An exception leaves nothing to be done.
            let _ = sys::guarded_unit(|error| unsafe { sys::guard_llama_free(error, context.as_ptr()) });
            read
        })
    }

    /// Bytes of the weights, as they are held by a model that was loaded with all of them.
    pub(crate) fn weights(&self, simulated: &sys::guard_memory) -> u64 {
        match self.plan.origin {
            Origin::Generated(bytes) => bytes,
            // From the first such tensor to the last, which is nearly all of the file.
            Origin::Mapped if simulated.plain > 0 => simulated.changed + self.plan.outline.weights,
            Origin::Mapped | Origin::Read => simulated.changed + simulated.plain,
        }
    }
}

/// What a context holds.
///
/// # Errors
///
/// The text of an exception: no memory for the answer.
pub(crate) fn memory_of(context: NonNull<sys::llama_context>) -> Result<sys::guard_memory, String> {
    let none = sys::guard_memory { plain: 0, changed: 0, cache: 0, compute: 0 };
    sys::guarded(none, |result, error| {
        // SAFETY: every caller has the context to itself.
        unsafe { sys::guard_llama_get_memory_breakdown(result, error, context.as_ptr()) }
    })
}
