//! The prerequisites: looked for, installed where that is ours to do, named where it is not.

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Result, bail};

use crate::prerequisites::{self, Missing};
use crate::progress;

/// The command: sets up, and says that it is done.
pub fn run() -> Result<ExitCode> {
    ensure(prerequisites::missing)?;
    progress::say("Everything that the build needs is here.");
    Ok(ExitCode::SUCCESS)
}

/// Makes sure that nothing is missing any more.
///
/// # Errors
/// With the one message that names what is missing and how to install it.
pub fn ensure(find: impl Fn() -> Vec<Missing>) -> Result<()> {
    let missing = find();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = prerequisites::packages(&missing, |packages| packages.apt);
    if packages.is_empty() || !is_root() || !has_apt() {
        bail!("{}", prerequisites::message(&missing).trim_end());
    }
    install(&packages)?;
    let still = find();
    if still.is_empty() {
        return Ok(());
    }
    bail!("{} installed, and yet: {}", packages.join(" "), prerequisites::message(&still).trim_end());
}

fn install(packages: &[&str]) -> Result<()> {
    let mut update = apt();
    update.arg("update");
    progress::watch(update, "Updating the package lists", None)?;
    let mut install = apt();
    install.args(["install", "-y", "--no-install-recommends"]).args(packages);
    progress::watch(install, &format!("Installing {}", packages.join(" ")), None)
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn is_root() -> bool {
    // One short process instead of one unsafe call.
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn has_apt() -> bool {
    let mut command = Command::new("apt-get");
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
