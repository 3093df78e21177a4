//! A conversation that outlives its process: what the model has read is saved to a file, and read again in no time.
//!
//!     cargo run --release --example state -- model.gguf
//!
//! Without a model it takes a small untrained one, whose words mean nothing.

use std::time::Instant;

use llama_safe::{Context, ContextParams, Model, ModelParams, Sampler, Special, State};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = match std::env::args_os().nth(1) {
        Some(path) => Model::load(path, &ModelParams::default())?,
        None => Model::from_bytes(&fixtures::Llama::tiny().gguf(fixtures::Weights::F16, 1)?, &ModelParams::default())?,
    };
    let path = std::env::temp_dir().join(format!("example-{}.state", std::process::id()));
    let text = model.tokenize(&"It was a dark and stormy night. ".repeat(10), Special::Bos)?;

    let started = Instant::now();
    let mut context = Context::new(&model, &ContextParams::default())?;
    let sequence = context.new_sequence()?;
    let mut batch = context.new_batch();
    batch.extend(&sequence, &text)?;
    context.decode(&mut batch)?;
    println!("{} tokens read in {:?}", sequence.len(), started.elapsed());
    context.save(&sequence)?.write(&path)?;
    drop(context);

    let started = Instant::now();
    let mut context = Context::new(&model, &ContextParams::default())?;
    let sequence = context.restore(&State::read(&path)?)?;
    println!("{} tokens restored in {:?}", sequence.len(), started.elapsed());

    let mut batch = context.new_batch();
    let slot = batch.prompt(&sequence, &model.tokenize("The", Special::None)?)?;
    let next = Sampler::greedy().sample(context.decode(&mut batch)?.get(slot)?)?;
    println!("It goes on: The{}", model.vocab().detokenizer().continuing().push(next)?);
    std::fs::remove_file(path)?;
    Ok(())
}
