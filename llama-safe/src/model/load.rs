//! From a file, or bytes, to a [`Model`]: checked first, then loaded by llama.cpp.

use std::ffi::{c_char, c_void};
use std::io::Cursor;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use llama_sys as sys;

use crate::backend;
use crate::error::{LoadError, OverrideError};
use crate::fingerprint::Fingerprint;
use crate::gguf::Header;
use crate::gguf::overrides::MetadataValue;
use crate::gguf::weights;
use crate::kernels::{self, Share};
use crate::log;
use crate::memory_file::MemoryFile;
use crate::model::Model;
use crate::model::file::{ModelFiles, check, read_bytes};
use crate::model::simulation::Plan;
use crate::params::{LoadMode, ModelParams};

impl Model {
    /// Loads a GGUF file, or the first file of a model that is split into several and named as usual
    /// (`NAME-00001-of-00003.gguf`): the others are found beside it.
    ///
    /// Header, metadata and directory are checked before llama.cpp sees the file: what would end the process there is an
    /// error here. With the default [`LoadMode`] the weights are mapped: a file that is cut or overwritten while the model
    /// lives ends the process (`SIGBUS`) or changes the weights. [`LoadMode::Read`] copies them.
    ///
    /// # Errors
    ///
    /// [`LoadError`]: the file is not there, cannot be read, is no GGUF file, is damaged, or of an unknown architecture.
    ///
    /// ```compile_fail,E0277
    /// // There is always a path, and a list of several has its own length.
    /// fn of_nothing(params: &llama_safe::ModelParams) { llama_safe::Model::load(None, params).unwrap(); }
    /// ```
    pub fn load(path: impl AsRef<Path>, params: &ModelParams) -> Result<Self, LoadError> {
        Self::load_with_progress(path, params, |_| ControlFlow::Continue(()))
    }

    /// [`load`](Self::load), telling how far it is (0 to 1). [`ControlFlow::Break`] cancels.
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
        load_files(ModelFiles::find(path.as_ref())?, params, progress)
    }

    /// Loads a model that is split into several files of any names, given in their order.
    ///
    /// Nothing in the files says which model they are of: parts of two models with the same layout are taken for one.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load), and [`LoadError::Split`]: files are missing, too many, in another order, or not of one model.
    pub fn load_splits(paths: &[impl AsRef<Path>], params: &ModelParams) -> Result<Self, LoadError> {
        let paths: Vec<PathBuf> = paths.iter().map(|path| path.as_ref().to_owned()).collect();
        load_files(ModelFiles::given(&paths)?, params, |_| ControlFlow::Continue(()))
    }

    /// Loads a GGUF file that is in memory, an embedded one for example. The bytes are not needed afterwards.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load), and [`LoadError::Buffer`].
    pub fn from_bytes(gguf: &[u8], params: &ModelParams) -> Result<Self, LoadError> {
        Self::from_bytes_with_progress(gguf, params, |_| ControlFlow::Continue(()))
    }

    /// [`from_bytes`](Self::from_bytes), telling how far it is (0 to 1). [`ControlFlow::Break`] cancels.
    ///
    /// A panic of `progress` stops the loading and goes on after it.
    ///
    /// # Errors
    ///
    /// As [`from_bytes`](Self::from_bytes), and [`LoadError::Cancelled`].
    pub fn from_bytes_with_progress(
        gguf: &[u8],
        params: &ModelParams,
        progress: impl FnMut(f32) -> ControlFlow<()>,
    ) -> Result<Self, LoadError> {
        let mut header = read_bytes(gguf)?;
        check(&mut header, params)?;
        let fingerprint = Fingerprint::of(Cursor::new(gguf)).map_err(|source| LoadError::Buffer { source })?;
        let file = MemoryFile::new(gguf).map_err(|source| LoadError::Buffer { source })?;
        let model = load(params, &header, progress, |params| {
            sys::guarded(std::ptr::null_mut(), |result, error| {
                // SAFETY: the stream is open for the call. llama.cpp does not close it (llama-mmap.cpp:229), and
                // what it maps of the file outlives the stream.
                unsafe { sys::guard_llama_model_load_from_file_ptr(result, error, file.as_ptr().cast(), params) }
            })
        });
        Ok(model?.identified(changed(fingerprint, params)))
    }
}

