//! A GGUF file taken apart, so that anything in it can be changed, and put together again as it then is: nothing is checked.

/// A metadata value. Types are the format's numbers.
#[derive(Clone)]
pub enum Value {
    /// Neither text nor list: type and bytes.
    Scalar(u32, Vec<u8>),
    Text(Vec<u8>),
    /// Type of the elements, the length that is written, and the elements' bytes.
    List(u32, u64, Vec<u8>),
}

pub const U16: u32 = 2;
pub const U32: u32 = 4;
pub const I32: u32 = 5;
pub const F32: u32 = 6;
pub const BOOL: u32 = 7;
pub const TEXT: u32 = 8;
pub const LIST: u32 = 9;

/// Bytes of a scalar.
pub fn size(kind: u32) -> usize {
    match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        _ => 8,
    }
}

pub fn text(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes(), bytes].concat()
}

/// The texts of a list of texts.
pub fn texts(body: &[u8]) -> Vec<Vec<u8>> {
    let mut reader = Reader { bytes: body, next: 0 };
    let mut texts = Vec::new();
    while reader.next + 8 <= body.len() {
        let length = u64::from_le_bytes(body[reader.next..reader.next + 8].try_into().unwrap());
        // An earlier mutation may have made them something else.
        if length > (body.len() - reader.next - 8) as u64 {
            break;
        }
        texts.push(reader.text());
    }
    texts
}

#[derive(Clone)]
pub struct Tensor {
    pub name: Vec<u8>,
    pub shape: Vec<u64>,
    pub format: u32,
    pub offset: u64,
    /// Its weights, with padding.
    pub data: Vec<u8>,
}

#[derive(Clone)]
pub struct Document {
    pub version: u32,
    /// Added to the numbers of tensors and pairs.
    pub more: [u64; 2],
    pub pairs: Vec<(Vec<u8>, Value)>,
    pub tensors: Vec<Tensor>,
}

struct Reader<'a> {
    bytes: &'a [u8],
    next: usize,
}

impl Reader<'_> {
    fn take(&mut self, count: usize) -> Vec<u8> {
        self.next += count;
        self.bytes[self.next - count..self.next].to_vec()
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().unwrap())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().unwrap())
    }

    fn text(&mut self) -> Vec<u8> {
        let length = self.u64() as usize;
        self.take(length)
    }
}

impl Document {
    /// Takes a right file apart.
    pub fn new(gguf: &[u8]) -> Self {
        let mut reader = Reader { bytes: gguf, next: 4 };
        let version = reader.u32();
        let (tensors, pairs) = (reader.u64(), reader.u64());
        let pairs = (0..pairs)
            .map(|_| {
                let key = reader.text();
                let value = match reader.u32() {
                    TEXT => Value::Text(reader.text()),
                    LIST => {
                        let of = reader.u32();
                        let length = reader.u64();
                        let start = reader.next;
                        for _ in 0..length {
                            if of == TEXT {
                                reader.text();
                            } else {
                                reader.take(size(of));
                            }
                        }
                        Value::List(of, length, gguf[start..reader.next].to_vec())
                    }
                    kind => Value::Scalar(kind, reader.take(size(kind))),
                };
                (key, value)
            })
            .collect();
        let mut tensors: Vec<Tensor> = (0..tensors)
            .map(|_| {
                let name = reader.text();
                let dimensions = reader.u32();
                let shape = (0..dimensions).map(|_| reader.u64()).collect();
                Tensor { name, shape, format: reader.u32(), offset: reader.u64(), data: Vec::new() }
            })
            .collect();
        let start = reader.next.next_multiple_of(32);
        let ends: Vec<u64> = tensors.iter().skip(1).map(|tensor| tensor.offset).collect();
        for (index, tensor) in tensors.iter_mut().enumerate() {
            let end = ends.get(index).map_or(gguf.len(), |end| start + *end as usize);
            tensor.data = gguf[start + tensor.offset as usize..end].to_vec();
        }
        Self { version, more: [0; 2], pairs, tensors }
    }

