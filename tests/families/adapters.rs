//! What adapters and control vectors change in a family, and what is named or refused because they would not.

use batch_suite::{Edited, exact_params, family, prompt};
use fixtures::gguf::{Gguf, Tensor};
use fixtures::{Family, Weights};
use llama_safe::{Adapter, AdapterError, Context, ControlVectorError, Model, Pooling};

/// For every tensor of the family: an adapter for it changes what is computed, or `Adapter::ignored` names it, or it is
/// refused; never none of these, and never two. `refused` are the names of those that are refused.
///
/// The adapter has a second pair, for `companion`, so that one whose first pair is passed over can be loaded.
pub fn each_tensor_is_adapted_or_named(which: Family, companion: &str, refused: &[&str]) {
    let file = Edited::new(&which.gguf(Weights::F32, 1).expect("a shape"));
    let model = family(which, Weights::F32);
    let shape = |name: &str| file.tensor(name).expect("a tensor of the family").0.to_vec();
    let pair = |name: &str| (name.to_owned(), shape(name));
    let alone = Adapter::from_bytes(&model, &adapter(&model, &[pair(companion)])).expect("an adapter");
    assert_eq!(alone.ignored(), [""; 0]);
    let mut context = context(&model);
    let without = computed(&mut context, which);
    context.set_adapters(&[(&alone, 1.0)]).expect("an adapter of this model");
    let want = computed(&mut context, which);
    assert_ne!(want, without, "{which}: the companion has an effect");

    let mut found = Vec::new();
    for name in file.names().filter(|name| *name != companion) {
        let adapter = match Adapter::from_bytes(&model, &adapter(&model, &[pair(name), pair(companion)])) {
            Ok(adapter) => adapter,
            Err(AdapterError::TiedEmbedding | AdapterError::Shape { .. } | AdapterError::Failed { .. }) => {
                found.push(name);
                continue;
            }
            Err(error) => panic!("{which} {name}: {error}"),
        };
        context.set_adapters(&[(&adapter, 1.0)]).expect("an adapter of this model");
        let got = computed(&mut context, which);
        let named = adapter.ignored() == [name];
        assert!(named || adapter.ignored().is_empty(), "{which} {name}: {:?}", adapter.ignored());
        assert_eq!(got == want, named, "{which} {name}: passed over is what is named");
        assert!(got.iter().all(|number| number.is_finite()), "{which} {name}");
    }
    assert_eq!(found, refused, "{which}: those that are refused");
}

/// A control vector on all layers that have one changes what is computed, and taking it off undoes that; or it is refused.
pub fn control_vector_steers_or_is_refused(which: Family, refused: bool) {
    let model = family(which, Weights::F32);
    let mut context = context(&model);
    let without = computed(&mut context, which);
    let (width, last) = (model.width(), model.layers() - 1);
    let directions: Vec<f32> = (0..width * last).map(|index| (index * 37 % 101) as f32 / 50.0 - 1.0).collect();
    let set = context.set_control_vector(&directions, 1..=last);
    assert_eq!(matches!(set, Err(ControlVectorError::NotApplied { .. })), refused, "{which}: {set:?}");
    assert_eq!(computed(&mut context, which) == without, refused, "{which}: an effect unless refused");
    context.clear_control_vector().expect("nothing to refuse");
    assert_eq!(computed(&mut context, which), without, "{which}: taken off");
}

fn context(model: &Model) -> Context {
    let encodes = model.architecture() == "bert" || model.architecture() == "t5encoder";
    Context::new(model, &exact_params().embeddings(encodes).pooling(Pooling::Model)).expect("a context")
}

/// What comes of a prompt: logits, or embeddings where there are none.
fn computed(context: &mut Context, which: Family) -> Vec<f32> {
    let sequence = context.new_sequence().expect("a free sequence");
    let text = prompt(4, 9);
    let mut batch = context.new_encoder_batch();
    if context.limits().encodes_first() {
        batch.extend(&sequence, &text).expect("room");
        context.encode(&mut batch).expect("an encoding");
        batch = context.new_batch();
    }
    let slot = batch.prompt(&sequence, &text).expect("room");
    let limits = context.limits().clone();
    let outputs = match which {
        Family::Bert | Family::Reranker | Family::T5Encoder | Family::Diffusion => context.encode(&mut batch),
        _ => context.decode(&mut batch),
    }
    .expect("a computation");
    let row = match (limits.has_embeddings(), limits.is_pooled()) {
        (false, _) => outputs.get(slot),
        (true, false) => outputs.embedding(slot),
        (true, true) => outputs.sequence_embedding(&sequence),
    };
    row.expect("an output").to_vec()
}

/// An adapter of rank 2 for tensors of these shapes.
fn adapter(model: &Model, of: &[(String, Vec<u64>)]) -> Vec<u8> {
    let mut gguf = Gguf::default();
    gguf.set("general.type", "adapter");
    gguf.set("general.architecture", model.architecture().as_str());
    gguf.set("adapter.type", "lora");
    for (name, shape) in of {
        let length = |dimension: usize| shape.get(dimension).copied().unwrap_or(1);
        let (mut a, mut b) = if name == "token_embd.weight" {
            // A row of A is a token's.
            (vec![2, length(1)], vec![2, length(0)])
        } else {
            (vec![length(0), 2], vec![2, length(1)])
        };
        a.extend(shape.iter().skip(2));
        b.extend(shape.iter().skip(2));
        gguf.add(Tensor { name: format!("{name}.lora_a"), shape: a, weights: Weights::F32 });
        gguf.add(Tensor { name: format!("{name}.lora_b"), shape: b, weights: Weights::F32 });
    }
    let mut bytes = Vec::new();
    let written = gguf.write(&mut bytes, |tensor, out| {
        for index in 0..tensor.values() as u32 {
            let value = ((index * 37 % 101) as f32 / 101.0 - 0.3) * 0.3;
            out.write_all(&value.to_le_bytes())?;
        }
        Ok(())
    });
    written.expect("memory takes every byte");
    bytes
}
