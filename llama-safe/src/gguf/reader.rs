//! The walk over a GGUF file's first part, and over the ids among its tensors: bounded by the file's own length, reading ahead
//! in pieces.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Seek, SeekFrom};

use crate::error::GgufError;
use crate::gguf::weights::{id_bytes, tensor_bytes};
use crate::gguf::{Header, Kind, List, TOKENS, Tensor, Value};

/// Dimensions of a tensor (`GGML_MAX_DIMS`).
const MOST_DIMENSIONS: u32 = 4;
/// Bytes of a tensor's name (`GGML_MAX_NAME`, less the terminator).
const MOST_NAME_BYTES: u64 = 63;
/// Bytes of a key. The format's own limit; llama.cpp has none.
const MOST_KEY_BYTES: u64 = 65_535;
/// Bytes of a text, and elements of a list (gguf.cpp:17).
const MOST_LENGTH: u64 = 1 << 30;
/// Numbers, and texts outside of the vocabulary, kept of a list: no list that the rules look at is longer.
const MOST_NUMBERS_KEPT: u64 = 1024;
/// What keys of the vocabulary begin with.
const VOCABULARY: &str = "tokenizer.";

/// Reads what a file says before its weights, from the file's start; and of its weights those that are ids.
pub(crate) fn read_header(file: impl Read + Seek) -> Result<Header, GgufError> {
    let mut reader = Reader::new(file)?;
    let (tensors, pairs) = reader.start()?;
    let metadata = reader.metadata(pairs)?;
    let alignment = alignment(&metadata)?;
    let tensors = reader.directory(tensors, alignment)?;
    Ok(Header { metadata, tensors })
}

/// Where tensors may start: a power of two.
fn alignment(metadata: &HashMap<String, Value>) -> Result<u64, GgufError> {
    const KEY: &str = "general.alignment";
    match metadata.get(KEY) {
        None => Ok(32),
        Some(Value::Number(Kind::U32, number)) => match u64::try_from(*number) {
            Ok(alignment) if alignment.is_power_of_two() => Ok(alignment),
            _ => Err(GgufError::Alignment { got: *number as u64 }),
        },
        Some(other) => {
            Err(GgufError::WrongType { key: KEY.to_owned(), expected: Kind::U32.name(), found: other.kind().name() })
        }
    }
}

/// Reads ahead in pieces, and knows how much is left.
struct Reader<F> {
    file: F,
    /// Bytes of the whole file.
    size: u64,
    /// Where the next byte to give stands in the file.
    position: u64,
    buffer: Vec<u8>,
    /// The next byte to give, in `buffer`.
    next: usize,
}

impl<F: Read + Seek> Reader<F> {
    const PIECE: u64 = 64 << 10;

    fn new(mut file: F) -> Result<Self, GgufError> {
        let size = file.seek(SeekFrom::End(0)).map_err(unreadable)?;
        file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
        Ok(Self { file, size, position: 0, buffer: Vec::new(), next: 0 })
    }

    /// Whether `bytes` more are in the file.
    fn need(&self, what: &'static str, bytes: u64) -> Result<(), GgufError> {
        let left = self.size - self.position;
        if bytes > left {
            return Err(GgufError::Truncated { what, offset: self.position, needed: bytes, left });
        }
        Ok(())
    }

    /// The next bytes, which stay valid until the next call.
    fn take(&mut self, what: &'static str, bytes: u64) -> Result<&[u8], GgufError> {
        self.need(what, bytes)?;
        let length = usize::try_from(bytes).map_err(|_| GgufError::TooLong { what, got: bytes, max: MOST_LENGTH })?;
        if self.buffer.len() - self.next < length {
            self.buffer.drain(..self.next);
            self.next = 0;
            let missing = (length - self.buffer.len()) as u64;
            let read = (&mut self.file).take(missing.max(Self::PIECE)).read_to_end(&mut self.buffer);
            read.map_err(unreadable)?;
            if self.buffer.len() < length {
                // It was longer a moment ago.
                let left = self.buffer.len() as u64;
                return Err(GgufError::Truncated { what, offset: self.position, needed: bytes, left });
            }
        }
        let start = self.next;
        self.next += length;
        self.position += bytes;
        Ok(&self.buffer[start..start + length])
    }

