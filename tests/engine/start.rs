//! What an engine can be made of, and what not.

use batch_suite::{encoder, family, params, prompt, tiny};
use fixtures::gguf::Gguf;
use fixtures::{ARCHITECTURE_TOKENS, Family, Weights};
use llama_safe::{
    ContextError, Determinism, EmbedderParams, Engine, EngineError, KvLayout, Model, ModelParams, Pooling, Request,
    Shutdown, Token, Workload,
};

use crate::watched;
use crate::wishes::{Wish, builder};

#[test]
fn numbers_out_of_range() {
    watched(|| {
        let model = tiny(Weights::F16);
        let refused = |builder: llama_safe::EngineBuilder| builder.start().map(drop).unwrap_err();
        for (what, error) in [
            ("prompt_chunk", refused(builder(&model).prompt_chunk(0))),
            ("queue", refused(builder(&model).queue(0))),
            ("unread_pieces", refused(builder(&model).unread_pieces(0))),
        ] {
            let EngineError::OutOfRange { what: named, got: 0, .. } = &error else { panic!("{error}") };
            assert_eq!(*named, what);
            assert!(error.to_string().starts_with(&format!("{what} is 0")), "{error}");
        }
        let error = refused(builder(&model).sequences(4).sequences_at_most(3));
        assert!(matches!(error, EngineError::OutOfRange { what: "sequences_at_most", got: 3, .. }), "{error}");
        for sequences in [0, 257, u32::MAX] {
            let error = refused(builder(&model).sequences(sequences).context_tokens(1024));
            let EngineError::Context(ContextError::SequencesOutOfRange { got, max: 256 }) = error else {
                panic!("{error}")
            };
            assert_eq!(got, sequences);
        }
        let error = refused(builder(&model).layout(KvLayout::Unified).deterministic(true));
        assert!(matches!(error, EngineError::NotDeterministic { .. }), "{error}");
        let vectors = EmbedderParams::default().pooling(Pooling::None);
        let error = refused(builder(&model).embeddings(vectors));
        assert!(matches!(error, EngineError::Unpooled), "{error}");
        assert!(matches!(refused(builder(&model).context_tokens(u32::MAX)), EngineError::Context(_)));
    });
}

/// Numbers that are large without need.
#[test]
fn numbers_that_are_large() {
    watched(|| {
        let model = tiny(Weights::F16);
        let huge = builder(&model).sequences(2).context_tokens(512).queue(usize::MAX).unread_pieces(usize::MAX);
        let huge = huge.spill_bytes(usize::MAX).prompt_chunk(u32::MAX).start();
        let engine = huge.unwrap_or_else(|error| panic!("{error}"));
        let all: Vec<_> =
            (0..9).map(|salt| engine.generate(Request::tokens(prompt(salt, 100)).max_tokens(5)).unwrap()).collect();
        assert!(all.into_iter().all(|generation| !generation.wait().tokens.is_empty()));
    });
}

#[test]
fn models_that_do_not_continue_texts() {
    watched(|| {
        let models = [
            encoder(),
            family(Family::Reranker, Weights::F16),
            family(Family::T5, Weights::F16),
            family(Family::T5Encoder, Weights::F16),
            family(Family::Diffusion, Weights::F16),
        ];
        for model in models {
            let error = builder(&model).start().map(drop).unwrap_err();
            let EngineError::CannotGenerate { architecture, reason } = &error else { panic!("{error}") };
            assert_eq!(*architecture, model.architecture());
            assert!(reason.contains("use "), "{reason}");
        }
    });
}

#[test]
fn layouts() {
    watched(|| {
        let start = |model: &Model, workload, deterministic| {
            let builder = builder(model).sequences(2).context_tokens(512).expect(workload);
            builder.deterministic(deterministic).start().unwrap()
        };
        let attention = tiny(Weights::Q8_0);
        assert_eq!(start(&attention, Workload::Unrelated, false).layout(), KvLayout::Split);
        assert_eq!(start(&attention, Workload::SharedPrefixes, false).layout(), KvLayout::Unified);
        assert_eq!(start(&attention, Workload::SharedPrefixes, true).layout(), KvLayout::Split);
        for which in [Family::Mamba, Family::Hybrid] {
            let engine = start(&family(which, Weights::F16), Workload::SharedPrefixes, false);
            assert_eq!(engine.layout(), KvLayout::Split, "{which}");
        }
        assert_eq!(start(&attention, Workload::Unrelated, false).determinism(), Determinism::Off);
    });
}

