//! An answer is the same alone and among others.

use std::time::Duration;

use batch_suite::{family, is_leak_check, params, tiny};
use fixtures::{Family, Weights};
use llama_safe::{Completion, Determinism, Engine, EngineBuilder, KvLayout, Model, StepCosts, Workload};

use crate::watched;
use crate::wishes::{Compared, EXACT, NOISE, Want, Wish, all_alone, ask, assert_answers, builder, exact, wishes};

/// How many are asked at the same time.
fn crowd() -> u32 {
    if is_leak_check() { 12 } else { 64 }
}

/// Every bit, among others and alone in the engine; what it takes.
fn same_bits(model: &Model, count: u32, what: &str) -> Determinism {
    let wishes = wishes(count);
    let want = all_alone(model, &params(), &wishes, 0.0);
    let engine = builder(model).sequences(16).context_tokens(16 * 256).deterministic(true).start().unwrap();
    let got = ask(&engine, &wishes);
    assert_answers(&got, &want, Compared::Exactly, 100, what);
    for (index, wish) in wishes.iter().enumerate().take(6) {
        let one = ask(&engine, std::slice::from_ref(wish));
        assert_answers(&one, &want[index..=index], Compared::Exactly, 100, &format!("{what}, request {index} alone"));
    }
    engine.determinism()
}

#[test]
fn bits_of_quantised_weights() {
    watched(|| {
        let determinism = same_bits(&tiny(Weights::Q8_0), crowd(), "Q8_0");
        assert_eq!(determinism, Determinism::InBatches);
    });
}

#[test]
fn bits_of_floats() {
    watched(|| {
        let determinism = same_bits(&tiny(Weights::F16), crowd(), "F16");
        assert_ne!(determinism, Determinism::Off);
    });
}

#[test]
fn bits_of_each_family() {
    watched(|| {
        for which in [Family::Qwen2, Family::Qwen3, Family::Moe, Family::Gemma, Family::Qwen2Vl] {
            for weights in [Weights::Q8_0, Weights::F16] {
                let determinism = same_bits(&family(which, weights), 18, &format!("{which} {weights}"));
                assert_ne!(determinism, Determinism::Off);
            }
        }
    });
}

#[test]
fn bits_of_states() {
    watched(|| {
        for which in [Family::Mamba, Family::Rwkv, Family::Hybrid] {
            for weights in [Weights::Q8_0, Weights::F32] {
                let determinism = same_bits(&family(which, weights), 18, &format!("{which} {weights}"));
                assert_ne!(determinism, Determinism::Off);
            }
        }
    });
}

/// Texts of very different lengths, so that some see many more cells than others; a context that is small; guesses.
#[test]
fn bits_with_long_texts_and_guesses() {
    watched(|| {
        let model = tiny(Weights::Q8_0);
        let wishes: Vec<Wish> =
            (0..8).map(|index| Wish::greedy(index, if index % 2 == 0 { 600 } else { 9 }, 40)).collect();
        let mut context = llama_safe::Context::new(&model, &params().context_tokens(1024)).unwrap();
        let want: Vec<Want> = wishes.iter().map(|wish| crate::wishes::alone(&mut context, wish, 0.0)).collect();
        for speculation in [false, true] {
            let builder = builder(&model).sequences(4).context_tokens(4 * 1024).deterministic(true);
            let engine = builder.speculation(speculation).start().unwrap();
            let got = ask(&engine, &wishes);
            assert_answers(&got, &want, Compared::Exactly, 100, &format!("speculation {speculation}"));
            let stats = engine.shutdown(llama_safe::Shutdown::Finish);
            assert_eq!(stats.accepted_tokens > 0, speculation, "{stats:?}");
        }
    });
}

/// Some of them, through the engine that a builder makes, in an order of their own.
fn differently(
    model: &Model,
    wishes: &[Wish],
    want: &[Want],
    make: impl Fn(EngineBuilder) -> EngineBuilder,
    what: &str,
) -> Engine {
    let base = builder(model).context(exact()).sequences(8).context_tokens(8 * 256);
    let engine = make(base).start().unwrap_or_else(|error| panic!("{what}: {error}"));
    for step in [1, 5] {
        let count = wishes.len();
        // 5 and 48 have no common factor.
        let order: Vec<usize> = (0..count).map(|index| index * step % count).collect();
        let shuffled: Vec<Wish> = order.iter().map(|index| wishes[*index].clone()).collect();
        let answers = ask(&engine, &shuffled);
        let mut got: Vec<(usize, Completion)> = order.into_iter().zip(answers).collect();
        got.sort_by_key(|(index, _)| *index);
        let got: Vec<Completion> = got.into_iter().map(|(_, answer)| answer).collect();
        assert_answers(&got, want, EXACT, 90, &format!("{what}, order {step}"));
    }
    engine
}

fn costs() -> StepCosts {
    // Two and eight are bad, four is good.
    let points = [(1, 4), (2, 9), (3, 9), (4, 9), (5, 30), (8, 60), (32, 300)];
    StepCosts::new(points.map(|(width, cost)| (width, Duration::from_millis(cost)))).unwrap()
}

