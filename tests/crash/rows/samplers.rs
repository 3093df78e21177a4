//! Samplers: what they choose from, their numbers, and whose they are.

use batch_suite::best;
use llama_safe::{Context, Dry, Penalties, Sampler, Token};
use llama_sys::*;

use crate::child::wrong;
use crate::raw::{context, decode, guarded, tiny};
use crate::row::{Group, Outcome, Row, Safe};
use crate::safe::{Setup, compute, told};

/// A chain without a selector is no sampler.
const NO_SELECTOR: Safe = Safe::Unwritable { file: "sampling/chain.rs", line: "sampler.sample(&[0.0, 1.0])?" };

/// A sampler is a value: it has one owner, and a clone is another.
const A_VALUE: Safe = Safe::Right {
    why: "a sampler is a value with one owner; a clone has a state of its own",
    on: Setup::Tiny,
    attempt: |context| {
        let logits = compute(context);
        let mut one = Sampler::chain().top_k(40).unwrap().temperature(0.8).unwrap().dist(7);
        let mut other = one.clone();
        let first = one.sample(&logits).unwrap();
        drop(one);
        assert_eq!(other.sample(&logits).unwrap(), first);
    },
};

pub const ROWS: &[Row] = &[
    Row {
        group: Group::Samplers,
        name: "no_selector",
        done: "a token is sampled with a chain that truncates and selects nothing",
        functions: &[
            "llama_sampler_sample",
            "llama_sampler_chain_init",
            "llama_sampler_chain_add",
            "llama_sampler_init_top_k",
        ],
        operation: "none: it is asserted that something was selected",
        outcome: Outcome::Assertion {
            at: "llama-sampler.cpp:956",
            says: "GGML_ASSERT(cur_p.selected >= 0 && cur_p.selected < (int32_t) cur_p.size) failed",
        },
        raw: no_selector,
        safe: NO_SELECTOR,
    },
    Row {
        group: Group::Samplers,
        name: "index_without_logits",
        done: "a token is sampled at a place of the batch that has no output",
        functions: &["llama_sampler_sample", "llama_sampler_init_greedy"],
        operation: "none: it is asserted that there are logits",
        outcome: Outcome::Assertion { at: "llama-sampler.cpp:940", says: "GGML_ASSERT(logits != nullptr) failed" },
        raw: index_without_logits,
        safe: Safe::Refused {
            error: "SamplingError::NoLogits",
            on: Setup::Tiny,
            attempt: |_| told(Sampler::chain().greedy().sample(&[])),
        },
    },
    Row {
        group: Group::Samplers,
        name: "no_candidates",
        done: "a sampler is applied to an empty list of candidates",
        functions: &["llama_sampler_apply", "llama_sampler_init_typical"],
        operation: "none: it is asserted that there are some",
        outcome: Outcome::Assertion { at: "llama-sampler.cpp:294", says: "GGML_ASSERT(cur_p->size > 0) failed" },
        raw: no_candidates,
        safe: Safe::Refused {
            error: "SamplingError::NoLogits",
            on: Setup::Tiny,
            attempt: |_| told(Sampler::chain().typical(0.5).unwrap().dist(1).sample(&[])),
        },
    },
    Row {
        group: Group::Samplers,
        name: "not_a_number",
        done: "the most likely token is chosen of logits that are NaN",
        functions: &["llama_sampler_apply", "llama_sampler_init_greedy"],
        operation: "none: no comparison holds, and the first token is chosen",
        outcome: Outcome::Wrong { at: "llama-sampler.cpp:1053" },
        raw: not_a_number,
        safe: refused_logits("SamplingError::NotFinite { token: 300, value: NaN }", |context| {
            let mut logits = compute(context);
            logits[300] = f32::NAN;
            told(Sampler::chain().greedy().sample(&logits))
        }),
    },
    Row {
        group: Group::Samplers,
        name: "infinite",
        done: "a token is drawn of logits of which one is infinite",
        functions: &["llama_sampler_apply", "llama_sampler_init_dist"],
        operation: "none: every probability is 0 or NaN, and another token is drawn",
        outcome: Outcome::Wrong { at: "llama-sampler.cpp:1150" },
        raw: infinite,
        safe: refused_logits("SamplingError::NotFinite { token: 300, value: inf }", |context| {
            let mut logits = compute(context);
            logits[300] = f32::INFINITY;
            told(Sampler::chain().dist(1).sample(&logits))
        }),
    },
    Row {
        group: Group::Samplers,
        name: "nothing_allowed",
        done: "a token is chosen where all are forbidden",
        functions: &["llama_sampler_apply", "llama_sampler_init_greedy"],
        operation: "none: the first token is chosen, which is forbidden",
        outcome: Outcome::Wrong { at: "llama-sampler.cpp:1053" },
        raw: nothing_allowed,
        safe: refused_logits("SamplingError::NothingAllowed", |_| {
            told(Sampler::chain().greedy().sample(&[f32::NEG_INFINITY; 512]))
        }),
    },
    Row {
        group: Group::Samplers,
        name: "temperature_not_a_number",
        done: "a temperature of NaN",
        functions: &["llama_sampler_apply", "llama_sampler_init_temp", "llama_sampler_init_temp_ext"],
        operation: "none: every logit becomes NaN",
        outcome: Outcome::Wrong { at: "llama-sampler.cpp:289" },
        raw: temperature_not_a_number,
        safe: refused_logits("SamplerParamError::OutOfRange { parameter: \"temperature\", got: NaN, .. }", |_| {
            told(Sampler::chain().temperature(f32::NAN))
        }),
    },
    Row {
        group: Group::Samplers,
        name: "window_of_more_than_there_is",
        done: "penalties over the last 2,147,483,647 tokens",
        functions: &["llama_sampler_init_penalties"],
        operation: "none: an allocation throws, and nobody catches it",
        outcome: Outcome::Exception { kind: "std::bad_alloc", says: "bad_alloc", at: "llama-sampler.cpp:26" },
        raw: window_of_more_than_there_is,
        safe: refused_logits(
            "SamplerParamError::CountOutOfRange { parameter: \"penalties.window\", got: 2147483647, min: 0, max: .. }",
            |_| told(Sampler::chain().penalties(Penalties { window: i32::MAX as u32, ..Penalties::default() })),
        ),
    },
    Row {
        group: Group::Samplers,
        name: "divided_by_zero",
        done: "a penalty for repetitions of 0",
        functions: &["llama_sampler_apply", "llama_sampler_init_penalties"],
        operation: "none: logits are divided by 0, and the repeated token is infinitely likely",
        outcome: Outcome::Wrong { at: "llama-sampler.cpp:2973" },
        raw: divided_by_zero,
        safe: refused_logits("SamplerParamError::OutOfRange { parameter: \"penalties.repeat\", got: 0.0, .. }", |_| {
            told(Sampler::chain().penalties(Penalties { repeat: 0.0, ..Penalties::default() }))
        }),
    },
    Row {
        group: Group::Samplers,
        name: "more_biases_than_the_array",
        done: "a list of 1 bias that is said to have 100",
        functions: &["llama_sampler_init_logit_bias"],
        operation: "out-of-bounds read",
        outcome: Outcome::GuardPage { array: "parameters", at: "llama-sampler.cpp:4058" },
        raw: more_biases_than_the_array,
        safe: refused_logits("SamplerParamError::NegativeToken { token: -1 }", |_| {
            told(Sampler::chain().logit_bias([(Token(-1), 1.0)]))
        }),
    },
    Row {
        group: Group::Samplers,
        name: "bias_of_no_token",
        done: "a bias for a token that the vocabulary lacks",
        functions: &["llama_sampler_apply", "llama_sampler_init_logit_bias"],
        operation: "none: it does nothing, and nothing is said",
        outcome: Outcome::Wrong { at: "llama-sampler.cpp:3913" },
        raw: bias_of_no_token,
        safe: refused_logits("SamplingError::BiasOutOfRange { token: 100000, vocabulary: 512 }", |context| {
            let logits = compute(context);
            told(Sampler::chain().logit_bias([(Token(100_000), 1.0)]).unwrap().greedy().sample(&logits))
        }),
    },
    Row {
        group: Group::Samplers,
        name: "in_two_chains",
        done: "a sampler is added to two chains, and both are freed",
        functions: &["llama_sampler_free", "llama_sampler_chain_add"],
        operation: "double free: each chain owns what was added to it",
        outcome: Outcome::Segfault { at: "llama-sampler.cpp:425" },
        raw: in_two_chains,
        safe: A_VALUE,
    },
    Row {
        group: Group::Samplers,
        name: "freed_after_it_was_added",
        done: "a sampler is freed after it was added to a chain, which is then used",
        functions: &["llama_sampler_apply", "llama_sampler_free", "llama_sampler_chain_add"],
        operation: "use after free",
        outcome: Outcome::Segfault { at: "llama-sampler.cpp:699" },
        raw: freed_after_it_was_added,
        safe: A_VALUE,
    },
    Row {
        group: Group::Samplers,
        name: "freed_twice",
        done: "a sampler is freed twice",
        functions: &["llama_sampler_free"],
        operation: "double free",
        outcome: Outcome::Segfault { at: "llama-sampler.cpp:425" },
        raw: freed_twice,
        safe: A_VALUE,
    },
    Row {
        group: Group::Samplers,
        name: "a_chain_in_itself",
        done: "a chain is added to itself, and applied",
        functions: &["llama_sampler_apply", "llama_sampler_chain_add"],
        operation: "the stack overflows: the chain applies itself",
        outcome: Outcome::StackOverflow { at: "llama-sampler.cpp:699" },
        raw: a_chain_in_itself,
        safe: A_VALUE,
    },
    Row {
        group: Group::Samplers,
        name: "no_chain",
        done: "a sampler is added to one that is no chain",
        functions: &["llama_sampler_chain_add", "llama_sampler_chain_n"],
        operation: "the other's state is taken for a list of samplers, and written to",
        outcome: Outcome::Segfault { at: "llama-sampler.cpp:968" },
        raw: no_chain,
        safe: NO_SELECTOR,
    },
    Row {
        group: Group::Samplers,
        name: "times_of_no_chain",
        done: "a sampler that is no chain is asked for its times",
        functions: &["llama_perf_sampler", "llama_perf_sampler_print", "llama_perf_sampler_reset"],
        operation: "none: it ends the process",
        outcome: Outcome::Assertion {
            at: "llama-sampler.cpp:4359",
            says: "llama_perf_sampler: invalid sampler passed - requires a sampler created with llama_sampler_chain_init()",
        },
        raw: times_of_no_chain,
        safe: NO_SELECTOR,
    },
    Row {
        group: Group::Samplers,
        name: "copied_between_kinds",
        done: "the state of one kind of sampler is copied to another",
        functions: &["llama_sampler_copy"],
        operation: "none: it is asserted",
        outcome: Outcome::Assertion {
            at: "llama-sampler.cpp:4304",
            says: "GGML_ASSERT(src->iface == dst->iface && \"llama_sampler_copy: cannot copy between different sampler types\") failed",
        },
        raw: copied_between_kinds,
        safe: A_VALUE,
    },
    Row {
        group: Group::Samplers,
        name: "copied_between_lengths",
        done: "the state of a chain of two is copied to a chain of one",
        functions: &["llama_sampler_copy"],
        operation: "none: it is asserted",
        outcome: Outcome::Assertion {
            at: "llama-sampler.cpp:842",
            says: "GGML_ASSERT(src_chain->samplers.size() == dst_chain->samplers.size()) failed",
        },
        raw: copied_between_lengths,
        safe: A_VALUE,
    },
    Row {
        group: Group::Samplers,
        name: "custom_that_cannot_be_cloned",
        done: "a sampler of the caller's own without a function to clone it is cloned",
        functions: &["llama_sampler_clone", "llama_sampler_init"],
        operation: "none: it ends the process",
        outcome: Outcome::Assertion { at: "llama-sampler.cpp:417", says: "the sampler does not support cloning" },
        raw: custom_that_cannot_be_cloned,
        safe: Safe::Right {
            why: "a custom sampler can be cloned, or is none",
            on: Setup::Tiny,
            attempt: |context| {
                let logits = compute(context);
                let mut one =
                    Sampler::chain().custom_fn(|candidates| candidates.retain(|one| one.token().0 % 2 == 0)).greedy();
                assert_eq!(one.clone().sample(&logits), one.sample(&logits));
            },
        },
    },
    Row {
        group: Group::Samplers,
        name: "custom_that_does_nothing",
        done: "a sampler of the caller's own has no function to apply",
        functions: &["llama_sampler_apply", "llama_sampler_init"],
        operation: "none: it is asserted",
        outcome: Outcome::Assertion { at: "llama-sampler.cpp:387", says: "GGML_ASSERT(smpl->iface->apply) failed" },
        raw: custom_that_does_nothing,
        safe: refused_logits("SamplingError::CustomLeftNothing { step: 0 }", |context| {
            let logits = compute(context);
            told(Sampler::chain().custom_fn(|candidates| candidates.retain(|_| false)).greedy().sample(&logits))
        }),
    },
    Row {
        group: Group::Samplers,
        name: "custom_that_leaves_nothing",
        done: "a sampler of the caller's own leaves no candidate, and one behind it selects",
        functions: &["llama_sampler_apply", "llama_sampler_init_min_p", "llama_sampler_init_top_p"],
        operation: "none: it is asserted that there are some",
        outcome: Outcome::Assertion { at: "llama-sampler.cpp:294", says: "GGML_ASSERT(cur_p->size > 0) failed" },
        raw: custom_that_leaves_nothing,
        safe: refused_logits("SamplingError::CustomLeftNothing { step: 0 }", |context| {
            let logits = compute(context);
            told(
                Sampler::chain()
                    .custom_fn(|candidates| candidates.retain(|_| false))
                    .typical(0.5)
                    .unwrap()
                    .dist(1)
                    .sample(&logits),
            )
        }),
    },
    Row {
        group: Group::Samplers,
        name: "a_seed_that_is_none",
        done: "two samplers are given the seed 4,294,967,295",
        functions: &["llama_sampler_get_seed", "llama_sampler_init_dist", "llama_sampler_reset"],
        operation: "none: this one stands for a random one, and they draw other tokens",
        outcome: Outcome::Wrong { at: "llama-sampler.cpp:340" },
        raw: a_seed_that_is_none,
        safe: Safe::Right {
            why: "every seed is one",
            on: Setup::Tiny,
            attempt: |context| {
                let logits = compute(context);
                let draw = || -> Vec<Token> {
                    let mut sampler = Sampler::chain().dist(u32::MAX);
                    (0..20).map(|_| sampler.sample(&logits).unwrap()).collect()
                };
                assert_eq!(draw(), draw());
            },
        },
    },
    Row {
        group: Group::Samplers,
        name: "model_before_its_sampler",
        done: "a model is freed, and a sampler applied that looks at its vocabulary",
        functions: &["llama_sampler_apply", "llama_sampler_init_infill", "llama_model_free"],
        operation: "use after free",
        outcome: Outcome::Segfault { at: "llama-sampler.cpp:4081" },
        raw: model_before_its_sampler,
        safe: Safe::Right {
            why: "a chain keeps what it needs of a vocabulary, not the vocabulary",
            on: Setup::Tiny,
            attempt: |context| {
                let logits = compute(context);
                let gguf = fixtures::Llama::tiny().gguf(fixtures::Weights::F32, 1).unwrap();
                let model = llama_safe::Model::from_bytes(&gguf, &llama_safe::ModelParams::default()).unwrap();
                let mut sampler = Sampler::chain().infill(&model).unwrap().dry(&model, Dry::default()).unwrap().dist(1);
                drop(model);
                sampler.sample(&logits).unwrap();
            },
        },
    },
    Row {
        group: Group::Samplers,
        name: "shared_by_two_texts",
        done: "one sampler with penalties samples for two sequences in turn",
        functions: &["llama_sampler_accept", "llama_sampler_apply", "llama_sampler_init_penalties"],
        operation: "none: what one text said is penalised in the other",
        outcome: Outcome::Wrong { at: "llama-sampler.cpp:2925" },
        raw: shared_by_two_texts,
        safe: Safe::Right {
            why: "a sampler is one text's: another's is a clone",
            on: Setup::Tiny,
            attempt: |context| {
                let logits = compute(context);
                let fresh =
                    Sampler::chain().penalties(Penalties { repeat: 1e9, ..Penalties::default() }).unwrap().greedy();
                let (mut one, mut other) = (fresh.clone(), fresh);
                assert_eq!(one.sample(&logits).unwrap().0 as usize, best(&logits).0);
                assert_eq!(other.sample(&logits).unwrap().0 as usize, best(&logits).0);
            },
        },
    },
];

