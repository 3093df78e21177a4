//! Finds llama.cpp's source: the user's checkout, a copy inside this repository, or the pinned package.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::config::Config;

/// The package whose source tree carries llama.cpp.
const CARRIER: &str = "llama-cpp-sys-2";

/// Returns the folder of llama.cpp's source, and says which one it took.
pub fn find(config: &Config) -> Result<PathBuf, String> {
    if let Some(checkout) = &config.llama_cpp_dir {
        return checked(checkout.clone(), "LLAMA_CPP_DIR");
    }
    let copy = config.manifest_dir.join("../vendor/llama.cpp");
    if copy.exists() {
        return checked(copy, "vendor/llama.cpp");
    }
    checked(pinned_package(config)?, "the package pinned in vendor/Cargo.toml")
}

fn checked(folder: PathBuf, origin: &str) -> Result<PathBuf, String> {
    let header = folder.join("include/llama.h");
    if !header.is_file() {
        return Err(format!(
            "llama.cpp's source was looked for in {} ({origin}), but {} is not there",
            folder.display(),
            header.display()
        ));
    }
    println!("llama.cpp's source: {} ({origin})", folder.display());
    // An absolute path without `..`, since it is part of the build tree's key.
    folder.canonicalize().map_err(|error| format!("{}: {error}", folder.display()))
}

/// Asks cargo to fetch the carrier package and to check it against `vendor/Cargo.lock`.
///
/// cargo's own error is passed on where it can't: it knows about mirrors, `--offline` and the network.
fn pinned_package(config: &Config) -> Result<PathBuf, String> {
    let manifest = config.manifest_dir.join("../vendor/Cargo.toml");
    let output = Command::new(&config.cargo)
        .args(["metadata", "--locked", "--format-version", "1", "--filter-platform", &config.target])
        .arg("--manifest-path")
        .arg(&manifest)
        .output()
        .map_err(|error| format!("cargo metadata could not be run: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "llama.cpp's pinned source could not be fetched; cargo says:\n{}\n\
             LLAMA_CPP_DIR can name a llama.cpp checkout to build instead.",
            String::from_utf8_lossy(&output.stderr).trim()
        ));
    }
    let metadata = String::from_utf8_lossy(&output.stdout);
    manifest_path(&metadata)
        .and_then(|path| Some(Path::new(&path).parent()?.join("llama.cpp")))
        .ok_or_else(|| format!("cargo metadata does not tell where {CARRIER} is"))
}

/// The carrier's `manifest_path` in cargo's JSON.
///
/// A JSON parser would be one more thing to compile before anything else can start; cargo writes each package's
/// `manifest_path` after a fixed prefix, and the carrier's folder is named after the package.
fn manifest_path(metadata: &str) -> Option<String> {
    metadata
        .split("\"manifest_path\":\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .map(|path| path.replace("\\\\", "\\"))
        .find(|path| {
            Path::new(path)
                .parent()
                .and_then(Path::file_name)
                .is_some_and(|folder| folder.to_string_lossy().starts_with(CARRIER))
        })
}
