//! Two sequences in one context, each step of both computed in one call.
//!
//!     cargo run --release --example batch -- model.gguf
//!
//! Without a model it takes the very small one that comes along and tells little stories.

use llama_safe::{Context, ContextParams, Model, ModelParams, Sampler, Special};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = match std::env::args_os().nth(1) {
        Some(path) => Model::load(path, &ModelParams::default())?,
        None => Model::from_bytes(fixtures::STORIES, &ModelParams::default())?,
    };
    let mut context = Context::new(&model, &ContextParams::default().sequences(2))?;
    let alice = context.new_sequence()?;
    let bob = context.new_sequence()?;

    let mut batch = context.new_batch();
    let mut said = (model.tokenize("Once upon", Special::Bos)?, model.tokenize("The cat", Special::Bos)?);
    let mut a = batch.prompt(&alice, &said.0)?;
    let mut b = batch.prompt(&bob, &said.1)?;

    for _ in 0..35 {
        let outputs = context.decode(&mut batch)?;
        let next_of_alice = Sampler::greedy().sample(outputs.get(a)?)?;
        let next_of_bob = Sampler::greedy().sample(outputs.get(b)?)?;
        said.0.push(next_of_alice);
        said.1.push(next_of_bob);
        a = batch.push_output(&alice, next_of_alice)?;
        b = batch.push_output(&bob, next_of_bob)?;
    }

    println!("{}", model.detokenize(&said.0)?);
    println!("{}", model.detokenize(&said.1)?);
    Ok(())
}
