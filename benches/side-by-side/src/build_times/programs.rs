//! Small programs that depend on a library, each as a package of its own.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A package whose build is timed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The library that it depends on.
    pub library: String,
    /// With which of its features.
    pub features: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Its own source.
    pub source: PathBuf,
    /// The library's first source file, where that is no package of a registry: those never change.
    pub library_source: Option<PathBuf>,
}

/// The program in this repository that depends on llama-cpp-2, with that library's default features.
#[must_use]
pub fn peer(repository: &Path) -> Program {
    let folder = repository.join("benches/llama-cpp-2");
    Program {
        library: "llama-cpp-2".to_owned(),
        features: "default".to_owned(),
        source: folder.join("src/main.rs"),
        folder,
        library_source: None,
    }
}

/// Writes a program that depends on `llama-safe` into a new folder: `features` as the entry of its manifest has them, all the default
/// ones where there are none.
///
/// # Errors
///
/// What the file system reports.
pub fn write_ours(repository: &Path, folder: PathBuf, features: Option<&[&str]>) -> Result<Program> {
    let failed = || format!("writing a program into {}", folder.display());
    let source = folder.join("src/main.rs");
    fs::create_dir_all(folder.join("src")).with_context(failed)?;
    fs::write(folder.join("Cargo.toml"), manifest(&repository.join("llama-safe"), features)).with_context(failed)?;
    fs::write(&source, MAIN).with_context(failed)?;
    // The versions that this workspace is built with; cargo strikes out what the program does not need.
    fs::copy(repository.join("Cargo.lock"), folder.join("Cargo.lock")).with_context(failed)?;
    Ok(Program {
        library: "llama-safe".to_owned(),
        features: features.map_or_else(|| "default".to_owned(), |names| names.join(", ")),
        folder,
        source,
        library_source: Some(repository.join("llama-safe/src/lib.rs")),
    })
}

/// With the same other dependencies as the program that depends on llama-cpp-2.
fn manifest(library: &Path, features: Option<&[&str]>) -> String {
    let features = features.map_or(String::new(), |names| format!(", default-features = false, features = {names:?}"));
    format!(
        "[package]\nname = \"dependent\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\n\
         llama-safe = {{ path = {library:?}{features} }}\n\
         serde = {{ version = \"1\", features = [\"derive\"] }}\nserde_json = \"1\"\n\n[workspace]\n"
    )
}

/// Decodes one token, and prints the likeliest next one.
const MAIN: &str = r#"use std::error::Error;

use llama_safe::{Context, ContextParams, Model, ModelParams, Sampler, Token};

#[derive(serde::Serialize)]
struct Answer {
    token: i32,
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("which model?")?;
    let model = Model::load(path, &ModelParams::default())?;
    let mut context = Context::new(&model, &ContextParams::default())?;
    let mut batch = context.new_batch();
    let sequence = context.new_sequence()?;
    let slot = batch.push_output(&sequence, Token(0))?;
    let next = Sampler::greedy().sample(context.decode(&mut batch)?.get(slot)?)?;
    println!("{}", serde_json::to_string(&Answer { token: next.0 })?);
    Ok(())
}
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_the_default_ones_or_those_that_are_named() {
        let default = manifest(Path::new("/a/llama-safe"), None);
        assert!(default.contains("llama-safe = { path = \"/a/llama-safe\" }\n"), "{default}");
        let few = manifest(Path::new("/a/llama-safe"), Some(&["static"]));
        let line = "llama-safe = { path = \"/a/llama-safe\", default-features = false, features = [\"static\"] }\n";
        assert!(few.contains(line), "{few}");
    }

    #[test]
    fn programs_are_written_whole() {
        let folder = std::env::temp_dir().join(format!("side-by-side-program-{}", std::process::id()));
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let program = write_ours(&repository, folder.clone(), Some(&["static"])).unwrap();
        for file in ["Cargo.toml", "Cargo.lock", "src/main.rs"] {
            assert!(folder.join(file).is_file(), "{file}");
        }
        for source in [Some(&program.source), program.library_source.as_ref(), Some(&peer(&repository).source)] {
            assert!(source.is_some_and(|source| source.is_file()), "{source:?}");
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
