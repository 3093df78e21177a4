//! Random texts of a grammar.

use llama_safe::{Grammar, GrammarState, Model, Token};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

/// A number below `count`.
pub fn below(random: &mut ChaCha8Rng, count: usize) -> usize {
    (random.next_u64() % count.max(1) as u64) as usize
}

/// The token's bytes.
pub fn piece(model: &Model, token: Token) -> Vec<u8> {
    model.vocab().piece(token, false).expect("a token of the vocabulary")
}

/// One text of the grammar, by random tokens: any that are allowed, at first; once there are `long` of them, those of
/// `closing` characters alone, wherever there are any, and the end as soon as it may come.
pub fn text(model: &Model, start: &Grammar, long: usize, closing: &str, random: &mut ChaCha8Rng) -> String {
    let mut grammar = start.clone();
    let mut bytes = Vec::new();
    for count in 0.. {
        assert!(count < long + 2000, "no end: {:?}", String::from_utf8_lossy(&bytes));
        let allowed = grammar.allowed().expect("a grammar that is not lazy");
        let ends = |token: &Token| model.vocab().is_end_of_generation(*token).unwrap();
        let (mut last, mut closers, mut others) = (None, Vec::new(), Vec::new());
        for token in allowed.iter() {
            if ends(&token) {
                last = Some(token);
            } else if count >= long && piece(model, token).iter().all(|byte| closing.as_bytes().contains(byte)) {
                closers.push(token);
            } else {
                others.push(token);
            }
        }
        let complete = matches!(grammar.state(), GrammarState::Allowed { complete: true } | GrammarState::Finished);
        assert_eq!(complete, last.is_some());
        let chosen = match last {
            Some(last) if count >= long || closers.is_empty() && others.is_empty() || below(random, 8) == 0 => last,
            _ if !closers.is_empty() => closers[below(random, closers.len())],
            _ => others[below(random, others.len())],
        };
        let state = grammar.accept(chosen).expect("a token that is allowed");
        assert_ne!(state, GrammarState::DeadEnd, "after {:?}", String::from_utf8_lossy(&bytes));
        if Some(chosen) == last {
            assert_eq!(state, GrammarState::Finished);
            break;
        }
        bytes.extend(piece(model, chosen));
    }
    String::from_utf8(bytes).expect("a grammar's text is UTF-8")
}
