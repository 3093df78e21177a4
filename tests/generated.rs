//! Models without a file: metadata, and weights from a function.

use std::panic::{AssertUnwindSafe, catch_unwind};

use batch_suite::{alone, params};
use fixtures::Weights;
use fixtures::gguf::{Gguf, Tensor};
use llama_safe::{Adapter, AdapterError, LoadError, Model, ModelParams, Token};

fn metadata(architecture: &str) -> Gguf {
    let mut gguf = Gguf::default();
    gguf.set("general.architecture", architecture);
    for (key, value) in [
        ("context_length", 64_u32),
        ("embedding_length", 32),
        ("block_count", 2),
        ("feed_forward_length", 64),
        ("attention.head_count", 2),
        ("vocab_size", 48),
    ] {
        gguf.set(format!("{architecture}.{key}"), value);
    }
    gguf.set(format!("{architecture}.attention.layer_norm_rms_epsilon"), 1e-5_f32);
    gguf.set("tokenizer.ggml.model", "none");
    gguf
}

fn generate(header: &[u8], mut fill: impl FnMut(&str, &mut [f32])) -> Result<Model, LoadError> {
    Model::generate(header, &ModelParams::default(), |tensor, values| {
        assert_eq!(tensor.shape.iter().product::<u64>(), values.len() as u64);
        fill(tensor.name, values);
    })
}

#[test]
fn weights_come_from_the_function() {
    let mut names = Vec::new();
    let header = metadata("llama").header();
    let model = generate(&header, |name, values| {
        names.push(name.to_owned());
        values.iter_mut().enumerate().for_each(|(index, value)| *value = ((index * 37 % 101) as f32 - 50.0) / 100.0);
    });
    let model = model.unwrap();
    assert!(names.iter().any(|name| name == "blk.1.attn_q.weight"), "{names:?}");
    let logits = alone(&model, &params(), &[Token(1), Token(2)]);
    assert_eq!(logits[0].len(), 48);
    assert!(logits[1].iter().all(|logit| logit.is_finite()) && logits[1].iter().any(|logit| *logit != 0.0));
}

#[test]
fn a_panic_goes_on_and_nothing_is_left() {
    let header = metadata("llama").header();
    let mut calls = 0;
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        generate(&header, |_, _| {
            calls += 1;
            panic!("no weights");
        })
    }));
    assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"no weights"));
    assert_eq!(calls, 1);
    assert!(generate(&header, |_, _| {}).is_ok());
}

#[test]
fn metadata_that_is_wrong_is_an_error() {
    let of = |gguf: &Gguf| generate(&gguf.header(), |_, _| {}).unwrap_err();
    let mut with_tensor = metadata("llama");
    with_tensor.add(Tensor { name: "token_embd.weight".to_owned(), shape: vec![32, 48], weights: Weights::F16 });
    let mut file = Vec::new();
    with_tensor.write(&mut file, |tensor, data| data.write_all(&vec![0; tensor.bytes() as usize])).unwrap();
    assert!(matches!(generate(&file, |_, _| {}), Err(LoadError::HasTensors { tensors: 1 })));
    // Its header alone, without the data, is a file that ends too early.
    assert!(matches!(of(&with_tensor), LoadError::Malformed(_)));
    assert!(matches!(of(&metadata("no-such")), LoadError::Rejected { .. }));
    let mut little = Gguf::default();
    little.set("general.architecture", "llama");
    assert!(matches!(of(&little), LoadError::Rejected { reason } if reason.contains("context_length")));
    assert!(matches!(generate(b"", |_, _| {}), Err(LoadError::Empty)));
    assert!(matches!(generate(b"GGUF\x03", |_, _| {}), Err(LoadError::Malformed(_))));
}

#[test]
fn adapters_know_its_tensors() {
    let model = generate(&metadata("llama").header(), |_, values| values.fill(0.01)).unwrap();
    let adapter = |name: &str| {
        let mut gguf = Gguf::default();
        for (key, value) in [("general.architecture", "llama"), ("general.type", "adapter"), ("adapter.type", "lora")] {
            gguf.set(key, value);
        }
        for (part, shape) in [("lora_a", vec![32, 4]), ("lora_b", vec![4, 32])] {
            gguf.add(Tensor { name: format!("{name}.{part}"), shape, weights: Weights::F32 });
        }
        let mut file = gguf.header();
        file.resize(file.len() + 2 * 32 * 4 * 4, 0);
        Adapter::from_bytes(&model, &file)
    };
    assert!(adapter("blk.1.attn_q.weight").is_ok());
    assert!(matches!(adapter("blk.2.attn_q.weight"), Err(AdapterError::NoSuchTensor { .. })));
}
