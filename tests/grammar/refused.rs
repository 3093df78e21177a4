//! Grammars that are none, with the place and the reason.

use batch_suite::{encoder, tiny};
use fixtures::Weights;
use llama_safe::{Grammar, GrammarError, VocabError};
use proptest::prelude::*;

use crate::samples::{ARITHMETIC, CHESS, JSON, LIST};
use crate::vocabularies::sentence_piece;

fn refusal(text: &str) -> GrammarError {
    Grammar::gbnf(&tiny(Weights::F16), text, "root").expect_err(text)
}

/// Line, column and what was found.
fn syntax(text: &str) -> (u32, u32, String) {
    match refusal(text) {
        GrammarError::Syntax { line, column, found, expected } => {
            assert!(!expected.is_empty());
            (line, column, found)
        }
        other => panic!("{text:?}: {other:?}"),
    }
}

#[test]
fn syntax_errors_have_their_place() {
    for (text, line, column, found) in [
        ("root := \"a\"", 1, 6, "`:`"),
        ("root ::= \"a", 1, 12, "the end of the text"),
        ("root ::= [a", 1, 12, "the end of the text"),
        ("root ::= [a-", 1, 13, "the end of the text"),
        ("root ::= (\"a\"", 1, 14, "the end of the text"),
        ("root ::= \"a\")", 1, 13, "`)`"),
        ("root ::= \"a\"\n  | \"b\"", 2, 3, "`|`"),
        ("root ::= *", 1, 10, "`*`"),
        ("root ::= \"é\" \"a\" {", 1, 19, "the end of the text"),
        ("root ::= \"a\"{1,2", 1, 17, "the end of the text"),
        ("root ::= \"a\"{,2}", 1, 14, "`,`"),
        ("root ::= \"a\"{3,2}", 1, 13, "`{3,2}`"),
        ("root ::= \"a\"{99999999999}", 1, 14, "`99999999999`"),
        ("root ::= \"\\q\"", 1, 11, "`\\q`"),
        ("root ::= \"\\x0g\"", 1, 14, "`g`"),
        ("root ::= \"\\uD800\"", 1, 11, "the number D800"),
        ("root ::= \"\\U00110000\"", 1, 11, "the number 110000"),
        ("root ::= []", 1, 10, "`[]`"),
        ("root ::= [z-a]", 1, 11, "the range from U+007A to U+0061"),
        ("root ::= [^\\x00-\\U0010FFFF]", 1, 10, "a set that leaves out everything"),
        ("root ::= \"a\0b\"", 1, 12, "the character U+0000"),
        ("root ::= a_b\na ::= \"\"", 1, 11, "`_`"),
        ("root ::= <[100000]>", 1, 10, "`<[100000]>`"),
        ("root ::= <[1>", 1, 13, "`>`"),
        ("root ::= <nothing>", 1, 10, "`<nothing>`"),
        ("root ::= <s", 1, 10, "`<`"),
        ("root ::= !a", 1, 11, "`a`"),
        ("# only\nroot ::= \"a\" $", 2, 14, "`$`"),
    ] {
        assert_eq!(syntax(text), (line, column, found.to_owned()), "{text:?}");
    }
    let error = refusal("root ::= [z-a]").to_string();
    assert_eq!(
        error,
        "line 1, column 11: found the range from U+007A to U+0061, expected a range from the lower to the higher character"
    );
}

#[test]
fn rules_are_checked() {
    let undefined = refusal("root ::= \"a\"\n     b");
    assert!(matches!(undefined, GrammarError::Syntax { line: 2, .. }), "{undefined:?}");
    assert_eq!(
        refusal("root ::= \"a\" | b"),
        GrammarError::UndefinedRule { rule: "b".to_owned(), line: 1, column: 16 }
    );
    for (text, rules) in [("", "none"), ("# nothing", "none"), ("a ::= \"x\"\nb ::= a", "a, b")] {
        assert_eq!(
            refusal(text),
            GrammarError::NoRoot { root: "root".to_owned(), rules: rules.to_owned() },
            "{text:?}"
        );
    }
    assert_eq!(
        refusal("root ::= \"a\"\n\nroot ::= \"b\""),
        GrammarError::DuplicateRule { rule: "root".to_owned(), line: 3, first: 1 }
    );
    assert_eq!(
        refusal("root ::= \"a\" | b\nb ::= \"x\" b"),
        GrammarError::EndlessRule { rule: "b".to_owned(), line: 2 }
    );
}

