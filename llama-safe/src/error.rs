//! Every error of this crate, with the numbers that are needed to act on it.

use std::ops::Range;
use std::path::PathBuf;

use thiserror::Error;

use crate::id::SeqId;
use crate::place::Place;

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

/// Why a context was not made.
#[derive(Debug, Error, Clone, PartialEq)]
#[non_exhaustive]
pub enum ContextError {
    /// No sequences, or more than llama.cpp has room for.
    #[error("a context has 1 to {max} sequences, {got} were asked for")]
    SequencesOutOfRange {
        /// What was asked for.
        got: u32,
        /// llama.cpp's maximum.
        max: u32,
    },
    /// A batch that holds no token.
    #[error("batch_tokens is 0: a batch must hold at least one token")]
    BatchTokensZero,
    /// A micro-batch that holds no token.
    #[error("micro_batch_tokens is 0: a micro-batch must hold at least one token")]
    MicroBatchTokensZero,
    /// A batch that has no room for one token of each sequence.
    #[error(
        "a batch of {batch_tokens} tokens has no room for one token of each of {sequences} sequences: \
         raise batch_tokens and context_tokens to {sequences} or more"
    )]
    BatchSmallerThanSequences {
        /// Tokens in a batch (never more than the context's).
        batch_tokens: u32,
        /// Sequences asked for.
        sequences: u32,
    },
    /// A number that llama.cpp's 32-bit arithmetic would overflow on.
    #[error("{what} is {got}, the most is {max}")]
    TooLarge {
        /// Which number.
        what: &'static str,
        /// What was asked for.
        got: u64,
        /// The most that is accepted.
        max: u64,
    },
    /// No threads, or more than ggml's thread pool holds.
    #[error("{got} threads were asked for, 1 to {max} are possible")]
    ThreadsOutOfRange {
        /// What was asked for.
        got: u32,
        /// ggml's maximum.
        max: u32,
    },
    /// More snapshots of a recurrent state than one pass can write.
    #[error("rollback_tokens is {got}: with this batch_tokens and micro_batch_tokens the most is {max}")]
    RollbackOutOfRange {
        /// What was asked for.
        got: u32,
        /// The most, two less than the tokens of a pass.
        max: u32,
    },
    /// Snapshots of a recurrent state that cannot be taken, or not rightly.
    #[error("rollback_tokens cannot be had with architecture {architecture}: {reason}")]
    RollbackUnsupported {
        /// The model's `general.architecture`.
        architecture: String,
        /// What is in the way.
        reason: &'static str,
    },
    /// The model was loaded without its weights.
    #[error("the model was loaded with vocab_only: it has no weights to compute with")]
    VocabularyOnly,
    /// A kind of model that this version has no safe path for.
    #[error("models of architecture {architecture} are not supported: {reason}")]
    UnsupportedModel {
        /// The model's `general.architecture`.
        architecture: String,
        /// What is missing.
        reason: &'static str,
    },
    /// An architecture that llama.cpp computes wrong as soon as there are several sequences.
    #[error("models of architecture {architecture} can have one sequence, not {got}: {reason}")]
    OneSequence {
        /// The model's `general.architecture`.
        architecture: String,
        /// Sequences that were asked for.
        got: u32,
        /// What llama.cpp does wrong.
        reason: &'static str,
    },
    /// Pooling by rank for a model that is no reranker.
    #[error(
        "this model's pooling is not by rank, and that cannot be asked for: it takes a head that the model has not"
    )]
    NotReranker,
    /// A reranker without a head of as many outputs as it claims to have scores: llama.cpp would read other numbers.
    #[error(
        "this reranker has {scores} scores for each text, but its head leaves {width} numbers: \
         the file lacks its classification head, ask for another pooling"
    )]
    NoClassifier {
        /// Scores that llama.cpp would read.
        scores: u32,
        /// Numbers that the model computes.
        width: u32,
    },
    /// Pooling with an encoder-decoder, whose decoder attends to the encoder's output for each token.
    #[error(
        "the model's decoder needs the encoder's output for each token: leave the pooling to the model, or choose none"
    )]
    PooledEncoder,
    /// llama.cpp could not make the context, for want of memory as a rule.
    #[error("llama.cpp cannot make this context: {reason}")]
    Rejected {
        /// What llama.cpp logged or threw.
        reason: String,
    },
}

