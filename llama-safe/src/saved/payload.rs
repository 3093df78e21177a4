//! llama.cpp's bytes of one sequence: what they are made of, and whether they may go back to it. Plain data, no llama.cpp.
//!
//! llama.cpp checks types and sizes of rows when it reads a state, and trusts the rest. A recurrent state that says that
//! it has two cells ends the process (llama-memory-recurrent.cpp:1052); a cell at a negative position is left where it is
//! when its sequence is removed (llama-kv-cache.cpp:424), and the slot's next sequence sees it; a number that is not finite
//! is in the result of every other sequence, and stays when its own is removed, since what is masked is multiplied by zero
//! and not left out. So every number is walked here first, by the [`Layout`] that llama.cpp itself writes in this context.
#![forbid(unsafe_code)]

use std::ops::Range;

use crate::error::StateError;

/// `io_magic` (llama-context.cpp:3192).
const MAGIC: u32 = 0xaf14_3cd8;

/// What the states of a context are made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Layout {
    sections: Vec<Section>,
}

/// One of llama.cpp's memories. A sliding window is a second KV cache, a hybrid has a recurrent state after them.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Section {
    Attention {
        /// Each cell has two more positions and a token (M-RoPE, n-gram embeddings).
        extended: bool,
        /// Values lie by element, not by cell: what is computed without the fused kernel.
        transposed: bool,
        rotations: [u32; 2],
        keys: Vec<Tensor>,
        /// One for each of the keys, or none (latent attention).
        values: Vec<Tensor>,
    },
    Recurrent {
        layers: u32,
        convolutions: Vec<Tensor>,
        states: Vec<Tensor>,
    },
}

/// What one layer keeps for each cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Tensor {
    number: Number,
    /// Bytes for each cell.
    row: u64,
}

/// How numbers are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Number {
    F32,
    F16,
    Bf16,
}

impl Number {
    /// From ggml's number of the type.
    fn from_ggml(number: i32) -> Option<Self> {
        match number {
            0 => Some(Self::F32),
            1 => Some(Self::F16),
            30 => Some(Self::Bf16),
            _ => None,
        }
    }

    fn ggml(self) -> i32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Bf16 => 30,
        }
    }

    fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Whether computing with these numbers can harm the sequences beside them: they are finite, and so far from the
    /// largest that a sum of products is finite too. Neither holds anywhere in the state of a model that works.
    fn are_tame(self, bytes: &[u8]) -> bool {
        const MOST: f32 = 1e30;
        // Without an early exit, so that the loop is vectorised.
        match self {
            Self::F32 => {
                let most = MOST.to_bits();
                bytes
                    .as_chunks()
                    .0
                    .iter()
                    .fold(true, |tame, word| tame & (u32::from_ne_bytes(*word) & 0x7fff_ffff <= most))
            }
            Self::F16 => bytes
                .as_chunks()
                .0
                .iter()
                .fold(true, |tame, word| tame & (u16::from_ne_bytes(*word) & 0x7c00 != 0x7c00)),
            Self::Bf16 => {
                let most = (MOST.to_bits() >> 16) as u16;
                bytes.as_chunks().0.iter().fold(true, |tame, word| tame & (u16::from_ne_bytes(*word) & 0x7fff <= most))
            }
        }
    }
}

/// What is known of a sequence and its context without looking at the bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    /// The sequence's next position, at least 1.
    pub length: u32,
    /// Before this position there may be several cells at one, and none at others: pictures.
    pub placed_end: u32,
    /// How far the next position is ahead of the last, but for the step of 1.
    pub lead: u32,
    /// The most cells that one sequence can have.
    pub cells: u32,
    /// Tokens of the vocabulary.
    pub vocabulary: u32,
    /// Whether the first tokens may have been forgotten.
    pub windowed: bool,
}

impl Facts {
    /// The last position that has a cell.
    fn last(&self) -> u32 {
        self.length - 1 - self.lead
    }
}

/// Where in the bytes each section has what is the same in every context.
pub(crate) type Bodies = Vec<Range<usize>>;

