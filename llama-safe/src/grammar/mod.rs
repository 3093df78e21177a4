//! Grammars: which tokens may come next, so that the text is one of a language.
//!
//! A grammar is given as GBNF text, llama.cpp's own language for them, or as a JSON schema. Its own engine
//! ([`automaton`]) walks GBNF; JSON schemas are `llguidance`'s, which is made for them.

mod automaton;
mod characters;
mod gbnf;
mod network;
mod parse;
mod schema;
mod schema_bounds;
mod schema_formats;
#[cfg(test)]
mod tests;
mod triggers;
mod vocabulary;

use std::fmt;
use std::sync::Arc;

use regex::bytes::Regex;

pub use triggers::Triggers;

use crate::error::{GrammarError, VocabError};
use crate::id::Token;
use crate::model::Model;
use crate::token_set::TokenSet;
use crate::token_trie::TokenTrie;
use triggers::Trigger;

/// What may follow the text that a grammar has read so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GrammarState {
    /// Anything: a lazy grammar has seen no trigger yet.
    Waiting,
    /// Some token goes on. If `complete`, the text may as well end here.
    Allowed {
        /// Whether the text may end here.
        complete: bool,
    },
    /// The text is whole, and has ended or can only end: tokens that end a generation are all that is allowed.
    Finished,
    /// The text is not whole, and no token of this vocabulary goes on.
    DeadEnd,
}

/// Which tokens may come next, so that the text is one of a language, given as a grammar or a JSON schema.
///
/// A grammar belongs to one sequence, and reads each token that was chosen for it. Clones go on from the same place, each
/// on its own, and share what was worked out about the grammar.
///
/// Tokens that end a generation are allowed exactly where the text may end. Control tokens are never text: a grammar allows
/// one only where it names it (`<name>` or `<[id]>`).
///
/// ```
/// use llama_safe::{Grammar, GrammarState, Model, ModelParams, Special};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let gguf = fixtures::Llama::tiny().gguf(fixtures::Weights::F16, 1)?;
/// # let model = Model::from_bytes(&gguf, &ModelParams::default())?;
/// let mut grammar = Grammar::gbnf(&model, r#"root ::= "yes" | "no" [.!]?"#, "root")?;
/// for token in model.tokenize("no", Special::None)? {
///     assert!(grammar.allowed().is_some_and(|allowed| allowed.contains(token)));
///     grammar.accept(token)?;
/// }
/// assert_eq!(grammar.state(), GrammarState::Allowed { complete: true });
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Grammar {
    trie: Arc<TokenTrie>,
    /// Before any text.
    start: Engine,
    /// What a text begins with: [`Now::Waiting`] of a lazy grammar.
    first: Now,
    now: Now,
    lazy: Option<Arc<Lazy>>,
}

/// Where a text is.
#[derive(Clone)]
enum Now {
    /// A trigger has not appeared in the text so far. `tokens` has the end of each token in it.
    Waiting {
        text: Vec<u8>,
        tokens: Vec<(Token, usize)>,
    },
    /// A token that ends the generation was read.
    Ended,
    Within {
        engine: Engine,
        state: GrammarState,
        allowed: Arc<TokenSet>,
    },
}

#[derive(Clone)]
enum Engine {
    Gbnf(gbnf::Place),
    Schema(Box<schema::Place>),
}

struct Lazy {
    tokens: Vec<(Token, Vec<u8>)>,
    expressions: Vec<Regex>,
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammar")
            .field("lazy", &self.lazy.is_some())
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

impl Engine {
    fn within(self, trie: &TokenTrie) -> Result<Now, GrammarError> {
        let (mut allowed, complete) = match &self {
            Self::Gbnf(place) => (place.allowed()?, place.is_complete()),
            Self::Schema(place) => place.allowed(),
        };
        let state = match (allowed.is_empty(), complete) {
            (false, complete) => GrammarState::Allowed { complete },
            (true, true) => GrammarState::Finished,
            (true, false) => GrammarState::DeadEnd,
        };
        if complete {
            Arc::make_mut(&mut allowed).extend(trie.ends());
        }
        Ok(Now::Within { engine: self, state, allowed })
    }

    /// Whether a text of the grammar begins with these bytes, from here.
    fn goes_on_with(&self, bytes: &[u8]) -> Result<bool, GrammarError> {
        match self {
            Self::Gbnf(place) => place.goes_on_with(bytes),
            Self::Schema(place) => place.goes_on_with(bytes),
        }
    }

