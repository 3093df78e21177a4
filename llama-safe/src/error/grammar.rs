//! Grammars: their text, and the tokens that they are held against.

use thiserror::Error;

use super::VocabError;

/// Why a grammar was not made, or a token not taken.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum GrammarError {
    /// The text is no GBNF. Lines and columns (in characters) count from 1.
    #[error("line {line}, column {column}: found {found}, expected {expected}")]
    Syntax {
        /// The line.
        line: u32,
        /// The column.
        column: u32,
        /// What stands there.
        found: String,
        /// What may stand there.
        expected: String,
    },
    /// No rule has the root's name.
    #[error("the grammar has no rule `{root}` to begin with, its rules are: {rules}")]
    NoRoot {
        /// The root's name.
        root: String,
        /// The names of the first rules, or `none`.
        rules: String,
    },
    /// A rule is named that is defined nowhere.
    #[error("line {line}, column {column}: rule `{rule}` is used and not defined")]
    UndefinedRule {
        /// Its name.
        rule: String,
        /// The line where it is used.
        line: u32,
        /// The column.
        column: u32,
    },
    /// A rule is defined twice.
    #[error("line {line}: rule `{rule}` is defined already, in line {first}: join them with `|`")]
    DuplicateRule {
        /// Its name.
        rule: String,
        /// The line of the second definition.
        line: u32,
        /// The line of the first.
        first: u32,
    },
    /// A rule begins with itself: it would be asked for itself without end.
    #[error("line {line}: rule `{rule}` begins with itself ({path}): write the repetition with * or +")]
    LeftRecursion {
        /// Its name.
        rule: String,
        /// The line of its definition.
        line: u32,
        /// The rules that lead back to it.
        path: String,
    },
    /// A rule calls itself on every way through it: no text of it is ever finished.
    #[error("line {line}: rule `{rule}` never ends: every alternative leads back to a rule that never ends")]
    EndlessRule {
        /// Its name.
        rule: String,
        /// The line of its definition.
        line: u32,
    },
    /// Parentheses or repetitions in each other.
    #[error("line {line}, column {column}: more than {limit} parentheses and repetitions in each other: use rules")]
    TooDeep {
        /// The line.
        line: u32,
        /// The column.
        column: u32,
        /// The most.
        limit: u32,
    },
    /// The grammar is too large, with its repetitions written out.
    #[error(
        "line {line}: rule `{rule}` makes the grammar larger than {limit} characters and alternatives, with {{m,n}} written out n times: ask for fewer repetitions"
    )]
    TooLarge {
        /// The rule that passed the limit.
        rule: String,
        /// The line of its definition.
        line: u32,
        /// The most.
        limit: u32,
    },
    /// The text of a grammar or schema is too long.
    #[error("{got} bytes of text are too many, the most is {max}")]
    TooLong {
        /// What was given.
        got: usize,
        /// The most.
        max: usize,
    },
    /// What may come next could not be told in the steps or memory set for it: the grammar is too ambiguous.
    #[error("this grammar has too many readings of the text so far (more than {limit} {unit}): make it less ambiguous")]
    TooComplex {
        /// The most.
        limit: u64,
        /// Of what.
        unit: &'static str,
    },
    /// The grammar does not allow this token here. Nothing has changed.
    #[error("the grammar forbids token {token} ({text:?}) here")]
    Forbidden {
        /// The token's id.
        token: i32,
        /// Its text; empty for one that stands for no text.
        text: String,
    },
    /// A lazy grammar needs something to begin on.
    #[error("a lazy grammar needs at least one trigger")]
    NoTrigger,
    /// A trigger that the grammar could not go on from: its texts do not begin like that.
    #[error("no text of the grammar begins with the trigger {trigger}")]
    TriggerOutside {
        /// The token or word.
        trigger: String,
    },
    /// A trigger's regular expression.
    #[error("the trigger's pattern is refused: {reason}")]
    Pattern {
        /// Why.
        reason: String,
    },
    /// The schema is no JSON, no JSON schema, asks for what cannot be held, or is too large.
    #[error("the JSON schema is refused: {reason}")]
    Schema {
        /// Why.
        reason: String,
    },
    /// The engine of JSON schemas failed at its limits, or at all. The grammar is of no use until it is reset.
    #[error("the grammar engine failed: {reason}")]
    Engine {
        /// Why.
        reason: String,
    },
    /// The vocabulary.
    #[error(transparent)]
    Vocab(#[from] VocabError),
}
