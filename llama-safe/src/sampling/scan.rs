//! One pass over the logits of a whole vocabulary, which finds what is no number and the highest of each block.
//!
//! Whoever wants the highest `k` of 150,000 logits then looks into a few blocks only: the `k`-th highest of the blocks'
//! maxima is a bound that at least `k` logits reach.

/// Logits of a block.
pub(super) const BLOCK: usize = 128;

/// Numbers that are looked at together.
const LANES: usize = 8;

/// The highest of a block, and whether all are certainly below plus infinity, which NaN is not.
///
/// A comparison sees plus infinity and passes over NaN; a sum becomes NaN. It may do so by overflow as well: who hears no
/// looks again. Both together take a third less time than to ask each number.
pub(super) fn highest(block: &[f32]) -> (f32, bool) {
    let mut high = [f32::NEG_INFINITY; LANES];
    let mut sum = [0.0f32; LANES];
    let higher = |a: f32, b: f32| if b > a { b } else { a };
    let (rows, rest) = block.as_chunks::<LANES>();
    for row in rows {
        for lane in 0..LANES {
            high[lane] = higher(high[lane], row[lane]);
            sum[lane] += row[lane];
        }
    }
    for (lane, &value) in rest.iter().enumerate() {
        high[lane] = higher(high[lane], value);
        sum[lane] += value;
    }
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            high[lane] = higher(high[lane], high[lane + half]);
            sum[lane] += sum[lane + half];
        }
        half /= 2;
    }
    (high[0], high[0] < f32::INFINITY && !sum[0].is_nan())
}

/// The highest of each block into `maxima`; whether all logits are certainly below plus infinity.
pub(super) fn scan(logits: &[f32], maxima: &mut Vec<f32>) -> bool {
    let mut all = true;
    maxima.clear();
    maxima.extend(logits.chunks(BLOCK).map(|block| {
        let (high, fine) = highest(block);
        all &= fine;
        high
    }));
    all
}

/// As [`scan`], with the logits of tokens whose bit is not set replaced by minus infinity in `values`. Bit `i % 64` of word
/// `i / 64` is token `i`; tokens beyond the mask are forbidden.
pub(super) fn scan_masked(logits: &[f32], mask: &[u64], values: &mut Vec<f32>, maxima: &mut Vec<f32>) -> bool {
    const WORD: usize = u64::BITS as usize;
    let all = scan(logits, maxima);
    values.clear();
    let mut words = mask.iter().copied().chain(std::iter::repeat(0));
    for (block, maximum) in logits.chunks(BLOCK).zip(maxima) {
        let start = values.len();
        for part in block.chunks(WORD) {
            match words.next().unwrap_or(0) {
                0 => values.resize(values.len() + part.len(), f32::NEG_INFINITY),
                u64::MAX => values.extend_from_slice(part),
                word => {
                    let allowed = |bit: usize| word >> bit & 1 == 1;
                    let masked = |(bit, &value)| if allowed(bit) { value } else { f32::NEG_INFINITY };
                    values.extend(part.iter().enumerate().map(masked));
                }
            }
        }
        *maximum = highest(&values[start..]).0;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_seen_wherever_it_stands() {
        let mut maxima = Vec::new();
        for length in [1usize, 15, 16, 17, 127, 128, 129, 400] {
            let fine: Vec<f32> = (0..length).map(|i| -(i as f32)).collect();
            assert!(scan(&fine, &mut maxima));
            assert_eq!(maxima.len(), length.div_ceil(BLOCK));
            for place in 0..length {
                for bad in [f32::NAN, -f32::NAN, f32::INFINITY] {
                    let mut logits = fine.clone();
                    logits[place] = bad;
                    assert!(!scan(&logits, &mut maxima), "{bad} at {place} of {length}");
                }
                let mut logits = fine.clone();
                logits[place] = f32::NEG_INFINITY;
                assert!(scan(&logits, &mut maxima));
                logits[place] = 9.0;
                assert!(scan(&logits, &mut maxima));
                assert_eq!(maxima[place / BLOCK], 9.0);
            }
        }
    }

    #[test]
    fn a_mask_forbids_what_it_does_not_name() {
        let logits: Vec<f32> = (0..300).map(|i| i as f32).collect();
        let mask = [u64::from(u32::MAX), 0b1010, 1];
        let (mut values, mut maxima) = (Vec::new(), Vec::new());
        assert!(scan_masked(&logits, &mask, &mut values, &mut maxima));
        for (token, value) in values.iter().enumerate() {
            let allowed = token < 32 || [65, 67, 128].contains(&token);
            assert_eq!(*value, if allowed { token as f32 } else { f32::NEG_INFINITY });
        }
        assert_eq!(maxima, [67.0, 128.0, f32::NEG_INFINITY]);
    }
}
