//! A batch computes what one-at-a-time inference computes.

use batch_suite::{
    Feed, Same, alone, assert_same, family, feed_all, feed_at_once, is_leak_check, nmse, params, prompt,
};
use fixtures::{Family, Weights};
use llama_safe::{Context, ContextParams, FlashAttention, KvLayout, KvType, Token};

/// How attention is computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Attention {
    /// All in 32 bits, one operation after the other: nothing is rounded that a test could hide behind.
    Exact,
    /// The default of a context: a fused kernel, on keys and values of 16 bits.
    Fused,
}

/// One way to cut the work: sequences, tokens of a batch, tokens of a micro-batch.
type Cut = (u32, u32, u32);

/// Every number of sequences with a small and a large micro-batch, batches smaller, as large and larger than those.
const CUTS: [Cut; 6] = [(1, 1, 16), (1, 32, 4), (2, 7, 16), (3, 7, 512), (8, 32, 4), (8, 32, 512)];

/// Rows of a stream from which on ggml's fused attention is another kernel (`GGML_FA_TILE_Q`; `use_tiled` in
/// `ggml-cpu/ops.cpp`): it adds up in 32 bits what the other adds up in 16.
const TILE: u32 = 64;

/// What a family has to agree to.
///
/// Quantised weights, bit for bit: their products are sums of whole numbers, and every other operation of every family (experts,
/// convolutions, scans, states) makes a row from that row and its sequence, in one order, whatever stands beside it. So does fused
/// attention, which goes through a sequence's cells in their order and skips those of others; but not the other kernel that
/// it has for many rows, and not attention by products of floats, where one row is added up in another order than two
/// (`llamafile_sgemm`). A value that is then rounded the other way moves the logits by up to 1e-3; with experts it may be
/// another one that is picked.
///
/// Floats: the same products are everywhere. With all in 32 bits that is the only noise there is, but for Gemma: its GELU is read
/// from a table of 16 bits. Both fused kernels round to 16 bits, and so does the product with weights of 16 bits what it multiplies.
fn tolerance(which: Family, weights: Weights, attention: Attention, micro_batch: u32) -> Same {
    let attends = !matches!(which, Family::Mamba | Family::Rwkv);
    let in_order = !attends || (attention == Attention::Fused && micro_batch < TILE);
    match weights {
        Weights::Q8_0 | Weights::Q4_0 if in_order => Same::Exactly,
        Weights::Q8_0 | Weights::Q4_0 if which == Family::Moe => Same::Within(0.5),
        Weights::Q8_0 | Weights::Q4_0 => Same::Within(5e-3),
        Weights::F32 if attention == Attention::Exact && which != Family::Gemma => Same::Within(1e-10),
        Weights::F32 | Weights::F16 if attention == Attention::Exact || micro_batch < TILE => Same::Within(2e-6),
        Weights::F32 => Same::Within(1e-5),
        Weights::F16 => Same::Within(1e-4),
    }
}

fn context_params(attention: Attention, (sequences, _, micro_batch): Cut) -> ContextParams {
    // The first prompt alone is longer than a tile, and all of them together are one batch.
    let params = params().sequences(sequences).context_tokens(sequences * 256).batch_tokens(256);
    let params = params.micro_batch_tokens(micro_batch);
    match attention {
        Attention::Exact => params.kv_type(KvType::F32).flash_attention(FlashAttention::Off),
        Attention::Fused => params,
    }
}

/// Texts of different lengths, and how much of each is its prompt: the first prompt is longer than a tile, the others are
/// shorter or longer than the micro-batches.
fn texts() -> Vec<(Vec<Token>, usize)> {
    (0..9_u32)
        .map(|index| {
            if index == 0 {
                (prompt(0, 72), 66)
            } else {
                (prompt(index, 20 + index * 13 % 31), 3 + index as usize * 5 % 17)
            }
        })
        .collect()
}

