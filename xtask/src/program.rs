//! Builds a program of this workspace and becomes it.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::ninja::Watch;
use crate::{cargo, prerequisites, progress, setup};

/// Sets up, builds a package in release mode, and runs its program of the same name with these arguments.
pub fn run(package: &str, arguments: &[OsString]) -> Result<ExitCode> {
    setup::ensure(prerequisites::missing)?;
    let mut build = cargo::cargo()?;
    build.args(["build", "--release", "--package", package]);
    if io::stderr().is_terminal() {
        // Its errors come through a pipe, and are shown on a terminal after all.
        build.env("CARGO_TERM_COLOR", "always");
    }
    progress::watch(build, "Building", Some(Watch::new(&cargo::target()?)))?;
    let program = cargo::release_binary(package)?;
    let mut command = Command::new(&program);
    command.args(arguments);
    become_it(command).with_context(|| format!("starting {}", program.display()))
}

/// The program takes this process's place: signals, terminal and exit code are its own.
#[cfg(unix)]
fn become_it(mut command: Command) -> io::Result<ExitCode> {
    use std::os::unix::process::CommandExt;
    Err(command.exec())
}

#[cfg(not(unix))]
fn become_it(mut command: Command) -> io::Result<ExitCode> {
    let code = command.status()?.code();
    Ok(code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
