//! Samplers that run inside the computation.

use llama_safe::{Context, GraphSampler, Token};
use llama_sys::*;

use crate::child::wrong;
use crate::raw::{Arrays, context, context_with, decode, text, tiny};
use crate::row::{Group, Outcome, Row, Safe};
use crate::safe::{Setup, compute, told};

/// What the context has of a sampler is its own.
const A_VALUE: Safe = Safe::Right {
    why: "a sampler is a value: the context makes a chain of its own for each sequence, and keeps it",
    on: Setup::Tiny,
    attempt: |context| {
        let sampler = GraphSampler::chain().top_k(40).unwrap().dist(1).unwrap();
        let (one, other) = (context.new_sequence().unwrap(), context.new_sequence().unwrap());
        for sequence in [&one, &other, &one] {
            context.set_graph_sampler(sequence, Some(&sampler)).unwrap();
        }
        drop(sampler);
        let mut batch = context.new_batch();
        let slots = [&one, &other].map(|sequence| batch.push_output(sequence, Token(3)).unwrap());
        let outputs = context.decode(&mut batch).unwrap();
        assert_eq!(
            outputs.sampled(slots[0]).unwrap(),
            outputs.sampled(slots[1]).unwrap(),
            "the same draw of the same text"
        );
        for sequence in [&one, &other] {
            context.set_graph_sampler(sequence, None).unwrap();
        }
    },
};

const TWICE: Outcome = Outcome::Assertion {
    at: "llama-sampler.cpp:739",
    says: "GGML_ASSERT(chain->is_init == false && \"llama_sampler_chain_backend_init() called twice\") failed",
};

