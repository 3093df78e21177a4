//! Adapters and control vectors: what they change is what changed weights would; what does not fit is refused, and a
//! right decode on the same context follows.

use std::path::Path;

use batch_suite::{Edited, alone, assert_equal, exact_params, is_leak_check, nmse, prompt, still_works, tiny};
use fixtures::gguf::Tensor;
use fixtures::{Llama, Lora, Weights};
use llama_safe::{Adapter, AdapterError, Context, ControlVectorError, LoadError, Model, ModelParams, Sequence, Token};

/// In F32 throughout, what is left is the order in which numbers are added.
const MOST: f64 = 1e-6;

fn base() -> Vec<u8> {
    Llama::tiny().gguf(Weights::F32, 1).unwrap()
}

fn load(gguf: &[u8]) -> Model {
    Model::from_bytes(gguf, &ModelParams::default()).unwrap()
}

/// Adds `scale * alpha / rank * B·A` to each matrix that the adapter is for.
fn merge(model: &mut Edited, lora: &Lora, adapter: &[u8], scale: f32) {
    let adapter = Edited::new(adapter);
    let factor = f64::from(scale * lora.alpha) / f64::from(lora.rank);
    let names: Vec<_> = adapter.names().filter_map(|name| name.strip_suffix(".lora_a")).collect();
    assert!(!names.is_empty());
    for name in names {
        let (a_shape, a) = adapter.tensor(&format!("{name}.lora_a")).unwrap();
        let (b_shape, b) = adapter.tensor(&format!("{name}.lora_b")).unwrap();
        // [row of the matrix][number of the rank], and [column][number of the rank].
        let rank = lora.rank as usize;
        let embedding = name == "token_embd.weight";
        let columns = if embedding { b_shape[1] } else { a_shape[0] } as usize;
        let values = model.values_mut(name).unwrap();
        for (row, values) in values.chunks_mut(columns).enumerate() {
            for (column, value) in values.iter_mut().enumerate() {
                let sum: f64 = (0..rank)
                    .map(|r| {
                        let (left, right) = if embedding {
                            (a[row * rank + r], b[column * rank + r])
                        } else {
                            (b[row * rank + r], a[r * columns + column])
                        };
                        f64::from(left) * f64::from(right)
                    })
                    .sum();
                *value += (factor * sum) as f32;
            }
        }
    }
}

/// The logits after a whole prompt in a new sequence, which is left in the context's memory.
fn decode(context: &mut Context, text: &[Token]) -> (Sequence, Vec<f32>) {
    let sequence = context.new_sequence().unwrap();
    let mut batch = context.new_batch();
    let slot = batch.prompt(&sequence, text).unwrap();
    let logits = context.decode(&mut batch).unwrap().get(slot).unwrap().to_vec();
    (sequence, logits)
}

/// The logits with adapters set, each as if its weights were merged.
#[track_caller]
fn equals_merged(loras: &[(Lora, f32)]) {
    let mut merged = Edited::new(&base());
    let model = tiny(Weights::F32);
    let mut adapters = Vec::new();
    for (seed, (lora, scale)) in (7..).zip(loras) {
        let gguf = lora.gguf(&Llama::tiny(), seed).unwrap();
        merge(&mut merged, lora, &gguf, *scale);
        adapters.push((Adapter::from_bytes(&model, &gguf).unwrap(), *scale));
    }
    let merged = load(&merged.gguf());
    let mut context = Context::new(&model, &exact_params()).unwrap();
    let text = prompt(3, 12);
    let (_, without) = decode(&mut context, &text);

    let set: Vec<_> = adapters.iter().map(|(adapter, scale)| (adapter, *scale)).collect();
    context.set_adapters(&set).unwrap();
    assert_eq!(context.adapters().len(), loras.len());
    let (sequence, with) = decode(&mut context, &text);
    let want = alone(&merged, &exact_params(), &text).pop().unwrap();
    assert_equal(&with, &want, MOST, "with adapters");
    assert!(nmse(&with, &without) > 1e-3, "an adapter that does nothing");
    drop(sequence);

    context.set_adapters(&[]).unwrap();
    assert_eq!(context.adapters().len(), 0);
    assert_eq!(decode(&mut context, &text).1, without, "taken off");
}

