//! Who waits, who comes first, and what is not taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use batch_suite::{prompt, tiny};
use fixtures::Weights;
use llama_safe::{
    Engine, Generation, Request, RequestError, Sampler, Shutdown, StopConditions, StopError, Token, WhenFull,
};

use crate::watched;
use crate::wishes::builder;

fn endless(salt: u32) -> Request {
    Request::tokens(prompt(salt, 4)).stop(StopConditions::new().end_of_text(false))
}

/// One sequence, taken by an answer that pauses after two tokens.
fn blocked(queue: usize) -> (Engine, Generation) {
    let engine = builder(&tiny(Weights::F16)).sequences(1).context_tokens(4096).queue(queue).unread_pieces(2);
    let engine = engine.share_prefixes(false).start().unwrap();
    let mut first = engine.generate(endless(0)).unwrap();
    assert!(first.next().unwrap().is_ok());
    (engine, first)
}

/// One sequence, taken by an answer that holds up the engine itself until it is let go.
fn busy(queue: usize) -> (Engine, Generation, Arc<AtomicBool>) {
    let engine = builder(&tiny(Weights::F16)).sequences(1).context_tokens(4096).queue(queue).start().unwrap();
    let (open, begun) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (gate, bell) = (Arc::clone(&open), Arc::clone(&begun));
    let sampler = Sampler::chain().custom_fn(move |_| {
        bell.store(true, Ordering::Relaxed);
        while !gate.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(1));
        }
    });
    let held = engine.generate(endless(0).max_tokens(2).sampler(sampler.greedy())).unwrap();
    // From now on it does not wait any more.
    while !begun.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(1));
    }
    (engine, held, open)
}

#[test]
fn a_full_queue_says_so_and_loses_nothing() {
    watched(|| {
        let (engine, held, open) = busy(3);
        let request = endless(1).max_tokens(3);
        let taken: Vec<Generation> = (0..3).map(|_| engine.try_generate(&request).unwrap()).collect();
        let refused = engine.try_generate(&request).map(drop).unwrap_err();
        assert_eq!(refused, RequestError::QueueFull { limit: 3 });
        assert!(refused.to_string().contains("3 requests wait"), "{refused}");
        open.store(true, Ordering::Relaxed);
        assert_eq!(held.wait().tokens.len(), 2);
        assert!(taken.into_iter().all(|generation| generation.wait().tokens.len() == 3));
        // The same request again.
        assert_eq!(engine.try_generate(&request).unwrap().wait().tokens.len(), 3);
        let stats = engine.shutdown(Shutdown::Finish);
        assert_eq!((stats.submitted, stats.completed), (5, 5), "{stats:?}");
    });
}

#[test]
fn generate_waits_for_room() {
    watched(|| {
        let (engine, held, open) = busy(1);
        let first = engine.try_generate(&endless(1).max_tokens(4)).unwrap();
        assert_eq!(engine.try_generate(&endless(1)).map(drop).unwrap_err(), RequestError::QueueFull { limit: 1 });
        thread::scope(|scope| {
            let waits: Vec<_> = (0..20)
                .map(|salt| {
                    let engine = &engine;
                    scope.spawn(move || engine.generate(endless(salt).max_tokens(4)).unwrap().wait())
                })
                .collect();
            thread::sleep(Duration::from_millis(20));
            assert!(waits.iter().all(|waits| !waits.is_finished()));
            open.store(true, Ordering::Relaxed);
            for waits in waits {
                assert_eq!(waits.join().unwrap().tokens.len(), 4);
            }
        });
        assert_eq!((held.wait().tokens.len(), first.wait().tokens.len()), (2, 4));
    });
}

