//! The safe side: contexts to try a misuse on, and the decode afterwards that shows that nothing was damaged.

use std::any::type_name;
use std::fmt::Debug;

use batch_suite::{assert_equal, encoder, exact_params, family, prompt, tiny};
use fixtures::{Family, Weights};
use llama_safe::{Context, ContextParams, FlashAttention, KvLayout, KvType, Model};

use crate::row::Safe;

/// The context that an attempt is made on.
#[derive(Clone, Copy)]
pub enum Setup {
    /// The tiny decoder, two sequences on split KV.
    Tiny,
    /// The same, on unified KV.
    Unified,
    /// The tiny encoder, which pools.
    Encoder,
    /// The tiny model of a family, two sequences.
    Of(Family),
}

impl Setup {
    fn parts(self) -> (Model, ContextParams) {
        let settings = exact_params();
        match self {
            Self::Tiny => (tiny(Weights::F32), settings),
            Self::Unified => (tiny(Weights::F32), settings.kv_layout(KvLayout::Unified)),
            Self::Encoder => (encoder(), settings.embeddings(true)),
            Self::Of(one) => (family(one, Weights::F32), settings),
        }
    }

    /// A fresh context.
    pub fn context(self) -> Context {
        let (model, params) = self.parts();
        Context::new(&model, &params).expect("a context")
    }
}

/// Makes the attempt, holds its result against the row, and uses the same context for a right decode.
///
/// # Panics
///
/// If the safe layer does not hold.
pub fn check(safe: &Safe) {
    match safe {
        Safe::Refused { error, on, attempt } => {
            let mut context = on.context();
            let got = attempt(&mut context);
            assert!(matches(&got, error), "the safe side gave {got}, expected {error}");
            still_works(&mut context, *on);
        }
        Safe::Right { on, attempt, .. } => {
            let mut context = on.context();
            attempt(&mut context);
            still_works(&mut context, *on);
        }
        Safe::Unwritable { file, line } => {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("llama-safe/src").join(file);
            let source = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert!(doctests(&source).any(|test| test.contains(line)), "{file}: no compile_fail doctest has {line:?}");
        }
    }
}

/// The doctests of a source that must not compile.
fn doctests(source: &str) -> impl Iterator<Item = &str> {
    source.split("```compile_fail").skip(1).filter_map(|rest| rest.split("```").next())
}

/// What an attempt came to: the error with its type, or that there was none.
pub fn told<T, E: Debug>(result: Result<T, E>) -> String {
    match result {
        Ok(_) => "no error".to_owned(),
        Err(error) => {
            let name = type_name::<E>().rsplit("::").next().unwrap_or_default();
            format!("{name}::{error:?}")
        }
    }
}

/// Whether `got` is `pattern`, of which `..` stands for anything.
fn matches(got: &str, pattern: &str) -> bool {
    let mut parts = pattern.split("..");
    let Some(mut rest) = parts.next().and_then(|first| got.strip_prefix(first)) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(start) = rest.find(part) else { return false };
        rest = &rest[start + part.len()..];
    }
    true
}

/// The context computes a known text to what a fresh context makes of it, bit for bit or within rounding.
fn still_works(context: &mut Context, on: Setup) {
    let got = compute(context);
    let want = compute(&mut on.context());
    assert_equal(&got, &want, 1e-6, "after the attempt");
}

/// What a context makes of a known text, in a sequence that it has free.
pub fn compute(context: &mut Context) -> Vec<f32> {
    let sequence = context.new_sequence().expect("a free sequence");
    let text = prompt(9, 6);
    let is_encoder = !context.limits().has_logits() || context.limits().is_pooled();
    if context.limits().encodes_first() {
        let mut batch = context.new_encoder_batch();
        batch.extend(&sequence, &text).expect("a good text");
        context.encode(&mut batch).expect("a good text");
    }
    let mut batch = context.new_batch();
    let slot = batch.prompt(&sequence, &text).expect("a good prompt");
    if is_encoder {
        let outputs = context.encode(&mut batch).expect("a good batch");
        outputs.sequence_embedding(&sequence).expect("a vector").to_vec()
    } else if context.model().is_diffusion() {
        context.encode(&mut batch).expect("a good batch").get(slot).expect("logits").to_vec()
    } else {
        context.decode(&mut batch).expect("a good batch").get(slot).expect("logits").to_vec()
    }
}

/// Parameters like those of [`Setup::Tiny`], for contexts that an attempt makes itself.
pub fn params() -> ContextParams {
    batch_suite::params()
        .sequences(2)
        .context_tokens(512)
        .batch_tokens(64)
        .kv_type(KvType::F32)
        .flash_attention(FlashAttention::Off)
}
