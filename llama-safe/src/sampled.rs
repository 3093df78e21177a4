//! What samplers inside the computation leave of a row.

use llama_sys as sys;

use crate::error::OutputError;
use crate::graph_sampler::Selector;
use crate::id::{OutputSlot, Token};
use crate::outputs::Outputs;

/// What a sampler inside the computation left of the vocabulary for one row, in no particular order.
#[derive(Clone, Copy, Debug)]
pub struct GraphCandidates<'context> {
    /// `[len]`; `None` where they are all tokens in order.
    tokens: Option<&'context [i32]>,
    /// `[len]`.
    values: &'context [f32],
    are_probabilities: bool,
}

impl<'context> GraphCandidates<'context> {
    /// Whether the values are probabilities, as of a sampler that draws; otherwise they are logits.
    #[must_use]
    pub fn are_probabilities(&self) -> bool {
        self.are_probabilities
    }

    /// The tokens that are possible, each with its value: those with a probability above 0, or a logit above minus infinity.
    pub fn iter(&self) -> impl Iterator<Item = (Token, f32)> + use<'context> {
        let impossible = if self.are_probabilities { 0.0 } else { f32::NEG_INFINITY };
        let (tokens, values) = (self.tokens, self.values);
        let all = values.iter().enumerate().filter(move |(_, value)| **value != impossible);
        all.map(move |(index, value)| (token(tokens, index), *value))
    }
}

/// The token of a candidate.
fn token(tokens: Option<&[i32]>, index: usize) -> Token {
    // Without a list they are a vocabulary's, whose ids are `int32_t`s.
    Token(tokens.and_then(|tokens| tokens.get(index).copied()).unwrap_or(index as i32))
}

/// The token that was drawn, where llama.cpp says `chosen`.
///
/// A random number that rounds to 1, or to more than the sum of all probabilities, takes the last candidate, be it one that was
/// ruled out (llama-sampler.cpp:1316): the last that was not is meant.
fn drawn(candidates: &GraphCandidates, chosen: Token) -> Option<Token> {
    let values = candidates.values;
    let last = values.len().checked_sub(1)?;
    if values[last] > 0.0 || token(candidates.tokens, last) != chosen {
        return Some(chosen);
    }
    let possible = values.iter().rposition(|probability| *probability > 0.0)?;
    Some(token(candidates.tokens, possible))
}

/// The token of the highest value, the lowest id of several.
fn most_likely(candidates: &GraphCandidates) -> Option<(Token, f32)> {
    candidates.iter().reduce(|best, next| {
        let better = next.1 > best.1 || (next.1 == best.1 && next.0 < best.0);
        if better { next } else { best }
    })
}

impl<'context> Outputs<'context> {
    /// The token that a row's [sampler](crate::Context::set_graph_sampler) chose.
    ///
    /// # Errors
    ///
    /// [`OutputError`]: the slot is of another batch, its row was not sampled, or its sampler chooses nothing, or the logits
    /// were no numbers.
    pub fn sampled(&self, slot: OutputSlot) -> Result<Token, OutputError> {
        self.check(slot)?;
        let row = slot.row;
        let selector = self.context.graph.selector_of(row).ok_or(OutputError::NotSampled { row })?;
        if selector == Selector::Candidates {
            return Err(OutputError::NothingChosen { row });
        }
        let candidates = self.candidates(slot)?;
        if selector == Selector::Greedy {
            return most_likely(&candidates).map(|(token, _)| token).ok_or(OutputError::Missing { row });
        }
        let place = self.context.by_slot.place(row) as i32;
        let chosen = sys::guarded(-1, |result, error| {
            // SAFETY: the context lives, and a row that it does not know gives -1.
            unsafe { sys::guard_llama_get_sampled_token_ith(result, error, self.context.as_ptr(), place) }
        });
        let chosen = chosen.ok().filter(|token| *token >= 0).ok_or(OutputError::Missing { row })?;
        drawn(&candidates, Token(chosen)).ok_or(OutputError::Missing { row })
    }