pub const ROWS: &[Row] = &[
    Row {
        group: Group::InGraph,
        name: "for_two_sequences",
        done: "one chain is set for two sequences",
        functions: &["llama_set_sampler"],
        operation: "none: it is asserted",
        outcome: TWICE,
        raw: for_two_sequences,
        safe: A_VALUE,
    },
    Row {
        group: Group::InGraph,
        name: "set_again",
        done: "a chain is taken off a sequence, and set again",
        functions: &["llama_set_sampler"],
        operation: "none: it is asserted",
        outcome: TWICE,
        raw: set_again,
        safe: A_VALUE,
    },
    Row {
        group: Group::InGraph,
        name: "freed_while_it_is_set",
        done: "a chain is freed while a context computes with it",
        functions: &["llama_decode", "llama_set_sampler", "llama_sampler_free"],
        operation: "use after free",
        outcome: Outcome::Segfault { at: "llama-sampler.cpp:887" },
        raw: freed_while_it_is_set,
        safe: A_VALUE,
    },
    Row {
        group: Group::InGraph,
        name: "no_chain",
        done: "a sampler that is no chain is set, and computed with",
        functions: &["llama_decode", "llama_set_sampler"],
        operation: "its state is taken for that of a chain",
        outcome: Outcome::Assertion {
            at: "llama-sampler.cpp:887",
            says: "GGML_ASSERT(sampler->iface == &llama_sampler_chain_i) failed",
        },
        raw: no_chain,
        safe: A_VALUE,
    },
    Row {
        group: Group::InGraph,
        name: "more_candidates_than_can_be_tried",
        done: "the 200,000 most likely tokens are kept",
        functions: &["llama_set_sampler", "llama_sampler_init_top_k"],
        operation: "none: it is asserted that a row has as many",
        outcome: Outcome::Assertion { at: "ggml.c:5472", says: "GGML_ASSERT(a->ne[0] >= k) failed" },
        raw: more_candidates_than_can_be_tried,
        safe: refused("GraphSamplerError::TopK { got: 200000, max: 131072 }", |_| {
            told(GraphSampler::chain().top_k(200_000))
        }),
    },
    Row {
        group: Group::InGraph,
        name: "bias_of_no_token",
        done: "a bias for a token that the vocabulary lacks",
        functions: &["llama_decode", "llama_set_sampler", "llama_sampler_init_logit_bias"],
        operation: "none: it is asserted, when its numbers are handed to the computation",
        outcome: Outcome::Assertion {
            at: "llama-sampler.cpp:3995",
            says: "GGML_ASSERT(lb.token >= 0 && lb.token < (int32_t) sctx->n_vocab) failed",
        },
        raw: bias_of_no_token,
        safe: refused("GraphSamplerError::TokenOutOfRange { token: Token(100000), vocabulary: 512 }", |context| {
            let sampler = GraphSampler::chain().logit_bias(&[(Token(100_000), 1.0)]).unwrap().greedy();
            let sequence = context.new_sequence().unwrap();
            told(context.set_graph_sampler(&sequence, Some(&sampler)))
        }),
    },
    Row {
        group: Group::InGraph,
        name: "greedy_after_a_truncation",
        done: "the most likely token is chosen after the 40 most likely were kept",
        functions: &["llama_get_sampled_token_ith", "llama_set_sampler"],
        operation: "none: what is chosen is a number among the candidates, taken for a token",
        outcome: Outcome::Wrong { at: "llama-sampler.cpp:1089" },
        raw: greedy_after_a_truncation,
        safe: Safe::Right {
            why: "the choice is made of the whole row, and compared with one outside",
            on: Setup::Tiny,
            attempt: |context| {
                let best = batch_suite::best(&compute(context)).0;
                let sequence = context.new_sequence().unwrap();
                let sampler = GraphSampler::chain().top_k(40).unwrap().greedy();
                context.set_graph_sampler(&sequence, Some(&sampler)).unwrap();
                let mut batch = context.new_batch();
                let slot = batch.prompt(&sequence, &batch_suite::prompt(9, 6)).unwrap();
                assert_eq!(context.decode(&mut batch).unwrap().sampled(slot).unwrap().0 as usize, best);
                context.set_graph_sampler(&sequence, None).unwrap();
            },
        },
    },
    Row {
        group: Group::InGraph,
        name: "nothing_is_likely_enough",
        done: "tokens as likely as the likeliest are kept, min-p of 1",
        functions: &["llama_get_sampled_token_ith", "llama_set_sampler", "llama_sampler_init_min_p"],
        operation: "none: the comparison leaves none, and the last token is drawn",
        outcome: Outcome::Wrong { at: "llama-sampler.cpp:1853" },
        raw: nothing_is_likely_enough,
        safe: refused("GraphSamplerError::MinP { got: 1.0, max: 0.9 }", |_| told(GraphSampler::chain().min_p(1.0))),
    },
    Row {
        group: Group::InGraph,
        name: "read_as_logits",
        done: "logits are read of an output whose candidates were truncated in the graph",
        functions: &["llama_get_logits_ith", "llama_set_sampler", "llama_get_sampled_logits_ith"],
        operation: "none: the numbers of an earlier decode are behind the pointer",
        outcome: Outcome::Wrong { at: "llama-context.cpp:4009" },
        raw: read_as_logits,
        safe: Safe::Refused {
            error: "OutputError::..",
            on: Setup::Tiny,
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let sampler = GraphSampler::chain().top_k(40).unwrap().dist(1).unwrap();
                context.set_graph_sampler(&sequence, Some(&sampler)).unwrap();
                let mut batch = context.new_batch();
                let slot = batch.push_output(&sequence, Token(3)).unwrap();
                let error = told(context.decode(&mut batch).unwrap().get(slot));
                context.set_graph_sampler(&sequence, None).unwrap();
                error
            },
        },
    },
    Row {
        group: Group::InGraph,
        name: "of_no_sequence",
        done: "a chain is set for sequence 300",
        functions: &["llama_set_sampler", "llama_get_sampled_probs_ith", "llama_get_sampled_candidates_ith"],
        operation: "none: true comes back, and it is kept for nobody",
        outcome: Outcome::Wrong { at: "llama-context.cpp:1315" },
        raw: of_no_sequence,
        safe: refused("GraphSamplerError::Sequence(Foreign { id: SeqId { slot: 0, generation: 0 } })", |context| {
            let mut other = Setup::Tiny.context();
            let sequence = other.new_sequence().unwrap();
            told(context.set_graph_sampler(&sequence, Some(&GraphSampler::chain().greedy())))
        }),
    },
];

