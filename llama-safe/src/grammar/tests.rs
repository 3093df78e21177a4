//! What the engine costs, counted in readings looked at and states made: never by a clock.

use std::collections::HashMap;

use super::*;

struct NoNames;

impl parse::Tokens for NoNames {
    fn by_text(&self, _: &str) -> Option<u32> {
        None
    }

    fn vocabulary(&self) -> u32 {
        256
    }
}

/// A vocabulary of all bytes, and of the longer tokens given.
fn trie(longer: &[&str]) -> Arc<TokenTrie> {
    let mut pieces: Vec<Vec<u8>> = (0..=255u8).map(|byte| vec![byte]).collect();
    pieces.extend(longer.iter().map(|text| text.as_bytes().to_vec()));
    let ends = TokenSet::empty(pieces.len() as u32);
    Arc::new(TokenTrie::new(&pieces, HashMap::new(), ends))
}

fn place(text: &str) -> gbnf::Place {
    gbnf::Place::new(text, "root", &NoNames, &trie(&["aa", "aaaa", "ab", "\"}"])).unwrap()
}

fn read(place: gbnf::Place, text: &str) -> gbnf::Place {
    let step =
        |place: gbnf::Place, byte: &u8| place.after(u32::from(*byte), &[*byte]).unwrap().expect("an allowed byte");
    text.as_bytes().iter().fold(place, step)
}

#[test]
fn what_was_seen_before_costs_nothing() {
    let mut list = place(
        r#"root ::= "[" (item ("," item)*)? "]"
        item ::= root | [0-9]+"#,
    );
    for _ in 0..3 {
        list = read(list, "[12,[3],");
        list.allowed().unwrap();
        list = read(list, "[1,2,3],[5],9]");
        list = list.beginning();
    }
    let known = list.cost().1;
    let list = read(list, "[12,[3],[1,2,3],[5],9]");
    list.allowed().unwrap();
    let (work, states) = list.cost();
    assert_eq!((work, states), (0, known));
}

/// Exponentially many readings: states grow with the text, and the cost of a step with its square, no faster.
#[test]
fn readings_are_shared() {
    for text in [
        "root ::= \"a\" root \"x\" | \"a\" root \"y\" | \"z\"",
        "root ::= \"a\" root root | \"a\"",
        "root ::= (\"a\"? \"a\"? \"a\"?)* | (\"a\" | \"aa\")+",
    ] {
        let mut here = place(text);
        for length in 1..=400u64 {
            here = read(here, "a");
            let (work, states) = here.cost();
            assert!(work <= 40 + 12 * length + length * length, "{work} at {length}: {text}");
            assert!(states as u64 <= 8 + 4 * length, "{states} at {length}: {text}");
        }
    }
}

#[test]
fn repetition_bombs_cost_what_is_written_out() {
    // A thousand places at once, in every state.
    let here = read(place("root ::= (\"a\"?){1000}"), "a");
    assert!(here.cost().0 <= 8_000, "{}", here.cost().0);
    here.allowed().unwrap();
    assert!(here.cost().0 <= 40_000, "{}", here.cost().0);
}

#[test]
fn what_costs_too_much_is_an_error_and_leaves_the_place() {
    // A thousand readings at once, for each letter.
    let letters: String = ('a'..='z').map(|letter| format!("\"{letter}\"? ")).collect();
    let here = place(&format!("root ::= ({letters}){{40}}"));
    here.limit(5_000);
    for _ in 0..3 {
        let error = here.allowed().unwrap_err();
        assert_eq!(error, GrammarError::TooComplex { limit: 5_000, unit: "steps for a token" });
        // Counted before it is spent, by what one step of a reading finds at most.
        assert!(here.cost().0 <= 5_000 + 1_100, "{}", here.cost().0);
    }
    assert!(here.after(97, b"a").unwrap().is_some());
    here.limit(1_000_000);
    assert_eq!(here.allowed().unwrap().len(), 26 + 3, "all letters, and the longer tokens of them");
}

/// What is forgotten and found again is the same.
#[test]
fn thinning_out_changes_nothing() {
    let text = r#"root ::= "[" (root | "a" | "é")* "]" | "(" root{1,3} ")""#;
    let places: Vec<gbnf::Place> = ["", "[", "[[a", "([][", "[é[(["]
        .iter()
        .scan(place(text), |start, text| Some(read(start.clone(), text)))
        .collect();
    let before: Vec<_> = places.iter().map(|place| (place.allowed().unwrap(), place.is_complete())).collect();
    let half = places[4].after(0xC3, &[0xC3]).unwrap().unwrap();
    let known = half.cost().1;
    half.thin_out();
    assert!(half.cost().1 < known);
    for (place, (allowed, complete)) in places.iter().zip(before) {
        assert_eq!((place.allowed().unwrap(), place.is_complete()), (allowed, complete));
    }
    assert_eq!(half.allowed().unwrap().iter().collect::<Vec<_>>(), [Token(0xA9)]);
    assert!(read(places[2].clone(), "]]").is_complete());
}

/// A mask holds the tokens whose bytes, one by one, are read: found here without the tree.
#[test]
fn masks_are_what_is_read() {
    let longer = ["aa", "ab", "aab", "\"a", "\"}", "}}", "é", "日本", "ab\"", "aaaaaaaaab", "abababababab"];
    let trie = trie(&longer);
    for text in [
        r#"root ::= "{" ([^"}] | "\"" [^"]* "\"" | root)* "}""#,
        "root ::= [ab]* \"\\\"\" | \"a\" root \"b\" | \"\\\"\" [^a]+",
        "root ::= (\"aa\" | \"aab\" | [é-本]){2,3} \"}\"?",
    ] {
        let mut here = gbnf::Place::new(text, "root", &NoNames, &trie).unwrap();
        for step in 0..12u32 {
            let allowed = here.allowed().unwrap();
            for token in 0..trie.vocabulary() {
                let read = here.after(token, trie.piece(token)).unwrap().is_some();
                assert_eq!(read, allowed.contains(Token(token as i32)), "{token} at {step}: {text}");
            }
            let Some(next) = allowed.iter().nth((step * 7) as usize % allowed.len().max(1) as usize) else { break };
            here = here.after(next.0 as u32, trie.piece(next.0 as u32)).unwrap().unwrap();
        }
    }
}