const fn refused_logits(error: &'static str, attempt: fn(&mut Context) -> String) -> Safe {
    Safe::Refused { error, on: Setup::Tiny, attempt }
}

/// A chain of these, which it owns from now on.
unsafe fn chain(samplers: &[*mut llama_sampler]) -> *mut llama_sampler {
    let chain = llama_sampler_chain_init(llama_sampler_chain_default_params());
    for sampler in samplers {
        llama_sampler_chain_add(chain, *sampler);
    }
    chain
}

/// What `sampler` makes of these logits: the candidates that it leaves, and the one that it selects.
unsafe fn applied(sampler: *mut llama_sampler, logits: &[f32]) -> (Vec<llama_token_data>, i64) {
    let mut data: Vec<_> =
        (0..).zip(logits).map(|(id, logit)| llama_token_data { id, logit: *logit, p: 0.0 }).collect();
    let mut array = llama_token_data_array { data: data.as_mut_ptr(), size: data.len(), selected: -1, sorted: false };
    llama_sampler_apply(sampler, &raw mut array);
    data.truncate(array.size);
    (data, array.selected)
}

unsafe fn no_selector() {
    let context = context(tiny());
    decode(context, 0, 0, &[3, 4, 5]);
    llama_sampler_sample(chain(&[llama_sampler_init_top_k(40)]), context, -1);
}

