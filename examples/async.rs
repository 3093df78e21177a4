//! Several answers as streams on one thread: `cargo run --release --example async -- model.gguf`.

use std::cell::RefCell;

use async_executor::LocalExecutor;
use futures_lite::future::block_on;
use llama_safe::{Engine, Model, ModelParams, Request, Sampler};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = match std::env::args().nth(1) {
        Some(path) => Model::load(path, &ModelParams::default())?,
        None => Model::from_bytes(fixtures::STORIES, &ModelParams::default())?,
    };
    let engine = Engine::builder(&model).sequences(4).context_tokens(4 * 1024).start()?;
    let prompts = ["Once upon a time", "The cat", "One day", "Ada went", "The miller", "A small bird"];
    // What each has said so far. One thread: no lock is needed.
    let stories = RefCell::new(prompts.map(str::to_owned));

    let executor = LocalExecutor::new();
    let tasks: Vec<_> = prompts
        .into_iter()
        .enumerate()
        .map(|(place, prompt)| {
            let (engine, stories) = (&engine, &stories);
            executor.spawn(async move {
                let request = Request::text(prompt).max_tokens(40).sampler(Sampler::creative(place as u32));
                // Waits for room in the queue, and then for each piece, without blocking the others.
                let mut story = engine.generate_async(request).await?;
                while let Some(piece) = story.next_async().await {
                    stories.borrow_mut()[place].push_str(&piece?.text);
                }
                Ok::<_, Box<dyn std::error::Error>>(story.finished().await)
            })
        })
        .collect();

    block_on(executor.run(async {
        for (place, task) in tasks.into_iter().enumerate() {
            let end = task.await?;
            println!("{}\n  {:?}, {} tokens\n", stories.borrow()[place], end.reason, end.tokens.len());
        }
        Ok::<_, Box<dyn std::error::Error>>(())
    }))?;
    println!("{:.0} tokens a second", engine.stats().tokens_per_second());
    Ok(())
}
