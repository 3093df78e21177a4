//! Every check of the project, one after the other, and the line that sums them up.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::ninja::Watch;
use crate::progress::{duration, line_for, say};
use crate::{cargo, prerequisites, setup};

/// A check: its name, its arguments to cargo, and what it adds to the environment.
type Step = (&'static str, &'static [&'static str], Option<(&'static str, &'static str)>);

/// The checks in the order in which they run: the quick ones first.
const STEPS: [Step; 5] = [
    ("fmt", &["fmt", "--all", "--check"], None),
    ("clippy", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], None),
    ("doc", &["doc", "--workspace", "--no-deps"], Some(("RUSTDOCFLAGS", "-D warnings"))),
    ("test", &["test", "--workspace"], None),
    // What computes with quantised weights once more, by llama.cpp's own kernels.
    ("test without kernels", &WITHOUT_KERNELS, Some(("LLAMA_KERNELS", "off"))),
];

const WITHOUT_KERNELS: [&str; 19] = [
    "test",
    "--test",
    "batch",
    "--test",
    "engine",
    "--test",
    "equivalence",
    "--test",
    "kernels",
    "--test",
    "log",
    "--test",
    "memory_estimate",
    "--test",
    "quantize",
    "--test",
    "stories",
    "--test",
    "verify",
];

/// Sets up and runs every check, up to the first that fails.
pub fn run() -> Result<ExitCode> {
    let started = Instant::now();
    setup::ensure(prerequisites::missing)?;
    components()?;
    let mut ran = Vec::new();
    for (name, arguments, environment) in STEPS {
        let mut tests = Tests::default();
        let step = Instant::now();
        say(&format!("── {name}: cargo {}", arguments.join(" ")));
        let mut command = cargo::cargo()?;
        command.args(arguments);
        command.envs(environment);
        let status = with_cpp_progress(|| cargo::stream(command, |line| tests.add(line)))?;
        let failed = !status.success();
        say(&format!("── {name}: {} in {}", if failed { "FAILED" } else { "ok" }, duration(step.elapsed())));
        let counted = tests.passed + tests.failed > 0;
        ran.push(match (failed, counted) {
            (false, false) => name.to_string(),
            (false, true) => tests.to_string(),
            (true, false) => format!("{name} FAILED"),
            (true, true) => format!("{name} FAILED ({tests})"),
        });
        if failed {
            last_line(&summary(&ran, started.elapsed()))?;
            return Ok(ExitCode::FAILURE);
        }
    }
    last_line(&summary(&ran, started.elapsed()))?;
    Ok(ExitCode::SUCCESS)
}

fn summary(ran: &[String], time: Duration) -> String {
    format!("xtask test: {}, in {}", ran.join(", "), duration(time))
}

/// The verdict goes where the tests' own output goes, so that it comes last there too.
pub fn last_line(line: &str) -> Result<()> {
    writeln!(io::stdout(), "{line}")?;
    Ok(())
}

/// Tests counted from what the test programs print.
#[derive(Default)]
pub struct Tests {
    passed: u64,
    failed: u64,
}

impl Tests {
    /// Adds `test result: ok. 12 passed; 0 failed; 0 ignored; …`; any other line counts for nothing.
    pub fn add(&mut self, line: &str) {
        let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) else {
            return;
        };
        for count in counts.split(';') {
            match count.trim().split_once(' ') {
                Some((number, "passed")) => self.passed += number.parse().unwrap_or(0),
                Some((number, "failed")) => self.failed += number.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
}

impl fmt::Display for Tests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tests passed, {} failed", self.passed, self.failed)
    }
}

/// rustfmt and clippy, which a minimal toolchain comes without.
fn components() -> Result<()> {
    let has = |tool: &str| -> Result<bool> {
        let mut command = cargo::cargo()?;
        command.args([tool, "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(command.status()?.success())
    };
    if has("fmt")? && has("clippy")? {
        return Ok(());
    }
    say("── adding rustfmt and clippy to the toolchain");
    let added = Command::new("rustup").args(["component", "add", "rustfmt", "clippy"]).status();
    if !added.is_ok_and(|status| status.success()) {
        bail!("this toolchain has no rustfmt or no clippy: rustup component add rustfmt clippy");
    }
    Ok(())
}

/// Runs a step, and tells how far the C++ build is while there is one. On a terminal cargo's own bar tells that
/// something is going on; elsewhere minutes would pass without a word.
pub fn with_cpp_progress<T>(step: impl FnOnce() -> Result<T>) -> Result<T> {
    if io::stderr().is_terminal() {
        return step();
    }
    let watch = Watch::new(&cargo::target()?);
    let (done, ended) = mpsc::channel::<()>();
    let teller = thread::spawn(move || {
        let mut percent = 0;
        while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(Duration::from_secs(1)) {
            if let Some(line) = watch.look().and_then(|edges| line_for(edges, &mut percent)) {
                say(&line);
            }
        }
    });
    let result = step();
    drop(done);
    let _ = teller.join();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_add_up() {
        let mut tests = Tests::default();
        for line in [
            "running 3 tests\n",
            "test one ... ok\n",
            "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n",
            "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.51s\n",
            "all doctests ran in 1.2s; merged doctests compilation took 0.3s\n",
        ] {
            tests.add(line);
        }
        assert_eq!(tests.to_string(), "15 tests passed, 2 failed");
    }

    #[test]
    fn the_last_line_tells_what_ran() {
        let ran = ["fmt", "clippy", "doc", "143 tests passed, 0 failed"].map(String::from);
        let line = "xtask test: fmt, clippy, doc, 143 tests passed, 0 failed, in 6 min 12 s";
        assert_eq!(summary(&ran, Duration::from_secs(372)), line);
    }
}
