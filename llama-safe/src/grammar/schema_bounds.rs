//! What a JSON schema may cost, told before it is compiled.

use std::collections::BTreeSet;

use regex_syntax::ast::parse::ParserBuilder;
use regex_syntax::ast::{Ast, RepetitionKind, RepetitionRange};
use serde_json::Value;

/// Levels of a schema, references followed: the compiler recurses over them.
pub(super) const MAX_LEVELS: usize = 1 << 14;
/// Bytes of stack for a level: about 35,000 were measured where each is a reference, in a build without optimisation.
const LEVEL_STACK: usize = 64 << 10;
/// Characters of a pattern with its repetitions written out.
const MAX_PATTERN: u64 = 5_000;

/// Bytes of stack that compiling the schema may need, or what is too large about it.
pub(super) fn stack(schema: &Value) -> Result<usize, String> {
    let mut found = Found::default();
    found.look_at(schema);
    for pattern in found.patterns {
        let size = pattern_size(pattern);
        if size > MAX_PATTERN {
            return Err(format!("the pattern {pattern:?} is as long as {size} characters, the most is {MAX_PATTERN}"));
        }
    }
    // A way through the schema goes through each definition at most once.
    let target = |reference: &str| reference.strip_prefix('#').and_then(|path| schema.pointer(path)).unwrap_or(schema);
    let levels = depth(schema) + found.references.into_iter().map(|reference| depth(target(reference))).sum::<usize>();
    if levels > MAX_LEVELS {
        return Err(format!("with its references it may have {levels} levels, the most is {MAX_LEVELS}"));
    }
    Ok((levels + 32) * LEVEL_STACK)
}

#[derive(Default)]
struct Found<'schema> {
    references: BTreeSet<&'schema str>,
    patterns: Vec<&'schema str>,
}

impl<'schema> Found<'schema> {
    /// Recursion is as deep as JSON that serde_json reads, 128.
    fn look_at(&mut self, value: &'schema Value) {
        match value {
            Value::Object(members) => {
                for (key, value) in members {
                    match (key.as_str(), value) {
                        ("$ref" | "$dynamicRef" | "$recursiveRef", Value::String(reference)) => {
                            self.references.insert(reference);
                        }
                        ("pattern", Value::String(pattern)) => self.patterns.push(pattern),
                        ("patternProperties", Value::Object(by_pattern)) => {
                            self.patterns.extend(by_pattern.keys().map(String::as_str));
                        }
                        _ => {}
                    }
                    self.look_at(value);
                }
            }
            Value::Array(values) => values.iter().for_each(|value| self.look_at(value)),
            _ => {}
        }
    }
}

fn depth(value: &Value) -> usize {
    1 + match value {
        Value::Object(members) => members.values().map(depth).max().unwrap_or(0),
        Value::Array(values) => values.iter().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Characters of a pattern with its repetitions written out; none for what is no pattern, which the compiler refuses.
fn pattern_size(pattern: &str) -> u64 {
    match ParserBuilder::new().nest_limit(200).build().parse(pattern) {
        Ok(ast) => size(&ast),
        Err(_) => 0,
    }
}

fn size(ast: &Ast) -> u64 {
    let sum = |asts: &[Ast]| asts.iter().map(size).fold(0, u64::saturating_add);
    match ast {
        Ast::Repetition(repetition) => {
            let times = match &repetition.op.kind {
                RepetitionKind::Range(RepetitionRange::Exactly(n) | RepetitionRange::AtLeast(n)) => *n,
                RepetitionKind::Range(RepetitionRange::Bounded(_, most)) => *most,
                _ => 1,
            };
            size(&repetition.ast).saturating_mul(u64::from(times.max(1)))
        }
        Ast::Group(group) => size(&group.ast),
        Ast::Alternation(all) => sum(&all.asts),
        Ast::Concat(all) => sum(&all.asts),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(text: &str) -> usize {
        stack(&serde_json::from_str(text).unwrap()).unwrap() / LEVEL_STACK - 32
    }

    #[test]
    fn references_add_the_levels_of_their_definitions() {
        assert_eq!(levels("{}"), 1);
        assert_eq!(levels(r#"{"items": {"type": "null"}}"#), 3);
        // Five levels of the whole, and two of the definition.
        assert_eq!(levels(r##"{"$defs": {"a": {"b": {"c": 1}}}, "$ref": "#/$defs/a/b"}"##), 7);
        assert_eq!(levels(r##"{"a": {"$ref": "#"}, "b": {"$ref": "#"}}"##), 6);
    }

    #[test]
    fn patterns_are_as_long_as_their_repetitions() {
        for (pattern, expected) in
            [("a", 1), ("ab|c", 3), ("(ab){3}c*", 7), ("((a{1000}){1000}){1000}", 1_000_000_000), ("(", 0)]
        {
            assert_eq!(pattern_size(pattern), expected, "{pattern}");
        }
        let refused = |text: &str| stack(&serde_json::from_str(text).unwrap()).is_err();
        assert!(refused(r#"{"a": [{"pattern": "a{5001}"}]}"#) && refused(r#"{"patternProperties": {"a{5001}": {}}}"#));
        assert!(!refused(r#"{"pattern": "a{5000}"}"#));
    }
}
