//! A conversation: what the user says becomes tokens by the model's chat template, and the model answers.
//!
//!     cargo run --release --example chat -- model.gguf
//!
//! It reads lines from the standard input. Without a model it asks the very small one that comes along a few questions.

use std::io::{BufRead, Write};

use llama_safe::{ChatOptions, ChatTemplate, Context, ContextParams, Message, Model, ModelParams, Sampler};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let questions = ["What does a cat eat?", "What is the opposite of hot?"].map(|line| Ok(line.to_owned()));
    let (model, lines): (_, Box<dyn Iterator<Item = std::io::Result<String>>>) = match std::env::args_os().nth(1) {
        Some(path) => (Model::load(path, &ModelParams::default())?, Box::new(std::io::stdin().lock().lines())),
        None => (Model::from_bytes(fixtures::STORIES, &ModelParams::default())?, Box::new(questions.into_iter())),
    };
    let template = ChatTemplate::of(&model)?;
    let mut context = Context::new(&model, &ContextParams::default())?;
    let sequence = context.new_sequence()?;
    let mut batch = context.new_batch();
    let mut messages = Vec::new();
    // What the model has read, and what it has read of that.
    let mut read = Vec::new();

    for line in lines {
        let line = line?;
        println!("> {line}");
        messages.push(Message::user(line));
        let prompt = template.tokens(&messages, &ChatOptions::default())?;
        // The conversation so far is in memory: only what is new is computed.
        let kept =
            prompt.iter().zip(&read).take_while(|(new, old)| new == old).count().min(prompt.len().saturating_sub(1));
        context.truncate(&sequence, kept as u32)?;
        read = prompt;
        let mut slot = batch.prompt(&sequence, &read[kept..])?;

        let mut detokenizer = model.vocab().detokenizer();
        let mut answer = String::new();
        loop {
            let next = Sampler::greedy().sample(context.decode(&mut batch)?.get(slot)?)?;
            if model.vocab().is_end_of_generation(next)? {
                break;
            }
            let piece = detokenizer.push(next)?;
            print!("{piece}");
            std::io::stdout().flush()?;
            answer.push_str(piece);
            read.push(next);
            slot = batch.push_output(&sequence, next)?;
        }
        println!();
        messages.push(Message::assistant(answer));
    }
    Ok(())
}
