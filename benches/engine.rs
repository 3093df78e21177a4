//! What the engine takes beside llama.cpp's computation: scheduling, sampling, text, the hand-over to listeners.
//!
//! The throughput is in generated tokens, and the time is what llama.cpp did not compute in: `time` divided by the tokens is the
//! cost of one. The model is tiny; its vocabulary is what matters here, since greedy sampling reads it once a token.

use std::time::Duration;

use batch_suite::model;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use fixtures::{Llama, Weights};
use llama_safe::{ContextParams, Engine, Generation, Model, Request, Shutdown, StopConditions, Token};

/// Tokens that each answer has.
const TOKENS: u32 = 32;

/// Sequences where there is more of something else.
const SEQUENCES: u32 = 8;

fn engine(model: &Model, sequences: u32, queue: usize) -> Engine {
    let params = ContextParams::default().threads(1).batch_threads(1);
    let builder = Engine::builder(model).sequences(sequences).context_tokens(256 * sequences).queue(queue);
    builder.measure(false).share_prefixes(false).context(params).start().expect("an engine")
}

fn request(salt: usize) -> Request {
    let prompt: Vec<Token> = (0..8).map(|place| Token(3 + ((salt * 31 + place * 7) % 200) as i32)).collect();
    Request::tokens(prompt).max_tokens(TOKENS).stop(StopConditions::new().end_of_text(false))
}

/// The engine's own time for so many answers that are generated at once, by its time for a token meanwhile.
fn own_time(engine: &Engine, answers: u32) -> Duration {
    let before = engine.stats();
    let asked = (0..answers as usize).map(|salt| engine.generate(request(salt).priority(i8::MAX)));
    for answer in asked.collect::<Result<Vec<Generation>, _>>().expect("good requests") {
        assert_eq!(answer.wait().tokens.len(), TOKENS as usize);
    }
    let after = engine.stats();
    let own = (after.busy - before.busy).saturating_sub(after.computing - before.computing);
    // Figures are those of the last step but one at times, and others may be generated beside these.
    let generated = (after.generated_tokens - before.generated_tokens).max(1);
    own.mul_f64(f64::from(answers * TOKENS) / generated as f64)
}

/// Measures what `answers` at a time take, each time after `before`.
fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    parameter: u32,
    engine: &Engine,
    answers: u32,
    mut before: impl FnMut(),
) {
    group.throughput(Throughput::Elements(u64::from(answers * TOKENS)));
    group.bench_function(BenchmarkId::new(name, parameter), |bencher| {
        bencher.iter_custom(|times| {
            let once = |_| {
                before();
                own_time(engine, answers)
            };
            (0..times).map(once).sum()
        });
    });
}

fn own(criterion: &mut Criterion) {
    let tiny = model(&Llama::tiny(), Weights::F16, 1);
    let mut group = criterion.benchmark_group("own time");
    group.sampling_mode(SamplingMode::Flat);
    for sequences in [1, 4, 16, 64, 256] {
        measure(&mut group, "sequences", sequences, &engine(&tiny, sequences, 256), sequences, || {});
    }
    for vocabulary in [512, 4_096, 32_768, 131_072] {
        let model = model(&Llama { vocabulary, layers: 1, ..Llama::tiny() }, Weights::F16, 1);
        let engine = engine(&model, SEQUENCES, 256);
        measure(&mut group, "vocabulary, 8 sequences", vocabulary, &engine, SEQUENCES, || {});
    }
    for waiting in [0, 1_000, 10_000, 100_000] {
        let queue = waiting as usize;
        let engine = engine(&tiny, SEQUENCES, queue + 4 * SEQUENCES as usize);
        // They come last in order: only between one measurement and the next some of them get a sequence.
        let mut others: Vec<Generation> = Vec::with_capacity(queue);
        let fill_up = || {
            let missing = queue.saturating_sub(if others.is_empty() { 0 } else { engine.stats().queued });
            let salts = others.len()..others.len() + missing;
            let asked = salts.map(|salt| engine.generate(request(salt).priority(i8::MIN)).expect("room in the queue"));
            others.extend(asked);
        };
        measure(&mut group, "waiting, 8 sequences", waiting, &engine, SEQUENCES, fill_up);
        engine.shutdown(Shutdown::Cancel);
        drop(others);
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    targets = own
}
criterion_main!(benches);
