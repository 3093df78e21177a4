//! Calls that fail: who is not to blame gets his answer, the same as ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use batch_suite::{family, is_leak_check, tiny};
use fixtures::{Family, Weights};
use llama_safe::{
    Call, Completion, DecodeError, EndReason, EngineBuilder, FallbackPolicy, Fault, GenerateError, KvLayout, Model,
    Request, Shutdown, WhenFull,
};

use crate::watched;
use crate::wishes::{EXACT, NOISE, Want, Wish, all_alone, ask, assert_answer, assert_answers, builder, exact, wishes};

const POLICIES: [FallbackPolicy; 2] = [FallbackPolicy::Split, FallbackPolicy::Sequential];

/// Before, for want of room, and after so many questions whether to go on; the last of these is behind the end of most.
const FAULTS: [Fault; 5] = [Fault::Failed, Fault::NoRoom, Fault::Aborted(0), Fault::Aborted(3), Fault::Aborted(9)];

/// Some with a beginning in common, few enough that a run takes little.
fn some() -> Vec<Wish> {
    let mut all = wishes(7);
    all.iter_mut().for_each(|wish| wish.tokens = wish.tokens.min(6));
    all
}

fn small(model: &Model) -> EngineBuilder {
    builder(model).context(exact()).sequences(3).context_tokens(3 * 256)
}

/// The calls of a kind fail for which `plan` has a fault, by their number; how many there were.
fn failing(
    builder: EngineBuilder,
    kind: Call,
    plan: impl Fn(u32) -> Option<Fault> + Send + 'static,
) -> (EngineBuilder, Arc<AtomicU32>) {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let builder =
        builder.faults(move |call| if call == kind { plan(counted.fetch_add(1, Ordering::Relaxed)) } else { None });
    (builder, calls)
}

/// One call of a kind fails: each of those that a run makes, in turn.
fn one_call_fails(
    model: &Model,
    kind: Call,
    make: impl Fn(&Model) -> EngineBuilder,
    wishes: &[Wish],
    want: &[Want],
    what: &str,
) -> u32 {
    let mut most = 0;
    for policy in POLICIES {
        for fault in FAULTS {
            // Half-way there is with decodes alone.
            if matches!(fault, Fault::Aborted(_)) && kind != Call::Decode {
                continue;
            }
            let mut bad = 0;
            loop {
                let (builder, calls) = failing(make(model), kind, move |call| (call == bad).then_some(fault));
                let engine = builder.fallback(policy).start().unwrap();
                let got = ask(&engine, wishes);
                let what = format!("{what}, {kind:?} {bad} {fault:?} {policy:?}");
                assert_answers(&got, want, EXACT, 90, &what);
                let stats = engine.shutdown(Shutdown::Finish);
                assert_eq!(stats.completed, wishes.len() as u64, "{what}: {stats:?}");
                assert_eq!((stats.fallbacks.ended, stats.running, stats.queued), (0, 0, 0), "{what}: {stats:?}");
                most = most.max(calls.load(Ordering::Relaxed));
                bad += if is_leak_check() { 9 } else { 1 };
                if bad >= calls.load(Ordering::Relaxed) {
                    break;
                }
            }
        }
    }
    most
}

#[test]
fn one_decode_fails() {
    watched(|| {
        let wishes = some();
        let model = tiny(Weights::F32);
        let want = all_alone(&model, &exact(), &wishes, NOISE);
        one_call_fails(&model, Call::Decode, small, &wishes, &want, "split");
        let unified = |model: &Model| small(model).layout(KvLayout::Unified).context_tokens(256);
        one_call_fails(&model, Call::Decode, unified, &wishes, &want, "unified");
    });
}

#[test]
fn one_decode_of_states_fails() {
    watched(|| {
        let wishes = some();
        for which in [Family::Mamba, Family::Hybrid] {
            let model = family(which, Weights::F32);
            let want = all_alone(&model, &exact(), &wishes, NOISE);
            one_call_fails(&model, Call::Decode, small, &wishes, &want, which.name());
        }
    });
}

/// Beginnings in common, one after the other, so that they are copied, cut, sent away and brought back.
#[test]
fn one_call_of_memory_fails() {
    watched(|| {
        let model = tiny(Weights::F32);
        let wishes: Vec<Wish> = (0..8)
            .map(|index| {
                let base = batch_suite::prompt(700 + index % 3, 80);
                let own = batch_suite::prompt(index, 3 + index % 5);
                Wish { prompt: [base, own].concat(), ..Wish::greedy(index, 1, 5) }
            })
            .collect();
        let want = all_alone(&model, &exact(), &wishes, NOISE);
        for layout in [KvLayout::Split, KvLayout::Unified] {
            for kind in [Call::Fork, Call::Truncate, Call::Save, Call::Restore] {
                // Where there are enough, who comes later forks the one that runs; where not, what is cached is cut and leaves.
                let sequences = if kind == Call::Fork { 4 } else { 2 };
                let cells = if layout == KvLayout::Split || kind == Call::Fork { 256 * sequences } else { 256 };
                let make = |model: &Model| {
                    let builder = small(model).sequences(sequences).context_tokens(cells).layout(layout);
                    // Room for a beginning or two.
                    builder.spill_bytes(400_000)
                };
                if kind == Call::Truncate && layout == KvLayout::Unified {
                    // There a beginning is forked, which costs nothing: what is cut off are guesses, below.
                    continue;
                }
                let calls = one_call_fails(&model, kind, make, &wishes, &want, &format!("{layout:?}"));
                assert!(calls > 0, "{layout:?}: no calls of {kind:?}");
            }
        }
    });
}

