//! How C++ of our own is compiled.

use crate::config::Config;

/// A compiler of C++17, with the sanitizers that llama.cpp is built with.
pub fn compiler(config: &Config) -> cc::Build {
    let mut compiler = cc::Build::new();
    for flag in config.sanitizer_flags() {
        compiler.flag(flag);
    }
    compiler.cpp(true).std("c++17");
    compiler
}
