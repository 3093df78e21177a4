//! Sampling inside the computation: the same tokens and the same distribution as outside of it, random numbers that are a
//! part of decode's transaction, and none of the ways in which llama.cpp's raw form fails.
//!
//! What the raw form does was tried on the pinned source, each case in a process of its own (release build, CPU):
//!
//! | what is done | what happens |
//! |---|---|
//! | a chain for two sequences, two contexts, or again after it was taken off | ends the process, llama-sampler.cpp:739 |
//! | a chain freed while it is set | ends the process, llama-sampler.cpp:887, or SIGSEGV at the next decode |
//! | a sampler that is no chain | accepted; the next decode ends the process, llama-sampler.cpp:887 |
//! | a row after top-k read with `llama_get_logits_ith` | k logits and an earlier decode's numbers, llama-context.cpp:4009 |
//! | top-k, then greedy | an index among the candidates in the place of a token, llama-sampler.cpp:1089 |
//! | greedy, with two equally likely tokens | the last one, where the sampler outside takes the first, ggml-cpu/vec.h:1618 |
//! | top-k with more than the vocabulary or 131,072 | ends the process, ggml.c:5472 |
//! | top-k or top-p twice, 200 steps | ends the process, ggml.c:5472, llama-sampler.cpp:1638 |
//! | a bias beyond the vocabulary, or after top-k | ends the process, llama-sampler.cpp:3995, ggml.c:2072 |
//! | min-p of 1 | the last token of the vocabulary, probabilities NaN, llama-sampler.cpp:1853 |
//! | dynamic temperature after top-p | another temperature: a best probability of 0.57 for 0.53; after top-k 1, NaN, llama-sampler.cpp:2243 |
//! | a sampler that only the CPU has in the chain | accepted; no token is chosen (-1), the row is cut, llama-sampler.cpp:753 |
//! | a decode that is aborted | its random number is gone: another text from there on, llama-sampler.cpp:1350 |
//! | several outputs a sequence, drawn and never accepted | the same draws again at each decode, llama-sampler.cpp:1430 |
//! | the seed 0xFFFFFFFF | another text in each process, llama-sampler.cpp:341 |
//! | a chain set between a decode and reading it, rows out of order | SIGSEGV, llama-context.cpp:2340 |
//! | a chain taken off between a decode and reading it | another sequence's token, llama-context.cpp:2340 |
//! | a micro-batch after one in which other samplers had outputs | another sequence's candidates (T5: 315 for 293), ggml-alloc.c:1009 |
//! | a slot that is used by another text | goes on being sampled with the chain of the text before |
//! | embeddings, or an encoder | -1 for two outputs; every token of a prompt counts as one; no token is fetched |

use batch_suite::{family, is_leak_check, model, params, prompt, still_works, tiny};
use fixtures::{Family, Llama, Weights};
use llama_safe::{
    Batch, Context, ContextParams, DecodeError, GraphSampler, GraphSamplerError, KvLayout, Model, OutputError,
    OutputSlot, Sampler, Sequence, Token,
};

const LAYOUTS: [KvLayout; 2] = [KvLayout::Split, KvLayout::Unified];

fn settings(sequences: u32) -> ContextParams {
    params().sequences(sequences).context_tokens(256 * sequences).batch_tokens(64.max(sequences)).micro_batch_tokens(16)
}

fn argmax(logits: &[f32]) -> Token {
    Sampler::greedy().sample(logits).unwrap()
}

/// A sampler that draws from the whole softmax.
fn dist(seed: u32) -> GraphSampler {
    GraphSampler::chain().dist(seed).unwrap()
}

/// All steps.
fn long(seed: u32) -> GraphSampler {
    let chain = GraphSampler::chain().logit_bias(&[(Token(5), 1.5), (Token(6), f32::NEG_INFINITY)]).unwrap();
    let chain = chain.top_k(30).unwrap().top_p(0.9).unwrap().min_p(0.02).unwrap();
    chain.temperature(1.7).unwrap().dist(seed).unwrap()
}

/// A context and texts in it.
struct Texts {
    context: Context,
    sequences: Vec<Sequence>,
}

impl Texts {
    fn new(model: &Model, params: &ContextParams, count: usize) -> Self {
        let mut context = Context::new(model, params).unwrap();
        let sequences = (0..count).map(|_| context.new_sequence().unwrap()).collect();
        Self { context, sequences }
    }

    fn set(&mut self, which: usize, sampler: &GraphSampler) {
        self.context.set_graph_sampler(&self.sequences[which], Some(sampler)).unwrap();
    }

    /// Decodes one token of each sequence, and returns what comes of each.
    fn step(&mut self, tokens: &[Token]) -> Vec<Given> {
        let mut batch = self.context.new_batch();
        let slots: Vec<OutputSlot> = self
            .sequences
            .iter()
            .zip(tokens)
            .map(|(sequence, token)| batch.push_output(sequence, *token).unwrap())
            .collect();
        self.decode(&mut batch, &slots)
    }

