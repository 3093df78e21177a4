//! All readings of a text at once, as states that are found once and kept.
//!
//! A state is a set of readings: the step that a reading waits at, how far it is within a character, and its stack. Stacks
//! are graphs (Tomita 1985, "Efficient Parsing for Natural Language"): an entry holds all the places that a rule returns
//! to, each on its own entry below, so that readings of a rule that were begun at one place are one. Equal entries, and
//! equal states, are one; a step from a state over a class of bytes is computed once. An entry holds only entries made
//! before it, which is so because no rule begins with itself.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::characters::{NOWHERE, WHOLE};
use super::network::{ACCEPT, END, Network, Step};
use crate::error::GrammarError;
use crate::token_trie::ByteSet;

/// The state that has no reading.
pub(super) const DEAD: u32 = 0;
/// The entry below all others: what the root returns to.
const BOTTOM: u32 = 0;
const UNKNOWN: u32 = u32::MAX;

/// Readings and places to return to, of all states and stacks: of 12 and 8 bytes, about twice that with the indices.
const MAX_STORED: usize = 1 << 21;
/// Known steps between states, of 4 bytes.
const MAX_EDGES: usize = 1 << 23;
/// Readings looked at for one call.
const MAX_WORK: u64 = 1 << 22;

/// A reading of the text so far.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
struct Reading {
    /// The step it waits at.
    at: u32,
    /// The place within the character of that step.
    within: u32,
    stack: u32,
}

/// Where a rule returns to, and the stack there.
type Return = (u32, u32);

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct State {
    readings: Box<[Reading]>,
    /// Whether the text may end here.
    complete: bool,
}

/// The states of a grammar that were needed so far.
#[derive(Debug)]
pub(super) struct Automaton {
    network: Network,
    classes: [u8; 256],
    class_count: usize,
    stacks: Vec<Box<[Return]>>,
    stack_index: HashMap<Box<[Return]>, u32>,
    states: Vec<State>,
    state_index: HashMap<State, u32>,
    /// For each state and class of bytes the state after it, or `UNKNOWN`.
    edges: Vec<u32>,
    stored: usize,
    /// Readings looked at since the call began.
    work: u64,
    most_work: u64,
}

impl Automaton {
    pub(super) fn new(network: Network) -> Self {
        let (classes, class_count) = network.characters.classes();
        let mut automaton = Self {
            network,
            classes,
            class_count,
            stacks: vec![],
            stack_index: HashMap::new(),
            states: vec![],
            state_index: HashMap::new(),
            edges: vec![],
            stored: 0,
            work: 0,
            most_work: MAX_WORK,
        };
        automaton.clear();
        automaton
    }

    /// Forgets all states and stacks but those that every grammar has.
    fn clear(&mut self) {
        let bottom: Box<[Return]> = Box::new([(ACCEPT, BOTTOM)]);
        let dead = State { readings: Box::new([]), complete: false };
        self.stack_index = HashMap::from([(bottom.clone(), BOTTOM)]);
        self.stacks = vec![bottom];
        self.state_index = HashMap::from([(dead.clone(), DEAD)]);
        self.states = vec![dead];
        self.edges = vec![DEAD; self.class_count];
        self.stored = 0;
    }

    /// Begins a call: what it may cost is counted from here.
    pub(super) fn begin(&mut self) {
        self.work = 0;
    }

    /// Readings looked at since `begin`.
    #[cfg(test)]
    pub(super) fn work(&self) -> u64 {
        self.work
    }

    /// Counts what a call does besides looking at readings.
    pub(super) fn spend(&mut self, work: u64) -> Result<(), GrammarError> {
        self.work += work;
        if self.work > self.most_work {
            return Err(GrammarError::TooComplex { limit: self.most_work, unit: "steps for a token" });
        }
        Ok(())
    }

    /// Whether so much is stored that it should be thinned out before a call.
    pub(super) fn is_crowded(&self) -> bool {
        self.stored > MAX_STORED / 2 || self.edges.len() > MAX_EDGES / 2
    }

    /// Allows a call less than what it may cost.
    #[cfg(test)]
    pub(super) fn limit(&mut self, most_work: u64) {
        self.most_work = most_work;
    }

    /// States that are known.
    #[cfg(test)]
    pub(super) fn known(&self) -> usize {
        self.states.len()
    }

    /// The state before any text.
    pub(super) fn start(&mut self) -> Result<u32, GrammarError> {
        let root = self.network.starts[self.network.root as usize];
        self.close(vec![(root, BOTTOM)], vec![], false)
    }

