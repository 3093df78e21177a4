//! llama.cpp for Rust, with batches that cannot crash.
//!
//! No program in safe Rust against this crate can make llama.cpp abort, segfault, throw into Rust, touch memory out of
//! bounds, or compute something else than what was asked. It gets a typed error with the numbers to act on, and the
//! context goes on working. What is outside of that: memory that the machine does not have; a model file that is cut or
//! overwritten while it is mapped ([`LoadMode::Read`] copies it); and a file made to mislead in a way that the checks before
//! loading do not know. Those are made from what llama.cpp takes on trust, and 100,000 mutations of files of the families
//! in `fixtures` get past neither them nor llama.cpp.
//!
//! # One call, several sequences
//!
//! ```
//! use llama_safe::{Context, ContextParams, Model, ModelParams, Sampler, Special};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let gguf = fixtures::Llama::tiny().gguf(fixtures::Weights::F16, 1)?;
//! # let model = Model::from_bytes(&gguf, &ModelParams::default())?;
//! # /*
//! let model = Model::load("model.gguf", &ModelParams::default())?;
//! # */
//! let mut context = Context::new(&model, &ContextParams::default().sequences(2))?;
//! let alice = context.new_sequence()?;
//! let bob = context.new_sequence()?;
//!
//! let mut batch = context.new_batch();
//! let a = batch.prompt(&alice, &model.tokenize("Once upon", Special::Bos)?)?;
//! let b = batch.prompt(&bob, &model.tokenize("The cat", Special::Bos)?)?;
//!
//! let outputs = context.decode(&mut batch)?;
//! let next_of_alice = Sampler::greedy().sample(outputs.get(a)?)?;
//! let next_of_bob = Sampler::greedy().sample(outputs.get(b)?)?;
//!
//! batch.push_output(&alice, next_of_alice)?;
//! batch.push_output(&bob, next_of_bob)?;
//! context.decode(&mut batch)?;
//! # Ok(())
//! # }
//! ```
//!
//! # Where to find what
//!
//! | to do | begin with |
//! |---|---|
//! | load a model, one in several files, one in memory | [`Model::load`], [`Model::load_splits`], [`Model::from_bytes`] |
//! | use other metadata than the file's | [`ModelParams::override_metadata`] |
//! | quantise a file; write a model | [`quantize()`]; [`Model::save`] |
//! | read a prompt that is longer than a batch | [`Batch::prompt`] |
//! | choose the next token | [`Sampler::chain`], [`Sampler::recommended`], [`Sampler::greedy`] |
//! | write a conversation as the model expects it | [`ChatTemplate`] |
//! | turn tokens into text as they come | [`Detokenizer`] |
//! | end a text: strings, tokens, length, a closure | [`StopConditions`], [`Stopper`] |
//! | probabilities of tokens | [`Outputs::logprobs`], [`LogProbs`] |
//! | hold what is generated to a grammar or JSON schema | [`Grammar`] |
//! | go back, copy, make room | [`Context::truncate`], [`Context::fork`], [`Context::shift`] |
//! | keep a sequence for later | [`Context::save`], [`State::write`], [`Context::restore`] |
//! | have requests of many threads answered, in batches | [`Engine`], [`Request`], [`Generation`] |
//! | vectors of texts; scores of documents | [`Embedder`]; [`Reranker`] |
//! | LoRA adapters; control vectors | [`Adapter`]; [`Context::set_control_vector`] |
//! | encoder-decoders (T5), diffusion models | [`Context::encode`] |
//! | parts of pictures (M-RoPE) | [`Place`], [`Batch::push_embedding_at`] |
//! | recurrent models that go back some tokens | [`ContextParams::rollback_tokens`] |
//! | sample inside the computation | [`Context::set_graph_sampler`] |
//! | stop a computation | [`Context::abort_handle`] |
//! | know what a context will take, and limit it | [`Model::estimate`], [`ContextParams::memory_limit`] |
//! | try a model that is new to you | [`verify()`] |
//! | find the fastest parameters for a machine and a model | [`Tuner`] |
//! | see what is computed in a slower way, or refused | [`Limits::fallback`], [`known_faults`] |
//!
//! # Who owns what
//!
//! ```text
//! Model ──Arc── weights            freed with the last Model and the last Context of it
//!   ▲
//! Context ───── llama_context      owns the pointer; Send, not Sync
//!   ▲  ▲
//!   │  └─ Outputs<'_>              borrow the context: gone before the next decode
//!   │ Sequence                     leases of its slots, checked when used
//!   │ Batch                        owns its arrays, lends them to C for one call
//! ```
//!
//! # What each module is for, from the ground up
//!
//! Errors, ids and places; the limits of a context; batch rows, sequence slots, the packing of texts into batches, the texts
//! that an encoder was given, probabilities, sets and trees of tokens, the rules for model files and the bytes of saved
//! states (all without `unsafe`); the start of llama.cpp, its log, and parameters; model, vocabulary, and where a text ends;
//! chat templates, grammars and context; sequences, their memory, and saving it; batches and outputs; sampling; embeddings
//! and scores of many texts, and the engine. A module uses only those before it.

