//! Random programs of encodings, decodes and memory operations, run on an encoder-decoder and on a naive model of what each
//! sequence was given.

use std::collections::HashMap;

use batch_suite::{assert_equal, exact_params, family, prompt};
use fixtures::{Family, Weights};
use llama_safe::{Context, DecodeError, Sequence, Token};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Sequences of the context.
const SLOTS: usize = 4;

/// Numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Op {
    New,
    Drop(usize),
    /// Of each sequence its text, or none.
    Encode([Option<u32>; SLOTS]),
    /// All that are live, each with the text that it has.
    EncodeAgain,
    Decode(usize, u32),
    Fork(usize, usize),
    Truncate(usize, usize),
    Clear(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let which = 0..SLOTS;
    prop_oneof![
        3 => Just(Op::New),
        1 => which.clone().prop_map(Op::Drop),
        3 => prop::array::uniform4(prop::option::of(0u32..3)).prop_map(Op::Encode),
        4 => Just(Op::EncodeAgain),
        12 => (which.clone(), 0u32..3).prop_map(|(which, token)| Op::Decode(which, token)),
        2 => (which.clone(), 0usize..9).prop_map(|(which, length)| Op::Fork(which, length)),
        2 => (which.clone(), 0usize..9).prop_map(|(which, length)| Op::Truncate(which, length)),
        1 => which.prop_map(Op::Clear),
    ]
}

/// A sequence, and what it should hold.
struct Naive {
    sequence: Sequence,
    text: Option<u32>,
    encoded: bool,
    tokens: Vec<Token>,
}

fn text(salt: u32) -> Vec<Token> {
    prompt(salt, 3 + 4 * salt)
}

/// The logits of token sequences after a text, each computed once, on a context of its own.
type Oracle = HashMap<(u32, Vec<Token>), Vec<f32>>;

fn want(oracle: &mut Oracle, salt: u32, tokens: &[Token]) -> Vec<f32> {
    let known = oracle.entry((salt, tokens.to_vec()));
    let compute = || {
        let model = family(Family::T5, Weights::F32);
        let mut context = Context::new(&model, &exact_params().sequences(1)).expect("a context");
        let sequence = context.new_sequence().expect("a sequence");
        let mut batch = context.new_encoder_batch();
        batch.extend(&sequence, &text(salt)).expect("room");
        context.encode(&mut batch).expect("an encoding");
        let mut batch = context.new_batch();
        let slot = batch.prompt(&sequence, tokens).expect("room");
        context.decode(&mut batch).expect("a decode").get(slot).expect("logits").to_vec()
    };
    known.or_insert_with(compute).clone()
}

fn encode(context: &mut Context, all: &mut [Naive], texts: &[(usize, u32)]) {
    let mut batch = context.new_encoder_batch();
    for (index, salt) in texts {
        batch.extend(&all[*index].sequence, &text(*salt)).expect("room");
    }
    let result = context.encode(&mut batch).map(drop);
    let other = texts.iter().find(|(index, salt)| {
        let naive = &all[*index];
        !naive.tokens.is_empty() && naive.text != Some(*salt)
    });
    match other {
        _ if texts.is_empty() => assert_eq!(result, Err(DecodeError::EmptyBatch)),
        Some((index, _)) => {
            let Naive { sequence, tokens, .. } = &all[*index];
            let refused = DecodeError::EncodedOtherwise { id: sequence.id(), length: tokens.len() as u32 };
            assert_eq!(result, Err(refused));
        }
        None => {
            assert_eq!(result, Ok(()));
            all.iter_mut().for_each(|naive| naive.encoded = false);
            for (index, salt) in texts {
                all[*index].text = Some(*salt);
                all[*index].encoded = true;
            }
        }
    }
}

fn run(oracle: &mut Oracle, program: &[Op]) {
    let model = family(Family::T5, Weights::F32);
    let params = exact_params().sequences(SLOTS as u32).context_tokens(1024);
    let mut context = Context::new(&model, &params).expect("a context");
    let mut all: Vec<Naive> = Vec::new();
    for op in program {
        let live = all.len();
        let pick = |which: usize| if live == 0 { None } else { Some(which % live) };
        match op {
            Op::New if live < SLOTS => {
                let sequence = context.new_sequence().expect("a slot");
                all.push(Naive { sequence, text: None, encoded: false, tokens: Vec::new() });
            }
            Op::New => assert!(context.new_sequence().is_err()),
            Op::Drop(which) => {
                if let Some(index) = pick(*which) {
                    all.remove(index);
                }
            }
            Op::Encode(texts) => {
                let texts: Vec<_> =
                    (0..live).zip(texts).filter_map(|(index, salt)| salt.map(|salt| (index, salt))).collect();
                encode(&mut context, &mut all, &texts);
            }
            Op::EncodeAgain => {
                let texts: Vec<_> = (0..live).map(|index| (index, all[index].text.unwrap_or(0))).collect();
                encode(&mut context, &mut all, &texts);
            }
            Op::Decode(which, salt) => {
                let Some(index) = pick(*which) else { continue };
                let naive = &mut all[index];
                let token = prompt(50 + salt, 1)[0];
                let mut batch = context.new_batch();
                let slot = batch.push_output(&naive.sequence, token).expect("room");
                let outputs = context.decode(&mut batch);
                if let (true, Some(salt)) = (naive.encoded, naive.text) {
                    naive.tokens.push(token);
                    let want = want(oracle, salt, &naive.tokens);
                    assert_equal(outputs.expect("a decode").get(slot).expect("logits"), &want, 1e-6, "a decode");
                } else {
                    assert_eq!(outputs.map(drop), Err(DecodeError::NotEncoded { id: naive.sequence.id() }));
                }
            }
            Op::Fork(which, length) => {
                let Some(index) = pick(*which).filter(|_| live < SLOTS) else { continue };
                let naive = &all[index];
                let length = length % (naive.tokens.len() + 1);
                let fork = context.fork_prefix(&naive.sequence, length as u32).expect("a fork");
                let text = naive.text.filter(|_| length > 0);
                let tokens = naive.tokens[..length].to_vec();
                all.push(Naive { sequence: fork, text, encoded: false, tokens });
            }
            Op::Truncate(which, length) => {
                let Some(index) = pick(*which) else { continue };
                let naive = &mut all[index];
                let length = length % (naive.tokens.len() + 1);
                context.truncate(&naive.sequence, length as u32).expect("a truncation");
                naive.tokens.truncate(length);
            }
            Op::Clear(which) => {
                let Some(index) = pick(*which) else { continue };
                context.clear(&all[index].sequence).expect("a clear");
                all[index].tokens.clear();
            }
        }
        for naive in &all {
            assert_eq!(context.is_encoded(&naive.sequence), Ok(naive.encoded));
            assert_eq!(naive.sequence.len() as usize, naive.tokens.len());
        }
    }
}

/// So many programs.
pub fn random_programs(cases: u32) {
    let mut oracle = Oracle::new();
    let oracle = std::cell::RefCell::new(&mut oracle);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&prop::collection::vec(op(), 1..40), |program| {
            run(&mut oracle.borrow_mut(), &program);
            Ok(())
        })
        .expect("every program does what the naive model does");
}
