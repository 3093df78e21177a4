//! State: what a clone has, what a reset takes away, and that a failed sample changes nothing.

use llama_safe::{
    AdaptiveP, Dry, Mirostat, MirostatV2, Penalties, Sampler, SamplerParamError, SamplingError, Token, Xtc,
};

use crate::logits::{Shape, logits};

fn is_send<T: Send>() {}

#[test]
fn samplers_go_to_other_threads() {
    is_send::<Sampler>();
    is_send::<llama_safe::SamplerChain>();
}

/// Every sampler that has a state.
fn samplers() -> Vec<Sampler> {
    let model = batch_suite::tiny(fixtures::Weights::F32);
    let chain = || {
        let penalties = Penalties { window: 10, repeat: 1.5, ..Penalties::default() };
        let chain = Sampler::chain().penalties(penalties).unwrap().dry(&model, Dry::default()).unwrap();
        chain.xtc(Xtc::default()).unwrap()
    };
    vec![
        Sampler::greedy(),
        Sampler::creative(3),
        Sampler::deterministic(3),
        chain().dist(3),
        chain().mirostat(Mirostat::default()).unwrap(),
        chain().mirostat_v2(MirostatV2::default()).unwrap(),
        chain().adaptive_p(AdaptiveP::default()).unwrap(),
    ]
}

const SIZE: usize = 512;

fn text(sampler: &mut Sampler, from: u64) -> Vec<Token> {
    (from..from + 40).map(|step| sampler.sample(&logits(SIZE, Shape::Normal, step % 5)).unwrap()).collect()
}

#[test]
fn a_clone_has_the_whole_state_and_goes_its_own_way() {
    for mut sampler in samplers() {
        text(&mut sampler, 0);
        let mut fork = sampler.clone();
        let said = text(&mut fork, 40);
        // What the fork did is nothing to the other.
        assert_eq!(text(&mut sampler, 40), said, "{sampler:?}");
    }
}

#[test]
fn a_reset_begins_anew() {
    for mut sampler in samplers() {
        let first = text(&mut sampler, 0);
        sampler.reset();
        assert_eq!(text(&mut sampler, 0), first);
    }
}

#[test]
fn a_failed_sample_changes_nothing() {
    let good = logits(SIZE, Shape::Normal, 9);
    let mut nan = good.clone();
    nan[500] = f32::NAN;
    let forbidden = vec![f32::NEG_INFINITY; SIZE];
    for mut sampler in samplers() {
        text(&mut sampler, 0);
        let mut untouched = sampler.clone();
        for _ in 0..3 {
            assert!(matches!(sampler.sample(&nan), Err(SamplingError::NotFinite { token: 500, .. })));
            assert_eq!(sampler.sample(&forbidden), Err(SamplingError::NothingAllowed));
            assert_eq!(sampler.sample(&[]), Err(SamplingError::NoLogits));
        }
        assert_eq!(text(&mut sampler, 0), text(&mut untouched, 0));
    }
}

#[test]
fn seeds_differ_and_no_seed_is_special() {
    let said = |seed| text(&mut Sampler::creative(seed), 0);
    assert_ne!(said(1), said(2));
    assert_eq!(said(u32::MAX), said(u32::MAX));
}

#[test]
fn logits_of_another_vocabulary_are_refused() {
    let model = batch_suite::tiny(fixtures::Weights::F32);
    for mut sampler in [
        Sampler::chain().infill(&model).unwrap().greedy(),
        Sampler::chain().dry(&model, Dry::default()).unwrap().greedy(),
    ] {
        let error = sampler.sample(&[0.0; 511]).unwrap_err();
        assert_eq!(error, SamplingError::OtherVocabulary { expected: 512, got: 511 });
        assert!(sampler.sample(&logits(512, Shape::Normal, 1)).is_ok());
    }
    let mut biased = Sampler::chain().logit_bias([(Token(9), 1.0)]).unwrap().greedy();
    assert_eq!(biased.sample(&[0.0; 9]), Err(SamplingError::BiasOutOfRange { token: 9, vocabulary: 9 }));
    assert_eq!(biased.sample(&[0.0; 10]), Ok(Token(9)));
}

#[test]
fn every_bias_to_minus_infinity_forbids() {
    let all = (0..4).map(|token| (Token(token), f32::NEG_INFINITY));
    let mut sampler = Sampler::chain().logit_bias(all).unwrap().dist(1);
    assert_eq!(sampler.sample(&[1.0; 4]), Err(SamplingError::NothingAllowed));
    assert_eq!(sampler.sample(&[1.0; 5]), Ok(Token(4)));
    let twice = [(Token(0), f32::NEG_INFINITY), (Token(0), 50.0), (Token(1), 1.0), (Token(1), 2.0)];
    let mut sampler = Sampler::chain().logit_bias(twice).unwrap().greedy();
    assert_eq!(sampler.sample(&[9.0, 0.0, 2.5]), Ok(Token(1)));
}

