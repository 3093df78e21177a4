//! What is used after that which it needs.

use std::ptr;

use fixtures::{Llama, Weights};
use llama_safe::{Context, Model, ModelParams, Special};
use llama_sys::*;

use crate::child::wrong;
use crate::raw::{Arrays, context, decode, text, tiny};
use crate::row::{Group, Outcome, Row, Safe};
use crate::safe::{Setup, params};

/// Whatever is dropped first, what others need of it stays.
const KEPT: Safe = Safe::Right {
    why: "a context keeps its model",
    on: Setup::Tiny,
    attempt: |_| {
        let gguf = Llama::tiny().gguf(Weights::F32, 1).unwrap();
        let model = Model::from_bytes(&gguf, &ModelParams::default()).unwrap();
        let mut context = Context::new(&model, &params()).unwrap();
        drop(model);
        batch_suite::still_works(&mut context);
        assert!(!context.model().tokenize("a text", Special::None).unwrap().is_empty());
    },
};

/// What is read of a model borrows it.
const BORROWED: Safe = Safe::Unwritable { file: "vocab.rs", line: "drop(model);" };

pub const ROWS: &[Row] = &[
    Row {
        group: Group::Lifetimes,
        name: "model_before_its_context",
        done: "a model is freed, and a context of it decodes",
        functions: &["llama_decode", "llama_model_free"],
        operation: "use after free",
        outcome: Outcome::Segfault { at: "llama-vocab.cpp:4007" },
        raw: model_before_its_context,
        safe: KEPT,
    },
    Row {
        group: Group::Lifetimes,
        name: "model_before_a_second_context",
        done: "a model is freed, and a context made of it",
        functions: &["llama_init_from_model", "llama_model_free"],
        operation: "use after free",
        outcome: Outcome::Segfault { at: "llama-vocab.cpp:4007" },
        raw: model_before_a_second_context,
        safe: Safe::Unwritable { file: "model/mod.rs", line: "drop(model);" },
    },
    Row {
        group: Group::Lifetimes,
        name: "model_before_its_vocabulary",
        done: "a model is freed, and its vocabulary cuts a text into tokens",
        functions: &["llama_tokenize", "llama_model_free", "llama_model_get_vocab"],
        operation: "use after free",
        outcome: Outcome::Segfault { at: "llama-vocab.cpp:3456" },
        raw: model_before_its_vocabulary,
        safe: BORROWED,
    },
    Row {
        group: Group::Lifetimes,
        name: "model_before_a_text_of_a_token",
        done: "a model is freed, and the text of a token read",
        functions: &["llama_vocab_get_text", "llama_model_free"],
        operation: "use after free",
        outcome: Outcome::Wrong { at: "llama-vocab.cpp:4100" },
        raw: model_before_a_text_of_a_token,
        safe: Safe::Right {
            why: "the text is a copy",
            on: Setup::Tiny,
            attempt: |_| {
                let gguf = Llama::tiny().gguf(Weights::F32, 1).unwrap();
                let model = Model::from_bytes(&gguf, &ModelParams::default()).unwrap();
                let text = model.vocab().text(llama_safe::Token(70)).unwrap();
                drop(model);
                assert_eq!(text, batch_suite::tiny(Weights::F32).vocab().text(llama_safe::Token(70)).unwrap());
            },
        },
    },
    Row {
        group: Group::Lifetimes,
        name: "context_before_its_memory",
        done: "a context is freed, and its memory asked for a position",
        functions: &["llama_memory_seq_pos_max", "llama_free", "llama_get_memory"],
        operation: "use after free",
        outcome: Outcome::Segfault { at: "llama-context.cpp:4244" },
        raw: context_before_its_memory,
        safe: Safe::Unwritable { file: "context.rs", line: "drop(context);" },
    },
    Row {
        group: Group::Lifetimes,
        name: "context_before_its_batch",
        done: "a batch of the extended kind is made by a context that is freed, and given to another",
        functions: &["llama_process", "llama_batch_ext_init", "llama_batch_ext_add_token"],
        operation: "use after free: the batch keeps the memory of the context that made it",
        outcome: Outcome::Segfault { at: "llama-batch.cpp:386" },
        raw: context_before_its_batch,
        safe: Safe::Refused {
            error: "DecodeError::ForeignBatch",
            on: Setup::Tiny,
            attempt: |context| {
                let mut other = Setup::Tiny.context();
                let sequence = other.new_sequence().unwrap();
                let mut batch = other.new_batch();
                batch.push(&sequence, llama_safe::Token(3)).unwrap();
                drop(other);
                crate::safe::told(context.decode(&mut batch).map(drop))
            },
        },
    },
    Row {
        group: Group::Lifetimes,
        name: "threads_before_their_context",
        done: "a pool of threads is freed while a context computes with it",
        functions: &["llama_decode", "llama_attach_threadpool", "llama_detach_threadpool"],
        operation: "use after free",
        outcome: Outcome::Segfault { at: "ggml-cpu.c:3391" },
        raw: threads_before_their_context,
        safe: Safe::Unwritable { file: "context.rs", line: "context.attach_threadpool()" },
    },
    Row {
        group: Group::Lifetimes,
        name: "what_a_callback_needs_before_the_context",
        done: "what an abort callback looks at is gone when the context decodes",
        functions: &["llama_decode", "llama_set_abort_callback"],
        operation: "use after free, in the caller's own function",
        outcome: Outcome::Segfault { at: "the caller" },
        raw: what_a_callback_needs_before_the_context,
        safe: Safe::Right {
            why: "the context and its handles share what the callback looks at",
            on: Setup::Tiny,
            attempt: |context| {
                let handle = context.abort_handle();
                let other = Setup::Tiny.context();
                let others = other.abort_handle();
                drop(other);
                others.abort();
                drop(handle);
            },
        },
    },
];

