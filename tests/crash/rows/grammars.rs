//! Grammars: their text, and the tokens that they are held against.

use std::ffi::{CStr, CString};
use std::ptr;

use llama_safe::{Context, Grammar, Special, Token, Triggers};
use llama_sys::*;

use crate::child::wrong;
use crate::raw::{context, decode, tiny};
use crate::row::{Group, Outcome, Row, Safe};
use crate::safe::{Setup, told};

pub const ROWS: &[Row] = &[
    Row {
        group: Group::Grammars,
        name: "a_forbidden_token",
        done: "a token that the grammar forbids is accepted",
        functions: &["llama_sampler_accept", "llama_sampler_init_grammar"],
        operation: "none: it throws, and the grammar has no place any more",
        outcome: Outcome::Exception {
            kind: "std::runtime_error",
            says: "Unexpected empty grammar stack after accepting piece",
            at: "llama-grammar.cpp:1527",
        },
        raw: a_forbidden_token,
        safe: refused("GrammarError::Forbidden { token: 98, text: \"b\" }", |context| {
            told(Grammar::gbnf(context.model(), "root ::= \"a\"", "root").unwrap().accept(Token(98)))
        }),
    },
    Row {
        group: Group::Grammars,
        name: "an_end_too_early",
        done: "the token that ends a text is accepted where the grammar's text is not complete",
        functions: &["llama_sampler_accept", "llama_vocab_eos"],
        operation: "none: it ends the process",
        outcome: Outcome::Assertion { at: "llama-grammar.cpp:1455", says: "fatal error" },
        raw: an_end_too_early,
        safe: refused("GrammarError::Forbidden { .. }", |context| {
            let eos = context.model().vocab().eos().unwrap();
            told(Grammar::gbnf(context.model(), "root ::= \"a\"", "root").unwrap().accept(eos))
        }),
    },
    Row {
        group: Group::Grammars,
        name: "no_way_on",
        done: "a token is sampled where the grammar allows none that the vocabulary has",
        functions: &["llama_sampler_sample", "llama_sampler_init_grammar", "llama_sampler_init_greedy"],
        operation: "none: all are forbidden, the first is chosen, and to accept it throws",
        outcome: Outcome::Exception {
            kind: "std::runtime_error",
            says: "Unexpected empty grammar stack after accepting piece",
            at: "llama-grammar.cpp:1527",
        },
        raw: no_way_on,
        safe: Safe::Right {
            why: "where nothing is allowed the grammar says so before a token is chosen",
            on: Setup::Tiny,
            attempt: |context| {
                let grammar = Grammar::gbnf(context.model(), "root ::= <[511]>", "root").unwrap();
                let allowed = grammar.allowed().unwrap();
                assert_eq!(allowed.iter().collect::<Vec<_>>(), [Token(511)]);
            },
        },
    },
    Row {
        group: Group::Grammars,
        name: "no_name_of_a_root",
        done: "a grammar begins with NULL",
        functions: &["llama_sampler_init_grammar"],
        operation: "none: a string is made of NULL, and throws",
        outcome: Outcome::Exception { kind: "std::logic_error", says: "null", at: "llama-sampler.cpp:2803" },
        raw: no_name_of_a_root,
        safe: refused("GrammarError::NoRoot { root: \"\", rules: \"root\" }", |context| {
            told(Grammar::gbnf(context.model(), "root ::= \"a\"", ""))
        }),
    },
    Row {
        group: Group::Grammars,
        name: "nested_too_deep",
        done: "a grammar of 200,000 parentheses in each other",
        functions: &["llama_sampler_init_grammar"],
        operation: "the stack overflows: the parser calls itself for each",
        outcome: Outcome::StackOverflow { at: "llama-grammar.cpp:600" },
        raw: nested_too_deep,
        safe: refused("GrammarError::TooDeep { line: 1, .. }", |context| {
            let text = format!("root ::= {}\"a\"{}", "(".repeat(200_000), ")".repeat(200_000));
            told(Grammar::gbnf(context.model(), &text, "root"))
        }),
    },
    Row {
        group: Group::Grammars,
        name: "a_pattern_without_end",
        done: "a trigger is a pattern that backtracks, and 40 tokens nearly match it",
        functions: &["llama_sampler_accept", "llama_sampler_init_grammar_lazy_patterns"],
        operation: "none: the time doubles with each letter",
        outcome: Outcome::Endless { at: "llama-grammar.cpp:1420" },
        raw: a_pattern_without_end,
        safe: Safe::Right {
            why: "patterns are matched in a time that grows with the text alone",
            on: Setup::Tiny,
            attempt: |context| {
                let model = context.model();
                let grammar = Grammar::gbnf(model, "root ::= \"b\"", "root").unwrap();
                let mut grammar = grammar.lazy(Triggers::new().pattern("(?:(?:a+)+)+(b)")).unwrap();
                for token in model.tokenize(&"a".repeat(200), Special::None).unwrap() {
                    grammar.accept(token).unwrap();
                }
            },
        },
    },
    Row {
        group: Group::Grammars,
        name: "a_pattern_that_is_none",
        done: "a trigger is a pattern with an open parenthesis",
        functions: &["llama_sampler_init_grammar_lazy_patterns", "llama_sampler_init_grammar_lazy"],
        operation: "none: it throws",
        outcome: Outcome::Exception { kind: "std::regex_error", says: "regex", at: "llama-grammar.cpp:1305" },
        raw: a_pattern_that_is_none,
        safe: refused("GrammarError::Pattern { .. }", |context| {
            let grammar = Grammar::gbnf(context.model(), "root ::= \"a\"", "root").unwrap();
            told(grammar.lazy(Triggers::new().pattern("(a")))
        }),
    },
    Row {
        group: Group::Grammars,
        name: "triggers_that_are_not_there",
        done: "a list of triggers is NULL, and is said to have one",
        functions: &["llama_sampler_init_grammar_lazy_patterns"],
        operation: "none: it is asserted",
        outcome: Outcome::Assertion {
            at: "llama-grammar.cpp:1294",
            says: "GGML_ASSERT(trigger_tokens != nullptr) failed",
        },
        raw: triggers_that_are_not_there,
        safe: refused("GrammarError::NoTrigger", |context| {
            told(Grammar::gbnf(context.model(), "root ::= \"a\"", "root").unwrap().lazy(Triggers::new()))
        }),
    },
    Row {
        group: Group::Grammars,
        name: "no_vocabulary",
        done: "a grammar without a vocabulary accepts a token",
        functions: &["llama_sampler_accept", "llama_sampler_init_grammar"],
        operation: "none: it is asserted",
        outcome: Outcome::Assertion {
            at: "llama-grammar.cpp:1403",
            says: "GGML_ASSERT(grammar.vocab != nullptr) failed",
        },
        raw: no_vocabulary,
        safe: refused("GrammarError::Vocab(NoVocabulary)", |_| {
            let model = batch_suite::architectures::architecture("llama").unwrap();
            told(Grammar::gbnf(&model, "root ::= \"a\"", "root"))
        }),
    },
    Row {
        group: Group::Grammars,
        name: "a_token_out_of_range",
        done: "a token that the vocabulary lacks is accepted",
        functions: &["llama_sampler_accept"],
        operation: "none: the list of texts checks the index, and throws",
        outcome: Outcome::Exception { kind: "std::out_of_range", says: "range_check", at: "llama-vocab.cpp:3836" },
        raw: a_token_out_of_range,
        safe: refused("GrammarError::Vocab(TokenOutOfRange { token: 2000000000, .. })", |context| {
            told(Grammar::gbnf(context.model(), "root ::= \"a\"", "root").unwrap().accept(Token(2_000_000_000)))
        }),
    },
    Row {
        group: Group::Grammars,
        name: "model_before_its_grammar",
        done: "a model is freed, and a grammar of its vocabulary accepts a token",
        functions: &["llama_sampler_accept", "llama_model_free"],
        operation: "use after free",
        outcome: Outcome::Segfault { at: "llama-grammar.cpp:1405" },
        raw: model_before_its_grammar,
        safe: Safe::Right {
            why: "a grammar keeps the texts of the tokens",
            on: Setup::Tiny,
            attempt: |_| {
                let gguf = fixtures::Llama::tiny().gguf(fixtures::Weights::F32, 1).unwrap();
                let model = llama_safe::Model::from_bytes(&gguf, &llama_safe::ModelParams::default()).unwrap();
                let mut grammar = Grammar::gbnf(&model, "root ::= \"a\"", "root").unwrap();
                drop(model);
                grammar.accept(Token(97)).unwrap();
            },
        },
    },
];