#[test]
fn an_adapter_is_as_merged_weights() {
    equals_merged(&[(Lora::tiny(), 1.0)]);
    equals_merged(&[(Lora::tiny(), -0.5)]);
    // Of its own scale: no alpha.
    let lora = Lora { alpha: 0.0, ..Lora::tiny() };
    let gguf = lora.gguf(&Llama::tiny(), 7).unwrap();
    let mut merged = Edited::new(&base());
    merge(&mut merged, &Lora { alpha: lora.rank as f32, ..lora }, &gguf, 0.75);
    let model = tiny(Weights::F32);
    let adapter = Adapter::from_bytes(&model, &gguf).unwrap();
    let mut context = Context::new(&model, &exact_params()).unwrap();
    context.set_adapters(&[(&adapter, 0.75)]).unwrap();
    let text = prompt(3, 12);
    let want = alone(&load(&merged.gguf()), &exact_params(), &text).pop().unwrap();
    assert_equal(&decode(&mut context, &text).1, &want, MOST, "without alpha");
}

#[test]
fn several_adapters_add_up() {
    let other = Lora { rank: 7, alpha: 3.0, ..Lora::tiny() };
    equals_merged(&[(Lora::tiny(), 0.5), (other, 1.5)]);
    equals_merged(&[(Lora::tiny(), 0.5), (Lora::tiny(), 0.25), (other, -1.0)]);
}

#[test]
fn the_embedding_can_be_adapted() {
    equals_merged(&[(Lora { embedding: true, ..Lora::tiny() }, 1.0)]);
}

#[test]
fn a_batch_under_an_adapter_equals_single_inference() {
    let model = tiny(Weights::F32);
    let adapter = Adapter::from_bytes(&model, &Lora::tiny().gguf(&Llama::tiny(), 7).unwrap()).unwrap();
    let texts = [prompt(1, 9), prompt(2, 20)];
    let mut context = Context::new(&model, &exact_params()).unwrap();
    context.set_adapters(&[(&adapter, 1.0)]).unwrap();
    let wants = texts.each_ref().map(|text| {
        let mut single = Context::new(&model, &exact_params()).unwrap();
        single.set_adapters(&[(&adapter, 1.0)]).unwrap();
        batch_suite::decode_alone(&mut single, text).pop().unwrap()
    });
    let sequences = [context.new_sequence().unwrap(), context.new_sequence().unwrap()];
    let mut batch = context.new_batch();
    let slots = [0, 1].map(|index| batch.prompt(&sequences[index], &texts[index]).unwrap());
    let outputs = context.decode(&mut batch).unwrap();
    for (slot, want) in slots.into_iter().zip(&wants) {
        assert_equal(outputs.get(slot).unwrap(), want, MOST, "batched");
    }
}

#[test]
fn nothing_is_freed_while_it_is_used() {
    let gguf = Lora::tiny().gguf(&Llama::tiny(), 7).unwrap();
    let text = prompt(3, 12);
    let model = load(&base());
    let mut context = Context::new(&model, &exact_params()).unwrap();
    let adapter = Adapter::from_bytes(&model, &gguf).unwrap();
    context.set_adapters(&[(&adapter, 1.0)]).unwrap();
    let (first, want) = decode(&mut context, &text);
    drop((first, adapter, model));
    assert_eq!(decode(&mut context, &text).1, want, "the context keeps adapter and model");
    drop(context);

    // The adapter is the last one to know of its model.
    let model = load(&base());
    let adapter = Adapter::from_bytes(&model, &gguf).unwrap();
    let mut context = Context::new(&model, &exact_params()).unwrap();
    context.set_adapters(&[(&adapter, 1.0)]).unwrap();
    drop(model);
    drop(context);
    let mut context = Context::new(adapter.model(), &exact_params()).unwrap();
    context.set_adapters(&[(&adapter, 1.0)]).unwrap();
    assert_eq!(decode(&mut context, &text).1, want);
    // Replacing one that nobody else holds frees it after llama.cpp has let go of it.
    let other = Adapter::from_bytes(adapter.model(), &gguf).unwrap();
    drop(adapter);
    context.set_adapters(&[(&other, 1.0)]).unwrap();
    assert_eq!(decode(&mut context, &text).1, want);
}

