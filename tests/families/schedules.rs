//! Any schedule of batches computes what one-at-a-time inference computes: sequences come and go, and tokens of some stand between
//! those of others, as many as there is room for.

use batch_suite::{alone, assert_equal, exact_params, family, is_leak_check, prompt};
use fixtures::gguf::Gguf;
use fixtures::{Family, Weights};
use llama_safe::{
    Context, ContextError, ContextParams, KvLayout, Model, ModelParams, OutputSlot, Pooling, Sequence, Token,
};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// A sequence for one of the texts, if there is room for it.
    Start(Index),
    /// So many of a sequence's next tokens are pushed, as far as there is room, with an output for the last or for each.
    Feed(Index, usize, bool),
    /// The batch is decoded. Then sequences go whose text has come to its end, and perhaps another.
    Decode(Option<Index>),
}

/// A context and what is done with it.
#[derive(Clone, Debug)]
struct Schedule {
    sequences: u32,
    batch: u32,
    micro_batch: u32,
    layout: KvLayout,
    steps: Vec<Step>,
}

fn schedules(layouts: &[KvLayout]) -> impl Strategy<Value = Schedule> + use<> {
    let step = prop_oneof![
        2 => any::<Index>().prop_map(Step::Start),
        6 => (any::<Index>(), select(vec![1, 1, 1, 2, 5, 11, 30]), any::<bool>())
            .prop_map(|(which, count, each)| Step::Feed(which, count, each)),
        1 => prop::option::weighted(0.25, any::<Index>()).prop_map(Step::Decode),
    ];
    let layouts = select(layouts.to_vec());
    let (batches, micro_batches) = (select(vec![8, 16, 64, 128]), select(vec![1, 2, 3, 4, 8, 16, 64]));
    (1..=8_u32, batches, micro_batches, layouts, prop::collection::vec(step, 100..300)).prop_map(
        |(sequences, batch, micro_batch, layout, steps)| Schedule { sequences, batch, micro_batch, layout, steps },
    )
}

/// A text, and what has been pushed of it.
struct Live {
    sequence: Sequence,
    text: usize,
    fed: usize,
}

/// A model, texts and their logits, alone.
struct Known {
    model: Model,
    texts: Vec<Vec<Token>>,
    want: Vec<Vec<Vec<f32>>>,
}

fn run(schedule: &Schedule, known: &Known) {
    let params = exact_params().sequences(schedule.sequences).context_tokens(schedule.sequences * 256);
    let params = params.batch_tokens(schedule.batch).micro_batch_tokens(schedule.micro_batch);
    let mut context = Context::new(&known.model, &params.kv_layout(schedule.layout)).expect("a context");
    let mut batch = context.new_batch();
    let mut live: Vec<Live> = Vec::new();
    let mut slots: Vec<(OutputSlot, usize, usize)> = Vec::new();
    for step in &schedule.steps {
        match step {
            Step::Start(text) if live.len() < schedule.sequences as usize => {
                let sequence = context.new_sequence().expect("a free sequence");
                live.push(Live { sequence, text: text.index(known.texts.len()), fed: 0 });
            }
            Step::Feed(index, count, each) if !live.is_empty() => {
                let live = index.get_mut(&mut live);
                let text = &known.texts[live.text];
                let room = (batch.capacity() - batch.len()) as usize;
                for left in (0..(*count).min(room).min(text.len() - live.fed)).rev() {
                    let token = text[live.fed];
                    if *each || left == 0 {
                        let slot = batch.push_output(&live.sequence, token).expect("a token that fits");
                        slots.push((slot, live.text, live.fed));
                    } else {
                        batch.push(&live.sequence, token).expect("a token that fits");
                    }
                    live.fed += 1;
                }
            }
            Step::Decode(goes) if !batch.is_empty() => {
                let outputs = context.decode(&mut batch).expect("a decode");
                for (slot, text, position) in slots.drain(..) {
                    let got = outputs.get(slot).expect("an output that was asked for");
                    let what = format!("{}, text {text}, token {position}", known.model.architecture());
                    assert_equal(got, &known.want[text][position], 1e-6, &what);
                }
                live.retain(|live| live.fed < known.texts[live.text].len());
                if let Some(goes) = goes.filter(|_| !live.is_empty()) {
                    live.swap_remove(goes.index(live.len()));
                }
            }
            _ => {}
        }
    }
}

