//! A GGUF file before its weights: header, metadata and directory, read within bounds and without reading a weight.
//!
//! llama.cpp's own reader refuses most of what is refused here. What this one adds is the number that is wrong, and what
//! the rules in `hparams` need: they know which values llama.cpp takes on trust.
#![forbid(unsafe_code)]

pub(crate) mod hparams;
pub(crate) mod lora;
pub(crate) mod outline;
pub(crate) mod overrides;
pub(crate) mod reader;
pub(crate) mod splits;
pub(crate) mod tokens;
pub(crate) mod weights;

use std::collections::HashMap;

/// The list of texts that is kept.
pub(crate) const TOKENS: &str = "tokenizer.ggml.tokens";

/// The type of a metadata value (`enum gguf_type`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    List,
    U64,
    I64,
    F64,
}

impl Kind {
    /// By number.
    pub(crate) const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::Text,
        Self::List,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// Bytes of one value; 0 where that depends on the value.
    pub(crate) fn bytes(self) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
            Self::Text | Self::List => 0,
        }
    }

    /// llama.cpp's name of it, but for lists.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::Text => "text",
            Self::List => "list",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        }
    }
}

/// A metadata value, as far as the rules need it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Value {
    /// Any whole number, or a truth value as 0 or 1.
    Number(Kind, i128),
    /// A float of either width.
    Float(Kind, f64),
    Text(String),
    List(List),
}

impl Value {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Number(kind, _) | Self::Float(kind, _) => *kind,
            Self::Text(_) => Kind::Text,
            Self::List(_) => Kind::List,
        }
    }
}

/// A list of values.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct List {
    /// What its elements are.
    pub(crate) of: Kind,
    pub(crate) length: u64,
    /// Its numbers, if they are whole or truth values and no more than [`MOST_NUMBERS_KEPT`]; else empty.
    pub(crate) numbers: Vec<i128>,
    /// Its floats, if they are no more than [`MOST_NUMBERS_KEPT`]; else empty.
    pub(crate) floats: Vec<f64>,
    /// Its texts up to the first NUL, which is where C stops reading; of [`TOKENS`], and of lists outside of the vocabulary
    /// that are no longer than [`MOST_NUMBERS_KEPT`].
    pub(crate) texts: Vec<Vec<u8>>,
}

/// An entry of the directory.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    /// ggml's order: the length of a row first; 1 where it has fewer dimensions.
    pub(crate) shape: [u64; 4],
    /// `enum ggml_type`.
    pub(crate) format: u32,
    /// The least and the largest of its numbers, if it holds ids.
    pub(crate) ids: Option<(i64, i64)>,
}

impl Tensor {
    /// Bytes of its weights; 0 of a format that no file has.
    pub(crate) fn bytes(&self) -> u64 {
        weights::tensor_bytes(&self.name, self.shape, self.format).unwrap_or(0)
    }
}

/// Shapes of tensors by name: the length of a row first, 1 where a tensor has fewer dimensions.
pub(crate) type Shapes = HashMap<String, [u64; 4]>;

/// What a file says before its weights.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Header {
    pub(crate) metadata: HashMap<String, Value>,
    pub(crate) tensors: Vec<Tensor>,
}

impl Header {
    /// The shapes of its tensors.
    pub(crate) fn shapes(&self) -> Shapes {
        self.tensors.iter().map(|tensor| (tensor.name.clone(), tensor.shape)).collect()
    }

    /// The value of a text, if the file has it as one.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        match self.metadata.get(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The value of a whole number of type `kind`, which is how llama.cpp reads it: another type is an exception there.
    pub(crate) fn number(&self, key: &str, kind: Kind) -> Option<i128> {
        match self.metadata.get(key) {
            Some(Value::Number(found, number)) if *found == kind => Some(*number),
            _ => None,
        }
    }
}
