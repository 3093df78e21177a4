//! A model file without its weights and its vocabulary: what llama.cpp needs to plan a computation, and no more.
#![forbid(unsafe_code)]

use crate::gguf::weights::tensor_bytes;
use crate::gguf::{Header, Kind, List, Shapes, Tensor, Value};

/// Where tensors start; what a file says of that is left out.
const ALIGNMENT: u64 = 32;
/// Bytes of the longest text that is kept: longer ones are licences, descriptions and chat templates.
const MOST_TEXT_BYTES: usize = 4096;
/// `GGML_TYPE_F32`.
const F32: u32 = 0;

/// The first part of a GGUF file, and how many bytes of weights would follow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Outline {
    pub(crate) header: Vec<u8>,
    pub(crate) weights: u64,
}

impl Outline {
    /// Of what a file says, with `vocabulary` tokens that have no text. `None` for sizes that no file has.
    pub(crate) fn of(header: &Header, vocabulary: u32) -> Option<Self> {
        Self::write(header, &header.tensors, vocabulary)
    }

    /// The same of a model whose tensors no file lists, and which are all of 32 bits.
    pub(crate) fn of_shapes(header: &Header, shapes: &Shapes, vocabulary: u32) -> Option<Self> {
        let mut tensors: Vec<Tensor> = shapes
            .iter()
            .map(|(name, shape)| Tensor { name: name.clone(), shape: *shape, format: F32, ids: None })
            .collect();
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        Self::write(header, &tensors, vocabulary)
    }

    fn write(header: &Header, tensors: &[Tensor], vocabulary: u32) -> Option<Self> {
        let architecture = header.text("general.architecture").unwrap_or_default();
        let size_key = format!("{architecture}.vocab_size");
        let mut pairs: Vec<_> = header.metadata.iter().filter(|(key, value)| is_kept(key, value)).collect();
        pairs.retain(|(key, _)| **key != size_key);
        pairs.sort_by(|a, b| a.0.cmp(b.0));
        let mut out = Vec::new();
        out.extend(b"GGUF");
        out.extend(3_u32.to_le_bytes());
        out.extend((tensors.len() as u64).to_le_bytes());
        out.extend((pairs.len() as u64 + 2).to_le_bytes());
        for (key, value) in pairs {
            put_text(&mut out, key.as_bytes());
            put_value(&mut out, value);
        }
        // What llama.cpp takes for tokens without text (llama-vocab.cpp:1979).
        for (key, value) in [
            ("tokenizer.ggml.model", Value::Text("none".to_owned())),
            (&size_key, Value::Number(Kind::U32, vocabulary.into())),
        ] {
            put_text(&mut out, key.as_bytes());
            put_value(&mut out, &value);
        }
        let mut weights = 0_u64;
        for tensor in tensors {
            put_text(&mut out, tensor.name.as_bytes());
            out.extend(4_u32.to_le_bytes());
            out.extend(tensor.shape.iter().flat_map(|size| size.to_le_bytes()));
            out.extend(tensor.format.to_le_bytes());
            out.extend(weights.to_le_bytes());
            let bytes = tensor_bytes(&tensor.name, tensor.shape, tensor.format).ok()?;
            weights = weights.checked_add(bytes.checked_next_multiple_of(ALIGNMENT)?)?;
        }
        out.resize(out.len().next_multiple_of(ALIGNMENT as usize), 0);
        Some(Self { header: out, weights })
    }
}

/// Whether llama.cpp may look at a pair when it makes the tensors and the computation.
fn is_kept(key: &str, value: &Value) -> bool {
    if key == "general.alignment" || key.starts_with("split.") {
        return false;
    }
    match value {
        // The counts of a vocabulary say how large some tensors are.
        Value::Text(text) => !key.starts_with("tokenizer.") && text.len() <= MOST_TEXT_BYTES,
        Value::List(list) => {
            let kept = list.numbers.len() + list.floats.len() + list.texts.len();
            !key.starts_with("tokenizer.") && kept as u64 == list.length
        }
        Value::Number(..) | Value::Float(..) => true,
    }
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text);
}

fn put_kind(out: &mut Vec<u8>, kind: Kind) {
    let number = Kind::ALL.iter().position(|one| *one == kind).unwrap_or_default();
    out.extend((number as u32).to_le_bytes());
}

