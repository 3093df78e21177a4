//! The text of a grammar (GBNF) to a tree of its rules.
//!
//! The language is that of llama.cpp's llama-grammar.cpp, strings, sets, groups, repetitions and tokens. What it takes
//! there and means something else than it says is refused here: sets without a character (the empty text there), ranges
//! from the higher to the lower, repetitions with more at least than at most (an endless loop there, :513), rules that are
//! defined twice (the last wins there).

use std::collections::HashMap;

use crate::error::GrammarError;

/// Groups and repetitions in each other: what recurses over the tree recurses no deeper.
pub(super) const MAX_DEPTH: u32 = 200;
/// Bytes of a grammar's text.
pub(super) const MAX_TEXT: usize = 4 << 20;

/// What a rule consists of.
#[derive(Debug, PartialEq)]
pub(super) enum Node {
    /// One character of these ranges, both ends included.
    Set(Vec<(char, char)>),
    /// One token, by its id.
    Token { token: u32, negated: bool },
    /// A rule, by its index.
    Rule(u32),
    /// One after the other.
    Sequence(Vec<Node>),
    /// One of them.
    Alternatives(Vec<Node>),
    /// At least `min` times; at most `max` times, if that is set.
    Repeat { node: Box<Node>, min: u32, max: Option<u32> },
}

/// A rule with its name and the line of its definition.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: String,
    pub(super) line: u32,
    pub(super) body: Node,
}

/// Looks for the one token of a text such as `<think>`, or says what is wrong with an id.
pub(super) trait Tokens {
    /// The token, if the text is exactly one.
    fn by_text(&self, text: &str) -> Option<u32>;
    /// Tokens of the vocabulary.
    fn vocabulary(&self) -> u32;
}

/// The rules of a grammar, in the order of their first mention.
pub(super) fn parse(text: &str, tokens: &dyn Tokens) -> Result<Vec<Rule>, GrammarError> {
    if text.len() > MAX_TEXT {
        return Err(GrammarError::TooLong { got: text.len(), max: MAX_TEXT });
    }
    let mut parser = Parser { rest: text, line: 1, column: 1, depth: 0, tokens, names: HashMap::new(), rules: vec![] };
    parser.space(true);
    while !parser.rest.is_empty() {
        parser.rule()?;
    }
    parser.finish()
}

struct Parser<'text> {
    rest: &'text str,
    line: u32,
    column: u32,
    depth: u32,
    tokens: &'text dyn Tokens,
    names: HashMap<&'text str, u32>,
    rules: Vec<Mentioned<'text>>,
}

/// A rule that was mentioned, and perhaps defined.
struct Mentioned<'text> {
    name: &'text str,
    /// Where it was mentioned first.
    place: (u32, u32),
    defined: Option<(u32, Node)>,
}

/// A part of a sequence with the depth of what is in it.
struct Part {
    node: Node,
    depth: u32,
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-'
}

