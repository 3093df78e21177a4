//! Texts that go on when they have filled their sequence.

use batch_suite::{family, params, prompt, tiny};
use fixtures::{Family, Weights};
use llama_safe::{
    Completion, Context, ContextParams, EndReason, Engine, KvLayout, Model, Request, Sampler, Shutdown, StopConditions,
    StopReason, Token, WhenFull,
};

use crate::watched;
use crate::wishes::{builder, exact};

const TOKENS: u32 = 450;

fn request(salt: u32, length: u32, keep: u32) -> Request {
    let endless = StopConditions::new().end_of_text(false);
    Request::tokens(prompt(salt, length))
        .stop(endless)
        .max_tokens(TOKENS)
        .logprobs(0)
        .when_full(WhenFull::Discard { keep })
}

/// The same in a loop: what stays is moved, or computed again.
fn alone(model: &Model, params: &ContextParams, text: &[Token], keep: u32, moves: bool) -> (Vec<Token>, Vec<f64>) {
    let mut context = Context::new(model, &params.clone().sequences(1).context_tokens(256)).unwrap();
    let room = context.limits().sequence_tokens() as usize;
    let sequence = context.new_sequence().unwrap();
    let mut batch = context.new_batch();
    let (mut text, mut computed, mut said) = (text.to_vec(), 0, Vec::new());
    let mut logprobs = Vec::new();
    let mut sampler = Sampler::greedy();
    while said.len() < TOKENS as usize {
        if text.len() > room {
            let keep = keep as usize;
            let discard = keep..keep + (text.len() - 1 - keep) / 2;
            text.drain(discard.clone());
            if moves {
                context.shift(&sequence, discard.start as u32..discard.end as u32).unwrap();
                computed -= discard.len();
            } else {
                context.clear(&sequence).unwrap();
                computed = 0;
            }
        }
        let mut slot = None;
        for token in &text[computed..] {
            slot = Some(batch.push_output(&sequence, *token).unwrap());
            context.decode(&mut batch).unwrap();
        }
        computed = text.len();
        let token = sampler.sample(context.outputs().unwrap().get(slot.unwrap()).unwrap()).unwrap();
        logprobs.push(context.outputs().unwrap().logprobs(slot.unwrap()).unwrap().get(token).unwrap());
        said.push(token);
        text.push(token);
    }
    (said, logprobs)
}

fn ask(engine: &Engine, count: u32, keep: u32) -> Vec<Completion> {
    let all: Vec<_> = (0..count).map(|salt| engine.generate(request(salt, 20 + salt * 60, keep)).unwrap()).collect();
    let all: Vec<Completion> = all.into_iter().map(|generation| generation.wait()).collect();
    for answer in &all {
        assert_eq!(answer.reason, EndReason::Stop(StopReason::Length));
        assert_eq!(answer.tokens.len() as u32, TOKENS);
        assert!(!answer.text.is_empty());
    }
    all
}

/// Bit for bit, so that the tokens are the same however long it goes on.
fn goes_on(model: &Model, moves: bool, what: &str) {
    for keep in [0, 4] {
        let engine = builder(model).sequences(3).context_tokens(3 * 256).deterministic(true).start().unwrap();
        for (salt, answer) in ask(&engine, 4, keep).into_iter().enumerate() {
            let salt = salt as u32;
            let (want, logprobs) = alone(model, &params(), &prompt(salt, 20 + salt * 60), keep, moves);
            let said: Vec<f64> = answer.logprobs.iter().map(|logprob| logprob.chosen.logprob).collect();
            assert!(said == logprobs, "{what}, {salt}, keep {keep}: other log probabilities");
            let same = answer.tokens.iter().zip(&want).take_while(|(got, want)| got == want).count();
            assert_eq!(same, want.len(), "{what}, {salt}, keep {keep}");
        }
        let stats = engine.shutdown(Shutdown::Finish);
        assert!(stats.shifts >= 4 * 2, "{what}: {stats:?}");
        assert_eq!((stats.completed, stats.failed), (4, 0));
    }
}

#[test]
fn attention_goes_on() {
    watched(|| goes_on(&tiny(Weights::Q8_0), true, "llama"));
}

#[test]
fn windows_go_on() {
    watched(|| {
        // Their cells are gone as soon as nobody sees them, so that nothing can be moved.
        goes_on(&family(Family::Gemma, Weights::Q8_0), false, "gemma");
    });
}

#[test]
fn states_go_on() {
    watched(|| {
        goes_on(&family(Family::Mamba, Weights::Q8_0), false, "mamba");
        goes_on(&family(Family::Hybrid, Weights::Q8_0), false, "hybrid");
    });
}

/// In shared cells, which four texts that never end have to share.
#[test]
fn shared_cells_go_on() {
    watched(|| {
        let model = tiny(Weights::F32);
        for (spill, cells) in [(0, 512), (1 << 20, 256)] {
            let engine = builder(&model).context(exact()).sequences(4).context_tokens(cells);
            let engine = engine.layout(KvLayout::Unified).spill_bytes(spill).start().unwrap();
            let answers = ask(&engine, 4, 4);
            assert!(answers.iter().all(|answer| answer.tokens.len() as u32 == TOKENS));
            let stats = engine.shutdown(Shutdown::Finish);
            assert!(stats.shifts > 0 && stats.preemptions > 0, "{stats:?}");
        }
    });
}
