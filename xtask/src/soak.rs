//! Many requests against one engine, with everything that can happen to it.

use std::process::ExitCode;

use anyhow::Result;

use crate::ninja::Watch;
use crate::{cargo, prerequisites, progress, setup};

/// Sets up, builds in release mode, and runs so many requests. The last line of the output is what came of them, one JSON object.
pub fn run(requests: u64, seed: u64) -> Result<ExitCode> {
    setup::ensure(prerequisites::missing)?;
    let mut build = cargo::cargo()?;
    build.args(["build", "--release", "--package", "batch-suite", "--bin", "soak"]);
    progress::watch(build, "Building", Some(Watch::new(&cargo::target()?)))?;
    let mut soak = std::process::Command::new(cargo::release_binary("soak")?);
    soak.args([requests.to_string(), seed.to_string()]);
    let status = cargo::stream(soak, |_| ())?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
