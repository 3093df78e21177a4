//! Compiles the loop over llama.cpp's C API against the headers of the source that `llama-sys` was built from.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-changed=c_loop");
    println!("cargo::rerun-if-changed=build.rs");
    let source = PathBuf::from(env::var_os("DEP_LLAMA_CPP_SOURCE").expect("llama-sys names its source"));
    let kernels = PathBuf::from(env::var_os("DEP_LLAMA_CPP_KERNELS").expect("llama-sys names its kernels"));
    let mut compiler = cc::Build::new();
    if env::var_os("HOST") == env::var_os("TARGET") {
        compiler.flag_if_supported("-march=native");
    }
    compiler
        .cpp(true)
        .std("c++17")
        // It is to be the fastest there can be, in every profile. Without the flags the highest logit is not found with vectors.
        .opt_level(3)
        .flag_if_supported("-ffinite-math-only")
        .flag_if_supported("-fno-signed-zeros")
        .flag_if_supported("-fno-trapping-math")
        .flag_if_supported("-Wno-deprecated-declarations")
        .include(kernels)
        .include(source.join("include"))
        .include(source.join("ggml/include"))
        .file("c_loop/c_loop.cpp")
        .compile("c_loop");
}
