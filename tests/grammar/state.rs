//! What a grammar says of itself, token by token.

use batch_suite::{stories, tiny};
use fixtures::Weights;
use llama_safe::{Grammar, GrammarError, GrammarState, Model, Special, Token, VocabError};

use crate::vocabularies::sentence_piece;

fn token(model: &Model, text: &str) -> Token {
    let tokens = model.tokenize(text, Special::None).unwrap();
    assert_eq!(tokens.len(), 1, "{text:?}");
    tokens[0]
}

fn read(model: &Model, grammar: &mut Grammar, text: &str) -> GrammarState {
    let mut state = grammar.state();
    for token in model.tokenize(text, Special::None).unwrap() {
        state = grammar.accept(token).unwrap_or_else(|error| panic!("{text:?}: {error}"));
    }
    state
}

#[test]
fn a_forbidden_token_changes_nothing() {
    let model = tiny(Weights::F16);
    let eos = model.vocab().eos().unwrap();
    for mut grammar in [
        Grammar::gbnf(&model, "root ::= \"[\" [0-9]+ \"]\"", "root").unwrap(),
        Grammar::json_schema(&model, r#"{"type": "array", "items": {"type": "integer"}, "minItems": 1}"#).unwrap(),
    ] {
        assert_eq!(read(&model, &mut grammar, "[1"), GrammarState::Allowed { complete: false });
        let before = grammar.allowed().unwrap().clone();
        assert!(before.contains(token(&model, "]")) && !before.contains(eos) && !before.contains(token(&model, "a")));
        for (bad, text) in [(token(&model, "a"), "a"), (eos, "</s>"), (Token(256), "<s>")] {
            let error = GrammarError::Forbidden { token: bad.0, text: text.to_owned() };
            assert_eq!(grammar.accept(bad), Err(error));
            assert_eq!(grammar.allowed(), Some(&before));
        }
        let vocabulary = model.vocab().size();
        for bad in [-1, vocabulary as i32, i32::MAX, i32::MIN] {
            let error = VocabError::TokenOutOfRange { token: bad, vocabulary };
            assert_eq!(grammar.accept(Token(bad)), Err(GrammarError::Vocab(error)));
        }
        assert_eq!(read(&model, &mut grammar, "]"), GrammarState::Finished);
        let ends: Vec<Token> = grammar.allowed().unwrap().iter().collect();
        assert_eq!(ends, [eos]);
        assert_eq!(grammar.accept(eos), Ok(GrammarState::Finished));
        assert_eq!(grammar.accept(eos), Ok(GrammarState::Finished));
        assert!(matches!(grammar.accept(token(&model, "]")), Err(GrammarError::Forbidden { .. })));
    }
}

#[test]
fn clones_go_on_alone_and_reset_begins_again() {
    let model = stories();
    for start in [
        Grammar::gbnf(&model, "root ::= \"[\" (\"[\" | [0-9])* \"]\"", "root").unwrap(),
        Grammar::json_schema(&model, r#"{"type": "array"}"#).unwrap(),
    ] {
        let mut one = start.clone();
        read(&model, &mut one, "[1");
        let mut other = one.clone();
        assert_eq!(read(&model, &mut other, "]"), GrammarState::Finished);
        assert_eq!(one.state(), GrammarState::Allowed { complete: false });
        drop(other);
        assert_eq!(read(&model, &mut one, "1]"), GrammarState::Finished);
        one.reset();
        assert_eq!((one.state(), one.allowed()), (start.state(), start.allowed()));
        assert_eq!(read(&model, &mut one, "[1]"), GrammarState::Finished);
    }
}

#[test]
fn a_text_may_end_where_it_is_whole() {
    let model = tiny(Weights::F16);
    let eos = model.vocab().eos().unwrap();
    let mut grammar = Grammar::gbnf(&model, "root ::= \"no\" \"!\"*", "root").unwrap();
    assert!(!grammar.allowed().unwrap().contains(eos));
    assert_eq!(read(&model, &mut grammar, "no"), GrammarState::Allowed { complete: true });
    assert!(grammar.allowed().unwrap().contains(eos));
    assert_eq!(grammar.accept(eos), Ok(GrammarState::Finished));
    // The empty text is whole at once.
    for empty in ["root ::= \"\"", "root ::= ", "root ::= \"a\"{0}"] {
        let grammar = Grammar::gbnf(&model, empty, "root").unwrap();
        assert_eq!(grammar.state(), GrammarState::Finished, "{empty}");
        assert_eq!(grammar.allowed().unwrap().iter().collect::<Vec<_>>(), [eos]);
    }
}

/// The encoder's vocabulary has no token for this character.
#[test]
fn a_dead_end_is_a_state() {
    let model = batch_suite::encoder();
    let mut grammar = Grammar::gbnf(&model, "root ::= [a-z] \"日\" | [a-z] \"本\" \"x\"", "root").unwrap();
    assert_eq!(grammar.state(), GrammarState::Allowed { complete: false });
    let first = grammar.allowed().unwrap().iter().next().unwrap();
    assert_eq!(grammar.accept(first), Ok(GrammarState::DeadEnd));
    assert!(grammar.allowed().unwrap().is_empty());
    assert!(matches!(grammar.accept(first), Err(GrammarError::Forbidden { .. })));
}

#[test]
fn tokens_are_named_by_id_and_text() {
    let model = sentence_piece();
    let bos = model.vocab().bos().unwrap();
    let tool = token(&model, "<tool>");
    // As text, a user's token is its text and a control token nothing.
    let mut text = Grammar::gbnf(&model, "root ::= \"<s>\" \"<tool>\"", "root").unwrap();
    assert!(!text.allowed().unwrap().contains(bos));
    for part in ["<", "s", ">"] {
        let part = (0..model.vocab().size() as i32).map(Token).find(|t| model.vocab().text(*t).unwrap() == part);
        text.accept(part.unwrap()).unwrap();
    }
    assert!(text.allowed().unwrap().contains(tool));

    for named in ["root ::= <s> !<tool>", "root ::= <[1]> !<tool>"] {
        let mut grammar = Grammar::gbnf(&model, named, "root").unwrap();
        assert_eq!(grammar.allowed().unwrap().iter().collect::<Vec<_>>(), [bos]);
        grammar.accept(bos).unwrap();
        let allowed = grammar.allowed().unwrap();
        // All but the named one, and the end.
        assert_eq!(allowed.len(), model.vocab().size() - 2);
        assert!(!allowed.contains(tool) && !allowed.contains(model.vocab().eos().unwrap()) && allowed.contains(bos));
        assert_eq!(grammar.accept(bos), Ok(GrammarState::Finished));
    }
}

/// Two tokens of the same bytes, a character's and a byte's, are both allowed.
#[test]
fn byte_tokens_are_their_byte() {
    let model = sentence_piece();
    for grammar in [
        Grammar::gbnf(&model, "root ::= \"{\" [0-9]", "root").unwrap(),
        Grammar::json_schema(&model, r#"{"type": "object"}"#).unwrap(),
    ] {
        let allowed = grammar.allowed().unwrap();
        let byte = Token(3 + i32::from(b'{'));
        let character = (259..model.vocab().size() as i32).map(Token).find(|t| model.vocab().text(*t).unwrap() == "{");
        assert!(allowed.contains(byte) && allowed.contains(character.unwrap()));
    }
}

#[test]
fn any_json_is_any_json() {
    let model = tiny(Weights::F16);
    for text in ["{\"a\": [1, -2.5e3, null, true], \"é\": {}}", "\"x\\n\"", "[]", "0", "false"] {
        let mut grammar = Grammar::json(&model).unwrap();
        read(&model, &mut grammar, text);
        assert!(matches!(grammar.state(), GrammarState::Finished | GrammarState::Allowed { complete: true }), "{text}");
    }
    let mut grammar = Grammar::json(&model).unwrap();
    read(&model, &mut grammar, "[1,");
    assert!(!grammar.allowed().unwrap().contains(token(&model, "]")));
}

#[test]
fn grammars_are_sent_to_threads() {
    fn is_send<T: Send + Clone + 'static>(_: &T) {}
    let model = tiny(Weights::F16);
    let grammar = Grammar::gbnf(&model, "root ::= [ab]{50}", "root").unwrap();
    is_send(&grammar);
    is_send(&Grammar::json(&model).unwrap());
    let walk = |mut grammar: Grammar, letter: &'static str| {
        let letter = token(&model, letter);
        (0..50).map(|_| grammar.accept(letter).unwrap()).last()
    };
    std::thread::scope(|scope| {
        let threads = ["a", "b"].map(|letter| {
            let grammar = grammar.clone();
            scope.spawn(move || walk(grammar, letter))
        });
        for thread in threads {
            assert_eq!(thread.join().unwrap(), Some(GrammarState::Finished));
        }
    });
}
