//! The oracle: a sequence alone on its context, one token a call.

use std::sync::OnceLock;

use fixtures::Weights;
use llama_safe::{Context, ContextParams, FlashAttention, KvType, Model, Token};

use crate::models::{params, tiny};

/// `length` tokens that a prompt of its own could have: different for each `salt`, never a special one.
#[must_use]
pub fn prompt(salt: u32, length: u32) -> Vec<Token> {
    (0..length).map(|index| Token(((salt * 7919 + index * 104_729 + index * index * 31) % 250) as i32 + 3)).collect()
}

/// The logits after each of `tokens`, on a fresh context of one sequence: `[tokens.len(), n_vocab]`.
///
/// # Panics
///
/// If a call fails: there is nothing to compare with then.
#[must_use]
pub fn alone(model: &Model, params: &ContextParams, tokens: &[Token]) -> Vec<Vec<f32>> {
    let mut context = Context::new(model, &params.clone().sequences(1)).expect("a context of one sequence");
    decode_alone(&mut context, tokens)
}

/// [`alone`] on a context that exists, in a sequence that is dropped again.
///
/// # Panics
///
/// If a call fails.
#[must_use]
pub fn decode_alone(context: &mut Context, tokens: &[Token]) -> Vec<Vec<f32>> {
    let sequence = context.new_sequence().expect("a free sequence");
    let mut batch = context.new_batch();
    tokens
        .iter()
        .map(|token| {
            let slot = batch.push_output(&sequence, *token).expect("a token that fits");
            context.decode(&mut batch).expect("a decode").get(slot).expect("logits").to_vec()
        })
        .collect()
}

/// Normalised mean squared error of `got` against `want`.
#[must_use]
pub fn nmse(got: &[f32], want: &[f32]) -> f64 {
    let square = |number: f64| number * number;
    let error: f64 = got.iter().zip(want).map(|(got, want)| square(f64::from(*got) - f64::from(*want))).sum();
    let size: f64 = want.iter().map(|want| square(f64::from(*want))).sum();
    error / size
}

/// The token with the highest logit, and its lead over the next, in units of the root mean square of the logits.
#[must_use]
pub fn best(logits: &[f32]) -> (usize, f64) {
    let (mut first, mut second) = ((0, f32::NEG_INFINITY), f32::NEG_INFINITY);
    for (token, &logit) in logits.iter().enumerate() {
        if logit > first.1 {
            second = first.1;
            first = (token, logit);
        } else if logit > second {
            second = logit;
        }
    }
    let size = (logits.iter().map(|logit| f64::from(*logit).powi(2)).sum::<f64>() / logits.len() as f64).sqrt();
    (first.0, f64::from(first.1 - second) / size)
}

/// Two rows of logits are the same: an error of at most `most`, and the same best token unless its lead is within the
/// noise that such an error allows.
///
/// # Panics
///
/// If they are not.
#[track_caller]
pub fn assert_equal(got: &[f32], want: &[f32], most: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    assert!(got.iter().chain(want).all(|logit| logit.is_finite()), "{what}: a logit that is not finite");
    let error = nmse(got, want);
    assert!(error <= most, "{what}: normalised mean squared error {error:e}, at most {most:e} is allowed");
    let (wanted, lead) = best(want);
    // Two logits may move towards each other, each by some standard deviations of the error.
    if lead > 8.0 * most.sqrt() {
        assert_eq!(best(got).0, wanted, "{what}: another best token, which led by {lead}");
    }
}

/// What counts as the same.
#[derive(Clone, Copy, Debug)]
pub enum Same {
    /// Bit for bit.
    Exactly,
    /// As [`assert_equal`] says, with an error of at most this.
    Within(f64),
}

/// Two rows of logits are the same, as far as they have to be.
///
/// # Panics
///
/// If they are not.
#[track_caller]
pub fn assert_same(got: &[f32], want: &[f32], same: Same, what: &str) {
    match same {
        Same::Exactly => assert!(got == want, "{what}: not bit for bit, error {:e}", nmse(got, want)),
        Same::Within(most) => assert_equal(got, want, most, what),
    }
}

/// Room for two sequences of 256 tokens, all in 32 bits, so that no rounding hides what a bad input leaves behind.
#[must_use]
pub fn exact_params() -> ContextParams {
    let params = params().sequences(2).context_tokens(512).batch_tokens(64);
    params.kv_type(KvType::F32).flash_attention(FlashAttention::Off)
}

/// The context, of the tiny model in 32 bits and [`exact_params`], decodes a known prompt to the known result. It needs a
/// free sequence.
///
/// # Panics
///
/// If it does not.
#[track_caller]
pub fn still_works(context: &mut Context) {
    static WANT: OnceLock<Vec<f32>> = OnceLock::new();
    let text = prompt(9, 6);
    let want = WANT.get_or_init(|| alone(&tiny(Weights::F32), &exact_params(), &text).pop().expect("a row a token"));
    let sequence = context.new_sequence().expect("a free sequence");
    let mut batch = context.new_batch();
    let slot = batch.prompt(&sequence, &text).expect("a good prompt");
    let outputs = context.decode(&mut batch).expect("a good batch");
    assert_equal(outputs.get(slot).expect("logits"), want, 1e-6, "after bad input");
}
