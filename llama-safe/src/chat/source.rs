//! The source of a template: what of it the engine does not know or does not bound, and the words that its logic may depend on.

use std::collections::BTreeSet;

/// A template's source, read once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Source {
    /// The source for the engine.
    pub(super) text: String,
    /// Texts and names of attributes that stand in its tags.
    pub(super) words: BTreeSet<String>,
    /// Parts of the longest tag, and the line that it ends in.
    pub(super) longest: (usize, usize),
}

/// The filter around what a namespace is to hold.
pub(super) const KEPT: &str = "_kept";
/// The filter behind a list, a mapping or a tuple that is made of others.
pub(super) const MADE: &str = "_made";
/// The filter behind what something is added to.
pub(super) const LISTED: &str = "_listed";

/// Reads a template's source, with these changes for the engine:
///
/// - `{% generation %}` and `{% endgeneration %}`, transformers' marks around what the model is to learn, write nothing: they
///   become `{% if true %}` and `{% endif %}`, which leaves whitespace and line numbers as they are.
/// - `{% set ns.a = x %}`, the only way by which a loop can build something without end, has the filter [`KEPT`] on `x`.
/// - `[a, b]`, `(a, b)`, `{'a': b}`, `dict(a=b)` and `namespace(a=b)` have the filter [`MADE`] behind them: what holds itself
///   twice, again and again, is not large, but takes forever to compare.
/// - `a + b` has the filter [`LISTED`] on `a`: the engine adds lists without paying for their items.
pub(super) fn read(source: &str) -> Source {
    let mut read = Source::default();
    let mut rest = source;
    while let Some(start) = rest.find('{') {
        let (before, tag) = rest.split_at(start);
        read.text.push_str(before);
        let length = match tag.as_bytes().get(1) {
            Some(b'#') => {
                let length = tag.find("#}").map_or(tag.len(), |end| end + 2);
                read.text.push_str(&tag[..length]);
                length
            }
            Some(b'%') => read.statement(tag),
            Some(b'{') => {
                read.text.push_str("{{");
                2 + read.expression(&tag[2..], "}}", None)
            }
            _ => {
                read.text.push('{');
                1
            }
        };
        rest = &tag[length..];
    }
    read.text.push_str(rest);
    read
}

/// What a `+` after it adds to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// Something that may be a list.
    Value,
    /// A text or a number, or nothing that can be added to.
    Other,
}

impl Source {
    /// Takes `{% .. %}` over, and what follows `{% raw %}`. Gives its length.
    fn statement(&mut self, tag: &str) -> usize {
        let name_at = tag.len() - tag[2..].trim_start_matches(['-', '+']).trim_start().len();
        let name = word(&tag[name_at..]);
        let end = name_at + name.len();
        match name {
            "generation" | "endgeneration" => {
                self.text.push_str(&tag[..name_at]);
                self.text.push_str(if name == "generation" { "if true" } else { "endif" });
                end
            }
            "raw" => {
                let end = tag.find("endraw").map_or(tag.len(), |end| end + "endraw".len());
                self.text.push_str(&tag[..end]);
                end
            }
            _ => {
                self.text.push_str(&tag[..name_at]);
                let target = (name == "set").then(|| attribute_target(&tag[end..])).flatten();
                name_at + self.expression(&tag[name_at..], "%}", target.map(|at| end - name_at + at))
            }
        }
    }

    /// Takes the inside of a tag over up to `end`, outside of its texts, and notes its words. What follows `assigned` is
    /// assigned to an attribute. Gives its length.
    fn expression(&mut self, inside: &str, end: &str, assigned: Option<usize>) -> usize {
        let mut at = 0;
        let mut before = Before::Other;
        let mut parts = 0;
        // Open brackets: where what one makes begins in the new source, and whether it is made of variables.
        let mut open: Vec<(Option<usize>, bool)> = Vec::new();
        let mut last_word = ("", 0);
        // Names that are assigned to stand in brackets as well.
        let mut is_value = !["for", "set", "call", "macro"].contains(&word(inside));
        while let Some(first) = inside[at..].chars().next() {
            let rest = &inside[at..];
            if rest.starts_with(end) || (rest.starts_with(['-', '+']) && rest[1..].starts_with(end)) {
                if assigned.is_some() {
                    self.text.push_str(&format!(")|{KEPT} "));
                }
                self.longest = self.longest.max((parts, self.text.matches('\n').count() + 1));
                let length = end.len() + usize::from(!rest.starts_with(end));
                self.text.push_str(&rest[..length]);
                return at + length;
            }
            let mut length = first.len_utf8();
            let mut made = None;
            parts += usize::from(!first.is_whitespace());
            match first {
                '\'' | '"' => {
                    let (text, quoted) = quoted(rest, first);
                    self.words.insert(text);
                    (before, length) = (Before::Other, quoted);
                }
                _ if first.is_alphanumeric() || first == '_' => {
                    let name = word(rest);
                    if inside[..at].ends_with('.') {
                        self.words.insert(name.to_owned());
                    }
                    let other = first.is_ascii_digit() || KEYWORDS.contains(&name);
                    if !other {
                        open.iter_mut().for_each(|(_, of_variables)| *of_variables = true);
                    }
                    is_value |= name == "in";
                    last_word = (name, self.text.len());
                    (before, length) = (if other { Before::Other } else { Before::Value }, name.len());
                }
                '(' | '[' | '{' => {
                    let maker = first == '(' && ["dict", "namespace"].contains(&last_word.0);
                    let makes = is_value && (before == Before::Other || maker);
                    open.push((makes.then_some(if maker { last_word.1 } else { self.text.len() }), false));
                    before = Before::Other;
                }
                ')' | ']' | '}' => {
                    before = Before::Value;
                    made = open.pop().and_then(|(begins, of_variables)| begins.filter(|_| of_variables));
                    is_value |= first == ')' && open.is_empty();
                }
                '+' if before == Before::Value => {
                    self.text.push_str(&format!("|{LISTED} "));
                    before = Before::Other;
                }
                _ if first.is_whitespace() => {}
                _ => before = Before::Other,
            }
            self.text.push_str(&rest[..length]);
            at += length;
            if let Some(begins) = made {
                self.text.insert(begins, '(');
                self.text.push_str(&format!("|{MADE})"));
            }
            is_value |= first == '=';
            if assigned == Some(at) {
                self.text.push('(');
            }
        }
        at
    }
}

