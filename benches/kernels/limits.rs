//! What no kernel can go beyond on this machine: the speed at which memory is read, and that of the arithmetic.

use std::hint::black_box;
use std::time::Instant;

const ROUNDS: usize = 7;

/// Runs `call` on so many threads at once, with the thread's number, and returns the shortest time of some rounds in seconds.
fn fastest(threads: usize, call: impl Fn(usize) + Sync) -> f64 {
    let round = || {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let call = &call;
                scope.spawn(move || call(thread));
            }
        });
        start.elapsed().as_secs_f64()
    };
    (0..ROUNDS).map(|_| round()).fold(f64::INFINITY, f64::min)
}

/// Bytes read in a second, from more memory than any cache holds.
pub fn bytes_a_second(threads: usize) -> f64 {
    const SIZE: usize = 512 << 20;
    let memory: Vec<u64> = (0..SIZE as u64 / 8).collect();
    let time = fastest(threads, |thread| {
        let part = memory.chunks(memory.len().div_ceil(threads)).nth(thread).unwrap_or(&[]);
        black_box(part.iter().fold(0_u64, |sum, number| sum ^ number));
    });
    SIZE as f64 / time
}

/// Products of 8-bit numbers that are added up in a second, with AVX2: the instructions that Q8_0 needs, and nothing else.
/// `None` for other instruction sets.
pub fn products_a_second(set: &str, threads: usize) -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    if set == "avx2" {
        const STEPS: u64 = 20_000_000;
        let time = fastest(threads, |_| {
            // SAFETY: the kernels are in use with AVX2, so that the processor has it.
            black_box(unsafe { avx2(STEPS) });
        });
        return Some((threads as u64 * STEPS * COLUMNS as u64 * 32) as f64 / time);
    }
    let _ = (set, threads);
    None
}

/// As many as leave everything in registers.
#[cfg(target_arch = "x86_64")]
const COLUMNS: usize = 6;

/// Multiplies 32 weights with as many activations of each column, `steps` times.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(steps: u64) -> i32 {
    use std::arch::x86_64::{
        _mm256_abs_epi8, _mm256_add_epi8, _mm256_add_epi32, _mm256_extract_epi32, _mm256_madd_epi16,
        _mm256_maddubs_epi16, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_setzero_si256, _mm256_sign_epi8,
    };
    let (one, next) = (_mm256_set1_epi16(1), _mm256_set1_epi8(3));
    let activations: [_; COLUMNS] = std::array::from_fn(|column| _mm256_set1_epi8(black_box(column as i8 + 1)));
    let mut sums = [_mm256_setzero_si256(); COLUMNS];
    let mut weights = _mm256_set1_epi8(black_box(5));
    for _ in 0..steps {
        // Others each time, or else the compiler would multiply once.
        weights = _mm256_add_epi8(weights, next);
        let size = _mm256_abs_epi8(weights);
        for (sum, activations) in sums.iter_mut().zip(activations) {
            let products = _mm256_maddubs_epi16(size, _mm256_sign_epi8(activations, weights));
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(products, one));
        }
    }
    sums.into_iter().fold(0, |all, sum| all ^ _mm256_extract_epi32::<0>(sum))
}