unsafe fn index_without_logits() {
    let context = context(tiny());
    decode(context, 0, 0, &[3, 4, 5]);
    llama_sampler_sample(llama_sampler_init_greedy(), context, 0);
}

unsafe fn no_candidates() {
    applied(llama_sampler_init_typical(0.5, 1), &[]);
}

unsafe fn not_a_number() {
    let (_, selected) = applied(llama_sampler_init_greedy(), &[f32::NAN, 1.0, 5.0, 2.0]);
    if selected == 0 {
        wrong("token 0, whose logit is NaN, is chosen before one of 5");
    }
}

unsafe fn infinite() {
    let (_, selected) = applied(llama_sampler_init_dist(1), &[1.0, f32::INFINITY, 2.0, 3.0]);
    if selected != 1 {
        wrong("another token than the one whose logit is infinite is drawn");
    }
}

unsafe fn nothing_allowed() {
    let (_, selected) = applied(llama_sampler_init_greedy(), &[f32::NEG_INFINITY; 8]);
    if selected == 0 {
        wrong("token 0, which is forbidden, is chosen");
    }
}

unsafe fn temperature_not_a_number() {
    let (left, _) = applied(llama_sampler_init_temp(f32::NAN), &[1.0, 2.0]);
    if left.iter().all(|one| one.logit.is_nan()) {
        wrong("every logit is NaN");
    }
}