fn put_number(out: &mut Vec<u8>, kind: Kind, number: i128) {
    // It was read from as many bytes.
    out.extend(&number.to_le_bytes()[..kind.bytes() as usize]);
}

fn put_float(out: &mut Vec<u8>, kind: Kind, number: f64) {
    match kind {
        Kind::F64 => out.extend(number.to_le_bytes()),
        _ => out.extend((number as f32).to_le_bytes()),
    }
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    put_kind(out, value.kind());
    match value {
        Value::Number(kind, number) => put_number(out, *kind, *number),
        Value::Float(kind, number) => put_float(out, *kind, *number),
        Value::Text(text) => put_text(out, text.as_bytes()),
        Value::List(List { of, length, numbers, floats, texts }) => {
            put_kind(out, *of);
            out.extend(length.to_le_bytes());
            numbers.iter().for_each(|number| put_number(out, *of, *number));
            floats.iter().for_each(|number| put_float(out, *of, *number));
            texts.iter().for_each(|text| put_text(out, text));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use fixtures::{Family, Weights};

    use super::*;
    use crate::gguf::reader::read_header;

    fn header(family: Family) -> Header {
        read_header(Cursor::new(family.gguf(Weights::F16, 1).unwrap())).unwrap()
    }

    /// The outline, read again by the reader of files: its weights are zeros.
    fn read_again(outline: &Outline) -> Header {
        let mut file = outline.header.clone();
        file.resize(file.len() + outline.weights as usize, 0);
        read_header(Cursor::new(file)).unwrap()
    }

    #[test]
    fn everything_but_the_vocabulary_is_there() {
        for family in Family::ALL {
            let header = header(*family);
            let again = read_again(&Outline::of(&header, 512).unwrap());
            assert_eq!(again.tensors, header.tensors, "{family}");
            for (key, value) in &header.metadata {
                let kept = again.metadata.get(key);
                if !key.starts_with("tokenizer.") && key != "general.alignment" && !key.ends_with(".vocab_size") {
                    assert_eq!(kept, Some(value), "{family}: {key}");
                }
            }
            assert_eq!(again.text("tokenizer.ggml.model"), Some("none"));
            let size = format!("{}.vocab_size", again.text("general.architecture").unwrap());
            assert_eq!(again.number(&size, Kind::U32), Some(512), "{family}");
        }
    }

    #[test]
    fn lists_come_back_as_they_were() {
        let mut header = header(Family::Llama);
        let list = |of| List { of, length: 2, numbers: Vec::new(), floats: Vec::new(), texts: Vec::new() };
        let lists = [
            List { numbers: vec![-3, 7], ..list(Kind::I16) },
            List { numbers: vec![0, 1], ..list(Kind::Bool) },
            List { floats: vec![0.5, -2.0], ..list(Kind::F32) },
            List { floats: vec![0.1, 1e300], ..list(Kind::F64) },
            List { texts: vec![b"good".to_vec(), b"".to_vec()], ..list(Kind::Text) },
        ];
        for (index, list) in lists.iter().enumerate() {
            header.metadata.insert(format!("llama.list{index}"), Value::List(list.clone()));
        }
        // Not whole: what was not kept cannot be written.
        let cut = List { length: 5000, ..list(Kind::I32) };
        header.metadata.insert("llama.cut".to_owned(), Value::List(cut));
        header.metadata.insert("general.description".to_owned(), Value::Text("a".repeat(5000)));
        let again = read_again(&Outline::of(&header, 512).unwrap());
        for (index, list) in lists.into_iter().enumerate() {
            assert_eq!(again.metadata.get(&format!("llama.list{index}")), Some(&Value::List(list)));
        }
        assert!(!again.metadata.contains_key("llama.cut") && !again.metadata.contains_key("general.description"));
    }

    #[test]
    fn tensors_of_no_file_are_of_32_bits() {
        let header = header(Family::Llama);
        let outline = Outline::of_shapes(&header, &header.shapes(), 512).unwrap();
        let again = read_again(&outline);
        assert_eq!(again.shapes(), header.shapes());
        assert!(again.tensors.iter().all(|tensor| tensor.format == F32));
    }
}
