//! What a model file says, before llama.cpp sees it.

use thiserror::Error;

/// What is wrong with a GGUF file, found before llama.cpp saw it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file ends too early.
    #[error("the file ends within {what}: at byte {offset} it needs {needed} more bytes and has {left}")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Where it begins.
        offset: u64,
        /// Bytes that it takes.
        needed: u64,
        /// Bytes that are left.
        left: u64,
    },
    /// The file cannot be read.
    #[error("it cannot be read: {source}")]
    Unreadable {
        /// What the operating system says.
        source: std::io::Error,
    },
    /// Its numbers are written most significant byte first.
    #[error("the file is big-endian, this machine is little-endian: convert it")]
    BigEndian,
    /// A version of the format that llama.cpp does not read.
    #[error("GGUF version {got}: versions 2 and 3 can be read")]
    Version {
        /// The file's version.
        got: u32,
    },
    /// More entries than the rest of the file could hold.
    #[error("{got} {what}: the rest of the file has room for {max}")]
    Count {
        /// Tensors or metadata pairs.
        what: &'static str,
        /// What the file says.
        got: u64,
        /// The most that fit.
        max: u64,
    },
    /// A text or name beyond its limit.
    #[error("{what} has {got} bytes, the most is {max}")]
    TooLong {
        /// What it is.
        what: &'static str,
        /// Its length.
        got: u64,
        /// The longest.
        max: u64,
    },
    /// A name that is empty, no UTF-8, or holds a NUL byte.
    #[error("{what} at byte {offset} is {found:?}: a name is UTF-8, not empty, and without NUL")]
    BadName {
        /// Key or tensor.
        what: &'static str,
        /// Where it stands.
        offset: u64,
        /// What stands there.
        found: String,
    },
    /// A key that stands twice.
    #[error("key {key:?} stands twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A value of a type that the format does not have.
    #[error("{key:?} is of type {got}, types go up to {max}")]
    UnknownType {
        /// The key.
        key: String,
        /// Its type's number.
        got: u32,
        /// The last type's number.
        max: u32,
    },
    /// A value of another type than the one it has to have.
    #[error("{key:?} is {found}, it has to be {expected}")]
    WrongType {
        /// The key.
        key: String,
        /// What it has to be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// A list that the file has no room for.
    #[error("the list {key:?} has {got} elements, there is room for {max}")]
    List {
        /// The key.
        key: String,
        /// Its length.
        got: u64,
        /// The most that fit.
        max: u64,
    },
    /// An alignment that is no power of two.
    #[error("general.alignment is {got}, it has to be a power of two")]
    Alignment {
        /// What it is.
        got: u64,
    },
    /// A tensor of too many dimensions.
    #[error("tensor {tensor:?} has {got} dimensions, the most is {max}")]
    Dimensions {
        /// The tensor.
        tensor: String,
        /// Its dimensions.
        got: u32,
        /// ggml's maximum.
        max: u32,
    },
    /// A tensor without values, or of more bytes than 63 bits can count.
    #[error("tensor {tensor:?} cannot be of shape {shape:?}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its shape, row length first.
        shape: [u64; 4],
    },
    /// A tensor of a format that ggml does not have, or has no more.
    #[error("tensor {tensor:?} is of type {got}, which ggml does not have")]
    Format {
        /// The tensor.
        tensor: String,
        /// Its format's number.
        got: u32,
    },
    /// A tensor in a format that its part of the model cannot be computed in.
    #[error("tensor {tensor:?} is of type {got}, it has to be {allowed}")]
    FormatOfRole {
        /// The tensor.
        tensor: String,
        /// Its format's number.
        got: u32,
        /// What it has to be.
        allowed: &'static str,
    },
    /// A tensor of ids that names what is not there.
    #[error("tensor {tensor:?} names number {got}, it may name 0 to {max}")]
    Id {
        /// The tensor.
        tensor: String,
        /// The id.
        got: i64,
        /// The largest there is; -1 if there are none.
        max: i64,
    },
    /// A tensor that is used and not there.
    #[error("models of architecture {architecture} need tensor {tensor:?}, which the file does not have")]
    MissingTensor {
        /// The architecture.
        architecture: String,
        /// The tensor.
        tensor: String,
    },
    /// A row that does not divide into its format's blocks.
    #[error("tensor {tensor:?} has rows of {row} values, its format has blocks of {block}")]
    Row {
        /// The tensor.
        tensor: String,
        /// Values of a row.
        row: u64,
        /// Values of a block.
        block: u64,
    },
    /// A tensor that stands twice.
    #[error("tensor {tensor:?} stands twice")]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
    },
    /// A tensor that does not follow on the one before.
    #[error("tensor {tensor:?} starts at {got} of the data, the one before ends at {expected}")]
    Offset {
        /// The tensor.
        tensor: String,
        /// Where it says that it starts.
        got: u64,
        /// Where it has to start.
        expected: u64,
    },
    /// A tensor beyond the file's end.
    #[error("tensor {tensor:?} ends at byte {end}, the file at {size}")]
    OutsideFile {
        /// The tensor.
        tensor: String,
        /// Its end.
        end: u64,
        /// The file's end.
        size: u64,
    },
    /// A number that llama.cpp would take on trust, and abort, crash or compute nonsense.
    #[error("{key:?} is {got}, it has to be {min} to {max}")]
    OutOfRange {
        /// The key.
        key: String,
        /// Its value.
        got: i128,
        /// The least.
        min: i128,
        /// The most.
        max: i128,
    },
    /// A number that does not divide by another.
    #[error("{key:?} is {got}, it has to be a multiple of {by} ({by_key:?})")]
    NotDivisible {
        /// The key.
        key: String,
        /// Its value.
        got: i128,
        /// The other key.
        by_key: String,
        /// The other key's value.
        by: i128,
    },
    /// A float that is no number, or not one that can be computed with.
    #[error("{key:?} is {got}: {reason}")]
    Float {
        /// The key.
        key: String,
        /// Its value.
        got: f64,
        /// What it has to be.
        reason: &'static str,
    },
    /// A text that is none of those that llama.cpp knows.
    #[error("{key:?} is {got:?}: {reason}")]
    UnknownText {
        /// The key.
        key: String,
        /// Its value.
        got: String,
        /// What it has to be.
        reason: &'static str,
    },
    /// A token that stands twice in the vocabulary.
    #[error("tokens {first} and {second} of the vocabulary are both {text:?}")]
    DuplicateToken {
        /// The token's text.
        text: String,
        /// Where it stands.
        first: usize,
        /// Where it stands again.
        second: usize,
    },
}
