//! Where a text ends: what is given of it token by token, and why it ended.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use batch_suite::{params, stories, tiny};
use fixtures::Weights;
use llama_safe::{
    Context, Detokenizer, Model, Sampler, Special, StopConditions, StopError, StopReason, Stopper, Token, VocabError,
};
use proptest::prelude::*;

/// Ids of the tiny model's vocabulary: bytes, and "ba" and " ba".
const BOS: Token = Token(256);
const EOS: Token = Token(257);
const BA: Token = Token(258);
const SPACE_BA: Token = Token(318);

fn byte(byte: u8) -> Token {
    Token(i32::from(byte))
}

fn bytes(text: &str) -> Vec<Token> {
    text.bytes().map(byte).collect()
}

fn detokenizer() -> Detokenizer {
    tiny(Weights::F16).vocab().detokenizer()
}

fn string(text: &str) -> StopReason {
    StopReason::String { string: text.into() }
}

/// Pushes until the end: the pieces, and why it ended.
fn run(stopper: &mut Stopper, tokens: &[Token]) -> (Vec<String>, Option<StopReason>) {
    let mut pieces = Vec::new();
    for token in tokens {
        let step = stopper.push(*token).unwrap();
        pieces.push(step.text.to_owned());
        if step.stop.is_some() {
            return (pieces, step.stop);
        }
    }
    (pieces, None)
}

/// The text of all pieces.
fn said(conditions: &StopConditions, tokens: &[Token]) -> (String, Option<StopReason>) {
    let (pieces, reason) = run(&mut conditions.stopper(detokenizer()).unwrap(), tokens);
    (pieces.concat(), reason)
}

#[test]
fn strings_end_a_text_wherever_tokens_begin() {
    let stop = StopConditions::new().string("\nUser:").unwrap();
    assert_eq!(said(&stop, &bytes("Hi\nUser: x")), ("Hi".to_owned(), Some(string("\nUser:"))));
    // Its beginning is no end.
    let mut stopper = stop.stopper(detokenizer()).unwrap();
    let (pieces, reason) = run(&mut stopper, &bytes("a\nUs\nUse\n"));
    assert_eq!((pieces, reason), (["a", "", "", "", "\nUs", "", "", "", "\nUse"].map(str::to_owned).to_vec(), None));
    assert_eq!(stopper.text(), "a\nUs\nUse");
    assert_eq!(stopper.finish(), "\n");
    assert_eq!((stopper.text(), stopper.reason()), ("a\nUs\nUse\n", None));

    // In the middle of a token, of which the rest is no part of the text.
    let stop = StopConditions::new().string("b").unwrap();
    assert_eq!(said(&stop, &[SPACE_BA]), (" ".to_owned(), Some(string("b"))));
    let with = stop.include_stop(true);
    assert_eq!(said(&with, &[SPACE_BA]), (" b".to_owned(), Some(string("b"))));
    // A character that is spread over tokens, and one that shares its first byte.
    let stop = StopConditions::new().string("xé").unwrap();
    assert_eq!(said(&stop, &bytes("xèxé")), ("xè".to_owned(), Some(string("xé"))));
}

/// The first to be complete, and the longest of those: whatever the tokens are.
#[test]
fn the_first_complete_string_wins() {
    let stop = StopConditions::new();
    let stop = stop.string("abcd").unwrap().string("bc").unwrap().string("xbc").unwrap();
    assert_eq!(said(&stop, &bytes("abcd")), ("a".to_owned(), Some(string("bc"))));
    assert_eq!(said(&stop, &bytes("axbc")), ("a".to_owned(), Some(string("xbc"))));
    let stop = StopConditions::new().string("ba").unwrap().string(" b").unwrap();
    assert_eq!(said(&stop, &[SPACE_BA]), (String::new(), Some(string(" b"))));
    assert_eq!(said(&stop, &bytes(" ba")), (String::new(), Some(string(" b"))));
}

