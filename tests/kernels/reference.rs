//! What a product is, in whole numbers: each format taken apart number by number, in no hurry. What an attention is, in 64 bits.

use llama_sys as sys;

use crate::ggml::{self, Attention, Operands};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    Q8_0,
    Q4_0,
    Q4K,
    Q5K,
    Q6K,
}

pub const FORMATS: [Format; 5] = [Format::Q8_0, Format::Q4_0, Format::Q4K, Format::Q5K, Format::Q6K];

fn half(bytes: &[u8]) -> f32 {
    // SAFETY: computes with a number.
    unsafe { sys::ggml_fp16_to_fp32(u16::from_le_bytes([bytes[0], bytes[1]])) }
}

fn doubles(halves: &[u16]) -> Vec<f64> {
    halves.iter().map(|number| f64::from(half(&number.to_le_bytes()))).collect()
}

/// A block's weights: numbers in parts, each part with a factor and with what is taken off.
struct Weights {
    numbers: Vec<i32>,
    /// Weights of a part.
    span: usize,
    scales: Vec<i32>,
    leasts: Vec<i32>,
    d: f32,
    m: f32,
}

impl Format {
    pub fn of_ggml(self) -> sys::ggml_type {
        match self {
            Self::Q8_0 => sys::GGML_TYPE_Q8_0,
            Self::Q4_0 => sys::GGML_TYPE_Q4_0,
            Self::Q4K => sys::GGML_TYPE_Q4_K,
            Self::Q5K => sys::GGML_TYPE_Q5_K,
            Self::Q6K => sys::GGML_TYPE_Q6_K,
        }
    }

    pub fn is_k(self) -> bool {
        !matches!(self, Self::Q8_0 | Self::Q4_0)
    }

    /// Weights, and bytes, of a block of the file.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::Q8_0 => (32, 34),
            Self::Q4_0 => (32, 18),
            Self::Q4K => (256, 144),
            Self::Q5K => (256, 176),
            Self::Q6K => (256, 210),
        }
    }

    /// Weights of which a row has a multiple.
    pub fn step(self) -> usize {
        if self.is_k() { 256 } else { 64 }
    }

    /// Where the 16-bit scales of a block are.
    pub fn scales_at(self) -> &'static [usize] {
        match self {
            Self::Q8_0 | Self::Q4_0 => &[0],
            Self::Q4K | Self::Q5K => &[0, 2],
            Self::Q6K => &[208],
        }
    }

    fn weights(self, block: &[u8]) -> Weights {
        let nibble = |byte: u8, high: bool| i32::from(if high { byte >> 4 } else { byte & 15 });
        let one_scale =
            |numbers| Weights { numbers, span: 32, scales: vec![1], leasts: vec![0], d: half(block), m: 0.0 };
        match self {
            Self::Q8_0 => one_scale(block[2..].iter().map(|byte| i32::from(byte.cast_signed())).collect()),
            Self::Q4_0 => one_scale((0..32).map(|i| nibble(block[2 + i % 16], i >= 16) - 8).collect()),
            Self::Q4K | Self::Q5K => {
                let six = &block[4..16];
                let (mut scales, mut leasts) = (Vec::new(), Vec::new());
                for part in 0..8 {
                    let (scale, least) = if part < 4 {
                        (six[part] & 63, six[part + 4] & 63)
                    } else {
                        let (low, high) = (six[part + 4], (six[part - 4] >> 6, six[part] >> 6));
                        (low & 15 | high.0 << 4, low >> 4 | high.1 << 4)
                    };
                    scales.push(i32::from(scale));
                    leasts.push(i32::from(least));
                }
                let fifths = if self == Self::Q5K { &block[16..48] } else { &[][..] };
                let bytes = &block[16 + fifths.len()..];
                let number = |i: usize| {
                    let (part, j) = (i / 32, i % 32);
                    let fifth = fifths.get(j).map_or(0, |bits| i32::from(bits >> part & 1));
                    nibble(bytes[part / 2 * 32 + j], part % 2 == 1) + 16 * fifth
                };
                let (d, m) = (half(block), half(&block[2..]));
                Weights { numbers: (0..256).map(number).collect(), span: 32, scales, leasts, d, m }
            }
            Self::Q6K => {
                let number = |i: usize| {
                    let (half, quarter, j) = (i / 128, i % 128 / 32, i % 32);
                    let low = nibble(block[64 * half + 32 * (quarter % 2) + j], quarter >= 2);
                    let high = block[128 + 32 * half + j] >> (2 * quarter) & 3;
                    low + 16 * i32::from(high) - 32
                };
                let scales = block[192..208].iter().map(|byte| i32::from(byte.cast_signed())).collect();
                let numbers = (0..256).map(number).collect();
                Weights { numbers, span: 16, scales, leasts: vec![0; 16], d: half(&block[208..]), m: 0.0 }
            }
        }
    }

    /// A column's activations: whole numbers by blocks, and the scale of each block.
    fn activations(self, values: &[f32]) -> Vec<(Vec<i32>, f32)> {
        let numbers = |bytes: &[u8]| bytes.iter().map(|byte| i32::from(byte.cast_signed())).collect();
        if self.is_k() {
            let bytes = ggml::quantised(sys::GGML_TYPE_Q8_K, values);
            let scale = |block: &[u8]| f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
            bytes.chunks(292).map(|block| (numbers(&block[4..260]), scale(block))).collect()
        } else {
            let bytes = ggml::quantised(sys::GGML_TYPE_Q8_0, values);
            bytes.chunks(34).map(|block| (numbers(&block[2..]), half(block))).collect()
        }
    }

    /// Every row with every column: `[columns.len() / width, rows]`. Exact within a block; blocks are added in their order, each
    /// with one rounding of the scale and one of the sum.
    pub fn products(self, weights: &[u8], width: usize, columns: &[f32]) -> Vec<f32> {
        let (count, size) = self.block();
        let rows: Vec<Vec<Weights>> = weights
            .chunks(width / count * size)
            .map(|row| row.chunks(size).map(|block| self.weights(block)).collect())
            .collect();
        let of_column = |column: &[f32]| -> Vec<f32> {
            let blocks = self.activations(column);
            rows.iter()
                .map(|row| row.iter().zip(&blocks).fold(0.0, |sum, (weights, block)| add(sum, weights, block)))
                .collect()
        };
        columns.chunks(width).flat_map(of_column).collect()
    }
}

