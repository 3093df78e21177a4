//! What safety costs: time for each token that is pushed and checked, and allocations for each decode.
//!
//! Allocations are counted before anything is timed: `allocations per decode: 0`. The time of `a token/..` is that of one
//! token, not of a batch.

use std::alloc::{GlobalAlloc, Layout, System};
use std::error::Error;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use batch_suite::{params, prompt, tiny};
use criterion::{Criterion, criterion_group};
use fixtures::Weights;
use llama_safe::{Batch, Context, Sampler, Sequence, Token};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const SEQUENCES: u32 = 8;

/// Tokens of a full batch.
const BATCH: u32 = 2048;

/// Decodes over which allocations are counted.
const DECODES: u32 = 1000;

/// The system's allocator with a counter. What llama.cpp allocates in C++ does not pass here.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator with the very arguments, under the caller's own promises.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller promises a layout that is not empty.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller promises a layout that is not empty.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller promises that the block came from here, which is from the system, with this layout.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller promises that the block came from here, which is from the system, with this layout.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A context of the tiny model with room for so many tokens in each sequence, and the sequences.
fn context(tokens: u32) -> Result<(Context, Vec<Sequence>)> {
    let params = params().sequences(SEQUENCES).context_tokens(SEQUENCES * tokens).batch_tokens(BATCH);
    let mut context = Context::new(&tiny(Weights::Q8_0), &params)?;
    let sequences = (0..SEQUENCES).map(|_| context.new_sequence()).collect::<std::result::Result<_, _>>()?;
    Ok((context, sequences))
}

/// Allocations of Rust's side in `DECODES` steps of all sequences: push, decode, read, choose.
fn allocations() -> Result<u64> {
    const WARM_UP: u32 = 16;
    let (mut context, sequences) = context(WARM_UP + DECODES)?;
    let mut batch = context.new_batch();
    let mut slots = Vec::with_capacity(sequences.len());
    let mut next = prompt(1, SEQUENCES);
    let mut greedy = Sampler::greedy();
    let mut before = 0;
    for step in 0..WARM_UP + DECODES {
        if step == WARM_UP {
            before = ALLOCATIONS.load(Ordering::Relaxed);
        }
        slots.clear();
        // The last sequence first, which llama.cpp is not to see: the order that makes more work.
        for (sequence, token) in sequences.iter().zip(&next).rev() {
            slots.push(batch.push_output(sequence, *token)?);
        }
        let outputs = context.decode(&mut batch)?;
        for (slot, token) in slots.iter().zip(next.iter_mut().rev()) {
            *token = greedy.sample(outputs.get(*slot)?)?;
        }
    }
    assert!(before > 0, "making the context has allocated: the counter counts");
    Ok(ALLOCATIONS.load(Ordering::Relaxed) - before)
}

/// The time of `tokens` tokens, measured over as many whole batches as that takes.
fn time_of(tokens: u64, mut fill: impl FnMut()) -> Duration {
    let batches = tokens.div_ceil(BATCH.into());
    let start = Instant::now();
    for _ in 0..batches {
        fill();
    }
    start.elapsed().mul_f64(tokens as f64 / (batches * u64::from(BATCH)) as f64)
}

/// Fills a batch from eight sequences in turn and empties it again; the time is that of one token.
fn push(criterion: &mut Criterion) {
    let (context, sequences) = context(BATCH).expect("a context of the tiny model");
    let text = prompt(1, BATCH / SEQUENCES);
    let mut group = criterion.benchmark_group("a token");
    let mut measure = |name, fill: fn(&mut Batch, &[Sequence], &[Token])| {
        let mut batch = context.new_batch();
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|tokens| {
                time_of(tokens, || {
                    fill(&mut batch, black_box(&sequences), black_box(&text));
                    assert_eq!(batch.len(), BATCH);
                    batch.clear();
                })
            });
        });
    };
    measure("push", |batch, sequences, text| {
        for token in text {
            for sequence in sequences {
                batch.push(sequence, *token).expect("room for the token");
            }
        }
    });
    measure("push_output", |batch, sequences, text| {
        for token in text {
            for sequence in sequences {
                black_box(batch.push_output(sequence, *token).expect("room for the token"));
            }
        }
    });
    measure("extend", |batch, sequences, text| {
        for sequence in sequences {
            batch.extend(sequence, text).expect("room for the text");
        }
    });
    group.finish();
}

/// What `decode` checks before it calls llama.cpp, seen in a batch that it refuses: its last sequence is gone.
fn check(criterion: &mut Criterion) {
    let (mut context, mut sequences) = context(BATCH).expect("a context of the tiny model");
    let mut batch = context.new_batch();
    for sequence in &sequences {
        batch.push(sequence, Token(3)).expect("room for the token");
    }
    sequences.pop();
    criterion.bench_function("the checks of a decode of 8 sequences", |bencher| {
        bencher.iter(|| context.decode(black_box(&mut batch)).map(drop).expect_err("a sequence is gone"));
    });
}

criterion_group! {
    name = costs;
    config = Criterion::default().measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
    targets = push, check
}

fn main() -> Result<()> {
    println!("allocations per decode: {}", allocations()? as f64 / f64::from(DECODES));
    costs();
    Criterion::default().configure_from_args().final_summary();
    Ok(())
}
