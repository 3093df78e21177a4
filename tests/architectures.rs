//! Every architecture: batches against one token at a time, and the safe layer's table of what llama.cpp gets wrong.

use std::path::Path;

use batch_suite::architectures::{self, compare_all, contradictions};
use batch_suite::{is_leak_check, params, prompt};
use fixtures::ARCHITECTURES;
use fixtures::gguf::{Gguf, Value};
use llama_safe::{
    Context, ContextError, DecodeError, FlashAttention, KvLayout, KvType, LoadError, MemoryKind, Model, ModelParams,
    PushError, TensorShape, Token, verify,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_architectures");

/// In either direction: an architecture that is wrong and not in the table, and one that is in the table and right.
#[test]
fn the_table_of_faults_is_what_a_comparison_finds() {
    // One of each kind of memory, and of each remedy, are enough for a checker of memory.
    let some = ["llama", "mamba", "jamba", "bert", "cogvlm", "plamo2"];
    let names = if is_leak_check() { &some } else { ARCHITECTURES };
    let pairs = compare_all(Path::new(PROGRAM), names, |_| {}).unwrap();
    assert_eq!(pairs.len(), names.len());
    let against: Vec<String> = pairs.iter().flat_map(contradictions).collect();
    assert!(against.is_empty(), "{against:#?}");
}

#[test]
fn every_name_is_llama_cpps() {
    for name in ARCHITECTURES.iter().chain(&["no-such"]) {
        let made = Model::generate(
            &fixtures::architecture(name).header(),
            &ModelParams::default().vocab_only(true),
            |_, _| {},
        );
        let known =
            !matches!(made, Err(LoadError::Rejected { reason }) if reason.contains("unknown model architecture"));
        assert_eq!(known, *name != "no-such", "{name}");
    }
    for (name, _) in llama_safe::known_faults() {
        assert!(ARCHITECTURES.contains(&name), "{name} is in the table of faults and in no list");
    }
}

#[test]
fn a_fallback_is_told() {
    let model = architectures::architecture("chameleon").unwrap();
    let context = Context::new(&model, &params().sequences(2).context_tokens(512)).unwrap();
    let limits = context.limits();
    let fallback = limits.fallback().expect("a fallback");
    assert!(fallback.is_one_token_at_a_time() && fallback.reason().contains("pictures"), "{fallback}");
    assert_eq!((limits.micro_batch_tokens(), limits.kv_layout()), (1, KvLayout::Unified));

    let model = architectures::architecture("arwkv7").unwrap();
    let fallback = |sequences| {
        let context = Context::new(&model, &params().sequences(sequences).context_tokens(512)).unwrap();
        context.limits().fallback().copied()
    };
    assert!(fallback(1).is_none());
    assert!(fallback(2).unwrap().is_one_token_at_a_time());

    let model = architectures::architecture("llama").unwrap();
    assert!(Context::new(&model, &params()).unwrap().limits().fallback().is_none());
}

/// The pass that llama.cpp tries out is no longer than a batch (llama-context.cpp:250), which rounds what was rounded already.
#[test]
fn a_short_batch_is_cut_to_passes_that_llama_cpp_can_do() {
    for name in ["kimi-linear", "minimax-01"] {
        let model = architectures::architecture(name).unwrap();
        let params = params().sequences(3).context_tokens(768).micro_batch_tokens(512);
        for batch_tokens in [3, 7] {
            let context = Context::new(&model, &params.clone().batch_tokens(batch_tokens)).unwrap();
            assert_eq!(context.limits().micro_batch_tokens() % 3, 0, "{name}, batches of {batch_tokens}");
        }
    }
}

#[test]
fn several_sequences_are_refused_where_llama_cpp_mixes_them() {
    let model = architectures::architecture("plamo2").unwrap();
    let error = Context::new(&model, &params().sequences(2).context_tokens(512)).unwrap_err();
    assert!(matches!(error, ContextError::OneSequence { got: 2, .. }), "{error}");
    assert!(Context::new(&model, &params().sequences(1).context_tokens(512)).is_ok());
}

#[test]
fn a_llama_that_embeds_is_an_encoder() {
    let model = architectures::architecture("llama-embed").unwrap();
    let mut context = Context::new(&model, &params()).unwrap();
    assert_eq!(context.limits().memory(), MemoryKind::None);
    assert!(!context.limits().has_logits());
    let sequence = context.new_sequence().unwrap();
    let mut batch = context.new_batch();
    batch
        .extend(&sequence, &prompt(1, 4).iter().map(|token| llama_safe::Token(token.0 % 100)).collect::<Vec<_>>())
        .unwrap();
    assert!(context.decode(&mut batch).is_err());
    assert!(context.encode(&mut batch).is_ok());
}

/// The check that users run sees the fault where it is left in, and none where it is worked around.
#[test]
fn verify_sees_a_fault_and_its_remedy() {
    let params = params().sequences(3).context_tokens(768).kv_type(KvType::F32).flash_attention(FlashAttention::Off);
    for name in ["cogvlm", "arwkv7"] {
        let model = architectures::architecture(name).unwrap();
        let found = verify(&model, &params).unwrap();
        assert!(found.is_right(), "{name}:\n{found}");
        // SAFETY: what these two compute wrong are other numbers of theirs; every row that is read was written.
        let raw = verify(&model, &unsafe { params.clone().without_fallback() }).unwrap();
        assert!(!raw.is_right(), "{name}:\n{raw}");
    }
}

/// llama.cpp ends the process with these, while it computes or makes the context (models/rwkv6-base.cpp:158, llama-kv-cache.cpp:345).
#[test]
fn models_that_llama_cpp_cannot_compute_are_refused() {
    let refused = |gguf: &Gguf| {
        let fill = |tensor: TensorShape<'_>, values: &mut [f32]| fixtures::fill(tensor.name, tensor.shape, values);
        let model = Model::generate(&gguf.header(), &ModelParams::default(), fill).unwrap();
        let error = Context::new(&model, &params()).unwrap_err();
        assert!(matches!(error, ContextError::UnsupportedModel { .. }), "{error}");
        error.to_string()
    };
    // All tensors that there can be, of which files leave one out.
    assert!(refused(&fixtures::architecture("rwkv6qwen2")).contains("time_mix_first"));
    let mut gguf = Gguf::default();
    for (key, value) in fixtures::architecture("deepseek4").metadata() {
        let is_index = key.ends_with("indexer.key_length");
        gguf.set(key.as_str(), if is_index { Value::U32(32) } else { value.clone() });
    }
    assert!(refused(&gguf).contains("divides by zero"));
}

/// Of what it is computed from only tokens say which adapter they switch on.
#[test]
fn a_graph_of_tokens_takes_no_embeddings() {
    let model = architectures::architecture("graniteswitch").unwrap();
    let mut context = Context::new(&model, &params().context_tokens(256)).unwrap();
    let sequence = context.new_sequence().unwrap();
    let embedding = vec![0.5; context.limits().input_width() as usize];
    let mut batch = context.new_embedding_batch();
    assert_eq!(batch.push_embedding(&sequence, &embedding), Err(PushError::TokensAlone));
    assert_eq!(context.decode(&mut batch).map(drop), Err(DecodeError::EmptyBatch));
    let mut batch = context.new_batch();
    let slot = batch.push_output(&sequence, Token(5)).unwrap();
    assert!(context.decode(&mut batch).unwrap().get(slot).is_ok());
}

/// Numbers without which llama.cpp asserts at the first decode.
#[test]
fn queries_that_are_scaled_by_nothing_are_refused() {
    for (name, params) in [
        ("llama4", ModelParams::default().override_metadata("llama4.attention.sliding_window", 0)),
        ("deepseek2", ModelParams::default().override_metadata("deepseek2.attention.temperature_scale", 0.1)),
    ] {
        let mut gguf = fixtures::architecture(name);
        if name == "deepseek2" {
            gguf.set("deepseek2.attention.temperature_scale", 1.0_f32);
            gguf.set("deepseek2.attention.temperature_length", 0_u32);
        }
        let header = gguf.header();
        let made =
            Model::generate(&header, &params, |tensor, values| fixtures::fill(tensor.name, tensor.shape, values));
        if let Ok(model) = made {
            let mut context = Context::new(&model, &batch_suite::params().context_tokens(256)).unwrap();
            let sequence = context.new_sequence().unwrap();
            let mut batch = context.new_batch();
            batch.push_output(&sequence, Token(5)).unwrap();
            context.decode(&mut batch).unwrap();
            panic!("{name} was made, and decodes");
        }
        assert!(matches!(made, Err(LoadError::Malformed(_))), "{name}");
    }
}