/// What is wrong with a sequence.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SequenceError {
    /// Every sequence of the context is leased.
    #[error("all {limit} sequences of this context are in use: drop one, or make the context with more")]
    NoFreeSlot {
        /// Sequences that the context was made with.
        limit: u32,
    },
    /// The sequence was dropped, or its context cleared it away.
    #[error("sequence {id} has been released")]
    Stale {
        /// The sequence.
        id: SeqId,
    },
    /// The sequence is of another context.
    #[error("sequence {id} belongs to another context")]
    Foreign {
        /// The sequence.
        id: SeqId,
    },
    /// A failed decode left it in a state that its kind of memory cannot undo.
    #[error(
        "sequence {id} was damaged by a failed decode and its memory cannot be rolled back: clear it, then decode it anew"
    )]
    Damaged {
        /// The sequence.
        id: SeqId,
    },
}

/// Why something was not added to a batch. The batch is as it was.
#[derive(Debug, Error, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum PushError {
    /// No room left.
    #[error("the batch holds {have} of {limit} tokens, {adding} more do not fit: decode first")]
    BatchFull {
        /// The most tokens it can hold.
        limit: u32,
        /// Tokens it holds.
        have: u32,
        /// Tokens that were to be added.
        adding: u64,
    },
    /// The model has no such token.
    #[error("token {token} is not in the vocabulary of {vocabulary} tokens")]
    TokenOutOfRange {
        /// The token's id.
        token: i32,
        /// Tokens of the vocabulary.
        vocabulary: u32,
    },
    /// Nothing was given where at least one token is needed.
    #[error("no tokens were given: a prompt has at least one")]
    NoTokens,
    /// The sequence cannot be used.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// The sequence would outgrow its share of the context.
    #[error(
        "sequence {id} holds {length} tokens with this batch, {adding} more exceed its {limit}: \
         shift or clear it, or make the context larger"
    )]
    SequenceFull {
        /// The sequence.
        id: SeqId,
        /// Tokens in memory and in this batch.
        length: u32,
        /// Tokens that were to be added.
        adding: u64,
        /// The most that one sequence can hold.
        limit: u32,
    },
    /// A token for a batch of embeddings.
    #[error("this batch takes embeddings: use new_batch() for tokens")]
    TakesEmbeddings,
    /// An embedding for a batch of tokens.
    #[error("this batch takes tokens: use new_embedding_batch() for embeddings")]
    TakesTokens,
    /// An embedding of another width than the model's.
    #[error("the embedding has {got} numbers, the model's input has {expected}")]
    EmbeddingWidth {
        /// Numbers given.
        got: usize,
        /// Numbers that the model reads for each token.
        expected: u32,
    },
    /// Mean and class pooling see the tokens of one decode alone.
    #[error(
        "sequence {id} holds {length} tokens already, and its pooled embedding would leave them out: clear it first"
    )]
    PooledAcrossDecodes {
        /// The sequence.
        id: SeqId,
        /// Its length.
        length: u32,
    },
    /// A place for an embedding of a model that has none.
    #[error("an embedding of this model has one position, which follows from its sequence: use push_embedding()")]
    OnePosition,
    /// A place before what the sequence holds in memory.
    #[error("sequence {id} holds everything before time {first}, and the embedding is for {place:?}")]
    PlaceInThePast {
        /// The sequence.
        id: SeqId,
        /// What was given.
        place: Place,
        /// The first time that is free.
        first: u32,
    },
    /// A place that does not come after the one before: by time, then height, then width.
    #[error("the place {place:?} does not come after {after:?} of the same sequence {id}, by time, height and width")]
    PlaceOutOfOrder {
        /// The sequence.
        id: SeqId,
        /// What was given.
        place: Place,
        /// That of the sequence's last embedding in the batch.
        after: Place,
    },
    /// A place of which a number is beyond the sequence's share of the context.
    #[error("the place {place:?} for sequence {id} has a number that is not below {limit}: make the context larger")]
    PlaceBeyondContext {
        /// The sequence.
        id: SeqId,
        /// What was given.
        place: Place,
        /// The most tokens of a sequence.
        limit: u32,
    },
    /// Models with another number of positions than 1 or 4, which llama.cpp does not have.
    #[error("this model gives each embedding {positions} positions, which this batch cannot carry")]
    SeveralPositions {
        /// Positions of an embedding.
        positions: u32,
    },
    /// An embedding that is not a number throughout.
    #[error("the embedding's number {index} is {value}")]
    EmbeddingNotFinite {
        /// Which of its numbers.
        index: usize,
        /// What it is.
        value: f32,
    },
}

