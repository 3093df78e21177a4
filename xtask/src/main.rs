//! `cargo xtask`: what a fresh clone needs, in one command each. It sets up what the build needs, runs the demo, runs
//! every check of the project, and measures.

mod architectures;
mod asan;
mod cargo;
mod checks;
mod coverage;
mod crash_report;
mod fuzz;
mod leaks;
mod ninja;
mod program;
mod progress;
mod setup;
mod soak;

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
    /// Measure beside the C API and other libraries, in interleaved rounds, and write docs/performance/.
    ///
    /// Builds in release mode, llama-cpp-2 included, and then does nothing but measure: for about half an hour, or for less than five
    /// minutes with --quick. `cargo xtask bench --help` lists the options.
    #[command(disable_help_flag = true)]
    Bench {
        /// Options of the benchmark.
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
    #[command(visible_alias = "valgrind")]
    Leaks,
    /// Run the tests with sanitizers, and fail on any memory leaked or misused, or on undefined behaviour in C++ (Linux).
    ///
    /// Builds into target/asan: llama.cpp and the shim with AddressSanitizer and UndefinedBehaviorSanitizer, Rust with the former.
    /// Tests see LEAK_CHECK=1 and may do fewer rounds of the same thing.
    Asan {
        /// Only these of the suite's tests, such as `memory` or `state`.
        #[arg(value_name = "TEST")]
        tests: Vec<String>,
    },
    /// Run random programs against the safe layer, many more of them than `test` does.
    ///
    /// Programs of every family and architecture, good calls and bad ones in any order, against a naive model of the memory and against
    /// one-at-a-time inference. One that fails is made as small as it gets, and printed.
    Fuzz {
        /// So long, and the round that runs then to its end.
        #[arg(long)]
        minutes: Option<u64>,
        /// So many for each test, 1000 if nothing is said.
        #[arg(long)]
        programs: Option<u64>,
        /// The number of the first, of those that are numbered.
        #[arg(long, default_value_t = 0)]
        first: u64,
    },
    /// Let a fuzzer look for programs that reach something new in the safe layer, under sanitizers (Linux).
    ///
    /// Programs of memory operations and decodes, against a naive model of the memory. Builds into target/fuzz; what it finds lies in
    /// target/fuzz/findings, and `target/fuzz/TRIPLE/release/programs FILE` repeats it.
    FuzzCoverage {
        /// So long.
        #[arg(long, default_value_t = 15)]
        minutes: u64,
    },
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
    /// Ask an engine for many answers from several threads, with faults, cancellations, deadlines and slow readers.
    ///
    /// Each answer is held against what its request gives alone. The last line is one JSON object; the exit code says whether nothing was
    /// lost, answered twice or wrong, and whether memory stayed flat.
    Soak {
        /// How many.
        #[arg(long, default_value_t = 10_000)]
        requests: u64,
        /// Where chance begins. Threads make no two runs the same.
        #[arg(long, default_value_t = 1)]
        seed: u64,
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
        Task::Demo { arguments } => program::run("demo", &arguments),
        Task::Bench { arguments } => program::run("side-by-side", &arguments),
        Task::Test => checks::run(),
        Task::CrashReport => crash_report::run(),
        Task::Leaks => leaks::run(),
        Task::Asan { tests } => asan::run(&tests),
        Task::Fuzz { minutes, programs, first } => fuzz::programs(minutes, programs, first),
        Task::FuzzCoverage { minutes } => coverage::run(minutes),
        Task::FuzzGguf { count, first } => fuzz::model_files(count, first),
        Task::Soak { requests, seed } => soak::run(requests, seed),
        Task::Architectures => architectures::run(),
    };
    result.unwrap_or_else(|error| {
        // Not eprintln!, which panics where standard error is closed.
        let _ = writeln!(io::stderr(), "xtask: {error:#}");
        ExitCode::FAILURE
    })
}