#[test]
fn parameters_out_of_range_are_named() {
    let out = |result: Result<llama_safe::SamplerChain, SamplerParamError>| match result {
        Err(SamplerParamError::OutOfRange { parameter, .. } | SamplerParamError::CountOutOfRange { parameter, .. }) => {
            parameter
        }
        other => panic!("{other:?}"),
    };
    let chain = Sampler::chain;
    for bad in [-0.1, 1.1, f32::NAN, f32::INFINITY] {
        assert_eq!(out(chain().top_p(bad)), "top_p");
        assert_eq!(out(chain().min_p(bad)), "min_p");
        assert_eq!(out(chain().typical(bad)), "typical");
        assert_eq!(out(chain().xtc(Xtc { probability: bad, ..Xtc::default() })), "xtc.probability");
        assert_eq!(out(chain().xtc(Xtc { threshold: bad, ..Xtc::default() })), "xtc.threshold");
        assert!(chain().adaptive_p(AdaptiveP { target: bad, ..AdaptiveP::default() }).is_err());
        assert!(chain().mirostat(Mirostat { eta: bad, ..Mirostat::default() }).is_err());
        assert!(chain().mirostat_v2(MirostatV2 { eta: bad, ..MirostatV2::default() }).is_err());
    }
    for bad in [-1.0, f32::NAN, f32::INFINITY] {
        assert_eq!(out(chain().top_n_sigma(bad)), "top_n_sigma");
        assert_eq!(out(chain().temperature(bad)), "temperature");
        assert_eq!(out(chain().dynamic_temperature(bad, 0.1, 1.0)), "temperature");
        assert_eq!(out(chain().dynamic_temperature(0.1, bad, 1.0)), "temperature range");
        assert_eq!(out(chain().dynamic_temperature(0.1, 0.1, bad)), "temperature exponent");
        assert_eq!(out(chain().penalties(Penalties { repeat: bad, ..Penalties::default() })), "penalties.repeat");
        assert!(chain().mirostat(Mirostat { tau: bad, ..Mirostat::default() }).is_err());
        assert!(chain().adaptive_p(AdaptiveP { decay: bad, ..AdaptiveP::default() }).is_err());
    }
    for bad in [f32::NAN, f32::INFINITY] {
        assert_eq!(out(chain().logit_bias([(Token(1), bad)])), "logit_bias");
        assert_eq!(out(chain().penalties(Penalties { frequency: bad, ..Penalties::default() })), "penalties.frequency");
        assert_eq!(out(chain().penalties(Penalties { presence: bad, ..Penalties::default() })), "penalties.presence");
    }
    assert_eq!(out(chain().top_k(0)), "top_k");
    assert_eq!(out(chain().top_k(u32::MAX)), "top_k");
    assert!(chain().mirostat(Mirostat { considered: 1, ..Mirostat::default() }).is_err());
    assert_eq!(
        chain().penalties(Penalties { window: i32::MAX as u32, ..Penalties::default() }).unwrap_err(),
        SamplerParamError::CountOutOfRange {
            parameter: "penalties.window",
            got: 2_147_483_647,
            min: 0,
            max: 1_048_576
        }
    );
    assert_eq!(chain().logit_bias([(Token(-1), 0.0)]).unwrap_err(), SamplerParamError::NegativeToken { token: -1 });
    let model = batch_suite::tiny(fixtures::Weights::F32);
    let dry = |change: fn(&mut Dry)| {
        let mut dry = Dry::default();
        change(&mut dry);
        chain().dry(&model, dry)
    };
    assert_eq!(out(dry(|dry| dry.multiplier = -1.0)), "dry.multiplier");
    assert_eq!(out(dry(|dry| dry.base = 0.5)), "dry.base");
    assert_eq!(out(dry(|dry| dry.window = u32::MAX)), "dry.window");
    assert_eq!(out(dry(|dry| dry.allowed_length = u32::MAX)), "dry.allowed_length");
    for bad in [String::new(), "x".repeat(41)] {
        let refused = chain().dry(&model, Dry { sequence_breakers: vec![bad.clone()], ..Dry::default() });
        assert_eq!(refused.unwrap_err(), SamplerParamError::BreakerLength { breaker: bad, max: 40 });
    }
}

#[test]
fn the_models_own_recommendation() {
    let with = |advice: &[(&str, fixtures::gguf::Value)]| {
        let mut gguf = fixtures::gguf::Gguf::default();
        gguf.set("general.architecture", "llama");
        for (key, value) in [("context_length", 64), ("embedding_length", 32), ("block_count", 1)] {
            gguf.set(format!("llama.{key}"), value as u32);
        }
        for (key, value) in [("feed_forward_length", 64), ("attention.head_count", 2), ("vocab_size", 16)] {
            gguf.set(format!("llama.{key}"), value as u32);
        }
        gguf.set("llama.attention.layer_norm_rms_epsilon", 1e-5_f32);
        gguf.set("tokenizer.ggml.model", "none");
        for (key, value) in advice {
            gguf.set(format!("general.sampling.{key}"), value.clone());
        }
        let params = llama_safe::ModelParams::default();
        let model = llama_safe::Model::generate(&gguf.header(), &params, |_, values| values.fill(1.0)).unwrap();
        Sampler::recommended(&model, 5)
    };
    let silent = Sampler::chain().top_k(40).and_then(|c| c.top_p(0.95)?.min_p(0.05)?.temperature(0.8)).unwrap();
    assert_eq!(format!("{:?}", with(&[]).unwrap()), format!("{:?}", silent.dist(5)));
    let advice = [("top_k", 3u32.into()), ("temp", 0.25_f32.into()), ("sequence", "top_k;temperature".into())];
    let told = Sampler::chain().top_k(3).and_then(|c| c.temperature(0.25)).unwrap();
    assert_eq!(format!("{:?}", with(&advice).unwrap()), format!("{:?}", told.dist(5)));
    assert!(with(&[("temp", (-7000.5_f32).into())]).is_ok(), "below 0 is 0 to llama.cpp");
    let error = with(&[("temp", 7000.5_f32.into())]);
    assert!(matches!(error, Err(SamplerParamError::OutOfRange { parameter: "temperature", .. })));
}
