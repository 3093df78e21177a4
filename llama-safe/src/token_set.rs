//! A set of tokens, a bit for each of the vocabulary.

use crate::id::Token;

/// A set of tokens of one vocabulary.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenSet {
    vocabulary: u32,
    /// Bit `id % 64` of word `id / 64`; bits past the vocabulary are 0.
    words: Box<[u64]>,
}

impl TokenSet {
    /// No token of a vocabulary of this many.
    pub(crate) fn empty(vocabulary: u32) -> Self {
        Self { vocabulary, words: vec![0; (vocabulary as usize).div_ceil(64)].into() }
    }

    /// All tokens of a vocabulary of this many.
    pub(crate) fn full(vocabulary: u32) -> Self {
        let mut set = Self::empty(vocabulary);
        set.fill();
        set
    }

    /// Adds a token; one that is not in the vocabulary is left out.
    pub(crate) fn insert(&mut self, id: u32) {
        if id < self.vocabulary {
            self.words[id as usize / 64] |= 1 << (id % 64);
        }
    }

    /// Takes a token out.
    pub(crate) fn remove(&mut self, id: u32) {
        if id < self.vocabulary {
            self.words[id as usize / 64] &= !(1 << (id % 64));
        }
    }

    /// Adds all tokens of the vocabulary.
    pub(crate) fn fill(&mut self) {
        self.words.fill(u64::MAX);
        if let Some(last) = self.words.last_mut()
            && !self.vocabulary.is_multiple_of(64)
        {
            *last = (1 << (self.vocabulary % 64)) - 1;
        }
    }

    /// Takes out all tokens of another set of the same vocabulary.
    pub(crate) fn subtract(&mut self, other: &Self) {
        for (word, less) in self.words.iter_mut().zip(&other.words) {
            *word &= !less;
        }
    }

    /// Adds all tokens of another set of the same vocabulary.
    pub(crate) fn extend(&mut self, other: &Self) {
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
    }

    /// Bit `id % 64` of word `id / 64` is a token's; bits past the vocabulary are 0.
    pub(crate) fn words(&self) -> &[u64] {
        &self.words
    }

    /// Tokens of the vocabulary.
    #[must_use]
    pub fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    /// Whether the token is in the set; one that is not in the vocabulary never is.
    #[must_use]
    pub fn contains(&self, token: Token) -> bool {
        // A negative id wraps to one that is above any vocabulary.
        let id = token.0 as u32;
        id < self.vocabulary && self.words[id as usize / 64] >> (id % 64) & 1 == 1
    }

    /// Tokens in the set.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether no token is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// The tokens in the set, by ascending id.
    pub fn iter(&self) -> impl Iterator<Item = Token> + '_ {
        self.words.iter().enumerate().flat_map(|(index, &word)| {
            let mut left = word;
            std::iter::from_fn(move || {
                let bit = left.trailing_zeros();
                left &= left.wrapping_sub(1);
                (bit < 64).then(|| Token((index as u32 * 64 + bit) as i32))
            })
        })
    }

    /// Makes the logits of all other tokens minus infinity, so that no sampler can choose them. `logits` are those of the
    /// whole vocabulary, by token id.
    pub fn mask(&self, logits: &mut [f32]) {
        for (logits, word) in logits.chunks_mut(64).zip(self.words.iter().copied().chain(std::iter::repeat(0))) {
            for (bit, logit) in logits.iter_mut().enumerate() {
                if word >> bit & 1 == 0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_was_put_in() {
        let mut set = TokenSet::empty(130);
        assert!(set.is_empty());
        for id in [0, 63, 64, 129, 130, u32::MAX] {
            set.insert(id);
        }
        assert_eq!(set.iter().map(|token| token.0).collect::<Vec<_>>(), [0, 63, 64, 129]);
        assert_eq!((set.len(), set.is_empty(), set.vocabulary()), (4, false, 130));
        assert!(set.contains(Token(64)) && !set.contains(Token(65)));
        assert!(!set.contains(Token(130)) && !set.contains(Token(-1)));
        let mut other = TokenSet::empty(130);
        other.insert(5);
        other.extend(&set);
        assert_eq!(other.len(), 5);
        other.remove(63);
        assert_eq!(other.len(), 4);
        other.fill();
        assert_eq!(other.len(), 130);
        other.subtract(&set);
        assert_eq!((other.len(), other.contains(Token(0)), other.contains(Token(1))), (126, false, true));
    }

    #[test]
    fn other_logits_become_minus_infinity() {
        let mut set = TokenSet::empty(70);
        set.insert(1);
        set.insert(69);
        let mut logits = [0.5; 72];
        set.mask(&mut logits);
        for (id, logit) in logits.iter().enumerate() {
            assert_eq!(*logit, if id == 1 || id == 69 { 0.5 } else { f32::NEG_INFINITY });
        }
    }
}