unsafe fn window_of_more_than_there_is() {
    llama_sampler_init_penalties(512, i32::MAX, 1.1, 0.0, 0.0);
}

unsafe fn divided_by_zero() {
    let sampler = llama_sampler_init_penalties(512, 64, 0.0, 0.0, 0.0);
    llama_sampler_accept(sampler, 1);
    let (left, _) = applied(sampler, &[9.0, 1.0, 2.0]);
    if left[1].logit == f32::INFINITY {
        wrong("the logit of the repeated token is infinite");
    }
}

unsafe fn more_biases_than_the_array() {
    llama_sampler_init_logit_bias(512, 100_000, guarded("parameters", &[llama_logit_bias { token: 3, bias: 1.0 }]));
}

unsafe fn bias_of_no_token() {
    let bias = [llama_logit_bias { token: 100_000, bias: 1.0 }];
    let (left, _) = applied(llama_sampler_init_logit_bias(512, 1, bias.as_ptr()), &[1.0, 2.0]);
    if left[0].logit == 1.0 && left[1].logit == 2.0 {
        wrong("no logit has changed");
    }
}

unsafe fn in_two_chains() {
    let shared = llama_sampler_init_dist(1);
    let (one, other) = (chain(&[shared]), chain(&[shared]));
    llama_sampler_free(one);
    llama_sampler_free(other);
}