/// The same schedules each time, smallest first where one fails.
fn any_schedule(model: Model, layouts: &[KvLayout]) {
    let texts: Vec<_> = (0..6).map(|index| prompt(index, 25 + index * 11)).collect();
    let want = texts.iter().map(|text| alone(&model, &exact_params().context_tokens(256), text)).collect();
    let known = Known { model, texts, want };
    let cases = if is_leak_check() { 2 } else { 12 };
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
        .run(&schedules(layouts), |schedule| {
            run(&schedule, &known);
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

/// On both layouts.
pub fn any_schedule_equals_single(which: Family) {
    any_schedule(family(which, Weights::F32), &[KvLayout::Split, KvLayout::Unified]);
}

/// Raw llama.cpp computes wrong logits where sequences with windows share cells and a batch is cut to micro-batches: what the second
/// may overwrite is forgotten before the first is computed. So a batch there is one pass.
pub fn windows_on_shared_cells_take_one_pass() {
    let params = exact_params().batch_tokens(64).micro_batch_tokens(16);
    let pass = |which, params: &ContextParams| {
        let context = Context::new(&family(which, Weights::F32), params).expect("a context");
        (context.new_batch().capacity(), context.limits().micro_batch_tokens())
    };
    let shared = params.clone().kv_layout(KvLayout::Unified);
    assert_eq!(pass(Family::Gemma, &shared), (64, 64));
    assert_eq!(pass(Family::Gemma, &params), (64, 16));
    assert_eq!(pass(Family::Llama, &shared), (64, 16));
    let three = shared.sequences(3).context_tokens(768).embeddings(true).pooling(Pooling::None);
    assert_eq!(pass(Family::Gemma, &three), (63, 63));
}

/// A hybrid with windows (LFM2) needs micro-batches of equal lengths, so that its batches are not always one pass: sequences do not
/// share cells there, and where they do not it computes what it should.
pub fn windows_beside_states_share_no_cells() {
    let mut gguf = Gguf::default();
    gguf.set("general.architecture", "lfm2");
    for (key, value) in [
        ("context_length", 512_u32),
        ("embedding_length", 32),
        ("block_count", 3),
        ("feed_forward_length", 64),
        ("attention.head_count", 2),
        ("attention.sliding_window", 8),
        ("shortconv.l_cache", 3),
        ("vocab_size", 256),
    ] {
        gguf.set(format!("lfm2.{key}"), value);
    }
    gguf.set("lfm2.attention.head_count_kv", vec![0, 2, 2]);
    gguf.set("lfm2.attention.layer_norm_rms_epsilon", 1e-5_f32);
    gguf.set("tokenizer.ggml.model", "none");
    let mut seed = 1_u32;
    let model = Model::generate(&gguf.header(), &ModelParams::default(), |tensor, values| {
        let norm = tensor.name.contains("norm");
        values.fill_with(|| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if norm { 1.0 } else { (seed >> 16) as f32 / 65_536.0 - 0.5 }
        });
    });
    let model = model.expect("a model");
    let params = exact_params().kv_layout(KvLayout::Unified);
    let refused = Context::new(&model, &params).map(drop).expect_err("a window that forgets too early");
    assert!(
        matches!(&refused, ContextError::UnsupportedModel { architecture, .. } if architecture == "lfm2"),
        "{refused}"
    );
    assert!(Context::new(&model, &params.sequences(1)).is_ok());
    any_schedule(model, &[KvLayout::Split]);
}
