//! What a batch computes is what one token at a time computes, whoever else is in it.

use batch_suite::{Feed, Same, alone, assert_equal, assert_same, feed_all, model, prompt};
use fixtures::{Llama, Weights};
use llama_safe::{Context, ContextParams, KvLayout, Model, PushError, Token};

/// The tiny model with the small weights that the tolerances were measured with: sums of large ones round further apart.
fn quiet(weights: Weights) -> Model {
    model(&Llama { deviation: 0.02, ..Llama::tiny() }, weights, 1)
}

/// Whole numbers add up to the same in any order, so that quantised weights make the same bits of the same row. Only attention
/// is left, and its kernel: from 64 rows of a stream on ggml takes another (`GGML_FA_TILE_Q`), with its sums in other
/// precision. A stream is a sequence where cells are split, and none here has as many rows; it is all of them where they are not.
fn tolerance(weights: Weights, layout: KvLayout) -> Same {
    match (weights, layout) {
        (Weights::Q8_0, KvLayout::Split) => Same::Exactly,
        (Weights::F32 | Weights::F16, _) => Same::Within(1e-6),
        _ => Same::Within(1e-3),
    }
}

/// Room for 64 sequences of 40 tokens.
const BATCH: u32 = 128;

fn params(layout: KvLayout, sequences: u32, micro_batch: u32) -> ContextParams {
    ContextParams::default()
        .sequences(sequences)
        .context_tokens(sequences.max(2) * 64)
        .batch_tokens(BATCH)
        .micro_batch_tokens(micro_batch)
        .kv_layout(layout)
        // More threads than tiny matrices have work for only wait for each other.
        .threads(1)
}

/// Texts of different lengths, 5 to 39 tokens.
fn texts(sequences: u32) -> Vec<Vec<Token>> {
    (0..sequences).map(|index| prompt(index, 5 + index * 11 % 35)).collect()
}

/// Every output of every sequence against the oracle, over batch sizes, sequence counts and micro-batch sizes.
fn matrix(weights: Weights, layout: KvLayout) {
    let model = quiet(weights);
    let same = tolerance(weights, layout);
    let texts = texts(if batch_suite::is_leak_check() { 8 } else { 64 });
    let want: Vec<Vec<Vec<f32>>> = texts.iter().map(|text| alone(&model, &params(layout, 1, BATCH), text)).collect();
    let (counts, sizes): (&[u32], &[u32]) =
        if batch_suite::is_leak_check() { (&[8], &[7]) } else { (&[1, 2, 8, 64], &[1, 2, 3, 7, 32, BATCH]) };
    for &sequences in counts {
        for &size in sizes {
            for micro_batch in [(size / 2).max(1), size, 2 * size] {
                let mut context = Context::new(&model, &params(layout, sequences, micro_batch)).expect("a context");
                let mut feeds: Vec<Feed> =
                    texts[..sequences as usize].iter().map(|text| Feed::new(&mut context, text)).collect();
                feed_all(&mut context, &mut feeds, size, |which, position, got| {
                    let what = format!(
                        "{weights:?} {layout:?}, {sequences} sequences, batches of {size}, micro-batches of {micro_batch}, \
                         sequence {which}, token {position}"
                    );
                    assert_same(got, &want[which][position], same, &what);
                });
                for feed in &feeds {
                    assert_eq!(context.span(&feed.sequence).unwrap(), 0..feed.text.len() as u32);
                }
            }
        }
    }
}

#[test]
fn f16_split() {
    matrix(Weights::F16, KvLayout::Split);
}

#[test]
fn f16_unified() {
    matrix(Weights::F16, KvLayout::Unified);
}

#[test]
fn q8_0_split_bit_for_bit() {
    matrix(Weights::Q8_0, KvLayout::Split);
}

#[test]
fn q8_0_unified() {
    matrix(Weights::Q8_0, KvLayout::Unified);
}

