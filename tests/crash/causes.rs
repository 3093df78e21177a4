//! What the patterns of a group have in common, and what is done about them.

use crate::row::Group;

/// Ways to keep a group's patterns from happening, what each costs, and which was taken.
pub struct Approach {
    /// A heading.
    pub title: &'static str,
    pub cause: &'static str,
    /// Checking before, or in, the native call.
    pub native: &'static str,
    /// Doing without the native call.
    pub fallback: &'static str,
    /// Something of both.
    pub hybrid: &'static str,
    pub taken: &'static str,
}

/// The approach of a group.
pub fn approach(group: Group) -> Approach {
    match group {
        Group::Handles => Approach {
            title: "Handles that are no objects",
            cause: "A context, model or vocabulary is a bare pointer in C: any number can be cast to one, and a freed \
                     one looks like any other.",
            native: "llama.cpp could keep a list of what it has given out, and look each pointer up: a lock and a search \
                     in every call, and callers that go on ignoring the result.",
            fallback: "none: a wrong address says nothing about what was meant.",
            hybrid: "handles as numbers of a table, with generations: what the wrappers of other languages do; it finds \
                     wrong ones when they are used.",
            taken: "ownership. `Model` and `Context` own their pointers, are no numbers, and are gone when they are \
                     dropped; the compiler refuses the rest. It costs nothing at run time.",
        },
        Group::Batches => Approach {
            title: "Arrays of a batch",
            cause: "A batch is six arrays and a count that C takes on trust. It reads as far as the count says, and as \
                     many sequence ids as an unset number says.",
            native: "checking in C is not possible: a pointer does not know how long its array is.",
            fallback: "batches of one token by `llama_batch_get_one`, which has no arrays but one: it loses the reason for \
                     batching.",
            hybrid: "arrays in Rust with all their checks, lent to C for one call.",
            taken: "the last. A push checks and stores a row in 11.7 ns (0.5 ns a token where many are pushed at once); \
                     a decode allocates nothing.",
        },
        Group::Positions => Approach {
            title: "Positions",
            cause: "llama.cpp accepts the next position of a sequence, and several that are not: duplicates, -1, any \
                     first one. What is wrong with them shows as other logits, or not at all.",
            native: "comparing every position with the memory before each call: a call into C for each sequence.",
            fallback: "leaving positions to llama.cpp (`pos == NULL`): it writes out of bounds where an id is out of range.",
            hybrid: "positions follow from the length of the sequence, which Rust knows.",
            taken: "the last. Nobody passes a position; where a model wants four of them (M-RoPE) they are derived or \
                     checked as a `Place`.",
        },
        Group::Sequences => Approach {
            title: "Sequence ids",
            cause: "An id is a small number. Whoever has it is meant by it: another user, another context, or nobody.",
            native: "a range check for each id: finds numbers that are too large, not those that are another's.",
            fallback: "one context for each sequence: no ids, no batches, and the weights' reading is not shared.",
            hybrid: "a lease with slot and generation, checked at the push and again at the decode (13 ns for eight \
                     sequences).",
            taken: "the last. A stale, foreign or changed sequence is an error that names it.",
        },
        Group::Outputs => Approach {
            title: "Outputs",
            cause: "Logits are a pointer into a buffer that the next call rewrites or frees, found by an index that \
                     means another token then. After a failure the old ones are still there.",
            native: "copying logits after each decode: 200 KB a token of a common vocabulary, for those who would have \
                     read them once.",
            fallback: "reading before anything else is called, by convention: what everybody does, until somebody does not.",
            hybrid: "a slot from the push of that very token, valid for that decode alone; a borrow that ends with the \
                     next one.",
            taken: "the last. No copy; the borrow is checked by the compiler, the slot by one comparison.",
        },
        Group::Routing => Approach {
            title: "Encoding and decoding",
            cause: "Which of `llama_encode` and `llama_decode` a model can do, and in which order, is known to llama.cpp \
                     and not checked by it.",
            native: "the model is asked once, when the context is made, and the answer kept: one comparison a call.",
            fallback: "sending a batch where it can be computed instead: a program that asked for an encoding would get \
                     logits.",
            hybrid: "none is needed.",
            taken: "the native check. `encode` without encoder is `NoEncoder`, and an encoder-decoder's texts are \
                     followed by sequence.",
        },
        Group::Limits => Approach {
            title: "Limits of a context",
            cause: "A context is made for so many tokens, outputs and sequences. What is more ends the process, or comes \
                     back as 1, which means other things as well.",
            native: "every limit is asked for once and compared at the push: part of the 11.7 ns.",
            fallback: "cutting what is too long into several decodes: a policy, and other results where a text is pooled or \
                     has no order.",
            hybrid: "an error with the numbers, and cutting where it changes nothing.",
            taken: "the native check; nothing is cut behind the caller's back.",
        },
        Group::Memory => Approach {
            title: "Operations on the memory",
            cause: "An id out of range ends the process on one kind of memory and is ignored on another; `false` means \
                     that nothing was removed; a hole stays a hole.",
            native: "lengths, kinds of memory and how far each goes back are kept in Rust, and asked before the call: \
                     some comparisons.",
            fallback: "removing and computing anew what is to stay: as slow as reading the text again.",
            hybrid: "an error that says how far it goes back; the caller clears and computes anew if it wants to.",
            taken: "the hybrid. `MemoryError` tells the obstacle, and nothing has changed then.",
        },
        Group::Forks => Approach {
            title: "Copies of sequences",
            cause: "Between separate caches only whole sequences are copied, later, at the next decode; a state is \
                     shared whatever part was asked for.",
            native: "refusing what cannot be copied.",
            fallback: "computing the prefix again: as slow as reading it the first time.",
            hybrid: "copying all and truncating the copy; carrying out what waits before a state is saved or restored \
                     (one token computed).",
            taken: "the hybrid. Only where a state cannot go back is a fork of a part refused.",
        },
        Group::Shifts => Approach {
            title: "Shifted positions",
            cause: "A shift renumbers cells, and rotates their keys at the next decode. Not every memory can, shared \
                     cells move for everybody, and quantised keys are rotated through NULL.",
            native: "each condition is known before the call: a comparison.",
            fallback: "computing what stays anew: exact, and as slow as reading it the first time.",
            hybrid: "an error with the obstacle; the caller chooses.",
            taken: "the native check. Keys are of 16 or 32 bits, so that the rotation of quantised ones is not reached.",
        },
        Group::Samplers => Approach {
            title: "Samplers",
            cause: "A sampler is a pointer whose owner changes when it is added to a chain, with parameters that nobody \
                     checks, over candidates that nobody counts.",
            native: "parameters and logits are compared before the call: one pass over the logits, some microseconds of a \
                     vocabulary of 50,000.",
            fallback: "sampling in Rust: no pointers, the same results to test against.",
            hybrid: "a chain whose last step selects, built by value; logits that are no numbers refused.",
            taken: "checks in Rust before anything is sampled; a chain owns its steps, and one without a selector cannot \
                     be written.",
        },
        Group::Grammars => Approach {
            title: "Grammars",
            cause: "A grammar throws where it is given a token that it forbids, recurses as deep as its text nests, and \
                     a trigger is a regular expression with a time of its own.",
            native: "catching exceptions in the shim: some nanoseconds a call; a grammar that threw is half-way.",
            fallback: "asking the grammar before a token is accepted, which llama.cpp offers through candidates alone.",
            hybrid: "limits on the text before it is parsed, the shim around every call, and a grammar that failed \
                     refuses its use.",
            taken: "the hybrid.",
        },
        Group::InGraph => Approach {
            title: "Samplers in the graph",
            cause: "A sampler that runs in the context's graph is a pointer that the context keeps: it must outlive it, \
                     be used nowhere else, and be set once.",
            native: "none: llama.cpp cannot see who else holds a pointer.",
            fallback: "sampling after the decode, on the CPU.",
            hybrid: "the context owns what it was given.",
            taken: "ownership, checked by the compiler.",
        },
        Group::Text => Approach {
            title: "Vocabulary and text",
            cause: "Tokens out of range throw in five functions and are read out of bounds in a sixth; lengths of texts \
                     and buffers are taken on trust.",
            native: "one comparison a token; a buffer is made as large as llama.cpp says.",
            fallback: "a tokenizer in Rust: another one, with other tokens.",
            hybrid: "checks in Rust, exceptions caught in the shim, long words on a stack that is large enough.",
            taken: "the hybrid. `VocabError` has the token and the size of the vocabulary.",
        },
        Group::ChatTemplates => Approach {
            title: "Chat templates",
            cause: "A template is a NUL-terminated text, messages are pointers to such texts, and what was written to a \
                     buffer that is too small has no end.",
            native: "lengths and NULs are known in Rust, and the buffer is made as large as llama.cpp says.",
            fallback: "a template engine in Rust: more templates, and no list in C++.",
            hybrid: "the check before the call, the shim around it.",
            taken: "checks in Rust before the call.",
        },
        Group::Contexts => Approach {
            title: "Parameters of a context",
            cause: "Enumerations are numbers in C, sizes have conditions among each other, and some are checked by an \
                     assertion in the middle of the constructor.",
            native: "enumerations in Rust; sizes compared before the call. A context is made once.",
            fallback: "taking the nearest that works: the caller gets another context than it asked for, and must be told.",
            hybrid: "errors for what cannot be, and `Limits` for what came of the rest.",
            taken: "the hybrid. What llama.cpp rounds is told by `Limits`; what has no name in Rust cannot be asked for.",
        },
        Group::States => Approach {
            title: "Saved states",
            cause: "The bytes of a state have no version, no model and no checksum; most of what is wrong is taken, some \
                     ends the process, and what was there before is gone.",
            native: "a walk over all bytes that compares or bounds every number before llama.cpp sees one.",
            fallback: "keeping tokens instead of states, and computing them again.",
            hybrid: "a header with fingerprint, parameters and BLAKE3, and behind a right checksum the walk all the same.",
            taken: "the hybrid. Nothing is touched before all of it is known to fit.",
        },
        Group::Adapters => Approach {
            title: "Adapters and control vectors",
            cause: "An adapter is a file whose shapes are partly checked, and a pointer that the context, the model and \
                     the caller share without saying who frees it.",
            native: "the file is read before llama.cpp sees it: names, shapes, number types.",
            fallback: "merging weights: as large as the model.",
            hybrid: "the check; and counted references, so that the context keeps its adapters and an adapter its model.",
            taken: "the hybrid.",
        },
        Group::ModelFiles => Approach {
            title: "Model files",
            cause: "llama.cpp's reader checks the form of a file well; what values mean it takes on trust, architecture \
                     by architecture.",
            native: "the file is read first, up to its weights: 0.1 s in an unoptimised build for 150,000 tokens.",
            fallback: "loading in a process of its own.",
            hybrid: "the check, and below it a net: a failed assertion in functions that load is thrown, and arrives as \
                     an error.",
            taken: "the hybrid. What is left is told in decisions.md.",
        },
        Group::Threads => Approach {
            title: "Threads",
            cause: "Nothing in a context is locked. Two calls at once write to the same buffers.",
            native: "a lock around each call: some ten nanoseconds, and a deadlock for who calls from a callback.",
            fallback: "a context for each thread.",
            hybrid: "`Send` and not `Sync`, `&mut` for what changes: the compiler refuses two at once.",
            taken: "the types. A handle to abort is the one thing that other threads may hold.",
        },
        Group::Lifetimes => Approach {
            title: "Lifetimes",
            cause: "Model, context, vocabulary, adapter, sampler: each is valid as long as others are, and C frees them \
                     in any order.",
            native: "none: a freed pointer looks like any other.",
            fallback: "never freeing.",
            hybrid: "counted references upwards (a context keeps its model and adapters), borrows for what is read.",
            taken: "ownership. No order of dropping is wrong.",
        },
        Group::Callbacks => Approach {
            title: "Callbacks",
            cause: "A callback that unwinds leaves C and C++ frames half-done; one that calls back into the same context \
                     finds it in the middle of something.",
            native: "catching every panic before it reaches C: nothing where there is none.",
            fallback: "no callbacks.",
            hybrid: "the panic is caught, the operation ended cleanly, and the panic resumed after the call.",
            taken: "the hybrid, for the callbacks that are offered: progress and weights. The others are llama-safe's \
                     own.",
        },
        Group::Aborts => Approach {
            title: "Decodes that are stopped",
            cause: "A decode that is stopped or fails leaves in memory what it has computed so far.",
            native: "none: llama.cpp says 2, and not how far it came.",
            fallback: "computing each micro-batch in a call of its own.",
            hybrid: "each sequence is taken back to its length before the call; one whose memory cannot is named, and \
                     refuses its use until cleared.",
            taken: "the hybrid. A test aborts at every operation of a decode, on each kind of memory.",
        },
        Group::OutOfMemory => Approach {
            title: "Memory that is not there",
            cause: "Allocations that fail throw, return NULL that is followed, or end the process.",
            native: "sizes are bounded before the call, and allocations of C++ that fail in guarded calls arrive as \
                     errors.",
            fallback: "none.",
            hybrid: "both.",
            taken: "bounds and the shim. What the system gives and takes back later (overcommit) is outside of what a \
                     library can promise.",
        },
    }
}
