//! Two sequences in one context, each step of both computed in one call.
//!
//!     cargo run --release --example batch -- model.gguf
//!
//! Without a model it takes a small untrained one, whose words mean nothing.

use llama_safe::{Context, ContextParams, Model, ModelParams, Sampler, Special};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = match std::env::args_os().nth(1) {
        Some(path) => Model::load(path, &ModelParams::default())?,
        None => Model::from_bytes(&fixtures::Llama::tiny().gguf(fixtures::Weights::F16, 1)?, &ModelParams::default())?,
    };
    let mut context = Context::new(&model, &ContextParams::default().sequences(2))?;
    let alice = context.new_sequence()?;
    let bob = context.new_sequence()?;

    let mut batch = context.new_batch();
    let a = batch.prompt(&alice, &model.tokenize("Once upon", Special::Bos)?)?;
    let b = batch.prompt(&bob, &model.tokenize("The cat", Special::Bos)?)?;

    let outputs = context.decode(&mut batch)?;
    let next_of_alice = Sampler::greedy().sample(outputs.get(a)?)?;
    let next_of_bob = Sampler::greedy().sample(outputs.get(b)?)?;

    batch.push_output(&alice, next_of_alice)?;
    batch.push_output(&bob, next_of_bob)?;
    context.decode(&mut batch)?;

    println!("Once upon{}", model.detokenize(&[next_of_alice])?);
    println!("The cat{}", model.detokenize(&[next_of_bob])?);
    Ok(())
}
