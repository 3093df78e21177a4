//! Decode steps of several sequences in one batch against the same sequences one at a time, on the 135M shape.
//!
//! The throughput is in tokens, one for each sequence of a step; `elem/s` is tokens/s. Every step finds 128 tokens in
//! the memory of each sequence and leaves 128 there.

use std::time::Duration;

use batch_suite::{model, prompt};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use fixtures::{Llama, Weights};
use llama_safe::{Batch, Context, ContextParams, Sequence, Token};

/// Sequences of a step.
const WIDTHS: [usize; 6] = [1, 2, 4, 8, 16, 32];

/// Sequences that are decoded one at a time, each in a batch of its own.
const ALONE: usize = 8;

/// Tokens in the memory of each sequence.
const PROMPT: u32 = 128;

/// Cells of each sequence.
const CELLS: u32 = 256;

/// A context whose sequences have their prompts in memory.
struct Ready {
    context: Context,
    sequences: Vec<Sequence>,
    batch: Batch,
}

impl Ready {
    fn new(weights: Weights) -> Self {
        let most = WIDTHS[WIDTHS.len() - 1] as u32;
        let model = model(&Llama::m135(), weights, 1);
        // Split KV and a thread for each core: the defaults.
        let params = ContextParams::default().sequences(most).context_tokens(most * CELLS);
        let mut context = Context::new(&model, &params).expect("a context");
        let mut batch = context.new_batch();
        let sequences: Vec<Sequence> = (0..most).map(|_| context.new_sequence().expect("a free sequence")).collect();
        for (salt, sequence) in sequences.iter().enumerate() {
            batch.extend(sequence, &prompt(salt as u32, PROMPT)).expect("room for the prompt");
            context.decode(&mut batch).expect("the prompt");
        }
        Self { context, sequences, batch }
    }

    /// Computes one token of each of `sequences` in one call, and forgets it again.
    fn step(&mut self, sequences: std::ops::Range<usize>) {
        for sequence in &self.sequences[sequences.clone()] {
            self.batch.push_output(sequence, Token(7)).expect("room for the token");
        }
        self.context.decode(&mut self.batch).expect("a decode");
        for sequence in &self.sequences[sequences] {
            self.context.truncate(sequence, PROMPT).expect("a memory that goes back");
        }
    }
}

fn steps(criterion: &mut Criterion) {
    for (name, weights) in [("135M Q8_0", Weights::Q8_0), ("135M Q4_0", Weights::Q4_0)] {
        let mut ready = Ready::new(weights);
        let mut group = criterion.benchmark_group(name);
        group.sampling_mode(SamplingMode::Flat);
        measure(&mut group, "one at a time", ALONE, || (0..ALONE).for_each(|index| ready.step(index..index + 1)));
        for width in WIDTHS {
            measure(&mut group, "in one batch", width, || ready.step(0..width));
        }
        group.finish();
    }
}

/// Times `step`, which computes `tokens` tokens.
fn measure(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, tokens: usize, mut step: impl FnMut()) {
    group.throughput(Throughput::Elements(tokens as u64));
    group.bench_function(BenchmarkId::new(name, tokens), |bencher| bencher.iter(&mut step));
}

criterion_group! {
    name = batch;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(5));
    targets = steps
}
criterion_main!(batch);