fn add(sum: f32, weights: &Weights, (activations, scale): &(Vec<i32>, f32)) -> f32 {
    let (mut whole, mut off) = (0, 0);
    for (part, (numbers, activations)) in
        weights.numbers.chunks(weights.span).zip(activations.chunks(weights.span)).enumerate()
    {
        let product: i32 = numbers.iter().zip(activations).map(|(a, b)| a * b).sum();
        whole += weights.scales[part] * product;
        off += weights.leasts[part] * activations.iter().sum::<i32>();
    }
    let sum = (whole as f32).mul_add(weights.d * scale, sum);
    // Formats without it would add a product of nothing, which is no number where the scale is none.
    if weights.leasts.len() == 8 { (off as f32).mul_add(weights.m * -scale, sum) } else { sum }
}

/// Each head of each token by itself: `[streams, tokens, heads, value_size]`.
pub fn attention(shape: &Attention, operands: &Operands) -> Vec<f64> {
    let Attention { key_size, value_size, kv_heads, group, tokens, cells, .. } = *shape;
    let heads = kv_heads * group;
    let [keys, values, mask] = [&operands.keys, &operands.values, &operands.mask].map(|halves| doubles(halves));
    let of_head = |(index, query): (usize, &[f32])| {
        let (head, row) = (index % heads, index / heads);
        let place = |cell: usize| (row / tokens * cells + cell) * kv_heads + head / group;
        let score = |cell: usize| -> f64 {
            let key = &keys[place(cell) * key_size..][..key_size];
            let product: f64 = query.iter().zip(key).map(|(a, b)| f64::from(*a) * b).sum();
            product * f64::from(shape.scale()) + slope(head, heads, shape.bias) * mask[row * cells + cell]
        };
        let scores: Vec<f64> = (0..cells).map(score).collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> =
            scores.iter().map(|score| if most.is_finite() { (score - most).exp() } else { 0.0 }).collect();
        let all: f64 = weights.iter().sum();
        let mut sum = vec![0.0; value_size];
        for (cell, weight) in weights.iter().enumerate() {
            for (sum, value) in sum.iter_mut().zip(&values[place(cell) * value_size..]) {
                *sum += if all > 0.0 { value * weight / all } else { 0.0 };
            }
        }
        sum
    };
    operands.queries.chunks(key_size).enumerate().flat_map(of_head).collect()
}

/// ALiBi's, for as many heads as there are: those of the next smaller power of two, and then every other one of twice as many.
fn slope(head: usize, heads: usize, bias: f32) -> f64 {
    if bias == 0.0 {
        return 1.0;
    }
    let power = (heads + 1).next_power_of_two() / 2;
    let exponent = if head < power { (head + 1) as f64 } else { (head - power) as f64 + 0.5 };
    (-f64::from(bias) * exponent / power as f64).exp2()
}
