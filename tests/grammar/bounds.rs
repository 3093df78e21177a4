//! Bombs: grammars and schemas that would take all time, memory or stack. What they may cost is counted beside the engine;
//! here they are refused, or serve.

use batch_suite::tiny;
use fixtures::Weights;
use llama_safe::{Grammar, GrammarError, GrammarState, Special};

fn gbnf(text: &str) -> Result<Grammar, GrammarError> {
    Grammar::gbnf(&tiny(Weights::F16), text, "root")
}

#[test]
fn nesting_is_refused_or_serves() {
    for (open, close) in [("(", ")"), ("((", ")*)"), ("(\"b\" | ", ")")] {
        let deep = format!("root ::= {}\"a\"{}", open.repeat(10_000), close.repeat(10_000));
        assert!(matches!(gbnf(&deep), Err(GrammarError::TooDeep { line: 1, .. })), "{open}");
        let fine = format!("root ::= {}\"a\"{}", open.repeat(60), close.repeat(60));
        assert!(gbnf(&fine).is_ok(), "{open}");
    }
    for postfix in ["*", "+", "?", "{1}"] {
        let deep = format!("root ::= \"a\"{}", postfix.repeat(10_000));
        assert!(matches!(gbnf(&deep), Err(GrammarError::TooDeep { line: 1, .. })), "{postfix}");
    }
}

#[test]
fn repetitions_are_refused_or_serve() {
    for bomb in [
        "\"a\"{1,1000000}",
        "\"a\"{100}{100}{100}",
        "(\"a\"{0,1000}){0,1000}",
        "(\"\"{1000000}){1000000}",
        "[a-z]{4294967295}",
    ] {
        let error = gbnf(&format!("a ::= \"x\"\nroot ::= {bomb}")).unwrap_err();
        assert!(matches!(error, GrammarError::TooLarge { line: 2, .. }), "{bomb}: {error:?}");
    }
    // More than 2000, which llama.cpp takes as any number (llama-grammar.cpp:660).
    let model = tiny(Weights::F16);
    let mut grammar = gbnf("root ::= \"a\"{2500}").unwrap();
    let a = model.tokenize("a", Special::None).unwrap()[0];
    for _ in 0..2499 {
        assert_eq!(grammar.accept(a).unwrap(), GrammarState::Allowed { complete: false });
    }
    assert_eq!(grammar.accept(a).unwrap(), GrammarState::Finished);
}

#[test]
fn many_rules_and_alternatives_serve() {
    let chain: String = (0..20_000).map(|i| format!("r{i} ::= r{}\n", i + 1)).collect();
    assert!(gbnf(&format!("root ::= r0\n{chain}r20000 ::= \"x\"")).is_ok());
    let circle: String = (0..20_000).map(|i| format!("r{i} ::= r{}\n", (i + 1) % 20_000)).collect();
    assert!(matches!(gbnf(&format!("root ::= r0\n{circle}")), Err(GrammarError::EndlessRule { .. })));
    let circle = circle.replace('\n', " | \"x\"\n");
    assert!(matches!(gbnf(&format!("root ::= r0\n{circle}")), Err(GrammarError::LeftRecursion { .. })));
    let words: Vec<String> = (0..5_000).map(|i| format!("\"{i:x}\"")).collect();
    assert!(gbnf(&format!("root ::= {}", words.join(" | "))).is_ok());
}

#[test]
fn texts_of_any_length_are_told() {
    let long = format!("root ::= \"{}\"", "a".repeat(5 << 20));
    assert!(matches!(gbnf(&long), Err(GrammarError::TooLong { .. })));
    let schema = format!("{{\"const\": \"{}\"}}", "a".repeat(2 << 20));
    assert!(matches!(Grammar::json_schema(&tiny(Weights::F16), &schema), Err(GrammarError::TooLong { .. })));
}

/// 2^200 readings of 200 letters, and a text as deep: no more work than for one.
#[test]
fn ambiguity_and_depth_serve() {
    let model = tiny(Weights::F16);
    let a = model.tokenize("a", Special::None).unwrap()[0];
    for text in [
        "root ::= \"a\" root \"x\" | \"a\" root \"y\" | \"z\"",
        "root ::= \"a\" root root | \"a\"",
        "root ::= \"a\" root? root? root?",
        "root ::= (\"a\"? \"a\"? \"a\"?)* | (\"a\" | \"aa\")+",
    ] {
        let mut grammar = gbnf(text).unwrap();
        for _ in 0..200 {
            assert!(matches!(grammar.accept(a).unwrap(), GrammarState::Allowed { .. }), "{text}");
        }
    }
    let mut grammar = gbnf("root ::= \"a\" root \"b\" | \"c\"").unwrap();
    for _ in 0..5_000 {
        grammar.accept(a).unwrap();
    }
    let [b, c] = ["b", "c"].map(|text| model.tokenize(text, Special::None).unwrap()[0]);
    grammar.accept(c).unwrap();
    for left in (0..5_000).rev() {
        let state = grammar.accept(b).unwrap();
        assert_eq!(state == GrammarState::Finished, left == 0);
    }
}

#[test]
fn schema_bombs_are_refused_or_serve() {
    let model = tiny(Weights::F16);
    let nested = format!("{}{{}}{}", "{\"items\":".repeat(10_000), "}".repeat(10_000));
    let array = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let chain: Vec<String> = (0..3_000).map(|i| format!("\"d{i}\": {{\"$ref\": \"#/$defs/d{}\"}}", i + 1)).collect();
    let chain =
        format!("{{\"$ref\": \"#/$defs/d0\", \"$defs\": {{{}, \"d3000\": {{\"type\": \"null\"}}}}}}", chain.join(","));
    for bomb in [
        nested,
        array,
        chain,
        r##"{"$ref": "#"}"##.to_owned(),
        r##"{"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}"##.to_owned(),
        r##"{"allOf": [{"$ref": "#"}]}"##.to_owned(),
        r#"{"type": "string", "pattern": "^((a{1000}){1000}){1000}$"}"#.to_owned(),
        format!(r#"{{"type": "string", "pattern": "{}a{}"}}"#, "(".repeat(5_000), ")".repeat(5_000)),
        format!(r#"{{"type": "string", "pattern": "^{}$"}}"#, "a?".repeat(3_000)),
        r#"{"type": "string", "minLength": 100000000}"#.to_owned(),
        r#"{"type": "string", "maxLength": 1000000000000}"#.to_owned(),
        r#"{"type": "array", "minItems": 4000000000}"#.to_owned(),
        r#"{"type": "integer", "multipleOf": 982451653}"#.to_owned(),
        r#"{"type": "number", "multipleOf": 1e-300}"#.to_owned(),
        r#"{"type": "number", "minimum": 1e308, "maximum": -1e308}"#.to_owned(),
        r#"{"enum": []}"#.to_owned(),
    ] {
        // Refused, or of some use: what matters is that it comes back.
        if let Ok(mut grammar) = Grammar::json_schema(&model, &bomb) {
            for _ in 0..4 {
                let Some(token) = grammar.allowed().and_then(|allowed| allowed.iter().next()) else { break };
                let _ = grammar.accept(token);
            }
        }
    }
}