/// Guesses that were wrong and cannot be cut off: the text is computed again.
#[test]
fn one_wrong_guess_stays() {
    watched(|| {
        let model = tiny(Weights::F32);
        let wishes: Vec<Wish> = (0..3).map(|index| Wish::greedy(index, 9, 90)).collect();
        let want = all_alone(&model, &exact(), &wishes, NOISE);
        for layout in [KvLayout::Split, KvLayout::Unified] {
            let make = |model: &Model| small(model).layout(layout).speculation(true);
            let calls = one_call_fails(&model, Call::Truncate, make, &wishes, &want, &format!("{layout:?}"));
            assert!(calls > 0, "{layout:?}: no guess was wrong");
        }
    });
}

#[test]
fn one_shift_fails() {
    watched(|| {
        let model = tiny(Weights::F32);
        let (builder, calls) = failing(small(&model), Call::Shift, |call| (call == 1).then_some(Fault::Failed));
        let engine = builder.start().unwrap();
        let request = Request::tokens(batch_suite::prompt(1, 200)).max_tokens(600);
        let answer = engine.generate(request.when_full(WhenFull::Discard { keep: 8 })).unwrap().wait();
        assert_eq!(answer.tokens.len(), 600, "{:?}", answer.reason);
        assert!(calls.load(Ordering::Relaxed) > 2);
    });
}

/// As often as never twice in a row by himself, nobody is given up.
#[test]
fn many_decodes_fail() {
    watched(|| {
        for which in [Family::Llama, Family::Mamba, Family::Hybrid] {
            let wishes = some();
            let model = family(which, Weights::F32);
            let want = all_alone(&model, &exact(), &wishes, NOISE);
            for policy in POLICIES {
                for fault in FAULTS {
                    let (builder, _) =
                        failing(small(&model), Call::Decode, move |call| (call % 3 == 1).then_some(fault));
                    let engine = builder.fallback(policy).start().unwrap();
                    let got = ask(&engine, &wishes);
                    assert_answers(&got, &want, EXACT, 90, &format!("{which} {fault:?} {policy:?}"));
                }
            }
        }
    });
}

/// From some call on everything fails: each ends with the error, after a text that is right.
#[test]
fn every_decode_fails() {
    watched(|| {
        let wishes = some();
        let model = tiny(Weights::F32);
        let want = all_alone(&model, &exact(), &wishes, NOISE);
        for policy in [FallbackPolicy::NativeOnly, FallbackPolicy::Split, FallbackPolicy::Sequential] {
            for fault in FAULTS {
                for first in [0, 1, 5, 9] {
                    let what = format!("{fault:?} {policy:?} from {first} on");
                    let (builder, _) =
                        failing(small(&model), Call::Decode, move |call| (call >= first).then_some(fault));
                    let engine = builder.fallback(policy).start().unwrap();
                    for (got, want) in ask(&engine, &wishes).iter().zip(&want) {
                        match &got.reason {
                            EndReason::Failed(GenerateError::Decode(
                                DecodeError::Failed { .. } | DecodeError::NoSlot { .. } | DecodeError::Aborted { .. },
                            )) => {
                                let common = got.tokens.len().min(want.steady);
                                assert_eq!(got.tokens[..common], want.tokens[..common], "{what}");
                            }
                            // Those that were done before, and decodes with fewer questions than that.
                            _ => assert_answer(got, want, EXACT, &what),
                        }
                    }
                    let stats = engine.shutdown(Shutdown::Finish);
                    assert_eq!(stats.submitted, wishes.len() as u64, "{what}");
                    assert_eq!(stats.completed + stats.failed, stats.submitted, "{what}: {stats:?}");
                    if matches!(fault, Fault::Failed | Fault::NoRoom | Fault::Aborted(0)) {
                        assert_eq!(stats.failed, stats.fallbacks.ended, "{what}: {stats:?}");
                        assert!(stats.failed > 0, "{what}: {stats:?}");
                    }
                }
            }
        }
    });
}

/// Without a fallback a batch that fails is the end of its requests, and of no other.
#[test]
fn native_only_ends_the_batch() {
    watched(|| {
        let wishes = some();
        let model = tiny(Weights::F32);
        let want = all_alone(&model, &exact(), &wishes, NOISE);
        for bad in 0..12 {
            let (builder, _) = failing(small(&model), Call::Decode, move |call| (call == bad).then_some(Fault::Failed));
            let engine = builder.fallback(FallbackPolicy::NativeOnly).start().unwrap();
            let got = ask(&engine, &wishes);
            let is_failed = |answer: &&Completion| matches!(answer.reason, EndReason::Failed(_));
            let failed = got.iter().filter(is_failed).count();
            assert!((1..=3).contains(&failed), "call {bad}: {failed} failed");
            for (index, (got, want)) in got.iter().zip(&want).enumerate().filter(|(_, (got, _))| !is_failed(got)) {
                assert_answer(got, want, EXACT, &format!("call {bad}, request {index}"));
            }
            let stats = engine.shutdown(Shutdown::Finish);
            assert_eq!((stats.failed, stats.fallbacks.ended), (failed as u64, failed as u64), "{stats:?}");
        }
    });
}
