//! How much memory a context will take, and takes.

use crate::context::{self, Context};
use crate::error::ContextError;
use crate::memory_use::{MemoryEstimate, MemoryUse};
use crate::model::Model;
use crate::params::ContextParams;

impl Model {
    /// How much memory a context with these parameters will take, without making one.
    ///
    /// llama.cpp itself is asked, of a copy of the model without weights and vocabulary, so that what counts is what it really
    /// does: how it rounds, which layers keep what, how its computation reuses memory. That takes a few thousandths of a second
    /// to some tenths, and little memory, with two exceptions that are given back at once: the recurrent states of all
    /// sequences, and one output for each.
    ///
    /// ```
    /// use llama_safe::{Context, ContextError, ContextParams, Model, ModelParams};
    ///
    /// # let gguf = fixtures::Llama::tiny().gguf(fixtures::Weights::F16, 1)?;
    /// # let model = Model::from_bytes(&gguf, &ModelParams::default())?;
    /// let params = ContextParams::default().sequences(8).context_tokens(8 * 512);
    /// let estimate = model.estimate(&params)?;
    /// println!("{}, {} bytes a token", estimate.resident(), estimate.kv_bytes_per_token());
    ///
    /// let too_little = estimate.resident().context() - 1;
    /// let refused = Context::new(&model, &params.clone().memory_limit(too_little));
    /// assert!(matches!(refused, Err(ContextError::MemoryLimit { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ContextError`], as [`Context::new`], but for [`ContextError::MemoryLimit`].
    pub fn estimate(&self, params: &ContextParams) -> Result<MemoryEstimate, ContextError> {
        context::estimate(self, params)
    }
}

impl Context {
    /// The memory that it holds now, with the weights of its model.
    ///
    /// # Errors
    ///
    /// [`ContextError::Rejected`]: no memory to count in.
    pub fn memory_used(&self) -> Result<MemoryUse, ContextError> {
        self.used().map_err(|reason| ContextError::Rejected { reason })
    }
}
