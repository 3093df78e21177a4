//! The templates that a model file brings along.

use crate::model::Model;

/// The key of a model's template; that of one with a name has it at its end, after a dot.
const KEY: &str = "tokenizer.chat_template";

impl Model {
    /// A template of the model file as it stands there, Jinja for conversations: the main one, or that of a name, such as
    /// `tool_use`. `None` if the file has none of that name.
    #[must_use]
    pub fn template(&self, name: Option<&str>) -> Option<String> {
        match name {
            None => self.metadata_value(KEY),
            Some(name) => self.metadata_value(&format!("{KEY}.{name}")),
        }
    }

    /// Names of the templates that the model file has besides the main one.
    #[must_use]
    pub fn template_names(&self) -> Vec<String> {
        let name = |key: &str| Some(key.strip_prefix(KEY)?.strip_prefix('.')?.to_owned());
        self.metadata().iter().filter_map(|(key, _)| name(key)).collect()
    }
}
