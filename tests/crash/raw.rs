//! What a C programmer would write around a misuse: models, contexts, batches. Nothing is checked, nothing is freed.

use std::ffi::CString;
use std::io::Write;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::ptr;

use fixtures::{Bert, Family, Llama, Weights};
use llama_sys::{
    GGML_TYPE_F32, LLAMA_FLASH_ATTN_TYPE_DISABLED, llama_batch, llama_context, llama_context_default_params,
    llama_context_params, llama_decode, llama_get_logits_ith, llama_get_model, llama_init_from_model, llama_model,
    llama_model_default_params, llama_model_get_vocab, llama_model_load_from_file, llama_model_params, llama_n_vocab,
    llama_vocab,
};

use crate::child;

/// The size of a page, on every machine that this runs on: what is larger is a multiple of it.
pub const PAGE: usize = 1 << 16;

/// The tiny decoder, in 32 bits.
pub fn tiny() -> *mut llama_model {
    model(&Llama::tiny().gguf(Weights::F32, 1).expect("a shape that holds together"))
}

/// The tiny encoder, in 32 bits.
pub fn encoder() -> *mut llama_model {
    model(&Bert::tiny().gguf(Weights::F32, 1).expect("a shape that holds together"))
}

/// The tiny model of a family, in 32 bits.
pub fn family(family: Family) -> *mut llama_model {
    model(&family.gguf(Weights::F32, 1).expect("a shape that holds together"))
}

/// A model of these bytes.
pub fn model(gguf: &[u8]) -> *mut llama_model {
    model_with(gguf, |_| {})
}

/// A model of these bytes and other parameters.
pub fn model_with(gguf: &[u8], change: impl FnOnce(&mut llama_model_params)) -> *mut llama_model {
    let model = try_model(gguf, change);
    assert!(!model.is_null(), "llama.cpp takes the model");
    model
}

/// The same, and NULL where llama.cpp refuses it.
pub fn try_model(gguf: &[u8], change: impl FnOnce(&mut llama_model_params)) -> *mut llama_model {
    let path = file(gguf);
    // SAFETY: the path is terminated, and the parameters are llama.cpp's own but for what the row changes.
    unsafe {
        let mut params = llama_model_default_params();
        change(&mut params);
        llama_model_load_from_file(path.as_ptr(), params)
    }
}

/// The path of a file in memory with these bytes, for as long as the process lives.
pub fn file(bytes: &[u8]) -> CString {
    // SAFETY: the name is terminated; the descriptor is fresh, or refused below.
    let mut file = unsafe {
        let descriptor = libc::memfd_create(c"raw".as_ptr(), 0);
        assert!(descriptor >= 0, "a file in memory");
        std::fs::File::from_raw_fd(descriptor)
    };
    file.write_all(bytes).expect("room in memory");
    CString::new(format!("/proc/self/fd/{}", file.into_raw_fd())).expect("no NUL in it")
}

/// Two sequences, 512 cells, batches of 64 tokens, one thread, all in 32 bits.
pub fn context(model: *mut llama_model) -> *mut llama_context {
    context_with(model, |_| {})
}

/// The same, but for a change.
pub fn context_with(model: *mut llama_model, change: impl FnOnce(&mut llama_context_params)) -> *mut llama_context {
    let context = try_context(model, change);
    assert!(!context.is_null(), "llama.cpp makes the context");
    context
}

/// The same, and NULL where llama.cpp refuses it.
pub fn try_context(model: *mut llama_model, change: impl FnOnce(&mut llama_context_params)) -> *mut llama_context {
    // SAFETY: the parameters are whole; what is wrong with them is the row's business.
    unsafe {
        let mut params = llama_context_default_params();
        params.n_ctx = 512;
        params.n_batch = 64;
        params.n_ubatch = 64;
        params.n_seq_max = 2;
        params.n_threads = 1;
        params.n_threads_batch = 1;
        params.type_k = GGML_TYPE_F32;
        params.type_v = GGML_TYPE_F32;
        params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
        change(&mut params);
        llama_init_from_model(model, params)
    }
}

/// The vocabulary of the context's model.
pub fn vocab(context: *const llama_context) -> *const llama_vocab {
    // SAFETY: the context is one.
    unsafe { llama_model_get_vocab(llama_get_model(context)) }
}

/// `length` tokens, other ones for each `salt`, none of them special.
pub fn text(salt: u32, length: u32) -> Vec<i32> {
    batch_suite::prompt(salt, length).iter().map(|token| token.0).collect()
}

