//! A saved state as bytes: a header of ours, what each sequence had in memory, and a checksum over all of it. Plain data,
//! no llama.cpp.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | magic: not text, and changed by what changes line ends |
//! | 4 | version of this format |
//! | 4 | byte order of the machine: numbers in memory are stored as they are |
//! | 8 | length of the whole, checksum included |
//! | 32 | fingerprint of the model |
//! | 32 | what else the numbers depend on: adapters |
//! | 32 | version of llama.cpp, whose own format has none |
//! | 4, 4, 4, 4 | kind of memory, number types of keys and values, whether values are transposed |
//! | 4, 4 | sequences, zero |
//! | 24 each | next position, slot when saved, bytes; end of pictures and what they lead by |
//! | | the bytes of each sequence |
//! | 32 | BLAKE3 of everything before |
//!
//! Numbers of the header are little-endian.
#![forbid(unsafe_code)]

use std::ops::Range;

use crate::error::StateError;

/// Starts every saved state.
pub(crate) const MAGIC: [u8; 8] = *b"\x89LLST\r\n\x1a";
/// Of the format described above.
pub(crate) const VERSION: u32 = 1;
/// Bytes of the header.
const HEADER: usize = 144;
/// Bytes that the header has for each sequence.
const ENTRY: usize = 24;
/// Bytes of the checksum.
const CHECKSUM: usize = 32;

/// What a state is good for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Conditions {
    pub model: [u8; 32],
    pub adapters: [u8; 32],
    pub llama_cpp: [u8; 32],
    /// A number for the kind of memory.
    pub memory: u32,
    /// ggml's numbers of the types of keys and values, and whether values are transposed; -1, -1 and 0 without them.
    pub kv: (i32, i32, bool),
}

/// One sequence of a state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub length: u32,
    pub slot: u32,
    /// The positions before this one hold embeddings with places of their own, and what follows them is that far ahead.
    pub placed: (u32, u32),
    /// Where in the state its bytes are.
    pub bytes: Range<usize>,
}

/// The header of bytes whose checksum is right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub conditions: Conditions,
    pub entries: Vec<Entry>,
}

/// A sequence to be written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Saved {
    pub length: u32,
    pub slot: u32,
    pub placed: (u32, u32),
    pub bytes: Vec<u8>,
}

/// Makes a state of sequences: its bytes, and the header that [`read`] finds in them.
pub(crate) fn write(conditions: Conditions, sequences: &[Saved]) -> (Vec<u8>, Header) {
    let payload: usize = sequences.iter().map(|saved| saved.bytes.len()).sum();
    let total = HEADER + sequences.len() * ENTRY + payload + CHECKSUM;
    let mut state = Vec::with_capacity(total);
    state.extend_from_slice(&MAGIC);
    state.extend_from_slice(&VERSION.to_le_bytes());
    state.extend_from_slice(&BYTE_ORDER.to_ne_bytes());
    state.extend_from_slice(&(total as u64).to_le_bytes());
    state.extend_from_slice(&conditions.model);
    state.extend_from_slice(&conditions.adapters);
    state.extend_from_slice(&conditions.llama_cpp);
    let (keys, values, transposed) = conditions.kv;
    state.extend_from_slice(&conditions.memory.to_le_bytes());
    state.extend_from_slice(&keys.to_le_bytes());
    state.extend_from_slice(&values.to_le_bytes());
    state.extend_from_slice(&u32::from(transposed).to_le_bytes());
    state.extend_from_slice(&(sequences.len() as u64).to_le_bytes());
    for saved in sequences {
        state.extend_from_slice(&saved.length.to_le_bytes());
        state.extend_from_slice(&saved.slot.to_le_bytes());
        state.extend_from_slice(&(saved.bytes.len() as u64).to_le_bytes());
        state.extend_from_slice(&saved.placed.0.to_le_bytes());
        state.extend_from_slice(&saved.placed.1.to_le_bytes());
    }
    let mut entries = Vec::with_capacity(sequences.len());
    for saved in sequences {
        let bytes = state.len()..state.len() + saved.bytes.len();
        entries.push(Entry { length: saved.length, slot: saved.slot, placed: saved.placed, bytes });
        state.extend_from_slice(&saved.bytes);
    }
    let checksum = blake3::hash(&state);
    state.extend_from_slice(checksum.as_bytes());
    (state, Header { conditions, entries })
}

/// A number whose bytes tell their order.
const BYTE_ORDER: u32 = 0x0102_0304;