impl Layout {
    /// Number type of keys and values as ggml numbers them, and whether values are transposed; `None` without a KV cache.
    pub(crate) fn kv(&self) -> Option<(i32, Option<i32>, bool)> {
        self.sections.iter().find_map(|section| match section {
            Section::Attention { keys, values, transposed, .. } => {
                let kind = |tensors: &[Tensor]| tensors.first().map(|tensor| tensor.number.ggml());
                Some((kind(keys)?, kind(values), *transposed))
            }
            Section::Recurrent { .. } => None,
        })
    }

    /// Finds out how llama.cpp has written a sequence.
    ///
    /// `native` is what `llama_state_seq_get_data` gave for the sequence in `slot` of a context with `streams` streams of
    /// cells. Only bytes that llama.cpp wrote may be given: they are believed. `None` where they can be read in no way
    /// that is known here, or in several.
    pub(crate) fn learn(native: &[u8], streams: u32, slot: u32, facts: Facts) -> Option<(Self, Bodies)> {
        let mut reader = Reader { bytes: native, at: 0 };
        if reader.u32()? != MAGIC || reader.u32()? != slot {
            return None;
        }
        let learner = Learner { bytes: native, streams, slot, facts };
        let mut readings = Vec::new();
        learner.rest(reader.at, &mut Vec::new(), &mut readings);
        match readings.len() {
            1 => readings.pop().map(|found| {
                let (sections, bodies) = found.into_iter().unzip();
                (Self { sections }, bodies)
            }),
            _ => None,
        }
    }

    /// What is kept of a sequence that was [learnt](Self::learn) from: nothing that depends on its slot or on how many
    /// others there are.
    pub(crate) fn to_portable(&self, native: &[u8], bodies: &Bodies) -> Vec<u8> {
        let mut portable = Vec::with_capacity(native.len());
        for (section, body) in self.sections.iter().zip(bodies) {
            let Section::Attention { extended, .. } = section else {
                portable.extend_from_slice(&native[body.clone()]);
                continue;
            };
            portable.extend_from_slice(&1u32.to_ne_bytes());
            let start = portable.len();
            portable.extend_from_slice(&native[body.clone()]);
            let cells = Reader { bytes: &portable, at: start }.u32().unwrap_or(0) as usize;
            let cell = cell_bytes(*extended);
            for index in 1..=cells {
                let end = start + 4 + index * cell;
                portable[end - 4..end].fill(0);
            }
        }
        portable
    }

    /// What `llama_state_seq_set_data` takes, of bytes that [`check`](Self::check) has passed.
    pub(crate) fn to_native(&self, portable: &[u8], bodies: &Bodies, streams: u32, slot: u32) -> Vec<u8> {
        let streams = streams.max(1);
        let more = 8 + self.sections.len() * 4 * streams as usize;
        let mut native = Vec::with_capacity(portable.len() + more);
        native.extend_from_slice(&MAGIC.to_ne_bytes());
        native.extend_from_slice(&slot.to_ne_bytes());
        for (section, body) in self.sections.iter().zip(bodies) {
            match section {
                Section::Recurrent { .. } => native.extend_from_slice(&portable[body.clone()]),
                Section::Attention { .. } => {
                    native.extend_from_slice(&streams.to_ne_bytes());
                    // Whichever of the streams has cells, llama.cpp puts them where the slot's are
                    // (llama-kv-cache.cpp:2193).
                    native.extend_from_slice(&portable[body.clone()]);
                    native.resize(native.len() + 4 * (streams as usize - 1), 0);
                }
            }
        }
        native
    }