const fn refused(error: &'static str, attempt: fn(&mut Context) -> String) -> Safe {
    Safe::Refused { error, on: Setup::Tiny, attempt }
}

/// A grammar of the tiny model, whose tokens of one byte are at that byte's number.
unsafe fn grammar(text: &CStr) -> *mut llama_sampler {
    llama_sampler_init_grammar(llama_model_get_vocab(tiny()), text.as_ptr(), c"root".as_ptr())
}

unsafe fn a_forbidden_token() {
    llama_sampler_accept(grammar(c"root ::= \"a\""), 98);
}

unsafe fn an_end_too_early() {
    let vocab = llama_model_get_vocab(tiny());
    let grammar = llama_sampler_init_grammar(vocab, c"root ::= \"a\"".as_ptr(), c"root".as_ptr());
    llama_sampler_accept(grammar, llama_vocab_eos(vocab));
}

unsafe fn no_way_on() {
    let model = tiny();
    let context = context(model);
    decode(context, 0, 0, &[3, 4, 5]);
    let vocab = llama_model_get_vocab(model);
    let chain = llama_sampler_chain_init(llama_sampler_chain_default_params());
    // No token of the vocabulary holds this letter, or begins it.
    let text = c"root ::= <[500]> \"a\"";
    llama_sampler_chain_add(chain, llama_sampler_init_grammar(vocab, text.as_ptr(), c"root".as_ptr()));
    let mut only = llama_logit_bias { token: 500, bias: f32::NEG_INFINITY };
    llama_sampler_chain_add(chain, llama_sampler_init_logit_bias(llama_vocab_n_tokens(vocab), 1, &raw mut only));
    llama_sampler_chain_add(chain, llama_sampler_init_greedy());
    llama_sampler_sample(chain, context, -1);
}

