//! The engine without its thread: requests in, steps, answers out.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use crate::id::Token;

use super::cells::Cells;
use super::fallback::FallbackPolicy;
use super::job::{Ending, Job, Task, Voice};
use super::lookup::Lookup;
use super::machine::{Facts, Machine};
use super::plan::{self, Line, Room};
use super::prefix::{HolderId, PrefixTree};
use super::running::Running;
use super::stats::Stats;
use super::waiting::Waiting;
use super::width::StepCosts;

/// What an engine was told.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// Sequences that run at a time.
    pub sequences: u32,
    /// As many where more wait and that is faster.
    pub most_sequences: u32,
    /// Tokens of prompts in a step in which others decode.
    pub chunk: u32,
    /// Tokens of one prompt in a step.
    pub line_chunk: u32,
    /// Whether each sequence has a batch to itself.
    pub one_by_one: bool,
    pub policy: FallbackPolicy,
    /// Tokens that two texts must have in common for one to take them from the other; `None` to take none.
    pub share: Option<u32>,
    /// Bytes of prefixes and paused sequences that are kept outside of the context.
    pub spill_bytes: usize,
    pub costs: Option<StepCosts>,
    /// The most tokens that are guessed; 0 guesses none.
    pub draft: u32,
}

/// A sequence whose request is over, kept for what others may have in common with it.
pub(crate) struct Cached<S> {
    pub seat: S,
    pub length: u32,
    pub used: u64,
}

/// The same outside of the context.
pub(crate) struct Spilled<C> {
    pub saved: C,
    pub length: u32,
    pub used: u64,
}

pub(crate) type JobOf<M, V> = Job<<M as Machine>::Sequence, <M as Machine>::Saved, V>;

pub(crate) struct Core<M: Machine, V: Voice> {
    pub(super) machine: M,
    pub(super) facts: Facts,
    pub(super) rules: Rules,
    pub(super) waiting: Waiting<M::Sequence, M::Saved, V>,
    deadlines: BTreeSet<(Instant, HolderId)>,
    pub(super) running: Running<M::Sequence, M::Saved, V>,
    pub(super) cached: BTreeMap<HolderId, Cached<M::Sequence>>,
    pub(super) spilled: BTreeMap<HolderId, Spilled<M::Saved>>,
    /// Bytes of `spilled`, and of what waiting requests have saved.
    pub(super) spilled_bytes: usize,
    /// The texts of all that is in memory, or will be, of running requests and cached sequences.
    pub(super) tree: PrefixTree,
    pub(super) cells: Option<Cells>,
    /// Whose tokens memory has had since it was last emptied.
    pub(super) touched: Touched,
    /// Groups whose turn is still to come in this round.
    turns: VecDeque<BTreeSet<HolderId>>,
    pub(super) step: u64,
    /// What it has done; how things stand is filled in when somebody asks.
    pub(super) counts: Stats,
}

/// Whose tokens were in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Touched {
    Nobodys,
    Ones(HolderId),
    /// Those of several, or such that were brought back.
    Several,
}

impl Touched {
    /// With those of one more.
    pub(super) fn and(self, holder: HolderId) -> Self {
        if self == Self::Nobodys || self == Self::Ones(holder) { Self::Ones(holder) } else { Self::Several }
    }
}

/// What one request has computed in a step.
#[derive(Clone, Debug)]
pub(super) struct Share {
    pub holder: HolderId,
    /// Tokens in memory before.
    pub start: u32,
    pub tokens: u32,
    pub draft: Vec<Token>,
}

impl<M: Machine, V: Voice> Core<M, V> {
    pub(crate) fn new(machine: M, rules: Rules) -> Self {
        let facts = machine.facts();
        Self {
            machine,
            facts,
            rules,
            waiting: Waiting::new(),
            deadlines: BTreeSet::new(),
            running: Running::new(),
            cached: BTreeMap::new(),
            spilled: BTreeMap::new(),
            spilled_bytes: 0,
            tree: PrefixTree::new(),
            cells: facts.shared_cells.map(Cells::new),
            touched: Touched::Nobodys,
            turns: VecDeque::new(),
            step: 0,
            counts: Stats::default(),
        }
    }

    /// Takes a request, whose prompt has 1 to [`Facts::sequence_tokens`] tokens of the vocabulary.
    ///
    /// `holder` is the number of requests before it.
    pub(crate) fn submit(&mut self, holder: HolderId, task: Task<V>) {
        let order = plan::order(holder.0, task.priority);
        let lookup = (self.rules.draft > 0 && self.facts.cuts).then(|| {
            let mut lookup = Lookup::new();
            lookup.extend(&task.prompt);
            lookup
        });
        self.counts.submitted += 1;
        self.wait(Job {
            holder,
            order,
            deadline: task.deadline,
            keep: task.keep,
            voice: task.voice,
            text: task.prompt,
            seat: None,
            computed: 0,
            saved: None,
            spoke: false,
            shifted: false,
            served: 0,
            stop: None,
            suspect: false,
            accused: false,
            failures: 0,
            lookup,
        });
    }

