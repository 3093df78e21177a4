//! What an engine is asked for.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::error::RequestError;
use crate::id::Token;
use crate::model::Model;
use crate::sampling::Sampler;
use crate::stop::StopConditions;
use crate::vocab::Special;

/// What is done when a text has filled its sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WhenFull {
    /// It ends.
    #[default]
    End,
    /// The first tokens are kept, so many of them, and of the rest the later half; the text goes on. Where each sequence has
    /// cells of its own and positions can be renumbered, these are moved; elsewhere what stays is computed again.
    ///
    /// What is moved was computed with the discarded tokens in view.
    Discard {
        /// Tokens of the text's beginning that stay.
        keep: u32,
    },
}

/// A prompt to continue, and how.
///
/// ```
/// use std::time::Duration;
///
/// use llama_safe::{Request, Sampler, StopConditions};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let request = Request::text("Once upon a time")
///     .sampler(Sampler::chain().top_k(40)?.temperature(0.8)?.dist(7))
///     .stop(StopConditions::new().string("\n\n")?)
///     .max_tokens(64)
///     .priority(1)
///     .deadline(Duration::from_secs(20));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Request {
    prompt: Prompt,
    pub(super) sampler: Sampler,
    stop: StopConditions,
    max_tokens: Option<u32>,
    pub(super) priority: i8,
    pub(super) deadline: Option<Duration>,
    pub(super) logprobs: Option<u32>,
    pub(super) when_full: WhenFull,
    pub(super) continues: bool,
    pub(super) sampler_sees_prompt: bool,
}

#[derive(Clone, Debug)]
enum Prompt {
    Text(String, Special),
    Tokens(Vec<Token>),
}

impl Request {
    fn new(prompt: Prompt) -> Self {
        Self {
            prompt,
            sampler: Sampler::greedy(),
            stop: StopConditions::new(),
            max_tokens: None,
            priority: 0,
            deadline: None,
            logprobs: None,
            when_full: WhenFull::End,
            continues: true,
            sampler_sees_prompt: true,
        }
    }

    /// To continue a text, with the tokens before it that the model expects there.
    #[must_use]
    pub fn text(prompt: impl Into<String>) -> Self {
        Self::new(Prompt::Text(prompt.into(), Special::Bos))
    }

    /// To continue tokens, such as those of a [chat template](crate::ChatTemplate::tokens). Nothing is added to them.
    #[must_use]
    pub fn tokens(prompt: impl Into<Vec<Token>>) -> Self {
        Self::new(Prompt::Tokens(prompt.into()))
    }

    /// Which special tokens a text prompt gets or has; [`Special::Bos`] where this says nothing.
    #[must_use]
    pub fn special(mut self, special: Special) -> Self {
        if let Prompt::Text(_, of_text) = &mut self.prompt {
            *of_text = special;
        }
        self
    }

    /// What chooses the tokens; [`Sampler::greedy`] where this says nothing.
    #[must_use]
    pub fn sampler(mut self, sampler: Sampler) -> Self {
        self.sampler = sampler;
        self
    }

    /// Whether the prompt's tokens count where the sampler penalises repetitions. They do unless this is told to be false.
    #[must_use]
    pub fn sampler_sees_prompt(mut self, sees: bool) -> Self {
        self.sampler_sees_prompt = sees;
        self
    }

    /// When the text ends; with the model's end-of-generation tokens where this says nothing.
    #[must_use]
    pub fn stop(mut self, conditions: StopConditions) -> Self {
        self.stop = conditions;
        self
    }

    /// The most tokens to generate. Where this says nothing, the text ends by itself, or when its sequence is full.
    #[must_use]
    pub fn max_tokens(mut self, tokens: u32) -> Self {
        self.max_tokens = Some(tokens);
        self
    }

    /// 0 unless told otherwise; the higher comes first. A request counts as if it had come 1,000 requests earlier for each
    /// step, so that those of a low priority are not overtaken for ever.
    #[must_use]
    pub fn priority(mut self, priority: i8) -> Self {
        self.priority = priority;
        self
    }

    /// The longest that it may take from now until its end, waiting included. It ends then with what it has.
    #[must_use]
    pub fn deadline(mut self, within: Duration) -> Self {
        self.deadline = Some(within);
        self
    }

    /// Gives the log probability of each token, and so many of the likeliest in its place. They are the model's, before the
    /// sampler's steps.
    #[must_use]
    pub fn logprobs(mut self, top: u32) -> Self {
        self.logprobs = Some(top);
        self
    }

    /// What is done when the text has filled its sequence.
    #[must_use]
    pub fn when_full(mut self, what: WhenFull) -> Self {
        self.when_full = what;
        self
    }

    /// Whether what is generated goes on with the prompt's text, as it does unless this is told to be false, or is a text of its
    /// own, as the answer in a conversation is. It matters for the space before the first word in some vocabularies.
    #[must_use]
    pub fn continues_prompt(mut self, continues: bool) -> Self {
        self.continues = continues;
        self
    }

    /// The prompt's tokens, checked.
    pub(super) fn tokens_of(&self, model: &Model, sequence_tokens: u32) -> Result<Vec<Token>, RequestError> {
        let tokens = match &self.prompt {
            Prompt::Text(text, special) => model.tokenize(text, *special)?,
            Prompt::Tokens(tokens) => tokens.clone(),
        };
        let vocabulary = model.vocabulary_size();
        if let Some(bad) = tokens.iter().find(|token| !u32::try_from(token.0).is_ok_and(|id| id < vocabulary)) {
            return Err(RequestError::TokenOutOfRange { token: bad.0, vocabulary });
        }
        if tokens.is_empty() {
            return Err(RequestError::EmptyPrompt);
        }
        // The token that follows the last one that fits needs no room: it is not computed.
        if tokens.len() as u64 > u64::from(sequence_tokens) {
            return Err(RequestError::PromptTooLong { tokens: tokens.len(), limit: sequence_tokens });
        }
        if let WhenFull::Discard { keep } = self.when_full
            && keep.saturating_add(2) > sequence_tokens
        {
            return Err(RequestError::KeepTooLong { keep, limit: sequence_tokens });
        }
        Ok(tokens)
    }

    /// When its text ends, its length included.
    pub(super) fn conditions(&self) -> Result<StopConditions, RequestError> {
        let conditions = self.stop.clone();
        Ok(match self.max_tokens {
            Some(most) => conditions.max_tokens(most)?,
            None => conditions,
        })
    }
}
