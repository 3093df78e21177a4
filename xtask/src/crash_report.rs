//! The report of every way to break the raw API.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::checks::last_line;
use crate::{cargo, prerequisites, setup};

/// Runs the raw sides of `tests/crash.rs`, and writes `docs/crash-patterns.md`; then the three tests that were switched off
/// elsewhere, a thousand times, which the report says that they pass.
pub fn run() -> Result<ExitCode> {
    if !cfg!(target_os = "linux") {
        bail!("signals and traces are told as Linux has them; this command runs there");
    }
    setup::ensure(prerequisites::missing)?;
    let report = cargo::root().join("docs/crash-patterns.md");
    let mut command = cargo::cargo()?;
    command.args(["test", "--package", "batch-suite", "--test", "crash"]).env("CRASH_REPORT", &report);
    if !cargo::stream(command, |_| ())?.success() {
        bail!("there is no report of raw sides that come to something else than the table says");
    }
    let mut command = cargo::cargo()?;
    command
        .args(["test", "--package", "batch-suite", "--test", "batch", "again_and_again"])
        .env("BATCH_REPETITIONS", "1000");
    if !cargo::stream(command, |_| ())?.success() {
        bail!("the report says that the three tests pass a thousand times, and they do not");
    }
    last_line("xtask crash-report: docs/crash-patterns.md")?;
    Ok(ExitCode::SUCCESS)
}