/// Those of a higher priority first; within one, in their order.
#[test]
fn priorities() {
    watched(|| {
        let (engine, held, open) = busy(16);
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let all: Vec<Generation> = [0, 1, -1, 2, 0, 1]
            .into_iter()
            .enumerate()
            .map(|(index, priority)| {
                let order = Arc::clone(&order);
                let tells = move |_: &llama_safe::Progress<'_>| {
                    order.lock().unwrap().push(index);
                    true
                };
                let stop = StopConditions::new().end_of_text(false).custom(tells);
                engine.generate(Request::tokens(prompt(1, 4)).stop(stop).priority(priority)).unwrap()
            })
            .collect();
        open.store(true, Ordering::Relaxed);
        all.into_iter().for_each(|generation| assert_eq!(generation.wait().tokens.len(), 1));
        drop(held);
        assert_eq!(*order.lock().unwrap(), [3, 1, 5, 0, 4, 2]);
    });
}

#[test]
fn what_is_not_taken() {
    watched(|| {
        let (engine, first) = blocked(4);
        let refused = |request: &Request| {
            let error = engine.try_generate(request).map(drop).unwrap_err();
            assert_eq!(engine.generate(request.clone()).map(drop).unwrap_err(), error);
            assert_eq!(engine.generate_each(request.clone(), [Sampler::greedy()]).map(drop).unwrap_err(), error);
            error
        };
        assert_eq!(refused(&Request::tokens(Vec::new())), RequestError::EmptyPrompt);
        let long = refused(&Request::tokens(prompt(1, 4097)));
        assert_eq!(long, RequestError::PromptTooLong { tokens: 4097, limit: 4096 });
        assert!(long.to_string().contains("4097 tokens") && long.to_string().contains("4096"), "{long}");
        let vocabulary = engine.model().vocabulary_size();
        for token in [-1, i32::MIN, i32::MAX, vocabulary as i32] {
            let error = refused(&Request::tokens(vec![Token(1), Token(token)]));
            assert_eq!(error, RequestError::TokenOutOfRange { token, vocabulary });
        }
        for keep in [4095, 4096, u32::MAX] {
            let error = refused(&Request::tokens(prompt(1, 4)).when_full(WhenFull::Discard { keep }));
            assert_eq!(error, RequestError::KeepTooLong { keep, limit: 4096 });
        }
        assert_eq!(refused(&endless(1).max_tokens(0)), RequestError::Stop(StopError::NoTokens));
        let list = StopConditions::new().tokens(&[Token(-5)]).unwrap();
        assert!(matches!(refused(&Request::tokens(prompt(1, 4)).stop(list)), RequestError::Stop(StopError::Vocab(_))));
        let none = engine.generate_each(endless(1), []).map(drop).unwrap_err();
        assert_eq!(none, RequestError::NoSamplers);
        assert_eq!(engine.embed(&["a"]).map(drop).unwrap_err(), RequestError::NoEmbeddings);
        // None of them has taken a place among those that wait, or holds anybody up.
        for salt in 0..9 {
            assert_eq!(engine.generate(endless(salt).max_tokens(3)).unwrap().wait().tokens.len(), 3);
        }
        drop(first);
        let stats = engine.shutdown(Shutdown::Finish);
        assert_eq!((stats.submitted, stats.completed, stats.cancelled), (10, 9, 1), "{stats:?}");
    });
}

/// The longest prompt that is taken, and the most that can be kept.
#[test]
fn what_is_just_taken() {
    watched(|| {
        let engine = builder(&tiny(Weights::F16)).sequences(1).context_tokens(256).start().unwrap();
        let whole = engine.generate(Request::tokens(prompt(1, 256)).max_tokens(1)).unwrap().wait();
        assert_eq!(whole.tokens.len(), 1);
        let request = Request::tokens(prompt(1, 256)).when_full(WhenFull::Discard { keep: 254 });
        let stop = StopConditions::new().end_of_text(false);
        assert_eq!(engine.generate(request.stop(stop).max_tokens(9)).unwrap().wait().tokens.len(), 9);
        // Not even one token of one's own: what comes before it is.
        let text = engine.generate(Request::text("").max_tokens(2)).unwrap().wait();
        assert_eq!(text.prompt_tokens, 1);
    });
}
