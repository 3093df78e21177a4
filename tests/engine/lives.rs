//! Engines that end while there is work, handles that outlive them, many engines; nothing stays behind.

use std::thread;
use std::time::Duration;

use batch_suite::{encoder, is_leak_check, prompt, tiny};
use fixtures::Weights;
use llama_safe::{
    DecodeError, EmbedError, EmbedderParams, EndReason, Engine, FallbackPolicy, GenerateError, Generation, Pooling,
    Request, Shutdown, Stats, StopConditions,
};

use crate::watched;
use crate::wishes::builder;

fn endless(salt: u32) -> Request {
    Request::tokens(prompt(salt, 6)).stop(StopConditions::new().end_of_text(false))
}

fn small() -> Engine {
    builder(&tiny(Weights::F16)).sequences(3).context_tokens(3 * 512).start().unwrap()
}

fn adds_up(stats: &Stats, submitted: u64) {
    assert_eq!(stats.submitted, submitted, "{stats:?}");
    assert_eq!(stats.completed + stats.cancelled + stats.failed, submitted, "{stats:?}");
    assert_eq!((stats.queued, stats.running), (0, 0), "{stats:?}");
}

#[test]
fn shutdown_finishes() {
    watched(|| {
        let engine = small();
        let all: Vec<Generation> = (0..9).map(|salt| engine.generate(endless(salt).max_tokens(60)).unwrap()).collect();
        let stats = engine.shutdown(Shutdown::Finish);
        adds_up(&stats, 9);
        assert_eq!(stats.completed, 9);
        assert_eq!(stats.generated_tokens, 540);
        assert!(all.into_iter().all(|generation| generation.wait().tokens.len() == 60));
    });
}

/// Cancelled is what it says, whatever is done about a batch that fails: the one that was stopped is no failure.
#[test]
fn shutdown_cancels() {
    watched(|| {
        for policy in [FallbackPolicy::NativeOnly, FallbackPolicy::Split, FallbackPolicy::Sequential] {
            for pause in 0..8 {
                let engine = builder(&tiny(Weights::F16)).sequences(3).context_tokens(3 * 2048).fallback(policy);
                let engine = engine.start().unwrap();
                let all: Vec<Generation> = (0..9)
                    .map(|salt| {
                        let request = Request::tokens(prompt(salt, 900)).max_tokens(800);
                        engine.generate(request.stop(StopConditions::new().end_of_text(false))).unwrap()
                    })
                    .collect();
                thread::sleep(Duration::from_millis(pause * 3));
                let stats = engine.shutdown(Shutdown::Cancel);
                adds_up(&stats, 9);
                assert_eq!((stats.failed, stats.completed), (0, 0), "{policy:?}: {stats:?}");
                for generation in all {
                    assert_eq!(generation.wait().reason, EndReason::Cancelled, "{policy:?}");
                }
            }
        }
    });
}

#[test]
fn shutdown_finishes_what_it_can() {
    watched(|| {
        let engine = small();
        let soon = engine.generate(endless(1).max_tokens(5)).unwrap();
        let never = engine.generate(endless(2).when_full(llama_safe::WhenFull::Discard { keep: 0 })).unwrap();
        let stats = engine.shutdown(Shutdown::FinishWithin(Duration::from_millis(300)));
        adds_up(&stats, 2);
        assert_eq!((stats.completed, stats.cancelled), (1, 1));
        assert_eq!(soon.wait().tokens.len(), 5);
        let never = never.wait();
        assert_eq!(never.reason, EndReason::Cancelled);
        assert!(never.tokens.len() > 5);
        // Nothing to do is done at once, and for ever is long.
        adds_up(&small().shutdown(Shutdown::FinishWithin(Duration::MAX)), 0);
        adds_up(&small().shutdown(Shutdown::FinishWithin(Duration::ZERO)), 0);
    });
}

#[test]
fn dropped_with_work_in_flight() {
    watched(|| {
        for count in 0..12 {
            let engine = small();
            let mut all: Vec<Generation> = (0..count).map(|salt| engine.generate(endless(salt)).unwrap()).collect();
            if let Some(first) = all.first_mut() {
                assert!(first.next().unwrap().is_ok());
            }
            let cancellers: Vec<_> = all.iter().map(Generation::canceller).collect();
            drop(engine);
            for mut generation in all {
                assert!(generation.by_ref().all(|piece| piece.is_ok()));
                assert_eq!(generation.end().unwrap().reason, EndReason::Cancelled);
            }
            cancellers.iter().for_each(llama_safe::Canceller::cancel);
        }
    });
}

