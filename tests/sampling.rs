//! The samplers in Rust against llama.cpp's own: what each leaves of the candidates, and whole chains token for token with
//! the same seed.
//!
//! Logits are all different here: of equal ones, C++ sorts whichever first that its library pleases.

#[path = "sampling/custom.rs"]
mod custom;
#[path = "sampling/logits.rs"]
mod logits;
#[path = "sampling/properties.rs"]
mod properties;
#[path = "sampling/state.rs"]
mod state;

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use batch_suite::{RawChain, RawVocab, stories};
use llama_safe::{AdaptiveP, Dry, Mirostat, MirostatV2, Penalties, Sampler, SamplerChain, Token, Xtc};
use logits::{SHAPES, Shape, logits};

/// A step, here and there.
struct Case {
    name: &'static str,
    ours: fn(SamplerChain) -> SamplerChain,
    theirs: fn(RawChain, i32) -> RawChain,
    /// Whether llama.cpp has a result where tokens are forbidden: some of its samplers compute NaN.
    forbidden: bool,
    /// Whether it may leave them in another order: by a score of which several can have the same.
    any_order: bool,
}

const fn case(
    name: &'static str,
    ours: fn(SamplerChain) -> SamplerChain,
    theirs: fn(RawChain, i32) -> RawChain,
) -> Case {
    Case { name, ours, theirs, forbidden: true, any_order: false }
}

const XTC: Xtc = Xtc { probability: 1.0, threshold: 0.02, min_keep: 1, seed: 5 };

const STEPS: [Case; 24] = [
    case("top_k 1", |c| c.top_k(1).unwrap(), |c, _| c.top_k(1)),
    case("top_k 40", |c| c.top_k(40).unwrap(), |c, _| c.top_k(40)),
    case("top_k 500", |c| c.top_k(500).unwrap(), |c, _| c.top_k(500)),
    case("top_p 0", |c| c.top_p(0.0).unwrap(), |c, _| c.top_p(0.0, 1)),
    case("top_p 0.5", |c| c.top_p(0.5).unwrap(), |c, _| c.top_p(0.5, 1)),
    case("top_p 0.95", |c| c.top_p(0.95).unwrap(), |c, _| c.top_p(0.95, 1)),
    case("top_p 0.999", |c| c.top_p(0.999).unwrap(), |c, _| c.top_p(0.999, 1)),
    case("top_p 0.3 of 20", |c| c.top_p_keep(0.3, 20).unwrap(), |c, _| c.top_p(0.3, 20)),
    case("top_p 0.3 of 600", |c| c.top_p_keep(0.3, 600).unwrap(), |c, _| c.top_p(0.3, 600)),
    case("min_p 0.05", |c| c.min_p(0.05).unwrap(), |c, _| c.min_p(0.05, 1)),
    case("min_p 1e-6", |c| c.min_p(1e-6).unwrap(), |c, _| c.min_p(1e-6, 1)),
    case("min_p 0.2 of 30", |c| c.min_p_keep(0.2, 30).unwrap(), |c, _| c.min_p(0.2, 30)),
    Case {
        forbidden: false,
        any_order: true,
        ..case("typical 0.5", |c| c.typical(0.5).unwrap(), |c, _| c.typical(0.5, 1))
    },
    Case {
        forbidden: false,
        any_order: true,
        ..case("typical 0.9 of 9", |c| c.typical_keep(0.9, 9).unwrap(), |c, _| c.typical(0.9, 9))
    },
    case("top_n_sigma 1", |c| c.top_n_sigma(1.0).unwrap(), |c, _| c.top_n_sigma(1.0)),
    case("top_n_sigma 2.5", |c| c.top_n_sigma(2.5).unwrap(), |c, _| c.top_n_sigma(2.5)),
    case("xtc", |c| c.xtc(XTC).unwrap(), |c, _| c.xtc(1.0, 0.02, 1, 5)),
    case("xtc of 5", |c| c.xtc(Xtc { min_keep: 5, ..XTC }).unwrap(), |c, _| c.xtc(1.0, 0.02, 5, 5)),
    case("temperature 0", |c| c.temperature(0.0).unwrap(), |c, _| c.temp(0.0)),
    case("temperature 0.7", |c| c.temperature(0.7).unwrap(), |c, _| c.temp(0.7)),
    case("dynamic temperature", |c| c.dynamic_temperature(0.8, 0.5, 1.3).unwrap(), |c, _| c.temp_ext(0.8, 0.5, 1.3)),
    case(
        "dynamic temperature from 0",
        |c| c.dynamic_temperature(0.3, 2.0, 1.0).unwrap(),
        |c, _| c.temp_ext(0.3, 2.0, 1.0),
    ),
    case(
        "logit bias",
        |c| c.logit_bias([(Token(0), 2.5), (Token(3), f32::NEG_INFINITY), (Token(5), -1.0)]).unwrap(),
        |c, vocabulary| c.logit_bias(vocabulary, &[(0, 2.5), (3, f32::NEG_INFINITY), (5, -1.0)]),
    ),
    case(
        "penalties",
        |c| c.penalties(Penalties { window: 8, repeat: 1.3, frequency: 0.25, presence: 0.5 }).unwrap(),
        |c, vocabulary| c.penalties(vocabulary, 8, 1.3, 0.25, 0.5),
    ),
];