/// The arrays of a batch, every element set.
pub struct Arrays {
    pub token: Vec<i32>,
    pub pos: Vec<i32>,
    pub n_seq_id: Vec<i32>,
    pub ids: Vec<Box<[i32]>>,
    pub seq_id: Vec<*mut i32>,
    pub logits: Vec<i8>,
}

impl Arrays {
    /// `tokens` of `sequence` from position `first` on, with the last one's output.
    pub fn new(sequence: i32, first: i32, tokens: &[i32]) -> Self {
        let mut arrays = Self {
            token: Vec::new(),
            pos: Vec::new(),
            n_seq_id: Vec::new(),
            ids: Vec::new(),
            seq_id: Vec::new(),
            logits: Vec::new(),
        };
        arrays.add(sequence, first, tokens);
        arrays
    }

    /// More of the same behind it.
    pub fn add(&mut self, sequence: i32, first: i32, tokens: &[i32]) {
        for (index, token) in (0..).zip(tokens) {
            self.token.push(*token);
            self.pos.push(first + index);
            self.n_seq_id.push(1);
            self.ids.push(Box::new([sequence]));
            self.logits.push(i8::from(index as usize + 1 == tokens.len()));
        }
        self.seq_id = self.ids.iter_mut().map(|ids| ids.as_mut_ptr()).collect();
    }

    /// The same for arrays that are not needed any more, which then live for ever.
    pub fn leak(self) -> llama_batch {
        Box::leak(Box::new(self)).batch()
    }

    /// The batch that C sees.
    pub fn batch(&mut self) -> llama_batch {
        llama_batch {
            n_tokens: self.token.len() as i32,
            token: self.token.as_mut_ptr(),
            embd: ptr::null_mut(),
            pos: self.pos.as_mut_ptr(),
            n_seq_id: self.n_seq_id.as_mut_ptr(),
            seq_id: self.seq_id.as_mut_ptr(),
            logits: self.logits.as_mut_ptr(),
        }
    }
}

/// Decodes `tokens` of `sequence` from position `first` on. The result is 0.
pub unsafe fn decode(context: *mut llama_context, sequence: i32, first: i32, tokens: &[i32]) {
    // SAFETY: the arrays are whole; whether the context is, the caller knows.
    let result = unsafe { llama_decode(context, Arrays::new(sequence, first, tokens).batch()) };
    assert_eq!(result, 0, "a right batch");
}

/// The logits of row `index` of the last decode.
pub unsafe fn logits(context: *mut llama_context, index: i32) -> Vec<f32> {
    // SAFETY: the context is one, and the row has as many numbers as the vocabulary has tokens.
    unsafe {
        let row = llama_get_logits_ith(context, index);
        assert!(!row.is_null(), "an output of row {index}");
        std::slice::from_raw_parts(row, llama_n_vocab(vocab(context)) as usize).to_vec()
    }
}

/// The logits after `tokens`, alone in a context of its own.
pub unsafe fn alone(model: *mut llama_model, tokens: &[i32]) -> Vec<f32> {
    let context = context(model);
    // SAFETY: the context is fresh.
    unsafe {
        decode(context, 0, 0, tokens);
        logits(context, -1)
    }
}

/// Ends the child with a wrong result, if two rows of logits differ by more than rounding.
pub fn wrong_if_different(got: &[f32], want: &[f32], what: &str) {
    let error = batch_suite::nmse(got, want);
    if error.is_nan() || error > 1e-6 {
        // One digit, so that it is the same on every machine.
        child::wrong(&format!("{what}, by {error:.0e} (normalised mean squared error)"));
    }
}

/// Reads a number as C does: without asking whether it is there.
pub unsafe fn read<T>(number: *const T) -> i32 {
    // SAFETY: there may be nothing there; that is the caller's business.
    unsafe { libc::memcmp(number.cast(), [0_u8; 64].as_ptr().cast(), size_of::<T>()) }
}

/// A copy of `items` that ends where a page begins that nobody may touch.
pub fn guarded<T: Copy>(array: &str, items: &[T]) -> *mut T {
    let bytes = size_of_val(items);
    let readable = bytes.div_ceil(PAGE) * PAGE;
    // SAFETY: a mapping of its own, which is never given back; the copy lies within its readable part, and is aligned
    // because it ends at a page.
    unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let start = libc::mmap(ptr::null_mut(), readable + PAGE, protection, flags, -1, 0);
        assert!(start != libc::MAP_FAILED, "memory for a page");
        let page = start.cast::<u8>().add(readable);
        assert_eq!(libc::mprotect(page.cast(), PAGE, libc::PROT_NONE), 0);
        child::guard(array, page as usize);
        let copy = page.sub(bytes).cast::<T>();
        ptr::copy_nonoverlapping(items.as_ptr(), copy, items.len());
        copy
    }
}
