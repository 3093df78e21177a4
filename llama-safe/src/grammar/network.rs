//! The rules of a grammar as a network of steps, repetitions written out, and what is known of it before any text.

use std::collections::HashMap;

use super::characters::Characters;
use super::parse::{Node, Rule, shortened};
use crate::error::GrammarError;

/// The whole text is read.
pub(super) const ACCEPT: u32 = 0;
/// The rule is read.
pub(super) const END: u32 = 1;
/// Steps of a network, and visits to nodes of the tree that make none.
pub(super) const MAX_STEPS: u32 = 1 << 18;

/// What is read next, and the step after it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// The end of the text.
    Accept,
    /// The end of the rule.
    End,
    /// One character: the place before its first byte.
    Set { set: u32, next: u32 },
    /// One token, or any but this.
    Token { token: u32, negated: bool, next: u32 },
    /// A rule.
    Call { rule: u32, next: u32 },
    /// Nothing: both are read.
    Fork(u32, u32),
}

/// A grammar to be walked.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) steps: Vec<Step>,
    pub(super) characters: Characters,
    /// The first step of each rule.
    pub(super) starts: Vec<u32>,
    /// Whether the rule may be the empty text.
    pub(super) nullable: Vec<bool>,
    /// Place of each rule in an order in which those that a rule begins with come after it.
    pub(super) ranks: Vec<u32>,
    pub(super) root: u32,
}

impl Network {
    /// The network of these rules, beginning with the one named `root`.
    pub(super) fn new(rules: &[Rule], root: &str) -> Result<Self, GrammarError> {
        let Some(index) = rules.iter().position(|rule| rule.name == root) else {
            return Err(no_root(rules, root));
        };
        let mut writer = Writer {
            steps: vec![Step::Accept, Step::End],
            characters: Characters::new(),
            sets: HashMap::new(),
            left: MAX_STEPS,
        };
        let mut starts = Vec::with_capacity(rules.len());
        for rule in rules {
            let start = writer.write(&rule.body, END).ok_or_else(|| GrammarError::TooLarge {
                rule: shortened(&rule.name),
                line: rule.line,
                limit: MAX_STEPS,
            })?;
            starts.push(start);
        }
        let Writer { steps, characters, .. } = writer;
        let finite = reaches_end(&steps, &starts, true);
        if let Some((rule, _)) = rules.iter().zip(&finite).find(|(_, finite)| !**finite) {
            return Err(GrammarError::EndlessRule { rule: shortened(&rule.name), line: rule.line });
        }
        let nullable = reaches_end(&steps, &starts, false);
        let ranks = ranks(&steps, &starts, &nullable).map_err(|circle| left_recursion(rules, &circle))?;
        Ok(Self { steps, characters, starts, nullable, ranks, root: index as u32 })
    }
}

fn no_root(rules: &[Rule], root: &str) -> GrammarError {
    let mut names: Vec<_> = rules.iter().take(8).map(|rule| shortened(&rule.name)).collect();
    match rules.len() {
        0 => names.push("none".to_owned()),
        1..=8 => {}
        _ => names.push("…".to_owned()),
    }
    GrammarError::NoRoot { root: shortened(root), rules: names.join(", ") }
}

fn left_recursion(rules: &[Rule], circle: &[u32]) -> GrammarError {
    let name = |rule: &u32| shortened(&rules[*rule as usize].name);
    let mut path: Vec<_> = circle.iter().take(8).map(name).collect();
    if circle.len() > 8 {
        path.push("…".to_owned());
    }
    path.extend(circle.first().map(name));
    let first = &rules[circle.first().map_or(0, |rule| *rule as usize)];
    GrammarError::LeftRecursion { rule: shortened(&first.name), line: first.line, path: path.join(" → ") }
}

struct Writer {
    steps: Vec<Step>,
    characters: Characters,
    sets: HashMap<Box<[(char, char)]>, u32>,
    left: u32,
}

impl Writer {
    fn push(&mut self, step: Step) -> u32 {
        self.steps.push(step);
        self.steps.len() as u32 - 1
    }

    /// Writes steps that lead through `node` to `next`, and gives the first; `None` when there is no room for them.
    /// Recursion is as deep as the tree, which the parser bounds.
    fn write(&mut self, node: &Node, next: u32) -> Option<u32> {
        self.left = self.left.checked_sub(1)?;
        Some(match node {
            Node::Set(ranges) => {
                let characters = &mut self.characters;
                let set = match self.sets.get(ranges.as_slice()) {
                    Some(&set) => set,
                    None => {
                        let set = characters.set(ranges);
                        self.sets.insert(ranges.as_slice().into(), set);
                        set
                    }
                };
                self.push(Step::Set { set, next })
            }
            &Node::Token { token, negated } => self.push(Step::Token { token, negated, next }),
            &Node::Rule(rule) => self.push(Step::Call { rule, next }),
            Node::Sequence(nodes) => {
                let mut first = next;
                for node in nodes.iter().rev() {
                    first = self.write(node, first)?;
                }
                first
            }
            Node::Alternatives(nodes) => {
                let mut first = None;
                for node in nodes.iter().rev() {
                    let way = self.write(node, next)?;
                    first = Some(first.map_or(way, |others| self.push(Step::Fork(way, others))));
                }
                first.unwrap_or(next)
            }
            Node::Repeat { node, min, max } => {
                let mut first = next;
                let mut again = *min;
                match max {
                    None => {
                        let fork = self.push(Step::Fork(next, next));
                        let body = self.write(node, fork)?;
                        self.steps[fork as usize] = Step::Fork(body, next);
                        first = fork;
                        if again > 0 {
                            (first, again) = (body, again - 1);
                        }
                    }
                    Some(max) => {
                        for _ in *min..*max {
                            let body = self.write(node, first)?;
                            first = self.push(Step::Fork(body, next));
                        }
                    }
                }
                for _ in 0..again {
                    first = self.write(node, first)?;
                }
                first
            }
        })
    }
}

