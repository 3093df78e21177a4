//! Several requests from several threads, answered by one engine: `cargo run --release --example engine -- model.gguf`.

use std::thread;

use llama_safe::{Engine, Model, ModelParams, Request, Sampler};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = match std::env::args().nth(1) {
        Some(path) => Model::load(path, &ModelParams::default())?,
        None => Model::from_bytes(fixtures::STORIES, &ModelParams::default())?,
    };
    // It owns its thread and its context; requests come from any thread.
    let engine = Engine::builder(&model).sequences(4).context_tokens(4 * 1024).start()?;

    thread::scope(|scope| {
        for (seed, prompt) in ["Once upon a time", "The cat", "One day", "Ada went"].into_iter().enumerate() {
            let engine = &engine;
            scope.spawn(move || -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
                let sampler = Sampler::chain().temperature(0.7)?.dist(seed as u32);
                let story = engine.generate(Request::text(prompt).max_tokens(64).sampler(sampler))?.wait();
                println!("{prompt}{}\n  {:?} after {:?}\n", story.text, story.reason, story.timings.total);
                Ok(())
            });
        }
    });

    // The same prompt three times, computed once.
    let samplers = (0..3).map(Sampler::creative);
    for story in engine.generate_each(Request::text("Once upon a time, a young girl").max_tokens(32), samplers)? {
        let story = story.wait();
        println!("Once upon a time, a young girl{}  ({} tokens reused)", story.text, story.reused_tokens);
    }

    // Read while it comes; one that is dropped is cancelled.
    for piece in engine.generate(Request::text("The miller").max_tokens(40))? {
        print!("{}", piece?.text);
    }
    println!("\n{:#?}", engine.stats());
    Ok(())
}