#[test]
fn adapters_come_and_go_while_other_threads_decode() {
    let gguf = Lora::tiny().gguf(&Llama::tiny(), 7).unwrap();
    let model = load(&base());
    let text = prompt(3, 12);
    let rounds = if is_leak_check() { 3 } else { 30 };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut context = Context::new(&model, &exact_params()).unwrap();
                let (_, without) = decode(&mut context, &text);
                for _ in 0..rounds {
                    let adapter = Adapter::from_bytes(&model, &gguf).unwrap();
                    context.set_adapters(&[(&adapter, 1.0)]).unwrap();
                    drop(adapter);
                    assert_ne!(decode(&mut context, &text).1, without);
                    context.set_adapters(&[]).unwrap();
                    assert_eq!(decode(&mut context, &text).1, without);
                }
            });
        }
    });
}

/// What loading says, with the model at work afterwards.
#[track_caller]
fn refused(gguf: &[u8]) -> AdapterError {
    let model = tiny(Weights::F32);
    let error = Adapter::from_bytes(&model, gguf).expect_err("no adapter of this model");
    still_works(&mut Context::new(&model, &exact_params()).unwrap());
    error
}

#[test]
fn files_that_are_no_adapters_of_the_model() {
    let good = Lora::tiny().gguf(&Llama::tiny(), 7).unwrap();
    assert!(matches!(refused(b""), AdapterError::File(LoadError::Empty)));
    assert!(matches!(refused(b"no adapter"), AdapterError::File(_)));
    for cut in [5, 24, 100, good.len() / 2, good.len() - 1] {
        assert!(matches!(refused(&good[..cut]), AdapterError::File(_)), "cut at {cut}");
    }
    assert!(matches!(refused(&base()), AdapterError::Metadata { key: "general.type", .. }), "a model");
    let wide = Llama { width: 128, ..Llama::tiny() };
    assert!(matches!(refused(&Lora::tiny().gguf(&wide, 7).unwrap()), AdapterError::Shape { .. }));
    let deep = Llama { layers: 3, ..Llama::tiny() };
    assert!(matches!(
        refused(&Lora::tiny().gguf(&deep, 7).unwrap()),
        AdapterError::NoSuchTensor { tensor } if tensor.starts_with("blk.2.")
    ));
    let mut half = Edited::new(&good);
    half.remove("blk.1.ffn_up.weight.lora_b");
    assert!(matches!(refused(&half.gguf()), AdapterError::HalfAPair { missing: "lora_b", .. }));
    let mut other = Edited::new(&good);
    other.add("blk.1.ffn_up.weight", &[2], &[0.0; 2]);
    assert!(matches!(refused(&other.gguf()), AdapterError::UnknownTensor { .. }));

    let missing = Path::new(env!("CARGO_TARGET_TMPDIR")).join("there is no such adapter.gguf");
    let error = Adapter::load(&tiny(Weights::F32), &missing).unwrap_err();
    assert!(matches!(error, AdapterError::File(LoadError::NotFound { path }) if path == missing));
    let vocabulary = Model::from_bytes(&base(), &ModelParams::default().vocab_only(true)).unwrap();
    assert!(matches!(Adapter::from_bytes(&vocabulary, &good), Err(AdapterError::VocabularyOnly)));
}

#[test]
fn an_embedding_that_is_the_head_is_not_adapted() {
    // Raw llama.cpp loads it, and aborts in ggml_mul_mat when a graph is built (llama-graph.cpp:1577).
    let tied = Llama { tied_head: true, ..Llama::tiny() };
    let model = load(&tied.gguf(Weights::F32, 1).unwrap());
    let adapter = |embedding| {
        let gguf = Lora { embedding, ..Lora::tiny() }.gguf(&tied, 7).unwrap();
        Adapter::from_bytes(&model, &gguf)
    };
    assert!(matches!(adapter(true), Err(AdapterError::TiedEmbedding)));
    assert!(adapter(false).is_ok());
}