/// For each rule, whether its end can be reached: over characters and tokens, or over none.
fn reaches_end(steps: &[Step], starts: &[u32], over_text: bool) -> Vec<bool> {
    // Steps to be looked at again when a step is found to reach the end, and when a rule is.
    let mut before: Vec<Vec<u32>> = vec![Vec::new(); steps.len()];
    let mut callers: Vec<Vec<u32>> = vec![Vec::new(); starts.len()];
    let mut rules_at: HashMap<u32, Vec<u32>> = HashMap::new();
    for (at, step) in steps.iter().enumerate() {
        let at = at as u32;
        match *step {
            Step::Accept | Step::End => {}
            Step::Set { next, .. } | Step::Token { next, .. } => {
                if over_text {
                    before[next as usize].push(at);
                }
            }
            Step::Call { rule, next } => {
                before[next as usize].push(at);
                callers[rule as usize].push(at);
            }
            Step::Fork(a, b) => {
                before[a as usize].push(at);
                before[b as usize].push(at);
            }
        }
    }
    for (rule, start) in starts.iter().enumerate() {
        rules_at.entry(*start).or_default().push(rule as u32);
    }
    let mut reaches = vec![false; steps.len()];
    let mut rules = vec![false; starts.len()];
    reaches[END as usize] = true;
    let mut todo = vec![END];
    while let Some(at) = todo.pop() {
        let mut look: Vec<u32> = std::mem::take(&mut before[at as usize]);
        for &rule in rules_at.get(&at).into_iter().flatten() {
            rules[rule as usize] = true;
            look.append(&mut callers[rule as usize]);
        }
        for step in look {
            let holds = match steps[step as usize] {
                Step::Call { rule, next } => rules[rule as usize] && reaches[next as usize],
                _ => true,
            };
            if holds && !std::mem::replace(&mut reaches[step as usize], true) {
                todo.push(step);
            }
        }
    }
    rules
}

/// The rules that each begins with, and the steps read before any text of each.
fn begins_with(steps: &[Step], start: u32, nullable: &[bool], seen: &mut [bool]) -> Vec<u32> {
    let mut rules = Vec::new();
    let mut todo = vec![start];
    while let Some(at) = todo.pop() {
        if at == END || std::mem::replace(&mut seen[at as usize], true) {
            continue;
        }
        match steps[at as usize] {
            Step::Fork(a, b) => todo.extend([a, b]),
            Step::Call { rule, next } => {
                rules.push(rule);
                if nullable[rule as usize] {
                    todo.push(next);
                }
            }
            Step::Accept | Step::End | Step::Set { .. } | Step::Token { .. } => {}
        }
    }
    rules
}

/// An order in which each rule comes before those that it begins with, as the place of each; or rules in a circle.
fn ranks(steps: &[Step], starts: &[u32], nullable: &[bool]) -> Result<Vec<u32>, Vec<u32>> {
    // Rules share no steps but the end, so that one list serves all.
    let mut seen = vec![false; steps.len()];
    let first: Vec<Vec<u32>> = starts.iter().map(|start| begins_with(steps, *start, nullable, &mut seen)).collect();
    const UNKNOWN: u32 = u32::MAX;
    const OPEN: u32 = u32::MAX - 1;
    let mut ranks = vec![UNKNOWN; starts.len()];
    // Places are given from the last, when all that a rule begins with has one.
    let mut place = starts.len() as u32;
    for rule in 0..starts.len() as u32 {
        if ranks[rule as usize] != UNKNOWN {
            continue;
        }
        ranks[rule as usize] = OPEN;
        let mut path = vec![(rule, 0)];
        while let Some((rule, looked_at)) = path.last_mut() {
            match first[*rule as usize].get(*looked_at) {
                None => {
                    place -= 1;
                    ranks[*rule as usize] = place;
                    path.pop();
                }
                Some(&next) => {
                    *looked_at += 1;
                    match ranks[next as usize] {
                        UNKNOWN => {
                            ranks[next as usize] = OPEN;
                            path.push((next, 0));
                        }
                        OPEN => {
                            return Err(path.iter().map(|(rule, _)| *rule).skip_while(|rule| *rule != next).collect());
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    Ok(ranks)
}
