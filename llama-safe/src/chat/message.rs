//! What is said in a conversation.

use serde_json::Value;

use crate::chat::tree::Node;

/// One message of a conversation.
///
/// Roles and names of fields are the program's own words, which is why they are `&'static str`: a template may make control
/// tokens of them (`<|user|>`). Everything else may come from anybody, and no control token comes of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    role: &'static str,
    fields: Vec<(&'static str, Field)>,
}

#[derive(Clone, Debug, PartialEq)]
enum Field {
    Text(String),
    Json(Value),
    Calls(Vec<ToolCall>),
}

/// A call of a tool that the model asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    name: String,
    arguments: Value,
    id: Option<String>,
}

impl Message {
    /// A message of any role that the template knows.
    #[must_use]
    pub fn new(role: &'static str, content: impl Into<String>) -> Self {
        Self { role, fields: vec![("content", Field::Text(content.into()))] }
    }

    /// What the model is told beforehand.
    #[must_use]
    pub fn system(content: impl Into<String>) -> Self {
        Self::new("system", content)
    }

    /// What the user says.
    #[must_use]
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// What the model has said.
    #[must_use]
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }

    /// Calls of tools that the model has asked for, without any other words.
    #[must_use]
    pub fn calls(calls: impl IntoIterator<Item = ToolCall>) -> Self {
        let content = ("content", Field::Json(Value::Null));
        Self { role: "assistant", fields: vec![content, ("tool_calls", Field::Calls(calls.into_iter().collect()))] }
    }

    /// What a tool has answered.
    #[must_use]
    pub fn tool(content: impl Into<String>) -> Self {
        Self::new("tool", content)
    }

    /// The message with a call of a tool.
    #[must_use]
    pub fn call(mut self, call: ToolCall) -> Self {
        match self.fields.iter_mut().find(|(name, _)| *name == "tool_calls") {
            Some((_, Field::Calls(calls))) => calls.push(call),
            _ => self.set("tool_calls", Field::Calls(vec![call])),
        }
        self
    }

    /// The message with what the model thought before it said it, as `reasoning_content`.
    #[must_use]
    pub fn reasoning(mut self, text: impl Into<String>) -> Self {
        self.set("reasoning_content", Field::Text(text.into()));
        self
    }

    /// The message with any other field, such as `name`, `tool_call_id`, or `content` as a list of parts.
    #[must_use]
    pub fn field(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.set(name, Field::Json(value.into()));
        self
    }

    fn set(&mut self, name: &'static str, field: Field) {
        match self.fields.iter_mut().find(|(set, _)| *set == name) {
            Some((_, old)) => *old = field,
            None => self.fields.push((name, field)),
        }
    }

    pub(super) fn node(&self) -> Node<'_> {
        let fields = self.fields.iter().map(|(name, field)| {
            let node = match field {
                Field::Text(text) => Node::Text(text),
                Field::Json(json) => Node::Json(json),
                Field::Calls(calls) => Node::List(calls.iter().map(ToolCall::node).collect()),
            };
            (*name, node)
        });
        Node::Map(std::iter::once(("role", Node::Word(self.role))).chain(fields).collect())
    }

    /// Its JSON, by field.
    pub(super) fn json(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        self.fields.iter().flat_map(|(name, field)| {
            let values: Vec<&Value> = match field {
                Field::Text(_) => vec![],
                Field::Json(json) => vec![json],
                Field::Calls(calls) => calls.iter().map(|call| &call.arguments).collect(),
            };
            values.into_iter().map(|value| (*name, value))
        })
    }
}

impl ToolCall {
    /// A call of the tool `name`. Most templates want its arguments as an object; some take the text of one, as a JSON string.
    #[must_use]
    pub fn new(name: impl Into<String>, arguments: impl Into<Value>) -> Self {
        Self { name: name.into(), arguments: arguments.into(), id: None }
    }

    /// The call with an id, which the tool's answer names as its `tool_call_id`.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    fn node(&self) -> Node<'_> {
        let function = [("name", Node::Text(&self.name)), ("arguments", Node::Json(&self.arguments))];
        let id = self.id.as_deref().map(|id| ("id", Node::Text(id)));
        let kind = [("type", Node::Word("function")), ("function", Node::Map(function.into()))];
        Node::Map(id.into_iter().chain(kind).collect())
    }
}
