//! Random programs, led by what they reach in the safe layer, all of it and llama.cpp under AddressSanitizer.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::checks::last_line;
use crate::leaks::host;
use crate::ninja::Watch;
use crate::progress::{self, duration, say};
use crate::{cargo, prerequisites, setup};

/// What the C++ is compiled with, as for `asan`. The runtime comes with Rust's.
const SANITIZERS: &str = "address,undefined";

/// What has rustc tell the fuzzer what is reached, and watch memory.
const RUST: &str = "--cfg fuzzing -Zsanitizer=address -Cpasses=sancov-module -Ccodegen-units=1 \
                    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Sets up, builds the fuzzer and lets it run for so long. What it has learned stays in target/fuzz for the next time.
pub fn run(minutes: u64) -> Result<ExitCode> {
    if !cfg!(all(target_os = "linux", target_env = "gnu")) {
        bail!("this command needs the sanitizers of Linux with the GNU C library");
    }
    let started = Instant::now();
    setup::ensure(prerequisites::missing)?;
    let target = cargo::target()?.join("fuzz");
    let watch = Watch::new(&cargo::target()?);
    progress::watch(build(&target)?, "Building the fuzzer", Some(watch))?;
    let corpus = target.join("corpus");
    let findings = target.join("findings");
    for folder in [&corpus, &findings] {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let mut fuzzer = Command::new(target.join(host()?).join("release/programs"));
    fuzzer.args([&corpus, &cargo::root().join("fuzz/seeds")]).arg(format!("-max_total_time={}", 60 * minutes));
    fuzzer.arg(format!("-artifact_prefix={}/", findings.display()));
    fuzzer.args(["-timeout=60", "-rss_limit_mb=4096", "-max_len=256", "-print_final_stats=1"]);
    fuzzer.env("GGML_NO_BACKTRACE", "1").env("UBSAN_OPTIONS", "print_stacktrace=1");
    say(&format!("Fuzzing for {minutes} min"));
    let status = fuzzer.status().context("starting the fuzzer")?;
    let verdict = if status.success() { "nothing found" } else { "FAILED" };
    last_line(&format!("xtask fuzz-coverage: {verdict}, in {}", duration(started.elapsed())))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn build(target: &Path) -> Result<Command> {
    let mut command = cargo::cargo()?;
    command.args(["build", "--release", "--target", &host()?, "--manifest-path", "fuzz/Cargo.toml"]);
    command.env("CARGO_TARGET_DIR", target).env("LLAMA_CPP_SANITIZE", SANITIZERS);
    command.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", RUST);
    Ok(command)
}
