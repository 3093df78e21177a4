//! Samplers of one's own: what they may do, and what becomes of it when they do what they must not.

use llama_safe::{Candidates, CustomSampler, Sampler, SamplerChain, SamplingError, Token, Xtc};

use crate::logits::{Shape, logits};

/// Panics in one of its calls when told to, and counts tokens.
#[derive(Clone, Default)]
struct Touchy {
    accepted: usize,
    panics_at_apply: Option<usize>,
    panics_at_accept: Option<usize>,
}

impl CustomSampler for Touchy {
    fn apply(&self, candidates: &mut Candidates<'_>) {
        candidates.retain(|one| one.token().0 > 0);
        assert!(self.panics_at_apply != Some(self.accepted), "apply {}", self.accepted);
        // Each accepted token makes the next one likelier.
        let favourite = Token(self.accepted as i32 + 1);
        candidates.set_logits(|one| if one.token() == favourite { 100.0 } else { one.logit() });
    }

    fn accept(&mut self, _: Token) {
        self.accepted += 1;
        assert!(self.panics_at_accept != Some(self.accepted), "accept {}", self.accepted);
    }
}

fn with_xtc() -> SamplerChain {
    Sampler::chain().xtc(Xtc { probability: 0.5, threshold: 0.01, min_keep: 1, seed: 3 }).unwrap()
}

#[test]
fn its_state_is_forked_and_reset() {
    let mut sampler = Sampler::chain().custom(Touchy::default()).greedy();
    let logits = [0.0; 10];
    assert_eq!(sampler.sample(&logits), Ok(Token(1)));
    sampler.accept(Token(7)).unwrap();
    let mut fork = sampler.clone();
    assert_eq!(sampler.sample(&logits), Ok(Token(3)));
    assert_eq!(sampler.sample(&logits), Ok(Token(4)));
    assert_eq!(fork.sample(&logits), Ok(Token(3)));
    sampler.reset();
    assert_eq!(sampler.sample(&logits), Ok(Token(1)));
}

#[test]
fn panics_are_errors_and_change_nothing() {
    let row = logits(50, Shape::Normal, 1);
    let message = |error| match error {
        SamplingError::CustomPanicked { step: 1, message } => message,
        other => panic!("{other:?}"),
    };
    let touchy = Touchy { panics_at_apply: Some(2), ..Touchy::default() };
    let mut sampler = with_xtc().custom(touchy).dist(1);
    sampler.accept(Token(1)).unwrap();
    sampler.accept(Token(1)).unwrap();
    assert_eq!(message(sampler.sample(&row).unwrap_err()), "apply 2");
    assert_eq!(message(sampler.sample(&row).unwrap_err()), "apply 2");
    sampler.accept(Token(1)).unwrap();
    assert!(sampler.sample(&row).is_ok());

    let touchy = Touchy { panics_at_accept: Some(1), ..Touchy::default() };
    let mut sampler = with_xtc().custom(touchy).dist(1);
    for _ in 0..3 {
        assert_eq!(message(sampler.sample(&row).unwrap_err()), "accept 1");
        assert_eq!(message(sampler.accept(Token(1)).unwrap_err()), "accept 1");
    }
    let text = "a value that is no text";
    let sampler = Sampler::chain().custom_fn(move |_| std::panic::panic_any(text.len())).greedy();
    assert!(matches!(sampler.clone().sample(&row), Err(SamplingError::CustomPanicked { step: 0, .. })));
}

/// What was drawn before a custom sampler failed is drawn again.
#[test]
fn random_numbers_of_a_failed_sample_are_not_lost() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    let fails = Arc::new(AtomicBool::new(false));
    let asked = fails.clone();
    let closure = move |_: &mut Candidates<'_>| assert!(!asked.load(Ordering::Relaxed), "asked to");
    let mut sampler = with_xtc().custom_fn(closure).dist(1);
    let mut plain = with_xtc().dist(1);
    for step in 0..50 {
        let row = logits(50, Shape::Normal, step);
        fails.store(true, Ordering::Relaxed);
        for _ in 0..step % 4 {
            assert!(sampler.sample(&row).is_err());
        }
        fails.store(false, Ordering::Relaxed);
        assert_eq!(sampler.sample(&row), plain.sample(&row), "in step {step}");
    }
}

#[test]
fn what_it_does_to_candidates_is_checked() {
    let row = logits(50, Shape::Normal, 1);
    let sample = |apply: fn(&mut Candidates<'_>)| Sampler::chain().custom_fn(apply).dist(1).sample(&row);
    assert_eq!(sample(|all| all.retain(|_| false)), Err(SamplingError::CustomLeftNothing { step: 0 }));
    assert_eq!(sample(|all| all.set_logits(|_| f32::NEG_INFINITY)), Err(SamplingError::CustomLeftNothing { step: 0 }));
    let at_7 = |value: f32| {
        let set = move |all: &mut Candidates<'_>| {
            all.set_logits(|one| if one.token() == Token(7) { value } else { one.logit() });
        };
        Sampler::chain().custom_fn(set).dist(1).sample(&row)
    };
    let error = at_7(f32::INFINITY);
    assert_eq!(error, Err(SamplingError::CustomNotFinite { step: 0, token: 7, value: f32::INFINITY }));
    assert!(matches!(at_7(f32::NAN), Err(SamplingError::CustomNotFinite { token: 7, .. })));
    assert_eq!(at_7(f32::MAX), Ok(Token(7)));
    assert_eq!(sample(|all| all.retain(|one| one.token() == Token(3))), Ok(Token(3)));
}

/// A custom step between others: the list may be in any order after it.
#[test]
fn steps_after_it_look_at_what_it_left() {
    let raised = |all: &mut Candidates<'_>| all.set_logits(|one| -one.logit());
    let chain = Sampler::chain().top_k(3).unwrap().custom_fn(raised).top_k(1).unwrap();
    assert_eq!(chain.dist(1).sample(&[1.0, 5.0, 4.0, 3.0]), Ok(Token(3)));
}
