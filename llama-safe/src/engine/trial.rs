//! Computing what was planned, and what is done where that fails.
#![forbid(unsafe_code)]

use std::time::Instant;

use crate::error::{DecodeError, GenerateError};
use crate::log;

use super::core::{Core, Share, Touched};
use super::fallback::{Cause, Remedy, Situation, remedy};
use super::job::{Ending, Voice};
use super::machine::{Machine, Rows};

/// Why a batch did not give what it should.
enum Failure {
    /// What it was to add to memory is not there.
    NotComputed(GenerateError),
    /// It is, but its numbers cannot be used.
    Unreadable(GenerateError),
}

impl<M: Machine, V: Voice> Core<M, V> {
    /// Computes these in as few batches as may and can be, one if nothing fails.
    pub(super) fn run(&mut self, shares: Vec<Share>) {
        let size = if self.rules.one_by_one { 1 } else { shares.len() };
        let mut work: Vec<Vec<Share>> = shares.chunks(size).rev().map(<[Share]>::to_vec).collect();
        while let Some(mut shares) = work.pop() {
            // Some may have ended, or lost their memory, with what came before.
            shares.retain(|share| self.is_current(share));
            if shares.is_empty() {
                continue;
            }
            match self.compute(&shares) {
                Ok(()) => self.commit(&shares),
                Err(failure) => {
                    for shares in self.recover(shares, failure).into_iter().rev() {
                        work.push(shares);
                    }
                }
            }
        }
    }

    fn is_current(&self, share: &Share) -> bool {
        self.running.place(share.holder).is_some_and(|place| self.running[place].computed == share.start)
    }

    fn compute(&mut self, shares: &[Share]) -> Result<(), Failure> {
        let mut rows = Vec::with_capacity(shares.len());
        for share in shares {
            let Some(job) = self.running.place(share.holder).map(|place| &self.running[place]) else { continue };
            let Some(sequence) = &job.seat else { continue };
            let (start, end) = (share.start as usize, (share.start + share.tokens) as usize);
            let output = end == job.text.len();
            rows.push(Rows { sequence, tokens: &job.text[start..end], draft: &share.draft, output });
        }
        let outputs: Vec<usize> = rows.iter().map(|rows| if rows.output { 1 + rows.draft.len() } else { 0 }).collect();
        let begun = Instant::now();
        let decoded = self.machine.decode(&rows);
        self.counts.computing += begun.elapsed();
        decoded.map_err(Failure::NotComputed)?;
        self.touched = shares.iter().fold(self.touched, |touched, share| touched.and(share.holder));
        // Numbers that are none reach whoever shares cells with them: they count as a failure of the whole batch, so that
        // the one that they are of is found.
        for (place, outputs) in outputs.into_iter().enumerate() {
            for row in 0..outputs {
                self.machine.logits(place, row).map_err(Failure::Unreadable)?;
            }
        }
        Ok(())
    }