/// Why a batch was not computed.
#[derive(Debug, Error, Clone, PartialEq)]
#[non_exhaustive]
pub enum DecodeError {
    /// Nothing to do.
    #[error("the batch is empty")]
    EmptyBatch,
    /// The batch was made by another context.
    #[error("the batch was made by another context")]
    ForeignBatch,
    /// A sequence of the batch cannot be used any more.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// A sequence was changed after its tokens were pushed, so that their positions are wrong.
    #[error(
        "sequence {id} held {expected} tokens when the batch was filled and holds {found} now: clear and refill the batch"
    )]
    SequenceChanged {
        /// The sequence.
        id: SeqId,
        /// Its length when it was pushed.
        expected: u32,
        /// Its length now.
        found: u32,
    },
    /// The context's memory is full. It is as it was before the call.
    #[error(
        "no room in the context's {context_tokens} cells for {tokens} tokens: \
         drop, truncate or shift sequences, or decode fewer"
    )]
    NoSlot {
        /// Tokens of the batch.
        tokens: u32,
        /// Cells of the context.
        context_tokens: u32,
    },
    /// `encode` on a model without an encoder.
    #[error("this model has no encoder: use decode()")]
    NoEncoder,
    /// `decode` on a model that only encodes, or on a diffusion model.
    #[error("this model computes without memory: use encode()")]
    NoDecoder,
    /// A sequence of an encoder-decoder that the last encoding does not have, so that its decoder would see no text.
    #[error(
        "sequence {id} was not encoded, or another encoding has replaced the one that it was in: \
         encode() its text again, with those of all sequences that are to go on"
    )]
    NotEncoded {
        /// The sequence.
        id: SeqId,
    },
    /// Another text for a sequence that holds tokens already, which were decoded with the first one in view.
    #[error(
        "the {length} tokens of sequence {id} were decoded from another text: clear it first, or encode the same text"
    )]
    EncodedOtherwise {
        /// The sequence.
        id: SeqId,
        /// Its length.
        length: u32,
    },
    /// `decode` with a batch of texts to be encoded.
    #[error("this batch holds texts for the encoder: use encode(), and new_batch() for what is decoded")]
    NotForDecoder,
    /// `encode` with a batch of tokens to be decoded.
    #[error("this batch holds tokens for the decoder: use decode(), and new_encoder_batch() for what is encoded")]
    NotForEncoder,
    /// An abort handle was used. Memory was rolled back but for the sequences listed.
    #[error("the computation was aborted; sequences that could not be rolled back: {damaged:?}")]
    Aborted {
        /// Sequences that must be cleared before their next use.
        damaged: Vec<SeqId>,
    },
    /// The computation failed. Memory was rolled back but for the sequences listed.
    #[error("llama.cpp failed to compute the batch ({reason}); sequences that could not be rolled back: {damaged:?}")]
    Failed {
        /// llama.cpp's code, its log or its exception.
        reason: String,
        /// Sequences that must be cleared before their next use.
        damaged: Vec<SeqId>,
    },
    /// llama.cpp found the batch malformed, which the checks made before should have found. Memory is as it was.
    #[error("llama.cpp refused the batch: {reason}")]
    Rejected {
        /// What llama.cpp logged.
        reason: String,
    },
}