    fn decode(&mut self, batch: &mut Batch, slots: &[OutputSlot]) -> Vec<Given> {
        self.context.decode(batch).unwrap();
        self.read(slots)
    }

    /// The outputs of the last decode.
    fn read(&self, slots: &[OutputSlot]) -> Vec<Given> {
        let outputs = self.context.outputs().unwrap();
        let given = |slot: &OutputSlot| match outputs.sampled(*slot) {
            Ok(token) => Given::Token(token),
            Err(OutputError::NotSampled { .. }) => Given::Logits(outputs.get(*slot).unwrap().to_vec()),
            Err(error) => panic!("{error}"),
        };
        slots.iter().map(given).collect()
    }
}

#[derive(Clone, PartialEq, Debug)]
enum Given {
    Token(Token),
    Logits(Vec<f32>),
}

impl Given {
    fn token(&self) -> Token {
        match self {
            Self::Token(token) => *token,
            Self::Logits(logits) => argmax(logits),
        }
    }
}

/// Prompts of all lengths, over several micro-batches, then tokens: sequences with a sampler and without, against a context
/// that has none at all.
fn greedy_is_the_best_logit(which: Family, layout: KvLayout) {
    const COUNT: usize = 5;
    let settings = settings(COUNT as u32).kv_layout(layout);
    let model = family(which, Weights::F32);
    let [mut graph, mut plain] = [(); 2].map(|()| Texts::new(&model, &settings, COUNT));
    for which in [0, 2, 3] {
        graph.set(which, &GraphSampler::greedy());
    }
    let encodes = model.decoder_start_token();
    if encodes.is_some() {
        for texts in [&mut graph, &mut plain] {
            let mut batch = texts.context.new_encoder_batch();
            for (index, sequence) in (0u32..).zip(&texts.sequences) {
                batch.extend(sequence, &prompt(index, 2 + index % 2)).unwrap();
            }
            texts.context.encode(&mut batch).unwrap();
        }
    }
    let fill = |texts: &Texts, batch: &mut Batch| -> Vec<OutputSlot> {
        // Lengths that are not sorted, so that rows leave the computation in another order.
        let lengths = [9, 3, 14, 1, 6];
        let sequences = texts.sequences.iter().zip(lengths).zip(0u32..);
        sequences.map(|((sequence, length), index)| batch.prompt(sequence, &prompt(index, length)).unwrap()).collect()
    };
    let decode = |texts: &mut Texts| {
        let mut batch = texts.context.new_batch();
        let slots = fill(texts, &mut batch);
        texts.decode(&mut batch, &slots)
    };
    let (mut got, mut want) = (decode(&mut graph), decode(&mut plain));
    let steps = if is_leak_check() { 3 } else { 20 };
    for step in 0..steps {
        for (index, (got, want)) in got.iter().zip(&want).enumerate() {
            let what = format!("{which}, {layout:?}, step {step}, sequence {index}");
            match got {
                Given::Token(token) => assert_eq!(*token, want.token(), "{what}"),
                Given::Logits(_) => assert!(got == want, "{what}: other logits than without samplers in the batch"),
            }
            assert_eq!(matches!(got, Given::Token(_)), [0, 2, 3].contains(&index), "{what}");
        }
        let next: Vec<Token> = want.iter().map(Given::token).collect();
        got = graph.step(&next);
        want = plain.step(&next);
    }
}

#[test]
fn greedy_in_the_graph_is_the_best_logit_of_every_family_and_layout() {
    let families = [
        Family::Llama,
        Family::Qwen3,
        Family::Moe,
        Family::Gemma,
        Family::Mamba,
        Family::Hybrid,
        Family::Rwkv,
        Family::Qwen2Vl,
        Family::T5,
    ];
    for which in families {
        for layout in LAYOUTS {
            greedy_is_the_best_logit(which, layout);
        }
    }
}

/// Pearson's statistic of counts against probabilities, with what is rarer than 10 counts in one bin, and its degrees of freedom.
fn chi_square(counts: &[usize], probabilities: &[f64]) -> (f64, usize) {
    let draws: usize = counts.iter().sum();
    let (mut statistic, mut bins) = (0.0, 0);
    let mut rest = (0usize, 0.0);
    let mut add = |count: usize, expected: f64| {
        statistic += (count as f64 - expected).powi(2) / expected;
        bins += 1;
    };
    for (count, probability) in counts.iter().zip(probabilities) {
        let expected = probability * draws as f64;
        if expected < 10.0 {
            assert!(expected > 0.0 || *count == 0, "a token that was ruled out");
            rest = (rest.0 + count, rest.1 + expected);
        } else {
            add(*count, expected);
        }
    }
    if rest.1 > 0.0 {
        add(rest.0, rest.1);
    }
    (statistic, bins - 1)
}