// Floor 1.
mod error;
mod id;
mod limits;
mod place;
// Floor 2.
mod columns;
mod encoded;
mod fingerprint;
mod gguf;
mod graph_sampler;
mod logprobs;
mod memory_use;
mod packing;
mod panics;
mod pool;
mod quirks;
mod reach;
mod rows;
mod saved;
#[cfg(feature = "grammar")]
mod token_set;
#[cfg(feature = "grammar")]
mod token_trie;
mod whole_file;
// Floor 3.
mod backend;
mod graph_chain;
mod log;
mod memory_file;
mod params;
mod scan;
// Floor 4.
mod detokenizer;
mod kernels;
mod model;
mod stop;
mod vocab;
// Floor 5.
#[cfg(feature = "chat")]
mod chat;
mod context;
mod forecast;
#[cfg(feature = "grammar")]
mod grammar;
// Floor 6.
mod footprint;
mod graph_sampling;
mod memory;
mod sequence;
mod state;
mod steering;
// Floor 7.
mod batch;
mod outputs;
// Floor 8.
mod sampled;
mod sampling;
// Floor 9.
mod embedder;
mod verify;
// Floor 10.
mod engine;
mod reranker;
// Floor 11.
mod tuner;

pub use backend::{Device, DeviceKind, devices, llama_cpp_version, system_info};
pub use batch::Batch;
#[cfg(feature = "chat")]
pub use chat::{ChatOptions, ChatTemplate, Message, ToolCall};
pub use context::{AbortHandle, Context};
pub use detokenizer::Detokenizer;
pub use embedder::{Embedder, EmbedderParams, Embeddings};
#[doc(hidden)]
pub use engine::{Call, Fault};
pub use engine::{
    Canceller, Completion, Determinism, Embedding, EndReason, Engine, EngineBuilder, FallbackPolicy, Fallbacks,
    Generation, Piece, Request, Shutdown, Stats, StepCosts, Timings, TokenLogProbs, WhenFull, Workload,
};
#[cfg(feature = "chat")]
pub use error::ChatError;
#[cfg(feature = "grammar")]
pub use error::GrammarError;
pub use error::{
    AdapterError, ContextError, ControlVectorError, DecodeError, EmbedError, EngineError, GenerateError, GgufError,
    GraphSamplerError, LoadError, MemoryError, Obstacle, OutputError, OverrideError, PushError, QuantizeError,
    RequestError, SamplerParamError, SamplingError, SaveError, SequenceError, SplitError, StateError, StepCostsError,
    StopError, TunerError, VerifyError, VocabError,
};
pub use gguf::overrides::MetadataValue;
#[cfg(feature = "grammar")]
pub use grammar::{Grammar, GrammarState, Triggers};
pub use graph_sampler::{GraphChain, GraphSampler};
pub use id::{OutputSlot, SeqId, Token};
pub use kernels::kernels;
pub use limits::{Fallback, KvLayout, Limits, MemoryKind, Pooling};
pub use logprobs::{LogProbs, TokenLogProb};
pub use memory_use::{MemoryEstimate, MemoryUse};
pub use model::Model;
pub use model::adapter::Adapter;
pub use model::generated::TensorShape;
pub use model::quantize::{Quantization, QuantizeParams, quantize};
pub use outputs::Outputs;
pub use params::{ContextParams, FlashAttention, KvType, LoadMode, ModelParams};
pub use place::Place;
pub use quirks::known_faults;
pub use reranker::Reranker;
pub use sampled::GraphCandidates;
pub use sampling::{
    AdaptiveP, Candidate, Candidates, CustomSampler, Dry, Mirostat, MirostatV2, Penalties, Sampler, SamplerChain, Xtc,
};
pub use saved::{SavedSequence, State};
pub use sequence::Sequence;
pub use stop::{Progress, Step, StopConditions, StopReason, Stopper};
#[cfg(feature = "grammar")]
pub use token_set::TokenSet;
pub use tuner::{Measured, Tuned, Tuner};
pub use verify::{Feature, Outcome, Verification, verify};
pub use vocab::{Special, Vocab, VocabKind};
