//! The bindings, generated from the headers of the source that is built.

use std::fs;
use std::path::Path;

use crate::config::Config;
use crate::native::Tree;

/// Writes `bindings.rs` into cargo's output folder.
///
/// libclang needs seconds to read the headers, and every cargo profile asks: the text is kept in the tree of the C++
/// build beside a copy of the headers that it was made from, and made again when one of them differs.
pub fn generate(config: &Config, source: &Path, tree: &Tree) -> Result<(), String> {
    let out = config.out_dir.join("bindings.rs");
    let kept = tree.folder.join("bindings.rs");
    let kept_inputs = tree.folder.join("bindings.inputs");
    let inputs = inputs(config, source)?;
    if fs::read_to_string(&kept_inputs).is_ok_and(|old| old == inputs) && fs::copy(&kept, &out).is_ok() {
        return Ok(());
    }
    let bindings = bindgen::Builder::default()
        .header(config.manifest_dir.join("shim/bindings.h").display().to_string())
        .clang_arg(format!("-I{}", config.manifest_dir.join("shim").display()))
        .clang_arg(format!("-I{}", config.manifest_dir.join("kernels").display()))
        .clang_arg(format!("-I{}", source.join("include").display()))
        .clang_arg(format!("-I{}", source.join("ggml/include").display()))
        .clang_arg(format!("--target={}", config.target))
        .allowlist_item("(llama|ggml|gguf|guard|kernels|LLAMA|GGML|GGUF|GUARD)_.*")
        .layout_tests(true)
        .derive_default(false)
        .prepend_enum_name(false)
        .use_core()
        // The headers' comments are C's, and rustdoc would read their brackets as links.
        .generate_comments(false)
        .generate()
        .map_err(|error| format!("bindgen could not read llama.cpp's headers: {error}"))?;
    bindings
        .write_to_file(&kept)
        .and_then(|()| fs::write(&kept_inputs, &inputs))
        .and_then(|()| fs::copy(&kept, &out).map(drop))
        .map_err(|error| format!("{}: {error}", kept.display()))
}

/// Everything that decides the bindings' text.
fn inputs(config: &Config, source: &Path) -> Result<String, String> {
    let shim = config.manifest_dir.join("shim");
    let mut text = config.target.clone();
    for header in [
        source.join("include/llama.h"),
        source.join("ggml/include/ggml.h"),
        source.join("ggml/include/ggml-backend.h"),
        source.join("ggml/include/ggml-cpu.h"),
        source.join("ggml/include/gguf.h"),
        shim.join("bindings.h"),
        shim.join("guard.h"),
        config.manifest_dir.join("kernels/kernels.h"),
        config.manifest_dir.join("build/bindings.rs"),
    ] {
        text += &fs::read_to_string(&header).map_err(|error| format!("{}: {error}", header.display()))?;
    }
    Ok(text)
}
