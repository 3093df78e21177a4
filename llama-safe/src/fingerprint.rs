//! What tells one model from another: a hash of its file, sampled.
#![forbid(unsafe_code)]

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};

/// Names a model by what its file says and holds.
///
/// Files up to [`WHOLE`] bytes are hashed whole. Of a larger one, these are: its length, its beginning (where metadata and
/// the directory of tensors stand), its end, and [`SAMPLES`] blocks spread evenly over the rest. So a model of other
/// weights is told apart wherever they differ in a stretch of more than a 255th of the file; an edit of a few numbers in a large file
/// may pass unseen.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint([u8; 32]);

/// The largest file that is hashed whole, bytes.
const WHOLE: u64 = 8 << 20;
/// How much of a larger file is hashed at its beginning, and at its end.
const ENDS: u64 = 1 << 20;
/// Blocks in between. Each is a read of its own: on a rotating disk some milliseconds.
const SAMPLES: u64 = 256;
/// Bytes of a block.
const BLOCK: u64 = 4096;

impl Fingerprint {
    /// Reads what is to be hashed of a model file.
    pub(crate) fn of(mut file: impl Read + Seek) -> io::Result<Self> {
        let length = file.seek(SeekFrom::End(0))?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&length.to_le_bytes());
        let mut buffer = Vec::new();
        for (start, count) in parts(length) {
            file.seek(SeekFrom::Start(start))?;
            buffer.clear();
            (&mut file).take(count).read_to_end(&mut buffer)?;
            hasher.update(&buffer);
        }
        Ok(Self(*hasher.finalize().as_bytes()))
    }

    /// Hashes bytes to the last.
    #[must_use]
    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The fingerprint of a model that differs from this one by what `change` says: a further file, metadata that was
    /// overridden. Nothing more than the order of the changes matters.
    #[must_use]
    pub(crate) fn with(self, change: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0).update(change);
        Self(*hasher.finalize().as_bytes())
    }

    /// [`with`](Self::with) a change by numbers.
    #[must_use]
    pub(crate) fn with_numbers(self, numbers: &[f32]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0);
        let mut bytes = [0; 4096];
        for numbers in numbers.chunks(bytes.len() / 4) {
            for (bytes, number) in bytes.chunks_exact_mut(4).zip(numbers) {
                bytes.copy_from_slice(&number.to_le_bytes());
            }
            hasher.update(&bytes[..4 * numbers.len()]);
        }
        Self(*hasher.finalize().as_bytes())
    }

    #[must_use]
    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({})", blake3::Hash::from_bytes(self.0).to_hex())
    }
}

/// Where to read, and how many bytes.
fn parts(length: u64) -> Vec<(u64, u64)> {
    if length <= WHOLE {
        return vec![(0, length)];
    }
    let middle = length - 2 * ENDS;
    let sample = |index: u64| {
        // 128 bits: a file may be larger than 2^56.
        let offset = u128::from(middle - BLOCK) * u128::from(index) / u128::from(SAMPLES - 1);
        (ENDS + offset as u64, BLOCK)
    };
    let mut parts = vec![(0, ENDS)];
    parts.extend((0..SAMPLES).map(sample));
    parts.push((length - ENDS, ENDS));
    parts
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn of(bytes: &[u8]) -> Fingerprint {
        Fingerprint::of(Cursor::new(bytes)).unwrap()
    }

    #[test]
    fn a_small_file_is_hashed_to_the_last_bit() {
        let file: Vec<u8> = (0..3000u32).map(|number| number as u8).collect();
        for index in 0..file.len() {
            let mut other = file.clone();
            other[index] ^= 1;
            assert_ne!(of(&other), of(&file), "byte {index}");
        }
        assert_ne!(of(&file[1..]), of(&file));
        assert_eq!(of(&file), of(&file.clone()));
    }

    #[test]
    fn a_large_file_is_sampled_all_over() {
        let file = vec![7u8; (WHOLE + (4 << 20)) as usize];
        let want = of(&file);
        let stretch = file.len() / (SAMPLES as usize - 1);
        for start in (0..file.len() - stretch).step_by(stretch / 2 + 1) {
            let mut other = file.clone();
            other[start..start + stretch].fill(8);
            assert_ne!(of(&other), want, "a change of {stretch} bytes at {start}");
        }
        assert_ne!(of(&vec![7u8; file.len() + 1]), want);
    }

    #[test]
    fn parts_stay_within_the_file() {
        for length in [0, 1, WHOLE, WHOLE + 1, WHOLE * 100 + 17, u64::MAX] {
            for (start, count) in parts(length) {
                assert!(start.checked_add(count).is_some_and(|end| end <= length), "{start} + {count} of {length}");
            }
        }
    }

    #[test]
    fn a_change_gives_another_model() {
        let one = of(b"GGUF");
        assert_ne!(one.with(b"rope"), one);
        assert_ne!(one.with(b"rope"), one.with(b"kv"));
        assert_eq!(one.with(b"rope"), one.with(b"rope"));
        let numbers: Vec<f32> = (0..3000).map(|number| number as f32).collect();
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        assert_eq!(one.with_numbers(&numbers), one.with(&bytes));
    }
}
