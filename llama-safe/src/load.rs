//! From a file, or bytes, to a [`Model`]: checked first, then loaded by llama.cpp.

use std::ffi::{CString, c_void};
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use llama_sys as sys;

use crate::backend;
use crate::error::{GgufError, LoadError};
use crate::fingerprint::Fingerprint;
use crate::gguf::Header;
use crate::gguf_reader::read_header;
use crate::hparams;
use crate::log;
use crate::model::Model;
use crate::params::{LoadMode, ModelParams};
use crate::tokens;
use crate::weights;

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
        let path = path.as_ref();
        let c_path = c_path(path)?;
        let header = read_file(path)?;
        check(&header, params)?;
        let fingerprint = fingerprint(path).map_err(|source| unreadable(path, source))?;
        let model = load(params, &header, progress, |params| {
            sys::guarded(std::ptr::null_mut(), |result, error| {
                // SAFETY: the path is terminated and outlives the call, as does what `params` points to.
                unsafe { sys::guard_llama_model_load_from_file(result, error, c_path.as_ptr(), params) }
            })
        });
        Ok(model?.identified(fingerprint))
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
        check_start(gguf)?;
        let header = read_header(Cursor::new(gguf))?;
        check(&header, params)?;
        let fingerprint = Fingerprint::of(Cursor::new(gguf)).map_err(|source| LoadError::Buffer { source })?;
        let file = MemoryFile::new(gguf).map_err(|source| LoadError::Buffer { source })?;
        let model = load(params, &header, progress, |params| {
            sys::guarded(std::ptr::null_mut(), |result, error| {
                // SAFETY: the stream is open for the call. llama.cpp does not close it (llama-mmap.cpp:229), and
                // what it maps of the file outlives the stream.
                unsafe { sys::guard_llama_model_load_from_file_ptr(result, error, file.as_ptr().cast(), params) }
            })
        });
        Ok(model?.identified(fingerprint))
    }
}

/// Reads what a file says before its weights. What cannot be a model file is refused in words that say more than
/// llama.cpp's.
pub(crate) fn read_file(path: &Path) -> Result<Header, LoadError> {
    let unreadable = |source| unreadable(path, source);
    if path.metadata().map_err(unreadable)?.is_dir() {
        return Err(LoadError::IsDirectory { path: path.to_owned() });
    }
    let mut file = File::open(path).map_err(unreadable)?;
    let mut start = Vec::with_capacity(4);
    (&mut file).take(4).read_to_end(&mut start).map_err(unreadable)?;
    check_start(&start)?;
    match read_header(file) {
        Err(GgufError::Unreadable { source }) => Err(unreadable(source)),
        other => Ok(other?),
    }
}

fn unreadable(path: &Path, source: io::Error) -> LoadError {
    match source.kind() {
        io::ErrorKind::NotFound => LoadError::NotFound { path: path.to_owned() },
        _ => LoadError::Unreadable { path: path.to_owned(), source },
    }
}

/// What tells a model from others, over all files that it is split into. One that is missing is left to llama.cpp to name.
fn fingerprint(path: &Path) -> io::Result<Fingerprint> {
    let mut fingerprint = Fingerprint::of(File::open(path)?)?;
    for part in other_parts(path) {
        match File::open(part) {
            Ok(part) => fingerprint = fingerprint.with(Fingerprint::of(part)?.as_bytes()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        }
    }
    Ok(fingerprint)
}

/// The files that a model's first one names by its own name, `NAME-00001-of-00003.gguf`.
fn other_parts(first: &Path) -> impl Iterator<Item = PathBuf> {
    let name = first.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".gguf"));
    let split = name.and_then(|name| name.rsplit_once("-of-")).and_then(|(name, count)| {
        let name = name.strip_suffix("-00001").filter(|_| count.len() == 5 && !count.starts_with('+'))?;
        Some((name.to_owned(), count.parse::<u32>().ok()?))
    });
    let (name, count) = split.unwrap_or_default();
    (2..=count).map(move |index| first.with_file_name(format!("{name}-{index:05}-of-{count:05}.gguf")))
}

/// Refuses what llama.cpp would take on trust.
fn check(header: &Header, params: &ModelParams) -> Result<(), GgufError> {
    tokens::check(header)?;
    if params.vocab_only {
        return Ok(());
    }
    hparams::check(header)?;
    weights::check(header)
}

/// Refuses what does not begin as a GGUF file does.
pub(crate) fn check_start(bytes: &[u8]) -> Result<(), LoadError> {
    if bytes.is_empty() {
        return Err(LoadError::Empty);
    }
    if !bytes.starts_with(b"GGUF") {
        return Err(LoadError::NotGguf { found: bytes[..bytes.len().min(4)].to_vec() });
    }
    Ok(())
}

pub(crate) fn c_path(path: &Path) -> Result<CString, LoadError> {
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
pub(crate) fn load<F: FnMut(f32) -> ControlFlow<()>>(
    params: &ModelParams,
    header: &Header,
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
    let shapes = (!params.vocab_only).then(|| header.shapes());
    let result = result.map(|model| NonNull::new(model).map(|model| Model::own(model, shapes)));
    if let Some(panic) = state.panic {
        // A model that was loaded in spite of it is freed on the way.
        drop(result);
        resume_unwind(panic);
    }
    match result {
        Ok(Some(model)) => Ok(model),
        Ok(None) if state.cancelled => Err(LoadError::Cancelled),
        Ok(None) => Err(LoadError::Rejected { reason: log::errors_or("it gives no reason") }),
        Err(reason) => Err(LoadError::Rejected { reason }),
    }
}

/// A C stream over bytes, closed when dropped.
pub(crate) struct MemoryFile {
    stream: NonNull<libc::FILE>,
}

impl MemoryFile {
    pub(crate) fn new(bytes: &[u8]) -> io::Result<Self> {
        let file = Self { stream: NonNull::new(open_stream()).ok_or_else(io::Error::last_os_error)? };
        // SAFETY: the stream is open for writing, and `bytes` is readable for its length.
        let written = unsafe { libc::fwrite(bytes.as_ptr().cast(), 1, bytes.len(), file.stream.as_ptr()) };
        // SAFETY: the stream is open. Rewinding flushes it as well.
        if written != bytes.len() || unsafe { libc::fseek(file.stream.as_ptr(), 0, libc::SEEK_SET) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(file)
    }

    pub(crate) fn as_ptr(&self) -> *mut c_void {
        self.stream.as_ptr().cast()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_split_model_are_found_by_name() {
        let parts = |name: &str| other_parts(Path::new(name)).collect::<Vec<_>>();
        let found = ["models/a-00002-of-00003.gguf", "models/a-00003-of-00003.gguf"].map(PathBuf::from);
        assert_eq!(parts("models/a-00001-of-00003.gguf"), found);
        for single in
            ["a.gguf", "a-00002-of-00003.gguf", "a-00001-of-3.gguf", "-of-00003.gguf", "", "a-00001-of-+0003.gguf"]
        {
            assert_eq!(parts(single), Vec::<PathBuf>::new(), "{single}");
        }
    }

    #[test]
    fn blocks_are_ggmls() {
        for format in 0..sys::GGML_TYPE_COUNT {
            // SAFETY: both read a table that has an entry for each type below the count.
            let (values, bytes) = unsafe { (sys::ggml_blck_size(format), sys::ggml_type_size(format)) };
            let expected = (values > 0).then_some((values as u64, bytes as u64));
            assert_eq!(weights::block(format), expected, "format {format}");
        }
        assert_eq!(weights::block(sys::GGML_TYPE_COUNT), None);
    }
}
