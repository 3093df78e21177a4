//! What is remembered: split and unified cells, prefixes that are forked instead of computed, fork and truncate by themselves.

use std::hint::black_box;
use std::time::Duration;

use batch_suite::{model, prompt};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use fixtures::{Llama, Weights};
use llama_safe::{Batch, Context, ContextParams, KvLayout, Model, Sequence, Token};

const LAYOUTS: [(&str, KvLayout); 2] = [("split", KvLayout::Split), ("unified", KvLayout::Unified)];

/// Tokens in the memory of each sequence before a step.
const PROMPT: u32 = 128;

/// Tokens that requests have in common, and those that each has of its own.
const PREFIX: u32 = 256;
const OWN: u32 = 16;

/// Requests with a common prefix.
const REQUESTS: u32 = 8;

fn context(model: &Model, layout: KvLayout, sequences: u32, cells: u32) -> Context {
    let params = ContextParams::default().kv_layout(layout).sequences(sequences).context_tokens(sequences * cells);
    // All prompts of a comparison fit into one batch.
    Context::new(model, &params.batch_tokens(4096)).expect("a context")
}

fn fill(context: &mut Context, batch: &mut Batch, sequence: &Sequence, text: &[Token]) {
    batch.prompt(sequence, text).expect("room for the text");
    context.decode(batch).expect("a decode");
}

/// Steps of sequences that have nothing in common. `elem/s` is tokens/s.
fn layouts(criterion: &mut Criterion) {
    let model = model(&Llama::m135(), Weights::Q8_0, 1);
    let mut group = criterion.benchmark_group("a step of sequences with 128 tokens each");
    group.sampling_mode(SamplingMode::Flat);
    for (name, layout) in LAYOUTS {
        for width in [1, 8, 32] {
            let mut context = context(&model, layout, width, 256);
            let mut batch = context.new_batch();
            let sequences: Vec<_> = (0..width).map(|_| context.new_sequence().expect("a free sequence")).collect();
            for (salt, sequence) in sequences.iter().enumerate() {
                fill(&mut context, &mut batch, sequence, &prompt(salt as u32, PROMPT));
            }
            group.throughput(Throughput::Elements(width.into()));
            group.bench_function(BenchmarkId::new(name, width), |bencher| {
                bencher.iter(|| {
                    for sequence in &sequences {
                        batch.push_output(sequence, Token(7)).expect("room for the token");
                    }
                    context.decode(&mut batch).expect("a decode");
                    for sequence in &sequences {
                        context.truncate(sequence, PROMPT).expect("a memory that goes back");
                    }
                });
            });
        }
    }
    group.finish();
}

/// Prompts that begin alike: each computed whole, or the prefix once and forked. `elem/s` is tokens/s of all prompts.
fn prefixes(criterion: &mut Criterion) {
    let model = model(&Llama::m135(), Weights::Q8_0, 1);
    let mut group = criterion.benchmark_group("8 prompts of 256 common and 16 own tokens");
    group.sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Elements((REQUESTS * (PREFIX + OWN)).into()));
    let common = prompt(1, PREFIX);
    let own: Vec<_> = (0..REQUESTS).map(|request| prompt(100 + request, OWN)).collect();
    for (name, layout) in LAYOUTS {
        let mut context = context(&model, layout, REQUESTS, 512);
        let mut batch = context.new_batch();
        group.bench_function(BenchmarkId::new("computed", name), |bencher| {
            bencher.iter(|| {
                let sequences: Vec<_> =
                    (0..REQUESTS).map(|_| context.new_sequence().expect("a free sequence")).collect();
                for (sequence, own) in sequences.iter().zip(&own) {
                    batch.extend(sequence, &common).expect("room for the prefix");
                    batch.prompt(sequence, own).expect("room for the rest");
                }
                context.decode(&mut batch).expect("a decode");
            });
        });
        group.bench_function(BenchmarkId::new("forked", name), |bencher| {
            bencher.iter(|| {
                let first = context.new_sequence().expect("a free sequence");
                batch.extend(&first, &common).expect("room for the prefix");
                context.decode(&mut batch).expect("a decode");
                let forks: Vec<_> = (1..REQUESTS).map(|_| context.fork(&first).expect("a free sequence")).collect();
                for (sequence, own) in std::iter::once(&first).chain(&forks).zip(&own) {
                    batch.prompt(sequence, own).expect("room for the rest");
                }
                context.decode(&mut batch).expect("a decode");
            });
        });
    }
    group.finish();
}

/// The calls by themselves, on a sequence of so many tokens.
///
/// On split cells the next decode makes a fork's copy: only a step of the fork shows what it takes.
fn calls(criterion: &mut Criterion) {
    let model = model(&Llama::m135(), Weights::Q8_0, 1);
    let mut group = criterion.benchmark_group("calls");
    for (name, layout) in LAYOUTS {
        for length in [128, 1024] {
            let mut context = context(&model, layout, 2, 1280);
            let mut batch = context.new_batch();
            let sequence = context.new_sequence().expect("a free sequence");
            fill(&mut context, &mut batch, &sequence, &prompt(1, length));
            let id = |call: &str| BenchmarkId::new(format!("{call}, {name}"), length);
            if layout == KvLayout::Unified {
                fork(&mut group, id("fork and drop"), &mut context, &sequence);
            }
            group.bench_function(id("fork, a step of it, drop"), |bencher| {
                bencher.iter(|| {
                    let fork = context.fork(&sequence).expect("a free sequence");
                    fill(&mut context, &mut batch, &fork, &[Token(7)]);
                });
            });
            group.bench_function(id("a step, and truncate by it"), |bencher| {
                bencher.iter(|| {
                    fill(&mut context, &mut batch, &sequence, &[Token(7)]);
                    context.truncate(&sequence, length).expect("a memory that goes back");
                });
            });
            truncate(&mut group, id("truncate by 1 token"), &mut context, &sequence, &mut batch);
        }
    }
    group.finish();
}

fn fork(group: &mut BenchmarkGroup<'_, WallTime>, id: BenchmarkId, context: &mut Context, sequence: &Sequence) {
    // The dropped fork is taken back in the next one, which is what its time includes.
    group.bench_function(id, |bencher| {
        bencher.iter(|| drop(black_box(context.fork(sequence).expect("a free sequence"))));
    });
}

/// Truncates alone are timed, in steps back from so many tokens that were added for it.
fn truncate(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: BenchmarkId,
    context: &mut Context,
    sequence: &Sequence,
    batch: &mut Batch,
) {
    const STEPS: u32 = 64;
    let length = sequence.len();
    group.bench_function(id, |bencher| {
        bencher.iter_custom(|count| {
            let mut time = Duration::ZERO;
            let mut left = count;
            while left > 0 {
                let steps = left.min(STEPS.into()) as u32;
                fill(context, batch, sequence, &prompt(2, steps));
                let started = std::time::Instant::now();
                for step in (0..steps).rev() {
                    context.truncate(sequence, length + step).expect("a memory that goes back");
                }
                time += started.elapsed();
                left -= u64::from(steps);
            }
            time
        });
    });
}

criterion_group! {
    name = memory;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    targets = layouts, prefixes, calls
}
criterion_main!(memory);
