//! Every error of this crate, with the numbers that are needed to act on it.

mod adapter;
mod batch;
#[cfg(feature = "chat")]
mod chat;
mod context;
mod engine;
mod gguf;
#[cfg(feature = "grammar")]
mod grammar;
mod graph;
mod memory;
mod model;
mod sampling;
mod state;
mod stop;
mod task;
mod text;
mod tuner;

pub use adapter::{AdapterError, ControlVectorError};
pub use batch::{DecodeError, OutputError, PushError, SequenceError};
#[cfg(feature = "chat")]
pub use chat::ChatError;
pub use context::ContextError;
pub use engine::{EngineError, GenerateError, RequestError, StepCostsError};
pub use gguf::GgufError;
#[cfg(feature = "grammar")]
pub use grammar::GrammarError;
pub use graph::GraphSamplerError;
pub use memory::{MemoryError, Obstacle};
pub use model::{LoadError, OverrideError, QuantizeError, SaveError, SplitError};
pub use sampling::{SamplerParamError, SamplingError};
pub use state::StateError;
pub use stop::StopError;
pub use task::{EmbedError, VerifyError};
pub use text::VocabError;
pub use tuner::TunerError;
