//! A chain that is held to a grammar.

use batch_suite::{encoder, stories, tiny};
use fixtures::Weights;
use llama_safe::{
    Grammar, GrammarError, GrammarState, Model, Penalties, Sampler, SamplerParamError, SamplingError, Special, Token,
    Triggers,
};

fn held(model: &Model, gbnf: &str) -> Grammar {
    Grammar::gbnf(model, gbnf, "root").unwrap()
}

/// The token of one byte in a vocabulary of bytes.
fn byte(model: &Model, text: &str) -> Token {
    model.tokenize(text, Special::None).unwrap()[0]
}

/// Logits that prefer tokens in this order, above all others.
fn preferring(model: &Model, tokens: &[Token]) -> Vec<f32> {
    let mut logits = vec![0.0; model.vocab().size() as usize];
    for (place, token) in tokens.iter().rev().enumerate() {
        logits[token.0 as usize] = 10.0 + place as f32;
    }
    logits
}

/// The likeliest token is forbidden, and the only one that each truncation would keep.
#[test]
fn what_is_forbidden_is_left_out_before_truncation() {
    let model = tiny(Weights::F16);
    let (x, yes) = (byte(&model, "x"), byte(&model, "y"));
    let logits = preferring(&model, &[x, yes]);
    let grammar = || held(&model, r#"root ::= "yes""#);
    let chain = Sampler::chain;
    for (name, chain) in [
        ("behind top-k", chain().top_k(1).unwrap().grammar(grammar()).unwrap()),
        ("before top-k", chain().grammar(grammar()).unwrap().top_k(1).unwrap()),
        ("top-p", chain().top_p(0.0).unwrap().grammar(grammar()).unwrap()),
        ("min-p", chain().min_p(1.0).unwrap().grammar(grammar()).unwrap()),
        ("temperature", chain().temperature(0.0).unwrap().grammar(grammar()).unwrap()),
        ("a closure", chain().custom_fn(|all| assert_eq!(all.len(), 1)).grammar(grammar()).unwrap()),
    ] {
        let mut sampler = chain.dist(1);
        assert_eq!(sampler.sample(&logits), Ok(yes), "{name}");
        assert_eq!(sampler.grammar().unwrap().state(), GrammarState::Allowed { complete: false });
    }
}

#[test]
fn one_grammar_holds_a_chain() {
    let model = tiny(Weights::F16);
    let chain = Sampler::chain().grammar(held(&model, r#"root ::= "a""#)).unwrap();
    let error = chain.grammar(held(&model, r#"root ::= "b""#)).unwrap_err();
    assert_eq!(error, SamplerParamError::SecondGrammar);
}

#[test]
fn ends_and_dead_ends_are_told() {
    let model = tiny(Weights::F16);
    let eos = model.vocab().eos().unwrap();
    let mut sampler = Sampler::chain().grammar(held(&model, r#"root ::= "a""#)).unwrap().greedy();
    let logits = preferring(&model, &[eos, byte(&model, "a")]);
    assert_eq!(sampler.sample(&logits), Ok(byte(&model, "a")), "an end is not allowed yet");
    assert_eq!(sampler.sample(&vec![0.0; logits.len()]), Ok(eos), "nothing else is allowed any more");
    assert_eq!(sampler.grammar().unwrap().state(), GrammarState::Finished);

    // This vocabulary has no token for the character, and none that ends a text.
    let model = encoder();
    let mut sampler = Sampler::chain().grammar(held(&model, r#"root ::= [a-z] "日""#)).unwrap().greedy();
    let logits = vec![0.0; model.vocab().size() as usize];
    sampler.sample(&logits).unwrap();
    assert_eq!(sampler.grammar().unwrap().state(), GrammarState::DeadEnd);
    assert_eq!(sampler.sample(&logits), Err(SamplingError::DeadEnd));
    sampler.reset();
    sampler.sample(&logits).unwrap();
}

/// Nothing that fails leaves a trace: random numbers, history and grammar are as they were.
#[test]
fn a_sample_that_fails_changes_nothing() {
    let model = stories();
    let logits: Vec<f32> = (0..model.vocab().size()).map(|token| (token * 7 % 31) as f32 / 8.0).collect();
    let penalties = Penalties { repeat: 1.3, ..Penalties::default() };
    let chain = Sampler::chain().penalties(penalties).unwrap().temperature(1.5).unwrap();
    let grammar = held(&model, "root ::= [a-z ]*");
    let mut sampler = chain.grammar(grammar).unwrap().dist(5);
    let mut undisturbed = sampler.clone();
    let forbidden = model.tokenize("7", Special::None).unwrap()[0];
    let mut broken = logits.clone();
    broken[3] = f32::NAN;
    for step in 0..40 {
        assert!(matches!(sampler.sample(&broken), Err(SamplingError::NotFinite { token: 3, .. })));
        assert!(matches!(sampler.sample(&[]), Err(SamplingError::NoLogits)));
        let none = vec![f32::NEG_INFINITY; logits.len()];
        assert_eq!(sampler.sample(&none), Err(SamplingError::NothingAllowed));
        let (expected, got) = (logits.len(), logits.len() - 1);
        assert_eq!(sampler.sample(&logits[1..]), Err(SamplingError::OtherVocabulary { expected, got }));
        let refused = sampler.accept(forbidden);
        assert!(matches!(refused, Err(SamplingError::Grammar(GrammarError::Forbidden { .. }))), "{refused:?}");
        if sampler.grammar().unwrap().state() == GrammarState::Finished {
            break;
        }
        assert_eq!(sampler.sample(&logits), undisturbed.sample(&logits), "step {step}");
    }
}

/// The prompt is not of the grammar's language, and counts for penalties all the same.
#[test]
fn a_prompt_is_penalised_and_not_held() {
    let model = tiny(Weights::F16);
    let (a, b) = (byte(&model, "a"), byte(&model, "b"));
    let logits = preferring(&model, &[a, b]);
    let penalties = Penalties { presence: 5.0, ..Penalties::default() };
    let chain = Sampler::chain().penalties(penalties).unwrap();
    let mut sampler = chain.grammar(held(&model, r#"root ::= "a" | "b""#)).unwrap().greedy();
    for token in model.tokenize("Q: a?", Special::None).unwrap() {
        sampler.accept_prompt(token).unwrap();
    }
    assert_eq!(sampler.grammar().unwrap().state(), GrammarState::Allowed { complete: false });
    assert_eq!(sampler.sample(&logits), Ok(b));
}

#[test]
fn a_clone_goes_its_own_way() {
    let model = tiny(Weights::F16);
    let (a, b) = (byte(&model, "a"), byte(&model, "b"));
    let mut one = Sampler::chain().grammar(held(&model, r#"root ::= ("a" "x" | "b" "y")"#)).unwrap().greedy();
    let mut other = one.clone();
    assert_eq!(one.sample(&preferring(&model, &[a])), Ok(a));
    assert_eq!(other.sample(&preferring(&model, &[b])), Ok(b));
    let logits = vec![0.0; model.vocab().size() as usize];
    assert_eq!(one.sample(&logits), Ok(byte(&model, "x")));
    assert_eq!(other.sample(&logits), Ok(byte(&model, "y")));
    one.reset();
    assert_eq!(one.sample(&preferring(&model, &[b])), Ok(b));
}

/// The likeliest token completes the trigger and goes on with what the grammar forbids: another one is taken.
#[test]
fn a_token_that_goes_wrong_behind_a_trigger_is_not_chosen() {
    let model = stories();
    let vocab = model.vocab();
    let pieces: Vec<Vec<u8>> = (0..vocab.size() as i32).map(|id| vocab.piece(Token(id), false).unwrap()).collect();
    // Any token of several letters: its first letter is the trigger, the second what the grammar forbids behind it.
    let (wrong, piece) =
        (0..).zip(&pieces).find(|(_, piece)| piece.len() > 1 && piece.iter().all(u8::is_ascii_lowercase)).unwrap();
    let (trigger, next) = (char::from(piece[0]), char::from(piece[1]));
    let single = (0..).zip(&pieces).find(|(_, other)| other[..] == piece[..1]).unwrap().0;
    let grammar = held(&model, &format!("root ::= \"{trigger}\" [^{next}]*"));
    let grammar = grammar.lazy(Triggers::new().word(trigger.to_string())).unwrap();
    let mut sampler = Sampler::chain().top_k(2).unwrap().grammar(grammar).unwrap().greedy();
    let logits = preferring(&model, &[Token(wrong), Token(single)]);
    assert_eq!(sampler.sample(&logits), Ok(Token(single)));
    assert_eq!(sampler.grammar().unwrap().state(), GrammarState::Allowed { complete: true });
}
