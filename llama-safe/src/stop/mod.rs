//! When a text ends: the conditions, as a value.
#![forbid(unsafe_code)]

mod pattern;
mod stopper;

use std::fmt;
use std::sync::Arc;

use crate::detokenizer::Detokenizer;
use crate::error::StopError;
use crate::id::Token;

use pattern::Pattern;

pub use stopper::{Step, Stopper};

/// Stop strings, and as many token lists: each is compared with every byte or token.
const MOST: usize = 256;
/// Bytes of a stop string, which may all be held back.
const MOST_BYTES: usize = 1024;
/// Tokens of a list, whose text may all be held back.
const MOST_TOKENS: usize = 256;

/// When a text ends: with a token of the model that says so, and with whatever is added here. One value serves any number
/// of sequences; each has its own [`Stopper`].
///
/// ```
/// use llama_safe::{Model, ModelParams, Special, StopConditions, StopReason};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let gguf = fixtures::Llama::tiny().gguf(fixtures::Weights::F16, 1)?;
/// # let model = Model::from_bytes(&gguf, &ModelParams::default())?;
/// let conditions = StopConditions::new().string("\nUser:")?.max_tokens(200)?;
/// let mut stopper = conditions.stopper(model.vocab().detokenizer().continuing())?;
///
/// let mut said = String::new();
/// // A real program samples them.
/// for token in model.tokenize("Hello!\nUser: and", Special::None)? {
///     let step = stopper.push(token)?;
///     said.push_str(step.text);
///     if let Some(reason) = step.stop {
///         assert_eq!(reason, StopReason::String { string: "\nUser:".into() });
///         break;
///     }
/// }
/// assert_eq!(said, "Hello!");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct StopConditions {
    rules: Arc<Rules>,
}

/// What the user asked for, shared by all that look for it.
#[derive(Clone)]
struct Rules {
    end_of_text: bool,
    include_stop: bool,
    strings: Vec<(Arc<str>, Pattern<u8>)>,
    lists: Vec<Pattern<Token>>,
    max_tokens: Option<u32>,
    custom: Vec<Arc<Custom>>,
}

type Custom = dyn Fn(&Progress<'_>) -> bool + Send + Sync;

impl Default for Rules {
    fn default() -> Self {
        Self {
            end_of_text: true,
            include_stop: false,
            strings: Vec::new(),
            lists: Vec::new(),
            max_tokens: None,
            custom: Vec::new(),
        }
    }
}

/// What a [custom condition](StopConditions::custom) sees.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Progress<'text> {
    /// The text so far, with what the last token completed, and with what is held back.
    pub text: &'text str,
    /// The last token.
    pub token: Token,
    /// Tokens so far, with the last.
    pub tokens: u32,
}

/// Why a text ended.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum StopReason {
    /// The model says that the text, or its turn, is over.
    EndOfText {
        /// The token by which it says so.
        token: Token,
    },
    /// A stop string came.
    String {
        /// Which one.
        string: Arc<str>,
    },
    /// The tokens of a list came.
    Tokens {
        /// Which ones.
        tokens: Arc<[Token]>,
    },
    /// A custom condition said so.
    Custom {
        /// Which one, counted from 0 in the order in which they were added.
        index: usize,
    },
    /// There are as many tokens as were asked for.
    Length,
}

impl StopConditions {
    /// The model's end-of-generation tokens, and nothing else.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the model's end-of-generation tokens end a text. They do unless this is told to be false.
    #[must_use]
    pub fn end_of_text(mut self, ends: bool) -> Self {
        self.rules_mut().end_of_text = ends;
        self
    }

    /// Whether what ended a text is part of it: a stop string, or the text of a token list, or of an end-of-generation
    /// token if the detokenizer renders those. It is not unless this is told to be true; then nothing is held back either.
    #[must_use]
    pub fn include_stop(mut self, include: bool) -> Self {
        self.rules_mut().include_stop = include;
        self
    }

    /// Ends a text with this string, wherever tokens begin and end in it.
    ///
    /// Of several stop strings the one that is complete first ends the text, and the longest of those that are complete
    /// with the same character: so it does not matter how the text is cut into tokens, and no token is computed only to see
    /// whether a longer one comes.
    ///
    /// # Errors
    ///
    /// [`StopError`]: it is empty, longer than 1,024 bytes, or the 257th.
    pub fn string(mut self, string: &str) -> Result<Self, StopError> {
        let rules = self.rules_mut();
        check("stop string", "stop strings", string.len(), MOST_BYTES, "bytes", rules.strings.len())?;
        rules.strings.push((string.into(), Pattern::new(string.as_bytes())));
        Ok(self)
    }

    /// Ends a text with these tokens in a row. Ids that the model does not have are refused by
    /// [`stopper`](Self::stopper).
    ///
    /// # Errors
    ///
    /// [`StopError`]: the list is empty, longer than 256 tokens, or the 257th.
    pub fn tokens(mut self, tokens: &[Token]) -> Result<Self, StopError> {
        let rules = self.rules_mut();
        check("token list", "token lists", tokens.len(), MOST_TOKENS, "tokens", rules.lists.len())?;
        rules.lists.push(Pattern::new(tokens));
        Ok(self)
    }

