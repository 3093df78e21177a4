//! The tuner: what it measures, what it makes of that, what it refuses. Which setting is fastest is the machine's business; here
//! it is asserted that the choice follows from what was measured.

use std::time::Duration;

use batch_suite::{family, tiny};
use fixtures::{Family, Weights};
use llama_safe::{ContextParams, KvLayout, Measured, Model, Request, Tuned, Tuner, TunerError};

fn tuner(model: &Model) -> Tuner {
    // One thread: tests run beside each other, and threads that wait for each other would not get their turn.
    Tuner::new(model)
        .requests(12, 8)
        .sequence_tokens(64)
        .most_sequences(8)
        .threads([1])
        .patience(Duration::from_secs(30))
}

const MICRO_BATCHES: [u32; 4] = [512, 256, 128, 64];

fn steps(tuned: &Tuned) -> Vec<&Measured> {
    let same = |one: &&Measured| (one.threads, one.kv_layout) == (tuned.threads, tuned.kv_layout);
    tuned.measured.iter().filter(same).filter(|one| one.sequences.is_some()).collect()
}

/// Generated tokens in a second, prompts of 12 and answers of 8 tokens.
fn rate(step: &Measured, prefill: f64) -> f64 {
    8.0 / (12.0 / prefill + 8.0 / step.tokens_per_second)
}

#[test]
fn the_choice_is_the_best_that_was_measured() {
    let model = tiny(Weights::Q8_0);
    let tuned = tuner(&model).tune().unwrap();
    assert!(!tuned.cut_short && tuned.threads == 1, "{tuned}");
    let of = |layout| tuned.measured.iter().filter(|one| one.kv_layout == layout && one.sequences.is_some()).count();
    assert!(of(KvLayout::Split) >= 4 && of(KvLayout::Unified) >= 4, "1, 2, 4 and 8 at the least of each: {tuned}");
    // Of the layout that was better when micro-batches had their turn.
    let prompts = |layout| -> Vec<u32> {
        let of_layout = tuned.measured.iter().filter(|one| one.kv_layout == layout && one.sequences.is_none());
        of_layout.map(|one| one.micro_batch_tokens).collect()
    };
    assert!([KvLayout::Split, KvLayout::Unified].map(prompts).contains(&MICRO_BATCHES.to_vec()), "{tuned}");

    let prefill = tuned.prompt_tokens_per_second;
    let steps = steps(&tuned);
    let chosen = steps.iter().find(|step| step.sequences == Some(tuned.sequences)).expect("it was measured");
    let most = steps.iter().map(|step| rate(step, prefill)).fold(0.0, f64::max);
    assert!(rate(chosen, prefill) >= most * 0.95, "{tuned}");
    let text = tuned.to_string();
    assert!(text.contains("best: 1 threads") && text.lines().count() == tuned.measured.len() + 1, "{text}");
}

#[test]
fn its_engine_runs_with_what_was_found() {
    let model = tiny(Weights::Q8_0);
    let tuned = tuner(&model).tune().unwrap();
    let engine = tuned.engine(&model).start().unwrap();
    assert_eq!(engine.layout(), tuned.kv_layout);
    assert!(engine.limits().sequence_tokens() >= 64 && engine.limits().sequences() >= tuned.sequences);
    assert_eq!(engine.step_costs().map(|costs| costs.points().len()), Some(steps(&tuned).len()));
    assert_eq!(engine.generate(Request::text("Once").max_tokens(5)).unwrap().wait().tokens.len(), 5);

    let context = llama_safe::Context::new(&model, &tuned.context_params()).unwrap();
    assert_eq!(context.limits().sequences(), tuned.sequences);
}

#[test]
fn memories_that_cannot_go_back_are_measured_too() {
    for kind in [Family::Mamba, Family::Hybrid, Family::Gemma] {
        let tuned = tuner(&family(kind, Weights::F16)).most_sequences(4).tune().unwrap();
        assert!((1..=4).contains(&tuned.sequences), "{kind:?}: {tuned}");
    }
}

