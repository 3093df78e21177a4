//! Adapters and control vectors.

use thiserror::Error;

use crate::error::model::LoadError;

/// Why an adapter was not loaded, or not set. The context is as it was.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// The file cannot be used, whatever is in it.
    #[error(transparent)]
    File(#[from] LoadError),
    /// A metadata value that is missing, of another type, or not what an adapter of this model says.
    #[error("the adapter's {key} is {found}, {expected} is needed for this model")]
    Metadata {
        /// The metadata key.
        key: &'static str,
        /// What is needed.
        expected: String,
        /// What the file has.
        found: String,
    },
    /// A tensor that is neither half of a pair.
    #[error("the adapter's tensor {tensor} is neither a lora_a nor a lora_b")]
    UnknownTensor {
        /// Its name.
        tensor: String,
    },
    /// Half of a pair.
    #[error("the adapter has no {missing} for {tensor}")]
    HalfAPair {
        /// The matrix that it would adapt.
        tensor: String,
        /// Which half is missing.
        missing: &'static str,
    },
    /// The model has no such matrix.
    #[error("the adapter is for {tensor}, which this model does not have")]
    NoSuchTensor {
        /// The matrix that it would adapt.
        tensor: String,
    },
    /// Shapes that do not go together.
    #[error("the adapter's pair for {tensor} has the shapes {a:?} and {b:?}, which do not fit its {of:?}")]
    Shape {
        /// The matrix that it would adapt.
        tensor: String,
        /// The matrix's shape, the length of a row first.
        of: Vec<u64>,
        /// The shape of `lora_a`.
        a: Vec<u64>,
        /// The shape of `lora_b`.
        b: Vec<u64>,
    },
    /// A format that products are not computed in.
    #[error("the adapter's tensor {tensor} is of ggml type {format}: F32, F16, BF16, Q8_0 and Q4_0 can be used")]
    Format {
        /// Its name.
        tensor: String,
        /// Its `enum ggml_type`.
        format: u32,
    },
    /// Weights with a scale of their own (NVFP4), which llama.cpp would multiply the adapter's part by as well.
    #[error("the adapter is for {tensor}, whose NVFP4 weights have a scale: llama.cpp cannot adapt them")]
    ScaledWeights {
        /// The matrix that it would adapt.
        tensor: String,
    },
    /// An adapted token embedding in a model whose output head is the same tensor.
    #[error(
        "the adapter is for the token embedding, which is this model's output head as well: llama.cpp cannot adapt it"
    )]
    TiedEmbedding,
    /// An adapter that would change nothing.
    #[error("the adapter holds nothing that llama.cpp would apply")]
    Nothing,
    /// The model's tensors are not known, as those of a model without weights.
    #[error("the model was loaded with vocab_only: it has no weights to adapt")]
    VocabularyOnly,
    /// The adapter was loaded for another model.
    #[error("adapter {index} was loaded for another model than the context's")]
    OtherModel {
        /// Its place in the list.
        index: usize,
    },
    /// An adapter that is named twice: its scales would not add up.
    #[error("adapters {first} and {second} are the same one: name it once, with the sum of the scales")]
    Twice {
        /// Where it is named first.
        first: usize,
        /// Where it is named again.
        second: usize,
    },
    /// A scale that is not a number.
    #[error("the scale of adapter {index} is {scale}, it must be finite")]
    Scale {
        /// Its place in the list.
        index: usize,
        /// What was given.
        scale: f32,
    },
    /// llama.cpp refused or threw.
    #[error("llama.cpp failed: {reason}")]
    Failed {
        /// What it logged or threw.
        reason: String,
    },
}

/// Why a control vector was not set. The context is as it was.
#[derive(Debug, Error, Clone, PartialEq)]
#[non_exhaustive]
pub enum ControlVectorError {
    /// Numbers that are not one for each of the model's width in each layer but the first.
    #[error(
        "the directions have {got} numbers, {expected} are needed: {width} for each of the layers 1 to {last_layer}"
    )]
    Length {
        /// Numbers given.
        got: usize,
        /// Numbers needed.
        expected: usize,
        /// Width of the model.
        width: u32,
        /// Last layer of the model.
        last_layer: u32,
    },
    /// Layers that the model does not have, or none.
    #[error("the layers {first} to {last} are not within 1 to {last_layer}: the first layer has no direction")]
    Layers {
        /// First layer asked for.
        first: u32,
        /// Last layer asked for.
        last: u32,
        /// Last layer of the model.
        last_layer: u32,
    },
    /// A direction that is not a number throughout.
    #[error("the directions' number {index} is {value}")]
    NotFinite {
        /// Which of the numbers.
        index: usize,
        /// What it is.
        value: f32,
    },
    /// llama.cpp computes this architecture without looking at a control vector.
    #[error("llama.cpp applies no control vector to models of architecture {architecture}")]
    NotApplied {
        /// The model's `general.architecture`.
        architecture: String,
    },
    /// llama.cpp refused or threw.
    #[error("llama.cpp failed: {reason}")]
    Failed {
        /// What it logged or threw.
        reason: String,
    },
}