/// Reads the header of a whole state, and finds any byte that is not as it was written.
///
/// # Errors
///
/// [`StateError`]: what is wrong with the bytes, whatever context they are for.
pub(crate) fn read(state: &[u8]) -> Result<Header, StateError> {
    check_start(state, state.len() as u64)?;
    let (signed, checksum) = state.split_at(state.len() - CHECKSUM);
    // Not a comparison of slices: that of hashes takes the same time wherever they differ.
    if blake3::hash(signed).as_bytes() != checksum {
        return Err(StateError::Altered);
    }
    // What follows is as somebody wrote it, who need not have been us.
    let malformed = |at: usize, what| StateError::Malformed { at: at as u64, what };
    let word = |at: usize| u32::from_le_bytes(array(signed, at));
    let count = u64::from_le_bytes(array(signed, 136));
    let room = (signed.len() - HEADER) / ENTRY;
    let count = usize::try_from(count).ok().filter(|count| *count <= room).ok_or(malformed(136, "sequences"))?;
    let mut start = HEADER + count * ENTRY;
    let mut entries = Vec::with_capacity(count);
    for at in (HEADER..start).step_by(ENTRY) {
        let bytes = usize::try_from(u64::from_le_bytes(array(signed, at + 8))).ok();
        let end = bytes.and_then(|bytes| start.checked_add(bytes)).filter(|end| *end <= signed.len());
        let end = end.ok_or(malformed(at + 8, "bytes of a sequence"))?;
        let placed = (word(at + 16), word(at + 20));
        // The last picture begins at a position of its own.
        if placed.0 > word(at) || placed.1 > placed.0.saturating_sub(1) {
            return Err(malformed(at + 16, "end of pictures"));
        }
        entries.push(Entry { length: word(at), slot: word(at + 4), placed, bytes: start..end });
        start = end;
    }
    if start != signed.len() {
        return Err(malformed(start, "the end"));
    }
    let transposed = match word(132) {
        0 => false,
        1 => true,
        _ => return Err(malformed(132, "whether values are transposed")),
    };
    let conditions = Conditions {
        model: array(signed, 24),
        adapters: array(signed, 56),
        llama_cpp: array(signed, 88),
        memory: word(120),
        kv: (word(124).cast_signed(), word(128).cast_signed(), transposed),
    };
    Ok(Header { conditions, entries })
}

/// Checks what can be told from the beginning of a state, `start`, that is `got` bytes long.
///
/// # Errors
///
/// As [`read`].
pub(crate) fn check_start(start: &[u8], got: u64) -> Result<(), StateError> {
    let beginning = &start[..start.len().min(MAGIC.len())];
    if beginning != &MAGIC[..beginning.len()] || start.is_empty() {
        return Err(StateError::NotAState { found: beginning.to_vec() });
    }
    let least = (HEADER + CHECKSUM) as u64;
    if got < least || start.len() < HEADER {
        return Err(StateError::Length { got, expected: least });
    }
    let found = u32::from_le_bytes(array(start, 8));
    if found != VERSION {
        return Err(StateError::Version { found, expected: VERSION });
    }
    if array(start, 12) != BYTE_ORDER.to_ne_bytes() {
        return Err(StateError::ByteOrder);
    }
    match u64::from_le_bytes(array(start, 16)) {
        expected if expected == got => Ok(()),
        expected => Err(StateError::Length { got, expected }),
    }
}

/// The least bytes that [`check_start`] needs.
pub(crate) const START: usize = HEADER;

/// `N` bytes of a header, whose length was checked.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions() -> Conditions {
        Conditions { model: [1; 32], adapters: [0; 32], llama_cpp: [3; 32], memory: 1, kv: (1, -1, true) }
    }

    fn written() -> (Vec<u8>, Header) {
        let saved = |length, slot, placed, bytes| Saved { length, slot, placed, bytes };
        write(
            conditions(),
            &[saved(3, 0, (0, 0), vec![7; 20]), saved(0, 2, (0, 0), vec![]), saved(9, 1, (9, 2), vec![8; 5])],
        )
    }

    fn state() -> Vec<u8> {
        written().0
    }

    #[test]
    fn what_was_written_is_read() {
        let (state, header) = written();
        assert_eq!(read(&state).unwrap(), header);
        assert_eq!(header.conditions, conditions());
        let entry = |length, slot, placed, bytes| Entry { length, slot, placed, bytes };
        let want = [entry(3, 0, (0, 0), 216..236), entry(0, 2, (0, 0), 236..236), entry(9, 1, (9, 2), 236..241)];
        assert_eq!(header.entries, want);
    }

    #[test]
    fn every_flipped_bit_and_every_length_is_noticed() {
        let state = state();
        for bit in 0..state.len() * 8 {
            let mut other = state.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&other).is_err(), "bit {bit}");
        }
        for length in 0..state.len() {
            assert!(read(&state[..length]).is_err(), "{length} bytes");
        }
        let mut longer = state.clone();
        longer.push(0);
        assert!(matches!(read(&longer), Err(StateError::Length { .. })));
    }

    /// Who computes the checksum as well can write any header, but none that is believed.
    #[test]
    fn a_forged_header_is_refused_or_within_bounds() {
        let state = state();
        let numbers = [0, 1, 4, 25, u64::from(u32::MAX), u64::MAX - 15, u64::MAX];
        for at in (120..216).step_by(4) {
            for number in numbers {
                for width in [4, 8] {
                    let mut forged = state[..state.len() - CHECKSUM].to_vec();
                    forged[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
                    forged.extend_from_slice(blake3::hash(&forged).as_bytes());
                    let Ok(header) = read(&forged) else { continue };
                    assert!(header.entries.iter().all(|entry| entry.bytes.end <= state.len() - CHECKSUM));
                }
            }
        }
    }
}
