//! Chains that are held to a grammar: what it forbids is left out before the first step, wherever the grammar was named.

use crate::error::{GrammarError, SamplerParamError, SamplingError};
use crate::grammar::{Grammar, GrammarState};
use crate::id::Token;
use crate::token_set::TokenSet;

use super::{Line, Sampler, SamplerChain};

impl SamplerChain {
    /// Holds the text to a grammar: every step of the chain, those named before as well, sees the tokens alone that may come
    /// next, so that truncation never leaves only what is forbidden.
    ///
    /// The sampler reads each token that it chooses or [accepts](Sampler::accept) with the grammar, and not those of the
    /// [prompt](Sampler::accept_prompt).
    ///
    /// ```
    /// use llama_safe::{Grammar, GrammarState, Model, ModelParams, Sampler};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let gguf = fixtures::Llama::tiny().gguf(fixtures::Weights::F16, 1)?;
    /// # let model = Model::from_bytes(&gguf, &ModelParams::default())?;
    /// let grammar = Grammar::gbnf(&model, r#"root ::= "yes" | "no""#, "root")?;
    /// let mut sampler = Sampler::chain().top_k(40)?.temperature(0.8)?.grammar(grammar)?.dist(42);
    ///
    /// let logits = vec![0.0; model.vocab().size() as usize];
    /// let mut answer = Vec::new();
    /// while sampler.grammar().is_some_and(|grammar| grammar.state() != GrammarState::Finished) {
    ///     answer.push(sampler.sample(&logits)?);
    /// }
    /// assert!(["yes", "no"].contains(&model.detokenize(&answer)?.as_str()));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`SamplerParamError::SecondGrammar`].
    pub fn grammar(mut self, grammar: Grammar) -> Result<Self, SamplerParamError> {
        if self.grammar.is_some() {
            return Err(SamplerParamError::SecondGrammar);
        }
        self.grammar = Some(Box::new(grammar));
        Ok(self)
    }
}

impl Sampler {
    /// The grammar that the text is held to, with the state that the text is in.
    #[must_use]
    pub fn grammar(&self) -> Option<&Grammar> {
        self.grammar.as_deref()
    }
}

/// Chooses among the tokens that the grammar allows, and has it read the token. `line` is prepared for that token.
pub(super) fn choose(line: &mut Line, grammar: &mut Grammar, logits: &[f32]) -> Result<Token, SamplingError> {
    let (expected, got) = (grammar.vocabulary() as usize, logits.len());
    if expected != got && got > 0 {
        return Err(SamplingError::OtherVocabulary { expected, got });
    }
    let Some(allowed) = grammar.allowed() else { return choose_of_any(line, grammar, logits) };
    if allowed.is_empty() {
        let is_whole = grammar.state() == GrammarState::Finished;
        return Err(if is_whole { SamplingError::GrammarFinished } else { SamplingError::DeadEnd });
    }
    let token = line.choose(logits, Some(allowed.words()))?;
    grammar.accept(token)?;
    Ok(token)
}

/// Chooses while a lazy grammar waits. A token that completes a trigger, and goes on with what the grammar forbids behind it,
/// shows that when it is read: another one is chosen then, with the same random numbers.
fn choose_of_any(line: &mut Line, grammar: &mut Grammar, logits: &[f32]) -> Result<Token, SamplingError> {
    let mut left: Option<TokenSet> = None;
    loop {
        let token = line.choose(logits, left.as_ref().map(TokenSet::words))?;
        match grammar.accept(token) {
            Ok(_) => return Ok(token),
            // One less each time.
            Err(GrammarError::Forbidden { .. }) => {
                left.get_or_insert_with(|| TokenSet::full(grammar.vocabulary())).remove(token.0 as u32);
            }
            Err(error) => return Err(error.into()),
        }
    }
}