    fn skip(&mut self, what: &'static str, bytes: u64) -> Result<(), GgufError> {
        self.need(what, bytes)?;
        let buffered = (self.buffer.len() - self.next) as u64;
        if bytes <= buffered {
            self.next += bytes as usize;
        } else {
            self.buffer.clear();
            self.next = 0;
            self.file.seek(SeekFrom::Start(self.position + bytes)).map_err(unreadable)?;
        }
        self.position += bytes;
        Ok(())
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.take(what, 4)?.try_into().unwrap_or_default()))
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.take(what, 8)?.try_into().unwrap_or_default()))
    }

    fn bytes(&mut self, what: &'static str, max: u64) -> Result<&[u8], GgufError> {
        let length = self.u64(what)?;
        if length > max {
            return Err(GgufError::TooLong { what, got: length, max });
        }
        self.take(what, length)
    }

    /// A name: not empty where `empty` says so, UTF-8, and without a NUL, at which C would stop reading.
    fn name(&mut self, what: &'static str, max: u64) -> Result<String, GgufError> {
        let offset = self.position;
        let bytes = self.bytes(what, max)?;
        match std::str::from_utf8(bytes) {
            Ok(name) if !name.is_empty() && !name.contains('\0') => Ok(name.to_owned()),
            _ => Err(GgufError::BadName { what, offset, found: String::from_utf8_lossy(bytes).into_owned() }),
        }
    }

    /// Number of tensors, number of metadata pairs.
    fn start(&mut self) -> Result<(u64, u64), GgufError> {
        self.skip("the magic", 4)?;
        let version = self.u32("the version")?;
        match version {
            2 | 3 => {}
            // Written most significant byte first.
            _ if (2..=3).contains(&version.swap_bytes()) => return Err(GgufError::BigEndian),
            _ => return Err(GgufError::Version { got: version }),
        }
        let tensors = self.u64("the number of tensors")?;
        let pairs = self.u64("the number of metadata pairs")?;
        // The least that one of each takes: a name's length and byte, dimensions, format, offset; key, type, value.
        for (what, count, least) in [("tensors", tensors, 25), ("metadata pairs", pairs, 14)] {
            let max = (self.size - self.position) / least;
            if count > max {
                return Err(GgufError::Count { what, got: count, max });
            }
        }
        Ok((tensors, pairs))
    }

    fn kind(&mut self, key: &str) -> Result<Kind, GgufError> {
        let number = self.u32("a value's type")?;
        Kind::ALL.get(number as usize).copied().ok_or_else(|| GgufError::UnknownType {
            key: key.to_owned(),
            got: number,
            max: Kind::ALL.len() as u32 - 1,
        })
    }

    fn metadata(&mut self, pairs: u64) -> Result<HashMap<String, Value>, GgufError> {
        let mut metadata = HashMap::new();
        for _ in 0..pairs {
            let key = self.name("a key", MOST_KEY_BYTES)?;
            let value = match self.kind(&key)? {
                Kind::List => Value::List(self.list(&key)?),
                kind => self.scalar(kind)?,
            };
            if metadata.contains_key(&key) {
                return Err(GgufError::DuplicateKey { key });
            }
            metadata.insert(key, value);
        }
        Ok(metadata)
    }

    fn scalar(&mut self, kind: Kind) -> Result<Value, GgufError> {
        if kind == Kind::Text {
            let text = until_nul(self.bytes("a text", MOST_LENGTH)?);
            return Ok(Value::Text(String::from_utf8_lossy(text).into_owned()));
        }
        let bytes = self.take("a value", kind.bytes())?;
        Ok(match kind {
            Kind::F32 | Kind::F64 => Value::Float(kind, float(kind, bytes)),
            _ => Value::Number(kind, whole(kind, bytes)),
        })
    }

    fn list(&mut self, key: &str) -> Result<List, GgufError> {
        let of = self.kind(key)?;
        let length = self.u64("a list's length")?;
        let smallest = if of == Kind::Text { 8 } else { of.bytes() };
        let max = MOST_LENGTH.min((self.size - self.position) / smallest.max(1));
        if length > max {
            return Err(GgufError::List { key: key.to_owned(), got: length, max });
        }
        let mut list = List { of, length, numbers: Vec::new(), floats: Vec::new(), texts: Vec::new() };
        match of {
            Kind::List => {
                return Err(GgufError::WrongType { key: key.to_owned(), expected: "a list of values", found: "list" });
            }
            Kind::Text if key == TOKENS || (!key.starts_with(VOCABULARY) && length <= MOST_NUMBERS_KEPT) => {
                list.texts.reserve(length as usize);
                for _ in 0..length {
                    let text = until_nul(self.bytes("a text", MOST_LENGTH)?).to_vec();
                    list.texts.push(text);
                }
            }
            Kind::Text => {
                for _ in 0..length {
                    let bytes = self.u64("a text")?;
                    self.skip("a text", bytes)?;
                }
            }
            _ if length > MOST_NUMBERS_KEPT => self.skip("a list", length * of.bytes())?,
            _ => {
                let bytes = self.take("a list", length * of.bytes())?;
                let elements = bytes.chunks_exact(of.bytes() as usize);
                if matches!(of, Kind::F32 | Kind::F64) {
                    list.floats = elements.map(|bytes| float(of, bytes)).collect();
                } else {
                    list.numbers = elements.map(|bytes| whole(of, bytes)).collect();
                }
            }
        }
        Ok(list)
    }

    fn directory(&mut self, count: u64, alignment: u64) -> Result<Vec<Tensor>, GgufError> {
        let mut tensors = Vec::with_capacity(count as usize);
        let mut names = HashSet::with_capacity(count as usize);
        let mut of_ids = Vec::new();
        // Where the next tensor has to start, counted from the data's start.
        let mut end = 0_u64;
        for _ in 0..count {
            let name = self.name("a tensor's name", MOST_NAME_BYTES)?;
            let dimensions = self.u32("a tensor's dimensions")?;
            if dimensions > MOST_DIMENSIONS {
                return Err(GgufError::Dimensions { tensor: name, got: dimensions, max: MOST_DIMENSIONS });
            }
            let mut shape = [1; 4];
            for size in &mut shape[..dimensions as usize] {
                *size = self.u64("a tensor's shape")?;
            }
            let format = self.u32("a tensor's type")?;
            let offset = self.u64("a tensor's offset")?;
            let bytes = tensor_bytes(&name, shape, format)?;
            if offset != end {
                return Err(GgufError::Offset { tensor: name, got: offset, expected: end });
            }
            let too_large = || GgufError::Shape { tensor: name.clone(), shape };
            let padded = bytes.checked_next_multiple_of(alignment).ok_or_else(too_large)?;
            end = end.checked_add(padded).ok_or_else(too_large)?;
            if !names.insert(name.clone()) {
                return Err(GgufError::DuplicateTensor { tensor: name });
            }
            if let Some(width) = id_bytes(&name, format) {
                of_ids.push((tensors.len(), offset, bytes, width));
            }
            tensors.push(Tensor { name, shape, format, ids: None });
        }
        // Each begins where the one before ends: the last one is the only one to look at. Its padding need not be there.
        let start = self.position.checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
        if let Some(last) = tensors.last() {
            let bytes = tensor_bytes(&last.name, last.shape, last.format)?;
            let padding = bytes.next_multiple_of(alignment) - bytes;
            let last_end = start.saturating_add(end - padding);
            if last_end > self.size {
                return Err(GgufError::OutsideFile { tensor: last.name.clone(), end: last_end, size: self.size });
            }
        }
        for (index, offset, bytes, width) in of_ids {
            self.skip("weights", start + offset - self.position)?;
            tensors[index].ids = self.range(bytes, width)?;
        }
        Ok(tensors)
    }

    /// The least and the largest of the whole numbers in the next bytes, `width` bytes each.
    fn range(&mut self, bytes: u64, width: u64) -> Result<Option<(i64, i64)>, GgufError> {
        let kind = if width == 4 { Kind::I32 } else { Kind::I64 };
        let mut range: Option<(i64, i64)> = None;
        let mut left = bytes;
        while left > 0 {
            let piece = left.min(Self::PIECE);
            for id in self.take("a tensor of ids", piece)?.chunks_exact(width as usize) {
                let id = whole(kind, id) as i64;
                range = Some(range.map_or((id, id), |(least, most)| (least.min(id), most.max(id))));
            }
            left -= piece;
        }
        Ok(range)
    }
}

