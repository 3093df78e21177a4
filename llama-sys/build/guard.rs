//! The exception guard: a small C++ file of our own.

use std::path::Path;

use crate::config::Config;
use crate::cpp;

/// Compiles `shim/guard.cpp`.
pub fn build(config: &Config, source: &Path) {
    cpp::compiler(config)
        .file("shim/guard.cpp")
        .include("shim")
        .include(source.join("include"))
        .include(source.join("ggml/include"))
        // llama-ext.h.
        .include(source.join("src"))
        // llama.h marks old functions as deprecated; the guard does not use them, the header's own lines warn.
        .flag_if_supported("-Wno-deprecated-declarations")
        .compile("llama_guard");
}
