//! Any schedule of batches computes what one-at-a-time inference computes: sequences come and go, and tokens of some stand between
//! those of others, as many as there is room for.

use batch_suite::{alone, assert_equal, exact_params, family, is_leak_check, prompt};
use fixtures::{Family, Weights};
use llama_safe::{Context, ContextParams, KvLayout, OutputSlot, Pooling, Sequence, Token};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};

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

fn schedules() -> impl Strategy<Value = Schedule> {
    let step = prop_oneof![
        2 => any::<Index>().prop_map(Step::Start),
        6 => (any::<Index>(), select(vec![1, 1, 1, 2, 5, 11, 30]), any::<bool>())
            .prop_map(|(which, count, each)| Step::Feed(which, count, each)),
        1 => prop::option::weighted(0.25, any::<Index>()).prop_map(Step::Decode),
    ];
    let layouts = select(vec![KvLayout::Split, KvLayout::Unified]);
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

/// Texts and their logits, alone.
struct Known {
    texts: Vec<Vec<Token>>,
    want: Vec<Vec<Vec<f32>>>,
}

fn run(which: Family, schedule: &Schedule, known: &Known) {
    let params = exact_params().sequences(schedule.sequences).context_tokens(schedule.sequences * 256);
    let params = params.batch_tokens(schedule.batch).micro_batch_tokens(schedule.micro_batch);
    let mut context =
        Context::new(&family(which, Weights::F32), &params.kv_layout(schedule.layout)).expect("a context");
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
                    let what = format!("{which}, text {text}, token {position}");
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
pub fn any_schedule_equals_single(which: Family) {
    let model = family(which, Weights::F32);
    let texts: Vec<_> = (0..6).map(|index| prompt(index, 25 + index * 11)).collect();
    let alone_params = exact_params().context_tokens(256);
    let want = texts.iter().map(|text| alone(&model, &alone_params, text)).collect();
    let known = Known { texts, want };
    let cases = if is_leak_check() { 2 } else { 12 };
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let rng = proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha);
    TestRunner::new_with_rng(config, rng)
        .run(&schedules(), |schedule| {
            run(which, &schedule, &known);
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
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