    /// Whether the text may end in this state.
    pub(super) fn is_complete(&self, state: u32) -> bool {
        self.states[state as usize].complete
    }

    /// The state after a byte.
    #[inline]
    pub(super) fn after_byte(&mut self, state: u32, byte: u8) -> Result<u32, GrammarError> {
        let edge = state as usize * self.class_count + usize::from(self.classes[byte as usize]);
        match self.edges[edge] {
            UNKNOWN => {
                let next = self.read_byte(state, byte)?;
                self.edges[edge] = next;
                Ok(next)
            }
            known => Ok(known),
        }
    }

    /// The bytes that leave a state as it is.
    pub(super) fn loops(&mut self, state: u32) -> Result<ByteSet, GrammarError> {
        let mut bytes = [0; 4];
        for byte in 0..=255u8 {
            if self.after_byte(state, byte)? == state {
                bytes[usize::from(byte) / 64] |= 1 << (byte % 64);
            }
        }
        Ok(bytes)
    }

    fn read_byte(&mut self, state: u32, byte: u8) -> Result<u32, GrammarError> {
        self.spend(self.states[state as usize].readings.len() as u64)?;
        let (mut moved, mut waiting) = (Vec::new(), Vec::new());
        for reading in &self.states[state as usize].readings {
            for edge in self.network.characters.edges(reading.within) {
                if edge.low <= byte && byte <= edge.high {
                    if edge.to != WHOLE {
                        waiting.push(Reading { within: edge.to, ..*reading });
                    } else if let Step::Set { next, .. } = self.network.steps[reading.at as usize] {
                        moved.push((next, reading.stack));
                    }
                }
            }
        }
        self.close(moved, waiting, false)
    }