/// What is passed by chance once in ten thousand times (Wilson and Hilferty's approximation).
fn critical(freedom: usize) -> f64 {
    let n = freedom as f64;
    n * (1.0 - 2.0 / (9.0 * n) + 3.719 * (2.0 / (9.0 * n)).sqrt()).powi(3)
}

fn softmax(logits: impl Iterator<Item = f64> + Clone) -> Vec<f64> {
    let highest = logits.clone().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = logits.clone().map(|logit| (logit - highest).exp()).sum();
    logits.map(|logit| (logit - highest).exp() / total).collect()
}

/// The distribution of [`long`], written down once more from the papers.
fn long_distribution(logits: &[f32]) -> Vec<f64> {
    let mut logits: Vec<f64> = logits.iter().map(|logit| f64::from(*logit)).collect();
    logits[5] += 1.5;
    logits[6] = f64::NEG_INFINITY;
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    for token in order.drain(30..) {
        logits[token] = f64::NEG_INFINITY;
    }
    let probabilities = softmax(logits.iter().copied());
    let mut sum = 0.0;
    for token in &order {
        if sum >= 0.9 {
            logits[*token] = f64::NEG_INFINITY;
        }
        sum += probabilities[*token];
    }
    let least = logits[order[0]] + 0.02f64.ln();
    softmax(logits.iter().map(|logit| if *logit < least { f64::NEG_INFINITY } else { logit / 1.7 }))
}

#[test]
fn draws_follow_the_softmax() {
    let draws = if is_leak_check() { 1_600 } else { 100_000 };
    const SEQUENCES: usize = 100;
    const VOCABULARY: usize = 258;
    let shape =
        Llama { vocabulary: VOCABULARY as u32, layers: 1, width: 32, heads: 2, feed_forward: 32, ..Llama::tiny() };
    let model = model(&shape, Weights::F32, 3);
    let settings = settings(SEQUENCES as u32).micro_batch_tokens(SEQUENCES as u32).context_tokens(256);
    let settings = settings.kv_layout(KvLayout::Unified);
    let mut texts = Texts::new(&model, &settings, SEQUENCES);
    let tokens = [Token(17); SEQUENCES];
    // A first token without samplers tells the distribution.
    let logits = match texts.step(&tokens).swap_remove(0) {
        Given::Logits(logits) => logits,
        Given::Token(_) => panic!("no sampler was set"),
    };
    let wanted = [softmax(logits.iter().map(|logit| f64::from(*logit))), long_distribution(&logits)];
    assert!(wanted.iter().all(|wanted| wanted.iter().filter(|p| **p > 1e-3).count() > 8), "a choice worth the name");
    for index in 0..SEQUENCES {
        let seed = 1000 + index as u32;
        texts.set(index, &if index % 5 == 0 { long(seed) } else { dist(seed) });
    }
    let mut counts = [[0usize; VOCABULARY]; 2];
    // Four of five sequences draw from the whole softmax.
    for _ in 0..draws * 5 / 4 / SEQUENCES {
        for sequence in &texts.sequences {
            texts.context.clear(sequence).unwrap();
        }
        for (index, given) in texts.step(&tokens).iter().enumerate() {
            counts[usize::from(index % 5 == 0)][given.token().0 as usize] += 1;
        }
    }
    for ((counts, wanted), draws) in counts.iter().zip(&wanted).zip([draws, draws / 4]) {
        assert_eq!(counts.iter().sum::<usize>(), draws);
        let (statistic, freedom) = chi_square(counts, wanted);
        assert!(statistic < critical(freedom), "chi-square {statistic} with {freedom} degrees of freedom");
    }
}

