//! Random programs, led by what they reach in the safe layer, or in llama.cpp as well, all under AddressSanitizer.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::checks::last_line;
use crate::leaks::host;
use crate::ninja::Watch;
use crate::prerequisites::{self, Missing, Packages};
use crate::progress::{self, duration, say};
use crate::{cargo, setup};

/// What the C++ is compiled with, as for `asan`. The runtime comes with Rust's.
const SANITIZERS: &str = "address,undefined";
/// The same, and it tells the fuzzer what is reached, which clang alone can.
const SANITIZERS_AND_COVERAGE: &str = "fuzzer-no-link,address,undefined";

/// What has rustc tell the fuzzer the same, and watch memory.
const RUST: &str = "--cfg fuzzing -Zsanitizer=address -Cpasses=sancov-module -Ccodegen-units=1 \
                    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Sets up, builds the fuzzer and lets it run for so long. What it has learned stays in target/fuzz for the next time.
///
/// With `cpp`, what is reached in C++ leads it, too.
pub fn run(minutes: u64, cpp: bool) -> Result<ExitCode> {
    if !cfg!(all(target_os = "linux", target_env = "gnu")) {
        bail!("this command needs the sanitizers of Linux with the GNU C library");
    }
    let started = Instant::now();
    setup::ensure(|| {
        let mut missing = prerequisites::missing();
        missing.extend((cpp && clang().is_none()).then(no_clang));
        missing
    })?;
    let clang = if cpp { Some(clang().context("clang has gone")?) } else { None };
    let target = cargo::target()?.join("fuzz");
    let watch = Watch::new(&cargo::target()?);
    progress::watch(build(&target, clang.as_deref())?, "Building the fuzzer", Some(watch))?;
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

fn build(target: &Path, clang: Option<&str>) -> Result<Command> {
    let mut command = cargo::cargo()?;
    command.args(["build", "--release", "--target", &host()?, "--manifest-path", "fuzz/Cargo.toml"]);
    command.env("CARGO_TARGET_DIR", target).env("LLAMA_CPP_SANITIZE", SANITIZERS);
    command.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", RUST);
    if let Some(clang) = clang {
        command.env("LLAMA_CPP_SANITIZE", SANITIZERS_AND_COVERAGE);
        command.env("CC", clang).env("CXX", clang.replacen("clang", "clang++", 1));
    }
    Ok(command)
}

/// The newest clang there is, by name.
fn clang() -> Option<String> {
    let names = (14..30).rev().map(|version| format!("clang-{version}")).chain(["clang".to_owned()]);
    names.into_iter().find(|name| {
        let mut command = Command::new(name);
        command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    })
}

fn no_clang() -> Missing {
    Missing {
        name: "clang",
        detail: "tells the fuzzer what is reached in C++".to_string(),
        packages: Packages { apt: "clang libclang-rt-dev", dnf: "clang compiler-rt", brew: "", choco: "" },
    }
}