/// Why an output was not given.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutputError {
    /// The slot is of a batch that is not the one decoded last.
    #[error("this output was promised by another batch than the one decoded last: read outputs before the next decode")]
    OtherDecode,
    /// The context computes embeddings, or the model has no output head.
    #[error("this context computes no logits: make it without embeddings(true), for a model that has a decoder")]
    NoLogits,
    /// The context does not compute embeddings.
    #[error("this context computes no embeddings: make it with embeddings(true)")]
    NoEmbeddings,
    /// The context pools: there is one embedding a sequence, not one a token.
    #[error("this context pools embeddings by sequence: use sequence_embedding()")]
    Pooled,
    /// The context does not pool: there is one embedding a token.
    #[error("this context does not pool embeddings: use embedding(), or choose a pooling for the context")]
    NotPooled,
    /// The sequence had no token in the batch.
    #[error("sequence {id} had no token in the batch decoded last")]
    SequenceNotInBatch {
        /// The sequence.
        id: SeqId,
    },
    /// llama.cpp has no such row, which the checks made before should have found.
    #[error("llama.cpp has no output for row {row}")]
    Missing {
        /// The token's place in the batch.
        row: u32,
    },
    /// The computation overflowed. The numbers that it left in memory are multiplied with whatever a mask hides, and so
    /// reach every sequence that shares cells with this one, and those that take its cells over.
    #[error(
        "the logits of row {row} are no numbers: a weight, an adapter, a control vector or an input is too large; \
         take it away, and clear_all() before anything else is decoded"
    )]
    NotNumbers {
        /// The token's place in the batch.
        row: u32,
    },
}

/// Why a memory cannot do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Obstacle {
    /// A recurrent state has no positions. With [`rollback_tokens`](crate::ContextParams::rollback_tokens) it can go back
    /// some tokens of the last decode, but be neither copied nor shifted there.
    #[error(
        "its recurrent state can go back {rollback} tokens now and no further: clear it, and decode what is to stay"
    )]
    State {
        /// Tokens that it can go back now.
        rollback: u32,
    },
    /// A recurrent state that was taken back, and is another's only once it was decoded.
    #[error("its recurrent state was taken back, and takes effect with its next decode: decode it first")]
    TakenBack,
    /// Two sequences with one recurrent state, as forks have before the next decode.
    #[error("a fork has the same recurrent state: decode one of them first, or clear it")]
    SharedState,
    /// A sliding window has forgotten what would be looked back on.
    #[error(
        "its sliding window of {window} tokens has forgotten what came before position {first}:          make the context with keep_past_window(true), or clear the sequence and decode what is to stay"
    )]
    Forgotten {
        /// The first position still held.
        first: u32,
        /// Tokens that a layer with a window looks back on.
        window: u32,
    },
    /// Embeddings at [places](crate::Place) of their own, of which several may have one position.
    #[error(
        "embeddings before position {end} have places of their own and cannot be told apart: go back to {end} or to 0"
    )]
    Placed {
        /// The first position after them.
        end: u32,
    },
    /// Layers with a sliding window, of which llama.cpp forgets too much once a sequence was shifted.
    #[error(
        "its layers with a sliding window of {window} tokens forget too much after a shift: \
         clear it, and decode what is to stay"
    )]
    Window {
        /// Tokens that a layer with a window looks back on.
        window: u32,
    },
    /// Positions that are several numbers each, or learned.
    #[error("positions of this model cannot be renumbered: clear it, and decode what is to stay")]
    Positions,
}

