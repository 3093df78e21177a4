//! Two texts through an encoder-decoder (T5): encoded in one batch, decoded in one batch a step.
//!
//!     cargo run --release --example translate -- t5.gguf "translate English to German: The house is old."
//!
//! Without a model it takes a small untrained one, whose words mean nothing.

use fixtures::{T5, Weights};
use llama_safe::{Context, ContextParams, Model, ModelParams, Sampler, Special};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let model = match arguments.next() {
        Some(path) => Model::load(path, &ModelParams::default())?,
        None => Model::from_bytes(&T5::tiny().gguf(Weights::F16, 1)?, &ModelParams::default())?,
    };
    let mut texts: Vec<String> = arguments.collect();
    if texts.is_empty() {
        texts = ["The house is old.", "The river is wide."]
            .map(|text| format!("translate English to German: {text}"))
            .into();
    }
    let vocab = model.vocab();
    let start = model.decoder_start_token().or(vocab.bos()).ok_or("the model does not say how to begin")?;

    let mut context = Context::new(&model, &ContextParams::default().sequences(texts.len() as u32))?;
    let mut inputs = context.new_encoder_batch();
    let mut answers = vec![];
    for text in &texts {
        let sequence = context.new_sequence()?;
        inputs.extend(&sequence, &model.tokenize(text, Special::Bos)?)?;
        answers.push((sequence, start, vec![]));
    }
    context.encode(&mut inputs)?;

    let mut batch = context.new_batch();
    for _ in 0..40 {
        let mut slots = vec![];
        for (index, (sequence, last, _)) in answers.iter().enumerate() {
            // One that has come to its end says no more.
            if !vocab.is_end_of_generation(*last)? {
                slots.push((index, batch.push_output(sequence, *last)?));
            }
        }
        if slots.is_empty() {
            break;
        }
        let outputs = context.decode(&mut batch)?;
        for (index, slot) in slots {
            let next = Sampler::greedy().sample(outputs.get(slot)?)?;
            answers[index].1 = next;
            answers[index].2.push(next);
        }
    }
    for (text, (_, _, said)) in texts.iter().zip(&answers) {
        println!("{text}\n    {}", model.detokenize(said)?);
    }
    Ok(())
}