unsafe fn no_name_of_a_root() {
    llama_sampler_init_grammar(llama_model_get_vocab(tiny()), c"root ::= \"a\"".as_ptr(), ptr::null());
}

unsafe fn nested_too_deep() {
    let text = format!("root ::= {}\"a\"{}", "(".repeat(200_000), ")".repeat(200_000));
    grammar(&CString::new(text).expect("no NUL"));
}

/// A grammar that begins where a pattern matches.
unsafe fn lazy(pattern: &CStr) -> *mut llama_sampler {
    let mut patterns = [pattern.as_ptr()];
    let (vocab, text) = (llama_model_get_vocab(tiny()), c"root ::= \"b\"");
    llama_sampler_init_grammar_lazy_patterns(
        vocab,
        text.as_ptr(),
        c"root".as_ptr(),
        patterns.as_mut_ptr(),
        1,
        ptr::null(),
        0,
    )
}

unsafe fn a_pattern_without_end() {
    let grammar = lazy(c"(?:(?:a+)+)+(b)");
    for _ in 0..40 {
        llama_sampler_accept(grammar, 97);
    }
}

unsafe fn a_pattern_that_is_none() {
    lazy(c"(a");
}

unsafe fn triggers_that_are_not_there() {
    let (vocab, text) = (llama_model_get_vocab(tiny()), c"root ::= \"b\"");
    llama_sampler_init_grammar_lazy_patterns(
        vocab,
        text.as_ptr(),
        c"root".as_ptr(),
        ptr::null_mut(),
        0,
        ptr::null(),
        1,
    );
}

unsafe fn no_vocabulary() {
    let grammar = llama_sampler_init_grammar(ptr::null(), c"root ::= \"a\"".as_ptr(), c"root".as_ptr());
    llama_sampler_accept(grammar, 97);
}

unsafe fn a_token_out_of_range() {
    llama_sampler_accept(grammar(c"root ::= \"a\""), 2_000_000_000);
}

unsafe fn model_before_its_grammar() {
    let model = tiny();
    let text = c"root ::= \"a\"";
    let grammar = llama_sampler_init_grammar(llama_model_get_vocab(model), text.as_ptr(), c"root".as_ptr());
    llama_model_free(model);
    llama_sampler_accept(grammar, 97);
    wrong("it returns");
}