unsafe fn model_before_its_context() {
    let model = tiny();
    let context = context(model);
    decode(context, 0, 0, &[3, 4, 5]);
    llama_model_free(model);
    // Nothing of its graph is kept: another number of tokens.
    llama_decode(context, Arrays::new(0, 3, &[6, 7]).batch());
}

unsafe fn model_before_a_second_context() {
    let model = tiny();
    llama_model_free(model);
    crate::raw::try_context(model, |_| {});
}

unsafe fn model_before_its_vocabulary() {
    let model = tiny();
    let vocab = llama_model_get_vocab(model);
    llama_model_free(model);
    let mut tokens = [0; 64];
    llama_tokenize(vocab, c"a text".as_ptr(), 6, tokens.as_mut_ptr(), 64, false, false);
}

unsafe fn model_before_a_text_of_a_token() {
    let model = tiny();
    // Longer than what a string keeps in itself.
    let text = llama_vocab_get_text(llama_model_get_vocab(model), 70);
    let before = std::ffi::CStr::from_ptr(text).to_bytes().to_vec();
    llama_model_free(model);
    if libc::memcmp(text.cast(), before.as_ptr().cast(), before.len()) != 0 {
        wrong("other bytes are behind the pointer");
    }
}

unsafe fn context_before_its_memory() {
    let context = context(tiny());
    let memory = llama_get_memory(context);
    llama_free(context);
    llama_memory_seq_pos_max(memory, 0);
}

unsafe fn context_before_its_batch() {
    let model = tiny();
    let (one, other) = (context(model), context(model));
    let batch = llama_batch_ext_init(one);
    llama_batch_ext_add_token(batch, 0, 3);
    llama_free(one);
    llama_process(other, LLAMA_PROCESS_TYPE_DECODE, batch);
}

unsafe fn threads_before_their_context() {
    let context = context(tiny());
    let mut params = ggml_threadpool_params_default(2);
    let pool = ggml_threadpool_new(&raw mut params);
    llama_attach_threadpool(context, pool, ptr::null_mut());
    decode(context, 0, 0, &text(1, 3));
    ggml_threadpool_free(pool);
    llama_decode(context, Arrays::new(0, 3, &[6]).batch());
}

unsafe extern "C" fn looks(flag: *mut std::ffi::c_void) -> bool {
    crate::raw::read(flag.cast::<i32>()) == 77
}

unsafe fn what_a_callback_needs_before_the_context() {
    let context = context(tiny());
    let flag = libc::mmap(ptr::null_mut(), 1 << 16, libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
    llama_set_abort_callback(context, Some(looks), flag);
    decode(context, 0, 0, &text(1, 3));
    libc::munmap(flag, 1 << 16);
    llama_decode(context, Arrays::new(0, 3, &[6]).batch());
}
