//! What choosing a token costs, here and in llama.cpp's own chain: 32 sequences over a vocabulary of 151,936 tokens.
//!
//! Both get the logits that a decode would have left. The chain in C++ is called as `llama_sampler_sample` calls it: the array
//! of candidates is filled anew for each token.

use std::hint::black_box;
use std::time::Duration;

use batch_suite::RawChain;
use criterion::{Criterion, criterion_group, criterion_main};
use llama_safe::{Penalties, Sampler};

const SEQUENCES: usize = 32;
const VOCABULARY: usize = 151_936;

/// Logits about as a model's: a bell curve of 2.5, and a few tokens that stand out.
fn rows() -> Vec<Vec<f32>> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 24) as f32
    };
    let mut row = || {
        let mut row: Vec<f32> = (0..VOCABULARY).map(|_| ((0..6).map(|_| uniform()).sum::<f32>() - 3.0) * 3.5).collect();
        for place in 0..20 {
            row[(uniform() * VOCABULARY as f32) as usize] = 12.0 + place as f32 * 0.4;
        }
        row
    };
    (0..SEQUENCES).map(|_| row()).collect()
}

/// A chain here and there.
struct Pair {
    name: &'static str,
    ours: fn(u32) -> Sampler,
    theirs: fn(u32) -> RawChain,
}

const PAIRS: [Pair; 6] = [
    Pair { name: "greedy", ours: |_| Sampler::greedy(), theirs: |_| RawChain::new().greedy() },
    Pair {
        name: "top-k top-p temperature dist",
        ours: |seed| {
            let chain = Sampler::chain().top_k(40).and_then(|chain| chain.top_p(0.95)?.temperature(0.8));
            chain.expect("numbers in range").dist(seed)
        },
        theirs: |seed| RawChain::new().top_k(40).top_p(0.95, 1).temp(0.8).dist(seed),
    },
    Pair {
        name: "penalties top-k top-p temperature dist",
        ours: |seed| {
            let penalties = Penalties { repeat: 1.1, ..Penalties::default() };
            let chain = Sampler::chain().penalties(penalties);
            let chain = chain.and_then(|chain| chain.top_k(40)?.top_p(0.95)?.temperature(0.8));
            chain.expect("numbers in range").dist(seed)
        },
        theirs: |seed| {
            let chain = RawChain::new().penalties(VOCABULARY as i32, 64, 1.1, 0.0, 0.0);
            chain.top_k(40).top_p(0.95, 1).temp(0.8).dist(seed)
        },
    },
    Pair {
        name: "min-p temperature dist",
        ours: |seed| {
            Sampler::chain().min_p(0.05).and_then(|chain| chain.temperature(0.8)).expect("in range").dist(seed)
        },
        theirs: |seed| RawChain::new().min_p(0.05, 1).temp(0.8).dist(seed),
    },
    Pair {
        name: "temperature dist",
        ours: |seed| Sampler::chain().temperature(0.8).expect("in range").dist(seed),
        theirs: |seed| RawChain::new().temp(0.8).dist(seed),
    },
    Pair {
        name: "top-p dist",
        ours: |seed| Sampler::chain().top_p(0.95).expect("in range").dist(seed),
        theirs: |seed| RawChain::new().top_p(0.95, 1).dist(seed),
    },
];

fn chains(criterion: &mut Criterion) {
    let rows = rows();
    for Pair { name, ours, theirs } in PAIRS {
        let mut group = criterion.benchmark_group(name);
        group.sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
        let mut samplers: Vec<Sampler> = (0..SEQUENCES as u32).map(ours).collect();
        group.bench_function("here, 32 tokens", |bencher| {
            bencher.iter(|| {
                for (sampler, row) in samplers.iter_mut().zip(&rows) {
                    black_box(sampler.sample(row).expect("a token"));
                }
            });
        });
        let mut raw: Vec<RawChain> = (0..SEQUENCES as u32).map(theirs).collect();
        group.bench_function("C++, 32 tokens", |bencher| {
            bencher.iter(|| {
                for (chain, row) in raw.iter_mut().zip(&rows) {
                    black_box(chain.sample(row));
                }
            });
        });
        group.finish();
    }
}

criterion_group!(benches, chains);
criterion_main!(benches);