#[test]
fn an_adapter_is_loaded_from_a_file() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("adapter.gguf");
    let mut gguf = Edited::new(&Lora::tiny().gguf(&Llama::tiny(), 7).unwrap());
    gguf.add("blk.0.attn_norm.weight", &[64], &[1.0; 64]);
    std::fs::write(&path, gguf.gguf()).unwrap();
    let adapter = Adapter::load(&tiny(Weights::F32), &path).unwrap();
    std::fs::remove_file(path).unwrap();
    assert_eq!(adapter.ignored(), ["blk.0.attn_norm.weight"]);
    assert_eq!(adapter.invocation_tokens(), []);
}

#[test]
fn adapters_that_cannot_be_set() {
    let model = tiny(Weights::F32);
    let gguf = Lora::tiny().gguf(&Llama::tiny(), 7).unwrap();
    let adapter = Adapter::from_bytes(&model, &gguf).unwrap();
    let mut context = Context::new(&model, &exact_params()).unwrap();
    for scale in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert!(matches!(context.set_adapters(&[(&adapter, scale)]), Err(AdapterError::Scale { index: 0, .. })));
    }
    let twice = [(&adapter, 1.0), (&adapter.clone(), 2.0)];
    assert!(matches!(context.set_adapters(&twice), Err(AdapterError::Twice { first: 0, second: 1 })));
    let foreign = Adapter::from_bytes(&load(&base()), &gguf).unwrap();
    let error = context.set_adapters(&[(&adapter, 1.0), (&foreign, 1.0)]);
    assert!(matches!(error, Err(AdapterError::OtherModel { index: 1 })));
    assert_eq!(context.adapters().len(), 0);
    still_works(&mut context);
}

/// Directions of the tiny model: one layer, the second, has one.
fn directions() -> Vec<f32> {
    (0..64).map(|index| (index as f32 * 0.7).sin() * 3.0).collect()
}

#[test]
fn a_control_vector_is_added_after_its_layer() {
    // The same as a bias of the layer's last product.
    let mut biased = Edited::new(&base());
    biased.add("blk.1.ffn_down.bias", &[64], &directions());
    let model = tiny(Weights::F32);
    let mut context = Context::new(&model, &exact_params()).unwrap();
    let text = prompt(3, 12);
    let (_, without) = decode(&mut context, &text);
    context.set_control_vector(&directions(), 1..=1).unwrap();
    let (_, with) = decode(&mut context, &text);
    let want = alone(&load(&biased.gguf()), &exact_params(), &text).pop().unwrap();
    assert_equal(&with, &want, MOST, "with a control vector");
    assert!(nmse(&with, &without) > 1e-3, "a vector that does nothing");
    context.clear_control_vector().unwrap();
    assert_eq!(decode(&mut context, &text).1, without, "taken off");
}

#[test]
fn a_control_vector_is_of_the_layers_asked_for() {
    let deep = Llama { layers: 4, ..Llama::tiny() };
    let gguf = deep.gguf(Weights::F32, 1).unwrap();
    let model = load(&gguf);
    let all: Vec<f32> =
        (0..3).flat_map(|layer| directions().into_iter().map(move |n| n * (layer + 1) as f32)).collect();
    let mut biased = Edited::new(&gguf);
    for layer in 2..=3_usize {
        biased.add(&format!("blk.{layer}.ffn_down.bias"), &[64], &all[(layer - 1) * 64..][..64]);
    }
    let text = prompt(3, 12);
    let mut context = Context::new(&model, &exact_params()).unwrap();
    // One of more layers first: what it leaves must not show.
    context.set_control_vector(&all, 1..=3).unwrap();
    drop(decode(&mut context, &text));
    context.set_control_vector(&all, 2..=3).unwrap();
    let want = alone(&load(&biased.gguf()), &exact_params(), &text).pop().unwrap();
    assert_equal(&decode(&mut context, &text).1, &want, MOST, "layers 2 and 3");
}