/// Before it begins, while it runs, when it is over, half read; on another thread.
#[test]
fn dropped_handles() {
    watched(|| {
        let engine = small();
        let mut submitted = 0;
        for round in 0..if is_leak_check() { 3 } else { 40 } {
            let mut some: Vec<Generation> =
                (0..7).map(|salt| engine.generate(endless(salt).max_tokens(10)).unwrap()).collect();
            submitted += 7;
            some.truncate(6);
            assert!(some[round % 6].next().unwrap().is_ok());
            let other = some.swap_remove(round % 5);
            thread::spawn(move || drop(other)).join().unwrap();
            let last = some.pop().unwrap();
            assert_eq!(last.wait().tokens.len(), 10);
            drop(some);
        }
        let stats = engine.shutdown(Shutdown::Finish);
        adds_up(&stats, submitted);
        assert_eq!(stats.failed, 0);
    });
}

/// What an engine has in memory goes with it.
#[test]
fn many_engines() {
    watched(|| {
        let model = tiny(Weights::F16);
        let mut early = None;
        for round in 0..if is_leak_check() { 4 } else { 60 } {
            let engine = builder(&model).sequences(2).context_tokens(512).start().unwrap();
            if round % 3 > 0 {
                let generation = engine.generate(endless(round)).unwrap();
                if round % 3 == 1 {
                    assert!(engine.generate(endless(round).max_tokens(5)).unwrap().wait().tokens.len() == 5);
                }
                drop(engine);
                drop(generation);
            }
            if round == 6 {
                early = batch_suite::resident();
            }
        }
        if let (Some(early), Some(late)) = (early, batch_suite::resident()) {
            println!("resident memory {early} bytes after 6 engines, {late} after 60");
        }
    });
}

#[test]
fn two_engines_on_one_model() {
    watched(|| {
        let model = tiny(Weights::F16);
        let engines =
            [0, 1].map(|_| builder(&model).sequences(2).context_tokens(512).deterministic(true).start().unwrap());
        let all =
            (0..6).map(|salt| engines.each_ref().map(|engine| engine.generate(endless(salt).max_tokens(30)).unwrap()));
        for both in all.collect::<Vec<_>>() {
            let [one, other] = both.map(Generation::wait);
            assert_eq!((one.text, one.tokens), (other.text, other.tokens));
        }
    });
}

#[test]
fn asked_from_many_threads() {
    watched(|| {
        let engine = small();
        thread::scope(|scope| {
            for thread in 0..8 {
                let engine = &engine;
                scope.spawn(move || {
                    for salt in 0..8 {
                        let answer = engine.generate(endless(thread * 8 + salt).max_tokens(5)).unwrap().wait();
                        assert_eq!(answer.tokens.len(), 5);
                        assert!(engine.stats().submitted > 0);
                    }
                });
            }
        });
        adds_up(&engine.shutdown(Shutdown::Finish), 64);
    });
}

/// An answer in the middle of its step is stopped, and so are vectors.
#[test]
fn embeddings_end_with_their_engine() {
    watched(|| {
        let settings = EmbedderParams::default().pooling(Pooling::Mean).batch_tokens(64);
        let engine =
            builder(&tiny(Weights::F16)).sequences(2).context_tokens(512).embeddings(settings).start().unwrap();
        let texts = vec!["a text of some words"; 2000];
        let vectors: Vec<_> = (0..3).map(|_| engine.embed(&texts).unwrap()).collect();
        drop(engine);
        for vectors in vectors {
            assert!(matches!(vectors.wait(), Err(EmbedError::Stopped)));
        }
        // A model that embeds only is none for an engine.
        assert!(builder(&encoder()).start().is_err());
    });
}

/// What is said about the end is what was done.
#[test]
fn failures_are_told_once() {
    watched(|| {
        let engine = builder(&tiny(Weights::F16)).sequences(2).context_tokens(512);
        let engine = engine.faults(|_| Some(llama_safe::Fault::Failed)).start().unwrap();
        let mut generation = engine.generate(endless(1)).unwrap();
        let error = generation.next().unwrap().unwrap_err();
        assert!(matches!(error, GenerateError::Decode(DecodeError::Failed { .. })), "{error}");
        assert!(generation.next().is_none() && generation.next().is_none());
        assert_eq!(generation.wait().reason, EndReason::Failed(error));
        adds_up(&engine.shutdown(Shutdown::Finish), 1);
    });
}