#[test]
fn what_is_handed_out_is_what_was_drawn_from() {
    let model = tiny(Weights::F32);
    let mut texts = Texts::new(&model, &settings(5), 5);
    let mut plain = Texts::new(&model, &settings(5), 5);
    let top = |k| GraphSampler::chain().top_k(k).unwrap();
    texts.set(0, &dist(3));
    texts.set(1, &long(3));
    texts.set(2, &top(12).candidates().unwrap());
    texts.set(3, &top(1_000).temperature(0.5).unwrap().candidates().unwrap());
    texts.set(4, &GraphSampler::greedy());
    for step in 0..4 {
        let tokens = prompt(step, 5);
        let want: Vec<Vec<f32>> = plain
            .step(&tokens)
            .into_iter()
            .map(|given| if let Given::Logits(logits) = given { logits } else { panic!("no sampler was set") })
            .collect();
        let mut batch = texts.context.new_batch();
        let slots: Vec<_> =
            texts.sequences.iter().zip(&tokens).map(|(s, t)| batch.push_output(s, *t).unwrap()).collect();
        let outputs = texts.context.decode(&mut batch).unwrap();
        let candidates = |index: usize| outputs.candidates(slots[index]).unwrap();

        for (index, wanted) in
            [(0, softmax(want[0].iter().map(|logit| f64::from(*logit)))), (1, long_distribution(&want[1]))]
        {
            assert!(candidates(index).are_probabilities());
            let mut found = vec![0.0; 512];
            candidates(index).iter().for_each(|(token, probability)| found[token.0 as usize] = f64::from(probability));
            for (token, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
                assert!((found - wanted).abs() < 1e-5, "sequence {index}, token {token}: {found} for {wanted}");
            }
            let chosen = outputs.sampled(slots[index]).unwrap();
            assert!(found[chosen.0 as usize] > 0.0);
        }
        for (index, count, factor) in [(2, 12, 1.0), (3, 512, 2.0), (4, 8, 1.0)] {
            assert!(!candidates(index).are_probabilities());
            let mut best: Vec<usize> = (0..512).collect();
            best.sort_by(|a, b| want[index][*b].total_cmp(&want[index][*a]));
            let mut found: Vec<(Token, f32)> = candidates(index).iter().collect();
            found.sort_by(|a, b| b.1.total_cmp(&a.1));
            let wanted: Vec<(Token, f32)> =
                best[..count].iter().map(|token| (Token(*token as i32), want[index][*token] * factor)).collect();
            assert_eq!(found, wanted);
        }
        for index in [2, 3] {
            let row = index as u32;
            assert_eq!(outputs.sampled(slots[index]), Err(OutputError::NothingChosen { row }));
        }
    }
}

/// The same random numbers, over the whole vocabulary, as llama.cpp's sampler outside of the graph draws.
#[test]
fn a_seed_draws_what_it_draws_outside_of_the_graph() {
    let model = tiny(Weights::F32);
    let mut graph = Texts::new(&model, &settings(1), 1);
    let mut plain = Texts::new(&model, &settings(1), 1);
    graph.set(0, &dist(77));
    // SAFETY: makes a sampler, freed below.
    let raw = unsafe { llama_sys::llama_sampler_init_dist(77) };
    let mut token = Token(4);
    for step in 0..if is_leak_check() { 5 } else { 200 } {
        let Given::Logits(logits) = plain.step(&[token]).swap_remove(0) else { panic!("no sampler was set") };
        let data = |(id, logit): (i32, &f32)| llama_sys::llama_token_data { id, logit: *logit, p: 0.0 };
        let mut data: Vec<_> = (0i32..).zip(&logits).map(data).collect();
        let size = data.len();
        let mut array =
            llama_sys::llama_token_data_array { data: data.as_mut_ptr(), size, selected: -1, sorted: false };
        // SAFETY: the sampler lives, and the array has as many candidates as it says.
        unsafe { llama_sys::llama_sampler_apply(raw, &mut array) };
        let want = Token(data[array.selected as usize].id);
        assert_eq!(graph.step(&[token]), [Given::Token(want)], "step {step}");
        token = want;
    }
    // SAFETY: nothing uses it any more.
    unsafe { llama_sys::llama_sampler_free(raw) };
}

/// The text of one sequence that begins with a prompt and goes on by drawing.
fn text(texts: &mut Texts, which: usize, length: u32) -> Vec<Token> {
    let mut batch = texts.context.new_batch();
    let mut slot = batch.prompt(&texts.sequences[which], &prompt(which as u32, 5)).unwrap();
    let mut tokens = Vec::new();
    for _ in 0..length {
        let token = texts.decode(&mut batch, &[slot])[0].token();
        tokens.push(token);
        slot = batch.push_output(&texts.sequences[which], token).unwrap();
    }
    tokens
}

/// Quantised weights and split cells: bit for bit the same logits, so that no draw can fall on the other side of a border.
#[test]
fn a_seed_gives_the_same_text_whatever_else_is_in_the_batch() {
    let model = tiny(Weights::Q8_0);
    let length = if is_leak_check() { 3 } else { 24 };
    let want: Vec<Vec<Token>> = (0..4)
        .map(|which| {
            let mut alone = Texts::new(&model, &settings(4), 4);
            alone.set(which, &long(50 + which as u32));
            text(&mut alone, which, length)
        })
        .collect();
    assert!((1..4).all(|which| want[which] != want[0]));

    // Together, in small micro-batches, one beginning late, others without sampler in between.
    let mut texts = Texts::new(&model, &settings(6).micro_batch_tokens(4), 6);
    for which in 0..4 {
        texts.set(which, &long(50 + which as u32));
    }
    let mut got = vec![Vec::new(); 4];
    let mut batch = texts.context.new_batch();
    for step in 0..length + 3 {
        let mut slots = Vec::new();
        let mut whose = Vec::new();
        // Now in one order, now in the other.
        let order: Vec<usize> = if step % 2 == 0 { (0..6).collect() } else { (0..6).rev().collect() };
        for which in order {
            let begins = if which == 2 { 3 } else { 0 };
            if step < begins {
                continue;
            }
            let sequence = &texts.sequences[which];
            let slot = match which {
                4 => batch.prompt(sequence, &prompt(99 + step, 1 + step % 3)).unwrap(),
                5 => {
                    batch.push(sequence, Token(7)).unwrap();
                    continue;
                }
                _ if step == begins => batch.prompt(sequence, &prompt(which as u32, 5)).unwrap(),
                _ => batch.push_output(sequence, *got[which].last().unwrap()).unwrap(),
            };
            slots.push(slot);
            whose.push(which);
        }
        for (which, given) in whose.into_iter().zip(texts.decode(&mut batch, &slots)) {
            match given {
                Given::Token(token) => got[which].push(token),
                Given::Logits(_) => assert_eq!(which, 4),
            }
        }
    }
    for (got, want) in got.iter().zip(&want) {
        assert_eq!(got[..length as usize], want[..]);
    }
}

