//! The sides of this workspace as programs: `side batch|single|c-loop MODEL.gguf`, with orders on standard input.

use std::error::Error;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use llama_safe::{Model, ModelParams, llama_cpp_version};
use side_by_side::protocol::serve;
use side_by_side::sides::{batch, c_loop::CLoop, single};

#[derive(Parser)]
struct Arguments {
    side: Side,
    model: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Side {
    /// All requests as sequences of one context.
    Batch,
    /// One request after the other.
    Single,
    /// llama.cpp's C API, without checks.
    CLoop,
}

fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { side, model } = Arguments::parse();
    let load = || Model::load(&model, &ModelParams::default());
    let ours = format!("llama-safe {}", env!("CARGO_PKG_VERSION"));
    match side {
        Side::Batch => load().map(|model| serve(ours, |order| batch::run(&model, order)))?,
        Side::Single => load().map(|model| serve(ours, |order| single::run(&model, order)))?,
        Side::CLoop => {
            let c_loop = CLoop::load(&model)?;
            serve(format!("llama.cpp {}", llama_cpp_version()), |order| c_loop.run(order))
        }
    }
}
