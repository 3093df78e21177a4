//! The sides of this workspace as programs: `side batch MODEL.gguf`, with orders on standard input.

use std::error::Error;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use llama_safe::{Model, ModelParams, llama_cpp_version};
use side_by_side::protocol::serve;
use side_by_side::sides::{batch, batched_bench, c_loop::CLoop, engine, server, single};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    side: Side,
}

#[derive(Subcommand)]
enum Side {
    /// All requests as sequences of one context.
    Batch { model: PathBuf },
    /// One request after the other.
    Single { model: PathBuf },
    /// All requests through an engine.
    Engine {
        model: PathBuf,
        /// Tokens of prompts that a step computes while others generate: the engine's usual number if nothing is said.
        #[arg(long, value_name = "TOKENS")]
        prompt_chunk: Option<u32>,
    },
    /// llama.cpp's C API, without checks.
    CLoop { model: PathBuf },
    /// llama.cpp's own benchmark.
    BatchedBench { program: PathBuf, model: PathBuf },
    /// llama.cpp's server.
    Server { program: PathBuf, model: PathBuf },
}

fn main() -> Result<(), Box<dyn Error>> {
    let load = |path| Model::load(path, &ModelParams::default());
    let ours = format!("llama-safe {}", env!("CARGO_PKG_VERSION"));
    match Arguments::parse().side {
        Side::Batch { model } => load(model).map(|model| serve(ours, |order| batch::run(&model, order)))?,
        Side::Single { model } => load(model).map(|model| serve(ours, |order| single::run(&model, order)))?,
        Side::Engine { model, prompt_chunk } => {
            load(model).map(|model| serve(ours, |order| engine::run(&model, prompt_chunk, order)))?
        }
        Side::CLoop { model } => {
            let c_loop = CLoop::load(&model)?;
            serve(format!("llama.cpp {}", llama_cpp_version()), |order| c_loop.run(order))
        }
        Side::BatchedBench { program, model } => {
            serve("llama-batched-bench, as it was given", |order| batched_bench::run(&program, &model, order))
        }
        Side::Server { program, model } => {
            serve(server::version(&program), |order| server::run(&program, &model, order))
        }
    }
}
