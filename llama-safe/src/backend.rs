//! One-time start of llama.cpp, and what it finds on this machine.

use std::ffi::{CStr, c_char};
use std::sync::Once;

use llama_sys as sys;

use crate::log;

/// Starts llama.cpp once in the life of the program. Everything that reaches it goes through here first.
pub(crate) fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::install();
        // SAFETY: called once, before any other function of llama.cpp.
        if let Err(reason) = sys::guarded_unit(|error| unsafe { sys::guard_llama_backend_init(error) }) {
            // What is missing is made when it is needed, or is an error there (ggml-backend-reg.cpp's `get_reg`).
            log::warn(&format!("llama.cpp could not look for its backends: {reason}"));
        }
        let mut amiss = false;
        // SAFETY: called once, before a model is loaded. It returns NULL or a string constant.
        let reason = unsafe { sys::kernels_register(&raw mut amiss) };
        if !reason.is_null() {
            let log = if amiss { log::warn } else { log::tell };
            // SAFETY: not NULL.
            log(&format!("no kernels for small batches: {}", unsafe { string(reason) }));
        }
    });
}

/// What kind of processor a device is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum DeviceKind {
    /// The processor, using main memory.
    Cpu,
    /// A GPU with memory of its own.
    Gpu,
    /// A GPU that uses main memory.
    IntegratedGpu,
    /// Something that helps the CPU, such as BLAS.
    Accelerator,
    /// What this version has no name for.
    Other,
}

/// A device that llama.cpp can compute on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// Short name, such as `CPU` or `CUDA0`.
    pub name: String,
    /// The product's name.
    pub description: String,
    /// What kind of processor it is.
    pub kind: DeviceKind,
    /// Free memory in bytes, 0 where the backend cannot tell.
    pub memory_free: u64,
    /// All its memory in bytes, 0 where the backend cannot tell.
    pub memory_total: u64,
}

/// The devices of this machine that this build of llama.cpp can use.
#[must_use]
pub fn devices() -> Vec<Device> {
    init();
    let count = sys::guarded(0, |result, error| {
        // SAFETY: takes nothing, and writes the result.
        unsafe { sys::guard_ggml_backend_dev_count(result, error) }
    });
    (0..count.unwrap_or(0)).map(device).collect()
}

fn device(index: usize) -> Device {
    let (mut free, mut total) = (0, 0);
    // SAFETY: `index` is below `ggml_backend_dev_count()`, devices are never removed, their strings live as long as
    // the program, and the two numbers outlive the call.
    unsafe {
        let device = sys::ggml_backend_dev_get(index);
        // A backend that throws cannot tell.
        let _ = sys::guarded_unit(|error| sys::guard_ggml_backend_dev_memory(error, device, &mut free, &mut total));
        Device {
            name: string(sys::ggml_backend_dev_name(device)),
            description: string(sys::ggml_backend_dev_description(device)),
            kind: kind(sys::ggml_backend_dev_type(device)),
            memory_free: free as u64,
            memory_total: total as u64,
        }
    }
}

fn kind(kind: sys::ggml_backend_dev_type) -> DeviceKind {
    match kind {
        sys::GGML_BACKEND_DEVICE_TYPE_CPU => DeviceKind::Cpu,
        sys::GGML_BACKEND_DEVICE_TYPE_GPU => DeviceKind::Gpu,
        sys::GGML_BACKEND_DEVICE_TYPE_IGPU => DeviceKind::IntegratedGpu,
        sys::GGML_BACKEND_DEVICE_TYPE_ACCEL => DeviceKind::Accelerator,
        _ => DeviceKind::Other,
    }
}

/// The instruction sets and options that llama.cpp was compiled with and found here, as one line. Empty where there is no
/// memory for it.
#[must_use]
pub fn system_info() -> String {
    use std::sync::Mutex;
    // llama.cpp writes it into one static string (llama.cpp's llama_print_system_info): one caller at a time.
    static LOCK: Mutex<()> = Mutex::new(());
    init();
    let _guard = LOCK.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let text = sys::guarded(std::ptr::null(), |result, error| {
        // SAFETY: takes nothing, and writes the result. The lock is held.
        unsafe { sys::guard_llama_print_system_info(result, error) }
    });
    // SAFETY: the static string is not written while the lock is held, and it is copied before it is released.
    unsafe { string(text.unwrap_or(std::ptr::null())) }
}

/// llama.cpp's own version.
#[must_use]
pub fn llama_cpp_version() -> String {
    // SAFETY: returns a string constant.
    unsafe { string(sys::llama_version()) }
}

/// Copies a C string; empty if there is none.
///
/// # Safety
///
/// `text` is NULL or a terminated string that is not changed during the call.
pub(crate) unsafe fn string(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not NULL, and terminated by the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_a_device() {
        let cpus: Vec<_> = devices().into_iter().filter(|device| device.kind == DeviceKind::Cpu).collect();
        assert_eq!(cpus.len(), 1);
        assert!(cpus[0].memory_total > 0);
        assert!(!system_info().is_empty());
        assert!(!llama_cpp_version().is_empty());
    }
}