#[test]
fn a_decode_that_is_aborted_draws_nothing() {
    for (which, layout) in [
        (Family::Llama, KvLayout::Split),
        (Family::Llama, KvLayout::Unified),
        (Family::Gemma, KvLayout::Split),
        (Family::Hybrid, KvLayout::Split),
    ] {
        let model = family(which, Weights::F32);
        // Several micro-batches, so that an abort comes after some draws and before others.
        let settings = settings(4).kv_layout(layout).micro_batch_tokens(4);
        let [mut hindered, mut smooth] = [(); 2].map(|()| {
            let mut texts = Texts::new(&model, &settings, 4);
            for index in 0..3 {
                texts.set(index, &if index == 1 { long(9) } else { dist(7 + index as u32) });
            }
            texts
        });
        let abort = hindered.context.abort_handle();
        let mut aborted = 0;
        for round in 0u32..if is_leak_check() { 2 } else { 12 } {
            let fill = |texts: &Texts, batch: &mut Batch| -> Vec<OutputSlot> {
                let sequences = texts.sequences.iter().zip(0u32..);
                let all = sequences.map(|(sequence, index)| {
                    batch.prompt(sequence, &prompt(round + index, 1 + (round + index) % 3)).unwrap()
                });
                all.collect()
            };
            let mut batch = hindered.context.new_batch();
            let mut slots = fill(&hindered, &mut batch);
            for checks in [0, 40 + 61 * round, 900] {
                abort.abort_after(checks);
                match hindered.context.decode(&mut batch) {
                    Ok(_) => break,
                    Err(DecodeError::Aborted { damaged }) => {
                        aborted += 1;
                        if !damaged.is_empty() {
                            // A state that cannot go back: both texts begin anew, and their random numbers go on.
                            hindered.context.clear_all().unwrap();
                            smooth.context.clear_all().unwrap();
                            batch.clear();
                            slots = fill(&hindered, &mut batch);
                        }
                    }
                    Err(error) => panic!("{which}: {error}"),
                }
            }
            abort.reset();
            if !batch.is_empty() {
                hindered.context.decode(&mut batch).unwrap();
            }
            let got = hindered.read(&slots);
            let mut batch = smooth.context.new_batch();
            let slots = fill(&smooth, &mut batch);
            let want = smooth.decode(&mut batch, &slots);
            for (index, (got, want)) in got.iter().zip(&want).enumerate() {
                assert_eq!(got.token(), want.token(), "{which}, {layout:?}, round {round}, sequence {index}");
            }
        }
        assert!(aborted > 1, "{which}: aborts came in time");
    }
}

#[test]
fn a_decode_without_room_draws_nothing() {
    let model = tiny(Weights::F32);
    let settings = settings(2).context_tokens(256).kv_layout(KvLayout::Unified);
    let mut texts = Texts::new(&model, &settings, 2);
    let mut other = Texts::new(&model, &settings, 2);
    texts.set(0, &dist(5));
    other.set(0, &dist(5));
    let want = text(&mut other, 0, 6);
    let mut batch = texts.context.new_batch();
    while texts.sequences[1].len() < 240 {
        batch.extend(&texts.sequences[1], &prompt(1, 60)).unwrap();
        texts.context.decode(&mut batch).unwrap();
    }
    for _ in 0..3 {
        batch.prompt(&texts.sequences[0], &prompt(0, 20)).unwrap();
        assert!(matches!(texts.context.decode(&mut batch), Err(DecodeError::NoSlot { .. })));
        batch.clear();
    }
    texts.context.clear(&texts.sequences[1]).unwrap();
    assert_eq!(text(&mut texts, 0, 6), want);
}

