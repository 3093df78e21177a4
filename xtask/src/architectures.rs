//! Compares every architecture, and writes down what was found.

use std::fs;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result};

use crate::{cargo, prerequisites, setup};

/// Where the findings stand, from the repository's root.
const REPORT: &str = "docs/architectures.md";

/// Runs the comparison and replaces the document.
pub fn run() -> Result<ExitCode> {
    setup::ensure(prerequisites::missing)?;
    let mut command = cargo::cargo()?;
    command.args(["run", "--quiet", "--package", "batch-suite", "--bin", "architectures"]);
    let output = command.stderr(Stdio::inherit()).output().context("running the comparison")?;
    let path = cargo::root().join(REPORT);
    if !output.stdout.is_empty() {
        fs::write(&path, output.stdout).with_context(|| format!("writing {}", path.display()))?;
    }
    if output.status.success() {
        println!("{REPORT} is up to date");
        return Ok(ExitCode::SUCCESS);
    }
    println!("the findings and llama-safe/src/quirks.rs differ: see above, and {REPORT}");
    Ok(ExitCode::FAILURE)
}