#[test]
fn tokens_that_say_so_end_a_text() {
    let tokens = [bytes("ab"), vec![EOS]].concat();
    let reason = Some(StopReason::EndOfText { token: EOS });
    assert_eq!(said(&StopConditions::new(), &tokens), ("ab".to_owned(), reason.clone()));
    assert_eq!(said(&StopConditions::new().end_of_text(false), &tokens), ("ab".to_owned(), None));
    // What was held back is given, and half a character.
    let stop = StopConditions::new().string("b!").unwrap();
    assert_eq!(said(&stop, &[byte(b'b'), byte(0xc3), EOS]), ("b\u{fffd}".to_owned(), reason));

    let special = detokenizer().render_special(true);
    let mut stopper = StopConditions::new().stopper(special.clone()).unwrap();
    assert_eq!(run(&mut stopper, &tokens).0.concat(), "ab");
    let mut stopper = StopConditions::new().include_stop(true).stopper(special).unwrap();
    assert_eq!(run(&mut stopper, &tokens).0.concat(), "ab</s>");
}

#[test]
fn token_lists_end_a_text_and_are_held_back() {
    let list = [byte(b'x'), BA];
    let stop = StopConditions::new().tokens(&list).unwrap().tokens(&[BA, BA, BA]).unwrap();
    let mut stopper = stop.stopper(detokenizer()).unwrap();
    let (pieces, reason) = run(&mut stopper, &[byte(b'a'), byte(b'x'), byte(b'x'), BA]);
    assert_eq!(pieces, ["a", "", "x", ""]);
    assert_eq!(reason, Some(StopReason::Tokens { tokens: list.into() }));
    // The same text of other tokens is none.
    assert_eq!(said(&stop, &bytes("xba!")), ("xba!".to_owned(), None));
    assert_eq!(said(&stop.clone().include_stop(true), &list).0, "xba");
    // A character that the list's first token would have ended.
    let stop = StopConditions::new().tokens(&[byte(0xa9)]).unwrap();
    assert_eq!(said(&stop, &bytes("aé")).0, "a\u{fffd}");
}

#[test]
fn length_ends_a_text_with_all_of_it() {
    let stop = StopConditions::new().max_tokens(3).unwrap().string("cd").unwrap();
    assert_eq!(said(&stop, &bytes("abcd")), ("abc".to_owned(), Some(StopReason::Length)));
    assert_eq!(said(&stop, &bytes("acd")), ("a".to_owned(), Some(string("cd"))));
    let mut stopper = stop.stopper(detokenizer()).unwrap();
    assert_eq!(run(&mut stopper, &bytes("ab")).1, None);
    assert_eq!((stopper.tokens(), stopper.reason()), (2, None));
}

#[test]
fn a_closure_ends_a_text_and_sees_all_of_it() {
    let stop = StopConditions::new().custom(|_| false).custom(|progress| progress.text == "ab");
    let stop = stop.string("bc").unwrap();
    assert_eq!(said(&stop, &bytes("abc")), ("ab".to_owned(), Some(StopReason::Custom { index: 1 })));
    let stop = StopConditions::new().custom(|progress| (progress.token, progress.tokens) == (BA, 2));
    assert_eq!(said(&stop, &[BA, BA, BA]), ("baba".to_owned(), Some(StopReason::Custom { index: 0 })));
}

/// A closure's panic reaches the caller, and what the token brought comes with the next.
#[test]
fn a_closures_panic_loses_nothing() {
    let panics = Arc::new(AtomicBool::new(false));
    let armed = Arc::clone(&panics);
    let stop = StopConditions::new().string("c!").unwrap().custom(move |_| {
        assert!(!armed.load(Ordering::Relaxed), "on purpose");
        false
    });
    let mut stopper = stop.stopper(detokenizer()).unwrap();
    assert_eq!(stopper.push(byte(b'a')).unwrap().text, "a");
    panics.store(true, Ordering::Relaxed);
    assert!(catch_unwind(AssertUnwindSafe(|| stopper.push(byte(b'b')).map(|step| step.stop))).is_err());
    panics.store(false, Ordering::Relaxed);
    assert_eq!((stopper.text(), stopper.tokens()), ("a", 2));
    assert_eq!(stopper.push(byte(b'c')).unwrap().text, "b");
    assert_eq!(stopper.push(byte(b'!')).unwrap().stop, Some(string("c!")));
    assert_eq!(stopper.text(), "ab");
}