    /// What a row's [sampler](crate::Context::set_graph_sampler) left of the vocabulary, with logits or probabilities.
    ///
    /// # Errors
    ///
    /// [`OutputError`]: the slot is of another batch, its row was not sampled, or the logits were no numbers.
    pub fn candidates(&self, slot: OutputSlot) -> Result<GraphCandidates<'context>, OutputError> {
        self.check(slot)?;
        let row = slot.row;
        let selector = self.context.graph.selector_of(row).ok_or(OutputError::NotSampled { row })?;
        let are_probabilities = matches!(selector, Selector::Dist(_));
        let (context, place) = (self.context.as_ptr(), self.context.by_slot.place(row) as i32);
        let values = sys::guarded(std::ptr::null_mut(), |result, error| {
            // SAFETY: the context lives, and a row that it does not know, or without such values, gives NULL.
            unsafe {
                if are_probabilities {
                    sys::guard_llama_get_sampled_probs_ith(result, error, context, place)
                } else {
                    sys::guard_llama_get_sampled_logits_ith(result, error, context, place)
                }
            }
        });
        let count = sys::guarded(0, |result, error| {
            // SAFETY: the context lives, and a row that it does not know gives 0.
            unsafe {
                if are_probabilities {
                    sys::guard_llama_get_sampled_probs_count_ith(result, error, context, place)
                } else {
                    sys::guard_llama_get_sampled_logits_count_ith(result, error, context, place)
                }
            }
        });
        let values = self.row(values, count.unwrap_or(0), row)?;
        let ids = sys::guarded(0, |result, error| {
            // SAFETY: as above.
            unsafe { sys::guard_llama_get_sampled_candidates_count_ith(result, error, context, place) }
        });
        let tokens = match ids.unwrap_or(0) as usize {
            // All tokens: dist without a step that takes some away.
            0 if values.len() == self.context.limits.vocabulary() as usize => None,
            count if count == values.len() => {
                let pointer = sys::guarded(std::ptr::null_mut(), |result, error| {
                    // SAFETY: as above.
                    unsafe { sys::guard_llama_get_sampled_candidates_ith(result, error, context, place) }
                });
                let pointer = pointer.ok().filter(|pointer| !pointer.is_null()).ok_or(OutputError::Missing { row })?;
                // SAFETY: a list of as many ids as are told, which is written by the next computation at the earliest;
                // that needs the context mutably, which this borrow forbids.
                Some(unsafe { std::slice::from_raw_parts(pointer.cast_const(), count) })
            }
            _ => return Err(OutputError::Missing { row }),
        };
        match values {
            [] => Err(OutputError::Missing { row }),
            // Of logits that are no numbers there are no probabilities; infinite ones have none either.
            _ if values.iter().any(|value| value.is_nan() || *value == f32::INFINITY) => {
                Err(OutputError::NotNumbers { row })
            }
            _ => Ok(GraphCandidates { tokens, values, are_probabilities }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_was_ruled_out_is_never_drawn() {
        let of = |tokens, values| GraphCandidates { tokens, values, are_probabilities: true };
        let all = of(None, &[0.5, 0.0, 0.5, 0.0, 0.0]);
        assert_eq!(drawn(&all, Token(4)), Some(Token(2)));
        assert_eq!(drawn(&all, Token(0)), Some(Token(0)));
        let some = of(Some(&[9, 7, 8]), &[0.25, 0.75, 0.0]);
        assert_eq!(drawn(&some, Token(8)), Some(Token(7)));
        assert_eq!(drawn(&some, Token(9)), Some(Token(9)));
        assert_eq!(drawn(&of(Some(&[9, 7]), &[0.25, 0.75]), Token(7)), Some(Token(7)));
        assert_eq!(drawn(&of(None, &[]), Token(0)), None);
        assert_eq!(some.iter().collect::<Vec<_>>(), [(Token(9), 0.25), (Token(7), 0.75)]);
    }

    #[test]
    fn of_equal_logits_the_lowest_token_is_taken() {
        let values = [1.0, 2.0, 2.0, f32::NEG_INFINITY];
        let candidates = GraphCandidates { tokens: Some(&[3, 11, 5, 0]), values: &values, are_probabilities: false };
        assert_eq!(most_likely(&candidates), Some((Token(5), 2.0)));
        assert_eq!(most_likely(&GraphCandidates { values: &values[3..], ..candidates }), None);
    }
}
