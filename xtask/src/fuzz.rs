//! Mutated model files, as many as asked for.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

use crate::checks::last_line;
use crate::progress::duration;
use crate::{cargo, prerequisites, setup};

/// Runs `tests/gguf_fuzz.rs` with `count` mutations, from number `first` on.
pub fn run(count: u64, first: u64) -> Result<ExitCode> {
    let started = Instant::now();
    setup::ensure(prerequisites::missing)?;
    let mut command = cargo::cargo()?;
    command.args(["test", "--package", "batch-suite", "--test", "gguf_fuzz", "mutations", "--", "--nocapture"]);
    command.env("GGUF_FUZZ_COUNT", count.to_string()).env("GGUF_FUZZ_FIRST", first.to_string());
    let status = cargo::stream(command, |_| ())?;
    let verdict = if status.success() { "each a model or an error" } else { "FAILED" };
    last_line(&format!(
        "xtask fuzz-gguf: {count} mutations from {first} on, {verdict}, in {}",
        duration(started.elapsed())
    ))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
