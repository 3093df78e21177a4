//! `cargo xtask`: what a fresh clone needs, in one command each. It sets up what the build needs, runs the demo, and runs
//! every check of the project.

mod architectures;
mod cargo;
mod checks;
mod crash_report;
mod demo;
mod fuzz;
mod leaks;
mod ninja;
mod progress;
mod setup;

// The build script compiles the same file, so that both say the same.
#[path = "../../llama-sys/build/prerequisites.rs"]
mod prerequisites;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Sets up, demonstrates and checks this project.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Look for cmake, a C++ compiler and libclang; install what is missing, or say how.
    ///
    /// As root on Debian or Ubuntu the missing packages are installed with apt-get. Anywhere else the answer is one
    /// message: what is missing, and the line that installs it with apt, dnf, brew or choco. The other commands begin
    /// with this one.
    Setup,
    /// Build in release mode and decode several prompts as sequences of one context.
    ///
    /// Without a model it takes the very small one of fixtures/stories, and eight prompts become eight stories.
    ///
    /// Everything behind `demo` goes to the program itself: `cargo xtask demo --help` lists its options, such as
    /// --model FILE.gguf and --prompt TEXT. The exit code is the program's own.
    #[command(disable_help_flag = true)]
    Demo {
        /// Options of the demo.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
        arguments: Vec<OsString>,
    },
    /// Run every check: formatting, lints, documentation, tests.
    ///
    /// Runs cargo fmt --check, cargo clippy, cargo doc and cargo test over the workspace, where every warning is an
    /// error, and stops at the first that fails. The last line says what ran.
    Test,
    /// Run every misuse of the raw API, and write docs/crash-patterns.md from what it comes to (Linux).
    CrashReport,
    /// Run the tests under valgrind and fail on any memory leaked or misused (Linux).
    ///
    /// Builds into target/leaks, and llama.cpp a second time with the feature `portable`: valgrind does not know the newest
    /// instructions of the processor. Tests see LEAK_CHECK=1 and may do fewer rounds of the same thing.
    Leaks,
    /// Load and use mutated model files, many more of them than `test` does.
    ///
    /// Mutation N of a file is the same on every machine: --first N --count 1 repeats the one that a failure names.
    FuzzGguf {
        /// How many.
        #[arg(long, default_value_t = 100_000)]
        count: u64,
        /// The number of the first.
        #[arg(long, default_value_t = 0)]
        first: u64,
    },
    /// Compare batches with one-at-a-time inference on a tiny model of every architecture, and write docs/architectures.md.
    ///
    /// Fails where llama.cpp computes an architecture wrong that the safe layer does not know of, or right what it works
    /// around.
    Architectures,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Setup => setup::run(),
        Task::Demo { arguments } => demo::run(&arguments),
        Task::Test => checks::run(),
        Task::CrashReport => crash_report::run(),
        Task::Leaks => leaks::run(),
        Task::FuzzGguf { count, first } => fuzz::run(count, first),
        Task::Architectures => architectures::run(),
    };
    result.unwrap_or_else(|error| {
        // Not eprintln!, which panics where standard error is closed.
        let _ = writeln!(io::stderr(), "xtask: {error:#}");
        ExitCode::FAILURE
    })
}