#[test]
fn a_gap_bounds_the_sequences() {
    let model = tiny(Weights::Q8_0);
    let error = tuner(&model).token_gap(Duration::from_nanos(1)).tune().unwrap_err();
    assert!(
        matches!(error, TunerError::GapTooShort { gap, fastest } if gap == Duration::from_nanos(1) && fastest > gap)
    );
    let tuned = tuner(&model).token_gap(Duration::from_secs(60)).tune().unwrap();
    assert!(tuned.token_gap <= Duration::from_secs(60));
}

/// What a context of split cells takes, with so many tokens for each sequence.
fn memory(model: &Model, sequences: u32, tokens: u32, micro_batch: u32) -> u64 {
    let params = ContextParams::default().sequences(sequences).context_tokens(tokens * sequences).threads(1);
    model.estimate(&params.micro_batch_tokens(micro_batch)).unwrap().resident().context()
}

#[test]
fn a_memory_limit_bounds_the_sequences() {
    let model = tiny(Weights::Q8_0);
    // Between what three and four sequences take with the smallest passes, which leave most room.
    let limit = u64::midpoint(memory(&model, 3, 64, 64), memory(&model, 4, 64, 64));
    let tuned = tuner(&model).context(ContextParams::default().memory_limit(limit)).tune().unwrap();
    let split = tuned.measured.iter().filter(|one| one.kv_layout == KvLayout::Split);
    assert_eq!(split.filter_map(|one| one.sequences).max(), Some(3), "{tuned}");
    let context = llama_safe::Context::new(&model, &tuned.context_params()).unwrap();
    assert!(context.memory_used().unwrap().context() <= limit, "{tuned}");

    let error = tuner(&model).context(ContextParams::default().memory_limit(1000)).tune().unwrap_err();
    assert!(error.to_string().contains("1000"), "{error}");
}

#[test]
fn passes_that_do_not_fit_into_memory_are_left_out() {
    let model = tiny(Weights::Q8_0);
    // No pass is longer than the context.
    let limit = memory(&model, 1, 512, 128);
    assert!(limit < memory(&model, 1, 512, 256), "smaller passes take less memory");
    let tuner = tuner(&model).sequence_tokens(512).context(ContextParams::default().memory_limit(limit));
    let tuned = tuner.tune().unwrap();
    assert!(tuned.micro_batch_tokens <= 128, "{tuned}");
    assert!(tuned.measured.iter().all(|one| one.micro_batch_tokens <= 128), "{tuned}");
    assert!(
        llama_safe::Context::new(&model, &tuned.context_params()).unwrap().memory_used().unwrap().context() <= limit
    );
}

#[test]
fn patience_ends_it_with_what_there_is() {
    let tuned = tuner(&tiny(Weights::Q8_0)).patience(Duration::ZERO).tune().unwrap();
    assert!(tuned.cut_short);
    assert_eq!(tuned.measured.len(), 2, "one step and one prompt: {tuned}");
    assert!(tuned.to_string().contains("not all was measured"));
}

#[test]
fn what_cannot_be_tuned_is_told_in_numbers() {
    let model = tiny(Weights::F16);
    let refused = |tuner: Tuner| tuner.tune().unwrap_err().to_string();
    assert_eq!(refused(tuner(&model).requests(0, 8)), "prompt tokens: 1 or more, 0 was given");
    assert_eq!(refused(tuner(&model).requests(8, 0)), "generated tokens: 1 or more, 0 was given");
    assert_eq!(refused(tuner(&model).most_sequences(0)), "most_sequences: 1 or more, 0 was given");
    assert_eq!(refused(tuner(&model).threads([])), "the first of threads: 1 or more, 0 was given");
    let error = tuner(&model).requests(60, 60).tune().unwrap_err();
    assert_eq!(error, TunerError::RequestTooLong { tokens: 120, limit: 64 });
    let error = tuner(&model).context(ContextParams::default().batch_tokens(0)).tune().unwrap_err();
    assert!(matches!(error, TunerError::Context(_)), "{error}");
}
