//! Models with other weights: the oracle of what changes weights while it computes.

/// A GGUF of F32 tensors as our fixtures write it, taken apart.
#[derive(Debug, Clone)]
pub struct Edited {
    /// Magic and version; then the metadata, behind the two counts.
    start: Vec<u8>,
    metadata: Vec<u8>,
    pairs: u64,
    tensors: Vec<Tensor>,
}

#[derive(Debug, Clone)]
struct Tensor {
    name: String,
    shape: Vec<u64>,
    values: Vec<f32>,
}

const ALIGNMENT: usize = 32;

impl Edited {
    /// Takes a GGUF apart.
    ///
    /// # Panics
    ///
    /// If it is none of ours, or its tensors are not all F32.
    #[must_use]
    pub fn new(gguf: &[u8]) -> Self {
        let mut reader = Reader { bytes: gguf, at: 8 };
        let (tensors, pairs) = (reader.u64(), reader.u64());
        let metadata_from = reader.at;
        for _ in 0..pairs {
            reader.text();
            let kind = reader.u32();
            reader.skip_value(kind);
        }
        let metadata = gguf[metadata_from..reader.at].to_vec();
        let directory: Vec<_> = (0..tensors)
            .map(|_| {
                let name = reader.text();
                let shape: Vec<u64> = (0..reader.u32()).map(|_| reader.u64()).collect();
                assert_eq!(reader.u32(), 0, "{name} is not F32");
                (name, shape, reader.u64() as usize)
            })
            .collect();
        let data = &gguf[reader.at.next_multiple_of(ALIGNMENT)..];
        let tensors = directory.into_iter().map(|(name, shape, from)| {
            let bytes = &data[from..][..4 * shape.iter().product::<u64>() as usize];
            let values = bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect();
            Tensor { name, shape, values }
        });
        Self { start: gguf[..8].to_vec(), metadata, pairs, tensors: tensors.collect() }
    }

    /// A tensor's shape, the length of a row first, and its values; `None` if there is none of that name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<(&[u64], &[f32])> {
        let found = self.tensors.iter().find(|tensor| tensor.name == name);
        found.map(|tensor| (tensor.shape.as_slice(), tensor.values.as_slice()))
    }

    /// The values of a tensor, to change.
    pub fn values_mut(&mut self, name: &str) -> Option<&mut [f32]> {
        let found = self.tensors.iter_mut().find(|tensor| tensor.name == name);
        found.map(|tensor| tensor.values.as_mut_slice())
    }

    /// The names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|tensor| tensor.name.as_str())
    }

    /// Adds a tensor of `shape`, the length of a row first.
    pub fn add(&mut self, name: &str, shape: &[u64], values: &[f32]) {
        self.tensors.push(Tensor { name: name.to_owned(), shape: shape.to_vec(), values: values.to_vec() });
    }

    /// Takes a tensor away.
    pub fn remove(&mut self, name: &str) {
        self.tensors.retain(|tensor| tensor.name != name);
    }

    /// The GGUF.
    #[must_use]
    pub fn gguf(&self) -> Vec<u8> {
        let mut out = self.start.clone();
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend(self.pairs.to_le_bytes());
        out.extend(&self.metadata);
        let mut offset = 0;
        for tensor in &self.tensors {
            out.extend((tensor.name.len() as u64).to_le_bytes());
            out.extend(tensor.name.as_bytes());
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            out.extend(tensor.shape.iter().flat_map(|length| length.to_le_bytes()));
            out.extend(0_u32.to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset = (offset + 4 * tensor.values.len()).next_multiple_of(ALIGNMENT);
        }
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
            out.extend(tensor.values.iter().flat_map(|value| value.to_le_bytes()));
        }
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        out
    }
}

struct Reader<'bytes> {
    bytes: &'bytes [u8],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let taken = self.bytes[self.at..][..N].try_into().expect("N bytes");
        self.at += N;
        taken
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn text(&mut self) -> String {
        let length = self.u64() as usize;
        let text = String::from_utf8_lossy(&self.bytes[self.at..][..length]).into_owned();
        self.at += length;
        text
    }

    /// Steps over a value of a type (`enum gguf_type`).
    fn skip_value(&mut self, kind: u32) {
        const LIST: u32 = 9;
        match kind {
            0 | 1 | 7 => self.at += 1,
            2 | 3 => self.at += 2,
            4..=6 => self.at += 4,
            10..=12 => self.at += 8,
            8 => drop(self.text()),
            LIST => {
                let of = self.u32();
                for _ in 0..self.u64() {
                    self.skip_value(of);
                }
            }
            other => panic!("type {other} is none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use fixtures::{Llama, Weights};

    use super::*;

    #[test]
    fn what_is_not_changed_stays() {
        let gguf = Llama::tiny().gguf(Weights::F32, 1).expect("a shape");
        let mut edited = Edited::new(&gguf);
        assert!(edited.gguf() == gguf, "taken apart and put together");
        edited.add("blk.0.ffn_down.bias", &[64], &[1.5; 64]);
        let again = Edited::new(&edited.gguf());
        assert_eq!(again.tensor("blk.0.ffn_down.bias"), Some((&[64][..], &[1.5; 64][..])));
        assert_eq!(again.tensor("output.weight"), edited.tensor("output.weight"));
        assert_eq!(again.names().count(), edited.names().count());
    }
}