    /// Bytes before the weights, without padding.
    pub fn header(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).wrapping_add(self.more[0]).to_le_bytes());
        out.extend((self.pairs.len() as u64).wrapping_add(self.more[1]).to_le_bytes());
        for (key, value) in &self.pairs {
            out.extend(text(key));
            match value {
                Value::Scalar(kind, bytes) => {
                    out.extend(kind.to_le_bytes());
                    out.extend(bytes);
                }
                Value::Text(bytes) => {
                    out.extend(TEXT.to_le_bytes());
                    out.extend(text(bytes));
                }
                Value::List(of, length, body) => {
                    out.extend(LIST.to_le_bytes());
                    out.extend(of.to_le_bytes());
                    out.extend(length.to_le_bytes());
                    out.extend(body);
                }
            }
        }
        for tensor in &self.tensors {
            out.extend(text(&tensor.name));
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            out.extend(tensor.shape.iter().flat_map(|size| size.to_le_bytes()));
            out.extend(tensor.format.to_le_bytes());
            out.extend(tensor.offset.to_le_bytes());
        }
        out
    }

    /// The whole file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.header();
        out.resize(out.len().next_multiple_of(32), 0);
        for tensor in &self.tensors {
            out.extend(&tensor.data);
        }
        out
    }

    /// Makes the data as long as shapes and formats say, and the offsets right, where that is not absurd.
    pub fn lay_out(&mut self) {
        let mut offset = 0;
        for tensor in &mut self.tensors {
            let values: u128 = tensor.shape.iter().map(|size| u128::from(*size)).product();
            let (block, bytes) = block(tensor.format);
            let bytes = values / block * bytes;
            if bytes < 1 << 22 {
                let padded = (bytes as usize).next_multiple_of(32);
                let old = tensor.data.clone();
                tensor.data = old.iter().copied().cycle().take(if old.is_empty() { 0 } else { padded }).collect();
                tensor.data.resize(padded, 0);
            }
            tensor.offset = offset;
            offset += tensor.data.len() as u64;
        }
    }

    pub fn pair(&mut self, key: &[u8]) -> Option<&mut Value> {
        self.pairs.iter_mut().find(|(found, _)| found == key).map(|(_, value)| value)
    }
}

/// Values and bytes of a block, for the formats that the mutations use.
fn block(format: u32) -> (u128, u128) {
    match format {
        0 | 26 => (1, 4),
        1 | 25 | 30 => (1, 2),
        24 => (1, 1),
        27 | 28 => (1, 8),
        2 => (32, 18),
        8 => (32, 34),
        12 => (256, 144),
        39 => (32, 17),
        40 => (64, 36),
        _ => (32, 32),
    }
}

/// The parts of a model, the metadata in the first.
pub fn split(gguf: &[u8], count: usize) -> Vec<Document> {
    let whole = Document::new(gguf);
    let share = whole.tensors.len().div_ceil(count);
    let tensors = whole.tensors.len() as i32;
    let parts = whole.tensors.chunks(share).enumerate().map(|(index, tensors_of_part)| {
        let mut part = Document { pairs: Vec::new(), tensors: tensors_of_part.to_vec(), ..whole.clone() };
        if index == 0 {
            part.pairs.clone_from(&whole.pairs);
        }
        let numbers = [
            ("split.no", U16, index as i32),
            ("split.count", U16, count as i32),
            ("split.tensors.count", I32, tensors),
        ];
        for (key, kind, number) in numbers {
            part.pairs
                .push((key.as_bytes().to_vec(), Value::Scalar(kind, number.to_le_bytes()[..size(kind)].to_vec())));
        }
        part.lay_out();
        part
    });
    let parts: Vec<Document> = parts.collect();
    assert_eq!(parts.len(), count);
    parts
}

/// A model in two files.
pub fn halves(gguf: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let parts = split(gguf, 2);
    (parts[0].to_bytes(), parts[1].to_bytes())
}
