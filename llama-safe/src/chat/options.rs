//! What a template is given besides the messages.

use std::time::SystemTime;

use serde_json::Value;

/// Variables of a template, and the most that it may do.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatOptions {
    pub(super) generation_prompt: bool,
    pub(super) tools: Vec<Value>,
    pub(super) documents: Vec<Value>,
    pub(super) variables: Vec<(&'static str, Value)>,
    pub(super) time: Option<SystemTime>,
    pub(super) steps: u64,
}

/// What a template takes for now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub(super) time: SystemTime,
    /// Whether it is written in the computer's time zone, not in UTC.
    pub(super) local: bool,
}

impl Default for ChatOptions {
    /// With the beginning of the model's answer; no tools, documents or variables; the time is the computer's.
    fn default() -> Self {
        Self {
            generation_prompt: true,
            tools: vec![],
            documents: vec![],
            variables: vec![],
            time: None,
            steps: 1_000_000,
        }
    }
}

impl ChatOptions {
    /// Whether the text ends with the beginning of an answer, for the model to go on (`add_generation_prompt`). On unless
    /// set: without it, what the model says next may be the user's words.
    #[must_use]
    pub fn generation_prompt(mut self, add: bool) -> Self {
        self.generation_prompt = add;
        self
    }

    /// Tools that the model may call, each as JSON: `{"type": "function", "function": {"name": .., "description": ..,
    /// "parameters": <JSON schema>}}` is what most templates expect.
    #[must_use]
    pub fn tools(mut self, tools: impl IntoIterator<Item = Value>) -> Self {
        self.tools = tools.into_iter().collect();
        self
    }

    /// Documents for the model to answer from, each as JSON with the fields that the template expects.
    #[must_use]
    pub fn documents(mut self, documents: impl IntoIterator<Item = Value>) -> Self {
        self.documents = documents.into_iter().collect();
        self
    }

    /// Any other variable that the template knows, such as `enable_thinking`.
    #[must_use]
    pub fn variable(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.variables.retain(|(set, _)| *set != name);
        self.variables.push((name, value.into()));
        self
    }

    /// The time that a template writes (`strftime_now`), in UTC: the same text on any computer and at any time. Unless set, it
    /// is the computer's local time.
    #[must_use]
    pub fn time(mut self, time: SystemTime) -> Self {
        self.time = Some(time);
        self
    }

    /// The most steps that a rendering may take, where a step is an instruction or 64 bytes of text; a million unless
    /// set, and one more for each four bytes of the conversation.
    #[must_use]
    pub fn steps(mut self, most: u64) -> Self {
        self.steps = most;
        self
    }

    /// The time to write: the same for all renderings of one conversation.
    pub(super) fn clock(&self) -> Clock {
        Clock { time: self.time.unwrap_or_else(SystemTime::now), local: self.time.is_none() }
    }
}
