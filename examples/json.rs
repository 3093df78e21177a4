//! JSON of a schema, whatever the model would rather say.
//!
//!     cargo run --release --example json -- model.gguf
//!
//! Without a model it takes the very small one that comes along and tells little stories: it knows no JSON, and what it
//! writes is valid all the same.

use llama_safe::{Context, ContextParams, Grammar, Model, ModelParams, Sampler, Special};

const SCHEMA: &str = r#"{
    "type": "object",
    "properties": {
        "name": { "type": "string", "pattern": "^[A-Z][a-z]{2,8}$" },
        "animal": { "enum": ["mouse", "cat", "fox"] },
        "age": { "type": "integer", "minimum": 1, "maximum": 99 },
        "friends": { "type": "array", "items": { "type": "string", "pattern": "^[A-Z][a-z]{2,8}$" }, "maxItems": 3 }
    },
    "required": ["name", "animal", "age", "friends"],
    "additionalProperties": false
}"#;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = match std::env::args_os().nth(1) {
        Some(path) => Model::load(path, &ModelParams::default())?,
        None => Model::from_bytes(fixtures::STORIES, &ModelParams::default())?,
    };
    let mut context = Context::new(&model, &ContextParams::default())?;
    let sequence = context.new_sequence()?;
    let mut batch = context.new_batch();
    let prompt = "Once upon a time, there was a brave mouse named Pip. As JSON: ";
    let mut slot = batch.prompt(&sequence, &model.tokenize(prompt, Special::Bos)?)?;

    let mut sampler = Sampler::chain().grammar(Grammar::json_schema(&model, SCHEMA)?)?.greedy();
    let mut text = model.vocab().detokenizer();
    loop {
        let outputs = context.decode(&mut batch)?;
        let token = sampler.sample(outputs.get(slot)?)?;
        if model.vocab().is_end_of_generation(token)? {
            break;
        }
        print!("{}", text.push(token)?);
        slot = batch.push_output(&sequence, token)?;
    }
    println!();
    Ok(())
}
