//! The kernels for small batches against an exact reference, and models with them against models without.
//!
//! Products are compared bit for bit, on every instruction set that this machine has, one process each.

#[path = "kernels/ggml.rs"]
mod ggml;
#[path = "kernels/reference.rs"]
mod reference;

use std::ops::ControlFlow;
use std::process::Command;

use batch_suite::{alone, architectures, assert_equal, exact_params, is_leak_check, nmse, prompt};
use fixtures::{ARCHITECTURES, Llama, Weights};
use ggml::{Attention, Held, Operands};
use llama_safe::{
    Context, KvLayout, LoadMode, MemoryKind, Model, ModelParams, Quantization, QuantizeParams, Special, Token, kernels,
    quantize,
};
use llama_sys as sys;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use reference::{FORMATS, Format};

/// Whether this process is to do without: told so, or on a processor that has nothing for them.
fn are_off() -> bool {
    let off = std::env::var_os("LLAMA_KERNELS").is_some_and(|value| value == "off");
    #[cfg(target_arch = "x86_64")]
    let none =
        !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c"));
    #[cfg(not(target_arch = "x86_64"))]
    let none = true;
    off || none
}

/// Weights of any bits, with scales of every kind.
fn weights(format: Format, width: usize, rows: usize, random: &mut ChaCha8Rng) -> Vec<u8> {
    // 0, the least of all, small, one, the largest, each with a sign.
    const SCALES: [u16; 12] = [0, 1, 0x03ff, 0x0400, 0x1000, 0x2e66, 0x3c00, 0x7bff, 0x8000, 0x8001, 0xbc00, 0xfbff];
    let (count, size) = format.block();
    let mut bytes = vec![0; rows * width / count * size];
    for block in bytes.chunks_mut(size) {
        match random.next_u32() % 8 {
            0 => block.fill(0x80),
            1 => block.fill(0xff),
            2 => block.fill(0),
            _ => random.fill_bytes(block),
        }
        for at in format.scales_at() {
            let scale = SCALES[random.next_u32() as usize % SCALES.len()];
            block[*at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    bytes
}

/// Activations of every size; whole blocks of nothing, of one number, of the smallest and of very large ones.
fn columns(count: usize, random: &mut ChaCha8Rng) -> Vec<f32> {
    let mut values = vec![0.0; count];
    for block in values.chunks_mut(64) {
        let size = [0.0, 1.0e-42, 1.0e-3, 1.0, 1.0, 1.0, 30.0, 1.0e4][random.next_u32() as usize % 8];
        let alike = random.next_u32().is_multiple_of(8);
        for value in block {
            let number = if alike { 1.0 } else { random.next_u32() as f32 / (1_u32 << 31) as f32 - 1.0 };
            *value = number * size;
        }
    }
    values
}

#[track_caller]
fn assert_same_bits(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (at, (got, want)) in got.iter().zip(want).enumerate() {
        let same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
        assert!(same, "{what}: number {at} is {got:e}, not {want:e}");
    }
}

/// One product of this shape, bit for bit.
fn check(format: Format, blocks: usize, rows: usize, count: usize, planes: usize, threads: usize, seed: u64) {
    let what = format!("{format:?}, {blocks} blocks, {rows} rows, {count} columns, {planes} planes, {threads} threads");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let width = blocks * format.step();
    let weights = weights(format, width, rows, &mut random);
    let columns = columns(width * count * planes, &mut random);
    let held = Held::with(format.of_ggml(), width, rows, &weights);
    let got = held.multiply(&columns, planes, threads);
    assert_same_bits(&got, &format.products(&weights, width, &columns), &what);
    assert_eq!(held.read(0, weights.len()), weights, "{what}: weights as they were");
}

/// Every width of a tile and its neighbours, rows that fill their groups and rows that do not. Since the reference takes columns
/// one by one, this is also the proof that no number of columns changes a bit.
#[test]
fn products_are_exact() {
    let Some(set) = kernels() else { return assert!(are_off()) };
    let most = if is_leak_check() { 9 } else { 64 };
    for format in FORMATS {
        for count in 1..=most {
            check(format, 1 + count % 3, [16, 5, 33, 64][count % 4], count, 1, 1 + count % 2, count as u64);
        }
        for (rows, count) in [(1, 1), (15, 2), (16, 3), (17, 4), (48, 8), (31, 512)] {
            check(format, 2, rows, count.min(most * 8), 1, 3, 99);
        }
        check(format, 1, 20, 5, 3, 2, 7);
    }
    println!("exact with {set}");
}

#[test]
fn products_of_any_shape_are_exact() {
    if kernels().is_none() {
        return assert!(are_off());
    }
    let shapes = (0..FORMATS.len(), 1..6_usize, 1..70_usize, 1..40_usize, 1..3_usize, 1..5_usize, any::<u64>());
    let config = Config { failure_persistence: None, ..Config::with_cases(if is_leak_check() { 5 } else { 60 }) };
    TestRunner::new(config)
        .run(&shapes, |(format, blocks, rows, count, planes, threads, seed)| {
            check(FORMATS[format], blocks, rows, count, planes, threads, seed);
            Ok(())
        })
        .unwrap();
}

/// Tokens that choose matrices, each as many: one product for each choice, of the token's column or of the choice's own. Each is
/// compared with that column and that matrix alone, so whoever else chose the matrix changes no bit.
fn check_chosen(
    format: Format,
    (rows, matrices, chosen): (usize, usize, usize),
    (tokens, own_columns): (usize, bool),
    threads: usize,
    seed: u64,
) {
    let what = format!(
        "{format:?}, {rows} rows, {chosen} of {matrices} matrices, {tokens} tokens, own columns: {own_columns}, {threads} threads"
    );
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let width = 2 * format.step();
    let weights = weights(format, width, rows * matrices, &mut random);
    let inputs = if own_columns { chosen } else { 1 };
    let columns = columns(width * inputs * tokens, &mut random);
    // Some are chosen twice by one token, some by nobody.
    let ids: Vec<i32> = (0..tokens * chosen).map(|_| (random.next_u32() as usize % matrices) as i32).collect();
    let held = Held::of(format.of_ggml(), width, rows, matrices, &weights);
    let got = held.multiply_chosen(&columns, inputs, &ids, chosen, threads);
    let of_matrix: Vec<_> = weights.chunks(weights.len() / matrices).collect();
    let of_choice = |choice: usize| {
        let column = choice / chosen * inputs + choice % chosen % inputs;
        format.products(of_matrix[ids[choice] as usize], width, &columns[column * width..][..width])
    };
    let want: Vec<f32> = (0..ids.len()).flat_map(of_choice).collect();
    assert_same_bits(&got, &want, &what);
    assert_eq!(held.read(0, weights.len()), weights, "{what}: weights as they were");
}

#[test]
fn products_of_chosen_matrices_are_exact() {
    if kernels().is_none() {
        return assert!(are_off());
    }
    // SAFETY: reads a number.
    let count = || unsafe { sys::kernels_multiplications() };
    let before = count();
    for format in FORMATS {
        for (index, tokens) in [1, 2, 3, 9, 40, 130].into_iter().enumerate() {
            let tokens = if is_leak_check() { tokens.min(3) } else { tokens };
            let shape = ([16, 5, 33, 64, 17, 1][index], [1, 4, 8, 3, 7, 2][index], [1, 2, 2, 3, 4, 2][index]);
            check_chosen(format, shape, (tokens, index % 2 == 1), 1 + index % 3, index as u64);
        }
    }
    // Other tests multiply meanwhile.
    assert!(count() >= before + 6 * FORMATS.len() as u64);
    let shapes = (0..FORMATS.len(), (1..40_usize, 1..9_usize, 1..5_usize), (1..30_usize, any::<bool>()), 1..5_usize);
    let config = Config { failure_persistence: None, ..Config::with_cases(if is_leak_check() { 3 } else { 40 }) };
    TestRunner::new(config)
        .run(&(shapes, any::<u64>()), |((format, shape, tokens, threads), seed)| {
            check_chosen(FORMATS[format], shape, tokens, threads, seed);
            Ok(())
        })
        .unwrap();
}

/// The largest sums that can be: nothing overflows on the way to 32 bits.
#[test]
fn the_largest_products_are_exact() {
    if kernels().is_none() {
        return assert!(are_off());
    }
    for format in FORMATS {
        for byte in [0x7f, 0x80, 0xff, 0x00, 0x81] {
            for activation in [1.0, -1.0] {
                let width = 2 * format.step();
                let (count, size) = format.block();
                let mut weights = vec![byte; 16 * width / count * size];
                for block in weights.chunks_mut(size) {
                    for at in format.scales_at() {
                        block[*at..at + 2].copy_from_slice(&0x3c00_u16.to_le_bytes());
                    }
                }
                for columns in [1, 2, 7] {
                    let columns = vec![activation; columns * width];
                    let held = Held::with(format.of_ggml(), width, 16, &weights);
                    let want = format.products(&weights, width, &columns);
                    assert_same_bits(&held.multiply(&columns, 1, 1), &want, &format!("{format:?} of {byte:#x}"));
                }
            }
        }
    }
}

/// Rows of an embedding that is held rearranged.
#[test]
fn rows_are_those_of_the_file() {
    if kernels().is_none() {
        return assert!(are_off());
    }
    for format in FORMATS {
        let (width, rows) = (2 * format.step(), 37);
        let bytes = weights(format, width, rows, &mut ChaCha8Rng::seed_from_u64(3));
        let held = Held::with(format.of_ggml(), width, rows, &bytes);
        let wanted = [0, 36, 15, 16, 36, 31];
        let all = ggml::expanded(format.of_ggml(), &bytes, width * rows);
        let want: Vec<f32> = wanted.iter().flat_map(|row| all[*row as usize * width..][..width].to_vec()).collect();
        for threads in [1, 4] {
            assert_same_bits(&held.rows(&wanted, threads), &want, &format!("{format:?}"));
        }
    }
}

/// Any bytes of it, whatever rows they begin and end in.
#[test]
fn parts_are_written_and_read() {
    if kernels().is_none() {
        return assert!(are_off());
    }
    let mut random = ChaCha8Rng::seed_from_u64(4);
    for format in FORMATS {
        let (width, rows, matrices) = (format.step(), 19, 2);
        let mut want = weights(format, width, rows * matrices, &mut random);
        let held = Held::of(format.of_ggml(), width, rows, matrices, &want);
        for _ in 0..30 {
            let from = random.next_u32() as usize % want.len();
            let length = random.next_u32() as usize % (want.len() - from) + 1;
            random.fill_bytes(&mut want[from..from + length]);
            held.write(from, &want[from..from + length]);
            let (from, length) = (from / 2, length / 2);
            assert_eq!(held.read(from, length), want[from..from + length], "{format:?}");
        }
        assert_eq!(held.read(0, want.len()), want, "{format:?}");
    }
}

/// Queries, keys and values up to `size`, and masks of every kind: all of it, the beginning, holes, far ones less, nothing.
fn operands(shape: &Attention, size: f32, random: &mut ChaCha8Rng) -> Operands {
    let Attention { key_size, value_size, kv_heads, group, tokens, streams, cells, .. } = *shape;
    let mut numbers = |count: usize, size: f32| -> Vec<f32> {
        (0..count).map(|_| (random.next_u32() as f32 / (1_u32 << 31) as f32 - 1.0) * size).collect()
    };
    let queries = numbers(streams * tokens * kv_heads * group * key_size, size);
    let keys = ggml::halved(&numbers(streams * cells * kv_heads * key_size, 1.0));
    let values = ggml::halved(&numbers(streams * cells * kv_heads * value_size, 1.0));
    let of_token = |_| {
        let (kind, number) = (random.next_u32() % 6, random.next_u32() as usize % cells);
        let holes = random.next_u64();
        (0..cells).map(move |cell| match kind {
            0 => 0.0,
            1 | 2 if cell > number => f32::NEG_INFINITY,
            3 if (holes >> (cell % 64)) & 1 == 1 => f32::NEG_INFINITY,
            4 => -0.125 * cell.abs_diff(number) as f32,
            5 if number.is_multiple_of(2) => f32::NEG_INFINITY,
            _ => 0.0,
        })
    };
    let mask: Vec<f32> = (0..streams * tokens).flat_map(of_token).collect();
    Operands { queries, keys, values, mask: ggml::halved(&mask) }
}

const MINUS_INFINITY: u16 = 0xfc00;

/// One attention against the reference; and each token of it alone with the cells that it sees, by other threads, is the same bits.
fn check_attention(shape: Attention, threads: usize, size: f32, seed: u64) {
    let what = format!("{shape:?}, {threads} threads, {size}, {seed}");
    let Attention { key_size, value_size, kv_heads, group, tokens, streams, cells, .. } = shape;
    let operands = operands(&shape, size, &mut ChaCha8Rng::seed_from_u64(seed));
    let got = shape.compute(&operands, threads);
    // Scores are rounded in 32 bits.
    let near = 1.0e-5 + 1.0e-6 * f64::from(size) * (key_size as f64).sqrt();
    for (at, (got, want)) in got.iter().zip(reference::attention(&shape, &operands)).enumerate() {
        assert!((f64::from(*got) - want).abs() <= near, "{what}: number {at} is {got}, not {want}");
    }
    let (of_query, of_result) = (kv_heads * group * key_size, kv_heads * group * value_size);
    for row in 0..tokens * streams {
        // Only what it sees, and whatever lay between gone.
        let mask = &operands.mask[row * cells..][..cells];
        let mut seen: Vec<usize> = (0..cells).filter(|cell| mask[*cell] != MINUS_INFINITY).collect();
        if seen.is_empty() {
            seen.push(0);
        }
        let of = |all: &[u16], size: usize| -> Vec<u16> {
            let place = |cell: &usize| (row / tokens * cells + cell) * size;
            seen.iter().flat_map(|cell| all[place(cell)..][..size].to_vec()).collect()
        };
        let alone = Operands {
            queries: operands.queries[row * of_query..][..of_query].to_vec(),
            keys: of(&operands.keys, kv_heads * key_size),
            values: of(&operands.values, kv_heads * value_size),
            mask: seen.iter().map(|cell| mask[*cell]).collect(),
        };
        let alone = Attention { tokens: 1, streams: 1, cells: seen.len(), ..shape }.compute(&alone, 1 + row % 4);
        assert_same_bits(&got[row * of_result..][..of_result], &alone, &format!("{what}: token {row} alone"));
    }
}

/// Heads in groups that fill what goes together and that do not, sizes with a tail, cells within one span and over several.
#[test]
fn attentions_are_exact() {
    let Some(set) = kernels() else { return assert!(are_off()) };
    let plain =
        Attention { key_size: 64, value_size: 64, kv_heads: 2, group: 3, tokens: 1, streams: 1, cells: 256, bias: 0.0 };
    // SAFETY: reads a number.
    let count = || unsafe { sys::kernels_attentions() };
    let before = count();
    for (index, group) in [1, 2, 3, 4, 5, 7, 8].into_iter().enumerate() {
        for (key_size, value_size) in [(64, 64), (80, 48), (192, 128)] {
            let cells = [1, 5, 128, 129, 300, 512, 700][index];
            let shape = Attention { key_size, value_size, group, tokens: 1 + index, cells, ..plain };
            check_attention(shape, 1 + index % 4, 1.0, index as u64);
        }
    }
    check_attention(Attention { kv_heads: 3, group: 4, bias: 8.0, tokens: 4, ..plain }, 2, 1.0, 20);
    check_attention(Attention { streams: 5, tokens: 2, ..plain }, 3, 30.0, 21);
    // So many tokens would be llama.cpp's if heads did not fill what goes together; it computes other bits.
    check_attention(Attention { tokens: 70, ..plain }, 2, 1.0, 22);
    assert!(count() >= before + 24);
    println!("exact with {set}");
}

#[test]
fn attentions_of_any_shape_are_right() {
    if kernels().is_none() {
        return assert!(are_off());
    }
    let size = (1..13_usize).prop_map(|size| 16 * size);
    let shapes = (size.clone(), size, 1..4_usize, 1..9_usize, (1..20_usize, 1..4_usize), 1..400_usize);
    let rest = (prop::sample::select(vec![0.0_f32, 4.0, 8.0]), 1..5_usize, 0..3_i32, any::<u64>());
    let config = Config { failure_persistence: None, ..Config::with_cases(if is_leak_check() { 5 } else { 60 }) };
    TestRunner::new(config)
        .run(&(shapes, rest), |(shape, (bias, threads, size, seed))| {
            let (key_size, value_size, kv_heads, group, (tokens, streams), cells) = shape;
            let shape = Attention { key_size, value_size, kv_heads, group, tokens, streams, cells, bias };
            check_attention(shape, threads, 10.0_f32.powi(size - 1), seed);
            Ok(())
        })
        .unwrap();
}

/// The tests above once more in processes that are told which instructions to use. `plain` computes as AVX-512 does, without
/// it; what this processor lacks is left out by name.
#[test]
fn every_instruction_set_computes_the_same() {
    if kernels().is_none() || std::env::var_os("LLAMA_KERNELS").is_some() {
        return;
    }
    let exact = |set: &str| {
        let run = Command::new(std::env::current_exe().unwrap())
            .args(["are_exact", "of_the_file", "are_written", "--nocapture", "--test-threads=1"])
            .env("LLAMA_KERNELS", set)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&run.stdout).into_owned();
        assert!(run.status.success(), "{set}: {text}{}", String::from_utf8_lossy(&run.stderr));
        text.contains(&format!("exact with {set}"))
    };
    assert!(exact("plain"));
    #[cfg(target_arch = "x86_64")]
    {
        assert!(exact("avx2"));
        let wide = is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vnni");
        if wide && is_x86_feature_detected!("avx512vl") {
            assert!(exact("avx512vnni"));
        } else {
            println!("not on this processor: avx512vnni");
        }
    }
    assert!(!exact("off"));
}

fn wide() -> Llama {
    Llama { width: 256, heads: 4, kv_heads: 2, feed_forward: 512, layers: 3, deviation: 0.05, ..Llama::tiny() }
}

/// The model in a format of the files that people have.
fn quantised(to: Quantization, tied_head: bool) -> Vec<u8> {
    quantised_of(&Llama { tied_head, ..wide() }, to)
}

fn quantised_of(shape: &Llama, to: Quantization) -> Vec<u8> {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let of = |name: &str| {
        folder.join(format!("kernels-{}-{to:?}-{name}-{:?}.gguf", std::process::id(), std::thread::current().id()))
    };
    shape.write(Weights::F32, 5, of("from")).unwrap();
    quantize(of("from"), of("to"), &QuantizeParams::new(to).threads(1)).unwrap();
    let bytes = std::fs::read(of("to")).unwrap();
    for name in ["from", "to"] {
        std::fs::remove_file(of(name)).unwrap();
    }
    bytes
}

/// With the kernels and without: the same numbers but for their last bits, and it can be told which were used.
#[test]
fn models_compute_what_they_do_without() {
    for (to, tied_head, experts) in [
        (Quantization::Q8_0, true, 0),
        (Quantization::Q8_0, false, 5),
        (Quantization::Q4_0, true, 0),
        (Quantization::Q4KMedium, false, 5),
        (Quantization::Q5KMedium, true, 0),
        (Quantization::Q6K, true, 5),
    ] {
        let shape = Llama { tied_head, experts, experts_used: experts.min(2), ..wide() };
        let gguf = quantised_of(&shape, to);
        let on = Model::from_bytes(&gguf, &ModelParams::default()).unwrap();
        let off = Model::from_bytes(&gguf, &ModelParams::default().kernels(false)).unwrap();
        assert!(off.kernel_tensors().is_empty());
        if kernels().is_none() {
            assert!(are_off() && on.kernel_tensors().is_empty());
            continue;
        }
        // An embedding that nothing is multiplied with stays as it is.
        let head = if tied_head { "token_embd.weight" } else { "output.weight" };
        let mut names = vec![head.to_owned()];
        let of_experts = if experts > 0 { "_exps" } else { "" };
        let feed_forward = ["ffn_down", "ffn_gate", "ffn_up"].map(|part| format!("{part}{of_experts}"));
        let parts = ["attn_k", "attn_output", "attn_q", "attn_v"].map(str::to_owned).into_iter().chain(feed_forward);
        let parts: Vec<_> = parts.collect();
        names.extend((0..3).flat_map(|layer| parts.iter().map(move |part| format!("blk.{layer}.{part}.weight"))));
        let mut taken = on.kernel_tensors().to_vec();
        names.sort();
        taken.sort();
        assert_eq!(taken, names, "{to:?}, {shape:?}");
        let tokens = prompt(3, 12);
        // SAFETY: reads a number.
        let before = unsafe { sys::kernels_multiplications() };
        let with = alone(&on, &exact_params(), &tokens);
        // SAFETY: reads a number.
        assert!(unsafe { sys::kernels_multiplications() } >= before + 12 * 22, "{to:?}");
        for (with, without) in with.iter().zip(alone(&off, &exact_params(), &tokens)) {
            assert_equal(with, &without, 1.0e-5, &format!("{to:?}"));
        }
    }
}

/// Rows of every number of texts are the bits of one text alone, in all formats, and with experts.
#[test]
fn batches_are_the_same_bits_as_one_alone() {
    for (to, experts) in [(Quantization::Q8_0, 0), (Quantization::Q4KMedium, 0), (Quantization::Q8_0, 5)] {
        let shape = Llama { tied_head: true, experts, experts_used: experts.min(2), ..wide() };
        let model = Model::from_bytes(&quantised_of(&shape, to), &ModelParams::default()).unwrap();
        if model.kernel_tensors().is_empty() {
            assert!(are_off());
            continue;
        }
        let params = exact_params().context_tokens(16 * 64).kv_layout(KvLayout::Split);
        let tokens = prompt(1, 6);
        let want = alone(&model, &params, &tokens);
        for count in 1..=16 {
            let mut context = Context::new(&model, &params.clone().sequences(count)).unwrap();
            let sequences: Vec<_> = (0..count).map(|_| context.new_sequence().unwrap()).collect();
            let mut batch = context.new_batch();
            for (token, want) in tokens.iter().zip(&want) {
                let slots: Vec<_> =
                    sequences.iter().map(|sequence| batch.push_output(sequence, *token).unwrap()).collect();
                let outputs = context.decode(&mut batch).unwrap();
                for slot in slots {
                    assert_same_bits(
                        outputs.get(slot).unwrap(),
                        want,
                        &format!("{to:?}, {experts} experts, {count} sequences"),
                    );
                }
            }
        }
    }
}

/// The weights are in memory once: the file is not mapped beside them, and an output layer that is the token embedding is the
/// same tensor.
#[test]
fn weights_are_held_once() {
    for tied_head in [true, false] {
        let gguf = quantised(Quantization::Q8_0, tied_head);
        let held = |params: &ModelParams| {
            let model = Model::from_bytes(&gguf, params).unwrap();
            let params = exact_params().sequences(1);
            let used = Context::new(&model, &params).unwrap().memory_used().unwrap().weights();
            assert_eq!(model.estimate(&params).unwrap().resident().weights(), used);
            (used, model.size_bytes())
        };
        let (plain, size) = held(&ModelParams::default().repack(false).load_mode(LoadMode::Read));
        let (on, of_file) = held(&ModelParams::default());
        if kernels().is_none() {
            return assert!(are_off());
        }
        assert!(on <= plain + 4096 && of_file <= size, "{tied_head}: {on} of {plain}, {of_file} of {size}");
    }
}

/// What is loaded, and asked of a model, while another one loads is none of that one's.
#[test]
fn loads_within_loads_are_kept_apart() {
    let (outer, inner) = (quantised(Quantization::Q8_0, false), quantised(Quantization::Q8_0, true));
    let alone = |gguf: &[u8]| Model::from_bytes(gguf, &ModelParams::default()).unwrap();
    let tied = alone(&inner);
    let want = tied.estimate(&exact_params()).unwrap();
    let mut within = None;
    let model = Model::from_bytes_with_progress(&outer, &ModelParams::default(), |_| {
        within.get_or_insert_with(|| {
            assert_eq!(tied.estimate(&exact_params()).unwrap(), want);
            alone(&inner)
        });
        ControlFlow::Continue(())
    });
    assert_eq!(within.unwrap().kernel_tensors(), tied.kernel_tensors());
    assert_eq!(model.unwrap().kernel_tensors(), alone(&outer).kernel_tensors());
    assert!(are_off() || !tied.kernel_tensors().is_empty());
}

/// The trained model is as good with them as without.
#[test]
fn perplexity_is_the_same() {
    let perplexity = |params: &ModelParams| {
        let model = Model::from_bytes(fixtures::STORIES, params).unwrap();
        let mut context =
            Context::new(&model, &exact_params().sequences(1).context_tokens(256).batch_tokens(256)).unwrap();
        let (mut sum, mut count) = (0.0, 0_u32);
        let texts = fixtures::stories::HELD_OUT.split_inclusive("</s>\n").map(str::trim_end);
        for text in texts.take(if is_leak_check() { 1 } else { 12 }) {
            let tokens = model.tokenize(text, Special::BosAndParse).unwrap();
            let sequence = context.new_sequence().unwrap();
            let mut batch = context.new_batch();
            let slots: Vec<_> = tokens.iter().map(|token| batch.push_output(&sequence, *token).unwrap()).collect();
            let outputs = context.decode(&mut batch).unwrap();
            for (slot, next) in slots.into_iter().zip(&tokens[1..]) {
                let row = outputs.get(slot).unwrap();
                let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let all: f64 = row.iter().map(|logit| f64::from(logit - most).exp()).sum();
                sum += all.ln() - f64::from(row[next.0 as usize] - most);
                count += 1;
            }
        }
        ((sum / f64::from(count)).exp(), model.kernel_tensors().len())
    };
    let (on, taken) = perplexity(&ModelParams::default());
    let (off, none) = perplexity(&ModelParams::default().kernels(false));
    assert_eq!(none, 0);
    assert!(taken > 0 || are_off());
    assert!((on / off - 1.0).abs() < 1.0e-3, "{on} with them, {off} without");
    println!("perplexity {on:.5} with the kernels, {off:.5} without");
}

/// A model of the size that people use chooses the same tokens with them as without, wherever it does not waver.
#[test]
fn clear_choices_are_the_same() {
    // Valgrind would take half an hour.
    if kernels().is_none() || is_leak_check() {
        return assert!(are_off() || is_leak_check());
    }
    let gguf = Llama::m135().gguf(Weights::Q8_0, 6).unwrap();
    let tokens: Vec<_> = (0..48).map(|index| Token(index * 997 % 49_000 + 3)).collect();
    let [with, without] = [true, false].map(|on| {
        let model = Model::from_bytes(&gguf, &ModelParams::default().kernels(on)).unwrap();
        assert_eq!(!model.kernel_tensors().is_empty(), on);
        let mut context = Context::new(&model, &exact_params().sequences(1)).unwrap();
        let sequence = context.new_sequence().unwrap();
        let mut batch = context.new_batch();
        let slots: Vec<_> = tokens.iter().map(|token| batch.push_output(&sequence, *token).unwrap()).collect();
        let outputs = context.decode(&mut batch).unwrap();
        slots.into_iter().map(|slot| outputs.get(slot).unwrap().to_vec()).collect::<Vec<_>>()
    });
    let best = |row: &[f32]| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
    let mut clear = 0;
    for (with, without) in with.iter().zip(&without) {
        let mean = without.iter().sum::<f32>() / without.len() as f32;
        let deviation = (without.iter().map(|logit| (logit - mean).powi(2)).sum::<f32>() / without.len() as f32).sqrt();
        let chosen = best(without);
        let lead = (0..without.len()).filter(|id| *id != chosen).map(|id| without[chosen] - without[id]);
        if lead.fold(f32::INFINITY, f32::min) > 0.1 * deviation {
            assert_eq!(best(with), chosen);
            clear += 1;
        }
    }
    assert!(clear >= 16, "{clear} of {} choices are clear", with.len());
}

/// No architecture asks something of rearranged weights that the kernels do not do, and each computes what it does without.
#[test]
fn every_architecture_computes_what_it_does_without() {
    if kernels().is_none() {
        return assert!(are_off());
    }
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let [plain, small] = ["f32", "q8_0"].map(|name| folder.join(format!("kernels-{}-{name}.gguf", std::process::id())));
    // Their vocabularies are small.
    let tokens: Vec<_> = (0..9).map(|index| Token(index * 7 % 50 + 3)).collect();
    let run = |model: &Model| -> Option<Vec<Vec<f32>>> {
        let params = exact_params().sequences(1);
        let mut context = Context::new(model, &params).ok()?;
        let (estimated, held) = (model.estimate(&params).unwrap().resident(), context.memory_used().unwrap());
        assert!(estimated.weights().abs_diff(held.weights()) * 20 <= held.weights(), "{estimated}, {held}");
        let sequence = context.new_sequence().ok()?;
        let encodes = context.limits().memory() == MemoryKind::None;
        let mut batch = if encodes { context.new_encoder_batch() } else { context.new_batch() };
        let slots: Vec<_> =
            tokens.iter().map(|token| batch.push_output(&sequence, *token)).collect::<Result<_, _>>().ok()?;
        let outputs = if encodes { context.encode(&mut batch) } else { context.decode(&mut batch) }.ok()?;
        slots.into_iter().map(|slot| Some(outputs.get(slot).ok()?.to_vec())).collect()
    };
    let (mut compared, mut with_experts) = (Vec::new(), 0);
    for name in if is_leak_check() { &["llama", "gemma3n"] } else { ARCHITECTURES } {
        let made = architectures::architecture(name).is_ok_and(|model| {
            model.save(&plain).is_ok() && quantize(&plain, &small, &QuantizeParams::new(Quantization::Q8_0)).is_ok()
        });
        if !made {
            continue;
        }
        let load = |on| Model::load(&small, &ModelParams::default().kernels(on)).unwrap();
        let (on, off) = (load(true), load(false));
        match (run(&on), run(&off)) {
            (Some(with), Some(without)) if !on.kernel_tensors().is_empty() => {
                let error = with.iter().zip(&without).map(|(with, without)| nmse(with, without)).fold(0.0, f64::max);
                // Another order of rounding, which random recurrent layers (rwkv7) amplify; something else would be near 1.
                assert!(error < 1.0e-2, "{name}: {error}");
                compared.push(*name);
                with_experts += usize::from(on.kernel_tensors().iter().any(|name| name.contains("_exps.weight")));
            }
            (with, without) => assert_eq!(with.is_some(), without.is_some(), "{name}"),
        }
    }
    for path in [plain, small] {
        std::fs::remove_file(path).unwrap();
    }
    println!("{} architectures, {with_experts} with experts: {}", compared.len(), compared.join(" "));
    assert!(is_leak_check() || compared.len() > 110 && with_experts > 40, "{with_experts}, {compared:?}");
}