    /// The place after a token that is read as these bytes; `None` if there is none.
    fn after(&self, token: Token, bytes: &[u8]) -> Result<Option<Self>, GrammarError> {
        // Tokens that come here are in the vocabulary.
        let id = token.0 as u32;
        Ok(match self {
            Self::Gbnf(place) => place.after(id, bytes)?.map(Self::Gbnf),
            Self::Schema(place) => place.after(id, bytes)?.map(|place| Self::Schema(Box::new(place))),
        })
    }
}

impl Grammar {
    /// A grammar in GBNF, beginning with the rule named `root`.
    ///
    /// ```text
    /// root  ::= pair ("," pair)*         # a sequence, a group, a repetition
    /// pair  ::= [a-z_]+ ":" value        # a set of characters; also [^a-z], and . for any
    /// value ::= "\"" [^"\n]{0,20} "\"" | "null" | <think>     # alternatives; a token by its name, or <[id]>, or !<[id]>
    /// ```
    ///
    /// It is what llama.cpp reads (grammars/README.md there). Refused is what means something else there than it says:
    /// sets without a character, ranges from higher to lower, rules that are defined twice or never end.
    ///
    /// # Errors
    ///
    /// [`GrammarError`], with line and column: the text is no GBNF, a rule is missing, begins with itself, never ends or is
    /// too large. [`GrammarError::Vocab`]: the model has no vocabulary.
    pub fn gbnf(model: &Model, text: &str, root: &str) -> Result<Self, GrammarError> {
        let trie = vocabulary::trie(model)?;
        let start = gbnf::Place::new(text, root, &vocabulary::Named(model), &trie)?;
        Self::new(trie, Engine::Gbnf(start))
    }

    /// JSON of a schema (draft 2020-12 and before), given as JSON text.
    ///
    /// A keyword that cannot be held is an error, and so is an unknown format. Leap seconds are no times. Between the parts
    /// of the JSON there is at most one blank, or a new line and up to 20 blanks. Tokens of more than 512 bytes are not
    /// allowed in it.
    ///
    /// # Errors
    ///
    /// [`GrammarError::Schema`]: the text is no JSON schema, asks for what cannot be held, allows nothing, or is too large.
    /// [`GrammarError::Vocab`]: the model has no vocabulary.
    pub fn json_schema(model: &Model, schema: &str) -> Result<Self, GrammarError> {
        let trie = vocabulary::trie(model)?;
        let start = schema::Place::new(model, schema, &trie)?;
        Self::new(trie, Engine::Schema(Box::new(start)))
    }

    /// Any JSON.
    ///
    /// # Errors
    ///
    /// [`GrammarError::Vocab`]: the model has no vocabulary.
    pub fn json(model: &Model) -> Result<Self, GrammarError> {
        Self::json_schema(model, "{}")
    }

    fn new(trie: Arc<TokenTrie>, start: Engine) -> Result<Self, GrammarError> {
        let first = start.clone().within(&trie)?;
        Ok(Self { trie, start, now: first.clone(), first, lazy: None })
    }

    /// The grammar from its beginning, waiting: it allows everything until a trigger appears in the text, and from there on
    /// what its language has, the text from the trigger's beginning included.
    ///
    /// A token that completes a trigger, and goes on after it with what the grammar forbids, is [forbidden](GrammarError::Forbidden)
    /// when it is accepted.
    ///
    /// # Errors
    ///
    /// [`GrammarError::NoTrigger`]; [`GrammarError::Pattern`]: a pattern is none, or too large;
    /// [`GrammarError::TriggerOutside`]: no text of the grammar begins with this token or word;
    /// [`GrammarError::Vocab`]: a token is not in the vocabulary.
    pub fn lazy(self, triggers: Triggers) -> Result<Self, GrammarError> {
        if triggers.is_empty() {
            return Err(GrammarError::NoTrigger);
        }
        let expressions = triggers.compile()?;
        let mut tokens = Vec::new();
        for token in triggers.tokens {
            self.check(token)?;
            let bytes = self.trie.name(token.0 as u32).to_vec();
            let goes_on = !self.trie.ends().contains(token) && self.start.after(token, &bytes)?.is_some();
            if !goes_on {
                return Err(GrammarError::TriggerOutside { trigger: format!("token {token}") });
            }
            tokens.push((token, bytes));
        }
        for trigger in &triggers.texts {
            if let Trigger::Word(word) = trigger
                && !self.start.goes_on_with(word.as_bytes())?
            {
                return Err(GrammarError::TriggerOutside { trigger: format!("{:?}", parse::shortened(word)) });
            }
        }
        let lazy = Some(Arc::new(Lazy { tokens, expressions }));
        Ok(Self { first: Now::waiting(), now: Now::waiting(), lazy, ..self })
    }

