//! Grammars that begin on a trigger.

use batch_suite::tiny;
use fixtures::Weights;
use llama_safe::{Grammar, GrammarError, GrammarState, Model, Special, Token, Triggers};

use crate::vocabularies::sentence_piece;

fn read(model: &Model, grammar: &mut Grammar, text: &str) -> GrammarState {
    for token in model.tokenize(text, Special::None).unwrap() {
        grammar.accept(token).unwrap_or_else(|error| panic!("{text:?}: {error}"));
    }
    grammar.state()
}

const CALL: &str = "root ::= \"<call>\" [0-9]+ \"</call>\"";

#[test]
fn nothing_is_forbidden_until_a_word_appears() {
    let model = tiny(Weights::F16);
    let grammar = Grammar::gbnf(&model, CALL, "root").unwrap();
    let mut grammar = grammar.lazy(Triggers::new().word("<call>")).unwrap();
    assert_eq!((grammar.state(), grammar.allowed()), (GrammarState::Waiting, None));
    assert_eq!(read(&model, &mut grammar, "I call <cal"), GrammarState::Waiting);
    let mut other = grammar.clone();
    assert_eq!(read(&model, &mut grammar, "l>"), GrammarState::Allowed { complete: false });
    let digits = grammar.allowed().unwrap();
    assert!(digits.iter().all(|t| model.vocab().piece(t, false).unwrap().iter().all(u8::is_ascii_digit)));
    assert_eq!(read(&model, &mut grammar, "12</call>"), GrammarState::Finished);
    grammar.reset();
    assert_eq!(grammar.state(), GrammarState::Waiting);
    // The clone still waits, and may end.
    let eos = model.vocab().eos().unwrap();
    assert_eq!(other.accept(eos), Ok(GrammarState::Finished));
}

#[test]
fn patterns_begin_with_their_group() {
    let model = tiny(Weights::F16);
    let grammar = Grammar::gbnf(&model, "root ::= \"{\" [a-z]+ \"}\"", "root").unwrap();
    let mut grammar = grammar.lazy(Triggers::new().pattern("answer:\\s*(\\{)")).unwrap();
    assert_eq!(read(&model, &mut grammar, "{ answer {"), GrammarState::Waiting);
    assert_eq!(read(&model, &mut grammar, " answer:  "), GrammarState::Waiting);
    assert_eq!(read(&model, &mut grammar, "{"), GrammarState::Allowed { complete: false });
    assert_eq!(read(&model, &mut grammar, "yes}"), GrammarState::Finished);
}

/// A token that holds the end of what is free and the beginning of what is not is read in part.
#[test]
fn a_trigger_may_begin_within_a_token() {
    let model = sentence_piece();
    let find = |text: &str| {
        let named = |t: &Token| model.vocab().text(*t).unwrap() == text;
        (0..model.vocab().size() as i32).map(Token).find(named).unwrap()
    };
    let grammar = Grammar::gbnf(&model, "root ::= \"{}\" | \"\\\"\" [a-z]* \"\\\"\"", "root").unwrap();
    let lazy = grammar.lazy(Triggers::new().pattern(":[ ]*(\")").word("{}")).unwrap();
    let mut one = lazy.clone();
    one.accept(find("\":")).unwrap();
    assert_eq!(one.accept(find("▁\"")), Ok(GrammarState::Allowed { complete: false }));
    assert_eq!(one.accept(find("tr")), Ok(GrammarState::Allowed { complete: false }));
    assert_eq!(one.accept(find("\"")), Ok(GrammarState::Finished));
    let mut other = lazy.clone();
    assert_eq!(other.accept(find("{}")), Ok(GrammarState::Finished));
    // A token that completes the trigger and goes on with what is forbidden is forbidden, and nothing has changed.
    let grammar = Grammar::gbnf(&model, "root ::= \"\\\"\" [a-z]+", "root").unwrap();
    let mut strict = grammar.lazy(Triggers::new().word("\"")).unwrap();
    let both = find("\",");
    assert_eq!(strict.accept(both), Err(GrammarError::Forbidden { token: both.0, text: "\",".to_owned() }));
    assert_eq!(strict.state(), GrammarState::Waiting);
    assert_eq!(strict.accept(find("\"")), Ok(GrammarState::Allowed { complete: false }));
}

#[test]
fn a_token_is_a_trigger_by_its_name() {
    let model = sentence_piece();
    let bos = model.vocab().bos().unwrap();
    for text in ["root ::= \"<s>\" [0-9]", "root ::= <s> [0-9]"] {
        let grammar = Grammar::gbnf(&model, text, "root").unwrap();
        let mut grammar = grammar.lazy(Triggers::new().token(bos)).unwrap();
        grammar.accept(Token(300)).unwrap();
        assert_eq!(grammar.accept(bos), Ok(GrammarState::Allowed { complete: false }), "{text}");
        let allowed = grammar.allowed().unwrap();
        assert!(allowed.iter().all(|t| model.vocab().piece(t, false).unwrap()[0].is_ascii_digit()));
    }
}

#[test]
fn json_begins_on_a_trigger_too() {
    let model = tiny(Weights::F16);
    let schema = r#"{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": false}"#;
    let grammar = Grammar::json_schema(&model, schema).unwrap();
    let mut grammar = grammar.lazy(Triggers::new().word("{\"a\"")).unwrap();
    assert_eq!(read(&model, &mut grammar, "here: {\"b\", {\"a\":"), GrammarState::Allowed { complete: false });
    assert_eq!(read(&model, &mut grammar, "1}"), GrammarState::Finished);
}

#[test]
fn triggers_are_checked() {
    let model = tiny(Weights::F16);
    let start = || Grammar::gbnf(&model, CALL, "root").unwrap();
    assert_eq!(start().lazy(Triggers::new()).unwrap_err(), GrammarError::NoTrigger);
    let outside = start().lazy(Triggers::new().word("call")).unwrap_err();
    assert_eq!(outside, GrammarError::TriggerOutside { trigger: "\"call\"".to_owned() });
    let eos = model.vocab().eos().unwrap();
    let outside = start().lazy(Triggers::new().token(eos)).unwrap_err();
    assert_eq!(outside, GrammarError::TriggerOutside { trigger: format!("token {eos}") });
    assert!(matches!(start().lazy(Triggers::new().pattern("(")), Err(GrammarError::Pattern { .. })));
    assert!(matches!(start().lazy(Triggers::new().token(Token(-1))), Err(GrammarError::Vocab(_))));
    let json = Grammar::json_schema(&model, r#"{"type": "object"}"#).unwrap();
    assert!(matches!(json.lazy(Triggers::new().word("[")), Err(GrammarError::TriggerOutside { .. })));
}