    /// Ends a request, wherever it is. Nothing happens if it has ended.
    pub(crate) fn cancel(&mut self, holder: HolderId) {
        self.end_any(holder, Ending::Cancelled);
    }

    /// Ends all requests.
    pub(crate) fn cancel_all(&mut self) {
        let mut all = self.waiting.holders();
        all.extend(self.running.iter().map(|job| job.holder));
        all.into_iter().for_each(|holder| self.cancel(holder));
    }

    /// Has every request that there is go on to its end, however far its listener is behind.
    pub(crate) fn listen_to_nobody(&mut self) {
        self.waiting.speak_on();
        self.running.iter_mut().for_each(|job| job.voice.speak_on());
    }

    /// A request's listener has read something.
    pub(crate) fn heard(&mut self, holder: HolderId) {
        self.waiting.heard(holder);
    }

    /// What it does, and has done.
    pub(crate) fn stats(&self) -> Stats {
        let held = || {
            let running: u64 = self.running.iter().map(|job| u64::from(job.computed)).sum();
            running + self.cached.values().map(|cached| u64::from(cached.length)).sum::<u64>()
        };
        let all = u64::from(self.facts.sequence_tokens) * u64::from(self.facts.sequences);
        Stats {
            queued: self.waiting.len(),
            running: self.running.len(),
            cached: self.cached.len(),
            kv_used: self.cells.as_ref().map_or_else(held, |cells| cells.used().into()),
            kv_cells: self.facts.shared_cells.map_or(all, u64::from),
            spilled_bytes: self.spilled_bytes as u64,
            ..self.counts
        }
    }

    /// Whether there is a request that has not ended.
    pub(crate) fn is_busy(&self) -> bool {
        !self.running.is_empty() || !self.waiting.is_empty()
    }

    /// When the next request ends because its time is over.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Computes one batch. False if there was nothing to compute: all requests have ended, or their listeners are behind.
    pub(crate) fn step(&mut self, now: Instant) -> bool {
        self.step += 1;
        self.end_unwanted(now);
        self.admit();
        let shares = self.plan();
        if shares.is_empty() {
            return false;
        }
        self.counts.steps += 1;
        self.run(shares);
        true
    }

    /// Strikes a holder out of the books: its text, and its cells.
    pub(super) fn strike(&mut self, holder: HolderId) {
        self.tree.remove(holder);
        if let Some(cells) = &mut self.cells {
            cells.remove(holder);
        }
    }

    pub(super) fn wait(&mut self, job: JobOf<M, V>) {
        if let Some(deadline) = job.deadline {
            self.deadlines.insert((deadline, job.holder));
        }
        self.waiting.push(job);
    }

    fn end_unwanted(&mut self, now: Instant) {
        while let Some((deadline, holder)) = self.deadlines.first().copied().filter(|(deadline, _)| *deadline <= now) {
            self.deadlines.remove(&(deadline, holder));
            self.end_any(holder, Ending::Deadline);
        }
        let gone: Vec<HolderId> = self.running.iter().filter(|job| job.voice.is_gone()).map(|job| job.holder).collect();
        gone.into_iter().for_each(|holder| self.cancel(holder));
    }

    fn end_any(&mut self, holder: HolderId, ending: Ending<V::Reason>) {
        if let Some(job) = self.waiting.take(holder) {
            self.finish(job, ending);
        } else if let Some(place) = self.running.place(holder) {
            self.end(place, ending);
        }
    }

    /// Ends a running request. Its sequence is kept for others, if it may be of use.
    pub(super) fn end(&mut self, place: usize, ending: Ending<V::Reason>) {
        let mut job = self.running.take(place);
        if let Some(seat) = job.seat.take() {
            self.keep(&job, seat);
        }
        self.finish(job, ending);
    }

    /// The last that is done for a request that has no sequence any more.
    pub(super) fn finish(&mut self, mut job: JobOf<M, V>, ending: Ending<V::Reason>) {
        if let Some(deadline) = job.deadline {
            self.deadlines.remove(&(deadline, job.holder));
        }
        if let Some((saved, _)) = job.saved.take() {
            self.spilled_bytes -= M::bytes(&saved);
        }
        match &ending {
            Ending::Over(_) | Ending::ContextFull => self.counts.completed += 1,
            Ending::Cancelled | Ending::Deadline => self.counts.cancelled += 1,
            Ending::Failed(_) => self.counts.failed += 1,
        }
        job.voice.end(ending);
    }