/// Why an operation on a sequence's memory was not done. Memory is as it was.
#[derive(Debug, Error, Clone, PartialEq)]
#[non_exhaustive]
pub enum MemoryError {
    /// The sequence cannot be used.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// Positions that the sequence does not have.
    #[error("sequence {id} holds {length} tokens, {asked:?} is not within it")]
    OutOfRange {
        /// The sequence.
        id: SeqId,
        /// What was asked for.
        asked: Range<u32>,
        /// Its length.
        length: u32,
    },
    /// The memory cannot forget what comes after the first `length` tokens of a sequence.
    #[error("sequence {id} cannot go back to {length} tokens: {obstacle}")]
    CannotTruncate {
        /// The sequence.
        id: SeqId,
        /// The length that was asked for.
        length: u32,
        /// What is in the way, and what to do about it.
        obstacle: Obstacle,
    },
    /// The memory cannot copy the first `length` tokens of a sequence.
    #[error("the first {length} tokens of sequence {id} cannot be forked: {obstacle}")]
    CannotFork {
        /// The sequence.
        id: SeqId,
        /// The length that was asked for.
        length: u32,
        /// What is in the way, and what to do about it.
        obstacle: Obstacle,
    },
    /// The memory cannot renumber positions.
    #[error("sequence {id} cannot be shifted: {obstacle}")]
    CannotShift {
        /// The sequence.
        id: SeqId,
        /// What is in the way, and what to do about it.
        obstacle: Obstacle,
    },
    /// Cells of this sequence belong to others as well, which a shift would renumber too.
    #[error("sequence {id} shares cells with a fork on the unified cache: shifting it would move the fork's positions")]
    SharedCells {
        /// The sequence.
        id: SeqId,
    },
    /// The model keeps no memory between calls.
    #[error("this model keeps no memory of sequences")]
    NoMemory,
    /// A C++ exception.
    #[error("llama.cpp failed: {reason}")]
    Failed {
        /// The exception's text.
        reason: String,
    },
}

