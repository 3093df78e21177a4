//! Model files: reading, checking, writing.

use std::path::PathBuf;

use thiserror::Error;

use crate::error::gguf::GgufError;

/// Why a model was not loaded.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// There is no such file.
    #[error("there is no model file at {}", path.display())]
    NotFound {
        /// The path that was given.
        path: PathBuf,
    },
    /// The path names a folder.
    #[error("{} is a directory, a model is a GGUF file", path.display())]
    IsDirectory {
        /// The path that was given.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// The path that was given.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The path holds a NUL byte, which no file's name can.
    #[error("the path {path:?} holds a NUL byte")]
    PathHasNul {
        /// The path that was given.
        path: PathBuf,
    },
    /// The file or byte slice has nothing in it.
    #[error("the model is empty (0 bytes)")]
    Empty,
    /// The file or byte slice does not begin as a GGUF file does.
    #[error("not a GGUF file: it begins with {found:02x?}, GGUF begins with [47, 47, 55, 46]")]
    NotGguf {
        /// The first bytes, four at most.
        found: Vec<u8>,
    },
    /// The progress function asked to stop.
    #[error("loading was cancelled")]
    Cancelled,
    /// A memory file for the bytes could not be made.
    #[error("the model's bytes could not be handed to llama.cpp: {source}")]
    Buffer {
        /// What the operating system says.
        source: std::io::Error,
    },
    /// Metadata for a model whose weights come from a function announces tensors itself.
    #[error("the header announces {tensors} tensors: leave them out, llama.cpp derives them from the metadata")]
    HasTensors {
        /// Tensors of the header.
        tensors: usize,
    },
    /// The file is damaged, or says something that llama.cpp would take on trust and fail on.
    #[error("the model file cannot be used: {0}")]
    Malformed(#[from] GgufError),
    /// The files of a split model do not belong together.
    #[error("the files of a split model: {0}")]
    Split(#[from] SplitError),
    /// A metadata value cannot take the place of the file's.
    #[error("metadata override: {0}")]
    Override(#[from] OverrideError),
    /// llama.cpp refused the file: a tensor is missing or of another shape than the metadata says, or it does not know the
    /// architecture.
    #[error("llama.cpp cannot load this model: {reason}")]
    Rejected {
        /// What llama.cpp logged.
        reason: String,
    },
}

/// Why files are not the parts of one model. Parts are counted from 1, as in their names.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SplitError {
    /// The bytes are one part of several: the others can only be found as files.
    #[error("the bytes are one of {count} parts: load them as files")]
    InMemory {
        /// Parts of the model.
        count: u32,
    },
    /// The first file is not named so that the others can be found.
    #[error("{} is one of {count} parts and not named NAME-00001-of-{count:05}.gguf: use load_splits", path.display())]
    Name {
        /// The path that was given.
        path: PathBuf,
        /// Parts of the model.
        count: u32,
    },
    /// Too few or too many files.
    #[error("{given} files were given, the first is of {expected}")]
    Given {
        /// Files given.
        given: u32,
        /// Parts of the model.
        expected: u32,
    },
    /// A file stands where another part has to.
    #[error("{} has to be part {expected}, it says it is {found:?}", path.display())]
    Number {
        /// The file.
        path: PathBuf,
        /// Which part it has to be.
        expected: u32,
        /// Which part it says it is.
        found: Option<u32>,
    },
    /// A file is of a model in another number of parts.
    #[error("{} is one of {found:?} parts, the first file is one of {expected}", path.display())]
    Count {
        /// The file.
        path: PathBuf,
        /// Parts of the model.
        expected: u32,
        /// What the file says.
        found: Option<u32>,
    },
    /// A tensor stands in two files.
    #[error("tensor {tensor:?} of {} stands in another part as well", path.display())]
    TensorTwice {
        /// The later file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// There are not as many tensors as the first file says.
    #[error("the parts have {found} tensors, the first file says {expected}")]
    Tensors {
        /// Tensors of all files.
        found: usize,
        /// What the first file says.
        expected: i128,
    },
}

/// Why a metadata value was not replaced.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum OverrideError {
    /// A key without a letter.
    #[error("a key is empty")]
    EmptyKey,
    /// A key or text that llama.cpp has no room for.
    #[error("the {what} of {key:?} has {got} bytes, the most is {max}")]
    TooLong {
        /// The key.
        key: String,
        /// Key or value.
        what: &'static str,
        /// Its length.
        got: usize,
        /// The longest.
        max: usize,
    },
    /// A NUL byte, at which C would stop reading.
    #[error("the {what} of {key:?} holds a NUL byte")]
    Nul {
        /// The key.
        key: String,
        /// Key or value.
        what: &'static str,
    },
    /// A value of another type than the file's.
    #[error("{key:?} is {found} in the file, {given} was given")]
    Type {
        /// The key.
        key: String,
        /// What was given.
        given: &'static str,
        /// What the file has.
        found: &'static str,
    },
    /// llama.cpp did not look at it: nothing that it reads for this model has that key, or not as this type.
    #[error("llama.cpp does not read {key:?} of this type for this model")]
    NotRead {
        /// The key.
        key: String,
    },
}

/// Why a model was not written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SaveError {
    /// The model was loaded without its weights.
    #[error("the model was loaded with vocab_only: it has no weights to write")]
    VocabularyOnly,
    /// Its weights may have been rearranged for this processor, and cannot be read back.
    #[error("the weights may have been rearranged for this processor: load the model with repack(false) to save it")]
    Repacked,
    /// llama.cpp does not write all that this architecture needs.
    #[error("models of architecture {architecture} cannot be saved: {reason}")]
    Unsupported {
        /// The model's `general.architecture`.
        architecture: String,
        /// What is missing.
        reason: &'static str,
    },
    /// The path holds a NUL byte, which no file's name can.
    #[error("the path {path:?} holds a NUL byte")]
    PathHasNul {
        /// The path that was given.
        path: PathBuf,
    },
    /// The file cannot be made or named.
    #[error("{} cannot be written: {source}", path.display())]
    Unwritable {
        /// The path that was given.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// What was written is no whole model: for want of room as a rule.
    #[error("what llama.cpp wrote is no whole model: {0}")]
    Incomplete(LoadError),
    /// llama.cpp failed.
    #[error("llama.cpp cannot save this model: {reason}")]
    Failed {
        /// What it logged or threw.
        reason: String,
    },
}

/// Why a model was not quantised. The output is as it was.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum QuantizeError {
    /// The input is no model that can be read.
    #[error("the input: {0}")]
    Input(#[from] LoadError),
    /// Output and input are the same file, which would be read while it is overwritten.
    #[error("the output {} is the input", path.display())]
    OutputIsInput {
        /// The output's path.
        path: PathBuf,
    },
    /// No threads, or more than are sensible.
    #[error("{got} threads were asked for, 1 to {max} are possible")]
    ThreadsOutOfRange {
        /// What was asked for.
        got: u32,
        /// The most.
        max: u32,
    },
    /// The output cannot be written.
    #[error("the output: {0}")]
    Output(#[from] SaveError),
}
