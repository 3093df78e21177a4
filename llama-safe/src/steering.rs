//! What a context computes with besides its model's weights: adapters and a control vector.

use std::ops::RangeInclusive;

use llama_sys as sys;

use crate::context::Context;
use crate::error::{AdapterError, ControlVectorError};
use crate::fingerprint::Fingerprint;
use crate::log;
use crate::model::adapter::Adapter;

/// Architectures whose computation never looks at a control vector: those whose graph (src/models) does not call
/// `build_cvec`.
const NO_CONTROL_VECTOR: [&str; 15] = [
    "bert",
    "clef",
    "dflash",
    "eagle3",
    "eurobert",
    "gemma4-assistant",
    "hy_v4",
    "jina-bert-v2",
    "jina-bert-v3",
    "modern-bert",
    "neo-bert",
    "nomic-bert",
    "nomic-bert-moe",
    "plamo2",
    "wavtokenizer-dec",
];

impl Context {
    /// Computes with these adapters from now on, each with its scale (1 is as it was trained), and with no others. An empty
    /// list takes all of them off.
    ///
    /// What is in memory stays as it was computed: a sequence that began under other adapters goes on with keys and
    /// values of both. [Clear](Context::clear) it, or use sequences of their own, where that is not meant.
    ///
    /// The next decode prepares the computation anew, which takes longer than a decode.
    ///
    /// # Errors
    ///
    /// [`AdapterError`]: an adapter of another model, one that is named twice, or a scale that is not finite.
    ///
    /// ```compile_fail,E0308
    /// // Each adapter has its scale.
    /// fn without_scales(mut context: llama_safe::Context, adapter: &llama_safe::Adapter) {
    ///     context.set_adapters(&[adapter]).unwrap();
    /// }
    /// ```
    pub fn set_adapters(&mut self, adapters: &[(&Adapter, f32)]) -> Result<(), AdapterError> {
        for (index, (adapter, scale)) in adapters.iter().enumerate() {
            if !self.model().is_same(adapter.model()) {
                return Err(AdapterError::OtherModel { index });
            }
            if !scale.is_finite() {
                return Err(AdapterError::Scale { index, scale: *scale });
            }
            // llama.cpp keeps the first of two scales.
            if let Some(first) = adapters[..index].iter().position(|(other, _)| other == adapter) {
                return Err(AdapterError::Twice { first, second: index });
            }
        }
        let mut pointers: Vec<_> = adapters.iter().map(|(adapter, _)| adapter.as_ptr()).collect();
        let mut scales: Vec<f32> = adapters.iter().map(|(_, scale)| *scale).collect();
        log::forget_errors();
        let code = sys::guarded(0, |result, error| {
            // SAFETY: the context and the adapters live, both lists have the same length, and llama.cpp copies them.
            // The adapters are kept alive below for as long as they are set.
            unsafe {
                sys::guard_llama_set_adapters_lora(
                    result,
                    error,
                    self.as_ptr(),
                    pointers.as_mut_ptr(),
                    pointers.len(),
                    scales.as_mut_ptr(),
                )
            }
        });
        // Whatever came of it, llama.cpp may hold the new ones.
        let kept = adapters.iter().map(|(adapter, scale)| ((*adapter).clone(), *scale));
        match code {
            Ok(0) => {
                self.steering.adapters = kept.collect();
                self.steering.reserve_pending = true;
                Ok(())
            }
            Ok(code) => Err(AdapterError::Failed { reason: log::errors_or(&format!("code {code}")) }),
            Err(reason) => {
                self.steering.adapters.extend(kept);
                self.steering.reserve_pending = true;
                Err(AdapterError::Failed { reason })
            }
        }
    }

    /// The adapters that are in use, with their scales.
    pub fn adapters(&self) -> impl ExactSizeIterator<Item = (&Adapter, f32)> {
        self.steering.adapters.iter().map(|(adapter, scale)| (adapter, *scale))
    }

    /// Adds a direction to the hidden state after each of `layers` from now on. The first layer is 0, and has none.
    ///
    /// `directions` has the model's width of numbers for each layer from 1 to the last, in that order, whether the layer
    /// is among `layers` or not.
    ///
    /// What is in memory stays as it was computed, as with [`set_adapters`](Self::set_adapters).
    ///
    /// # Errors
    ///
    /// [`ControlVectorError`]: another number of directions, layers that the model does not have, a number that is not
    /// finite, or an architecture that llama.cpp does not apply control vectors to.
    pub fn set_control_vector(
        &mut self,
        directions: &[f32],
        layers: RangeInclusive<u32>,
    ) -> Result<(), ControlVectorError> {
        let architecture = self.model().architecture();
        if NO_CONTROL_VECTOR.contains(&architecture.as_str()) {
            return Err(ControlVectorError::NotApplied { architecture });
        }
        let (width, last_layer) = (self.model().width(), self.model().layers().saturating_sub(1));
        let expected = width as usize * last_layer as usize;
        if directions.len() != expected {
            return Err(ControlVectorError::Length { got: directions.len(), expected, width, last_layer });
        }
        let (first, last) = (*layers.start(), *layers.end());
        if first == 0 || first > last || last > last_layer {
            return Err(ControlVectorError::Layers { first, last, last_layer });
        }
        if let Some((index, value)) = directions.iter().enumerate().find(|(_, number)| !number.is_finite()) {
            return Err(ControlVectorError::NotFinite { index, value: *value });
        }
        self.control_vector(directions, first as i32, last as i32)
    }

    /// Computes without a control vector from now on.
    ///
    /// # Errors
    ///
    /// [`ControlVectorError::Failed`] if llama.cpp throws.
    pub fn clear_control_vector(&mut self) -> Result<(), ControlVectorError> {
        self.control_vector(&[], -1, -1)
    }

    fn control_vector(&mut self, directions: &[f32], first: i32, last: i32) -> Result<(), ControlVectorError> {
        if self.steering.control_vector_failed {
            let reason = "an earlier control vector of this context could not be set up".to_owned();
            return Err(ControlVectorError::Failed { reason });
        }
        let data = if directions.is_empty() { std::ptr::null() } else { directions.as_ptr() };
        // A width fits: llama.cpp's own is an `int32_t`.
        let width = self.model().width() as i32;
        log::forget_errors();
        let code = sys::guarded(0, |result, error| {
            // SAFETY: the context lives, and `data` is NULL or has as many numbers as are told. llama.cpp copies them.
            unsafe {
                sys::guard_llama_set_adapter_cvec(
                    result,
                    error,
                    self.as_ptr(),
                    data,
                    directions.len(),
                    width,
                    first,
                    last,
                )
            }
        });
        self.steering.reserve_pending = true;
        let range = (i64::from(first) << 32 | i64::from(last)).to_le_bytes();
        let fingerprint = (!directions.is_empty()).then(|| Fingerprint::of_bytes(&range).with_numbers(directions));
        self.steering.control_vector = fingerprint;
        let failed = match code {
            Ok(0) => return Ok(()),
            Ok(code) => log::errors_or(&format!("code {code}")),
            Err(reason) => reason,
        };
        self.steering.control_vector_failed = true;
        Err(ControlVectorError::Failed { reason: failed })
    }
}