/// Why a state was not saved, read or restored. The context is as it was, but for outputs, which may be gone.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StateError {
    /// A sequence cannot be used, or there is no slot for one.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// The model keeps no memory between calls.
    #[error("this model is an encoder: it keeps no memory of sequences that could be saved")]
    NoMemory,
    /// A kind of memory whose states have no checked way out and in.
    #[error("states of architecture {architecture} cannot be saved: {reason}")]
    Unsupported {
        /// The model's `general.architecture`.
        architecture: String,
        /// Why.
        reason: &'static str,
    },
    /// A shift or a copy is carried out by the next decode, and there is no room to make one.
    #[error(
        "sequences were shifted or forked and not decoded since, and there is no free sequence to carry that out with: \
         decode, or drop a sequence, before saving"
    )]
    Unsettled,
    /// The bytes are no saved state.
    #[error("this is no saved state: it begins with {found:02x?}")]
    NotAState {
        /// The first bytes.
        found: Vec<u8>,
    },
    /// Of another version of this crate.
    #[error("this state has format {found}, this version reads format {expected}")]
    Version {
        /// The state's.
        found: u32,
        /// This crate's.
        expected: u32,
    },
    /// Of a machine with another order of bytes.
    #[error("this state was saved on a machine with another byte order")]
    ByteOrder,
    /// Cut off, or longer than it was.
    #[error("this state has {got} bytes where {expected} were written: it was cut off or added to")]
    Length {
        /// Bytes that there are.
        got: u64,
        /// Bytes that its header tells of, or that the shortest state has.
        expected: u64,
    },
    /// A byte is not as it was written.
    #[error("the checksum of this state is wrong: it was altered")]
    Altered,
    /// Of other weights or other metadata.
    #[error("this state was saved with another model")]
    OtherModel,
    /// With other adapters, at another scale, or with another control vector.
    #[error("this state was saved with other adapters or another control vector than are in use now")]
    OtherAdapters,
    /// Of another llama.cpp, whose states have no version.
    #[error("this state was saved with llama.cpp {found}, this is {expected}: decode the text again")]
    OtherLlamaCpp {
        /// The state's.
        found: String,
        /// The one in use.
        expected: String,
    },
    /// The memory of the context is of another kind, or stores other numbers, or in another order.
    #[error(
        "this state has {what} {found}, the context has {expected}: make it with the parameters of the one that saved"
    )]
    OtherContext {
        /// Which parameter.
        what: &'static str,
        /// The state's.
        found: i64,
        /// The context's.
        expected: i64,
    },
    /// One sequence was asked for.
    #[error("this state holds {found} sequences, one was asked for: use restore_all()")]
    SeveralSequences {
        /// Sequences of the state.
        found: usize,
    },
    /// The context has not enough free sequences.
    #[error("this state holds {needed} sequences, the context has {free} free: drop some, or make it with more")]
    NotEnoughSequences {
        /// Sequences of the state.
        needed: usize,
        /// Those that are not leased.
        free: usize,
    },
    /// Longer than a sequence of this context can be.
    #[error("a sequence of this state has {length} tokens, one of this context holds {limit}: make the context larger")]
    TooLong {
        /// Tokens of the state's sequence.
        length: u32,
        /// The most that one sequence can hold.
        limit: u32,
    },
    /// The context's cells are in use.
    #[error("no room in the context's {context_tokens} cells for {tokens} tokens: drop, truncate or shift sequences")]
    NoRoom {
        /// Tokens that were to be restored.
        tokens: u64,
        /// Cells of the context.
        context_tokens: u32,
    },
    /// Bytes that no context like this one writes, with a checksum that fits them.
    #[error("this state is malformed at byte {at} of a sequence: {what}")]
    Malformed {
        /// Where.
        at: u64,
        /// What should stand there.
        what: &'static str,
    },
    /// Numbers that would reach other sequences.
    #[error("numbers at byte {at} of a sequence's state are not finite, or close to it: the computation had failed")]
    NotFinite {
        /// Where they begin.
        at: u64,
    },
    /// llama.cpp failed, or refused what the checks made before have passed.
    #[error("llama.cpp failed: {reason}")]
    Failed {
        /// What llama.cpp logged or threw.
        reason: String,
    },
    /// More than memory holds.
    #[error("a state of {bytes} bytes does not fit into memory")]
    TooLarge {
        /// Bytes of the state.
        bytes: u64,
    },
    /// The file cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// The path that was given.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The file was not written. What was there before is still there.
    #[error("{} was not written: {source}", path.display())]
    NotWritten {
        /// The path that was given.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
}

/// Why text or tokens were not converted.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum VocabError {
    /// The model file has no vocabulary.
    #[error("this model has no vocabulary: it takes and gives token ids only")]
    NoVocabulary,
    /// The vocabulary has no such token.
    #[error("token {token} is not in the vocabulary of {vocabulary} tokens")]
    TokenOutOfRange {
        /// The token's id.
        token: i32,
        /// Tokens of the vocabulary.
        vocabulary: u32,
    },
    /// The vocabulary is told to add a token that it does not have.
    #[error("this vocabulary wants a {name} token around a text and has none: tokenize with Special::None")]
    NoSuchSpecial {
        /// Which one.
        name: &'static str,
    },
    /// More than llama.cpp's 32-bit lengths can tell.
    #[error("{got} {unit} are too many, the most is {max}")]
    TooLong {
        /// What was given.
        got: usize,
        /// The most.
        max: usize,
        /// Bytes or tokens.
        unit: &'static str,
    },
    /// A C++ exception.
    #[error("llama.cpp failed: {reason}")]
    Failed {
        /// The exception's text.
        reason: String,
    },
}

