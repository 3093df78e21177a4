//! Prompts: how many tokens of one go into a batch, and how many are computed in one pass.
//!
//! The throughput is in tokens of the prompt; `elem/s` is tokens/s. The sequence is cleared after each prompt.

use std::time::Duration;

use batch_suite::{model, prompt};
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use fixtures::{Llama, Weights};
use llama_safe::{Context, ContextParams};

/// Tokens of the prompt.
const PROMPT: u32 = 512;

/// Tokens of a batch, and of a pass.
const CHUNKS: [u32; 6] = [16, 32, 64, 128, 256, 512];

fn chunks(criterion: &mut Criterion) {
    let text = prompt(1, PROMPT);
    for (name, weights) in [("135M Q8_0", Weights::Q8_0), ("135M Q4_0", Weights::Q4_0)] {
        let model = model(&Llama::m135(), weights, 1);
        let mut group = criterion.benchmark_group(format!("{name}, a prompt of {PROMPT}"));
        group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(PROMPT.into()));
        for chunk in CHUNKS {
            // Batches of so many tokens, one after the other, each computed in one pass.
            let mut context =
                Context::new(&model, &ContextParams::default().context_tokens(PROMPT)).expect("a context");
            let mut batch = context.new_batch();
            let sequence = context.new_sequence().expect("a free sequence");
            group.bench_function(BenchmarkId::new("tokens in a batch", chunk), |bencher| {
                bencher.iter(|| {
                    for part in text.chunks(chunk as usize) {
                        batch.prompt(&sequence, part).expect("room for the part");
                        context.decode(&mut batch).expect("a decode");
                    }
                    context.clear(&sequence).expect("a sequence of this context");
                });
            });
        }
        for chunk in CHUNKS {
            // The whole prompt in one batch, which llama.cpp computes in passes of so many tokens.
            let params = ContextParams::default().context_tokens(PROMPT).micro_batch_tokens(chunk);
            let mut context = Context::new(&model, &params).expect("a context");
            let mut batch = context.new_batch();
            let sequence = context.new_sequence().expect("a free sequence");
            group.bench_function(BenchmarkId::new("tokens in a pass", chunk), |bencher| {
                bencher.iter(|| {
                    batch.prompt(&sequence, &text).expect("room for the prompt");
                    context.decode(&mut batch).expect("a decode");
                    context.clear(&sequence).expect("a sequence of this context");
                });
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = prefill;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(5));
    targets = chunks
}
criterion_main!(prefill);