/// A batch of exactly `n_batch` is taken, one token more is refused and loses nothing.
#[test]
fn one_token_more_than_the_batch_is_refused() {
    for layout in [KvLayout::Split, KvLayout::Unified] {
        let model = quiet(Weights::F16);
        let params = params(layout, 2, 16).context_tokens(512);
        let text = prompt(1, BATCH);
        let want = alone(&model, &params, &text);
        let mut context = Context::new(&model, &params).unwrap();
        let sequence = context.new_sequence().unwrap();
        let mut batch = context.new_batch();
        let limit = batch.capacity();
        assert_eq!(limit, BATCH);
        assert_eq!(
            batch.prompt(&sequence, &prompt(1, limit + 1)).unwrap_err(),
            PushError::BatchFull { limit, have: 0, adding: u64::from(limit) + 1 }
        );
        assert!(batch.is_empty());
        let last = batch.prompt(&sequence, &text).unwrap();
        let full = PushError::BatchFull { limit, have: limit, adding: 1 };
        assert_eq!(batch.push(&sequence, Token(3)).unwrap_err(), full);
        let outputs = context.decode(&mut batch).unwrap();
        assert_equal(outputs.get(last).unwrap(), &want[BATCH as usize - 1], 1e-6, "a full batch");
    }
}

/// A fork that goes its own way computes what a text of its own computes, and so does what it was forked from.
fn fork_then_diverge(model: &Model, layout: KvLayout, same: Same) {
    let params = params(layout, 3, 32);
    let common = prompt(1, 17);
    let ends = [prompt(2, 9), prompt(3, 12), prompt(4, 5)];
    let want: Vec<Vec<Vec<f32>>> =
        ends.iter().map(|end| alone(model, &params, &[common.clone(), end.clone()].concat())).collect();
    let mut context = Context::new(model, &params).unwrap();
    let first = context.new_sequence().unwrap();
    let mut batch = context.new_batch();
    batch.extend(&first, &common).unwrap();
    context.decode(&mut batch).unwrap();
    let second = context.fork(&first).unwrap();
    let third = context.fork(&second).unwrap();
    let mut feeds: Vec<Feed> = [first, second, third]
        .into_iter()
        .zip(&ends)
        .map(|(sequence, end)| Feed { sequence, text: end.clone(), fed: 0 })
        .collect();
    for feed in &feeds {
        assert_eq!(context.span(&feed.sequence).unwrap(), 0..17);
    }
    feed_all(&mut context, &mut feeds, 8, |which, position, got| {
        let what = format!("{layout:?}, fork {which}, token {position}");
        assert_same(got, &want[which][17 + position], same, &what);
    });
}

#[test]
fn forks_diverge() {
    for weights in [Weights::F16, Weights::Q8_0] {
        for layout in [KvLayout::Split, KvLayout::Unified] {
            fork_then_diverge(&quiet(weights), layout, tolerance(weights, layout));
        }
    }
}

/// Forked in part: the first tokens of one text are the first of another.
#[test]
fn forks_of_a_prefix() {
    for layout in [KvLayout::Split, KvLayout::Unified] {
        let model = quiet(Weights::F16);
        let params = params(layout, 2, 32);
        let (text, end) = (prompt(1, 20), prompt(2, 6));
        let want = alone(&model, &params, &[text[..12].to_vec(), end.clone()].concat());
        let mut context = Context::new(&model, &params).unwrap();
        let whole = context.new_sequence().unwrap();
        let mut batch = context.new_batch();
        batch.extend(&whole, &text).unwrap();
        context.decode(&mut batch).unwrap();
        let part = context.fork_prefix(&whole, 12).unwrap();
        assert_eq!((context.span(&part).unwrap(), context.span(&whole).unwrap()), (0..12, 0..20));
        let last = batch.prompt(&part, &end).unwrap();
        let outputs = context.decode(&mut batch).unwrap();
        assert_equal(outputs.get(last).unwrap(), want.last().unwrap(), 1e-6, "after a forked prefix");
    }
}