/// What is measured has a price at each width, and what it says is used.
#[test]
fn costs_are_measured() {
    watched(|| {
        let model = tiny(Weights::F16);
        let engine = Engine::builder(&model).context(params()).sequences(4).context_tokens(1024).start().unwrap();
        let costs = engine.step_costs().unwrap();
        assert!(costs.points().iter().all(|(width, cost)| (1..=4).contains(width) && !cost.is_zero()));
        // Only what nobody needs is left in memory.
        assert_eq!(engine.stats().kv_used, 0);
        assert_eq!(engine.generate(Request::tokens(prompt(1, 9)).max_tokens(5)).unwrap().wait().prompt_tokens, 9);
        assert!(builder(&model).sequences(4).context_tokens(1024).start().unwrap().step_costs().is_none());
    });
}

/// The tiny model of an architecture, with a vocabulary: an engine has to know where a text ends.
fn with_words(name: &str) -> Model {
    let mut gguf = Gguf::default();
    for (key, value) in fixtures::architecture(name).metadata() {
        match key.as_str() {
            "tokenizer.ggml.model" => gguf.set(key, "llama"),
            _ => gguf.set(key, value.clone()),
        }
    }
    let words = |token: u32| if token < 3 { format!("<{token}>") } else { format!("\u{2581}word{token}") };
    gguf.set("tokenizer.ggml.tokens", (0..ARCHITECTURE_TOKENS).map(words).collect::<Vec<String>>());
    let kind = |token: u32| {
        if token == 0 {
            2
        } else if token < 3 {
            3
        } else {
            1
        }
    };
    gguf.set("tokenizer.ggml.token_type", (0..ARCHITECTURE_TOKENS).map(kind).collect::<Vec<i32>>());
    let fill = |tensor: llama_safe::TensorShape<'_>, values: &mut [f32]| {
        fixtures::fill(tensor.name, tensor.shape, values);
    };
    Model::generate(&gguf.header(), &ModelParams::default(), fill).unwrap()
}

/// Architectures that llama.cpp computes right one at a time: the engine has them wait for each other.
#[test]
fn one_sequence_at_a_time() {
    watched(|| {
        let model = with_words("plamo2");
        for workload in [Workload::Unrelated, Workload::SharedPrefixes] {
            for deterministic in [false, true] {
                let engine = builder(&model).sequences(4).sequences_at_most(8).expect(workload);
                let engine = engine.context_tokens(1024).deterministic(deterministic).start().unwrap();
                assert_eq!(engine.limits().sequences(), 1);
                let wishes: Vec<_> = (0..4)
                    .map(|salt| {
                        let tokens: Vec<Token> =
                            (0..9).map(|token| Token(3 + (token * 17 + salt * 29) % 100)).collect();
                        Wish { prompt: tokens, ..Wish::greedy(0, 1, 5) }
                    })
                    .collect();
                let all: Vec<_> = wishes.iter().map(|wish| engine.generate(wish.request()).unwrap()).collect();
                let all: Vec<_> = all.into_iter().map(|generation| generation.wait()).collect();
                let want = crate::wishes::all_alone(&model, &params(), &wishes, 0.0);
                for (got, want) in all.iter().zip(&want) {
                    assert_eq!(got.tokens, want.tokens);
                }
                assert_eq!(engine.shutdown(Shutdown::Finish).completed, 4);
            }
        }
    });
}

/// A context that is too small to try everything in is one that an engine can have all the same.
#[test]
fn small_contexts() {
    watched(|| {
        for weights in [Weights::Q8_0, Weights::F16] {
            for deterministic in [false, true] {
                let builder = Engine::builder(&tiny(weights)).context(params()).sequences(2).context_tokens(2);
                let engine = builder.deterministic(deterministic).start().unwrap();
                let room = engine.limits().sequence_tokens();
                let answer = engine.generate(Request::tokens(prompt(1, 1))).unwrap().wait();
                assert!(answer.tokens.len() as u32 <= room);
            }
        }
    });
}
