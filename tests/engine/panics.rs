//! Functions of the user's that panic, or do what they should not: it is their request's end, and nobody else's.

use std::sync::{Arc, Mutex};

use batch_suite::{prompt, tiny};
use fixtures::Weights;
use llama_safe::{
    Candidates, Completion, CustomSampler, EndReason, Engine, GenerateError, Request, RequestError, Sampler,
    SamplingError, Shutdown, StopConditions, Token,
};

use crate::watched;
use crate::wishes::builder;

fn engine() -> Engine {
    builder(&tiny(Weights::F16)).sequences(3).context_tokens(3 * 256).start().unwrap()
}

fn request(salt: u32) -> Request {
    Request::tokens(prompt(salt, 6)).max_tokens(20).stop(StopConditions::new().end_of_text(false))
}

/// What is dropped with a panic, again and again.
struct Bomb(u32);

impl Drop for Bomb {
    fn drop(&mut self) {
        if self.0 > 0 {
            std::panic::panic_any(Bomb(self.0 - 1));
        }
    }
}

/// It panics with its `at`th token, where it says, and when it is dropped if `bomb`.
#[derive(Clone)]
struct Bad {
    seen: u32,
    apply_at: Option<u32>,
    accept_at: Option<u32>,
    _bomb: Option<Arc<Bomb>>,
}

impl Bad {
    const GOOD: Self = Self { seen: 0, apply_at: None, accept_at: None, _bomb: None };
}

impl CustomSampler for Bad {
    fn apply(&self, _candidates: &mut Candidates<'_>) {
        assert!(self.apply_at != Some(self.seen), "apply, on purpose");
    }

    fn accept(&mut self, _token: Token) {
        assert!(self.accept_at != Some(self.seen), "accept, on purpose");
        self.seen += 1;
    }
}

/// This request beside two good ones, which get their answers.
fn beside_others(engine: &Engine, bad: Request) -> Completion {
    let good = [engine.generate(request(1)).unwrap(), engine.generate(request(2)).unwrap()];
    let answer = engine.generate(bad).unwrap().wait();
    for good in good {
        assert_eq!(good.wait().tokens.len(), 20);
    }
    assert_eq!(engine.generate(request(3)).unwrap().wait().tokens.len(), 20);
    answer
}

#[test]
fn samplers_that_panic() {
    watched(|| {
        let engine = engine();
        let sampler = |bad: Bad| Sampler::chain().custom(bad).greedy();
        // The prompt's six tokens were accepted before.
        for (at, tokens) in [(6, 0), (9, 3)] {
            for bad in [Bad { apply_at: Some(at), ..Bad::GOOD }, Bad { accept_at: Some(at), ..Bad::GOOD }] {
                let answer = beside_others(&engine, request(0).sampler(sampler(bad)));
                let EndReason::Failed(GenerateError::Sampling(SamplingError::CustomPanicked { step: 0, message })) =
                    &answer.reason
                else {
                    panic!("{:?}", answer.reason)
                };
                assert!(message.contains("on purpose"), "{message}");
                assert_eq!(answer.tokens.len(), tokens);
            }
        }
        // With the prompt it is refused.
        let bad = Bad { accept_at: Some(2), ..Bad::GOOD };
        let error = engine.generate(request(0).sampler(sampler(bad))).map(drop).unwrap_err();
        assert!(matches!(error, RequestError::Sampling(SamplingError::CustomPanicked { .. })), "{error}");
        // Unless it does not see it.
        let bad = Bad { accept_at: Some(2), ..Bad::GOOD };
        let unseen = request(0).sampler(sampler(bad)).sampler_sees_prompt(false);
        assert_eq!(beside_others(&engine, unseen).tokens.len(), 2);
        let stats = engine.shutdown(Shutdown::Finish);
        assert_eq!((stats.failed, stats.completed), (5, 15), "{stats:?}");
    });
}

#[test]
fn stop_conditions_that_panic() {
    watched(|| {
        let engine = engine();
        let with = |panic: fn()| {
            let stop = StopConditions::new().end_of_text(false).custom(move |so_far| {
                if so_far.tokens == 4 {
                    panic();
                }
                false
            });
            beside_others(&engine, request(0).stop(stop))
        };
        let message = |answer: &Completion| match &answer.reason {
            EndReason::Failed(GenerateError::Panicked { message }) => message.clone(),
            other => panic!("{other:?}"),
        };
        let whole = engine.generate(request(0)).unwrap().wait();
        let answer = with(|| panic!("a {} condition", "bad"));
        assert_eq!(message(&answer), "a bad condition");
        // The token counts as taken, and its text is there.
        assert_eq!(answer.tokens, whole.tokens[..4]);
        assert!(whole.text.starts_with(answer.text.trim_end_matches(char::REPLACEMENT_CHARACTER)));
        assert_eq!(message(&with(|| std::panic::panic_any("plain"))), "plain");
        assert_eq!(message(&with(|| std::panic::panic_any(5))), "with a value that is no text");
        assert_eq!(message(&with(|| std::panic::panic_any(Bomb(3)))), "with a value that is no text");
    });
}

/// What is dropped with the request, wherever that is: at its end, cancelled, refused.
#[test]
fn drops_that_panic() {
    watched(|| {
        let engine = engine();
        let bomb = || Arc::new(Bomb(3));
        for cancelled in [false, true] {
            let sampler = Sampler::chain().custom(Bad { _bomb: Some(bomb()), ..Bad::GOOD }).greedy();
            let held = bomb();
            let stop = StopConditions::new().end_of_text(false).custom(move |_| Arc::strong_count(&held) == 99);
            let generation = engine.generate(request(0).sampler(sampler).stop(stop)).unwrap();
            if cancelled {
                generation.cancel();
            }
            let answer = generation.wait();
            assert!(cancelled || answer.tokens.len() == 20, "{:?}", answer.reason);
            assert_eq!(beside_others(&engine, request(0)).tokens.len(), 20);
        }
    });
}

/// The last handle of an engine inside of one of its own requests.
#[test]
fn an_engine_that_is_dropped_by_its_own_request() {
    watched(|| {
        let engine = Arc::new(engine());
        let slot = Arc::new(Mutex::new(None::<Arc<Engine>>));
        let inside = Arc::clone(&slot);
        let stop = StopConditions::new().end_of_text(false).custom(move |_| {
            // Whoever holds it lets go now.
            drop(inside.lock().unwrap().take());
            false
        });
        let generation = engine.generate(request(0).stop(stop)).unwrap();
        *slot.lock().unwrap() = Some(engine);
        let answer = generation.wait();
        assert!(answer.reason == EndReason::Cancelled || answer.tokens.len() == 20, "{:?}", answer.reason);
    });
}

/// A request that asks for another.
#[test]
fn requests_within_requests() {
    watched(|| {
        let engine = Arc::new(engine());
        let (inner, answers) = (Arc::clone(&engine), Arc::new(Mutex::new(Vec::new())));
        let asked = Arc::clone(&answers);
        let stop = StopConditions::new().end_of_text(false).custom(move |_| {
            asked.lock().unwrap().push(inner.try_generate(&request(7).max_tokens(3)).unwrap());
            false
        });
        let answer = engine.generate(request(0).stop(stop)).unwrap().wait();
        assert_eq!(answer.tokens.len(), 20, "{:?}", answer.reason);
        let asked = std::mem::take(&mut *answers.lock().unwrap());
        assert_eq!(asked.len(), 20);
        assert!(asked.into_iter().all(|generation| generation.wait().tokens.len() == 3));
    });
}