#[test]
fn control_vectors_that_do_not_fit() {
    let model = tiny(Weights::F32);
    let mut context = Context::new(&model, &exact_params()).unwrap();
    let good = directions();
    for length in [0, 1, 63, 128] {
        let error = context.set_control_vector(&vec![0.0; length], 1..=1).unwrap_err();
        assert_eq!(error, ControlVectorError::Length { got: length, expected: 64, width: 64, last_layer: 1 });
    }
    #[expect(clippy::reversed_empty_ranges)]
    for layers in [0..=1, 1..=2, 2..=1, 2..=2, 1..=u32::MAX] {
        let (first, last) = (*layers.start(), *layers.end());
        let error = context.set_control_vector(&good, layers).unwrap_err();
        assert_eq!(error, ControlVectorError::Layers { first, last, last_layer: 1 });
    }
    for value in [f32::NAN, f32::INFINITY] {
        let mut bad = good.clone();
        bad[9] = value;
        let error = context.set_control_vector(&bad, 1..=1).unwrap_err();
        assert!(matches!(error, ControlVectorError::NotFinite { index: 9, .. }));
    }
    still_works(&mut context);
    let mut encoder = Context::new(&batch_suite::encoder(), &exact_params().embeddings(true)).unwrap();
    let error = encoder.set_control_vector(&[], 1..=1).unwrap_err();
    assert_eq!(error, ControlVectorError::NotApplied { architecture: "bert".to_owned() });
}

/// llama.cpp asserts while it builds the graph of the next decode (llama-graph.cpp:1833).
#[test]
fn weights_with_a_scale_are_not_adapted() {
    const SCALED: &str = "blk.0.ffn_up.weight";
    let shape = Llama { layers: 1, ..Llama::tiny() };
    let file = Edited::new(&shape.gguf(Weights::F32, 1).unwrap());
    let mut gguf = fixtures::gguf::Gguf::default();
    for (key, value) in [
        ("context_length", 64),
        ("embedding_length", shape.width),
        ("block_count", 1),
        ("feed_forward_length", shape.feed_forward),
        ("attention.head_count", shape.heads),
        ("attention.head_count_kv", shape.kv_heads),
        ("vocab_size", shape.vocabulary),
    ] {
        gguf.set(format!("llama.{key}"), value);
    }
    gguf.set("general.architecture", "llama");
    gguf.set("llama.attention.layer_norm_rms_epsilon", 1e-5_f32);
    gguf.set("tokenizer.ggml.model", "none");
    for name in file.names() {
        let shape = file.tensor(name).unwrap().0.to_vec();
        let shape = if name.contains("norm") { shape[..1].to_vec() } else { shape[..2].to_vec() };
        // As many bytes as NVFP4 has.
        let weights = if name == SCALED { Weights::Q4_0 } else { Weights::F32 };
        gguf.add(Tensor { name: name.to_owned(), shape, weights });
    }
    gguf.add(Tensor { name: "blk.0.ffn_up.scale".to_owned(), shape: vec![1], weights: Weights::F32 });
    let mut bytes = Vec::new();
    let none = |tensor: &Tensor, out: &mut dyn std::io::Write| {
        let size = if tensor.weights == Weights::F32 { 4 * tensor.values() } else { tensor.values() / 32 * 18 };
        out.write_all(&vec![0; size as usize])
    };
    gguf.write(&mut bytes, |tensor, out| none(tensor, out)).unwrap();
    // Behind the name: the number of lengths, two lengths, and the format.
    let name = bytes.windows(SCALED.len()).position(|bytes| bytes == SCALED.as_bytes()).unwrap();
    let format = name + SCALED.len() + 4 + 2 * 8;
    assert_eq!(bytes[format..format + 4], [2, 0, 0, 0]);
    bytes[format] = 40;

    let model = load(&bytes);
    let adapter = Lora::tiny().gguf(&shape, 1).unwrap();
    let error = Adapter::from_bytes(&model, &adapter).map(drop).unwrap_err();
    assert!(matches!(&error, AdapterError::ScaledWeights { tensor } if tensor == SCALED), "{error}");
    let mut context = Context::new(&model, &exact_params()).unwrap();
    let (_sequence, logits) = decode(&mut context, &prompt(1, 3));
    assert_eq!(logits.len(), shape.vocabulary as usize);
}