#[test]
fn bad_input_is_an_error_and_changes_nothing() {
    fn owned<T: Send + Sync + Clone + 'static>(value: T) -> T {
        value
    }
    let vocabulary = tiny(Weights::F16).vocab().size();
    let missing = |token| StopError::Vocab(VocabError::TokenOutOfRange { token, vocabulary });
    let list = StopConditions::new().tokens(&[BA, Token(-1)]).unwrap();
    assert_eq!(list.stopper(detokenizer()).unwrap_err(), missing(-1));

    let stop = owned(StopConditions::new().string("ab").unwrap());
    let mut stopper = owned(stop.stopper(detokenizer()).unwrap());
    assert_eq!(stopper.push(byte(b'a')).unwrap().text, "");
    assert_eq!(stopper.push(Token(i32::MAX)).unwrap_err(), missing(i32::MAX));
    assert_eq!(stopper.tokens(), 1);
    // A fork goes on alone.
    let mut fork = stopper.clone();
    assert_eq!(stopper.push(byte(b'b')).unwrap().stop, Some(string("ab")));
    assert_eq!(fork.push(byte(b'c')).unwrap().text, "ac");
    // An end is an end, until the next text.
    assert_eq!(stopper.push(byte(b'b')).unwrap_err(), StopError::Ended);
    assert_eq!(stopper.finish(), "");
    assert_eq!(stopper.reason(), Some(&string("ab")));
    stopper.reset();
    assert_eq!((stopper.text(), stopper.tokens(), stopper.reason()), ("", 0, None));
    assert_eq!(stopper.push(byte(b'b')).unwrap().text, "b");
    assert_eq!(stopper.finish(), "");
    assert_eq!(stopper.push(byte(b'b')).unwrap_err(), StopError::Ended);
}

/// The loop of a user: what is said on the way is what the sampled tokens say, up to the stop string.
#[test]
fn a_generation_ends_where_it_was_told_to() {
    let model = stories();
    let mut context = Context::new(&model, &params().context_tokens(256)).unwrap();
    let prompt = model.tokenize("Once upon a time", Special::Bos).unwrap();
    let mut generate = |stopper: &mut Stopper| {
        let sequence = context.new_sequence().unwrap();
        let mut batch = context.new_batch();
        let mut slot = batch.prompt(&sequence, &prompt).unwrap();
        let mut text = String::new();
        loop {
            let outputs = context.decode(&mut batch).unwrap();
            let token = Sampler::greedy().sample(outputs.get(slot).unwrap()).unwrap();
            assert_eq!(outputs.logprobs(slot).unwrap().rank(token).unwrap(), 1);
            let step = stopper.push(token).unwrap();
            text.push_str(step.text);
            if let Some(reason) = step.stop {
                return (text, reason);
            }
            slot = batch.push_output(&sequence, token).unwrap();
        }
    };
    let detokenizer = || model.vocab().detokenizer().continuing();
    let limit = StopConditions::new().max_tokens(40).unwrap();
    let (all, reason) = generate(&mut limit.stopper(detokenizer()).unwrap());
    assert_eq!(reason, StopReason::Length);
    // Two characters from the middle of what it says.
    let (middle, _) = all.char_indices().nth(all.chars().count() / 2).unwrap();
    let stop: String = all[middle..].chars().take(2).collect();
    let conditions = limit.string(&stop).unwrap();
    let (cut, reason) = generate(&mut conditions.stopper(detokenizer()).unwrap());
    assert_eq!((cut.as_str(), reason), (&all[..all.find(&stop).unwrap()], string(&stop)));
}

