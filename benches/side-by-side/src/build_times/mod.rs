//! How long it takes to build a small program that depends on a library: from nothing, and after a change.

mod programs;
mod report;

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, id};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};

use crate::machine::{self, Header};
use crate::others::Snapshot;
use programs::Program;
pub use report::{Built, Report};

/// Builds each program once. Crates are downloaded before a clock runs. `note` hears what is done next.
///
/// # Errors
///
/// Where cargo fails, or a change in Rust had llama.cpp built again.
pub fn measure(mut header: Header, mut note: impl FnMut(&str)) -> Result<Report> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().context("this repository")?;
    // Not in this build's target directory, where llama-sys would find llama.cpp built.
    let scratch = Scratch(env::temp_dir().join(format!("side-by-side-build-{}", id())));
    let programs = [
        programs::write_ours(&repository, scratch.0.join("default"), None)?,
        programs::write_ours(&repository, scratch.0.join("static"), Some(&["static"]))?,
        programs::peer(&repository),
    ];
    note("downloading what is to be built");
    run(cargo(&repository.join("vendor"), &scratch.0).args(["fetch", "--locked"]))?;
    for program in &programs {
        run(cargo(&program.folder, &scratch.0).arg("fetch"))?;
    }
    let mut rows = Vec::new();
    for program in &programs {
        rows.push(build(program, &scratch.0.join("target"), &mut note)?);
    }
    header.load_after = machine::load();
    Ok(Report { header, rows })
}

/// Builds a program from nothing, and twice more: after a change in its source, and after one in that of the library.
fn build(program: &Program, target: &Path, mut note: impl FnMut(&str)) -> Result<Built> {
    let Program { library, features, .. } = program;
    let before = Snapshot::take(id());
    note(&format!("{library} ({features}), from nothing"));
    let clean = timed(program, target)?;
    let native = native_code(target)?;
    note(&format!("{library} ({features}), after changes"));
    let program_changed = with_touched(&program.source, || timed(program, target))?;
    let library_source = program.library_source.as_ref();
    let library_changed = library_source.map(|source| with_touched(source, || timed(program, target))).transpose()?;
    if native_code(target)? != native {
        bail!("a change in Rust had C++ compiled again for {library}");
    }
    // cargo was waited for, with all that it ran: their time is this process's own.
    let others = before.zip(Snapshot::take(id())).map(|(before, after)| after.others_since(before));
    fs::remove_dir_all(target).with_context(|| format!("removing {}", target.display()))?;
    Ok(Built {
        library: library.clone(),
        features: features.clone(),
        clean_s: clean.as_secs_f64(),
        program_changed_s: program_changed.as_secs_f64(),
        library_changed_s: library_changed.map(|time| time.as_secs_f64()),
        others,
    })
}

fn timed(program: &Program, target: &Path) -> Result<Duration> {
    let started = Instant::now();
    run(cargo(&program.folder, target).args(["build", "--release", "--offline", "--quiet"]))?;
    Ok(started.elapsed())
}

/// cargo, with nothing in its environment that keeps what was compiled before, or has it compile in another way.
fn cargo(folder: &Path, target: &Path) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(folder).env("CARGO_TARGET_DIR", target);
    cargo.env("CCACHE_DISABLE", "1").env("RUSTC_WRAPPER", "").env("RUSTC_WORKSPACE_WRAPPER", "");
    for variable in [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_BUILD_RUSTFLAGS",
        "CMAKE_C_COMPILER_LAUNCHER",
        "CMAKE_CXX_COMPILER_LAUNCHER",
    ] {
        cargo.env_remove(variable);
    }
    cargo
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("starting {command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}

/// Runs something while a file looks as if it had just been changed.
fn with_touched<T>(file: &Path, run: impl FnOnce() -> Result<T>) -> Result<T> {
    let failed = || format!("the time of {}", file.display());
    let touch = |time: SystemTime| File::options().write(true).open(file)?.set_modified(time);
    let before = fs::metadata(file).and_then(|metadata| metadata.modified()).with_context(failed)?;
    touch(SystemTime::now()).with_context(failed)?;
    let result = run();
    touch(before).with_context(failed)?;
    result
}

/// The compiled C and C++ in a folder, with its times: rustc leaves files of other names.
fn native_code(folder: &Path) -> Result<Vec<(PathBuf, SystemTime)>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "o" || kind == "a") {
                found.push((path, entry.metadata()?.modified()?));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// A folder that is removed in the end.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left lies in the system's temporary folder.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> Scratch {
        let folder = env::temp_dir().join(format!("side-by-side-{name}-{}", id()));
        fs::create_dir_all(folder.join("inner")).unwrap();
        Scratch(folder)
    }

    #[test]
    fn a_touched_file_is_newer_for_a_while() {
        let scratch = scratch("touched");
        let file = scratch.0.join("main.rs");
        fs::write(&file, "").unwrap();
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        File::options().write(true).open(&file).unwrap().set_modified(old).unwrap();
        let time = || fs::metadata(&file).unwrap().modified().unwrap();
        let meanwhile = with_touched(&file, || Ok(time())).unwrap();
        assert!(meanwhile > old + Duration::from_secs(1_000_000));
        assert_eq!(time(), old);
        let failed: Result<()> = with_touched(&file, || bail!("no"));
        assert!(failed.is_err());
        assert_eq!(time(), old, "after a failure as well");
    }

    #[test]
    fn native_code_is_objects_and_archives_with_their_times() {
        let scratch = scratch("native");
        for file in ["inner/llama.o", "libllama.a", "libllama_safe.rlib", "main.d"] {
            fs::write(scratch.0.join(file), "").unwrap();
        }
        let found = native_code(&scratch.0).unwrap();
        let names: Vec<_> = found.iter().filter_map(|(path, _)| path.file_name()?.to_str()).collect();
        assert_eq!(names, ["llama.o", "libllama.a"]);
        with_touched(&scratch.0.join("libllama.a"), || {
            assert_ne!(native_code(&scratch.0)?, found);
            Ok(())
        })
        .unwrap();
    }
}
