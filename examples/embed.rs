//! Vectors of many texts in few batches, and the nearest of them to a question; scores of a reranker.
//!
//!     cargo run --release --example embed -- embedding-model.gguf reranker.gguf
//!
//! Without models it takes small untrained ones, to which nothing means anything.

use fixtures::{Bert, Weights};
use llama_safe::{Embedder, EmbedderParams, Model, ModelParams, Reranker};

const DOCUMENTS: [&str; 4] =
    ["the bear sleeps in winter", "tea is made of leaves", "a train has many wheels", "bamboo is a kind of grass"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let query = "what do pandas eat?";
    let mut embedder = Embedder::new(&model(1, &Bert::tiny())?, &EmbedderParams::default())?;
    let documents = embedder.embed(&DOCUMENTS)?;
    let question = embedder.embed(&[query])?;
    println!("{query} (cosine)");
    for (text, vector) in DOCUMENTS.iter().zip(documents.iter()) {
        // Vectors have length 1: the scalar product is the cosine of the angle between them.
        let cosine: f32 = question.iter().flatten().zip(vector).map(|(a, b)| a * b).sum();
        println!("{cosine:8.3}  {text}");
    }

    let mut reranker = Reranker::new(&model(2, &Bert::reranker())?, &EmbedderParams::default())?;
    println!("{query} (score)");
    for (text, score) in DOCUMENTS.iter().zip(reranker.rank(query, &DOCUMENTS)?) {
        println!("{score:8.3}  {text}");
    }
    Ok(())
}

/// The model of an argument, or one of this shape.
fn model(argument: usize, shape: &Bert) -> Result<Model, Box<dyn std::error::Error>> {
    Ok(match std::env::args_os().nth(argument) {
        Some(path) => Model::load(path, &ModelParams::default())?,
        None => Model::from_bytes(&shape.gguf(Weights::F16, 1)?, &ModelParams::default())?,
    })
}
