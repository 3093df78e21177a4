//! A grammar of GBNF text, and a text's place in it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::automaton::{Automaton, DEAD};
use super::network::Network;
use super::parse::{self, Tokens};
use crate::error::GrammarError;
use crate::token_set::TokenSet;
use crate::token_trie::{ByteSet, TokenTrie};

/// Bytes of kept sets of tokens.
const MAX_MASKS: usize = 64 << 20;

/// A grammar, shared by all places in it.
#[derive(Debug)]
struct Shared {
    trie: Arc<TokenTrie>,
    known: Mutex<Known>,
}

/// What is known of a grammar so far.
#[derive(Debug)]
struct Known {
    automaton: Automaton,
    /// The states of all places, by the places' numbers.
    places: HashMap<u64, u32>,
    next_place: u64,
    masks: HashMap<u32, Arc<TokenSet>>,
}

/// A text's place in a grammar.
#[derive(Debug)]
pub(super) struct Place {
    shared: Arc<Shared>,
    number: u64,
}

impl Place {
    /// The beginning of the grammar.
    pub(super) fn new(
        text: &str,
        root: &str,
        tokens: &dyn Tokens,
        trie: &Arc<TokenTrie>,
    ) -> Result<Self, GrammarError> {
        let network = Network::new(&parse::parse(text, tokens)?, root)?;
        let known =
            Known { automaton: Automaton::new(network), places: HashMap::new(), next_place: 0, masks: HashMap::new() };
        let shared = Arc::new(Shared { trie: Arc::clone(trie), known: Mutex::new(known) });
        let number = {
            let mut known = shared.lock();
            known.automaton.begin();
            let start = known.automaton.start()?;
            known.add(start)
        };
        Ok(Self { shared, number })
    }

    /// Whether the text may end here.
    pub(super) fn is_complete(&self) -> bool {
        let known = self.shared.lock();
        known.automaton.is_complete(known.state(self.number))
    }

    /// The tokens that may come next, without those that end a generation.
    pub(super) fn allowed(&self) -> Result<Arc<TokenSet>, GrammarError> {
        let mut known = self.shared.lock();
        known.prepare()?;
        let state = known.state(self.number);
        if let Some(mask) = known.masks.get(&state) {
            return Ok(Arc::clone(mask));
        }
        let mask = Arc::new(mask(&mut known.automaton, state, &self.shared.trie)?);
        let bytes = (mask.vocabulary() / 8) as usize + 64;
        if (known.masks.len() + 1) * bytes > MAX_MASKS {
            known.masks.clear();
        }
        known.masks.insert(state, Arc::clone(&mask));
        Ok(mask)
    }

    /// The place after a token that is read as these bytes; `None` if the grammar has none.
    pub(super) fn after(&self, token: u32, bytes: &[u8]) -> Result<Option<Self>, GrammarError> {
        let mut known = self.shared.lock();
        known.prepare()?;
        let state = known.state(self.number);
        let next = known.automaton.after_token(state, token, bytes)?;
        if next == DEAD {
            return Ok(None);
        }
        let number = known.add(next);
        drop(known);
        Ok(Some(Self { shared: Arc::clone(&self.shared), number }))
    }

    /// Whether a text of the grammar goes on from here with these bytes.
    pub(super) fn goes_on_with(&self, bytes: &[u8]) -> Result<bool, GrammarError> {
        let mut known = self.shared.lock();
        known.prepare()?;
        let mut state = known.state(self.number);
        for &byte in bytes {
            state = known.automaton.after_byte(state, byte)?;
        }
        Ok(state != DEAD)
    }

    /// Readings looked at for the last call, and the states known after it.
    #[cfg(test)]
    pub(super) fn cost(&self) -> (u64, usize) {
        let known = self.shared.lock();
        (known.automaton.work(), known.automaton.known())
    }

    /// The beginning of the same grammar, with what is known of it.
    #[cfg(test)]
    pub(super) fn beginning(&self) -> Self {
        let mut known = self.shared.lock();
        let start = known.automaton.start().expect("a beginning that was there before");
        let number = known.add(start);
        drop(known);
        Self { shared: Arc::clone(&self.shared), number }
    }

    /// Allows a call less than what it may cost.
    #[cfg(test)]
    pub(super) fn limit(&self, most_work: u64) {
        self.shared.lock().automaton.limit(most_work);
    }

    /// Thins out what is known.
    #[cfg(test)]
    pub(super) fn thin_out(&self) {
        self.shared.lock().thin_out().expect("room for what was there before");
    }
}

impl Clone for Place {
    fn clone(&self) -> Self {
        let mut known = self.shared.lock();
        let state = known.state(self.number);
        let number = known.add(state);
        drop(known);
        Self { shared: Arc::clone(&self.shared), number }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.lock().places.remove(&self.number);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Known> {
        // Nothing in here panics half way; what is known is only ever added to.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn add(&mut self, state: u32) -> u64 {
        let number = self.next_place;
        self.next_place += 1;
        self.places.insert(number, state);
        number
    }

    fn state(&self, place: u64) -> u32 {
        self.places.get(&place).copied().unwrap_or(DEAD)
    }

    fn prepare(&mut self) -> Result<(), GrammarError> {
        self.automaton.begin();
        if self.automaton.is_crowded() {
            self.thin_out()?;
            self.automaton.begin();
        }
        Ok(())
    }

    fn thin_out(&mut self) -> Result<(), GrammarError> {
        self.masks.clear();
        self.automaton.keep(self.places.values_mut())
    }
}

/// The tokens that have a reading in a state.
fn mask(automaton: &mut Automaton, state: u32, trie: &TokenTrie) -> Result<TokenSet, GrammarError> {
    let mut mask = TokenSet::empty(trie.vocabulary());
    let named: Vec<_> = automaton.tokens(state).collect();
    for (token, negated) in named {
        automaton.spend(1)?;
        if !negated {
            mask.insert(token);
        } else {
            automaton.spend(u64::from(trie.vocabulary()) / 64)?;
            let had = mask.contains(crate::id::Token(token as i32));
            mask.fill();
            if !had {
                mask.remove(token);
            }
        }
    }
    mask.subtract(trie.ends());
    let nodes = trie.nodes();
    let mut states = vec![state; trie.deepest() + 1];
    // Bytes that leave a state as it is, for states where that was seen: most of a vocabulary stays within a string.
    let mut loops: HashMap<u32, ByteSet> = HashMap::new();
    let mut index = 0;
    while let Some(node) = nodes.get(index) {
        let depth = node.depth as usize;
        let next = automaton.after_byte(states[depth], node.byte)?;
        if next == DEAD {
            index = node.end as usize;
            continue;
        }
        if next == states[depth]
            && let Some(below) = trie.below(node)
        {
            let stays = match loops.get(&next) {
                Some(stays) => *stays,
                None => *loops.entry(next).or_insert(automaton.loops(next)?),
            };
            if below.iter().zip(stays).all(|(below, stays)| below & !stays == 0) {
                trie.tokens_from(index).iter().for_each(|&token| mask.insert(token));
                index = node.end as usize;
                continue;
            }
        }
        states[depth + 1] = next;
        for &token in trie.tokens_at(index) {
            mask.insert(token);
        }
        index += 1;
    }
    Ok(mask)
}