/// What comes before the step: nothing, a sorted list, a list out of order, another row.
const BEFORE: [Case; 5] = [
    case("", |c| c, |c, _| c),
    case("top_k 60, ", |c| c.top_k(60).unwrap(), |c, _| c.top_k(60)),
    case("min_p 0.01, ", |c| c.min_p(0.01).unwrap(), |c, _| c.min_p(0.01, 1)),
    case("temperature 1.5, ", |c| c.temperature(1.5).unwrap(), |c, _| c.temp(1.5)),
    case("top_n_sigma 3, ", |c| c.top_n_sigma(3.0).unwrap(), |c, _| c.top_n_sigma(3.0)),
];

/// Ids and logits that a chain left.
type Record = Arc<Mutex<Vec<(i32, f32)>>>;

/// A chain that writes down what it leaves.
fn recorded(chain: SamplerChain) -> (Sampler, Record) {
    let left = Record::default();
    let writer = left.clone();
    let chain = chain.custom_fn(move |candidates| {
        *writer.lock().unwrap() = candidates.iter().map(|one| (one.token().0, one.logit())).collect();
    });
    (chain.greedy(), left)
}

#[test]
fn each_step_leaves_what_llama_cpp_leaves() {
    let mut compared = 0;
    for size in [7, 130, 1100, 4000] {
        for shape in SHAPES {
            for before in &BEFORE {
                for step in &STEPS {
                    let shape_forbids = shape == Shape::WithForbidden || before.name.starts_with("top_n_sigma");
                    if (shape_forbids || shape == Shape::Wide) && !step.forbidden {
                        continue;
                    }
                    let logits = logits(size, shape, size as u64);
                    let (mut ours, left) = recorded((step.ours)((before.ours)(Sampler::chain())));
                    let mut theirs = (step.theirs)((before.theirs)(RawChain::new(), size as i32), size as i32);
                    for token in [2, 2, 5, 1, 2, 4, 6, 0, 2, 2, 3] {
                        ours.accept(Token(token)).unwrap();
                        theirs.accept(token);
                    }
                    let mut expected = theirs.apply(&logits).candidates;
                    expected.retain(|(_, logit)| *logit > f32::NEG_INFINITY);
                    ours.sample(&logits).unwrap();
                    let mut left = left.lock().unwrap().clone();
                    if step.any_order {
                        expected.sort_unstable_by_key(|(token, _)| *token);
                        left.sort_unstable_by_key(|(token, _)| *token);
                    }
                    assert_eq!(left, expected, "{}{} of {size} {shape:?}", before.name, step.name);
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 1500, "{compared}");
}

/// A whole chain, here and there.
struct Chain {
    name: &'static str,
    ours: fn() -> Sampler,
    theirs: fn(i32) -> RawChain,
}

const SEED: u32 = 42;

fn usual(chain: SamplerChain) -> SamplerChain {
    let penalties = Penalties { window: 64, repeat: 1.1, frequency: 0.1, presence: 0.2 };
    let chain = chain.penalties(penalties).unwrap().top_n_sigma(4.0).unwrap().top_k(40).unwrap();
    let chain = chain.typical(0.98).unwrap().top_p(0.95).unwrap().min_p(0.02).unwrap();
    chain.xtc(Xtc { probability: 0.3, threshold: 0.1, min_keep: 1, seed: SEED }).unwrap()
}

fn usual_raw(vocabulary: i32) -> RawChain {
    let chain = RawChain::new().penalties(vocabulary, 64, 1.1, 0.1, 0.2).top_n_sigma(4.0).top_k(40);
    chain.typical(0.98, 1).top_p(0.95, 1).min_p(0.02, 1).xtc(0.3, 0.1, 1, SEED)
}

const CHAINS: [Chain; 13] = [
    Chain { name: "greedy", ours: Sampler::greedy, theirs: |_| RawChain::new().greedy() },
    Chain { name: "dist", ours: || Sampler::chain().dist(SEED), theirs: |_| RawChain::new().dist(SEED) },
    Chain {
        name: "temperature, dist",
        ours: || Sampler::chain().temperature(0.7).unwrap().dist(SEED),
        theirs: |_| RawChain::new().temp(0.7).dist(SEED),
    },
    Chain {
        name: "top_k, top_p, temperature, dist",
        ours: || Sampler::chain().top_k(40).unwrap().top_p(0.95).unwrap().temperature(0.8).unwrap().dist(SEED),
        theirs: |_| RawChain::new().top_k(40).top_p(0.95, 1).temp(0.8).dist(SEED),
    },
    Chain {
        name: "top_p, dist",
        ours: || Sampler::chain().top_p(0.9).unwrap().dist(SEED),
        theirs: |_| RawChain::new().top_p(0.9, 1).dist(SEED),
    },
    Chain {
        name: "min_p, temperature, dist",
        ours: || Sampler::chain().min_p(0.05).unwrap().temperature(1.2).unwrap().dist(SEED),
        theirs: |_| RawChain::new().min_p(0.05, 1).temp(1.2).dist(SEED),
    },
    Chain {
        name: "usual",
        ours: || usual(Sampler::chain()).dynamic_temperature(0.8, 0.3, 1.0).unwrap().dist(SEED),
        theirs: |vocabulary| usual_raw(vocabulary).temp_ext(0.8, 0.3, 1.0).dist(SEED),
    },
    Chain {
        name: "xtc of all, dist",
        ours: || Sampler::chain().xtc(Xtc { probability: 0.5, ..XTC }).unwrap().dist(SEED),
        theirs: |_| RawChain::new().xtc(0.5, 0.02, 1, 5).dist(SEED),
    },
    Chain {
        name: "mirostat",
        ours: || Sampler::chain().mirostat(Mirostat { seed: SEED, tau: 1.5, ..Mirostat::default() }).unwrap(),
        theirs: |vocabulary| RawChain::new().mirostat(vocabulary, SEED, 1.5, 0.1, 100),
    },
    Chain {
        name: "top_k, mirostat 2",
        ours: || {
            let mirostat = MirostatV2 { seed: SEED, tau: 2.0, ..MirostatV2::default() };
            Sampler::chain().top_k(50).unwrap().mirostat_v2(mirostat).unwrap()
        },
        theirs: |_| RawChain::new().top_k(50).mirostat_v2(SEED, 2.0, 0.1),
    },
    Chain {
        name: "mirostat 2",
        ours: || Sampler::chain().mirostat_v2(MirostatV2 { seed: SEED, ..MirostatV2::default() }).unwrap(),
        theirs: |_| RawChain::new().mirostat_v2(SEED, 5.0, 0.1),
    },
    Chain {
        name: "adaptive p",
        ours: || Sampler::chain().adaptive_p(AdaptiveP { target: 0.3, decay: 0.9, seed: SEED }).unwrap(),
        theirs: |_| RawChain::new().adaptive_p(0.3, 0.9, SEED),
    },
    Chain {
        name: "min_p, top_k, adaptive p",
        ours: || {
            let adaptive = AdaptiveP { target: 0.1, decay: 0.99, seed: SEED };
            Sampler::chain().min_p(0.01).unwrap().top_k(30).unwrap().adaptive_p(adaptive).unwrap()
        },
        theirs: |_| RawChain::new().min_p(0.01, 1).top_k(30).adaptive_p(0.1, 0.99, SEED),
    },
];

/// Logits of a text's steps: likely tokens stay likely, so that tokens repeat and penalties have something to do.
fn step_logits(size: usize, step: u64) -> Vec<f32> {
    let topic = logits(size, Shape::Normal, 1);
    logits(size, Shape::Normal, 2 + step).iter().zip(topic).map(|(now, topic)| 0.4 * now + topic).collect()
}

#[test]
fn chains_choose_what_llama_cpp_chooses() {
    for Chain { name, ours, theirs } in CHAINS {
        for (size, steps) in [(60, 300), (1100, 100)] {
            let (mut ours, mut theirs) = (ours(), theirs(size as i32));
            let mut different = std::collections::HashSet::new();
            for step in 0..steps {
                let logits = step_logits(size, step);
                let expected = theirs.sample(&logits);
                assert_eq!(ours.sample(&logits), Ok(Token(expected)), "{name} of {size} in step {step}");
                different.insert(expected);
            }
            assert!(different.len() > 3, "{name}: {different:?}");
        }
    }
}

/// Where the target cannot be met, the number of tokens to keep outgrows `int`: llama.cpp's conversion is undefined, and gives
/// one token on x86; here all are kept.
#[test]
fn mirostat_that_wants_more_than_there_is_keeps_all() {
    let mirostat = Mirostat { seed: SEED, tau: 4.0, ..Mirostat::default() };
    let mut ours = Sampler::chain().mirostat(mirostat).unwrap();
    let mut theirs = RawChain::new().mirostat(60, SEED, 4.0, 0.1, 100);
    let (mut here, mut there) = (Vec::new(), Vec::new());
    for step in 0..1000 {
        let logits = step_logits(60, step % 50);
        here.push(ours.sample(&logits).unwrap() == Sampler::greedy().sample(&logits).unwrap());
        there.push(Ok(Token(theirs.sample(&logits))) == Sampler::greedy().sample(&logits));
    }
    let same = here.iter().zip(&there).take_while(|(a, b)| a == b).count();
    assert!(same > 100, "{same}");
    let greedy = |late: &[bool]| late[500..].iter().filter(|is| **is).count();
    assert!(greedy(&here) < 400, "{}", greedy(&here));
    if cfg!(target_arch = "x86_64") {
        assert!(greedy(&there) > 490, "{}", greedy(&there));
    }
}

fn raw_stories() -> &'static RawVocab {
    static VOCAB: OnceLock<RawVocab> = OnceLock::new();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/stories/stories.gguf");
    VOCAB.get_or_init(|| RawVocab::load(&path))
}

/// DRY, with breakers that stand in one token and across several.
#[test]
fn repetitions_are_penalised_as_in_llama_cpp() {
    let model = stories();
    let size = model.vocabulary_size() as usize;
    for (breakers, window, allowed) in [
        (&["\n", ":", "\"", "*"][..], 64, 2),
        (&["the", " and then", "."][..], 1024, 1),
        (&[][..], 16, 0),
        (&["é", "a\u{20ac}"][..], 40, 2),
    ] {
        let (multiplier, base) = (0.8, 1.75);
        let sequence_breakers = breakers.iter().map(|text| (*text).to_owned()).collect();
        let dry = Dry { multiplier, base, allowed_length: allowed, window, sequence_breakers };
        let mut ours = Sampler::chain().dry(&model, dry).unwrap().temperature(0.3).unwrap().dist(SEED);
        let numbers = (multiplier, base);
        let theirs = RawChain::new().dry(raw_stories(), numbers, allowed as i32, window as i32, breakers);
        let mut theirs = theirs.temp(0.3).dist(SEED);
        let mut without = Sampler::chain().temperature(0.3).unwrap().dist(SEED);
        let prompt = model.tokenize("The cat sat. The cat sat: \"the cat sat\"", llama_safe::Special::Bos).unwrap();
        for token in prompt {
            ours.accept(token).unwrap();
            theirs.accept(token.0);
        }
        let mut penalised = 0;
        for step in 0..200 {
            let logits = step_logits(size, step % 7);
            let expected = theirs.sample(&logits);
            assert_eq!(ours.sample(&logits), Ok(Token(expected)), "{breakers:?} in step {step}");
            penalised += u32::from(without.sample(&logits) != Ok(Token(expected)));
        }
        assert!(penalised > 5, "{breakers:?}: {penalised}");
    }
}

#[test]
fn filling_in_leaves_what_llama_cpp_leaves() {
    let model = stories();
    let size = model.vocabulary_size() as usize;
    let mut ended = 0;
    for step in 0..200 {
        let mut logits = logits(size, if step % 2 == 0 { Shape::Normal } else { Shape::Wide }, step);
        if step % 3 == 0 {
            // No end in sight: what begins alike is combined.
            for token in (0..size as i32).map(Token) {
                if model.vocab().is_end_of_generation(token).unwrap() {
                    logits[token.0 as usize] -= 30.0;
                }
            }
        }
        let chain = Sampler::chain().top_k(60).unwrap().top_p(0.99).unwrap().infill(&model).unwrap();
        let (mut ours, left) = recorded(chain);
        let mut theirs = RawChain::new().top_k(60).top_p(0.99, 1).infill(raw_stories());
        let mut expected = theirs.apply(&logits).candidates;
        expected.retain(|(_, logit)| *logit > f32::NEG_INFINITY);
        let token = ours.sample(&logits).unwrap();
        assert_eq!(*left.lock().unwrap(), expected, "in step {step}");
        ended += u32::from(model.vocab().is_end_of_generation(token).unwrap());
    }
    assert!((10..190).contains(&ended), "{ended}");
}
