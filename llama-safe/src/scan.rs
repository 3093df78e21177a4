//! One pass over the logits of a whole vocabulary, which finds what is no number and the highest of each block.
//!
//! Whoever wants the highest `k` of 150,000 logits then looks into a few blocks only: the `k`-th highest of the blocks'
//! maxima is a bound that at least `k` logits reach.
//!
//! The loop over the blocks is compiled twice: for every processor, and for those with AVX2, whose registers hold eight numbers
//! where all x86-64 processors have room for four. Lanes are the same in both, so that both give the same bits.

use std::iter;

/// Logits of a block.
pub(crate) const BLOCK: usize = 128;

/// Numbers that are looked at together: several registers of them, since a sum has to wait for the one before it.
const LANES: usize = 16;

/// Lanes that are left of a block: the highest of them is the block's.
const FEWER: usize = LANES / 2;

type Highs = [f32; FEWER];

/// The highs of each block, and the sums of all numbers in a lane beside those before.
///
/// A comparison sees plus infinity and passes over NaN; a sum becomes NaN. It may do so by overflow as well: who hears of a NaN
/// looks again. Both together take a third less time than to ask each number.
type Look = fn(&[[f32; BLOCK]], &mut [Highs], &mut [f32; LANES]);

/// Blocks that are looked at before the highest of each is chosen. It is chosen elsewhere: beside that the compiler would keep
/// numbers of a row in registers of their own.
const BLOCKS: usize = 16;

/// The highest of each block into `maxima`; whether all logits are certainly below plus infinity, which NaN is not.
///
/// With a mask, logits of tokens whose bit is not set are replaced by minus infinity in `values`, and `maxima` are of these. Bit
/// `i % 64` of word `i / 64` is token `i`; tokens beyond the mask are forbidden. Without one `values` stay as they are.
pub(crate) fn scan(logits: &[f32], mask: Option<&[u64]>, values: &mut Vec<f32>, maxima: &mut Vec<f32>) -> bool {
    scan_by(widest(), logits, mask, values, maxima)
}

/// What this processor does fastest.
fn widest() -> Look {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: this processor has AVX2, and nothing else is asked of it.
        return |blocks, highs, sums| unsafe { look_avx2(blocks, highs, sums) };
    }
    look_anywhere
}