unsafe fn freed_after_it_was_added() {
    let sampler = llama_sampler_init_dist(1);
    let chain = chain(&[sampler]);
    llama_sampler_free(sampler);
    applied(chain, &[1.0, 2.0]);
}

unsafe fn freed_twice() {
    let sampler = llama_sampler_init_dist(1);
    llama_sampler_free(sampler);
    llama_sampler_free(sampler);
}

unsafe fn a_chain_in_itself() {
    let chain = chain(&[]);
    llama_sampler_chain_add(chain, chain);
    applied(chain, &[1.0, 2.0]);
}

unsafe fn no_chain() {
    llama_sampler_chain_add(llama_sampler_init_temp(0.8), llama_sampler_init_dist(1));
}

unsafe fn times_of_no_chain() {
    llama_perf_sampler(llama_sampler_init_greedy());
}

unsafe fn copied_between_kinds() {
    llama_sampler_copy(llama_sampler_init_greedy(), llama_sampler_init_dist(1));
}

unsafe fn copied_between_lengths() {
    let two = chain(&[llama_sampler_init_top_k(4), llama_sampler_init_dist(1)]);
    llama_sampler_copy(two, chain(&[llama_sampler_init_dist(1)]));
}

unsafe extern "C" fn nothing(_: *mut llama_sampler, candidates: *mut llama_token_data_array) {
    (*candidates).size = 0;
}