/// Chunks, layouts, groups, pre-emption, copies outside, guesses: what is said does not depend on it.
fn whatever_the_engine_does(model: &Model, count: u32, what: &str) {
    let wishes = wishes(count);
    let want = all_alone(model, &exact(), &wishes, NOISE);
    type Make = fn(EngineBuilder) -> EngineBuilder;
    let ways: [(&str, Make); 9] = [
        ("chunk 1", |builder| builder.prompt_chunk(1)),
        ("chunk 7", |builder| builder.prompt_chunk(7)),
        ("one sequence", |builder| builder.sequences(1).context_tokens(256)),
        ("no sharing", |builder| builder.share_prefixes(false)),
        ("groups", |builder| builder.step_costs(costs())),
        ("more where it pays", |builder| {
            builder.sequences(3).context_tokens(3 * 256).sequences_at_most(12).step_costs(costs())
        }),
        ("guesses", |builder| builder.speculation(true)),
        ("one pool", |builder| builder.expect(Workload::SharedPrefixes).spill_bytes(1 << 20)),
        ("tight pool", |builder| builder.layout(KvLayout::Unified).context_tokens(256).spill_bytes(4096)),
    ];
    for (way, make) in ways {
        differently(model, &wishes, &want, make, &format!("{what}, {way}"));
    }
}

#[test]
fn whatever_the_engine_does_with_attention() {
    watched(|| whatever_the_engine_does(&tiny(Weights::F32), 48, "llama"));
}

#[test]
fn whatever_the_engine_does_with_states() {
    watched(|| {
        whatever_the_engine_does(&family(Family::Mamba, Weights::F32), 24, "mamba");
        whatever_the_engine_does(&family(Family::Hybrid, Weights::F32), 24, "hybrid");
    });
}

/// Bit for bit again, since Gemma's floats are rounded through a table.
#[test]
fn whatever_the_engine_does_with_windows() {
    watched(|| {
        let model = family(Family::Gemma, Weights::Q8_0);
        let wishes = wishes(24);
        let want = all_alone(&model, &params(), &wishes, 0.0);
        for (chunk, speculation) in [(1, false), (7, true), (32, false)] {
            let builder = builder(&model).sequences(6).context_tokens(6 * 256).prompt_chunk(chunk);
            let engine = builder.speculation(speculation).step_costs(costs()).deterministic(true).start().unwrap();
            let got = ask(&engine, &wishes);
            assert_answers(&got, &want, Compared::Exactly, 100, &format!("chunk {chunk}, speculation {speculation}"));
        }
    });
}

/// In cells for one text and a half, eight take turns.
#[test]
fn pre_emption_changes_nothing() {
    watched(|| {
        let model = tiny(Weights::F32);
        for spill in [0, 1 << 20] {
            let wishes: Vec<Wish> = (0..8).map(|index| Wish::greedy(index, 40, 60)).collect();
            let want = all_alone(&model, &exact(), &wishes, NOISE);
            let engine = builder(&model).context(exact()).sequences(8).context_tokens(256);
            let engine = engine.layout(KvLayout::Unified).share_prefixes(false).spill_bytes(spill).start().unwrap();
            let got = ask(&engine, &wishes);
            assert_answers(&got, &want, EXACT, 90, &format!("{spill} bytes outside"));
            let stats = engine.shutdown(llama_safe::Shutdown::Finish);
            assert!(stats.preemptions > 0, "{stats:?}");
            assert_eq!(stats.restored > 0, spill > 0, "{stats:?}");
        }
    });
}

/// Every second is cancelled, dropped or out of time while the others run.
#[test]
fn who_leaves_changes_nothing() {
    watched(|| {
        let model = tiny(Weights::F32);
        let wishes = wishes(48);
        let want = all_alone(&model, &exact(), &wishes, NOISE);
        let engine = builder(&model).context(exact()).sequences(6).context_tokens(6 * 256).start().unwrap();
        let mut kept = Vec::new();
        for (index, wish) in wishes.iter().enumerate() {
            let request = wish.request();
            match index % 8 {
                1 => engine.generate(request).unwrap().cancel(),
                3 => drop(engine.generate(request).unwrap()),
                5 => drop(engine.generate(request.deadline(Duration::from_millis(index as u64))).unwrap()),
                7 => {
                    let mut some = engine.generate(request).unwrap();
                    assert!(some.next().unwrap().is_ok());
                }
                _ => kept.push((index, engine.generate(request).unwrap())),
            }
        }
        let (got, want): (Vec<_>, Vec<_>) =
            kept.into_iter().map(|(index, kept)| (kept.wait(), want[index].clone())).unzip();
        assert_answers(&got, &want, EXACT, 90, "beside some who leave");
        let stats = engine.shutdown(llama_safe::Shutdown::Finish);
        assert_eq!(stats.submitted, 48);
        assert_eq!(stats.completed + stats.cancelled + stats.failed, 48, "{stats:?}");
    });
}
