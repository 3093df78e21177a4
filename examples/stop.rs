//! A text that is printed while it is generated, and ends with a stop string that is not printed.
//!
//!     cargo run --release --example stop -- model.gguf
//!
//! Without a model it takes the very small one that comes along and tells little stories.

use std::io::Write;

use llama_safe::{Context, ContextParams, Model, ModelParams, Sampler, Special, StopConditions};

const PROMPT: &str = "Once upon a time";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = match std::env::args_os().nth(1) {
        Some(path) => Model::load(path, &ModelParams::default())?,
        None => Model::from_bytes(fixtures::STORIES, &ModelParams::default())?,
    };
    let mut context = Context::new(&model, &ContextParams::default())?;
    let sequence = context.new_sequence()?;
    let mut batch = context.new_batch();
    let mut slot = batch.prompt(&sequence, &model.tokenize(PROMPT, Special::Bos)?)?;
    print!("{PROMPT}");

    let conditions = StopConditions::new().string(" and")?.string("\n\n")?.max_tokens(100)?;
    let mut stopper = conditions.stopper(model.vocab().detokenizer().continuing())?;
    let mut logprob = 0.0;
    let reason = loop {
        let outputs = context.decode(&mut batch)?;
        let token = Sampler::greedy().sample(outputs.get(slot)?)?;
        logprob += outputs.logprobs(slot)?.get(token)?;
        let step = stopper.push(token)?;
        print!("{}", step.text);
        std::io::stdout().flush()?;
        if let Some(reason) = step.stop {
            break reason;
        }
        slot = batch.push_output(&sequence, token)?;
    };
    println!("\n{reason:?} after {} tokens of log probability {logprob:.2}", stopper.tokens());
    Ok(())
}
