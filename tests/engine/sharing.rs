//! What is in memory is not computed again.

use batch_suite::{family, prompt, tiny};
use fixtures::{Family, Weights};
use llama_safe::{Completion, Engine, KvLayout, Model, Request, Sampler, Shutdown, Stats};

use crate::watched;
use crate::wishes::{EXACT, NOISE, Wish, all_alone, ask, assert_answers, builder, exact};

const PROMPT: u32 = 100;

/// The same prompt by several samplers, each of which gives what it gives alone.
fn each(model: &Model, layout: KvLayout, count: u32, what: &str) {
    let builder = builder(model).context(exact()).sequences(4).context_tokens(4 * 256).layout(layout);
    let engine = builder.start().unwrap();
    let samplers: Vec<Sampler> = (0..count)
        .map(|seed| match seed {
            0 => Sampler::greedy(),
            seed => Sampler::chain().temperature(1.0).unwrap().dist(seed),
        })
        .collect();
    let wish = Wish::greedy(1, PROMPT, 12);
    let wishes: Vec<Wish> = samplers.iter().map(|sampler| Wish { sampler: sampler.clone(), ..wish.clone() }).collect();
    let want = all_alone(model, &exact(), &wishes, NOISE);
    let answers = engine.generate_each(wish.request(), samplers).unwrap();
    let answers: Vec<Completion> = answers.into_iter().map(|generation| generation.wait()).collect();
    assert_answers(&answers, &want, EXACT, 70, what);
    assert!(answers.iter().skip(1).any(|answer| answer.tokens != answers[0].tokens), "{what}: all the same");
    let reused: Vec<u32> = answers.iter().map(|answer| answer.reused_tokens).collect();
    let others = u64::from(count) - 1;
    assert_eq!(reused[0], 0, "{what}");
    assert!(reused[1..].iter().all(|reused| *reused == PROMPT - 1), "{what}: {reused:?}");
    let stats = engine.shutdown(Shutdown::Finish);
    // Once, and its last token for each.
    assert_eq!(stats.prompt_tokens, u64::from(PROMPT) + others, "{what}: {stats:?}");
    assert_eq!((stats.prefix_hits, stats.reused_tokens), (others, others * u64::from(PROMPT - 1)), "{what}");
}

#[test]
fn a_prompt_for_several_samplers_is_computed_once() {
    watched(|| {
        let model = tiny(Weights::F32);
        each(&model, KvLayout::Split, 6, "split");
        each(&model, KvLayout::Unified, 6, "unified");
        // States cannot go back to the prompt: it is there for those that begin together.
        each(&family(Family::Mamba, Weights::F32), KvLayout::Split, 4, "mamba");
        each(&family(Family::Hybrid, Weights::F32), KvLayout::Split, 4, "hybrid");
    });
}

fn follow(engine: &Engine, model: &Model, wishes: &[Wish], what: &str) -> Vec<Completion> {
    let want = all_alone(model, &exact(), wishes, NOISE);
    // One after the other, so that it is known who finds what.
    let got: Vec<Completion> = wishes.iter().flat_map(|wish| ask(engine, std::slice::from_ref(wish))).collect();
    assert_answers(&got, &want, EXACT, 90, what);
    got
}

/// A conversation: each prompt is the last one, its answer, and more.
#[test]
fn a_text_that_goes_on() {
    watched(|| {
        for which in [Family::Llama, Family::Qwen3, Family::Mamba, Family::Hybrid] {
            let model = family(which, Weights::F32);
            let engine = builder(&model).context(exact()).sequences(2).context_tokens(512).start().unwrap();
            let mut text = prompt(1, 40);
            for turn in 0..4 {
                let wish = Wish { prompt: text.clone(), ..Wish::greedy(0, 1, 8) };
                let answer = follow(&engine, &model, &[wish], &format!("{which}, turn {turn}")).remove(0);
                let known = if turn == 0 { 0 } else { text.len() as u32 - 6 };
                // All but the last token of the answer, which was said and not computed.
                assert_eq!(answer.reused_tokens, known, "{which}, turn {turn}");
                text.extend(&answer.tokens);
                text.extend(prompt(50 + turn, 5));
            }
        }
    });
}

/// Instructions that many prompts begin with, in cells of their own and in shared ones.
#[test]
fn instructions_in_common() {
    watched(|| {
        let model = tiny(Weights::F32);
        for layout in [KvLayout::Split, KvLayout::Unified] {
            let engine = builder(&model).context(exact()).sequences(4).context_tokens(1024).layout(layout);
            let engine = engine.start().unwrap();
            let base = prompt(9, 90);
            let wishes: Vec<Wish> = (0..10)
                .map(|index| Wish { prompt: [&*base, &prompt(index, 10)].concat(), ..Wish::greedy(0, 1, 6) })
                .collect();
            let got = follow(&engine, &model, &wishes, &format!("{layout:?}"));
            assert!(got[1..].iter().all(|answer| answer.reused_tokens >= 90), "{layout:?}");
            let at_once: u32 = ask(&engine, &wishes).iter().map(|answer| answer.reused_tokens).sum();
            assert!(at_once >= 900, "{layout:?}: {at_once}");
            let stats = engine.shutdown(Shutdown::Finish);
            assert!(stats.prefix_hits >= 19 && stats.reused_tokens >= 19 * 90, "{layout:?}: {stats:?}");
        }
    });
}

/// Beginnings that take turns in too little room: those that left the context come back.
fn cold(model: &Model, spill: usize, what: &str) -> Stats {
    let engine = builder(model).context(exact()).sequences(2).context_tokens(512).spill_bytes(spill).start().unwrap();
    let wishes: Vec<Wish> = (0..12)
        .map(|index| Wish { prompt: [prompt(40 + index % 4, 60), prompt(index, 4)].concat(), ..Wish::greedy(0, 1, 5) })
        .collect();
    follow(&engine, model, &wishes, what);
    engine.shutdown(Shutdown::Finish)
}

#[test]
fn a_cold_beginning_comes_back() {
    watched(|| {
        for which in [Family::Llama, Family::Qwen2, Family::Mamba, Family::Hybrid] {
            let model = family(which, Weights::F32);
            let without = cold(&model, 0, &format!("{which} without"));
            assert_eq!((without.spilled, without.restored, without.spilled_bytes), (0, 0, 0));
            let with = cold(&model, 64 << 20, &format!("{which} with"));
            assert!(with.spilled > 0 && with.spilled_bytes > 0, "{which}: {with:?}");
            if which == Family::Llama || which == Family::Qwen2 {
                assert!(with.restored > 0, "{which}: {with:?}");
                assert!(with.prompt_tokens < without.prompt_tokens, "{which}: {with:?}");
            }
        }
    });
}

#[test]
fn nothing_is_shared_where_that_is_not_wanted() {
    watched(|| {
        let model = tiny(Weights::F32);
        let engine = builder(&model).context(exact()).sequences(2).context_tokens(512).share_prefixes(false);
        let engine = engine.start().unwrap();
        for _ in 0..3 {
            let answer = engine.generate(Request::tokens(prompt(1, 60)).max_tokens(3)).unwrap().wait();
            assert_eq!(answer.reused_tokens, 0);
        }
        let stats = engine.shutdown(Shutdown::Finish);
        assert_eq!((stats.prompt_tokens, stats.cached, stats.kv_used), (180, 0, 0), "{stats:?}");
    });
}
