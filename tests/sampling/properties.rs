//! Whatever the logits and the numbers: no panic, and the chosen token was allowed.

use llama_safe::{
    AdaptiveP, Dry, Mirostat, MirostatV2, Penalties, Sampler, SamplerChain, SamplerParamError, SamplingError, Token,
    Xtc,
};
use proptest::prelude::*;

/// Numbers as they are, and as they must not be.
fn number() -> impl Strategy<Value = f32> {
    prop_oneof![
        6 => 0.0f32..1.0,
        3 => -5.0f32..5.0,
        1 => proptest::num::f32::ANY,
        1 => prop::sample::select(vec![0.0, 1.0, f32::MIN_POSITIVE, 1e-45, f32::MAX, f32::MIN, -0.0]),
    ]
}

fn count() -> impl Strategy<Value = u32> {
    prop_oneof![5 => 0u32..20, 1 => any::<u32>()]
}

fn logit() -> impl Strategy<Value = f32> {
    prop_oneof![
        12 => -10.0f32..10.0,
        4 => (-3i8..3).prop_map(f32::from),
        2 => Just(f32::NEG_INFINITY),
        1 => prop::sample::select(vec![f32::MAX, f32::MIN, 1e-45, -0.0, 3e38, -3e38, 200.0]),
    ]
}

/// A row of logits; now and then one of them is no number.
fn row() -> impl Strategy<Value = Vec<f32>> {
    let length = prop_oneof![3 => 1usize..40, 1 => Just(512), 1 => 100usize..1300];
    let rows = length.prop_flat_map(|length| proptest::collection::vec(logit(), length));
    let bad = prop_oneof![9 => Just(None), 1 => any::<(prop::sample::Index, bool)>().prop_map(Some)];
    (rows, bad).prop_map(|(mut row, bad)| {
        if let Some((index, nan)) = bad {
            let index = index.index(row.len());
            row[index] = if nan { f32::NAN } else { f32::INFINITY };
        }
        row
    })
}

type Numbers = (usize, f32, f32, f32, u32, u32);

fn step(chain: SamplerChain, (kind, a, b, c, n, m): Numbers) -> Result<SamplerChain, SamplerParamError> {
    let model = || batch_suite::tiny(fixtures::Weights::F32);
    match kind {
        0 => chain.top_k(n),
        1 => chain.top_p_keep(a, n),
        2 => chain.min_p_keep(a, n),
        3 => chain.typical_keep(a, n),
        4 => chain.top_n_sigma(a),
        5 => chain.xtc(Xtc { probability: a, threshold: b, min_keep: n, seed: m }),
        6 => chain.temperature(a),
        7 => chain.dynamic_temperature(a, b, c),
        8 => chain.penalties(Penalties { window: n, repeat: a, frequency: b, presence: c }),
        9 => chain.logit_bias([(Token(n as i32), a), (Token(m as i32), b)]),
        10 => chain.infill(&model()),
        _ => {
            let dry = Dry { multiplier: a, base: 1.0 + b, allowed_length: n, window: m, ..Dry::default() };
            chain.dry(&model(), dry)
        }
    }
}

fn selector(chain: SamplerChain, (kind, a, b, _, n, m): Numbers) -> Result<Sampler, SamplerParamError> {
    match kind % 5 {
        0 => Ok(chain.greedy()),
        1 => Ok(chain.dist(n)),
        2 => chain.mirostat(Mirostat { tau: a, eta: b, considered: n, seed: m }),
        3 => chain.mirostat_v2(MirostatV2 { tau: a, eta: b, seed: m }),
        _ => chain.adaptive_p(AdaptiveP { target: a, decay: b, seed: m }),
    }
}

fn numbers() -> impl Strategy<Value = Numbers> {
    (0usize..12, number(), number(), number(), count(), count())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if batch_suite::is_leak_check() { 8 } else { 200 }, ..ProptestConfig::default() })]
    #[test]
    fn nothing_panics_and_nothing_forbidden_is_chosen(
        steps in proptest::collection::vec(numbers(), 0..6),
        last in numbers(),
        rows in proptest::collection::vec(row(), 1..6),
        seen in proptest::collection::vec(-2i32..30, 0..40),
    ) {
        let mut chain = Sampler::chain();
        let mut forbidden = Vec::new();
        for numbers in steps {
            // What is refused is left out.
            let Ok(longer) = step(chain.clone(), numbers) else { continue };
            let (kind, a, b, _, n, m) = numbers;
            if kind == 9 {
                forbidden.extend([(n, a), (m, b)].iter().filter(|one| one.1 == f32::NEG_INFINITY).map(|one| one.0 as i32));
            }
            chain = longer;
        }
        let Ok(mut sampler) = selector(chain, last) else { return Ok(()) };
        for token in seen {
            sampler.accept(Token(token)).unwrap();
        }
        for row in &rows {
            let mut again = sampler.clone();
            let result = sampler.sample(row);
            // NaN in an error is not equal to itself.
            prop_assert_eq!(format!("{result:?}"), format!("{:?}", again.sample(row)));
            match result {
                Ok(token) => {
                    let logit = row[token.0 as usize];
                    prop_assert!(logit > f32::NEG_INFINITY && !forbidden.contains(&token.0), "{} is {}", token, logit);
                }
                Err(SamplingError::NotFinite { token, value }) => {
                    prop_assert_eq!(row[token].to_bits(), value.to_bits());
                    prop_assert!(value.is_nan() || value == f32::INFINITY);
                }
                Err(SamplingError::NothingAllowed) => {
                    let allowed = |(token, logit): (i32, &f32)| *logit > f32::NEG_INFINITY && !forbidden.contains(&token);
                    prop_assert!(!(0..).zip(row).any(allowed));
                }
                Err(SamplingError::BiasOutOfRange { token, vocabulary }) => {
                    prop_assert!(token as usize >= vocabulary);
                    prop_assert_eq!(vocabulary, row.len());
                }
                Err(SamplingError::OtherVocabulary { expected: 512, got }) => prop_assert_eq!(got, row.len()),
                Err(other) => prop_assert!(false, "{}", other),
            }
        }
    }

    /// What a sampler is asked by others does not change what it says.
    #[test]
    fn samplers_do_not_know_of_each_other(rows in proptest::collection::vec(row(), 1..20), seed in any::<u32>()) {
        let sampler = || Sampler::chain().top_p(0.9).unwrap().temperature(1.3).unwrap().dist(seed);
        let mut alone = sampler();
        let expected: Vec<_> = rows.iter().map(|row| alone.sample(row).ok()).collect();
        let mut among = sampler();
        let mut others = [sampler(), Sampler::creative(seed ^ 1)];
        let got: Vec<_> = rows.iter().map(|row| {
            others.iter_mut().for_each(|other| drop(other.sample(row)));
            among.sample(row).ok()
        }).collect();
        prop_assert_eq!(got, expected);
    }
}