impl<'text> Parser<'text> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    /// Moves on by one character, which is given.
    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        if c == '\n' {
            (self.line, self.column) = (self.line + 1, 1);
        } else {
            self.column += 1;
        }
        Some(c)
    }

    /// Moves on if this is next.
    fn eat(&mut self, text: &str) -> bool {
        let found = self.rest.starts_with(text);
        if found {
            text.chars().for_each(|_| {
                self.bump();
            });
        }
        found
    }

    /// Skips blanks and comments.
    fn space(&mut self, lines: bool) {
        while let Some(c) = self.peek() {
            let _ = match c {
                '#' => {
                    while self.peek().is_some_and(|c| c != '\n' && c != '\r') {
                        self.bump();
                    }
                    None
                }
                ' ' | '\t' => self.bump(),
                '\n' | '\r' if lines => self.bump(),
                _ => break,
            };
        }
    }

    fn place(&self) -> (u32, u32) {
        (self.line, self.column)
    }

    /// What stands here instead of what is expected.
    fn unexpected<T>(&self, expected: &str) -> Result<T, GrammarError> {
        let found = match self.peek() {
            None => "the end of the text".to_owned(),
            Some('\n' | '\r') => "the end of the line".to_owned(),
            Some(c) if c.is_control() => format!("the character U+{:04X}", c as u32),
            Some(c) => format!("`{c}`"),
        };
        Err(refused(self.place(), found, expected))
    }

    fn name(&mut self, expected: &str) -> Result<&'text str, GrammarError> {
        let length = self.rest.find(|c| !is_name(c)).unwrap_or(self.rest.len());
        let name = &self.rest[..length];
        if name.is_empty() {
            return self.unexpected(expected);
        }
        self.eat(name);
        Ok(name)
    }

    fn mention(&mut self, name: &'text str, place: (u32, u32)) -> u32 {
        let next = self.rules.len() as u32;
        let index = *self.names.entry(name).or_insert(next);
        if index == next {
            self.rules.push(Mentioned { name, place, defined: None });
        }
        index
    }

    fn rule(&mut self) -> Result<(), GrammarError> {
        let place = self.place();
        let name =
            self.name("a rule's name (letters, digits, `-`); an alternative on a new line needs parentheses around")?;
        let index = self.mention(name, place) as usize;
        if let Some((first, _)) = self.rules[index].defined {
            return Err(GrammarError::DuplicateRule { rule: name.to_owned(), line: place.0, first });
        }
        self.space(false);
        if !self.eat("::=") {
            return self.unexpected("`::=` after the rule's name (letters, digits, `-`)");
        }
        self.space(true);
        let body = self.alternatives(false)?.node;
        if !matches!(self.peek(), None | Some('\n' | '\r')) {
            return self.unexpected("a string, a set, a rule, `(`, `.`, `|`, a repetition, or the end of the line");
        }
        self.space(true);
        self.rules[index].defined = Some((place.0, body));
        Ok(())
    }

    fn alternatives(&mut self, nested: bool) -> Result<Part, GrammarError> {
        let mut depth = 0;
        let mut all = Vec::new();
        loop {
            let part = self.sequence(nested)?;
            depth = depth.max(part.depth);
            all.push(part.node);
            if !self.eat("|") {
                break;
            }
            self.space(true);
        }
        let node = if all.len() == 1 { all.remove(0) } else { Node::Alternatives(all) };
        Ok(Part { node, depth })
    }

    fn sequence(&mut self, nested: bool) -> Result<Part, GrammarError> {
        let mut parts: Vec<Part> = Vec::new();
        while let Some(c) = self.peek() {
            let place = self.place();
            let part = match c {
                '"' => Part { node: self.string()?, depth: 0 },
                '[' => Part { node: self.set()?, depth: 0 },
                '<' | '!' => Part { node: self.token()?, depth: 0 },
                '.' => {
                    self.bump();
                    Part { node: Node::Set(vec![('\0', char::MAX)]), depth: 0 }
                }
                '(' => self.group()?,
                '*' | '+' | '?' | '{' => {
                    let (min, max) = self.repetition(nested)?;
                    let Some(Part { node, depth }) = parts.pop() else {
                        return Err(refused(place, format!("`{c}`"), "something to repeat before it"));
                    };
                    if self.depth + depth >= MAX_DEPTH {
                        return Err(too_deep(place));
                    }
                    Part { node: Node::Repeat { node: Box::new(node), min, max }, depth: depth + 1 }
                }
                c if is_name(c) => {
                    let name = self.name("a rule's name")?;
                    Part { node: Node::Rule(self.mention(name, place)), depth: 0 }
                }
                _ => break,
            };
            self.space(nested);
            parts.push(part);
        }
        let depth = parts.iter().map(|part| part.depth).max().unwrap_or(0);
        let mut nodes: Vec<Node> = parts.into_iter().map(|part| part.node).collect();
        let node = if nodes.len() == 1 { nodes.remove(0) } else { Node::Sequence(nodes) };
        Ok(Part { node, depth })
    }

    fn group(&mut self) -> Result<Part, GrammarError> {
        if self.depth >= MAX_DEPTH {
            return Err(too_deep(self.place()));
        }
        self.bump();
        self.space(true);
        self.depth += 1;
        let Part { node, depth } = self.alternatives(true)?;
        self.depth -= 1;
        if !self.eat(")") {
            return self.unexpected("a string, a set, a rule, `(`, `.`, `|`, a repetition, or `)`");
        }
        Ok(Part { node, depth: depth + 1 })
    }

    fn repetition(&mut self, nested: bool) -> Result<(u32, Option<u32>), GrammarError> {
        let place = self.place();
        match self.bump() {
            Some('*') => return Ok((0, None)),
            Some('+') => return Ok((1, None)),
            Some('?') => return Ok((0, Some(1))),
            _ => {}
        }
        self.space(nested);
        let min = self.number()?;
        self.space(nested);
        let mut max = Some(min);
        if self.eat(",") {
            self.space(nested);
            max = if self.peek() == Some('}') { None } else { Some(self.number()?) };
            self.space(nested);
        }
        if !self.eat("}") {
            return self.unexpected("`,` or `}`");
        }
        if max.is_some_and(|max| max < min) {
            let found = format!("`{{{min},{}}}`", max.unwrap_or_default());
            return Err(refused(place, found, "at most as many repetitions at least as at most"));
        }
        Ok((min, max))
    }

    fn number(&mut self) -> Result<u32, GrammarError> {
        let place = self.place();
        let length = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
        let digits = &self.rest[..length];
        if digits.is_empty() {
            return self.unexpected("a number");
        }
        self.eat(digits);
        digits.parse().map_err(|_| refused(place, format!("`{}`", shortened(digits)), "a number of 32 bits"))
    }

    fn string(&mut self) -> Result<Node, GrammarError> {
        self.bump();
        let mut characters = Vec::new();
        while !self.eat("\"") {
            let c = self.character("a character, or `\"` at the end of the string")?;
            characters.push(Node::Set(vec![(c, c)]));
        }
        Ok(if characters.len() == 1 { characters.remove(0) } else { Node::Sequence(characters) })
    }

    fn set(&mut self) -> Result<Node, GrammarError> {
        let place = self.place();
        self.bump();
        let negated = self.eat("^");
        let mut ranges = Vec::new();
        while !self.eat("]") {
            let place = self.place();
            let low = self.character("a character, or `]` at the end of the set")?;
            let mut high = low;
            if self.rest.starts_with('-') && !self.rest.starts_with("-]") {
                self.bump();
                high = self.character("a character at the end of the range")?;
            }
            if high < low {
                let found = format!("the range from U+{:04X} to U+{:04X}", low as u32, high as u32);
                return Err(refused(place, found, "a range from the lower to the higher character"));
            }
            ranges.push((low, high));
        }
        if ranges.is_empty() && !negated {
            return Err(refused(place, "`[]`".to_owned(), "at least one character: use \"\" for the empty text"));
        }
        let ranges = merged(ranges);
        let ranges = if negated { complement(&ranges) } else { ranges };
        if ranges.is_empty() {
            return Err(refused(place, "a set that leaves out everything".to_owned(), "at least one character"));
        }
        Ok(Node::Set(ranges))
    }

    /// One character of a string or set.
    fn character(&mut self, expected: &str) -> Result<char, GrammarError> {
        let place = self.place();
        match self.peek() {
            None | Some('\0') => return self.unexpected(expected),
            Some('\\') => {
                self.bump();
            }
            Some(c) => {
                self.bump();
                return Ok(c);
            }
        }
        let c = self.bump();
        let digits = match c {
            Some('t') => return Ok('\t'),
            Some('r') => return Ok('\r'),
            Some('n') => return Ok('\n'),
            Some(c @ ('\\' | '"' | '[' | ']' | '-')) => return Ok(c),
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            _ => {
                let found =
                    c.map_or("`\\` at the end of the text".to_owned(), |c| format!("`\\{}`", c.escape_default()));
                return Err(refused(place, found, r#"one of \t \r \n \\ \" \[ \] \- \xFF \uFFFF \UFFFFFFFF"#));
            }
        };
        let mut value = 0u32;
        for _ in 0..digits {
            let Some(digit) = self.peek().and_then(|c| c.to_digit(16)) else {
                return self.unexpected(&format!("{digits} hexadecimal digits"));
            };
            // Eight digits of 4 bits.
            value = value << 4 | digit;
            self.bump();
        }
        let no_character = || refused(place, format!("the number {value:X}"), "the number of a Unicode character");
        char::from_u32(value).ok_or_else(no_character)
    }

    fn token(&mut self) -> Result<Node, GrammarError> {
        let negated = self.eat("!");
        let place = self.place();
        if !self.rest.starts_with('<') {
            return self.unexpected("a token: `<name>` or `<[id]>`");
        }
        let token = if self.eat("<[") {
            let token = self.number()?;
            if !self.eat("]>") {
                return self.unexpected("`]>`");
            }
            let vocabulary = self.tokens.vocabulary();
            if token >= vocabulary {
                return Err(refused(
                    place,
                    format!("`<[{token}]>`"),
                    &format!("an id below {vocabulary}, the vocabulary's size"),
                ));
            }
            token
        } else {
            let Some(length) = self.rest.find('>') else {
                return Err(refused(place, "`<`".to_owned(), "`>` after it"));
            };
            let name = &self.rest[..=length];
            // A token's name is short, and llama.cpp's tokenizer need not be asked for more.
            let found = if name.len() <= 1024 { self.tokens.by_text(name) } else { None };
            let Some(token) = found else {
                return Err(refused(
                    place,
                    format!("`{}`", shortened(name)),
                    "a text that is one token of this vocabulary",
                ));
            };
            self.eat(name);
            token
        };
        Ok(Node::Token { token, negated })
    }

    /// The rules, all of them defined.
    fn finish(self) -> Result<Vec<Rule>, GrammarError> {
        let rules = self.rules.into_iter().map(|rule| match rule.defined {
            Some((line, body)) => Ok(Rule { name: rule.name.to_owned(), line, body }),
            None => {
                let (line, column) = rule.place;
                Err(GrammarError::UndefinedRule { rule: shortened(rule.name), line, column })
            }
        });
        rules.collect()
    }
}

fn refused((line, column): (u32, u32), found: String, expected: &str) -> GrammarError {
    GrammarError::Syntax { line, column, found, expected: expected.to_owned() }
}

fn too_deep((line, column): (u32, u32)) -> GrammarError {
    GrammarError::TooDeep { line, column, limit: MAX_DEPTH }
}

/// The text, or its beginning.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Ranges in ascending order, with nothing between two that touch.
fn merged(mut ranges: Vec<(char, char)>) -> Vec<(char, char)> {
    ranges.sort_unstable();
    let mut merged: Vec<(char, char)> = Vec::new();
    for (low, high) in ranges {
        match merged.last_mut() {
            Some(last) if low <= last.1 || next(last.1) == Some(low) => last.1 = last.1.max(high),
            _ => merged.push((low, high)),
        }
    }
    merged
}

/// All characters that the ranges, merged, leave out.
fn complement(ranges: &[(char, char)]) -> Vec<(char, char)> {
    let mut left = Vec::new();
    let mut from = Some('\0');
    for &(low, high) in ranges {
        if let (Some(from), Some(to)) = (from, previous(low))
            && from <= to
        {
            left.push((from, to));
        }
        from = next(high);
    }
    left.extend(from.map(|from| (from, char::MAX)));
    left
}

/// The character after this one; surrogates are none.
fn next(c: char) -> Option<char> {
    (c..=char::MAX).nth(1)
}

fn previous(c: char) -> Option<char> {
    ('\0'..=c).nth_back(1)
}
