//! Our kernels for small batches: C++ of our own that plugs into ggml's CPU backend by its internal headers.

use std::path::Path;

use crate::config::{Config, Linkage};
use crate::cpp;

/// What an instruction set's file is compiled with beyond the target's baseline.
const INSTRUCTION_SETS: [(&str, &[&str]); 2] = [
    ("avx2", &["-mavx2", "-mfma", "-mf16c"]),
    ("avx512vnni", &["-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni"]),
];

/// Compiles `kernels/`, or what stands in for it: where nobody asked for it, where it has nothing to offer, and where
/// llama.cpp's internal headers are not those that it was written against.
pub fn build(config: &Config, source: &Path) {
    let is_x86 = config.target.starts_with("x86_64-");
    // Shared libraries keep ggml's list of buffer types to themselves.
    let is_possible = is_x86 && config.linkage == Linkage::Static && !config.target.ends_with("-msvc");
    if config.kernels && is_possible {
        match try_build(config, source) {
            Ok(()) => return,
            Err(reason) => println!(
                "cargo::warning=the kernels for small batches do not fit this llama.cpp and are left out, batches are \
                 computed by its own: {reason}"
            ),
        }
    }
    compiler(config, source).file("kernels/absent.cpp").compile("llama_kernels");
}

fn try_build(config: &Config, source: &Path) -> Result<(), String> {
    let first_line = |error: cc::Error| error.to_string().lines().next().unwrap_or_default().to_owned();
    let mut common = compiler(config, source);
    common.define("KERNELS_X86", None);
    for file in ["kernels", "trial", "buffer_type", "layout", "multiply", "attention_op", "processor", "plain"] {
        common.file(format!("kernels/{file}.cpp"));
    }
    // It uses what the others define: linkers want it before them.
    common.try_compile("llama_kernels").map_err(first_line)?;
    for (name, flags) in INSTRUCTION_SETS {
        let mut one = compiler(config, source);
        for flag in flags {
            one.flag(flag);
        }
        one.file(format!("kernels/{name}.cpp")).try_compile(&format!("llama_kernels_{name}")).map_err(first_line)?;
    }
    Ok(())
}

fn compiler(config: &Config, source: &Path) -> cc::Build {
    let mut compiler = cpp::compiler(config);
    compiler
        // ggml's headers define functions that nobody here calls, and GCC's for AVX-512 read what they have not set.
        .warnings(false)
        // As llama.cpp is: whatever cargo's profile. With sanitizers, GCC takes eight minutes for `plain` then, and one at 1.
        .opt_level(if config.sanitizers.is_some() { 1 } else { 3 })
        .include("kernels")
        .include(source.join("ggml/include"))
        .include(source.join("ggml/src"))
        .include(source.join("ggml/src/ggml-cpu"));
    compiler
}
