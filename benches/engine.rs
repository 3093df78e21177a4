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

fn engine(model: &Model, sequences: u32, queue: usize) -> Engine {
    let params = ContextParams::default().threads(1).batch_threads(1);
    let builder = Engine::builder(model).sequences(sequences).context_tokens(256 * sequences).queue(queue);
    builder.measure(false).share_prefixes(false).context(params).start().expect("an engine")
}

fn request(salt: u32) -> Request {
    let prompt: Vec<Token> = (0..8).map(|place| Token(3 + ((salt * 31 + place * 7) % 200) as i32)).collect();
    Request::tokens(prompt).max_tokens(TOKENS).stop(StopConditions::new().end_of_text(false))
}

/// The engine's own time for so many answers that are generated at once, by its time for a token meanwhile.
fn own_time(engine: &Engine, answers: u32) -> Duration {
    let before = engine.stats();
    let running: Vec<Generation> =
        (0..answers).map(|salt| engine.generate(request(salt)).expect("a good request")).collect();
    for answer in running {
        assert_eq!(answer.wait().tokens.len(), TOKENS as usize);
    }
    let after = engine.stats();
    let own = (after.busy - before.busy).saturating_sub(after.computing - before.computing);
    // Figures are those of the last step but one at times, and others may be generated beside these.
    let generated = (after.generated_tokens - before.generated_tokens).max(1);
    own.mul_f64(f64::from(answers * TOKENS) / generated as f64)
}

fn measure(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, parameter: u32, engine: &Engine, answers: u32) {
    group.throughput(Throughput::Elements(u64::from(answers * TOKENS)));
    group.bench_function(BenchmarkId::new(name, parameter), |bencher| {
        bencher.iter_custom(|times| (0..times).map(|_| own_time(engine, answers)).sum());
    });
}

fn own(criterion: &mut Criterion) {
    let tiny = model(&Llama::tiny(), Weights::F16, 1);
    let mut group = criterion.benchmark_group("own time");
    group.sampling_mode(SamplingMode::Flat);
    for sequences in [1, 4, 16, 64, 256] {
        measure(&mut group, "sequences", sequences, &engine(&tiny, sequences, 256), sequences);
    }
    for vocabulary in [512, 8_192, 131_072] {
        let model = model(&Llama { vocabulary, layers: 1, ..Llama::tiny() }, Weights::F16, 1);
        measure(&mut group, "vocabulary, 8 sequences", vocabulary, &engine(&model, 8, 256), 8);
    }
    for waiting in [0, 1_000, 100_000] {
        let engine = engine(&tiny, 8, waiting as usize + 16);
        // They come last in order. Those that are let in run to their end, and few do so while this is measured.
        let others: Vec<Generation> = (0..waiting)
            .map(|salt| engine.generate(request(salt).priority(-100).max_tokens(200)).expect("room in the queue"))
            .collect();
        measure(&mut group, "waiting, 8 sequences", waiting, &engine, 8);
        drop(others);
        engine.shutdown(Shutdown::Cancel);
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
