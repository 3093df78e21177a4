//! `verify` on every family: what it says is so, and what it refuses cannot be done.

use batch_suite::{family, params, still_works, tiny};
use fixtures::{Family, Weights};
use llama_safe::{
    Context, ContextError, ContextParams, Feature, FlashAttention, KvLayout, KvType, Model, ModelParams, Outcome,
    OutputError, TensorShape, VerifyError, verify,
};

/// What is found on a family, in F32 unless told otherwise.
#[track_caller]
fn found(which: Family, weights: Weights, params: &ContextParams) -> llama_safe::Verification {
    let found = verify(&family(which, weights), params).unwrap();
    assert!(found.is_right(), "{which}:\n{found}");
    assert_eq!(found.findings().len(), Feature::ALL.len());
    found
}

fn exact(layout: KvLayout) -> ContextParams {
    let params = params().sequences(3).context_tokens(768).kv_layout(layout);
    params.kv_type(KvType::F32).flash_attention(FlashAttention::Off)
}

fn is_equal(outcome: Option<&Outcome>, most: f64) -> bool {
    matches!(outcome, Some(Outcome::Equal { error }) if *error <= most)
}

fn is_refused(outcome: Option<&Outcome>, why: &str) -> bool {
    matches!(outcome, Some(Outcome::Refused { reason }) if reason.contains(why))
}

#[test]
fn decoders_compute_the_same_in_batches() {
    for which in [Family::Llama, Family::Qwen2, Family::Qwen3, Family::Moe, Family::Gemma] {
        for layout in [KvLayout::Split, KvLayout::Unified] {
            let found = found(which, Weights::F32, &exact(layout));
            for (feature, outcome) in found.findings() {
                assert!(is_equal(Some(outcome), 1e-6), "{which}, {layout:?}, {feature}: {outcome}");
            }
        }
    }
}

#[test]
fn quantised_weights_are_equal_but_for_rounding() {
    for layout in [KvLayout::Split, KvLayout::Unified] {
        let found = found(Family::Llama, Weights::Q4_0, &exact(layout));
        let exact = layout == KvLayout::Split;
        assert!(is_equal(found.outcome(Feature::Sequences), if exact { 0.0 } else { 1e-2 }), "{layout:?}:\n{found}");
    }
}

#[test]
fn recurrent_models_do_all_but_go_back() {
    for which in [Family::Mamba, Family::Rwkv, Family::Hybrid] {
        let found = found(which, Weights::F32, &exact(KvLayout::Split));
        assert!(is_refused(found.outcome(Feature::Truncate), "clear it"), "{which}:\n{found}");
        for feature in Feature::ALL.iter().filter(|feature| **feature != Feature::Truncate) {
            assert!(is_equal(found.outcome(*feature), 1e-6), "{which}:\n{found}");
        }
    }
}

#[test]
fn an_encoder_and_its_decoder() {
    let found = found(Family::T5, Weights::F32, &exact(KvLayout::Split));
    assert!(is_equal(found.outcome(Feature::Fork), 1e-6), "{found}");
    assert!(is_refused(found.outcome(Feature::MicroBatches), "one pass"), "{found}");
}

#[test]
fn where_each_call_stands_for_itself() {
    let embeddings = params().sequences(3).context_tokens(768).embeddings(true);
    for (which, params) in [
        (Family::Bert, &embeddings),
        (Family::Llama, &embeddings),
        (Family::Reranker, &embeddings),
        (Family::Diffusion, &exact(KvLayout::Split)),
    ] {
        let found = found(which, Weights::F32, params);
        assert!(is_equal(found.outcome(Feature::Sequences), 1e-6), "{which}:\n{found}");
        assert!(is_equal(found.outcome(Feature::Reuse), 1e-6), "{which}:\n{found}");
        assert!(is_refused(found.outcome(Feature::Chunks), "stands for itself"), "{which}:\n{found}");
    }
}

#[test]
fn what_the_parameters_leave_no_room_for() {
    let model = tiny(Weights::F32);
    let found = verify(&model, &exact(KvLayout::Split).sequences(1)).unwrap();
    assert!(is_refused(found.outcome(Feature::Sequences), "one sequence"), "{found}");
    assert!(is_equal(found.outcome(Feature::Chunks), 1e-6), "{found}");
    let error = verify(&model, &exact(KvLayout::Split).batch_tokens(8)).unwrap_err();
    assert_eq!(error, VerifyError::TooSmall { what: "batch", has: 8, needs: 29 });
    let error = verify(&model, &exact(KvLayout::Split).sequences(0)).unwrap_err();
    assert!(matches!(error, VerifyError::Context(ContextError::SequencesOutOfRange { got: 0, .. })));
    still_works(&mut Context::new(&model, &batch_suite::exact_params()).unwrap());
}

/// Where nothing can be told from outputs, nothing is said to be right.
#[test]
fn outputs_that_say_nothing_are_errors() {
    let mut gguf = fixtures::gguf::Gguf::default();
    gguf.set("general.architecture", "llama");
    for (key, value) in [("context_length", 256_u32), ("embedding_length", 32), ("block_count", 1), ("vocab_size", 16)]
    {
        gguf.set(format!("llama.{key}"), value);
    }
    gguf.set("llama.feed_forward_length", 64_u32);
    gguf.set("llama.attention.head_count", 2_u32);
    gguf.set("llama.attention.layer_norm_rms_epsilon", 1e-5_f32);
    gguf.set("tokenizer.ggml.model", "none");
    let metadata = gguf.header();
    for (name, weight) in [("zeros", 0.0), ("not numbers", f32::NAN)] {
        // Rotations are divided by theirs.
        let fill = |tensor: TensorShape<'_>, values: &mut [f32]| {
            values.fill(if tensor.name == "rope_freqs.weight" { 1.0 } else { weight });
        };
        let model = Model::generate(&metadata, &ModelParams::default(), fill).unwrap();
        let error = verify(&model, &exact(KvLayout::Split)).unwrap_err();
        match weight {
            0.0 => assert_eq!(error, VerifyError::AlwaysTheSame, "{name}"),
            _ => assert!(matches!(error, VerifyError::Output(OutputError::NotNumbers { .. })), "{name}: {error}"),
        }
    }
}

#[test]
fn what_is_found_is_printed() {
    let found = found(Family::Mamba, Weights::F32, &exact(KvLayout::Split));
    let text = found.to_string();
    assert_eq!(text.lines().count(), Feature::ALL.len());
    assert!(text.contains("several sequences in one batch   equal (error "), "{text}");
    assert!(text.contains("a truncated sequence             not possible: "), "{text}");
}

#[test]
fn what_is_computed_wrong_is_found() {
    let model = batch_suite::architectures::architecture("cogvlm").unwrap();
    let params = exact(KvLayout::Split);
    // Outputs of some rows and not of others are taken from the wrong rows (models/cogvlm.cpp:150).
    // SAFETY: wrong outputs, but all of them written: the fault is known.
    let raw = unsafe { params.clone().without_fallback() };
    let found = verify(&model, &raw).unwrap();
    assert!(!found.is_right(), "{found}");
    assert!(matches!(found.outcome(Feature::Sequences), Some(Outcome::Different { error }) if *error > 0.1), "{found}");
    assert!(is_equal(found.outcome(Feature::Prompt), 1e-6), "every row is an output: {found}");
    let found = verify(&model, &params).unwrap();
    assert!(found.is_right(), "with the fault corrected:\n{found}");
}
