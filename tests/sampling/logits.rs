//! Logits by chance, all of them different.

use std::collections::HashSet;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// About as a model's: a standard deviation of 3.
    Normal,
    /// All about as likely.
    Flat,
    /// From -100 to 100: most have no probability in 32 bits.
    Wide,
    /// One in three is forbidden.
    WithForbidden,
}

pub const SHAPES: [Shape; 4] = [Shape::Normal, Shape::Flat, Shape::Wide, Shape::WithForbidden];

/// splitmix64 (Steele et al., 2014), as a number of `0..1`.
fn uniform(state: &mut u64) -> f32 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = *state;
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((word ^ word >> 31) >> 40) as f32 / (1u32 << 24) as f32
}

pub fn logits(size: usize, shape: Shape, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut seen = HashSet::new();
    let mut one = |index: usize| loop {
        let normal: f32 = (0..4).map(|_| uniform(&mut state)).sum::<f32>() * 1.732 - 3.464;
        let value = match shape {
            Shape::Normal => 3.0 * normal,
            Shape::Flat => 0.1 * normal,
            Shape::Wide => 200.0 * uniform(&mut state) - 100.0,
            Shape::WithForbidden if index % 3 == 1 => return f32::NEG_INFINITY,
            Shape::WithForbidden => 2.0 * normal,
        };
        if seen.insert(value.to_bits()) {
            return value;
        }
    };
    (0..size).map(&mut one).collect()
}
