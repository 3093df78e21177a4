//! What requests ask for, and what each gets in a loop of one token at a time: the oracle.

use batch_suite::{params, prompt, soak::is_steady};
use llama_safe::{
    Completion, Context, ContextParams, EndReason, Engine, EngineBuilder, FlashAttention, Generation, KvType, Model,
    Penalties, Request, Sampler, StopConditions, StopReason, Token,
};

/// A request that can be answered in a loop as well.
#[derive(Clone)]
pub struct Wish {
    pub prompt: Vec<Token>,
    pub sampler: Sampler,
    pub tokens: u32,
}

impl Wish {
    pub fn greedy(salt: u32, length: u32, tokens: u32) -> Self {
        Self { prompt: prompt(salt, length), sampler: Sampler::greedy(), tokens }
    }

    pub fn request(&self) -> Request {
        Request::tokens(self.prompt.clone()).sampler(self.sampler.clone()).max_tokens(self.tokens).logprobs(2)
    }
}

/// Requests of all kinds: short and long, greedy and seeded, with beginnings of their own and in common.
pub fn wishes(count: u32) -> Vec<Wish> {
    (0..count)
        .map(|index| {
            let own = prompt(index, 1 + index * 13 % 45);
            let prompt = if index % 3 == 0 { [prompt(900 + index % 2, 24), own].concat() } else { own };
            let sampler = match index % 4 {
                0 | 2 => Sampler::greedy(),
                1 => Sampler::chain().temperature(0.9).unwrap().dist(index),
                _ => {
                    let penalties = Penalties { repeat: 1.2, ..Penalties::default() };
                    Sampler::chain().penalties(penalties).unwrap().top_k(20).unwrap().dist(index)
                }
            };
            Wish { prompt, sampler, tokens: 4 + index * 7 % 21 }
        })
        .collect()
}

/// What a request gives.
#[derive(Clone, Debug)]
pub struct Want {
    pub tokens: Vec<Token>,
    pub logprobs: Vec<f64>,
    pub text: String,
    pub reason: Option<StopReason>,
    /// Tokens up to the first that a little noise in the logits would change.
    pub steady: usize,
}

/// Answers a request in a loop of one token at a time. `noise` is how far logits may be off, in units of their root mean
/// square: 0 where they are the same bits.
pub fn alone(context: &mut Context, wish: &Wish, noise: f32) -> Want {
    let model = context.model().clone();
    let sequence = context.new_sequence().unwrap();
    let mut batch = context.new_batch();
    let mut sampler = wish.sampler.clone();
    wish.prompt.iter().for_each(|token| sampler.accept_prompt(*token).unwrap());
    let conditions = StopConditions::new().max_tokens(wish.tokens).unwrap();
    let mut stopper = conditions.stopper(model.vocab().detokenizer().continuing()).unwrap();
    let mut want = Want { tokens: Vec::new(), logprobs: Vec::new(), text: String::new(), reason: None, steady: 0 };
    let mut steady = true;
    let mut rest = wish.prompt.clone();
    while want.reason.is_none() && sequence.len() < context.limits().sequence_tokens() {
        let slots: Vec<_> = rest
            .drain(..)
            .map(|token| {
                let slot = batch.push_output(&sequence, token).unwrap();
                context.decode(&mut batch).unwrap();
                slot
            })
            .collect();
        let outputs = context.outputs().unwrap();
        let slot = *slots.last().unwrap();
        let logits = outputs.get(slot).unwrap();
        let before = sampler.clone();
        let token = sampler.sample(logits).unwrap();
        steady &= is_steady(&before, logits, noise, token);
        want.steady += usize::from(steady);
        want.logprobs.push(outputs.logprobs(slot).unwrap().get(token).unwrap());
        want.tokens.push(token);
        let step = stopper.push(token).unwrap();
        want.text.push_str(step.text);
        want.reason = step.stop;
        rest.push(token);
    }
    want.text.push_str(stopper.finish());
    want
}

/// What each of these gets alone.
pub fn all_alone(model: &Model, params: &ContextParams, wishes: &[Wish], noise: f32) -> Vec<Want> {
    let mut context = Context::new(model, &params.clone().sequences(1).context_tokens(256)).unwrap();
    wishes.iter().map(|wish| alone(&mut context, wish, noise)).collect()
}

/// How an answer compares with what it should be.
#[derive(Clone, Copy)]
pub enum Compared {
    /// Every bit of every number.
    Exactly,
    /// Tokens as far as they are steady, and their log probabilities within this.
    Within(f64),
}

/// An answer is the one that its request gets alone.
#[track_caller]
pub fn assert_answer(got: &Completion, want: &Want, compared: Compared, what: &str) {
    let (common, noise) = match compared {
        Compared::Exactly => (want.tokens.len(), 0.0),
        Compared::Within(noise) => (want.steady, noise),
    };
    assert!(matches!(got.reason, EndReason::Stop(_) | EndReason::ContextFull), "{what}: {:?}", got.reason);
    assert!(got.tokens.len() >= common, "{what}: {} of {common} tokens", got.tokens.len());
    assert_eq!(got.tokens[..common], want.tokens[..common], "{what}");
    assert_eq!(got.logprobs.len(), got.tokens.len(), "{what}");
    for (index, (got, want)) in got.logprobs.iter().zip(&want.logprobs).take(common).enumerate() {
        let (got, want) = (got.chosen.logprob, *want);
        let same = if noise == 0.0 { got.to_bits() == want.to_bits() } else { (got - want).abs() <= noise };
        assert!(same, "{what}: log probability {got} of token {index}, alone {want}");
    }
    if common == want.tokens.len() {
        assert_eq!(got.tokens, want.tokens, "{what}");
        assert_eq!(got.text, want.text, "{what}");
        let reason = want.reason.clone().map_or(EndReason::ContextFull, EndReason::Stop);
        assert_eq!(got.reason, reason, "{what}");
    }
}

/// All answers are those of their requests alone; at least `least` in 100 tokens were compared.
#[track_caller]
pub fn assert_answers(got: &[Completion], want: &[Want], compared: Compared, least: usize, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        assert_answer(got, want, compared, &format!("{what}, request {index}"));
    }
    let all: usize = want.iter().map(|want| want.tokens.len()).sum();
    let steady: usize = want.iter().map(|want| want.steady).sum();
    assert!(steady * 100 >= all * least, "{what}: only {steady} of {all} tokens are steady");
}

/// Has all answered at the same time.
pub fn ask(engine: &Engine, wishes: &[Wish]) -> Vec<Completion> {
    let all: Vec<Generation> = wishes.iter().map(|wish| engine.generate(wish.request()).unwrap()).collect();
    all.into_iter().map(Generation::wait).collect()
}

/// One thread, and nothing that depends on time.
pub fn builder(model: &Model) -> EngineBuilder {
    Engine::builder(model).context(params().batch_threads(1)).measure(false)
}

/// Everything in 32 bits: noise of some 1e-5, so that nearly every token is steady.
pub fn exact() -> ContextParams {
    params().batch_threads(1).kv_type(KvType::F32).flash_attention(FlashAttention::Off)
}

/// How far logits are off in a batch where all is in 32 bits, with room.
pub const NOISE: f32 = 2e-4;

/// What that makes of log probabilities.
pub const EXACT: Compared = Compared::Within(5e-3);
