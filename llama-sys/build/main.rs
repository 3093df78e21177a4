//! Builds llama.cpp and generates its bindings.
//!
//! Reads like this: what is wanted ([`config`]), is everything there to do it ([`prerequisites`]), where the source
//! is ([`source`]), the C++ libraries ([`native`]), the exception guard ([`guard`]), the bindings ([`bindings`]).

mod bindings;
mod config;
mod guard;
mod native;
mod prerequisites;
mod source;

use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // `cargo::error` is the one line that cargo shows without the build script's whole output.
            for line in message.lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let config = config::Config::from_environment()?;
    config.watch_inputs();
    require_tools(&config)?;
    let source = source::find(&config)?;
    let tree = native::Tree::open(&config, &source)?;
    if !config.documentation_only {
        native::build(&config, &source, &tree);
        guard::build(&source);
        native::link(&config, &tree);
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