/// A sampler of the caller's own.
unsafe fn custom(
    apply: Option<unsafe extern "C" fn(*mut llama_sampler, *mut llama_token_data_array)>,
) -> *mut llama_sampler {
    let mut interface: Box<llama_sampler_i> = Box::new(std::mem::zeroed());
    interface.apply = apply;
    llama_sampler_init(Box::into_raw(interface), Box::into_raw(Box::new(7_u64)).cast())
}

unsafe fn custom_that_cannot_be_cloned() {
    llama_sampler_clone(custom(Some(nothing)));
}

unsafe fn custom_that_does_nothing() {
    applied(custom(None), &[1.0, 2.0]);
}

unsafe fn custom_that_leaves_nothing() {
    applied(chain(&[custom(Some(nothing)), llama_sampler_init_typical(0.5, 1)]), &[1.0, 2.0]);
}

unsafe fn a_seed_that_is_none() {
    let draw = || {
        let sampler = llama_sampler_init_dist(LLAMA_DEFAULT_SEED);
        (0..64).map(|_| applied(sampler, &[1.0; 64]).1).collect::<Vec<_>>()
    };
    if draw() != draw() {
        wrong("two samplers of this seed draw different tokens");
    }
}

unsafe fn model_before_its_sampler() {
    let model = tiny();
    let sampler = llama_sampler_init_infill(llama_model_get_vocab(model));
    llama_model_free(model);
    applied(sampler, &[1.0; 300]);
}

unsafe fn shared_by_two_texts() {
    let sampler = chain(&[llama_sampler_init_penalties(512, 64, 1e9, 0.0, 0.0), llama_sampler_init_greedy()]);
    let logits = [1.0, 9.0, 2.0];
    let (_, first) = applied(sampler, &logits);
    llama_sampler_accept(sampler, 1);
    let (_, second) = applied(sampler, &logits);
    if first == 1 && second != 1 {
        wrong("the best token of the second text is not chosen, as the first text had it");
    }
}