/// Why no token was sampled.
#[derive(Debug, Error, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum SamplingError {
    /// A temperature that is not a positive number.
    #[error("the temperature is {got}, it must be above 0 and finite: use greedy() for the most likely token")]
    Temperature {
        /// What was given.
        got: f32,
    },
    /// There is nothing to choose from.
    #[error("no logits were given")]
    NoLogits,
    /// A logit that cannot be compared.
    #[error("the logit of token {token} is {value}: the model's computation has failed")]
    NotFinite {
        /// The token.
        token: usize,
        /// Its logit.
        value: f32,
    },
    /// Every token is forbidden.
    #[error("every token's logit is minus infinity: nothing can be chosen")]
    NothingAllowed,
}

/// Why texts were not embedded, or documents not ranked. The embedder can be used again.
#[derive(Debug, Error, Clone, PartialEq)]
#[non_exhaustive]
pub enum EmbedError {
    /// The context for it was not made.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// A text was not tokenized.
    #[error("text {text}: {source}")]
    Vocab {
        /// Which of the texts or documents.
        text: usize,
        /// Why.
        source: VocabError,
    },
    /// The vocabulary lacks what every text or query needs.
    #[error(transparent)]
    Vocabulary(#[from] VocabError),
    /// There is nothing in it, or nothing that the vocabulary has tokens for.
    #[error("text {text} has no tokens: leave it out")]
    Empty {
        /// Which of the texts or documents.
        text: usize,
    },
    /// A query without tokens.
    #[error("the query has no tokens")]
    EmptyQuery,
    /// It does not fit into one batch, and pooling a part of it would be pooling another text.
    #[error(
        "text {text} has {tokens} tokens, at most {limit} are computed at once: \
         cut it, or raise batch_tokens as far as the model has positions"
    )]
    TooLong {
        /// Which of the texts or documents.
        text: usize,
        /// Its tokens, with those that the vocabulary adds; of a document, with the query's.
        tokens: usize,
        /// The most.
        limit: u32,
    },
    /// The model has no such token.
    #[error("text {text}: token {token} is not in the vocabulary of {vocabulary} tokens")]
    TokenOutOfRange {
        /// Which of the texts.
        text: usize,
        /// The token's id.
        token: i32,
        /// Tokens of the vocabulary.
        vocabulary: u32,
    },
    /// An embedding that is not a number throughout.
    #[error("number {index} of the embedding of text {text} is {value}: the model's computation has failed")]
    NotFinite {
        /// Which of the texts or documents.
        text: usize,
        /// Which number.
        index: usize,
        /// What it is.
        value: f32,
    },
    /// A model that scores pairs.
    #[error("this model ranks documents for a query: use Reranker, or ask for another pooling than the model's")]
    IsReranker,
    /// A model that does not score pairs.
    #[error("this model does not rank: its pooling is not by rank, use Embedder")]
    NotReranker,
    /// Nothing tells query and document apart.
    #[error(
        "this vocabulary puts no token between query and document, and the model has no template for them: \
         join them yourself and use scores_of_tokens()"
    )]
    NoSeparator,
    /// The texts did not go into a batch, which the checks made before should have prevented.
    #[error(transparent)]
    Push(#[from] PushError),
    /// A batch was not computed. What it holds is lost; the next call begins with empty sequences.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// An output was not found, which the checks made before should have prevented.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A sequence was not emptied.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A sequence was not leased.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
}

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

/// Why a model could not be verified.
#[derive(Debug, Error, Clone, PartialEq)]
#[non_exhaustive]
pub enum VerifyError {
    /// The parameters leave no room for the texts that are compared.
    #[error("a {what} has {has} tokens with these parameters, {needs} are needed to verify")]
    TooSmall {
        /// A sequence, batch or context.
        what: &'static str,
        /// Tokens that it has room for.
        has: u32,
        /// Tokens that the texts have.
        needs: u32,
    },
    /// A context cannot be made.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// A sequence cannot be had.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// A token cannot be given.
    #[error(transparent)]
    Push(#[from] PushError),
    /// A batch cannot be computed.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// An output cannot be read.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A memory operation failed.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}
