//! What a model says by itself, and with a LoRA adapter.
//!
//!     cargo run --release --example adapter -- model.gguf lora.gguf
//!
//! Without files it takes a small untrained model and an untrained adapter, whose words mean nothing.

use fixtures::{Llama, Lora, Weights};
use llama_safe::{Adapter, Context, ContextParams, Model, ModelParams, Sampler, Special};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let (model, adapter) = match &arguments[..] {
        [] => {
            let model = Model::from_bytes(&Llama::tiny().gguf(Weights::F16, 1)?, &ModelParams::default())?;
            let adapter = Adapter::from_bytes(&model, &Lora::tiny().gguf(&Llama::tiny(), 1)?)?;
            (model, adapter)
        }
        [model, lora] => {
            let model = Model::load(model, &ModelParams::default())?;
            let adapter = Adapter::load(&model, lora)?;
            (model, adapter)
        }
        _ => return Err("two files are needed, a model and an adapter, or none".into()),
    };

    let mut context = Context::new(&model, &ContextParams::default())?;
    for scale in [None, Some(1.0)] {
        let adapters: Vec<_> = scale.map(|scale| (&adapter, scale)).into_iter().collect();
        context.set_adapters(&adapters)?;
        // A new sequence: what was computed without the adapter stays as it is.
        let sequence = context.new_sequence()?;
        let mut batch = context.new_batch();
        let mut said = model.tokenize("Once upon", Special::Bos)?;
        let mut slot = batch.prompt(&sequence, &said)?;
        for _ in 0..20 {
            let next = Sampler::greedy().sample(context.decode(&mut batch)?.get(slot)?)?;
            said.push(next);
            slot = batch.push_output(&sequence, next)?;
        }
        println!("{scale:?}: {}", model.detokenize(&said)?);
    }
    Ok(())
}
