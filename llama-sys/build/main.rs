//! Builds llama.cpp and generates its bindings.
//!
//! Reads like this: what is wanted ([`config`]), is everything there to do it ([`prerequisites`]), where the source
//! is ([`source`]), the C++ libraries ([`native`]), our kernels ([`kernels`]) and the exception guard ([`guard`]), which are
//! compiled alike ([`cpp`]), the bindings ([`bindings`]).

mod bindings;
mod config;
mod cpp;
mod guard;
mod kernels;
mod native;
mod prerequisites;
mod source;

use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // cargo shows what a failed build script wrote, once: `cargo::error` would have it twice.
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let config = config::Config::from_environment()?;
    // Before anything else is printed, so that the message stands alone.
    require_tools(&config)?;
    config.watch_inputs();
    let source = source::find(&config)?;
    println!("cargo::rustc-env=LLAMA_CPP_SOURCE={}", source.display());
    // For build scripts of packages that compile C or C++ against the same headers: DEP_LLAMA_CPP_SOURCE.
    println!("cargo::metadata=source={}", source.display());
    println!("cargo::metadata=kernels={}", config.manifest_dir.join("kernels").display());
    let tree = native::Tree::open(&config, &source)?;
    if !config.documentation_only {
        native::build(&config, &source, &tree);
        kernels::build(&config, &source);
        guard::build(&config, &source);
        native::link(&config, &tree)?;
    }
    bindings::generate(&config, &source, &tree)
}

fn require_tools(config: &config::Config) -> Result<(), String> {
    let mut missing = prerequisites::missing();
    if config.documentation_only {
        // Documentation needs the bindings alone.
        missing.retain(|tool| tool.name == "libclang");
    }
    if missing.is_empty() { Ok(()) } else { Err(prerequisites::message(&missing)) }
}