const fn refused(error: &'static str, attempt: fn(&mut Context) -> String) -> Safe {
    Safe::Refused { error, on: Setup::Tiny, attempt }
}

unsafe fn chain(samplers: &[*mut llama_sampler]) -> *mut llama_sampler {
    let chain = llama_sampler_chain_init(llama_sampler_chain_default_params());
    for sampler in samplers {
        llama_sampler_chain_add(chain, *sampler);
    }
    chain
}

/// A context that computes `samplers` for sequence 0.
unsafe fn sampling(samplers: &[*mut llama_sampler]) -> *mut llama_context {
    let context = context(tiny());
    llama_set_sampler(context, 0, chain(samplers));
    context
}

unsafe fn for_two_sequences() {
    let context = context(tiny());
    let chain = chain(&[llama_sampler_init_dist(1)]);
    llama_set_sampler(context, 0, chain);
    llama_set_sampler(context, 1, chain);
}

unsafe fn set_again() {
    let context = context(tiny());
    let chain = chain(&[llama_sampler_init_dist(1)]);
    llama_set_sampler(context, 0, chain);
    llama_set_sampler(context, 0, std::ptr::null_mut());
    llama_set_sampler(context, 0, chain);
}

unsafe fn freed_while_it_is_set() {
    let context = context(tiny());
    let chain = chain(&[llama_sampler_init_dist(1)]);
    llama_set_sampler(context, 0, chain);
    decode(context, 0, 0, &[3]);
    llama_sampler_free(chain);
    llama_decode(context, Arrays::new(0, 1, &[4, 5]).batch());
}

unsafe fn no_chain() {
    let context = context(tiny());
    llama_set_sampler(context, 0, llama_sampler_init_dist(1));
    llama_decode(context, Arrays::new(0, 0, &[3]).batch());
}

unsafe fn more_candidates_than_can_be_tried() {
    sampling(&[llama_sampler_init_top_k(200_000)]);
}

unsafe fn bias_of_no_token() {
    let bias = [llama_logit_bias { token: 100_000, bias: 1.0 }];
    let context = sampling(&[llama_sampler_init_logit_bias(512, 1, bias.as_ptr()), llama_sampler_init_dist(1)]);
    llama_decode(context, Arrays::new(0, 0, &[3]).batch());
}

unsafe fn greedy_after_a_truncation() {
    let model = tiny();
    let best = batch_suite::best(&crate::raw::alone(model, &text(9, 6))).0 as i32;
    let context = sampling(&[llama_sampler_init_top_k(40), llama_sampler_init_greedy()]);
    decode(context, 0, 0, &text(9, 6));
    let token = llama_get_sampled_token_ith(context, -1);
    if token != best {
        wrong(&format!("{token} is chosen, and the most likely token is {best}"));
    }
}

unsafe fn nothing_is_likely_enough() {
    let best = batch_suite::best(&crate::raw::alone(tiny(), &text(9, 6))).0 as i32;
    let context = sampling(&[llama_sampler_init_min_p(1.0, 1), llama_sampler_init_dist(1)]);
    decode(context, 0, 0, &text(9, 6));
    let token = llama_get_sampled_token_ith(context, -1);
    if token != best {
        wrong(&format!("{token} is drawn, and the most likely token is {best}"));
    }
}

unsafe fn read_as_logits() {
    let model = tiny();
    let want = crate::raw::alone(model, &text(9, 6));
    let context = sampling(&[llama_sampler_init_top_k(40), llama_sampler_init_dist(1)]);
    decode(context, 0, 0, &text(9, 6));
    let row = llama_get_logits_ith(context, -1);
    if !row.is_null() && batch_suite::nmse(std::slice::from_raw_parts(row, want.len()), &want) > 1e-6 {
        wrong("a pointer to numbers that are not the logits of the token");
    }
}

unsafe fn of_no_sequence() {
    let context = context_with(tiny(), |_| {});
    if llama_set_sampler(context, 300, chain(&[llama_sampler_init_dist(1)])) {
        wrong("true, for a sequence that there is not");
    }
}
