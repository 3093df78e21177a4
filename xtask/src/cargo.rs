//! Where things are, and cargo as a command that is run from here.

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{self, Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result};

/// The root of the repository.
pub fn root() -> PathBuf {
    // Asked at run time first: a moved clone may still hold a binary that was built where it stood before.
    let package = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    package.parent().map(Path::to_path_buf).unwrap_or(package)
}

/// The target directory, taken from where this program itself was built, so that no configuration has to be read.
pub fn target() -> Result<PathBuf> {
    let program = env::current_exe().context("where this program is")?;
    // cargo marks the root of a target directory with this file, whichever triple and profile lie between.
    // The outermost one counts: that is where llama-sys keeps its C++ builds.
    let marked = program.ancestors().filter(|folder| folder.join("CACHEDIR.TAG").is_file()).last();
    Ok(marked.map_or_else(|| root().join("target"), Path::to_path_buf))
}

/// A program of this workspace as built in release mode.
pub fn release_binary(name: &str) -> Result<PathBuf> {
    let program = env::current_exe().context("where this program is")?;
    let profiles = program.ancestors().nth(2).context("this program is not in a target directory")?;
    Ok(profiles.join("release").join(format!("{name}{}", env::consts::EXE_SUFFIX)))
}

/// cargo, in the root of the repository.
pub fn cargo() -> Result<Command> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // Given relative to the caller's folder, it would mean another folder from the root.
    if let Some(folder) = env::var_os("CARGO_TARGET_DIR").filter(|folder| !folder.is_empty()) {
        command.env("CARGO_TARGET_DIR", path::absolute(folder).context("the folder in CARGO_TARGET_DIR")?);
    }
    Ok(command)
}

/// Runs a command, lets its output through as it comes, and hands every line of its standard output to `line`.
///
/// # Errors
/// Where the command cannot be started, or standard output cannot be written.
pub fn stream(mut command: Command, mut line: impl FnMut(&str)) -> Result<ExitStatus> {
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("starting {command:?}"))?;
    let mut lines = BufReader::new(child.stdout.take().context("its output")?);
    let mut bytes = Vec::new();
    let mut written = Ok(());
    while lines.read_until(b'\n', &mut bytes)? > 0 {
        // A closed output must not leave the child writing into nothing: read on, and say so at the end.
        if written.is_ok() {
            written = io::stdout().write_all(&bytes).and_then(|()| io::stdout().flush());
        }
        line(&String::from_utf8_lossy(&bytes));
        bytes.clear();
    }
    let status = child.wait()?;
    written.context("writing to standard output")?;
    Ok(status)
}
