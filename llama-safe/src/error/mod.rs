//! Every error of this crate, with the numbers that are needed to act on it.

mod adapter;
mod batch;
mod context;
mod gguf;
#[cfg(feature = "grammar")]
mod grammar;
mod memory;
mod model;
mod state;
mod task;
mod text;

pub use adapter::{AdapterError, ControlVectorError};
pub use batch::{DecodeError, OutputError, PushError, SequenceError};
pub use context::ContextError;
pub use gguf::GgufError;
#[cfg(feature = "grammar")]
pub use grammar::GrammarError;
pub use memory::{MemoryError, Obstacle};
pub use model::{LoadError, OverrideError, QuantizeError, SaveError, SplitError};
pub use state::StateError;
pub use task::{EmbedError, VerifyError};
pub use text::{SamplingError, VocabError};
