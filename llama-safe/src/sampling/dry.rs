//! DRY, "don't repeat yourself": a token that would continue a repetition is penalised the more, the longer it already is
//! (p-e-w, text-generation-webui, 2024).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::error::{SamplerParamError, SamplingError};
use crate::id::Token;
use crate::vocab::{Special, Vocab};

use super::field::Field;
use super::penalties::finite;

/// Bytes of a sequence breaker, as many as llama.cpp reads of one (llama-sampler.cpp:3640).
pub(super) const BREAKER_BYTES: usize = 40;

/// Tokens that may follow the one that a breaker begins in.
const BREAKER_TAIL: usize = 20;

/// The tokens that end the search for a repetition: each with what has to follow it.
#[derive(Debug, Default)]
pub(super) struct Breakers {
    pub(super) vocabulary: usize,
    tails: HashMap<i32, Vec<Vec<i32>>>,
}

impl Breakers {
    /// Finds all ways in which a token can contain a text, or end with its beginning.
    pub(super) fn of(vocab: &Vocab<'_>, texts: &[String]) -> Result<Self, SamplerParamError> {
        for text in texts {
            if text.is_empty() || text.len() > BREAKER_BYTES {
                return Err(SamplerParamError::BreakerLength { breaker: text.clone(), max: BREAKER_BYTES });
            }
        }
        let vocabulary = vocab.size();
        let mut breakers = Self { vocabulary: vocabulary as usize, ..Self::default() };
        if texts.is_empty() {
            return Ok(breakers);
        }
        let mut cut: HashMap<&[u8], Vec<i32>> = HashMap::new();
        let mut buffer = vec![0; 64];
        for token in 0..vocabulary as i32 {
            let length = vocab.alone_into(Token(token), &mut buffer)?;
            for text in texts {
                for rest in rests(&buffer[..length], text.as_bytes()) {
                    if !cut.contains_key(rest) {
                        let mut tail = vocab.tokenize_bytes(rest, Special::None)?;
                        tail.truncate(BREAKER_TAIL);
                        cut.insert(rest, tail.into_iter().map(|token| token.0).collect());
                    }
                    let tails = breakers.tails.entry(token).or_default();
                    if !tails.contains(&cut[rest]) {
                        tails.push(cut[rest].clone());
                    }
                }
            }
        }
        Ok(breakers)
    }

    /// How many tokens ago the last breaker ended; all of them if there is none. `newest` are tokens, the last one first.
    fn distance(&self, newest: &[i32]) -> usize {
        for (ago, token) in newest.iter().enumerate() {
            let Some(tails) = self.tails.get(token) else { continue };
            let follows =
                |tail: &&Vec<i32>| tail.len() <= ago && tail.iter().eq(newest[ago - tail.len()..ago].iter().rev());
            if let Some(longest) = tails.iter().filter(follows).map(Vec::len).max() {
                return ago - longest;
            }
        }
        newest.len()
    }

    fn is_breaker(&self, token: i32) -> bool {
        self.tails.get(&token).is_some_and(|tails| tails.iter().any(Vec::is_empty))
    }
}

/// What of `text` has to follow where `piece` contains it or ends with its beginning: nothing, in the first case.
fn rests<'t>(piece: &[u8], text: &'t [u8]) -> Vec<&'t [u8]> {
    if piece.windows(text.len()).any(|window| window == text) {
        return vec![&text[text.len()..]];
    }
    let ends = (0..piece.len()).filter(|start| text.starts_with(&piece[*start..]));
    ends.map(|start| &text[piece.len() - start..]).collect()
}

#[derive(Clone, Debug)]
pub(super) struct DontRepeat {
    pub(super) multiplier: f32,
    pub(super) base: f32,
    pub(super) allowed: usize,
    pub(super) window: usize,
    pub(super) breakers: Arc<Breakers>,
    tokens: VecDeque<i32>,
    newest: Vec<i32>,
    repeats: Vec<usize>,
    lengths: HashMap<i32, usize>,
}

impl DontRepeat {
    pub(super) fn new(multiplier: f32, base: f32, allowed: usize, window: usize, breakers: Breakers) -> Self {
        Self {
            multiplier,
            base,
            allowed,
            window,
            breakers: Arc::new(breakers),
            tokens: VecDeque::new(),
            newest: Vec::new(),
            repeats: Vec::new(),
            lengths: HashMap::new(),
        }
    }

    pub(super) fn accept(&mut self, token: i32) {
        if self.tokens.len() >= self.window {
            self.tokens.pop_front();
        }
        self.tokens.push_back(token);
    }