/// Words of the language that no value ends with.
const KEYWORDS: [&str; 14] =
    ["and", "call", "elif", "else", "filter", "for", "if", "in", "is", "not", "or", "recursive", "set", "with"];

/// The name that a text begins with.
fn word(text: &str) -> &str {
    &text[..text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())]
}

/// Where the value of an assignment begins, if it is one to an attribute.
fn attribute_target(after_set: &str) -> Option<usize> {
    let equals = after_set.find('=')?;
    let target = &after_set[..equals];
    let is_target =
        target.chars().all(|c| c.is_alphanumeric() || c.is_whitespace() || matches!(c, '_' | '.' | ',' | '(' | ')'));
    (is_target && target.contains('.') && !after_set[equals..].starts_with("==")).then_some(equals + 1)
}

/// A text in quotes, and how long it is in the source.
fn quoted(source: &str, quote: char) -> (String, usize) {
    let mut text = String::new();
    let mut letters = source.char_indices().skip(1);
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => match letters.next() {
                Some((_, 'n')) => text.push('\n'),
                Some((_, 't')) => text.push('\t'),
                Some((_, 'r')) => text.push('\r'),
                Some((_, other)) => text.push(other),
                None => {}
            },
            letter if letter == quote => return (text, at + 1),
            letter => text.push(letter),
        }
    }
    (text, source.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn marks_of_what_is_learned_become_statements_that_write_nothing() {
        let source = "{%- generation -%}\n{{ '{% generation %}' }}{% raw %}{% generation %}{% endraw %}{%endgeneration%}{# {% generation %} #}";
        let expected = "{%- if true -%}\n{{ '{% generation %}' }}{% raw %}{% generation %}{% endraw %}{%endif%}{# {% generation %} #}";
        assert_eq!(read(source).text, expected);
    }

    #[test]
    fn words_are_those_of_tags() {
        assert_eq!(read("{{ a }}\n{% if a.b == 'c d' %}\n").longest, (7, 2));
        let words = read(r#"no {# no #} {% if a.b == 'c\n}}d' -%} no {{ x["y\""] }}"#).words;
        assert_eq!(words.into_iter().collect::<Vec<_>>(), ["b", "c\n}}d", "y\""]);
    }

    #[test]
    fn what_grows_is_bounded() {
        let cases = [
            ("{% set ns.a = b + c -%}", "{% set ns.a =( b |_listed + c )|_kept -%}"),
            ("{%set ns.a=1%}{%+ set a = [1]+b +%}", "{%set ns.a=(1)|_kept %}{%+ set a = [1]|_listed +b +%}"),
            ("{{ 'a' + b.c + +1 + d(e)[0]+2 }}", "{{ 'a' + b.c |_listed + +1 + d(e)[0]|_listed +2 }}"),
            (
                "{% set a = b.c == d %}{% if a.b == c %}{% set x.y %}+{% endset %}",
                "{% set a = b.c == d %}{% if a.b == c %}{% set x.y %}+{% endset %}",
            ),
        ];
        for (source, expected) in cases {
            assert_eq!(read(source).text, expected);
        }
    }

    proptest! {
        /// Whatever a template is, it is only changed where it has one of these.
        #[test]
        fn other_sources_stay_as_they_are(source in "([a-z {}%#'\"\\\\é-]|\\{%|%\\}|\\{\\{|\\}\\}|raw|endraw|\\n){0,40}") {
            let read = read(&source).text;
            prop_assert!(read == source || read.contains(MADE));
        }
    }
}