    /// What the next step computes. Makes room for it.
    fn plan(&mut self) -> Vec<Share> {
        if let Some(share) = self.suspect() {
            return vec![share];
        }
        let (mut turn, mut prompts) = self.turn();
        loop {
            let mut shares = self.shares(&turn, prompts);
            let free = self.cells.as_ref().map_or(u32::MAX, Cells::free);
            if rows(&shares) > free {
                // A guess is worth nobody's memory.
                shares.iter_mut().for_each(|share| share.draft.clear());
            }
            if rows(&shares) > free && (self.evict(None) || self.preempt_last()) {
                continue;
            }
            // Whose turn it was may have made room for others.
            if !shares.is_empty() || turn.is_empty() {
                return shares;
            }
            (turn, prompts) = self.turn();
        }
    }

    /// A request that has to be computed by itself.
    fn suspect(&mut self) -> Option<Share> {
        let suspects = self.running.iter().filter(|job| job.suspect && !job.voice.is_full());
        let job = suspects.min_by_key(|job| (!job.accused, job.order))?;
        let tokens = job.rest().min(self.facts.rows).min(self.rules.line_chunk);
        Some(Share { holder: job.holder, start: job.computed, tokens, draft: Vec::new() })
    }

    /// The group whose turn it is, and whether prompts have a part in its step: once a round, so that nobody waits for more
    /// than one chunk between two tokens.
    fn turn(&mut self) -> (BTreeSet<HolderId>, bool) {
        let is_able = |job: &&JobOf<M, V>| job.decodes() && !job.voice.is_full();
        while let Some(group) = self.turns.pop_front() {
            let able: BTreeSet<HolderId> = self
                .running
                .iter()
                .filter(is_able)
                .map(|job| job.holder)
                .filter(|holder| group.contains(holder))
                .collect();
            if !able.is_empty() {
                return (able, false);
            }
        }
        let decoding: Vec<&JobOf<M, V>> = self.running.iter().filter(is_able).collect();
        let served: Vec<u64> = decoding.iter().map(|job| job.served).collect();
        let running = served.len() as u32;
        let sizes = self.rules.costs.as_ref().map_or_else(|| vec![running], |costs| costs.groups(running));
        let groups = plan::turns(&served, &sizes);
        let named = groups.into_iter().map(|group| group.into_iter().map(|line| decoding[line].holder).collect());
        self.turns = named.collect();
        (self.turns.pop_front().unwrap_or_default(), true)
    }

    fn shares(&self, turn: &BTreeSet<HolderId>, prompts: bool) -> Vec<Share> {
        let able: Vec<&JobOf<M, V>> = self.running.iter().filter(|job| !job.voice.is_full()).collect();
        let drafts: Vec<Vec<_>> = able
            .iter()
            .map(|job| if turn.contains(&job.holder) { self.draft(job, turn.len() as u32) } else { Vec::new() })
            .collect();
        let lines: Vec<Line> = able
            .iter()
            .zip(&drafts)
            .map(|(job, draft)| Line {
                rest: job.rest(),
                decodes: job.decodes(),
                draft: draft.len() as u32,
                stop: job.stop.map_or(job.rest(), |stop| stop.saturating_sub(job.computed)),
                in_turn: turn.contains(&job.holder),
                order: job.order,
            })
            .collect();
        let room = Room {
            rows: self.facts.rows,
            chunk: self.rules.chunk,
            line_chunk: self.rules.line_chunk,
            prompts: prompts || turn.is_empty(),
        };
        let share = |part: plan::Part| Share {
            holder: able[part.line].holder,
            start: able[part.line].computed,
            tokens: part.tokens,
            draft: drafts[part.line][..part.draft as usize].to_vec(),
        };
        plan::plan(&lines, room).into_iter().map(share).collect()
    }

    /// What a request may say next, in a step of so many that decode.
    fn draft(&self, job: &JobOf<M, V>, width: u32) -> Vec<Token> {
        let Some(lookup) = &job.lookup else { return Vec::new() };
        let room = self.facts.sequence_tokens.saturating_sub(job.text.len() as u32);
        let most = self.rules.draft.min(room);
        // In tokens of the whole step: what the others would have said in the time that the guesses take.
        let step = |rows: u32| match &self.rules.costs {
            Some(costs) => costs.of(rows).as_secs_f64(),
            None => 1.0 + UNMEASURED * f64::from(rows),
        };
        let width = width.max(1);
        let rate = f64::from(width) / step(width);
        let cost = |rows: u32| 1.0 + rate * (step(width - 1 + rows) - step(width));
        let most = lookup.length_that_pays(cost, most);
        lookup.draft(&job.text, most).to_vec()
    }
}

/// Rows of a batch.
fn rows(shares: &[Share]) -> u32 {
    shares.iter().map(|share| share.tokens + share.draft.len() as u32).sum()
}

/// What a row costs beside the step itself, where that was not measured.
const UNMEASURED: f64 = 0.1;
