//! The kernels for small batches: whether they are in use, and which weights of a model they take.

use std::ffi::{CStr, c_char, c_void};

use llama_sys as sys;

use crate::backend::{self, DeviceKind};
use crate::gguf::{Header, Tensor};
use crate::params::{LoadMode, ModelParams};

/// The instruction set of the kernels that multiply matrices and compute attention for small batches, `"avx2"` or
/// `"avx512vnni"`. `None` where llama.cpp's own do it all: on other processors, in builds without the feature `kernels` or with
/// shared libraries, and with the environment variable `LLAMA_KERNELS=off`.
///
/// ```
/// match llama_safe::kernels() {
///     Some(instructions) => println!("batches are multiplied by kernels for {instructions}"),
///     None => println!("batches are multiplied by llama.cpp's own kernels"),
/// }
/// ```
#[must_use]
pub fn kernels() -> Option<String> {
    backend::init();
    // SAFETY: takes nothing, and returns a string constant or NULL.
    let name = unsafe { sys::kernels_instruction_set() };
    // SAFETY: not NULL, and a constant.
    (!name.is_null()).then(|| unsafe { backend::string(name) })
}

/// What a load may give to the kernels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Share {
    /// Matrices.
    pub(crate) matrices: bool,
    /// The token embedding, which is the output layer as well.
    pub(crate) embedding: bool,
}

impl Share {
    /// Of a file that says this.
    pub(crate) fn of(header: &Header, params: &ModelParams) -> Self {
        let matrices = params.kernels && params.repack && kernels().is_some();
        // A file without an output layer computes it with the token embedding. Kept in one form, that is in memory once.
        let embedding = matrices && !header.tensors.iter().any(|tensor| tensor.name == "output.weight");
        Self { matrices, embedding }
    }

    /// The parameters to load the file with. Weights that are rearranged are copied: where they are most of the file, mapping
    /// it would leave the program with both.
    pub(crate) fn params(self, header: &Header, params: &ModelParams) -> ModelParams {
        let mut params = params.clone();
        let bytes = |of: &dyn Fn(&Tensor) -> bool| -> u64 {
            header.tensors.iter().filter(|tensor| of(tensor)).map(Tensor::bytes).sum()
        };
        let taken = |tensor: &Tensor| self.takes(tensor);
        // Beside a GPU llama.cpp keeps weights where that can read them.
        let is_alone = backend::devices().iter().all(|one| one.kind == DeviceKind::Cpu);
        if params.load_mode == LoadMode::Auto && is_alone && bytes(&taken) > bytes(&|_| true) / 2 {
            params.load_mode = LoadMode::Read;
        }
        params
    }

    /// Whether this is a matrix, or one for each expert, that the kernels have a form for, and may have.
    fn takes(self, tensor: &Tensor) -> bool {
        let [columns, _, _, 1] = tensor.shape else { return false };
        let Ok(columns) = i64::try_from(columns) else { return false };
        let is_allowed = self.matrices && (self.embedding || tensor.name != "token_embd.weight");
        // SAFETY: compares numbers with a table.
        is_allowed && unsafe { sys::kernels_take(tensor.format, columns) }
    }

    /// Loads by `call`; also returns the names of the tensors that the kernels took.
    pub(crate) fn while_loading<T>(self, call: impl FnOnce() -> T) -> (T, Vec<String>) {
        let mut names: Vec<String> = Vec::new();
        let result = within(self, Some(note), (&raw mut names).cast(), call);
        (result, names)
    }
}

/// Runs what a user does within a load: it is none of the load's.
pub(crate) fn aside<T>(call: impl FnOnce() -> T) -> T {
    within(Share { matrices: true, embedding: true }, None, std::ptr::null_mut(), call)
}

fn within<T>(share: Share, taken: Taken, user_data: *mut c_void, call: impl FnOnce() -> T) -> T {
    let Share { matrices: take, embedding: take_token_embedding } = share;
    let mut load = sys::kernels_load { take, take_token_embedding, taken, user_data, outer: std::ptr::null_mut() };
    // SAFETY: it outlives `_ended`, which is dropped at the end of this function whatever `call` does.
    unsafe { sys::kernels_begin_load(&raw mut load) };
    let _ended = End;
    call()
}

/// What is called with the name of a tensor that was taken.
type Taken = Option<unsafe extern "C" fn(*mut c_void, *const c_char)>;

/// Ends a load.
struct End;

impl Drop for End {
    fn drop(&mut self) {
        // SAFETY: it was begun on this thread.
        unsafe { sys::kernels_end_load() };
    }
}

unsafe extern "C" fn note(names: *mut c_void, name: *const c_char) {
    // SAFETY: `while_loading` passes its list, which nobody else has while it loads; the name is terminated.
    unsafe { (*names.cast::<Vec<String>>()).push(CStr::from_ptr(name).to_string_lossy().into_owned()) };
}