    /// Takes what was computed into account, and has each request with an output say its next token.
    fn commit(&mut self, shares: &[Share]) {
        let alone = shares.len() == 1;
        self.counts.rows += shares.iter().map(|share| u64::from(share.tokens) + share.draft.len() as u64).sum::<u64>();
        for (index, share) in shares.iter().enumerate() {
            let Some(place) = self.running.place(share.holder) else { continue };
            let job = &mut self.running[place];
            let was_prompt = !job.decodes();
            job.computed += share.tokens;
            let drafted = share.draft.len() as u32;
            if let Some(cells) = &mut self.cells {
                let grown = cells.grow(share.holder, share.tokens + drafted);
                debug_assert!(grown, "the machine found room that there should not be");
            }
            if was_prompt {
                self.counts.prompt_tokens += u64::from(share.tokens);
            }
            if job.rest() > 0 {
                continue;
            }
            if alone {
                (job.suspect, job.accused, job.failures) = (false, false, 0);
            }
            job.served = self.step;
            let mut ending = None;
            let mut row = 0;
            while ending.is_none() {
                let spoken = self.machine.logits(index, row).and_then(|logits| job.voice.speak(logits));
                let spoken = match spoken {
                    Ok(spoken) => spoken,
                    Err(error) => {
                        ending = Some(Ending::Failed(error));
                        break;
                    }
                };
                self.counts.generated_tokens += 1;
                job.spoke = true;
                job.text.push(spoken.token);
                if let Some(lookup) = &mut job.lookup {
                    lookup.extend(&[spoken.token]);
                }
                ending = spoken.over.map(Ending::Over);
                if share.draft.get(row) != Some(&spoken.token) || ending.is_some() {
                    break;
                }
                // It was guessed, and is in memory already.
                job.computed += 1;
                row += 1;
            }
            if drafted > 0 {
                let accepted = job.computed - share.start - share.tokens;
                self.counts.drafted_tokens += u64::from(drafted);
                self.counts.accepted_tokens += u64::from(accepted);
                if let Some(lookup) = &mut job.lookup {
                    lookup.learn(drafted, accepted);
                }
                if accepted < drafted {
                    self.cut(place);
                }
            }
            let Some(place) = self.running.place(share.holder) else { continue };
            match ending {
                Some(ending) => self.end(place, ending),
                None if self.running[place].text.len() > self.facts.sequence_tokens as usize => self.make_room(place),
                None => {}
            }
        }
    }

    /// Forgets guesses that were wrong.
    fn cut(&mut self, place: usize) {
        let job = &mut self.running[place];
        let Some(seat) = &job.seat else { return };
        if let Err(error) = self.machine.truncate(seat, job.computed) {
            log::warn(&format!("wrong guesses could not be forgotten ({error}): the text is computed again"));
            self.forget(place);
        } else if let Some(cells) = &mut self.cells {
            cells.truncate(job.holder, job.computed);
        }
    }

    /// Empties a sequence, whose text is computed again.
    fn forget(&mut self, place: usize) {
        let job = &mut self.running[place];
        let Some(seat) = &job.seat else { return };
        job.computed = 0;
        job.shifted = false;
        if let Some(cells) = &mut self.cells {
            cells.truncate(job.holder, 0);
        }
        if let Err(error) = self.machine.clear(seat) {
            self.end(place, Ending::Failed(error));
        }
    }

    /// Discards a part of a text that has filled its sequence, or ends it.
    fn make_room(&mut self, place: usize) {
        let job = &mut self.running[place];
        let (Some(keep), Some(seat)) = (job.keep, &job.seat) else {
            self.end(place, Ending::ContextFull);
            return;
        };
        // Half of what is not to be kept; one token at least. All but the last token is in memory: guesses go no further than
        // there is room for them, so that a text is full only where all of them were right.
        let discard = (job.computed.saturating_sub(keep) / 2).max(1);
        let discard = keep..(keep + discard).min(job.computed);
        job.text.drain(discard.start as usize..discard.end as usize);
        if let Some(lookup) = &mut job.lookup {
            lookup.discard(discard.clone());
        }
        self.counts.shifts += 1;
        self.tree.remove(job.holder);
        let shifted = self.facts.shifts && self.machine.shift(seat, discard.clone()).is_ok();
        if !shifted {
            let text = job.text.clone();
            let holder = job.holder;
            self.forget(place);
            if self.rules.share.is_some() && self.running.place(holder).is_some() {
                self.tree.insert(holder, &text);
            }
            return;
        }
        job.computed -= discard.end - discard.start;
        job.shifted = true;
        if let Some(cells) = &mut self.cells {
            cells.discard(job.holder, discard);
        }
    }