/// Conditions as plain data, for the oracle.
#[derive(Clone, Debug)]
struct Plain {
    strings: Vec<String>,
    lists: Vec<Vec<Token>>,
    end_of_text: bool,
    include: bool,
    max_tokens: Option<u32>,
    render: bool,
}

impl Plain {
    fn conditions(&self) -> StopConditions {
        let mut conditions = StopConditions::new().end_of_text(self.end_of_text).include_stop(self.include);
        for string in &self.strings {
            conditions = conditions.string(string).unwrap();
        }
        for list in &self.lists {
            conditions = conditions.tokens(list).unwrap();
        }
        match self.max_tokens {
            Some(most) => conditions.max_tokens(most).unwrap(),
            None => conditions,
        }
    }

    /// The text of all tokens, and how much of it is whole characters.
    fn text(&self, model: &Model, tokens: &[Token]) -> (String, usize) {
        let vocab = model.vocab();
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| vocab.piece(*token, self.render).unwrap()).collect();
        // An unfinished character at the end is one of up to three bytes that goes on to be one with others behind it.
        let unfinished = (1..=3.min(bytes.len())).find(|length| {
            let end = &bytes[bytes.len() - length..];
            matches!(std::str::from_utf8(end), Err(error) if error.valid_up_to() == 0 && error.error_len().is_none())
        });
        let whole = String::from_utf8_lossy(&bytes[..bytes.len() - unfinished.unwrap_or(0)]).into_owned();
        let length = whole.len();
        (if unfinished.is_some() { whole + "\u{fffd}" } else { whole }, length)
    }

    /// The first stop string of a text: where it begins and ends.
    fn first<'a>(&'a self, text: &str) -> Option<(usize, usize, &'a str)> {
        (1..=text.len()).find_map(|end| {
            let ends = |string: &&String| text.as_bytes()[..end].ends_with(string.as_bytes());
            let longest = self.strings.iter().filter(ends).max_by_key(|string| string.len())?;
            Some((end - longest.len(), end, longest.as_str()))
        })
    }

    /// The text of the tokens up to its end, and why it ends; looked for in the whole text again after each token.
    fn slow(&self, model: &Model, tokens: &[Token]) -> (String, Option<StopReason>, usize) {
        for taken in 1..=tokens.len() {
            let now = self.text(model, &tokens[..taken]);
            let mut ends: Vec<(usize, String, StopReason)> = Vec::new();
            if self.end_of_text && tokens[taken - 1] == EOS {
                let (text, at) = if self.include { now.clone() } else { self.text(model, &tokens[..taken - 1]) };
                ends.push((at, text, StopReason::EndOfText { token: EOS }));
            }
            if let Some((from, to, found)) = self.first(&now.0[..now.1]) {
                let at = if self.include { to } else { from };
                ends.push((at, now.0[..at].to_owned(), string(found)));
            }
            let complete = self.lists.iter().filter(|list| tokens[..taken].ends_with(list));
            if let Some(list) = complete.max_by_key(|list| list.len()) {
                let before = if self.include { taken } else { taken - list.len() };
                let (text, at) = self.text(model, &tokens[..before]);
                ends.push((at, text, StopReason::Tokens { tokens: list.as_slice().into() }));
            }
            if let Some((_, text, reason)) = ends.into_iter().min_by_key(|(at, ..)| *at) {
                return (text, Some(reason), taken);
            }
            if self.max_tokens.is_some_and(|most| taken >= most as usize) {
                return (now.0, Some(StopReason::Length), taken);
            }
        }
        (self.text(model, tokens).0, None, tokens.len())
    }

    /// Bytes that must be given of a text that goes on: all but what may be the beginning of a stop string, or of the
    /// tokens of a list.
    fn certain(&self, model: &Model, tokens: &[Token]) -> usize {
        let (text, whole) = self.text(model, tokens);
        let text = &text[..whole];
        if self.include {
            return whole;
        }
        let begins =
            |string: &String| (0..string.len()).rev().find(|n| text.as_bytes().ends_with(&string.as_bytes()[..*n]));
        let string = self.strings.iter().filter_map(begins).max().unwrap_or(0);
        let begins = |list: &Vec<Token>| (0..list.len()).rev().find(|n| tokens.ends_with(&list[..*n]));
        let list = self.lists.iter().filter_map(begins).max().unwrap_or(0);
        let (_, before_list) = self.text(model, &tokens[..tokens.len() - list]);
        (whole - string).min(before_list)
    }
}

