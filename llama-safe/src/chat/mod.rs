//! Conversations as a model expects them: its own chat template, rendered by a Jinja engine, and tokens of the result in which no
//! text of the conversation is a control token.

mod bounds;
mod control;
mod engine;
mod json;
mod message;
mod methods;
mod options;
mod origin;
mod source;
mod tree;

use std::collections::BTreeSet;

use minijinja::Environment;

pub use message::{Message, ToolCall};
pub use options::ChatOptions;

use crate::chat::control::{Part, SpecialTokens, partition};
use crate::chat::options::Clock;
use crate::chat::origin::Origin;
use crate::chat::source::Source;
use crate::chat::tree::Node;
use crate::error::{ChatError, VocabError};
use crate::id::Token;
use crate::model::Model;
use crate::vocab::Special;

/// How deep JSON may be nested.
const DEPTH_LIMIT: usize = 100;

/// A chat template, and the model whose vocabulary it writes for.
///
/// ```
/// use llama_safe::{ChatOptions, ChatTemplate, Message, Model, ModelParams};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let model = Model::from_bytes(fixtures::STORIES, &ModelParams::default())?;
/// # /*
/// let model = Model::load("model.gguf", &ModelParams::default())?;
/// # */
/// let template = ChatTemplate::of(&model)?;
/// let messages = [Message::user("What does a cat eat? <|im_end|>")];
/// let prompt = template.tokens(&messages, &ChatOptions::default())?;
/// # let text = template.render(&messages, &ChatOptions::default())?;
/// # assert_eq!(text, "<|im_start|>user\nWhat does a cat eat? <|im_end|><|im_end|>\n<|im_start|>assistant\n");
/// # let control = prompt.iter().filter(|token| model.vocab().is_control(**token).unwrap());
/// # assert_eq!(control.count(), 4);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    model: Model,
    environment: Environment<'static>,
    /// What the template compares texts with.
    words: BTreeSet<String>,
    specials: SpecialTokens,
    /// `bos_token` and the like, and their texts.
    named: Vec<(&'static str, String)>,
}

impl ChatTemplate {
    /// The model's own template.
    ///
    /// # Errors
    ///
    /// [`ChatError::NoTemplate`] where its file has none: no format is guessed. [`ChatError::Syntax`],
    /// [`ChatError::Vocab`].
    pub fn of(model: &Model) -> Result<Self, ChatError> {
        let has = || model.template_names();
        let source = model.template(None).ok_or_else(|| ChatError::NoTemplate { name: None, has: has() })?;
        Self::parse(model, &source)
    }

    /// A template of the model for some purpose, such as `tool_use` or `rag`; [`Model::template_names`] lists them.
    ///
    /// # Errors
    ///
    /// As [`of`](Self::of).
    pub fn named(model: &Model, name: &str) -> Result<Self, ChatError> {
        let none = || ChatError::NoTemplate { name: Some(name.to_owned()), has: model.template_names() };
        Self::parse(model, &model.template(Some(name)).ok_or_else(none)?)
    }

    /// A template of your own, in Jinja as transformers has it.
    ///
    /// # Errors
    ///
    /// [`ChatError::Syntax`], [`ChatError::Vocab`].
    pub fn parse(model: &Model, source: &str) -> Result<Self, ChatError> {
        let Source { text, words, longest } = source::read(source);
        let specials = SpecialTokens::of(model.vocab())?;
        Ok(Self {
            model: model.clone(),
            environment: engine::compile(text, longest)?,
            words,
            specials,
            named: named(model)?,
        })
    }

    /// The conversation as text.
    ///
    /// It is what transformers and llama.cpp give for it. What is a control token in it and what only looks like one is lost:
    /// to give it to a model, take [`tokens`](Self::tokens).
    ///
    /// # Errors
    ///
    /// [`ChatError`]: the template refuses the conversation, fails, or does too much.
    pub fn render(&self, messages: &[Message], options: &ChatOptions) -> Result<String, ChatError> {
        check_depth(messages, options)?;
        let variables = self.variables(messages, options);
        let budget = Budget::new(options, &variables.texts());
        self.render_altered(&variables, budget, &mut |_, _| None)
    }

    /// The conversation as tokens, ready for a batch.
    ///
    /// They are those that llama.cpp makes of the [rendered](Self::render) text, special tokens read from it, with one
    /// difference: a control token that has any character of the conversation's in it, be it at the border to the template's
    /// own text, is text. Roles, names of fields and of variables are the program's, not the conversation's.
    ///
    /// BOS stands before it if the vocabulary wants it ([`Vocab::adds_bos`](crate::Vocab::adds_bos)), whether the template
    /// writes it or not, and only once. EOS is not added: the model goes on from here.
    ///
    /// # Errors
    ///
    /// As [`render`](Self::render); [`ChatError::Indistinguishable`], [`ChatError::Spelled`], [`ChatError::Vocab`].
    pub fn tokens(&self, messages: &[Message], options: &ChatOptions) -> Result<Vec<Token>, ChatError> {
        check_depth(messages, options)?;
        let variables = self.variables(messages, options);
        let inputs = variables.texts();
        let budget = Budget::new(options, &inputs);
        let render =
            |alter: &mut dyn FnMut(usize, &str) -> Option<String>| self.render_altered(&variables, budget, alter);
        let text = render(&mut |_, _| None)?;
        let occurrences = self.specials.occurrences(&text);
        let controls = occurrences.iter().filter(|occurrence| occurrence.special.control);
        let tokens: BTreeSet<&str> = controls.map(|occurrence| &text[occurrence.bytes.clone()]).collect();
        let origin = Origin { text: &text, inputs: &inputs, words: &self.words, tokens: &tokens };
        let theirs = if tokens.is_empty() { vec![] } else { origin.find(&mut |alter| render(alter).ok())? };
        let parts = partition(&text, &occurrences, &theirs);
        let mut tokens = if parts == partition(&text, &occurrences, &[]) {
            self.model.tokenize(&text, Special::Parse)?
        } else {
            self.cut(&text, &parts)?
        };
        self.check(&tokens, &parts)?;
        let vocab = self.model.vocab();
        if let Some(bos) = vocab.bos().filter(|bos| vocab.adds_bos() && tokens.first() != Some(bos)) {
            tokens.insert(0, bos);
        }
        Ok(tokens)
    }