#[test]
fn a_sampled_row_has_no_logits_and_another_row_no_token() {
    let mut texts = Texts::new(&tiny(Weights::F32), &settings(2), 2);
    let top = GraphSampler::chain().top_k(5).unwrap().dist(1).unwrap();
    texts.set(0, &top);
    let mut batch = texts.context.new_batch();
    let a = batch.push_output(&texts.sequences[0], Token(3)).unwrap();
    let b = batch.push_output(&texts.sequences[1], Token(3)).unwrap();
    let outputs = texts.context.decode(&mut batch).unwrap();
    assert_eq!(outputs.get(a), Err(OutputError::SampledInGraph { row: 0 }));
    assert_eq!(outputs.sampled(b), Err(OutputError::NotSampled { row: 1 }));
    assert_eq!(outputs.candidates(b).unwrap_err(), OutputError::NotSampled { row: 1 });
    assert_eq!(outputs.candidates(a).unwrap().iter().count(), 5);
    assert_eq!(outputs.get(b).unwrap().len(), 512);
    let error = outputs.get(a).unwrap_err().to_string();
    assert!(error.contains("sampled()"), "{error}");

    let c = batch.push_output(&texts.sequences[0], Token(4)).unwrap();
    let outputs = texts.context.decode(&mut batch).unwrap();
    assert_eq!(outputs.sampled(a), Err(OutputError::OtherDecode));
    assert_eq!(outputs.candidates(a).unwrap_err(), OutputError::OtherDecode);
    outputs.sampled(c).unwrap();
    let batch_of_other = texts.context.new_batch();
    assert!(batch_of_other.is_empty());
}

#[test]
fn several_outputs_of_a_sampled_sequence_are_refused_before_anything_is_computed() {
    let mut texts = Texts::new(&tiny(Weights::F32), &settings(2), 2);
    texts.set(1, &dist(5));
    let before = texts.step(&[Token(3), Token(4)]);
    let mut batch = texts.context.new_batch();
    for (sequence, token) in [(0, 5), (0, 6), (1, 7), (1, 8), (1, 9)] {
        batch.push_output(&texts.sequences[sequence], Token(token)).unwrap();
    }
    let id = texts.sequences[1].id();
    let error = texts.context.decode(&mut batch).unwrap_err();
    assert_eq!(error, DecodeError::SeveralSampled { id, outputs: 3 });
    assert_eq!(batch.len(), 5);
    assert!(texts.sequences.iter().all(|sequence| sequence.len() == 1));
    assert!(texts.context.outputs().is_some(), "the outputs before are still there");
    assert!(matches!(before[1], Given::Token(_)));
    // Without its sampler it may.
    texts.context.set_graph_sampler(&texts.sequences[1], None).unwrap();
    texts.context.decode(&mut batch).unwrap();
    assert_eq!(texts.sequences[1].len(), 4);
}

/// Taken off, released and leased again, replaced, set again: a chain of the C library is never used for what it was not set for.
#[test]
fn samplers_come_and_go() {
    let model = tiny(Weights::F32);
    let mut texts = Texts::new(&model, &settings(3), 3);
    let mut plain = Texts::new(&model, &settings(3), 3);
    let tokens = [Token(3), Token(4), Token(5)];
    let rounds = if is_leak_check() { 8 } else { 60 };
    for round in 0u32..rounds {
        let which = round as usize % 3;
        let sequence = &texts.sequences[which];
        match (round / 3) % 5 {
            0 => texts.context.set_graph_sampler(sequence, Some(&dist(round))).unwrap(),
            1 => texts.context.set_graph_sampler(sequence, Some(&GraphSampler::greedy())).unwrap(),
            2 => texts.context.set_graph_sampler(sequence, None).unwrap(),
            3 => texts.context.set_graph_sampler(sequence, Some(&long(round))).unwrap(),
            _ => {
                // The slot's next lease starts without sampler.
                for texts in [&mut texts, &mut plain] {
                    drop(texts.sequences.remove(which));
                    texts.sequences.insert(which, texts.context.new_sequence().unwrap());
                }
                assert_eq!(texts.context.graph_sampler(&texts.sequences[which]).unwrap(), None);
            }
        }
        let has: Vec<bool> =
            texts.sequences.iter().map(|sequence| texts.context.graph_sampler(sequence).unwrap().is_some()).collect();
        let (got, want) = (texts.step(&tokens), plain.step(&tokens));
        for ((got, want), has) in got.iter().zip(&want).zip(has) {
            match got {
                Given::Logits(_) => assert!(!has && got == want, "round {round}"),
                Given::Token(_) => assert!(has, "round {round}"),
            }
        }
    }
}

