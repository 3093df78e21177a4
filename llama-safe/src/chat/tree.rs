//! What a template is given, with the difference between the program's words and texts that come from others.

use minijinja::Value;
use serde_json::Value as Json;

/// A variable of a template.
#[derive(Clone, Debug)]
pub(super) enum Node<'text> {
    /// A word of the program.
    Word(&'static str),
    /// A text of the vocabulary's: a special token.
    Token(&'text str),
    /// A text that may come from anybody.
    Text(&'text str),
    /// JSON whose texts and keys may come from anybody.
    Json(&'text Json),
    Bool(bool),
    None,
    List(Vec<Node<'text>>),
    Map(Vec<(&'static str, Node<'text>)>),
}

impl Node<'_> {
    /// The value for the template engine, with each text that may come from anybody replaced by what `alter` gives for it.
    /// Texts come in the same order each time.
    pub(super) fn value(&self, alter: &mut dyn FnMut(&str) -> Option<String>) -> Value {
        match self {
            Self::Word(text) => Value::from(*text),
            Self::Token(text) => Value::from(*text),
            Self::Text(text) => altered(text, alter),
            Self::Json(json) => value_of_json(json, alter),
            Self::Bool(value) => Value::from(*value),
            Self::None => Value::from(()),
            Self::List(nodes) => nodes.iter().map(|node| node.value(alter)).collect(),
            Self::Map(fields) => Value::from_pairs(fields.iter().map(|(name, node)| (*name, node.value(alter)))),
        }
    }

    /// All texts that may come from anybody, in the order of [`value`](Self::value).
    pub(super) fn texts(&self) -> Vec<String> {
        let mut texts = Vec::new();
        self.value(&mut |text| {
            texts.push(text.to_owned());
            None
        });
        texts
    }
}

fn altered(text: &str, alter: &mut dyn FnMut(&str) -> Option<String>) -> Value {
    alter(text).map_or_else(|| Value::from(text), Value::from)
}

fn value_of_json(json: &Json, alter: &mut dyn FnMut(&str) -> Option<String>) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => Value::from(whole),
            (_, Some(whole)) => Value::from(whole),
            _ => Value::from(number.as_f64()),
        },
        Json::String(text) => altered(text, alter),
        Json::Array(items) => items.iter().map(|item| value_of_json(item, alter)).collect(),
        Json::Object(fields) => {
            Value::from_pairs(fields.iter().map(|(key, field)| (altered(key, alter), value_of_json(field, alter))))
        }
    }
}

/// How deep JSON is nested: 0 for what holds nothing else. Counted without recursion, for it may be any number.
pub(super) fn depth(json: &Json) -> usize {
    let mut deepest = 0;
    let mut left = vec![(json, 0)];
    while let Some((value, depth)) = left.pop() {
        deepest = deepest.max(depth);
        match value {
            Json::Array(items) => left.extend(items.iter().map(|item| (item, depth + 1))),
            Json::Object(fields) => left.extend(fields.values().map(|field| (field, depth + 1))),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_and_keys_of_others_are_altered_and_words_are_not() {
        let json = json!({"k": ["a", 1, null, true, 0.5]});
        let node = Node::Map(vec![("role", Node::Word("user")), ("x", Node::Json(&json)), ("y", Node::Text("b"))]);
        assert_eq!(node.texts(), ["k", "a", "b"]);
        let value = node.value(&mut |text| Some(text.to_uppercase()));
        assert_eq!(value.to_string(), "{'role': 'user', 'x': {'K': ['A', 1, None, True, 0.5]}, 'y': 'B'}");
    }

    #[test]
    fn depth_is_counted() {
        assert_eq!(depth(&json!("a")), 0);
        assert_eq!(depth(&json!([1, {"a": [2]}])), 3);
    }
}
