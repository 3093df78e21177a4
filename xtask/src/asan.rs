//! The tests with llama.cpp, the shim and all Rust compiled under AddressSanitizer, with its leak checker and, for the C++,
//! UndefinedBehaviorSanitizer.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::checks::{Tests, last_line};
use crate::leaks::host;
use crate::ninja::Watch;
use crate::progress::{self, duration, say};
use crate::{cargo, prerequisites, setup};

/// Left out: its children are to break, as they do without a sanitizer.
const LEFT_OUT: [&str; 1] = ["crash"];

/// A sanitizer's stack frames are larger than what the stack for a text is measured for.
const SKIPPED: &str = "long_texts_do_not_overflow_the_stack";

/// What the C++ is compiled with. The runtime comes with Rust's.
const SANITIZERS: &str = "address,undefined";

/// Sets up, builds, and runs the tests named, or all of the suite and the safe layer.
pub fn run(names: &[String]) -> Result<ExitCode> {
    if !cfg!(all(target_os = "linux", target_env = "gnu")) {
        bail!("this command needs the sanitizers of Linux with the GNU C library");
    }
    let started = Instant::now();
    setup::ensure(prerequisites::missing)?;
    let target = cargo::target()?.join("asan");
    let watch = Watch::new(&cargo::target()?);
    progress::watch(test(&target, names, &["--no-run"])?, "Building the tests with sanitizers", Some(watch))?;
    say("Running the tests with sanitizers");
    let mut tests = Tests::default();
    let status =
        cargo::stream(test(&target, names, &["--no-fail-fast", "--", "--skip", SKIPPED])?, |line| tests.add(line))?;
    let verdict = if status.success() { "nothing found" } else { "FAILED" };
    last_line(&format!("xtask asan: {tests} with sanitizers, {verdict}, in {}", duration(started.elapsed())))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `cargo test` with sanitizers, in a target directory of its own.
fn test(target: &Path, names: &[String], more: &[&str]) -> Result<Command> {
    let mut command = cargo::cargo()?;
    // Given a target, cargo keeps its flags from build scripts and macros, which run without a sanitizer's runtime.
    command.args(["test", "--target", &host()?, "--package", "batch-suite"]);
    if names.is_empty() {
        command.args(["--package", "llama-safe", "--lib"]);
        for name in suite()? {
            command.args(["--test", &name]);
        }
    }
    for name in names {
        command.args(["--test", name]);
    }
    command.args(more).env("CARGO_TARGET_DIR", target).env("LLAMA_CPP_SANITIZE", SANITIZERS);
    // Rust's sanitizers are not stable, though they come with the stable compiler.
    command.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-Zsanitizer=address");
    // Those that make an allocation fail expect NULL; resident memory says nothing of leaks, which are looked for themselves.
    command.env("ASAN_OPTIONS", "allocator_may_return_null=1").env("UBSAN_OPTIONS", "print_stacktrace=1");
    command.env("LEAK_CHECK", "1").env("GGML_NO_BACKTRACE", "1");
    Ok(command)
}

/// The names of the suite's tests.
fn suite() -> Result<Vec<String>> {
    let folder = cargo::root().join("tests");
    let entries = fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if path.extension().is_some_and(|extension| extension == "rs") && !LEFT_OUT.contains(&name.as_str()) {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suite_is_found() {
        let names = suite().unwrap();
        assert!(names.iter().any(|name| name == "memory") && !names.iter().any(|name| name == "crash"), "{names:?}");
    }
}