/// All prompts at once with one output each; then the rest of the texts in turns, some a token at a time, some in chunks, with
/// an output for every token; then a new text in the place of the first: each output is that of its text alone.
fn life(which: Family, weights: Weights, attention: Attention, layout: KvLayout, cut: Cut, want: &[Vec<Vec<f32>>]) {
    let (sequences, size, micro_batch) = cut;
    let model = family(which, weights);
    let mut context = Context::new(&model, &context_params(attention, cut).kv_layout(layout)).expect("a context");
    // Not always what was asked for.
    let same = tolerance(which, weights, attention, context.limits().micro_batch_tokens());
    let check = |stage: &str, text: usize, position: usize, got: &[f32]| {
        let what = format!(
            "{which} {weights} {attention:?} {layout:?}, {sequences} sequences, batches of {size}, micro-batches of {micro_batch}: \
             {stage}, text {text}, token {position}"
        );
        assert_same(got, &want[text][position], same, &what);
    };
    let texts = texts();
    let (first, next) = (&texts[..sequences as usize], &texts[sequences as usize].0);
    let mut feeds: Vec<Feed> = first.iter().map(|(text, split)| Feed::new(&mut context, &text[..*split])).collect();
    for (index, got) in feed_at_once(&mut context, &mut feeds).iter().enumerate() {
        check("a prompt", index, feeds[index].fed - 1, got);
    }
    for (feed, (text, _)) in feeds.iter_mut().zip(first) {
        feed.text.clone_from(text);
    }
    feed_all(&mut context, &mut feeds, size, |index, position, got| check("in turns", index, position, got));
    // Its slot goes to the new text, its memory has to be gone.
    drop(feeds.remove(0));
    feeds.push(Feed::new(&mut context, next));
    let last = feeds.len() - 1;
    let got = feed_at_once(&mut context, &mut feeds[last..]);
    check("a slot that is used again", sequences as usize, next.len() - 1, &got[0]);
    for (feed, (text, _)) in feeds[..last].iter().zip(&first[1..]) {
        assert_eq!(context.span(&feed.sequence).expect("a live sequence").end, text.len() as u32);
    }
}

/// All cuts, on split and on unified cells.
fn lives(which: Family, weights: Weights, attention: Attention) {
    let model = family(which, weights);
    // One sequence in small micro-batches: the plainest way there is.
    let oracle = context_params(attention, (1, 1, 4));
    let want: Vec<_> = texts().iter().map(|(text, _)| alone(&model, &oracle, text)).collect();
    let cuts = if is_leak_check() { &CUTS[2..3] } else { &CUTS[..] };
    for cut in cuts {
        for layout in [KvLayout::Split, KvLayout::Unified] {
            life(which, weights, attention, layout, *cut, &want);
        }
    }
}

/// Weights of floats.
pub fn batch_equals_single(which: Family) {
    lives(which, Weights::F32, Attention::Exact);
    lives(which, Weights::F32, Attention::Fused);
    lives(which, Weights::F16, Attention::Fused);
}

/// Quantised weights.
pub fn quantised_batch_equals_single(which: Family) {
    lives(which, Weights::Q8_0, Attention::Exact);
    lives(which, Weights::Q8_0, Attention::Fused);
    lives(which, Weights::Q4_0, Attention::Fused);
}

/// The model is worth testing: in every format its logits are numbers that differ from token to token, and the first token
/// still counts for the last.
pub fn remembers_its_first_token(which: Family) {
    for weights in Weights::ALL {
        let model = family(which, weights);
        let params = params().context_tokens(256);
        let text = prompt(1, 24);
        let mut other = text.clone();
        other[0] = prompt(2, 1)[0];
        let rows = alone(&model, &params, &text);
        let changed = alone(&model, &params, &other);
        assert!(rows.iter().flatten().all(|logit| logit.is_finite()), "{which} {weights}");
        for pair in rows.windows(2) {
            assert!(nmse(&pair[1], &pair[0]) > 1e-2, "{which} {weights}: two tokens give the same logits");
        }
        let (last, want) = (changed.last().expect("a row a token"), rows.last().expect("a row a token"));
        let error = nmse(last, want);
        assert!(error > 1e-4, "{which} {weights}: the first token moves the last logits by {error:e} only");
    }
}
