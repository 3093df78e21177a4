//! JSON of a schema, by `llguidance`.
//!
//! It compiles a schema to a grammar over lexemes and walks it with an Earley parser over derivatives of regular
//! expressions. Its panics are caught, its limits are errors.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::panic_utils::catch_unwind;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory};
use serde_json::{Map, Value};

use super::{schema_bounds, schema_formats};
use crate::error::GrammarError;
use crate::id::Token;
use crate::model::Model;
use crate::token_set::TokenSet;
use crate::token_trie::TokenTrie;

/// Bytes of a schema's text.
const MAX_SCHEMA: usize = 1 << 20;
/// Bytes of a token: the trie of `toktrie` panics at twice as many.
const MAX_TOKEN: usize = 512;
/// What may stand between the parts: a model that is lost would put blanks there without end.
const SPACE: &str = r"[ ]|\n[ ]{0,20}";
/// Where options for the compiler stand in a schema.
const OPTIONS: &str = "x-guidance";

/// The engine for one vocabulary, with its own tree of tokens.
struct Factory(ParserFactory);

/// A text's place in the JSON of a schema.
#[derive(Clone)]
pub(super) struct Place {
    matcher: Matcher,
    /// Without those that end a generation.
    allowed: Arc<TokenSet>,
    complete: bool,
}

impl Place {
    /// The beginning of the JSON.
    pub(super) fn new(model: &Model, text: &str, trie: &TokenTrie) -> Result<Self, GrammarError> {
        if text.len() > MAX_SCHEMA {
            return Err(GrammarError::TooLong { got: text.len(), max: MAX_SCHEMA });
        }
        // serde_json refuses what is deeper than 128.
        let schema = serde_json::from_str(text).map_err(refused)?;
        let mut schema = match schema {
            Value::Object(schema) => Value::Object(schema),
            Value::Bool(true) => Value::Object(Map::new()),
            Value::Bool(false) => return Err(refused("`false` allows nothing")),
            _ => return Err(refused("a schema is an object, `true` or `false`")),
        };
        if schema.get(OPTIONS).is_some() {
            return Err(refused(format!("the keyword `{OPTIONS}` is not offered")));
        }
        schema_formats::make_exact(&mut schema);
        let stack = schema_bounds::stack(&schema).map_err(refused)?;
        let options = JsonCompileOptions { whitespace_pattern: Some(SPACE.to_owned()), ..Default::default() };
        options.apply_to(&mut schema);
        let factory = factory(model, trie)?;
        // The compiler recurses over references: on a stack that suits them, which is mapped and not filled.
        let compile = || {
            catch_unwind(AssertUnwindSafe(|| {
                let parser = factory.0.create_parser(TopLevelGrammar::from_json_schema(schema))?;
                Ok(Matcher::new(Ok(parser)))
            }))
        };
        let matcher = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(stack).spawn_scoped(scope, compile).map_err(failed)?;
            thread.join().map_err(|_| failed("the compiler panicked"))?.map_err(refused)
        })?;
        Self::at(matcher, trie.vocabulary())
    }

    /// The place that a matcher has come to.
    fn at(mut matcher: Matcher, vocabulary: u32) -> Result<Self, GrammarError> {
        let complete = matcher.is_accepting().map_err(failed)?;
        let mask = matcher.compute_mask_or_eos().map_err(failed)?;
        let mut allowed = TokenSet::empty(vocabulary);
        // The end token of its own is past the vocabulary, and left out here.
        mask.iter().for_each(|token| allowed.insert(token));
        Ok(Self { matcher, allowed: Arc::new(allowed), complete })
    }

    /// The tokens that may come next, without those that end a generation, and whether the text may end.
    pub(super) fn allowed(&self) -> (Arc<TokenSet>, bool) {
        (Arc::clone(&self.allowed), self.complete)
    }

    /// Whether JSON of the schema goes on from here with these bytes.
    pub(super) fn goes_on_with(&self, bytes: &[u8]) -> Result<bool, GrammarError> {
        let mut matcher = self.matcher.clone();
        let tokens = matcher.tok_env().map_err(failed)?.tok_trie().greedy_tokenize(bytes);
        Ok(matcher.validate_tokens(&tokens).map_err(failed)? == tokens.len())
    }

    /// The place after a token that is read as these bytes; `None` if there is none.
    pub(super) fn after(&self, token: u32, bytes: &[u8]) -> Result<Option<Self>, GrammarError> {
        let mut matcher = self.matcher.clone();
        let vocabulary = self.allowed.vocabulary();
        let env = matcher.tok_env().map_err(failed)?;
        let whole = env.tok_trie().token(token) == bytes;
        // The rest of a token that began before a trigger, or its name.
        let tokens = if whole { vec![token] } else { env.tok_trie().greedy_tokenize(bytes) };
        if whole && !self.allowed.contains(Token(token as i32)) || bytes.is_empty() {
            return Ok(None);
        }
        if !whole && matcher.validate_tokens(&tokens).map_err(failed)? != tokens.len() {
            return Ok(None);
        }
        matcher.consume_tokens(&tokens).map_err(failed)?;
        Self::at(matcher, vocabulary).map(Some)
    }
}

/// The engine of a model's vocabulary, made once for each model.
fn factory(model: &Model, trie: &TokenTrie) -> Result<Arc<Factory>, GrammarError> {
    model.derived(|| {
        catch_unwind(AssertUnwindSafe(|| {
            let ends = trie.ends();
            let text = |id: u32| {
                let piece = trie.piece(id);
                let usable = piece.len() <= MAX_TOKEN && !ends.contains(Token(id as i32));
                if usable { piece.to_vec() } else { Vec::new() }
            };
            let mut words: Vec<Vec<u8>> = (0..trie.vocabulary()).map(text).collect();
            // An end token of its own: this vocabulary may have none, or several.
            words.push(b"\xff<end>".to_vec());
            let info = TokRxInfo::new(words.len() as u32, words.len() as u32 - 1);
            let env: TokEnv = Arc::new(ApproximateTokEnv::new(TokTrie::from(&info, &words)));
            let mut factory = ParserFactory::new_simple(&env)?;
            factory.quiet();
            factory.limits_mut().verbose_errors = false;
            Ok(Factory(factory))
        }))
        .map_err(failed)
    })
}

fn refused(reason: impl ToString) -> GrammarError {
    GrammarError::Schema { reason: first_line(&reason.to_string()) }
}

fn failed(reason: impl ToString) -> GrammarError {
    GrammarError::Engine { reason: first_line(&reason.to_string()) }
}

/// Without the backtrace of a panic.
fn first_line(reason: &str) -> String {
    reason.split("\n<backtrace>").next().unwrap_or_default().to_owned()
}
