//! From a model file to one with smaller weights.

use std::path::Path;

use llama_sys as sys;

use crate::backend;
use crate::error::{QuantizeError, SaveError};
use crate::log;
use crate::model::file::{ModelFiles, check};
use crate::model::save::write_model;
use crate::params::ModelParams;

/// Threads of a quantisation. More only wait for each other.
const MOST_THREADS: u32 = 512;

/// What weights are stored as. Those that need statistics of a model's activations (an importance matrix) are not offered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Quantization {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// 16-bit floats with the range of 32-bit ones.
    Bf16,
    /// 8 bits, 8.5 with scales.
    Q8_0,
    /// 6 bits.
    Q6K,
    /// 5 bits, the most important matrices 6.
    Q5KMedium,
    /// 5 bits.
    Q5KSmall,
    /// 5 bits with an offset, in the older form.
    Q5_1,
    /// 5 bits, in the older form.
    Q5_0,
    /// 4 bits, the most important matrices 6: a usual choice.
    Q4KMedium,
    /// 4 bits, some matrices 5.
    Q4KSmall,
    /// 4 bits with an offset, in the older form.
    Q4_1,
    /// 4 bits, in the older form.
    Q4_0,
    /// 4 bits, not evenly spaced.
    Iq4Nl,
    /// 4 bits, not evenly spaced, smaller scales.
    Iq4Xs,
    /// 3 bits, the most important matrices 5.
    Q3KLarge,
    /// 3 bits, the most important matrices 4 or 5.
    Q3KMedium,
    /// 3 bits.
    Q3KSmall,
    /// 2 bits, the most important matrices 3 or 4.
    Q2K,
}

impl Quantization {
    /// All of them, largest first.
    pub const ALL: [Self; 19] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q8_0,
        Self::Q6K,
        Self::Q5KMedium,
        Self::Q5KSmall,
        Self::Q5_1,
        Self::Q5_0,
        Self::Q4KMedium,
        Self::Q4KSmall,
        Self::Q4_1,
        Self::Q4_0,
        Self::Iq4Nl,
        Self::Iq4Xs,
        Self::Q3KLarge,
        Self::Q3KMedium,
        Self::Q3KSmall,
        Self::Q2K,
    ];

    fn file_type(self) -> sys::llama_ftype {
        match self {
            Self::F32 => sys::LLAMA_FTYPE_ALL_F32,
            Self::F16 => sys::LLAMA_FTYPE_MOSTLY_F16,
            Self::Bf16 => sys::LLAMA_FTYPE_MOSTLY_BF16,
            Self::Q8_0 => sys::LLAMA_FTYPE_MOSTLY_Q8_0,
            Self::Q6K => sys::LLAMA_FTYPE_MOSTLY_Q6_K,
            Self::Q5KMedium => sys::LLAMA_FTYPE_MOSTLY_Q5_K_M,
            Self::Q5KSmall => sys::LLAMA_FTYPE_MOSTLY_Q5_K_S,
            Self::Q5_1 => sys::LLAMA_FTYPE_MOSTLY_Q5_1,
            Self::Q5_0 => sys::LLAMA_FTYPE_MOSTLY_Q5_0,
            Self::Q4KMedium => sys::LLAMA_FTYPE_MOSTLY_Q4_K_M,
            Self::Q4KSmall => sys::LLAMA_FTYPE_MOSTLY_Q4_K_S,
            Self::Q4_1 => sys::LLAMA_FTYPE_MOSTLY_Q4_1,
            Self::Q4_0 => sys::LLAMA_FTYPE_MOSTLY_Q4_0,
            Self::Iq4Nl => sys::LLAMA_FTYPE_MOSTLY_IQ4_NL,
            Self::Iq4Xs => sys::LLAMA_FTYPE_MOSTLY_IQ4_XS,
            Self::Q3KLarge => sys::LLAMA_FTYPE_MOSTLY_Q3_K_L,
            Self::Q3KMedium => sys::LLAMA_FTYPE_MOSTLY_Q3_K_M,
            Self::Q3KSmall => sys::LLAMA_FTYPE_MOSTLY_Q3_K_S,
            Self::Q2K => sys::LLAMA_FTYPE_MOSTLY_Q2_K,
        }
    }
}