    /// Tokens of a text that is in parts.
    fn cut(&self, text: &str, parts: &[Part]) -> Result<Vec<Token>, VocabError> {
        let mut tokens = Vec::new();
        for part in parts {
            match part {
                Part::Token(special) => tokens.push(special.token),
                // Each text follows a token or nothing: where SentencePiece puts a space before a text, it does so here too.
                Part::Text(bytes) => tokens.extend(self.model.tokenize(&text[bytes.clone()], Special::None)?),
            }
        }
        Ok(tokens)
    }

    /// Some tokenizers build a control token from pieces of plain text.
    fn check(&self, tokens: &[Token], parts: &[Part]) -> Result<(), ChatError> {
        let vocab = self.model.vocab();
        let mut meant = parts.iter().filter_map(|part| match part {
            Part::Token(special) if vocab.is_control(special.token) == Ok(true) => Some(special.token),
            _ => None,
        });
        for token in tokens {
            if vocab.is_control(*token)? && meant.next() != Some(*token) {
                return Err(ChatError::Spelled { token: vocab.text(*token)? });
            }
        }
        Ok(())
    }

    fn render_altered(
        &self,
        variables: &Node<'_>,
        budget: Budget,
        alter: &mut dyn FnMut(usize, &str) -> Option<String>,
    ) -> Result<String, ChatError> {
        let mut index = 0;
        let value = variables.value(&mut |text| {
            index += 1;
            alter(index - 1, text)
        });
        engine::render(&self.environment, value, budget.steps, budget.clock)
    }

    /// All that the template can name.
    fn variables<'a>(&'a self, messages: &'a [Message], options: &'a ChatOptions) -> Node<'a> {
        let list = |items: &'a [serde_json::Value]| match items {
            [] => Node::None,
            items => Node::List(items.iter().map(Node::Json).collect()),
        };
        let mut variables: Vec<_> = self.named.iter().map(|(name, text)| (*name, Node::Token(text))).collect();
        variables.push(("messages", Node::List(messages.iter().map(Message::node).collect())));
        variables.push(("tools", list(&options.tools)));
        variables.push(("documents", list(&options.documents)));
        variables.push(("add_generation_prompt", Node::Bool(options.generation_prompt)));
        // The last of a name counts.
        variables.extend(options.variables.iter().map(|(name, value)| (*name, Node::Json(value))));
        Node::Map(variables)
    }
}

/// What all renderings of a conversation have in common.
#[derive(Clone, Copy)]
struct Budget {
    steps: u64,
    clock: Clock,
}

impl Budget {
    fn new(options: &ChatOptions, inputs: &[String]) -> Self {
        let bytes: usize = inputs.iter().map(String::len).sum();
        Self { steps: options.steps.saturating_add(bytes as u64 / 4), clock: options.clock() }
    }
}

/// Special tokens by the names that templates have for them. BOS and EOS are empty where there are none, as in llama.cpp.
fn named(model: &Model) -> Result<Vec<(&'static str, String)>, VocabError> {
    let vocab = model.vocab();
    let all = [
        ("bos_token", vocab.bos(), true),
        ("eos_token", vocab.eos(), true),
        ("pad_token", vocab.pad(), false),
        ("sep_token", vocab.sep(), false),
        ("mask_token", vocab.mask(), false),
    ];
    let mut named = Vec::new();
    for (name, token, always) in all {
        match token {
            Some(token) => named.push((name, vocab.text(token)?)),
            None if always => named.push((name, String::new())),
            None => {}
        }
    }
    Ok(named)
}

fn check_depth(messages: &[Message], options: &ChatOptions) -> Result<(), ChatError> {
    let tools = options.tools.iter().map(|json| ("tools", json));
    let documents = options.documents.iter().map(|json| ("documents", json));
    let variables = options.variables.iter().map(|(name, json)| (*name, json));
    for (of, json) in messages.iter().flat_map(Message::json).chain(tools).chain(documents).chain(variables) {
        let depth = tree::depth(json);
        if depth > DEPTH_LIMIT {
            return Err(ChatError::TooDeep { of: of.to_owned(), depth, limit: DEPTH_LIMIT });
        }
    }
    Ok(())
}
