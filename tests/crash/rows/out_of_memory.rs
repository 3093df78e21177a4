//! Memory that is not there. The child may use 4 GiB.

use llama_safe::Context;
use llama_sys::*;

use crate::raw::{Arrays, text, tiny};
use crate::row::{Group, Outcome, Row, Safe};
use crate::safe::{Setup, params, told};

pub const ROWS: &[Row] = &[
    Row {
        group: Group::OutOfMemory,
        name: "batch_of_more_than_there_is",
        done: "llama_batch_init for 2,147,483,647 tokens",
        functions: &["llama_batch_init"],
        operation: "write through NULL: what malloc returns is not looked at",
        outcome: Outcome::Segfault { at: "llama-batch.cpp:1086" },
        raw: batch_of_more_than_there_is,
        safe: Safe::Refused {
            error: "ContextError::TooLarge { what: \"batch_tokens\", got: 4294967295, max: 2147483136 }",
            on: Setup::Tiny,
            attempt: |context| told(Context::new(context.model(), &params().batch_tokens(u32::MAX)).map(drop)),
        },
    },
    Row {
        group: Group::OutOfMemory,
        name: "batch_of_fewer_than_none",
        done: "llama_batch_init for -1 tokens",
        functions: &["llama_batch_init"],
        operation: "write before an allocation of no bytes: over the allocator's own numbers",
        outcome: Outcome::Heap,
        raw: batch_of_fewer_than_none,
        safe: Safe::Unwritable { file: "batch.rs", line: "batch.n_seq_id" },
    },
    Row {
        group: Group::OutOfMemory,
        name: "text_for_more_than_there_is",
        done: "a text is cut into tokens where no memory is left for them",
        functions: &["llama_tokenize"],
        operation: "none: an allocation throws, and nobody catches it",
        outcome: Outcome::Exception { kind: "std::bad_alloc", says: "bad_alloc", at: "llama-vocab.cpp:4269" },
        raw: text_for_more_than_there_is,
        safe: Safe::Right {
            why: "an exception of C++ arrives as an error with its text",
            on: Setup::Tiny,
            attempt: |_| {
                let thrown = llama_sys::guarded(0, |result, error| {
                    // SAFETY: all three pointers are valid for the call, and the text is terminated.
                    unsafe { guard_self_test(result, error, c"std::bad_alloc".as_ptr()) }
                });
                assert_eq!(thrown, Err("std::bad_alloc".to_owned()));
            },
        },
    },
    Row {
        group: Group::OutOfMemory,
        name: "decode_for_more_than_there_is",
        done: "a decode where no memory is left for its graph",
        functions: &["llama_decode"],
        operation: "none: an allocation throws, and nobody catches it",
        outcome: Outcome::Exception { kind: "std::bad_alloc", says: "bad_alloc", at: "llama-batch.cpp:1410" },
        raw: decode_for_more_than_there_is,
        safe: Safe::Right {
            why: "an exception of C++ arrives as an error with its text",
            on: Setup::Tiny,
            attempt: |_| {
                let thrown = llama_sys::guarded(0, |result, error| {
                    // SAFETY: all three pointers are valid for the call, and the text is terminated.
                    unsafe { guard_self_test(result, error, c"std::bad_alloc".as_ptr()) }
                });
                assert_eq!(thrown, Err("std::bad_alloc".to_owned()));
            },
        },
    },
];

/// From here on no more memory is to be had.
unsafe fn no_more() {
    let limit = libc::rlimit { rlim_cur: 1 << 20, rlim_max: 1 << 20 };
    libc::setrlimit(libc::RLIMIT_AS, &raw const limit);
    // What the allocator has in reserve.
    while !libc::malloc(1 << 16).is_null() {}
    while !libc::malloc(1 << 10).is_null() {}
}

unsafe fn batch_of_more_than_there_is() {
    llama_batch_init(i32::MAX, 0, 1);
}

unsafe fn batch_of_fewer_than_none() {
    llama_batch_free(llama_batch_init(-1, 0, 1));
}

unsafe fn text_for_more_than_there_is() {
    let vocab = llama_model_get_vocab(tiny());
    let (text, mut tokens) = (vec![b'a'; 1 << 20], vec![0; 1 << 20]);
    no_more();
    llama_tokenize(vocab, text.as_ptr().cast(), 1 << 20, tokens.as_mut_ptr(), 1 << 20, false, false);
}

unsafe fn decode_for_more_than_there_is() {
    let context = crate::raw::context(tiny());
    let batch = Arrays::new(0, 0, &text(1, 60)).leak();
    no_more();
    llama_decode(context, batch);
}