fn load_files(
    mut files: ModelFiles,
    params: &ModelParams,
    progress: impl FnMut(f32) -> ControlFlow<()>,
) -> Result<Model, LoadError> {
    check(&mut files.header, params)?;
    let fingerprint = changed(files.fingerprint()?, params);
    let paths = files.c_paths()?;
    let mut pointers: Vec<*const c_char> = paths.iter().map(|path| path.as_ptr()).collect();
    let model = load(params, &files.header, progress, |params| {
        sys::guarded(std::ptr::null_mut(), |result, error| match pointers[..] {
            // SAFETY: the path is terminated and outlives the call, as does what `params` points to.
            [path] => unsafe { sys::guard_llama_model_load_from_file(result, error, path, params) },
            // SAFETY: as above, and the list of paths is as long as it is said to be.
            _ => unsafe {
                let count = pointers.len();
                sys::guard_llama_model_load_from_splits(result, error, pointers.as_mut_ptr(), count, params)
            },
        })
    });
    Ok(model?.identified(fingerprint))
}

/// The fingerprint of a model with these overrides.
pub(crate) fn changed(fingerprint: Fingerprint, params: &ModelParams) -> Fingerprint {
    params.overrides.iter().fold(fingerprint, |changed, one| changed.with(format!("{one:?}").as_bytes()))
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
    match catch_unwind(AssertUnwindSafe(|| log::aside(|| kernels::aside(|| (state.function)(progress))))) {
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
pub(crate) fn load<F: FnMut(f32) -> ControlFlow<()>>(
    params: &ModelParams,
    header: &Header,
    progress: F,
    call: impl FnOnce(sys::llama_model_params) -> Result<*mut sys::llama_model, String>,
) -> Result<Model, LoadError> {
    backend::init();
    let share = Share::of(header, params);
    let params = &share.params(header, params);
    let mut state = Progress { function: progress, cancelled: false, panic: None };
    let overrides = c_overrides(&params.overrides);
    let mut raw = raw_params(params);
    // The list ends with an empty key, and is copied.
    raw.kv_overrides = overrides.as_ptr();
    raw.progress_callback = Some(on_progress::<F>);
    raw.progress_callback_user_data = (&raw mut state).cast();
    log::forget_errors();
    let (result, taken) = share.while_loading(|| call(raw).map(NonNull::new));
    let repacked = params.repack && !weights::are_plain(header);
    // Owned first, so that it is freed whatever comes.
    let shapes = (!params.vocab_only).then(|| header.shapes());
    let model = result.map(|model| {
        let model = Model::own(model?, shapes, repacked).with_scaled(weights::scaled(header)).with_taken(taken);
        let plan = Plan::of_file(header, params, share, model.vocabulary_size());
        Some(model.planned(plan))
    });
    if let Some(panic) = state.panic {
        drop(model);
        resume_unwind(panic);
    }
    match model {
        Ok(Some(model)) => match params.overrides.iter().find(|(key, _)| !log::says_override_of(key)) {
            None => Ok(model),
            Some((key, _)) => Err(OverrideError::NotRead { key: key.clone() }.into()),
        },
        Ok(None) if state.cancelled => Err(LoadError::Cancelled),
        Ok(None) => Err(LoadError::Rejected { reason: log::errors_or("it gives no reason") }),
        Err(reason) => Err(LoadError::Rejected { reason }),
    }
}

/// All but the overrides and the callback.
pub(super) fn raw_params(params: &ModelParams) -> sys::llama_model_params {
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
    raw
}

/// The overrides as C takes them: keys and texts fit (`overrides::apply`), and one with an empty key ends the list.
fn c_overrides(overrides: &[(String, MetadataValue)]) -> Vec<sys::llama_model_kv_override> {
    let text = |text: &str| {
        let mut bytes = [0; 128];
        bytes.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from as c_char);
        bytes
    };
    let one = |key: &str, tag, value| sys::llama_model_kv_override { tag, key: text(key), __bindgen_anon_1: value };
    let mut list: Vec<_> = overrides
        .iter()
        .map(|(key, value)| {
            type Union = sys::llama_model_kv_override__bindgen_ty_1;
            match value {
                MetadataValue::Bool(yes) => one(key, sys::LLAMA_KV_OVERRIDE_TYPE_BOOL, Union { val_bool: *yes }),
                MetadataValue::Number(number) => {
                    one(key, sys::LLAMA_KV_OVERRIDE_TYPE_INT, Union { val_i64: i64::from(*number) })
                }
                MetadataValue::Float(number) => {
                    one(key, sys::LLAMA_KV_OVERRIDE_TYPE_FLOAT, Union { val_f64: f64::from(*number) })
                }
                MetadataValue::Text(value) => one(key, sys::LLAMA_KV_OVERRIDE_TYPE_STR, Union { val_str: text(value) }),
            }
        })
        .collect();
    let end = sys::llama_model_kv_override__bindgen_ty_1 { val_str: [0; 128] };
    list.push(one("", sys::LLAMA_KV_OVERRIDE_TYPE_INT, end));
    list
}