fn any_token() -> impl Strategy<Value = Token> {
    prop_oneof![
        8 => prop_oneof![Just(byte(b'a')), Just(byte(b'b')), Just(byte(b' '))],
        // Both bytes of "é", the first of "🙂", and one that is never a part of a character.
        4 => prop_oneof![Just(byte(0xc3)), Just(byte(0xa9)), Just(byte(0xf0)), Just(byte(0xff))],
        4 => prop_oneof![Just(BA), Just(SPACE_BA)],
        1 => prop_oneof![Just(BOS), Just(EOS)],
    ]
}

fn plain() -> impl Strategy<Value = Plain> {
    let string = prop::collection::vec(prop_oneof!["a", "b", " ", "é", "ba", "\u{fffd}", "</s>"], 1..5);
    (
        prop::collection::vec(string.prop_map(|parts| parts.concat()), 0..4),
        prop::collection::vec(prop::collection::vec(any_token(), 1..4), 0..3),
        any::<bool>(),
        any::<bool>(),
        prop::option::weighted(0.3, 1u32..40),
        any::<bool>(),
    )
        .prop_map(|(strings, lists, end_of_text, include, max_tokens, render)| Plain {
            strings,
            lists,
            end_of_text,
            include,
            max_tokens,
            render,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Against the whole text, looked through again after each token.
    #[test]
    fn texts_end_where_the_slow_way_ends_them(plain in plain(), tokens in prop::collection::vec(any_token(), 0..40)) {
        let model = tiny(Weights::F16);
        let (expected, reason, taken) = plain.slow(&model, &tokens);
        let detokenizer = model.vocab().detokenizer().render_special(plain.render);
        let mut stopper = plain.conditions().stopper(detokenizer).unwrap();
        let mut text = String::new();
        for (index, token) in tokens[..taken].iter().enumerate() {
            let step = stopper.push(*token).unwrap();
            text.push_str(step.text);
            if index + 1 < taken || reason.is_none() {
                prop_assert_eq!(step.stop, None);
                prop_assert_eq!(text.len(), plain.certain(&model, &tokens[..=index]), "held back: {:?}", text);
            } else {
                prop_assert_eq!(step.stop.as_ref(), reason.as_ref());
            }
        }
        text.push_str(stopper.finish());
        prop_assert_eq!(&text, &expected);
        prop_assert_eq!(stopper.text(), &expected);
        prop_assert_eq!(stopper.reason(), reason.as_ref());
    }

    /// How a text is cut into tokens changes nothing.
    #[test]
    fn borders_of_tokens_do_not_matter(
        text in "[ ab]{0,20}",
        strings in prop::collection::vec("[ ab]{1,4}", 1..4),
    ) {
        let model = tiny(Weights::F16);
        let mut conditions = StopConditions::new();
        for string in &strings {
            conditions = conditions.string(string).unwrap();
        }
        let merged = model.tokenize(&text, Special::None).unwrap();
        let end = |tokens: &[Token]| {
            let mut stopper = conditions.stopper(model.vocab().detokenizer()).unwrap();
            let reason = run(&mut stopper, tokens).1;
            stopper.finish();
            (stopper.text().to_owned(), reason)
        };
        prop_assert_eq!(end(&merged), end(&bytes(&text)));
    }
}