    pub(super) fn reset(&mut self) {
        self.tokens.clear();
    }

    pub(super) fn apply(&mut self, field: &mut Field<'_>) -> Result<(), SamplingError> {
        let (expected, got) = (self.breakers.vocabulary, field.vocabulary());
        if got != expected {
            return Err(SamplingError::OtherVocabulary { expected, got });
        }
        if self.tokens.len() <= self.allowed {
            return Ok(());
        }
        self.newest.clear();
        self.newest.extend(self.tokens.iter().rev());
        let most = self.breakers.distance(&self.newest);
        if most < self.allowed {
            return Ok(());
        }
        common_prefixes(&self.newest, &mut self.repeats);
        self.lengths.clear();
        for (ago, repeat) in self.repeats.iter().enumerate().skip(1) {
            let repeat = (*repeat).min(most);
            // The token that came after what is repeated would continue the repetition.
            let next = self.newest[ago - 1];
            if repeat >= self.allowed && !self.breakers.is_breaker(next) {
                let longest = self.lengths.entry(next).or_default();
                *longest = repeat.max(*longest);
            }
        }
        let (multiplier, base, allowed) = (self.multiplier, self.base, self.allowed);
        let most_exponent = most_exponent(base);
        field.adjust(&self.lengths, |logit, &length| {
            let exponent = i32::try_from(length - allowed).unwrap_or(i32::MAX).min(most_exponent);
            finite(logit - (f64::from(multiplier) * f64::from(base).powf(f64::from(exponent))) as f32)
        })
    }
}

/// The exponent up to which powers of the base are floats of 32 bits.
fn most_exponent(base: f32) -> i32 {
    const LOGARITHM_OF_MAX: f32 = 88.722_84;
    let most = if base > 1.000_001 { (LOGARITHM_OF_MAX / base.ln()) as i32 } else { 0 };
    // llama.cpp knows no bound where the base is so close to 1, or so large that there is none (llama-sampler.cpp:3564).
    if most > 0 { most } else { i32::MAX }
}

/// For each place, how many tokens from there on are those of the beginning: the Z algorithm (Gusfield, "Algorithms on
/// Strings, Trees and Sequences", 1997), which looks at each token twice at most.
fn common_prefixes(tokens: &[i32], lengths: &mut Vec<usize>) {
    lengths.clear();
    lengths.push(tokens.len());
    // The stretch that reaches furthest of those known to be equal to the beginning.
    let (mut start, mut end) = (0, 0);
    for place in 1..tokens.len() {
        let mut length = if place < end { lengths[place - start].min(end - place) } else { 0 };
        while tokens.get(place + length).is_some_and(|token| *token == tokens[length]) {
            length += 1;
        }
        if place + length > end {
            (start, end) = (place, place + length);
        }
        lengths.push(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_breaker_is_found_in_a_piece_and_across_its_end() {
        let rest = |piece: &str, text: &'static str| -> Vec<&str> {
            rests(piece.as_bytes(), text.as_bytes())
                .into_iter()
                .map(|rest| std::str::from_utf8(rest).unwrap())
                .collect()
        };
        assert_eq!(rest("a\nb", "\n"), [""]);
        assert_eq!(rest("ab", "\n"), [""; 0]);
        assert_eq!(rest("xaa", "aaab"), ["ab", "aab"]);
        assert_eq!(rest("xaab", "aab"), [""]);
        assert_eq!(rest("", "a"), [""; 0]);
    }

    proptest! {
        #[test]
        fn common_prefixes_are_those_of_a_naive_count(tokens in proptest::collection::vec(0..3i32, 1..60)) {
            let mut lengths = Vec::new();
            common_prefixes(&tokens, &mut lengths);
            for (place, length) in lengths.iter().enumerate() {
                let naive = tokens.iter().zip(&tokens[place..]).take_while(|(a, b)| a == b).count();
                prop_assert_eq!(*length, naive);
            }
        }
    }

    #[test]
    fn the_last_breaker_bounds_the_repetition() {
        let tails = HashMap::from([(7, vec![vec![]]), (8, vec![vec![1, 2], vec![1]])]);
        let breakers = Breakers { vocabulary: 10, tails };
        assert_eq!(breakers.distance(&[3, 4, 7, 1]), 2);
        assert_eq!(breakers.distance(&[3, 2, 1, 8, 7]), 1);
        assert_eq!(breakers.distance(&[3, 9, 1, 8, 7]), 2);
        assert_eq!(breakers.distance(&[3, 8, 4]), 3);
        assert!(breakers.is_breaker(7) && !breakers.is_breaker(8));
    }
}