/// Where rows leave the computation in another order than that of the batch: llama.cpp puts them in order when they are read.
#[test]
fn samplers_may_change_between_a_decode_and_its_reading() {
    for which in [Family::Mamba, Family::Hybrid, Family::Llama] {
        let model = family(which, Weights::F32);
        let [mut texts, mut plain] = [(); 2].map(|()| Texts::new(&model, &settings(5), 4));
        for round in 0..6 {
            let decode = |texts: &mut Texts| -> Vec<OutputSlot> {
                let mut batch = texts.context.new_batch();
                let sequences = texts.sequences.iter().zip([5, 1, 3, 2]);
                let slots = sequences
                    .map(|(sequence, length)| batch.prompt(sequence, &prompt(round + length, length)).unwrap())
                    .collect();
                texts.context.decode(&mut batch).unwrap();
                slots
            };
            let (got, want) = (decode(&mut texts), decode(&mut plain));
            for sequence in &texts.sequences[..3] {
                let sampler = (round % 2 == 0).then(GraphSampler::greedy);
                texts.context.set_graph_sampler(sequence, sampler.as_ref()).unwrap();
            }
            // A sequence that comes and goes in the last slot.
            let passing = texts.context.new_sequence().unwrap();
            texts.context.set_graph_sampler(&passing, Some(&dist(round))).unwrap();
            drop(passing);
            for (index, (got, want)) in texts.read(&got).iter().zip(plain.read(&want)).enumerate() {
                assert_eq!(got.token(), want.token(), "{which}, round {round}");
                assert_eq!(matches!(got, Given::Token(_)), round % 2 == 1 && index < 3, "{which}, round {round}");
            }
        }
    }
}

#[test]
fn a_fork_has_no_sampler_and_a_saved_sequence_neither() {
    let mut texts = Texts::new(&tiny(Weights::F32), &settings(3), 1);
    texts.set(0, &dist(3));
    texts.step(&[Token(3)]);
    let fork = texts.context.fork(&texts.sequences[0]).unwrap();
    assert_eq!(texts.context.graph_sampler(&fork).unwrap(), None);
    let state = texts.context.save(&texts.sequences[0]).unwrap();
    let restored = texts.context.restore(&state).unwrap();
    assert_eq!(texts.context.graph_sampler(&restored).unwrap(), None);
    assert_eq!(texts.context.graph_sampler(&texts.sequences[0]).unwrap(), Some(&dist(3)));
    texts.sequences.extend([fork, restored]);
    let given = texts.step(&[Token(4); 3]);
    assert!(matches!(given[0], Given::Token(_)));
    assert!(matches!(given[1], Given::Logits(_)));
    assert_eq!(given[1], given[2]);
}

#[test]
fn the_same_seed_set_again_begins_anew() {
    let mut texts = Texts::new(&tiny(Weights::Q8_0), &settings(1), 1);
    let run = |texts: &mut Texts| {
        texts.set(0, &dist(8));
        texts.context.clear(&texts.sequences[0]).unwrap();
        text(texts, 0, 12)
    };
    let first = run(&mut texts);
    assert_eq!(run(&mut texts), first, "the chain that was there, with the state of a new one");
    texts.set(0, &GraphSampler::greedy());
    texts.context.clear(&texts.sequences[0]).unwrap();
    text(&mut texts, 0, 2);
    assert_eq!(run(&mut texts), first, "a new chain");
    // Leased anew, in the same slot.
    texts.sequences.clear();
    let sequence = texts.context.new_sequence().unwrap();
    texts.sequences.push(sequence);
    assert_eq!(run(&mut texts), first, "another lease");
}

#[test]
fn one_sampler_serves_many_sequences_and_contexts_dropped_in_any_order() {
    let model = tiny(Weights::Q8_0);
    let sampler = long(4);
    let mut one = Texts::new(&model, &settings(2), 2);
    let mut two = Texts::new(&model, &settings(2), 2);
    for texts in [&mut one, &mut two] {
        texts.set(0, &sampler);
        texts.set(1, &sampler);
    }
    drop(sampler);
    drop(model);
    let a = text(&mut one, 0, 8);
    assert_eq!(text(&mut two, 0, 8), a);
    let Texts { context, sequences } = one;
    drop(context);
    drop(sequences);
    assert_eq!(text(&mut two, 1, 8).len(), 8);
    let Texts { mut context, sequences } = two;
    drop(sequences);
    let sequence = context.new_sequence().unwrap();
    let mut batch = context.new_batch();
    let slot = batch.push_output(&sequence, Token(3)).unwrap();
    assert_eq!(context.decode(&mut batch).unwrap().get(slot).unwrap().len(), 512);
}

