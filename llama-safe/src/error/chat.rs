//! Conversations, and the templates that write them.

use thiserror::Error;

use crate::error::text::VocabError;

/// Why a conversation did not become text or tokens.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChatError {
    /// The model file has no template, or none of this name.
    #[error(
        "the model has no chat template{}: {}",
        name.as_ref().map(|name| format!(" named {name}")).unwrap_or_default(),
        if has.is_empty() {
            "give the one that it was trained with to ChatTemplate::parse()".to_owned()
        } else {
            format!("it has these: {}", has.join(", "))
        }
    )]
    NoTemplate {
        /// The name that was asked for.
        name: Option<String>,
        /// Names of those that the model has.
        has: Vec<String>,
    },
    /// The template is not Jinja.
    #[error("line {line} of the chat template: {reason}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A template that is too long to be one.
    #[error("the chat template has {bytes} bytes, at most {limit} are compiled")]
    TooLong {
        /// Its bytes.
        bytes: usize,
        /// The most.
        limit: usize,
    },
    /// The template itself refuses, by `raise_exception`.
    #[error("the chat template refuses this conversation: {message}")]
    Refused {
        /// Its words.
        message: String,
    },
    /// The template does something that cannot be done with what it was given.
    #[error("line {line} of the chat template: {reason}")]
    Render {
        /// The line, from 1; 0 where it is not known.
        line: usize,
        /// What was tried.
        reason: String,
    },
    /// A loop without end, a text without measure, or a conversation that is really that long.
    #[error(
        "the chat template took more than {limit} steps (one is an instruction, or 64 bytes of text): \
         if it is right, raise ChatOptions::steps"
    )]
    TooMuchWork {
        /// The most.
        limit: u64,
    },
    /// Tools, documents, variables or fields that are nested deeper than a template is followed.
    #[error("the JSON of {of} is nested {depth} deep, at most {limit} are followed")]
    TooDeep {
        /// Where.
        of: String,
        /// How deep it is.
        depth: usize,
        /// The most.
        limit: usize,
    },
    /// What the template does depends on a text in the conversation that is also a part of a control token, so that nothing
    /// tells which of the two wrote that token.
    #[error(
        "the chat template decides by the text {text:?} of the conversation and writes {token:?} as well: whose it is cannot \
         be told apart; leave it out of the conversation (reasoning goes into Message::reasoning)"
    )]
    Indistinguishable {
        /// The control token.
        token: String,
        /// The text in the conversation, or its beginning.
        text: String,
    },
    /// The vocabulary makes a control token of plain text, without being asked to.
    #[error(
        "this vocabulary makes the control token {token:?} of text that only spells it: leave it out of the conversation"
    )]
    Spelled {
        /// The control token.
        token: String,
    },
    /// The text was not tokenized.
    #[error(transparent)]
    Vocab(#[from] VocabError),
    /// No thread for it, or the template engine failed.
    #[error("the chat template was not rendered: {reason}")]
    Failed {
        /// Why.
        reason: String,
    },
}
