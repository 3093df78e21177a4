//! The exception guard: a small C++ file of our own.

use std::path::Path;

use crate::config::Config;

/// Compiles `shim/guard.cpp`.
pub fn build(config: &Config, source: &Path) {
    let mut compiler = cc::Build::new();
    for flag in config.sanitizer_flags() {
        compiler.flag(flag);
    }
    compiler
        .cpp(true)
        .std("c++17")
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