    /// Checks bytes that anybody may have written against all that llama.cpp would trust.
    ///
    /// # Errors
    ///
    /// [`StateError::Malformed`] or [`StateError::NotFinite`], with the place.
    pub(crate) fn check(&self, portable: &[u8], facts: Facts) -> Result<Bodies, StateError> {
        let mut checker = Checker { reader: Reader { bytes: portable, at: 0 }, facts };
        let has_places =
            self.sections.iter().any(|section| matches!(section, Section::Attention { extended: true, .. }));
        if facts.placed_end > 0 && !has_places {
            return Err(checker.malformed("no pictures"));
        }
        let mut bodies = Vec::with_capacity(self.sections.len());
        for section in &self.sections {
            bodies.push(checker.section(section)?);
        }
        match portable.len() - checker.reader.at {
            0 => Ok(bodies),
            _ => Err(checker.malformed("the end")),
        }
    }
}

/// Bytes of what is said of a cell: position, number of sequences, sequence; two positions and a token.
fn cell_bytes(extended: bool) -> usize {
    if extended { 24 } else { 12 }
}

#[derive(Clone, Copy)]
struct Reader<'bytes> {
    bytes: &'bytes [u8],
    at: usize,
}

impl<'bytes> Reader<'bytes> {
    fn take(&mut self, count: u64) -> Option<&'bytes [u8]> {
        let end = self.at.checked_add(usize::try_from(count).ok()?)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn word<const N: usize>(&mut self) -> Option<[u8; N]> {
        let word = *self.bytes.get(self.at..)?.first_chunk()?;
        self.at += N;
        Some(word)
    }

    fn u32(&mut self) -> Option<u32> {
        self.word().map(u32::from_ne_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.word().map(i32::from_ne_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.word().map(u64::from_ne_bytes)
    }
}

/// Reads what llama.cpp wrote, in every way that it could be meant.
struct Learner<'bytes> {
    bytes: &'bytes [u8],
    streams: u32,
    slot: u32,
    facts: Facts,
}

/// The most memories of one model: three, with an index of attention.
const MOST_SECTIONS: usize = 4;

impl Learner<'_> {
    fn rest(
        &self,
        at: usize,
        found: &mut Vec<(Section, Range<usize>)>,
        readings: &mut Vec<Vec<(Section, Range<usize>)>>,
    ) {
        if at == self.bytes.len() {
            readings.push(found.clone());
            return;
        }
        if found.len() == MOST_SECTIONS || readings.len() > 1 {
            return;
        }
        let attention =
            [false, true].into_iter().flat_map(|extended| self.attention(at, extended).into_iter().flatten());
        for (section, body, end) in attention.chain(self.recurrent(at)) {
            found.push((section, body));
            self.rest(end, found, readings);
            found.pop();
        }
    }

    /// A KV cache without values, and one with them.
    fn attention(&self, at: usize, extended: bool) -> [Option<(Section, Range<usize>, usize)>; 2] {
        let read = || {
            let mut reader = Reader { bytes: self.bytes, at };
            if reader.u32()? != self.streams {
                return None;
            }
            let mut empty = 0;
            let (start, cells) = loop {
                let start = reader.at;
                match reader.u32()? {
                    0 => empty += 1,
                    cells => break (start, cells),
                }
            };
            let empty_after = self.streams.checked_sub(empty + 1)?;
            for _ in 0..cells {
                let position = reader.i32()?;
                if !(0..i64::from(self.facts.length)).contains(&i64::from(position)) || reader.u32()? != 1 {
                    return None;
                }
                reader.take(if extended { 12 } else { 0 })?;
                if reader.u32()? != self.slot {
                    return None;
                }
            }
            let transposed = match reader.u32()? {
                0 => false,
                1 => true,
                _ => return None,
            };
            let layers = reader.u32()?;
            let rotations = [reader.u32()?, reader.u32()?];
            let keys = (0..layers).map(|_| tensor(&mut reader, cells)).collect::<Option<Vec<_>>>()?;
            let close = |mut reader: Reader<'_>, values| {
                let body = start..reader.at;
                for _ in 0..empty_after {
                    if reader.u32()? != 0 {
                        return None;
                    }
                }
                let section = Section::Attention { extended, transposed, rotations, keys: keys.clone(), values };
                Some((section, body, reader.at))
            };
            let mut with = reader;
            let values = (0..layers)
                .map(|_| if transposed { transposed_tensor(&mut with, cells) } else { tensor(&mut with, cells) })
                .collect::<Option<Vec<_>>>()
                .filter(|values| !values.is_empty());
            Some([close(reader, Vec::new()), values.and_then(|values| close(with, values))])
        };
        read().unwrap_or([None, None])
    }

    /// A recurrent state, which is one cell.
    fn recurrent(&self, at: usize) -> Vec<(Section, Range<usize>, usize)> {
        let read = || {
            let mut reader = Reader { bytes: self.bytes, at };
            let last = i64::from(self.facts.last());
            if reader.u32()? != 1 || i64::from(reader.i32()?) != last || reader.u32()? != 0 || reader.u32()? != 0 {
                return None;
            }
            let layers = reader.u32()?;
            let first = tensor(&mut reader.clone(), 1)?;
            let mut convolutions = Vec::new();
            let mut found = Vec::new();
            // Layers that attend have none: how many there are is not written.
            while convolutions.len() < layers as usize && tensor(&mut reader, 1) == Some(first) {
                convolutions.push(first);
                let mut rest = reader;
                let Some(state) = tensor(&mut rest.clone(), 1) else { continue };
                let states: Vec<_> = convolutions.iter().map_while(|_| tensor(&mut rest, 1)).collect();
                if states.len() == convolutions.len() && states.iter().all(|other| *other == state) {
                    let section = Section::Recurrent { layers, convolutions: convolutions.clone(), states };
                    found.push((section, at..rest.at, rest.at));
                }
            }
            Some(found)
        };
        read().unwrap_or_default()
    }
}

