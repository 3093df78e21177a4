//! A side of `cargo xtask bench`: the batch loop as llama-cpp-2 lets one write it, with its greedy sampler.
//!
//! `llama-cpp-2-side MODEL.gguf`, with orders on standard input.

#[path = "../../side-by-side/src/protocol.rs"]
mod protocol;

use std::error::Error;
use std::num::NonZeroU32;
use std::time::Instant;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use protocol::{Answer, Order, Timing};

/// Tokens of a batch, as the other sides have it.
const BATCH: usize = 2048;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("which model?")?;
    let mut backend = LlamaBackend::init()?;
    backend.void_logs();
    let model = LlamaModel::load_from_file(&backend, path, &LlamaModelParams::default())?;
    let features = if cfg!(feature = "default") { "default features" } else { "no features" };
    let version = format!("llama-cpp-2 0.1.160, {features}");
    protocol::serve(version, |order| run(&backend, &model, order))
}

/// A request under way.
struct Live {
    next: LlamaToken,
    position: i32,
    left: u32,
    output: Vec<i32>,
}

fn run(backend: &LlamaBackend, model: &LlamaModel, order: &Order) -> Result<Answer, Box<dyn Error>> {
    let count = u32::try_from(order.requests.len())?;
    let threads = i32::try_from(order.threads)?;
    let params = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(count * protocol::cells(order)))
        .with_n_seq_max(count)
        .with_n_batch(BATCH as u32)
        .with_n_ubatch(512)
        .with_kv_unified(false)
        .with_n_threads(threads)
        .with_n_threads_batch(threads);
    let mut context = model.new_context(backend, params)?;
    let mut batch = LlamaBatch::new(BATCH, 1);
    // Threads are awake and memory is there before the clock runs.
    for position in 0..16 {
        batch.add(LlamaToken(3), position, &[0], position == 15)?;
    }
    context.decode(&mut batch)?;
    context.clear_kv_cache();
    batch.clear();

    let mut sampler = LlamaSampler::greedy();
    let mut timing = Timing::default();
    let mut live: Vec<Live> = Vec::new();
    let mut asked = Vec::new();
    let started = Instant::now();
    for request in &order.requests {
        live.push(Live {
            next: LlamaToken(0),
            position: i32::try_from(request.prompt.len())?,
            left: request.generate,
            output: Vec::with_capacity(request.generate as usize),
        });
        timing.prefilled += request.prompt.len() as u64;
    }
    for (index, request) in order.requests.iter().enumerate() {
        for (position, token) in request.prompt.iter().enumerate() {
            let last = position + 1 == request.prompt.len();
            if last {
                asked.push((index, batch.n_tokens()));
            }
            batch.add(LlamaToken(*token), position as i32, &[index as i32], last)?;
            if batch.n_tokens() as usize == BATCH {
                step(&mut context, &mut batch, &mut sampler, &mut asked, &mut live)?;
            }
        }
    }
    step(&mut context, &mut batch, &mut sampler, &mut asked, &mut live)?;
    timing.prefill = started.elapsed();

    let started = Instant::now();
    loop {
        for (index, live) in live.iter_mut().enumerate().filter(|(_, live)| live.left > 0) {
            asked.push((index, batch.n_tokens()));
            batch.add(live.next, live.position, &[index as i32], true)?;
            live.position += 1;
        }
        if asked.is_empty() {
            break;
        }
        timing.generated += asked.len() as u64;
        step(&mut context, &mut batch, &mut sampler, &mut asked, &mut live)?;
    }
    timing.generation = started.elapsed();
    let outputs = live.into_iter().map(|live| live.output).collect();
    Ok(Answer { metrics: timing.metrics(), outputs })
}

/// Decodes what is in the batch, and chooses a token for each row that was asked for.
fn step(
    context: &mut LlamaContext,
    batch: &mut LlamaBatch,
    sampler: &mut LlamaSampler,
    asked: &mut Vec<(usize, i32)>,
    live: &mut [Live],
) -> Result<(), Box<dyn Error>> {
    if batch.n_tokens() == 0 {
        return Ok(());
    }
    context.decode(batch)?;
    for (index, row) in asked.drain(..) {
        let live = &mut live[index];
        live.next = sampler.sample(context, row);
        live.output.push(live.next.0);
        live.left -= 1;
    }
    batch.clear();
    Ok(())
}