#[test]
fn what_does_not_fit_is_refused_and_the_context_goes_on() {
    let model = tiny(Weights::F32);
    let mut context = Context::new(&model, &batch_suite::exact_params()).unwrap();
    let sequence = context.new_sequence().unwrap();
    let bias = |token| GraphSampler::chain().logit_bias(&[(Token(token), 1.0)]).unwrap().greedy();
    for token in [512, -1] {
        let error = context.set_graph_sampler(&sequence, Some(&bias(token))).unwrap_err();
        assert_eq!(error, GraphSamplerError::TokenOutOfRange { token: Token(token), vocabulary: 512 });
    }
    let all: Vec<(Token, f32)> = (0..512).map(|token| (Token(token), f32::NEG_INFINITY)).collect();
    let nothing = GraphSampler::chain().logit_bias(&all).unwrap().dist(1).unwrap();
    let error = context.set_graph_sampler(&sequence, Some(&nothing)).unwrap_err();
    assert_eq!(error, GraphSamplerError::NothingAllowed { vocabulary: 512 });
    assert_eq!(context.graph_sampler(&sequence).unwrap(), None);

    let mut other = Context::new(&model, &settings(1)).unwrap();
    let foreign = other.new_sequence().unwrap();
    let error = context.set_graph_sampler(&foreign, Some(&GraphSampler::greedy())).unwrap_err();
    assert!(matches!(error, GraphSamplerError::Sequence(_)), "{error}");
    assert!(matches!(context.graph_sampler(&foreign), Err(GraphSamplerError::Sequence(_))));
    still_works(&mut context);

    // More candidates than there are tokens, and the only token that is not forbidden.
    let top = GraphSampler::chain().top_k(131_072).unwrap().dist(1).unwrap();
    context.set_graph_sampler(&sequence, Some(&top)).unwrap();
    let mut batch = context.new_batch();
    let slot = batch.push_output(&sequence, Token(3)).unwrap();
    assert_eq!(context.decode(&mut batch).unwrap().candidates(slot).unwrap().iter().count(), 512);
    let one = GraphSampler::chain().logit_bias(&all[1..]).unwrap();
    for one in [one.clone().greedy(), one.clone().dist(1).unwrap(), one.top_k(1).unwrap().dist(1).unwrap()] {
        context.set_graph_sampler(&sequence, Some(&one)).unwrap();
        let slot = batch.push_output(&sequence, Token(3)).unwrap();
        let outputs = context.decode(&mut batch).unwrap();
        assert_eq!(outputs.sampled(slot), Ok(Token(0)));
        assert_eq!(outputs.candidates(slot).unwrap().iter().map(|(token, _)| token).collect::<Vec<_>>(), [Token(0)]);
    }
    still_works(&mut context);
}

#[test]
fn contexts_without_rows_of_logits_refuse_samplers() {
    let refused = |model: &Model, params: &ContextParams| {
        let mut context = Context::new(model, params).unwrap();
        let sequence = context.new_sequence().unwrap();
        context.set_graph_sampler(&sequence, Some(&GraphSampler::greedy())).unwrap_err()
    };
    assert_eq!(refused(&tiny(Weights::F32), &settings(2).embeddings(true)), GraphSamplerError::NoLogits);
    for which in [Family::Bert, Family::Reranker, Family::T5Encoder, Family::Diffusion] {
        assert_eq!(refused(&family(which, Weights::F32), &settings(2)), GraphSamplerError::NoLogits, "{which}");
    }
}

/// Rows of a head that are the same give the same logits: the lowest id counts, as outside of the graph.
#[test]
fn of_equally_likely_tokens_the_first_is_taken() {
    let mut texts = Texts::new(&tiny(Weights::F32), &settings(1), 1);
    // Biases that make tokens exactly equal: all others are forbidden, and rounding takes the logits away.
    let others = (0..512).filter(|token| ![40, 9, 300].contains(token)).map(|token| (Token(token), f32::NEG_INFINITY));
    let equal = [40, 9, 300].map(|token| (Token(token), 1e12));
    let biases: Vec<(Token, f32)> = others.chain(equal).collect();
    texts.set(0, &GraphSampler::chain().logit_bias(&biases).unwrap().greedy());
    assert_eq!(texts.step(&[Token(3)]), [Given::Token(Token(9))]);
}

#[test]
fn logits_that_are_no_numbers_are_an_error() {
    let model = family(Family::Gemma, Weights::F32);
    let mut context = Context::new(&model, &batch_suite::exact_params()).unwrap();
    let sequence = context.new_sequence().unwrap();
    let width = model.width() as usize;
    let last = model.layers() - 1;
    context.set_control_vector(&vec![f32::MAX; width * last as usize], 1..=last).unwrap();
    let mut batch = context.new_batch();
    for sampler in [GraphSampler::greedy(), dist(1), long(1)] {
        context.set_graph_sampler(&sequence, Some(&sampler)).unwrap();
        let slot = batch.prompt(&sequence, &prompt(2, 20)).unwrap();
        let outputs = context.decode(&mut batch).unwrap();
        assert_eq!(outputs.sampled(slot), Err(OutputError::NotNumbers { row: 19 }), "{sampler:?}");
        assert_eq!(outputs.candidates(slot).unwrap_err(), OutputError::NotNumbers { row: 19 });
    }
    context.clear_control_vector().unwrap();
    context.clear_all().unwrap();
    let slot = batch.prompt(&sequence, &prompt(2, 20)).unwrap();
    context.decode(&mut batch).unwrap().sampled(slot).unwrap();
}
