//! Random programs and mutated model files, as many as asked for.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::checks::{Tests, last_line};
use crate::progress::{duration, say};
use crate::{cargo, prerequisites, setup};

/// The tests that run random programs: the binary, and a part of their names.
const PROGRAMS: [(&str, &str); 3] =
    [("memory", "random_programs"), ("families", "memory_programs"), ("families", "survive")];

/// Runs random programs round by round, until `minutes` are over or each test has run `programs`; at least one round.
pub fn programs(minutes: Option<u64>, programs: Option<u64>, first: u64) -> Result<ExitCode> {
    let started = Instant::now();
    setup::ensure(prerequisites::missing)?;
    let limit = minutes.map(|minutes| Duration::from_secs(60 * minutes));
    // Rounds end often enough to look at the clock.
    let round = if limit.is_some() { 20 } else { programs.unwrap_or(1000) };
    let (mut done, mut tests) = (0, Tests::default());
    let failed = loop {
        say(&format!("── programs {} to {} of each test", first + done, first + done + round - 1));
        let failed = PROGRAMS.iter().map(|(binary, name)| run(binary, name, first + done, round, &mut tests));
        // The others may find more, but not before this is looked at.
        let failed = failed.collect::<Result<Vec<bool>>>()?.contains(&true);
        done += round;
        let enough = programs.is_some_and(|programs| done >= programs);
        let over = limit.is_some_and(|limit| started.elapsed() >= limit);
        // Without either a round is all.
        if failed || enough || over || (limit.is_none() && programs.is_none()) {
            break failed;
        }
    };
    let verdict = if failed { "FAILED" } else { "nothing found" };
    last_line(&format!(
        "xtask fuzz: {done} programs for each test ({tests}), {verdict}, in {}",
        duration(started.elapsed())
    ))?;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Runs the tests of a binary whose names hold `name`, with so many programs each. Whether one failed.
fn run(binary: &str, name: &str, first: u64, count: u64, tests: &mut Tests) -> Result<bool> {
    let mut command = cargo::cargo()?;
    command.args(["test", "--quiet", "--package", "batch-suite", "--test", binary, name]);
    command.env("FUZZ_PROGRAMS", count.to_string());
    command.env("ADVERSARY_PROGRAMS", count.to_string()).env("ADVERSARY_FIRST", first.to_string());
    Ok(!cargo::stream(command, |line| tests.add(line))?.success())
}

/// Runs `tests/gguf_fuzz.rs` with `count` mutations, from number `first` on.
pub fn model_files(count: u64, first: u64) -> Result<ExitCode> {
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