fn tensor(reader: &mut Reader<'_>, cells: u32) -> Option<Tensor> {
    let number = Number::from_ggml(reader.i32()?)?;
    let row = reader.u64()?;
    reader.take(row.checked_mul(cells.into())?)?;
    (row % number.bytes() == 0).then_some(Tensor { number, row })
}

fn transposed_tensor(reader: &mut Reader<'_>, cells: u32) -> Option<Tensor> {
    let number = Number::from_ggml(reader.i32()?)?;
    let element = u64::from(reader.u32()?);
    let row = element * u64::from(reader.u32()?);
    reader.take(row.checked_mul(cells.into())?)?;
    (element == number.bytes()).then_some(Tensor { number, row })
}

/// Reads what anybody wrote, in the one way that llama.cpp will.
struct Checker<'bytes> {
    reader: Reader<'bytes>,
    facts: Facts,
}

impl Checker<'_> {
    fn malformed(&self, what: &'static str) -> StateError {
        StateError::Malformed { at: self.reader.at as u64, what }
    }

    /// The next number must be this one.
    fn expect(&mut self, want: u32, what: &'static str) -> Result<(), StateError> {
        let error = self.malformed(what);
        if self.reader.u32() == Some(want) { Ok(()) } else { Err(error) }
    }

    fn section(&mut self, section: &Section) -> Result<Range<usize>, StateError> {
        match section {
            Section::Attention { extended, transposed, rotations, keys, values } => {
                self.expect(1, "streams of cells")?;
                let start = self.reader.at;
                let cells = self.cells(*extended)?;
                self.expect(u32::from(*transposed), "whether values are transposed")?;
                self.expect(keys.len() as u32, "layers with keys")?;
                self.expect(rotations[0], "rotation of keys")?;
                self.expect(rotations[1], "rotation of values")?;
                for key in keys {
                    self.tensor(*key, cells)?;
                }
                for value in values {
                    if *transposed { self.transposed(*value, cells)? } else { self.tensor(*value, cells)? }
                }
                Ok(start..self.reader.at)
            }
            Section::Recurrent { layers, convolutions, states } => {
                let start = self.reader.at;
                self.expect(1, "cells of a recurrent state")?;
                self.expect(self.facts.last(), "position of a recurrent state")?;
                self.expect(0, "sequences of a recurrent state")?;
                self.expect(0, "whether states are transposed")?;
                self.expect(*layers, "layers")?;
                for tensor in convolutions.iter().chain(states) {
                    self.tensor(*tensor, 1)?;
                }
                Ok(start..self.reader.at)
            }
        }
    }

    /// Every position once, up to the last, without a hole; but for those that pictures take.
    fn cells(&mut self, extended: bool) -> Result<u32, StateError> {
        let Facts { vocabulary, windowed, placed_end, .. } = self.facts;
        let end = self.facts.last() + 1;
        let error = self.malformed("cells");
        let cells = self.reader.u32().filter(|cells| (1..=self.facts.cells).contains(cells)).ok_or(error)?;
        let mut seen = vec![false; end as usize];
        for _ in 0..cells {
            let error = self.malformed("position of a cell");
            let position = self.reader.u32();
            match position.and_then(|position| seen.get_mut(position as usize)) {
                Some(seen) if !*seen || position < Some(placed_end) => *seen = true,
                _ => return Err(error),
            }
            self.expect(1, "sequences of a cell")?;
            if extended {
                let error = self.malformed("token of a cell");
                self.reader.take(8).ok_or_else(|| self.malformed("positions of a cell"))?;
                let token = self.reader.i32().ok_or(error)?;
                if token < -1 || i64::from(token) >= i64::from(vocabulary) {
                    return Err(StateError::Malformed { at: self.reader.at as u64 - 4, what: "token of a cell" });
                }
            }
            self.expect(0, "sequence of a cell")?;
        }
        // A window has forgotten the first; what is left goes on to the last.
        let first = if windowed { seen.iter().position(|seen| *seen).unwrap_or(0) } else { 0 };
        let whole = seen[first.max(placed_end.min(end) as usize)..].iter().all(|seen| *seen);
        if whole && seen[end as usize - 1] { Ok(cells) } else { Err(self.malformed("a cell for each position")) }
    }

    fn tensor(&mut self, tensor: Tensor, cells: u32) -> Result<(), StateError> {
        self.expect(tensor.number.ggml() as u32, "type of numbers")?;
        let error = self.malformed("bytes of a row");
        if self.reader.u64() != Some(tensor.row) {
            return Err(error);
        }
        self.numbers(tensor, cells)
    }

    fn transposed(&mut self, tensor: Tensor, cells: u32) -> Result<(), StateError> {
        self.expect(tensor.number.ggml() as u32, "type of numbers")?;
        self.expect(tensor.number.bytes() as u32, "bytes of a number")?;
        let error = self.malformed("width of values");
        if self.reader.u32().map(u64::from) != Some(tensor.row / tensor.number.bytes()) {
            return Err(error);
        }
        self.numbers(tensor, cells)
    }

    fn numbers(&mut self, tensor: Tensor, cells: u32) -> Result<(), StateError> {
        let at = self.reader.at as u64;
        let bytes = tensor.row.checked_mul(cells.into()).and_then(|count| self.reader.take(count));
        let bytes = bytes.ok_or(StateError::Malformed { at, what: "numbers" })?;
        if tensor.number.are_tame(bytes) { Ok(()) } else { Err(StateError::NotFinite { at }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes as llama.cpp writes them.
    #[derive(Default)]
    struct Written(Vec<u8>);

    impl Written {
        fn u32(mut self, number: u32) -> Self {
            self.0.extend_from_slice(&number.to_ne_bytes());
            self
        }

        fn row(mut self, number: Number, row: u64, cells: u64) -> Self {
            self = self.u32(number.ggml() as u32);
            self.0.extend_from_slice(&row.to_ne_bytes());
            self.0.resize(self.0.len() + (row * cells) as usize, 0x11);
            self
        }

        fn transposed(mut self, number: Number, width: u64, cells: u64) -> Self {
            self = self.u32(number.ggml() as u32).u32(number.bytes() as u32).u32(width as u32);
            self.0.resize(self.0.len() + (number.bytes() * width * cells) as usize, 0x22);
            self
        }

        /// A KV cache of two layers, in which the sequence has these positions.
        fn attention(mut self, shape: Shape, streams: u32, slot: u32, positions: &[u32]) -> Self {
            let cells = positions.len() as u64;
            self = self.u32(streams);
            let stream = if streams == 1 { 0 } else { slot };
            for index in 0..streams {
                self = self.u32(if index == stream { cells as u32 } else { 0 });
                if index != stream {
                    continue;
                }
                for position in positions {
                    self = self.u32(*position).u32(1);
                    if shape.extended {
                        self = self.u32(*position).u32(*position).u32(7);
                    }
                    self = self.u32(slot);
                }
                self = self.u32(u32::from(shape.transposed)).u32(2).u32(0).u32(0);
                self = self.row(Number::F16, 12, cells).row(Number::F32, 8, cells);
                self = match (shape.values, shape.transposed) {
                    (false, _) => self,
                    (true, false) => self.row(Number::F16, 4, cells).row(Number::Bf16, 8, cells),
                    (true, true) => self.transposed(Number::F16, 4, cells).transposed(Number::F32, 5, cells),
                };
            }
            self
        }

        /// A recurrent state of two of three layers.
        fn recurrent(self, last: u32) -> Self {
            let meta = self.u32(1).u32(last).u32(0).u32(0).u32(3);
            let rows = meta.row(Number::F32, 8, 1).row(Number::F32, 8, 1);
            rows.row(Number::F32, 16, 1).row(Number::F32, 16, 1)
        }
    }

    #[derive(Clone, Copy, Debug)]
    struct Shape {
        extended: bool,
        transposed: bool,
        values: bool,
    }

    const SHAPES: [Shape; 5] = [
        Shape { extended: false, transposed: false, values: true },
        Shape { extended: false, transposed: true, values: true },
        Shape { extended: true, transposed: false, values: true },
        Shape { extended: false, transposed: false, values: false },
        Shape { extended: true, transposed: true, values: false },
    ];

    fn facts(length: u32) -> Facts {
        Facts { length, placed_end: 0, lead: 0, cells: 256, vocabulary: 100, windowed: true }
    }

    /// What a sequence of five tokens has in a memory of this shape, with a window of three and a recurrent state.
    fn native(shape: Shape, streams: u32, slot: u32) -> Vec<u8> {
        let start = Written::default().u32(MAGIC).u32(slot);
        let whole = start.attention(shape, streams, slot, &[3, 0, 4, 1, 2]);
        whole.attention(shape, streams, slot, &[2, 4, 3]).recurrent(4).0
    }

    #[test]
    fn a_state_fits_any_slot_and_any_number_of_streams() {
        for shape in SHAPES {
            for (streams, slot) in [(1, 0), (1, 7), (2, 0), (4, 3)] {
                let written = native(shape, streams, slot);
                let (layout, bodies) = Layout::learn(&written, streams, slot, facts(5)).expect("one reading");
                let portable = layout.to_portable(&written, &bodies);
                let bodies = layout.check(&portable, facts(5)).expect("its own");
                let (other, _) = Layout::learn(&native(shape, 1, 0), 1, 0, facts(5)).expect("one reading");
                assert_eq!(other, layout, "{shape:?}");
                assert_eq!(portable[..], native(shape, 1, 0)[8..], "{shape:?}");
                // llama.cpp looks for cells in every stream, and does not look at whose they are.
                let again = layout.to_native(&portable, &bodies, 3, 0);
                assert_eq!(again, native(shape, 3, 0), "{shape:?}");
            }
        }
    }

    #[test]
    fn what_can_be_read_in_no_way_is_not_learnt() {
        let written = native(SHAPES[0], 2, 1);
        let (layout, _) = Layout::learn(&written, 2, 1, facts(5)).unwrap();
        assert!(Layout::learn(&written, 2, 0, facts(5)).is_none(), "another slot");
        assert!(Layout::learn(&written, 1, 1, facts(5)).is_none(), "another number of streams");
        assert!(Layout::learn(&written, 2, 1, facts(4)).is_none(), "another length");
        for length in 0..written.len() {
            let cut = Layout::learn(&written[..length], 2, 1, facts(5));
            assert!(cut.is_none_or(|(cut, _)| cut != layout), "{length} bytes");
        }
    }

    #[test]
    fn every_number_that_is_no_weight_is_checked() {
        for shape in SHAPES {
            let written = native(shape, 1, 0);
            let (layout, bodies) = Layout::learn(&written, 1, 0, facts(5)).unwrap();
            let portable = layout.to_portable(&written, &bodies);
            for at in (0..portable.len() - 4).step_by(4) {
                let number = u32::from_ne_bytes(portable[at..at + 4].try_into().unwrap());
                let weights = number == 0x1111_1111 || number == 0x2222_2222;
                for other in [number.wrapping_add(1), number ^ 0x8000_0000, 0x7f80_7c00] {
                    let mut forged = portable.clone();
                    forged[at..at + 4].copy_from_slice(&other.to_ne_bytes());
                    let passed = layout.check(&forged, facts(5)).is_ok();
                    // Of the extended numbers of a cell, only the token is looked up anywhere.
                    let place = shape.extended && number < 5 || shape.extended && number == 7 && other < 100;
                    assert!(!passed || weights || place, "{shape:?}: {number:#x} to {other:#x} at {at}");
                }
            }
        }
    }

    #[test]
    fn pictures_repeat_positions_and_leave_holes() {
        let shape = SHAPES[2];
        let start = || Written::default().u32(MAGIC).u32(0);
        let layout = |written: &[u8], facts| Layout::learn(written, 1, 0, facts).expect("one reading");
        // Two tokens, a picture of three cells at position 2, which leads to 5; and then one with two tokens more.
        let at_end = Facts { length: 5, placed_end: 5, lead: 2, windowed: false, ..facts(5) };
        let within = Facts { length: 7, placed_end: 5, lead: 0, windowed: false, ..facts(7) };
        for (facts, positions) in [(at_end, &[0, 1, 2, 2, 2][..]), (within, &[0, 1, 2, 2, 2, 5, 6])] {
            let written = start().attention(shape, 1, 0, positions).0;
            let (layout, bodies) = layout(&written, facts);
            let portable = layout.to_portable(&written, &bodies);
            assert!(layout.check(&portable, facts).is_ok());
            let text = Facts { placed_end: 0, lead: 0, ..facts };
            assert!(layout.check(&portable, text).is_err(), "without a picture nothing may repeat");
            assert!(layout.check(&portable, Facts { cells: 3, ..facts }).is_err(), "more cells than there are");
        }
        // Only memories with positions of four numbers have pictures.
        let written = start().attention(SHAPES[0], 1, 0, &[0, 1, 2, 3, 4]).0;
        let (layout, bodies) = layout(&written, facts(5));
        let portable = layout.to_portable(&written, &bodies);
        assert!(layout.check(&portable, Facts { placed_end: 3, ..facts(5) }).is_err());
    }

    #[test]
    fn numbers_that_would_reach_others_are_not_tame() {
        let f32s = |number: f32| Number::F32.are_tame(&number.to_ne_bytes());
        assert!([0.0, -0.0, 1.0, -65504.0, 9e29, f32::MIN_POSITIVE].into_iter().all(f32s));
        assert!(![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, -2e30].into_iter().any(f32s));
        let f16s = |bits: u16| Number::F16.are_tame(&bits.to_ne_bytes());
        assert!([0, 0x8000, 0x3c00, 0x7bff, 0xfbff].into_iter().all(f16s));
        assert!(![0x7c00, 0xfc00, 0x7e00, 0xffff].into_iter().any(f16s));
        let bf16s = |bits: u16| Number::Bf16.are_tame(&bits.to_ne_bytes());
        assert!([0, 0x3f80, 0xbf80, 0x7149].into_iter().all(bf16s));
        assert!(![0x7f80, 0xff80, 0x7fc0, 0x7f7f].into_iter().any(bf16s));
    }
}
