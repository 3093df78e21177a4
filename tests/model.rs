//! What a model tells of itself, and that threads can share it.

use std::thread;

use batch_suite::{alone, encoder, exact_params, params, prompt, tiny};
use fixtures::{Llama, Weights};
use llama_safe::{Context, DecodeError, KvLayout, MemoryKind, Model, ModelParams, Pooling};

#[test]
fn sizes_are_the_shapes() {
    let shape = Llama::tiny();
    let model = tiny(Weights::F16);
    assert_eq!(model.architecture(), "llama");
    assert_eq!(model.layers(), shape.layers);
    assert_eq!((model.width(), model.input_width(), model.output_width()), (shape.width, shape.width, shape.width));
    assert_eq!((model.heads(), model.kv_heads()), (shape.heads, shape.kv_heads));
    assert_eq!(model.context_length(), shape.context);
    assert_eq!((model.vocabulary_size(), model.vocab().size()), (shape.vocabulary, shape.vocabulary));
    assert_eq!((model.sliding_window(), model.is_recurrent(), model.is_hybrid()), (0, false, false));
    // Two embeddings (in and out); each layer's attention, feed-forward and two norms; the last norm.
    let (width, kv_width) = (u64::from(shape.width), u64::from(shape.width / shape.heads * shape.kv_heads));
    let layer = 2 * width * width + 2 * width * kv_width + 3 * width * u64::from(shape.feed_forward) + 2 * width;
    let parameters = 2 * width * u64::from(shape.vocabulary) + u64::from(shape.layers) * layer + width;
    assert_eq!(model.parameters(), parameters);
    // Two bytes each, but for the norms' four.
    let norms = (2 * u64::from(shape.layers) + 1) * width;
    assert_eq!(model.size_bytes(), 2 * parameters + 2 * norms);
}

#[test]
fn metadata_is_the_files() {
    let model = tiny(Weights::Q8_0);
    let metadata = model.metadata();
    let value = |key: &str| metadata.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone());
    assert_eq!(value("general.architecture").as_deref(), Some("llama"));
    assert_eq!(value("llama.block_count"), Some(Llama::tiny().layers.to_string()));
    for (key, value) in &metadata {
        assert_eq!(model.metadata_value(key).as_ref(), Some(value), "{key}");
    }
    assert_eq!(model.metadata_value("no.such.key"), None);
    assert_eq!(model.metadata_value("no\0key"), None);
    assert!(model.description().contains("llama"));
}

#[test]
fn limits_are_what_the_context_settled_on() {
    let settings = params().sequences(3).context_tokens(1000).batch_tokens(100).micro_batch_tokens(300);
    let context = Context::new(&tiny(Weights::F16), &settings).unwrap();
    let limits = context.limits();
    assert_eq!((limits.sequences(), limits.batch_tokens()), (3, 100));
    assert_eq!(limits.micro_batch_tokens(), 100, "no more than a batch");
    assert!(limits.sequence_tokens() >= 1000 / 3 && limits.context_tokens() == 3 * limits.sequence_tokens());
    assert_eq!((limits.memory(), limits.kv_layout()), (MemoryKind::Attention, KvLayout::Split));
    assert!(limits.has_logits() && !limits.has_embeddings() && !limits.is_pooled());
    assert_eq!(limits.vocabulary(), Llama::tiny().vocabulary);

    let context = Context::new(&encoder(), &params().embeddings(true)).unwrap();
    let limits = context.limits();
    assert_eq!((limits.memory(), limits.pooling()), (MemoryKind::None, Pooling::Mean));
    assert!(!limits.has_logits() && limits.has_embeddings());
    assert!(limits.batch_tokens() <= limits.micro_batch_tokens(), "an encoder computes a batch in one pass");
}

/// Contexts of one model, made and used on several threads at once, each compute what one alone computes; and the model
/// outlives the handle that it was loaded into.
#[test]
fn threads_share_a_model() {
    let gguf = Llama::tiny().gguf(Weights::F32, 1).unwrap();
    let model = Model::from_bytes(&gguf, &ModelParams::default()).unwrap();
    let want: Vec<_> = (0..4).map(|salt| alone(&model, &exact_params(), &prompt(salt, 12))).collect();
    let threads: Vec<_> = (0..4)
        .map(|salt| {
            let model = model.clone();
            thread::spawn(move || {
                let text = prompt(salt, 12);
                (0..5).map(|_| alone(&model, &exact_params(), &text)).collect::<Vec<_>>()
            })
        })
        .collect();
    drop(model);
    for (thread, want) in threads.into_iter().zip(want) {
        for got in thread.join().unwrap() {
            assert!(got == want, "one thread computes the same each time");
        }
    }
}

/// A context moves to another thread with its sequences and batches, and sequences may be dropped on a third.
#[test]
fn a_context_moves_between_threads() {
    let mut context = Context::new(&tiny(Weights::F32), &exact_params()).unwrap();
    let sequence = context.new_sequence().unwrap();
    let mut batch = context.new_batch();
    batch.extend(&sequence, &prompt(1, 9)).unwrap();
    let (mut context, sequence) = thread::spawn(move || {
        context.decode(&mut batch).unwrap();
        assert_eq!(context.decode(&mut batch).unwrap_err(), DecodeError::EmptyBatch);
        (context, sequence)
    })
    .join()
    .unwrap();
    assert_eq!(context.span(&sequence).unwrap(), 0..9);
    let other = context.new_sequence().unwrap();
    thread::spawn(move || drop((sequence, other))).join().unwrap();
    let again = [context.new_sequence().unwrap(), context.new_sequence().unwrap()];
    assert!(again.iter().all(|sequence| sequence.is_empty() && sequence.id().generation() == 1));
    for sequence in &again {
        assert_eq!(context.span(sequence).unwrap(), 0..0, "nothing is left of who had the slot before");
    }
}