fn look_anywhere(blocks: &[[f32; BLOCK]], highs: &mut [Highs], sums: &mut [f32; LANES]) {
    look(blocks, highs, sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn look_avx2(blocks: &[[f32; BLOCK]], highs: &mut [Highs], sums: &mut [f32; LANES]) {
    look(blocks, highs, sums);
}

/// See [`Look`].
#[inline(always)]
fn look(blocks: &[[f32; BLOCK]], highs: &mut [Highs], sums: &mut [f32; LANES]) {
    let mut added = *sums;
    for (block, highs) in blocks.iter().zip(highs) {
        let mut high = [f32::NEG_INFINITY; LANES];
        for row in block.as_chunks::<LANES>().0 {
            for lane in 0..LANES {
                high[lane] = higher(high[lane], row[lane]);
                added[lane] += row[lane];
            }
        }
        for (lane, to) in highs.iter_mut().enumerate() {
            *to = higher(high[lane], high[lane + FEWER]);
        }
    }
    *sums = added;
}

fn scan_by(look: Look, logits: &[f32], mask: Option<&[u64]>, values: &mut Vec<f32>, maxima: &mut Vec<f32>) -> bool {
    let is_fine = blocks(look, logits, maxima);
    if let Some(mask) = mask {
        forbid(logits, mask, values);
        blocks(look, values, maxima);
    }
    is_fine
}

fn blocks(look: Look, logits: &[f32], maxima: &mut Vec<f32>) -> bool {
    let mut sums = [0.0; LANES];
    let mut highs = [[f32::NEG_INFINITY; FEWER]; BLOCKS];
    let (blocks, rest) = logits.as_chunks::<BLOCK>();
    maxima.clear();
    for blocks in blocks.chunks(BLOCKS) {
        let highs = &mut highs[..blocks.len()];
        look(blocks, highs, &mut sums);
        maxima.extend(highs.iter().map(highest_of));
    }
    if !rest.is_empty() {
        maxima.push(highest(rest));
    }
    highest(maxima) < f32::INFINITY && !sums.iter().chain(rest).any(|number| number.is_nan())
}

/// Copies logits into `values`, with minus infinity where a bit of the mask is not set.
fn forbid(logits: &[f32], mask: &[u64], values: &mut Vec<f32>) {
    values.clear();
    let words = mask.iter().copied().chain(iter::repeat(0));
    for (part, word) in logits.chunks(u64::BITS as usize).zip(words) {
        match word {
            0 => values.resize(values.len() + part.len(), f32::NEG_INFINITY),
            u64::MAX => values.extend_from_slice(part),
            word => {
                let allowed = |bit: usize| word >> bit & 1 == 1;
                let masked = |(bit, &value)| if allowed(bit) { value } else { f32::NEG_INFINITY };
                values.extend(part.iter().enumerate().map(masked));
            }
        }
    }
}

/// The highest of some logits; NaN is passed over.
pub(crate) fn highest(logits: &[f32]) -> f32 {
    let mut high = [f32::NEG_INFINITY; FEWER];
    let (rows, rest) = logits.as_chunks::<FEWER>();
    for row in rows {
        high = std::array::from_fn(|lane| higher(high[lane], row[lane]));
    }
    rest.iter().copied().fold(highest_of(&high), higher)
}

fn highest_of(highs: &Highs) -> f32 {
    let mut highs = *highs;
    let mut half = highs.len() / 2;
    while half > 0 {
        for lane in 0..half {
            highs[lane] = higher(highs[lane], highs[lane + half]);
        }
        half /= 2;
    }
    highs[0]
}

/// A comparison that processors have as one instruction, unlike [`f32::max`]: NaN in `b` is passed over.
fn higher(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Both ways to compute it, which agree to the last bit.
    fn scanned(logits: &[f32], mask: Option<&[u64]>) -> (bool, Vec<f32>, Vec<f32>) {
        let bits = |numbers: &[f32]| numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>();
        let (mut values, mut maxima) = (vec![1.0], vec![2.0; 9]);
        let fine = scan(logits, mask, &mut values, &mut maxima);
        let (mut plain_values, mut plain_maxima) = (vec![1.0], Vec::new());
        assert_eq!(scan_by(look_anywhere, logits, mask, &mut plain_values, &mut plain_maxima), fine);
        assert_eq!(bits(&plain_maxima), bits(&maxima));
        assert_eq!(bits(&plain_values), bits(&values));
        (fine, values, maxima)
    }

    /// One number after the other.
    fn naive(logits: &[f32]) -> Vec<f32> {
        logits.chunks(BLOCK).map(|block| block.iter().copied().fold(f32::NEG_INFINITY, f32::max)).collect()
    }

    fn is_bad(logit: f32) -> bool {
        logit.is_nan() || logit == f32::INFINITY
    }

    #[test]
    fn what_is_no_number_is_seen_wherever_it_stands() {
        for length in [1usize, 15, 16, 17, 127, 128, 129, 400] {
            let fine: Vec<f32> = (0..length).map(|i| -(i as f32)).collect();
            assert!(scanned(&fine, None).0);
            for place in 0..length {
                for bad in [f32::NAN, -f32::NAN, f32::INFINITY] {
                    let mut logits = fine.clone();
                    logits[place] = bad;
                    assert!(!scanned(&logits, None).0, "{bad} at {place} of {length}");
                }
                for good in [f32::NEG_INFINITY, 9.0] {
                    let mut logits = fine.clone();
                    logits[place] = good;
                    let (fine, _, maxima) = scanned(&logits, None);
                    assert!(fine);
                    assert_eq!(maxima, naive(&logits));
                }
            }
        }
    }

    #[test]
    fn a_mask_forbids_what_it_does_not_name() {
        let logits: Vec<f32> = (0..300).map(|i| i as f32).collect();
        let mask = [u64::from(u32::MAX), 0b1010, 1];
        let (fine, values, maxima) = scanned(&logits, Some(&mask));
        assert!(fine);
        for (token, value) in values.iter().enumerate() {
            let allowed = token < 32 || [65, 67, 128].contains(&token);
            assert_eq!(*value, if allowed { token as f32 } else { f32::NEG_INFINITY });
        }
        assert_eq!(maxima, [67.0, 128.0, f32::NEG_INFINITY]);
    }

    #[test]
    fn a_forbidden_token_that_is_no_number_is_seen() {
        let (fine, values, maxima) = scanned(&[1.0, f32::NAN], Some(&[1]));
        assert_eq!((fine, values, maxima), (false, vec![1.0, f32::NEG_INFINITY], vec![1.0]));
    }

    #[test]
    fn nothing_has_no_blocks() {
        assert_eq!(scanned(&[], None), (true, vec![1.0], Vec::new()));
        assert_eq!(scanned(&[], Some(&[1])), (true, Vec::new(), Vec::new()));
        assert_eq!(highest(&[]), f32::NEG_INFINITY);
    }

    fn logit() -> impl Strategy<Value = f32> {
        prop_oneof![
            40 => -30.0f32..30.0,
            8 => prop::sample::select(vec![0.0, -0.0, f32::NEG_INFINITY, f32::MIN_POSITIVE]),
            1 => prop::num::f32::ANY,
        ]
    }

    /// Numbers whose sum overflows, and such that are none.
    fn extreme() -> impl Strategy<Value = f32> {
        let extremes = vec![f32::MAX, f32::MIN, f32::NEG_INFINITY, 0.0, -0.0, f32::NAN, f32::INFINITY];
        prop_oneof![60 => logit(), 8 => Just(f32::MAX), 1 => prop::sample::select(extremes)]
    }

    proptest! {
        #[test]
        fn all_ways_agree(
            logits in prop_oneof![prop::collection::vec(logit(), 0..5000), prop::collection::vec(extreme(), 0..700)],
            words in prop::collection::vec(prop_oneof![Just(0), Just(u64::MAX), any::<u64>()], 0..90),
            masked in any::<bool>(),
        ) {
            let mask = masked.then_some(&words[..]);
            let (fine, values, maxima) = scanned(&logits, mask);
            let is_allowed = |token: usize| words.get(token / 64).is_some_and(|word| word >> (token % 64) & 1 == 1);
            let left: Vec<f32> = logits
                .iter()
                .enumerate()
                .map(|(token, logit)| if !masked || is_allowed(token) { *logit } else { f32::NEG_INFINITY })
                .collect();
            prop_assert_eq!(&maxima, &naive(&left));
            if masked {
                prop_assert!(values.iter().map(|value| value.to_bits()).eq(left.iter().map(|value| value.to_bits())));
            }
            let bad = logits.iter().any(|logit| is_bad(*logit));
            // A sum that overflows may raise a false alarm, and nothing else may.
            let overflows = logits.iter().any(|logit| logit.is_finite() && logit.abs() > 1e30);
            prop_assert!(fine != bad || overflows && !fine, "{fine} where {bad}");
        }
    }
}