    /// The tokens that may come next; `None` while a lazy grammar waits and anything may.
    ///
    /// It is empty at a [dead end](GrammarState::DeadEnd), and in a vocabulary without tokens that end a generation where the
    /// text is finished.
    #[must_use]
    pub fn allowed(&self) -> Option<&TokenSet> {
        match &self.now {
            Now::Waiting { .. } => None,
            Now::Ended => Some(self.trie.ends()),
            Now::Within { allowed, .. } => Some(allowed),
        }
    }

    /// What may follow.
    #[must_use]
    pub fn state(&self) -> GrammarState {
        match &self.now {
            Now::Waiting { .. } => GrammarState::Waiting,
            Now::Ended => GrammarState::Finished,
            Now::Within { state, .. } => *state,
        }
    }

    /// Reads a token that was chosen, and says what may follow.
    ///
    /// # Errors
    ///
    /// After an error nothing has changed. [`GrammarError::Forbidden`]: the grammar does not allow the token, or allows no end
    /// here; [`GrammarError::TooComplex`]: the grammar is too ambiguous to tell; [`GrammarError::Engine`]: the engine of JSON
    /// schemas has come to one of its limits; [`GrammarError::Vocab`]: the token is not in the vocabulary.
    pub fn accept(&mut self, token: Token) -> Result<GrammarState, GrammarError> {
        self.check(token)?;
        let ends = self.trie.ends().contains(token);
        let next = match &self.now {
            Now::Waiting { .. } | Now::Ended if ends => Now::Ended,
            Now::Within { allowed, .. } if ends && allowed.contains(token) => Now::Ended,
            Now::Within { engine, .. } if !ends => match engine.after(token, self.trie.piece(token.0 as u32))? {
                Some(engine) => engine.within(&self.trie)?,
                None => return Err(self.forbidden(token)),
            },
            Now::Waiting { text, tokens } => match self.triggered(text, tokens, token)? {
                Some(engine) => engine.within(&self.trie)?,
                None => return Ok(self.wait(token)),
            },
            Now::Within { .. } | Now::Ended => return Err(self.forbidden(token)),
        };
        self.now = next;
        Ok(self.state())
    }

    /// Goes back to before any text; a lazy grammar waits again.
    pub fn reset(&mut self) {
        self.now = self.first.clone();
    }

    /// Tokens of the vocabulary.
    pub(crate) fn vocabulary(&self) -> u32 {
        self.trie.vocabulary()
    }

    fn check(&self, token: Token) -> Result<(), GrammarError> {
        let vocabulary = self.vocabulary();
        // A negative id wraps to one that is above any vocabulary.
        if (token.0 as u32) < vocabulary {
            return Ok(());
        }
        Err(VocabError::TokenOutOfRange { token: token.0, vocabulary }.into())
    }

    fn forbidden(&self, token: Token) -> GrammarError {
        let text = String::from_utf8_lossy(self.trie.name(token.0 as u32)).into_owned();
        GrammarError::Forbidden { token: token.0, text }
    }

    /// The place after a trigger, if this token completes one.
    fn triggered(&self, text: &[u8], tokens: &[(Token, usize)], token: Token) -> Result<Option<Engine>, GrammarError> {
        let Some(lazy) = &self.lazy else { return Ok(None) };
        if let Some((_, bytes)) = lazy.tokens.iter().find(|(trigger, _)| *trigger == token) {
            return self.start.after(token, bytes)?.map_or_else(|| Err(self.forbidden(token)), |place| Ok(Some(place)));
        }
        let mut text = text.to_vec();
        text.extend_from_slice(self.trie.piece(token.0 as u32));
        let Some(start) = triggers::find(&lazy.expressions, &text) else { return Ok(None) };
        let mut engine = self.start.clone();
        let mut begin = 0;
        for &(read, end) in tokens.iter().chain([&(token, text.len())]) {
            if end > start {
                match engine.after(read, &text[begin.max(start)..end])? {
                    Some(next) => engine = next,
                    None => return Err(self.forbidden(token)),
                }
            }
            begin = end;
        }
        Ok(Some(engine))
    }

    /// Keeps a token that completes no trigger.
    fn wait(&mut self, token: Token) -> GrammarState {
        if let Now::Waiting { text, tokens } = &mut self.now {
            text.extend_from_slice(self.trie.piece(token.0 as u32));
            tokens.push((token, text.len()));
        }
        self.state()
    }
}

impl Now {
    fn waiting() -> Self {
        Self::Waiting { text: vec![], tokens: vec![] }
    }
}