    /// What is done about a batch that failed: what is to be tried now.
    fn recover(&mut self, shares: Vec<Share>, failure: Failure) -> Vec<Vec<Share>> {
        let mut doubtful = false;
        let error = match failure {
            Failure::NotComputed(error) => {
                self.repair();
                error
            }
            Failure::Unreadable(error) => {
                doubtful = self.touched == Touched::Several;
                if doubtful {
                    // It may be anybody's fault who has something in memory.
                    self.running.iter_mut().for_each(|job| job.suspect |= job.computed > 0);
                }
                self.forget_all();
                error
            }
        };
        let alone = match shares.as_slice() {
            [one] => self.running.place(one.holder).map_or(0, |place| self.running[place].failures),
            _ => 0,
        };
        let now = Situation {
            cause: match error {
                GenerateError::Decode(DecodeError::NoSlot { .. }) => Cause::NoRoom,
                _ => Cause::Failure,
            },
            parts: shares.len(),
            alone,
            doubtful,
            cached: self.cached.len(),
            others: self.running.len().saturating_sub(1),
        };
        let remedy = remedy(self.rules.policy, now);
        log::warn(&format!("a batch of {} sequences was not computed ({error}): {remedy:?}", shares.len()));
        let fallbacks = &mut self.counts.fallbacks;
        match remedy {
            Remedy::Evict => {
                fallbacks.evicted += 1;
                self.evict(None);
                vec![shares]
            }
            Remedy::Preempt => {
                fallbacks.preempted += 1;
                self.preempt_last();
                vec![shares]
            }
            Remedy::Halve | Remedy::Singly => {
                fallbacks.split += 1;
                // Who lost his memory is computed from the beginning, and by himself.
                for share in &shares {
                    if !self.is_current(share)
                        && let Some(place) = self.running.place(share.holder)
                    {
                        self.running[place].suspect = true;
                    }
                }
                let size = if remedy == Remedy::Halve { shares.len().div_ceil(2) } else { 1 };
                shares.chunks(size).map(<[Share]>::to_vec).collect()
            }
            Remedy::Repeat => {
                fallbacks.repeated += 1;
                for place in shares.iter().filter_map(|share| self.running.place(share.holder)).collect::<Vec<_>>() {
                    let job = &mut self.running[place];
                    job.suspect = true;
                    job.accused = doubtful;
                    job.failures += u32::from(!doubtful);
                }
                Vec::new()
            }
            Remedy::End => {
                fallbacks.ended += shares.len() as u64;
                for share in &shares {
                    if let Some(place) = self.running.place(share.holder) {
                        // What nobody wants has not failed: it may be stopped for that very reason.
                        let gone = self.running[place].voice.is_gone();
                        self.end(place, if gone { Ending::Cancelled } else { Ending::Failed(error.clone()) });
                    }
                }
                Vec::new()
            }
        }
    }

    /// Empties what a failure has left unusable; its texts are computed again.
    fn repair(&mut self) {
        let machine = &self.machine;
        let damaged: Vec<_> = self
            .cached
            .iter()
            .filter(|(_, cached)| machine.is_damaged(&cached.seat))
            .map(|(holder, _)| *holder)
            .collect();
        for holder in damaged {
            self.cached.remove(&holder);
            self.strike(holder);
        }
        let is_damaged = |seat: &Option<M::Sequence>| seat.as_ref().is_some_and(|seat| self.machine.is_damaged(seat));
        let damaged: Vec<_> = self.running.iter().filter(|job| is_damaged(&job.seat)).map(|job| job.holder).collect();
        for holder in damaged {
            if let Some(place) = self.running.place(holder) {
                self.forget(place);
            }
        }
    }

    /// Empties all memory, after numbers that are none were written to it, and what was copied from there.
    fn forget_all(&mut self) {
        while let Some((holder, spilled)) = self.spilled.pop_first() {
            self.tree.remove(holder);
            self.spilled_bytes -= M::bytes(&spilled.saved);
        }
        self.touched = Touched::Nobodys;
        while let Some((holder, _)) = self.cached.pop_first() {
            self.strike(holder);
        }
        let cleared = self.machine.clear_all();
        for job in self.running.iter_mut() {
            job.computed = 0;
            job.shifted = false;
            if let Some(cells) = &mut self.cells {
                cells.truncate(job.holder, 0);
            }
        }
        if let Err(error) = cleared {
            while !self.running.is_empty() {
                self.end(0, Ending::Failed(error.clone()));
            }
        }
    }
}
