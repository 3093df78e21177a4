//! Raw bindings to [llama.cpp](https://github.com/ggml-org/llama.cpp), built from its pinned source.
//!
//! - `llama_*`, `ggml_*`, `gguf_*`: the C API, as bindgen reads it from `llama.h`, `ggml.h`, `ggml-backend.h`,
//!   `ggml-cpu.h` and `gguf.h`. llama.cpp's headers are its documentation.
//! - `guard_llama_*`: the same functions with C++ exceptions turned into a returned text. An exception that reaches
//!   Rust ends the process, so call the guarded form wherever there is one (`shim/guard.h` has the list).
//! - [`guarded`] and [`guarded_unit`] turn a guarded call into a `Result`.
//!
//! Nothing here is checked: the C API reads and writes out of bounds, aborts and dereferences NULL when it is misused.
//! The crate `llama-safe` is the checked layer.
//!
//! ```
//! // SAFETY: takes nothing, and returns a string that lives as long as the program.
//! let version = unsafe { std::ffi::CStr::from_ptr(llama_sys::llama_version()) };
//! assert!(!version.to_bytes().is_empty());
//! ```

mod raw {
    #![allow(
        missing_docs,
        non_camel_case_types,
        non_snake_case,
        non_upper_case_globals,
        unsafe_op_in_unsafe_fn,
        clippy::all,
        clippy::pedantic,
        clippy::undocumented_unsafe_blocks,
        rustdoc::all
    )]
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

pub use raw::*;

/// The text of the generated bindings, for tests that compare documentation with the functions that exist.
#[doc(hidden)]
pub const BINDINGS: &str = include_str!(concat!(env!("OUT_DIR"), "/bindings.rs"));

/// The folder of llama.cpp's source that this was built from, for tests that read it.
#[doc(hidden)]
pub const SOURCE: &str = env!("LLAMA_CPP_SOURCE");

/// Runs a guarded call that has a result: `Err` holds the text of the C++ exception.
///
/// ```
/// let result = llama_sys::guarded(0, |result, error| {
///     // SAFETY: all three pointers are valid for the call, and the text is terminated.
///     unsafe { llama_sys::guard_self_test(result, error, c"broken".as_ptr()) }
/// });
/// assert_eq!(result, Err("broken".to_owned()));
/// ```
///
/// # Errors
///
/// The exception's text, shortened to 511 bytes.
pub fn guarded<T>(mut result: T, call: impl FnOnce(*mut T, *mut guard_error) -> bool) -> Result<T, String> {
    let mut error = guard_error { text: [0; 512] };
    if call(&mut result, &mut error) { Ok(result) } else { Err(text(&error)) }
}

/// Runs a guarded call without a result: `Err` holds the text of the C++ exception.
///
/// # Errors
///
/// The exception's text, shortened to 511 bytes.
pub fn guarded_unit(call: impl FnOnce(*mut guard_error) -> bool) -> Result<(), String> {
    guarded((), |_, error| call(error))
}

fn text(error: &guard_error) -> String {
    let bytes: Vec<u8> = error.text.iter().map(|byte| *byte as u8).take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