    /// What readings of this state say of whole tokens: the token, or all but it.
    pub(super) fn tokens(&self, state: u32) -> impl Iterator<Item = (u32, bool)> + '_ {
        self.states[state as usize].readings.iter().filter_map(|reading| {
            match self.network.steps[reading.at as usize] {
                Step::Token { token, negated, .. } => Some((token, negated)),
                _ => None,
            }
        })
    }

    /// The state after a token of these bytes: those that read the bytes, and those that read the token.
    pub(super) fn after_token(&mut self, state: u32, token: u32, bytes: &[u8]) -> Result<u32, GrammarError> {
        let mut read = if bytes.is_empty() { DEAD } else { state };
        for &byte in bytes {
            read = self.after_byte(read, byte)?;
        }
        let moved: Vec<Return> = self.states[state as usize]
            .readings
            .iter()
            .filter_map(|reading| match self.network.steps[reading.at as usize] {
                Step::Token { token: named, negated, next } if (named == token) != negated => {
                    Some((next, reading.stack))
                }
                _ => None,
            })
            .collect();
        if moved.is_empty() {
            return Ok(read);
        }
        let State { readings, complete } = self.states[read as usize].clone();
        self.close(moved, readings.into_vec(), complete)
    }

    /// The state of all readings that go on from these steps, each with its stack, and of those that wait already.
    fn close(&mut self, moved: Vec<Return>, waiting: Vec<Reading>, complete: bool) -> Result<u32, GrammarError> {
        let mut closure =
            Closure { todo: moved, seen: HashSet::new(), calls: BTreeMap::new(), readings: waiting, complete };
        self.follow(&mut closure, true)?;
        // All calls of a rule are known when its turn comes: those it begins with come after it.
        while let Some((_, (rule, returns))) = closure.calls.pop_first() {
            let stack = self.stack(returns)?;
            closure.todo.push((self.network.starts[rule as usize], stack));
            self.follow(&mut closure, false)?;
        }
        let Closure { mut readings, complete, .. } = closure;
        readings.sort_unstable();
        readings.dedup();
        self.state(State { readings: readings.into(), complete })
    }

    /// Follows steps that read nothing. At the end of a rule, `returning` goes on where it was called: not so for one that
    /// was called just now, for which its caller has gone on already, if the rule may be empty.
    fn follow(&mut self, closure: &mut Closure, returning: bool) -> Result<(), GrammarError> {
        while let Some((at, stack)) = closure.todo.pop() {
            if !closure.seen.insert((at, stack)) {
                continue;
            }
            self.spend(1)?;
            match self.network.steps[at as usize] {
                Step::Accept => closure.complete = true,
                Step::End if returning => closure.todo.extend_from_slice(&self.stacks[stack as usize]),
                Step::End => {}
                Step::Set { set, .. } => closure.readings.push(Reading { at, within: set, stack }),
                Step::Token { .. } => closure.readings.push(Reading { at, within: NOWHERE, stack }),
                Step::Fork(a, b) => closure.todo.extend([a, b].map(|at| (at, stack))),
                Step::Call { rule, next } => {
                    let rank = self.network.ranks[rule as usize];
                    closure.calls.entry(rank).or_insert((rule, vec![])).1.push((next, stack));
                    if self.network.nullable[rule as usize] {
                        closure.todo.push((next, stack));
                    }
                }
            }
        }
        Ok(())
    }

    /// The stack entry of these places to return to. A call at the end of a rule returns to where that rule does: a rule
    /// that ends with itself needs no stack.
    fn stack(&mut self, returns: Vec<Return>) -> Result<u32, GrammarError> {
        let mut all = Vec::with_capacity(returns.len());
        for (next, below) in returns {
            if next == END {
                all.extend_from_slice(&self.stacks[below as usize]);
            } else {
                all.push((next, below));
            }
        }
        self.spend(all.len() as u64)?;
        all.sort_unstable();
        all.dedup();
        let all: Box<[Return]> = all.into();
        if let Some(&known) = self.stack_index.get(&all) {
            return Ok(known);
        }
        self.store(all.len())?;
        let next = self.stacks.len() as u32;
        self.stacks.push(all.clone());
        self.stack_index.insert(all, next);
        Ok(next)
    }

    fn state(&mut self, state: State) -> Result<u32, GrammarError> {
        if let Some(&known) = self.state_index.get(&state) {
            return Ok(known);
        }
        self.store(state.readings.len())?;
        if self.edges.len() + self.class_count > MAX_EDGES {
            return Err(GrammarError::TooComplex { limit: MAX_EDGES as u64, unit: "steps between states" });
        }
        let next = self.states.len() as u32;
        self.states.push(state.clone());
        self.state_index.insert(state, next);
        self.edges.resize(self.edges.len() + self.class_count, UNKNOWN);
        Ok(next)
    }

    fn store(&mut self, more: usize) -> Result<(), GrammarError> {
        // One more for what an empty one costs.
        self.stored += more + 1;
        if self.stored > MAX_STORED {
            return Err(GrammarError::TooComplex { limit: MAX_STORED as u64, unit: "readings" });
        }
        Ok(())
    }

    /// Forgets all states but these and the stacks below them, whose numbers change. There is room for what had room.
    pub(super) fn keep<'states>(&mut self, states: impl Iterator<Item = &'states mut u32>) -> Result<(), GrammarError> {
        self.begin();
        let old_states = std::mem::take(&mut self.states);
        let old_stacks = std::mem::take(&mut self.stacks);
        self.clear();
        let states: Vec<&mut u32> = states.collect();
        let mut needed = vec![false; old_stacks.len()];
        for state in &states {
            for reading in &old_states[**state as usize].readings {
                needed[reading.stack as usize] = true;
            }
        }
        // An entry holds only entries before it.
        for stack in (0..old_stacks.len()).rev() {
            if needed[stack] {
                old_stacks[stack].iter().for_each(|(_, below)| needed[*below as usize] = true);
            }
        }
        let mut renamed = vec![BOTTOM; old_stacks.len()];
        for (stack, returns) in old_stacks.iter().enumerate().skip(1) {
            if needed[stack] {
                renamed[stack] =
                    self.stack(returns.iter().map(|(at, below)| (*at, renamed[*below as usize])).collect())?;
            }
        }
        for state in states {
            let old = &old_states[*state as usize];
            let rename = |reading: &Reading| Reading { stack: renamed[reading.stack as usize], ..*reading };
            let mut readings: Vec<Reading> = old.readings.iter().map(rename).collect();
            readings.sort_unstable();
            *state = self.state(State { readings: readings.into(), complete: old.complete })?;
        }
        Ok(())
    }
}

/// What is found on the way to a state.
struct Closure {
    /// Steps to be looked at, each with its stack.
    todo: Vec<Return>,
    seen: HashSet<Return>,
    /// Rules that are called, by rank, with the places to return to.
    calls: BTreeMap<u32, (u32, Vec<Return>)>,
    readings: Vec<Reading>,
    complete: bool,
}
