//! Candidates, as a custom sampler sees them.

use crate::id::Token;

/// A token that can be chosen.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Candidate {
    pub(super) token: i32,
    pub(super) logit: f32,
    /// Set by the step that needs it, for itself.
    pub(super) p: f32,
}

impl Candidate {
    /// Its id.
    #[must_use]
    pub fn token(&self) -> Token {
        Token(self.token)
    }

    /// Its logit, as the steps before have left it. Finite.
    #[must_use]
    pub fn logit(&self) -> f32 {
        self.logit
    }
}

/// What is left to choose from: every token at most once, none of them forbidden, one at least.
///
/// Their order is that of the ids until a step sorts them, then mostly from the highest logit to the lowest.
#[derive(Debug)]
pub struct Candidates<'a> {
    pub(super) list: &'a mut Vec<Candidate>,
}

impl Candidates<'_> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether all were removed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All of them.
    #[must_use]
    pub fn as_slice(&self) -> &[Candidate] {
        self.list
    }

    /// All of them, one after the other.
    pub fn iter(&self) -> impl Iterator<Item = &Candidate> {
        self.list.iter()
    }

    /// Gives every candidate the logit that `new` says. Minus infinity forbids it; NaN and plus infinity make the sample
    /// fail.
    pub fn set_logits(&mut self, mut new: impl FnMut(Candidate) -> f32) {
        self.list.iter_mut().for_each(|one| one.logit = new(*one));
    }

    /// Removes those for which `keep` says no.
    pub fn retain(&mut self, mut keep: impl FnMut(Candidate) -> bool) {
        self.list.retain(|one| keep(*one));
    }
}
