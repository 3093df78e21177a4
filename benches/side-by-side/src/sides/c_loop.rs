//! The same loop over llama.cpp's C API, without any checks, in C++: `c_loop/c_loop.cpp`.

use std::error::Error;
use std::ffi::CString;
use std::path::Path;
use std::ptr::NonNull;
use std::time::Duration;

use llama_sys::llama_model;

use crate::protocol::{Answer, Order, Timing, cells};

unsafe extern "C" {
    fn c_loop_load(path: *const std::ffi::c_char) -> *mut llama_model;
    fn c_loop_run(
        model: *mut llama_model,
        sequences: i32,
        length: i32,
        generate: i32,
        cells: i32,
        threads: i32,
        prompts: *const i32,
        outputs: *mut i32,
        seconds: *mut f64,
    ) -> i32;
}

/// A model that C++ has loaded, and keeps until the process ends.
#[derive(Debug)]
pub struct CLoop {
    model: NonNull<llama_model>,
    vocabulary: i32,
}

impl CLoop {
    /// Loads a model file as llama.cpp does by default.
    ///
    /// # Errors
    ///
    /// A path that C cannot take, or a file that is no model.
    pub fn load(path: &Path) -> Result<Self, Box<dyn Error>> {
        let path = CString::new(path.to_str().ok_or("a path in UTF-8 is needed")?)?;
        // SAFETY: the text is terminated and outlives the call.
        let model = NonNull::new(unsafe { c_loop_load(path.as_ptr()) }).ok_or("llama.cpp does not load the model")?;
        // SAFETY: the model was loaded a line above and is never freed; its vocabulary lives as long as it does.
        let vocabulary = unsafe { llama_sys::llama_vocab_n_tokens(llama_sys::llama_model_get_vocab(model.as_ptr())) };
        Ok(Self { model, vocabulary })
    }

    /// Runs an order on a context of its own. All requests have the same lengths: the loop is no more than it needs to be.
    ///
    /// # Errors
    ///
    /// Requests of different lengths, of none, or with tokens that are none; and what llama.cpp returns.
    pub fn run(&self, order: &Order) -> Result<Answer, Box<dyn Error>> {
        let first = order.requests.first().ok_or("no requests")?;
        let (length, generate) = (first.prompt.len(), first.generate as usize);
        if length == 0 || generate == 0 {
            return Err("the loop needs a prompt, and something to generate".into());
        }
        if order.requests.iter().any(|other| other.prompt.len() != length || other.generate as usize != generate) {
            return Err("the loop takes requests of one length alone".into());
        }
        let prompts: Vec<i32> = order.requests.iter().flat_map(|request| request.prompt.iter().copied()).collect();
        if prompts.iter().any(|token| !(0..self.vocabulary).contains(token)) {
            return Err(format!("tokens are 0 to {}", self.vocabulary - 1).into());
        }
        let count = order.requests.len();
        let mut outputs = vec![0; count * generate];
        let mut seconds = [0.0; 2];
        // SAFETY: the model is loaded and never freed. `prompts` holds `count * length` tokens of the vocabulary, `outputs` has room
        // for `count * generate`, `seconds` for two numbers, and all outlive the call. A sequence has cells for prompt and output.
        let code = unsafe {
            c_loop_run(
                self.model.as_ptr(),
                i32::try_from(count)?,
                i32::try_from(length)?,
                i32::try_from(generate)?,
                i32::try_from(cells(order))?,
                i32::try_from(order.threads)?,
                prompts.as_ptr(),
                outputs.as_mut_ptr(),
                seconds.as_mut_ptr(),
            )
        };
        if code != 0 {
            return Err(format!("llama.cpp returned {code}").into());
        }
        let timing = Timing {
            prefilled: (count * length) as u64,
            prefill: Duration::from_secs_f64(seconds[0]),
            generated: (count * (generate - 1)) as u64,
            generation: Duration::from_secs_f64(seconds[1]),
        };
        Ok(Answer { metrics: timing.metrics(), outputs: outputs.chunks(generate).map(<[i32]>::to_vec).collect() })
    }
}