fn unreadable(source: io::Error) -> GgufError {
    GgufError::Unreadable { source }
}

/// What C sees of a text.
fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A float of the given width.
fn float(kind: Kind, bytes: &[u8]) -> f64 {
    match kind {
        Kind::F32 => f32::from_le_bytes(bytes.try_into().unwrap_or_default()).into(),
        _ => f64::from_le_bytes(bytes.try_into().unwrap_or_default()),
    }
}

/// A whole number of the given type, or a truth value.
fn whole(kind: Kind, bytes: &[u8]) -> i128 {
    let mut wide = [0; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    let number = u64::from_le_bytes(wide);
    match kind {
        Kind::I8 => (number as i8).into(),
        Kind::I16 => (number as i16).into(),
        Kind::I32 => (number as i32).into(),
        Kind::I64 => (number as i64).into(),
        Kind::Bool => (number != 0).into(),
        _ => number.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use fixtures::{Family, Weights};

    use super::*;

    fn read(bytes: &[u8]) -> Result<Header, GgufError> {
        read_header(Cursor::new(bytes))
    }

    fn gguf() -> Vec<u8> {
        Family::Llama.gguf(Weights::Q8_0, 1).unwrap()
    }

    /// Where these bytes stand in the file, as the only ones.
    fn find(gguf: &[u8], bytes: &[u8]) -> usize {
        let mut found = gguf.windows(bytes.len()).enumerate().filter(|(_, window)| *window == bytes);
        let (place, _) = found.next().unwrap();
        assert!(found.next().is_none());
        place
    }

    /// The key's value, of which the first `bytes` are replaced.
    fn with(key: &str, bytes: &[u8]) -> Vec<u8> {
        let mut gguf = gguf();
        let text = [&(key.len() as u64).to_le_bytes(), key.as_bytes()].concat();
        let value = find(&gguf, &text) + text.len();
        gguf[value..value + bytes.len()].copy_from_slice(bytes);
        gguf
    }

    #[test]
    fn a_file_is_read() {
        let header = read(&gguf()).unwrap();
        assert_eq!(header.text("general.architecture"), Some("llama"));
        assert_eq!(header.number("llama.block_count", Kind::U32), Some(2));
        assert_eq!(header.number("llama.block_count", Kind::I32), None);
        let Some(Value::List(tokens)) = header.metadata.get(TOKENS) else { panic!() };
        assert_eq!((tokens.of, tokens.length, tokens.texts.len()), (Kind::Text, 512, 512));
        assert_eq!(header.tensors.len(), 21);
        assert_eq!((header.tensors[0].shape, header.tensors[0].format), ([64, 512, 1, 1], 8));
    }

    #[test]
    fn headers_that_are_none() {
        let version = |bytes: [u8; 4]| [b"GGUF", &bytes, &gguf()[8..]].concat();
        assert!(read(&version([2, 0, 0, 0])).is_ok());
        assert!(matches!(read(&version([0, 0, 0, 3])), Err(GgufError::BigEndian)));
        assert!(matches!(read(&version([1, 0, 0, 0])), Err(GgufError::Version { got: 1 })));
        assert!(matches!(read(&version([4, 0, 0, 0])), Err(GgufError::Version { got: 4 })));
        for (place, what) in [(8, "tensors"), (16, "metadata pairs")] {
            let mut many = gguf();
            many[place..place + 8].fill(0x7f);
            let error = read(&many).unwrap_err();
            assert!(matches!(error, GgufError::Count { what: told, .. } if told == what), "{error}");
        }
    }

    #[test]
    fn metadata_that_is_none() {
        let error = read(&with("llama.block_count", &[13, 0, 0, 0])).unwrap_err();
        assert!(
            matches!(&error, GgufError::UnknownType { key, got: 13, max: 12 } if key == "llama.block_count"),
            "{error}"
        );
        // A list of lists, and one that is longer than the file.
        let error = read(&with(TOKENS, &[9, 0, 0, 0, 9, 0, 0, 0])).unwrap_err();
        assert!(matches!(error, GgufError::WrongType { found: "list", .. }), "{error}");
        let error = read(&with(TOKENS, &[9, 0, 0, 0, 8, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0])).unwrap_err();
        assert!(matches!(error, GgufError::List { got: 0xffff_ffff, .. }), "{error}");
        let mut twice = gguf();
        let place = find(&twice, b"llama.rope.freq_base");
        twice[place..place + 20].copy_from_slice(b"tokenizer.ggml.model");
        let error = read(&twice).unwrap_err();
        assert!(matches!(&error, GgufError::DuplicateKey { key } if key == "tokenizer.ggml.model"), "{error}");
        for name in [&b"llama.bl\xffck_count"[..], b"llama.bl\0ck_count"] {
            let mut bad = gguf();
            let place = find(&bad, b"llama.block_count");
            bad[place..place + name.len()].copy_from_slice(name);
            assert!(matches!(read(&bad), Err(GgufError::BadName { what: "a key", .. })));
        }
    }

    #[test]
    fn directories_that_are_none() {
        // Of the first tensor: dimensions, lengths, format, offset.
        let name = b"token_embd.weight";
        let change = |place: usize, bytes: &[u8]| {
            let mut gguf = gguf();
            let start = find(&gguf, name) + name.len() + place;
            gguf[start..start + bytes.len()].copy_from_slice(bytes);
            read(&gguf).unwrap_err()
        };
        assert!(matches!(change(0, &[5]), GgufError::Dimensions { got: 5, max: 4, .. }));
        assert!(matches!(change(4, &65_u64.to_le_bytes()), GgufError::Row { row: 65, block: 32, .. }));
        assert!(matches!(change(4, &0_u64.to_le_bytes()), GgufError::Shape { .. }));
        assert!(matches!(change(4, &(1_u64 << 62).to_le_bytes()), GgufError::Shape { .. }));
        assert!(matches!(change(12, &u64::MAX.to_le_bytes()), GgufError::Shape { .. }));
        assert!(matches!(change(20, &[4]), GgufError::Format { got: 4, .. }));
        assert!(matches!(change(20, &[43]), GgufError::Format { got: 43, .. }));
        assert!(matches!(change(24, &[32]), GgufError::Offset { got: 32, expected: 0, .. }));
        let mut twice = gguf();
        let (from, to) = (find(&twice, b"blk.0.attn_q.weight"), find(&twice, b"blk.0.attn_k.weight"));
        twice.copy_within(from..from + 19, to);
        let error = read(&twice).unwrap_err();
        assert!(matches!(&error, GgufError::DuplicateTensor { tensor } if tensor == "blk.0.attn_q.weight"), "{error}");
    }

    #[test]
    fn alignments_are_powers_of_two() {
        let mut gguf = fixtures::gguf::Gguf::default();
        gguf.set("general.alignment", 64_u32);
        assert!(read(&gguf.header()).is_ok());
        for wrong in [0, 3, 33] {
            let mut gguf = fixtures::gguf::Gguf::default();
            gguf.set("general.alignment", wrong);
            assert!(matches!(read(&gguf.header()), Err(GgufError::Alignment { got }) if got == u64::from(wrong)));
        }
        let mut gguf = fixtures::gguf::Gguf::default();
        gguf.set("general.alignment", "32");
        assert!(matches!(read(&gguf.header()), Err(GgufError::WrongType { expected: "u32", found: "text", .. })));
    }

    #[test]
    fn ids_are_read_to_their_end() {
        use fixtures::gguf::{Gguf, Tensor};
        const COUNT: usize = 50_000;
        let mut gguf = Gguf::default();
        for (name, length) in [("output.weight", 7), ("blk.0.ffn_gate_tid2eid.weight", COUNT), ("d2t", 3)] {
            gguf.add(Tensor { name: name.to_owned(), shape: vec![length as u64], weights: Weights::F32 });
        }
        // More than is read at once, with the extremes at the ends and within.
        for (least, most) in [(0, COUNT - 1), (COUNT - 1, 0), (20_000, 16_384)] {
            let mut bytes = Vec::new();
            let written = gguf.write(&mut bytes, |tensor, out| {
                for at in 0..tensor.values() as usize {
                    let id = if at == least { -7 } else { i32::from(at == most) * 1_000_000 };
                    out.write_all(&id.to_le_bytes())?;
                }
                Ok(())
            });
            written.unwrap();
            let name = b"tid2eid.weight";
            let at = bytes.windows(name.len()).position(|window| window == name).unwrap() + name.len() + 4 + 8;
            bytes[at] = 26;
            let ids: Vec<_> = read(&bytes).unwrap().tensors.iter().map(|tensor| tensor.ids).collect();
            // Of numbers that are no ids nothing is read.
            assert_eq!(ids, [None, Some((-7, 1_000_000)), None]);
        }
    }

    /// Cut anywhere, it is refused, and reading never goes beyond the end.
    #[test]
    fn cut_files() {
        let gguf = gguf();
        for length in (8..5000).chain((5000..gguf.len()).step_by(997)) {
            assert!(read(&gguf[..length]).is_err(), "cut at {length}");
        }
    }
}
