//! The tests under valgrind.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::checks::{Tests, last_line};
use crate::ninja::Watch;
use crate::prerequisites::{self, Missing, Packages};
use crate::progress::{self, duration, say};
use crate::{cargo, setup};

/// Only what is definitely lost counts: the rest is reachable from statics and lives to the end on purpose.
/// One thread at a time runs under valgrind, so those that wait by spinning must get their turn in order.
const VALGRIND: &str = "valgrind --quiet --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite \
                        --error-exitcode=99 --fair-sched=try";

/// The packages whose tests run, the suite and the safe layer's own, and the feature that makes an older processor do.
const PACKAGES: [&str; 8] =
    ["--package", "batch-suite", "--package", "llama-safe", "--lib", "--tests", "--features", "llama-safe/portable"];

/// Sets up, builds for an older processor, and runs the tests under valgrind.
pub fn run() -> Result<ExitCode> {
    if !cfg!(target_os = "linux") {
        bail!("valgrind is at home on Linux; this command runs there");
    }
    let started = Instant::now();
    setup::ensure(|| {
        let mut missing = prerequisites::missing();
        missing.extend(valgrind());
        missing
    })?;
    let target = cargo::target()?.join("leaks");
    // llama.cpp's builds are together in the outer one, told apart by their configuration.
    let watch = Watch::new(&cargo::target()?);
    progress::watch(test(&target, &["--no-run"])?, "Building the tests for valgrind", Some(watch))?;
    say("Running the tests under valgrind; this takes its time");
    let mut command = test(&target, &["--no-fail-fast", "--", "--test-threads=1"])?;
    // cargo starts every test program through this one.
    command.env(runner_variable(&host()?), VALGRIND).env("LEAK_CHECK", "1");
    let mut tests = Tests::default();
    let status = cargo::stream(command, |line| tests.add(line))?;
    let verdict = if status.success() { "nothing leaked" } else { "FAILED" };
    last_line(&format!("xtask leaks: {tests} under valgrind, {verdict}, in {}", duration(started.elapsed())))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `cargo test` of the packages, in a target directory of its own: this llama.cpp is built with other instructions.
fn test(target: &Path, more: &[&str]) -> Result<Command> {
    let mut command = cargo::cargo()?;
    command.arg("test").args(PACKAGES).args(more).env("CARGO_TARGET_DIR", target);
    Ok(command)
}

/// The triple that this machine's rustc compiles for by itself.
pub fn host() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("starting rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(line.context("rustc -vV names no host")?.to_string())
}

/// The variable from which cargo takes what to start a triple's programs with.
fn runner_variable(triple: &str) -> String {
    format!("CARGO_TARGET_{}_RUNNER", triple.to_uppercase().replace(['-', '.'], "_"))
}

fn valgrind() -> Option<Missing> {
    let mut command = Command::new("valgrind");
    command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    if command.status().is_ok_and(|status| status.success()) {
        return None;
    }
    Some(Missing {
        name: "valgrind",
        detail: "watches every memory access of the tests".to_string(),
        packages: Packages { apt: "valgrind", dnf: "valgrind", brew: "", choco: "" },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runner_variable_is_cargos() {
        assert_eq!(runner_variable("x86_64-unknown-linux-gnu"), "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER");
    }

    #[test]
    fn host_is_a_triple() {
        assert!(host().unwrap().split('-').count() >= 3);
    }
}