/// How a model file is quantised.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QuantizeParams {
    to: Quantization,
    threads: Option<u32>,
    requantize: bool,
    quantize_output: bool,
    pure_format: bool,
}

impl QuantizeParams {
    /// To this format, on all cores, from floats only, the most important matrices in larger formats as llama.cpp sees fit.
    #[must_use]
    pub fn new(to: Quantization) -> Self {
        Self { to, threads: None, requantize: false, quantize_output: true, pure_format: false }
    }

    /// Threads to compute with, 1 to 512.
    #[must_use]
    pub fn threads(mut self, threads: u32) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Whether weights that are quantised already may be quantised again, which loses more than going back to the floats.
    #[must_use]
    pub fn requantize(mut self, requantize: bool) -> Self {
        self.requantize = requantize;
        self
    }

    /// Whether the output head is quantised as well (the default).
    #[must_use]
    pub fn quantize_output(mut self, quantize: bool) -> Self {
        self.quantize_output = quantize;
        self
    }

    /// Puts every matrix into this one format, the important ones too.
    #[must_use]
    pub fn pure_format(mut self, pure: bool) -> Self {
        self.pure_format = pure;
        self
    }
}

/// Writes the model file `input` to `output` with its weights in another format: all of it or nothing, so that a file that
/// is there already stays as it is until the new one is complete. A split model becomes one file.
///
/// Matrices whose rows do not divide into a format's blocks (of 32 or 256 values) get the next larger one that fits; norms
/// and biases stay as they are. llama.cpp's log tells each tensor.
///
/// ```
/// use llama_safe::{Quantization, QuantizeParams, quantize};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = std::env::temp_dir();
/// # let [input, output] = ["f16", "q8_0"].map(|name| folder.join(format!("doctest-{}-{name}.gguf", std::process::id())));
/// # fixtures::Llama::tiny().write(fixtures::Weights::F16, 1, &input)?;
/// quantize(&input, &output, &QuantizeParams::new(Quantization::Q8_0))?;
/// # assert!(std::fs::metadata(&output)?.len() < std::fs::metadata(&input)?.len());
/// # std::fs::remove_file(&input)?;
/// # std::fs::remove_file(&output)?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`QuantizeError`]: the input is no right model file, is quantised already, or holds weights that are no numbers; the
/// output is the input, or cannot be written.
pub fn quantize(
    input: impl AsRef<Path>,
    output: impl AsRef<Path>,
    params: &QuantizeParams,
) -> Result<(), QuantizeError> {
    let (input, output) = (input.as_ref(), output.as_ref());
    let threads = params.threads.unwrap_or(0);
    if params.threads.is_some() && !(1..=MOST_THREADS).contains(&threads) {
        return Err(QuantizeError::ThreadsOutOfRange { got: threads, max: MOST_THREADS });
    }
    let mut files = ModelFiles::find(input)?;
    check(&mut files.header, &ModelParams::default())?;
    // It is written beside the output first; but a model that replaces its own source is a mistake.
    if let Ok(target) = output.canonicalize()
        && files.paths.iter().any(|path| path.canonicalize().is_ok_and(|path| path == target))
    {
        return Err(QuantizeError::OutputIsInput { path: output.to_owned() });
    }
    let paths = files.c_paths()?;
    backend::init();
    // SAFETY: returns a plain value.
    let mut raw = unsafe { sys::llama_model_quantize_default_params() };
    raw.nthread = threads.cast_signed();
    raw.ftype = params.to.file_type();
    raw.allow_requantize = params.requantize;
    raw.quantize_output_tensor = params.quantize_output;
    raw.pure_ = params.pure_format;
    write_model(output, |temporary| {
        log::forget_errors();
        let done = sys::guarded(1, |result, error| {
            // SAFETY: both paths are terminated and outlive the call, as does `raw`, whose pointers are all NULL. A model
            // in several files is named by its first, and the others are named as llama.cpp expects (`ModelFiles::find`).
            unsafe {
                sys::guard_llama_model_quantize(result, error, paths[0].as_ptr(), temporary.as_ptr(), &raw const raw)
            }
        });
        match done {
            Ok(0) => Ok(()),
            Ok(_) => Err(SaveError::Failed { reason: log::errors_or("it gives no reason") }.into()),
            Err(reason) => Err(SaveError::Failed { reason }.into()),
        }
    })
}