    /// Ends a text with its `most`th token, which is part of it; so is what was held back. The last call counts.
    ///
    /// # Errors
    ///
    /// [`StopError::NoTokens`]: `most` is 0.
    pub fn max_tokens(mut self, most: u32) -> Result<Self, StopError> {
        if most == 0 {
            return Err(StopError::NoTokens);
        }
        self.rules_mut().max_tokens = Some(most);
        Ok(self)
    }

    /// Ends a text behind the token for which `ends` is true; the token is part of it. Asked after each token with which
    /// nothing else ends the text but its length.
    ///
    /// A panic of it goes through [`Stopper::push`] to whoever called that. The token counts then as taken, and its text
    /// comes with the next step or with [`Stopper::finish`]: nothing is lost.
    ///
    /// ```
    /// # use llama_safe::StopConditions;
    /// // Two paragraphs are enough.
    /// let conditions = StopConditions::new().custom(|so_far| so_far.text.matches("\n\n").count() == 2);
    /// ```
    #[must_use]
    pub fn custom(mut self, ends: impl Fn(&Progress<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.rules_mut().custom.push(Arc::new(ends));
        self
    }

    /// What looks for these conditions in one sequence. The detokenizer says what a text is: the
    /// [continuation](Detokenizer::continuing) of a prompt or not, with control tokens or without.
    ///
    /// # Errors
    ///
    /// [`StopError::Vocab`]: the model has no vocabulary, or a token of a list is not in it.
    pub fn stopper(&self, detokenizer: Detokenizer) -> Result<Stopper, StopError> {
        let vocab = detokenizer.vocab();
        vocab.require()?;
        for token in self.rules.lists.iter().flat_map(|list| list.items().iter()) {
            vocab.check(*token)?;
        }
        Ok(Stopper::new(Arc::clone(&self.rules), detokenizer))
    }

    fn rules_mut(&mut self) -> &mut Rules {
        Arc::make_mut(&mut self.rules)
    }
}

/// `what` is one and `all` are several; there are `before` of them already.
fn check(
    what: &'static str,
    all: &'static str,
    got: usize,
    max: usize,
    unit: &'static str,
    before: usize,
) -> Result<(), StopError> {
    match got {
        0 => Err(StopError::Empty { what }),
        _ if got > max => Err(StopError::TooLong { what, got, max, unit }),
        _ if before >= MOST => Err(StopError::TooMany { what: all, got: before + 1, max: MOST }),
        _ => Ok(()),
    }
}

impl fmt::Debug for StopConditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rules.fmt(f)
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let strings: Vec<&str> = self.strings.iter().map(|(string, _)| &**string).collect();
        let lists: Vec<&[Token]> = self.lists.iter().map(|list| &**list.items()).collect();
        f.debug_struct("StopConditions")
            .field("end_of_text", &self.end_of_text)
            .field("include_stop", &self.include_stop)
            .field("strings", &strings)
            .field("tokens", &lists)
            .field("max_tokens", &self.max_tokens)
            .field("custom", &self.custom.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_looked_for_is_refused_with_its_numbers() {
        let conditions = StopConditions::new;
        assert_eq!(conditions().string("").unwrap_err(), StopError::Empty { what: "stop string" });
        assert_eq!(conditions().tokens(&[]).unwrap_err(), StopError::Empty { what: "token list" });
        assert_eq!(conditions().max_tokens(0).unwrap_err(), StopError::NoTokens);
        let error = StopError::TooLong { what: "stop string", got: 1025, max: 1024, unit: "bytes" };
        assert_eq!(conditions().string(&"x".repeat(1025)).unwrap_err(), error);
        let error = StopError::TooLong { what: "token list", got: 257, max: 256, unit: "tokens" };
        assert_eq!(conditions().tokens(&[Token(1); 257]).unwrap_err(), error);

        let mut many = conditions();
        for index in 0..256 {
            many = many.string(&"x".repeat(1024 - index)).unwrap().tokens(&[Token(1); 256]).unwrap();
        }
        let error = StopError::TooMany { what: "stop strings", got: 257, max: 256 };
        assert_eq!(many.clone().string("x").unwrap_err(), error);
        let error = StopError::TooMany { what: "token lists", got: 257, max: 256 };
        assert_eq!(many.tokens(&[Token(1)]).unwrap_err(), error);
    }

    /// A clone that is added to leaves the other as it was.
    #[test]
    fn conditions_are_values() {
        let one = StopConditions::new().string("a").unwrap();
        let two = one.clone().string("b").unwrap().custom(|_| true);
        assert_eq!(one.rules.strings.len(), 1);
        assert_eq!((two.rules.strings.len(), two.rules.custom.len()), (2, 1));
        assert!(format!("{two:?}").contains(r#"strings: ["a", "b"]"#));
    }
}