#[test]
fn a_rule_that_begins_with_itself_is_named() {
    for (text, rule, path) in [
        ("root ::= root \"a\" | \"b\"", "root", "root → root"),
        ("root ::= a\na ::= b \"x\" | \"y\"\nb ::= a | \"z\"", "a", "a → b → a"),
        // Behind what may be empty, at any depth: llama.cpp looks only at alternatives that are written empty.
        ("root ::= empty root | \"x\"\nempty ::= maybe maybe\nmaybe ::= \" \"?", "root", "root → root"),
    ] {
        match refusal(text) {
            GrammarError::LeftRecursion { rule: named, path: way, .. } => assert_eq!((&*named, &*way), (rule, path)),
            other => panic!("{text:?}: {other:?}"),
        }
    }
    // A repetition of what may be empty is none.
    let loops = Grammar::gbnf(&tiny(Weights::F16), "root ::= ((\"a\"? \"b\"*)* (\"\")+){2,} \"c\"", "root").unwrap();
    assert!(loops.allowed().is_some_and(|allowed| !allowed.is_empty()));
}

#[test]
fn a_model_without_vocabulary_is_refused() {
    let model = batch_suite::architectures::architecture("llama").unwrap();
    let error = Grammar::gbnf(&model, "root ::= \"a\"", "root").unwrap_err();
    assert_eq!(error, GrammarError::Vocab(VocabError::NoVocabulary));
    assert_eq!(Grammar::json(&model).unwrap_err(), GrammarError::Vocab(VocabError::NoVocabulary));
    // Any vocabulary serves, that of an encoder as well.
    assert!(Grammar::gbnf(&encoder(), "root ::= [a-z]+", "root").is_ok());
}

/// A grammar's text with some of its characters replaced, doubled or left out.
fn mutated() -> impl Strategy<Value = String> {
    let edits = prop::collection::vec(
        (any::<prop::sample::Index>(), 0u8..3, "[\"\\[\\](){}*+?|<>!.^a-z0-9\\\\ \n:=,#-]"),
        1..6,
    );
    (prop::sample::select(vec![ARITHMETIC, CHESS, JSON, LIST]), edits).prop_map(|(text, edits)| {
        let mut text: Vec<char> = text.chars().collect();
        for (place, kind, with) in edits {
            let at = place.index(text.len());
            match kind {
                0 => text.extend(text.clone().get(at..).unwrap_or_default().iter().take(3)),
                1 => drop(text.remove(at)),
                _ => text[at] = with.chars().next().unwrap_or(' '),
            }
        }
        text.into_iter().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Any bytes are a grammar or an error.
    #[test]
    fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Grammar::gbnf(&tiny(Weights::F16), &String::from_utf8_lossy(&bytes), "root");
    }

    /// So are the characters of the language in any order.
    #[test]
    fn any_marks_are_read(text in "(root ::= )?[\"\\[\\](){}*+?|<>!.^ab01\\\\ \n:=,#-]{0,80}") {
        let _ = Grammar::gbnf(&tiny(Weights::F16), &text, "root");
    }

    /// A grammar that came through takes any tokens, or refuses each and stays as it was.
    #[test]
    fn mutated_grammars_stand_any_tokens(text in mutated(), tokens in prop::collection::vec(-2i32..400, 0..24)) {
        let model = sentence_piece();
        let Ok(mut grammar) = Grammar::gbnf(&model, &text, "root") else { return Ok(()) };
        for token in tokens.into_iter().map(llama_safe::Token) {
            let before = (grammar.state(), grammar.allowed().cloned());
            let listed = before.1.as_ref().is_some_and(|allowed| allowed.contains(token));
            match grammar.accept(token) {
                Ok(state) => prop_assert!(listed && state == grammar.state()),
                Err(_) => {
                    prop_assert!(!listed);
                    prop_assert_eq!(before, (grammar.state(), grammar.allowed().cloned()));
                    // One that goes on, so that the next is asked further in.
                    if let Some(next) = grammar.allowed().and_then(|allowed| allowed.iter().next()) {
                        grammar.accept(next).unwrap();
                    }
                }
            }
        }
    }
}
