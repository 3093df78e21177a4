//! Who gets a sequence, and what it takes from others; who has to give one up.
#![forbid(unsafe_code)]

use crate::error::GenerateError;
use crate::id::Token;
use crate::log;

use super::core::{Cached, Core, JobOf, Spilled, Touched};
use super::job::{Ending, Voice};
use super::machine::Machine;
use super::plan;
use super::prefix::HolderId;

/// Waiting requests beyond those that fit that are looked at, since the first may have to wait for others' prefixes.
const LOOK_AHEAD: usize = 64;

/// Cells that are left free for each running request when another comes in, so that it does not have to go again at once.
const HEADROOM: u32 = 16;

/// What became of a request that was to get a sequence.
enum Seating<J> {
    Seated,
    /// It waits for another's prefix.
    Follows(J),
    /// It waits for room.
    NoRoom(J),
    /// It was refused a sequence that should be there.
    Refused(J, GenerateError),
}

/// Where the beginning of a text is to be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Source {
    holder: HolderId,
    length: u32,
}

impl<M: Machine, V: Voice> Core<M, V> {
    /// Gives sequences to requests that wait, in their order.
    pub(super) fn admit(&mut self) {
        for job in self.running.iter_mut() {
            job.stop = None;
        }
        let width = self.width();
        let (mut followers, mut last) = (0, None);
        for _ in 0..width + LOOK_AHEAD {
            let Some(next) = self.waiting.next(last) else { break };
            last = Some(next);
            if self.running.len() + followers >= width && !self.preempt_silent() {
                break;
            }
            let Some(job) = self.waiting.take(next.1) else { continue };
            let mut seating = self.seat(job);
            while let Seating::NoRoom(job) = seating {
                if !self.preempt_silent() {
                    seating = Seating::NoRoom(job);
                    break;
                }
                seating = self.seat(job);
            }
            match seating {
                Seating::Seated => {}
                Seating::Follows(job) => {
                    // Its place is kept for it.
                    followers += 1;
                    self.wait(job);
                }
                Seating::NoRoom(job) => {
                    self.wait(job);
                    break;
                }
                Seating::Refused(job, error) => self.finish(job, Ending::Failed(error)),
            }
        }
    }

    /// Sequences that may run now.
    fn width(&self) -> usize {
        let (asked, most) = (self.rules.sequences, self.rules.most_sequences);
        let waiting = (self.waiting.len() + self.running.len()).saturating_sub(asked as usize);
        let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
        let width = self.rules.costs.as_ref().map_or(asked, |costs| costs.wider(asked, most, waiting));
        width.min(self.facts.sequences) as usize
    }

    fn seat(&mut self, mut job: JobOf<M, V>) -> Seating<JobOf<M, V>> {
        if job.saved.is_some() {
            if !self.make_cells(job.text.len() as u32, None) {
                return Seating::NoRoom(job);
            }
            let free = self.free_slot(None);
            if let Some((saved, length)) = job.saved.take() {
                self.spilled_bytes -= M::bytes(&saved);
                if free && let Some(seat) = self.machine.restore(&saved) {
                    self.counts.restored += 1;
                    self.touched = Touched::Several;
                    return self.sit(job, seat, length);
                }
            }
            // What cannot be restored is computed again.
            job.shifted = false;
        }
        let known = &job.text[..job.text.len() - 1];
        let source = self.source(known);
        let length = source.map_or(0, |source| source.length);
        if let Some((leader, common)) = self.leader(known)
            && common > length
            && self.rules.share.is_some_and(|least| common - length >= least)
        {
            if !self.facts.cuts {
                let stop = &mut self.running[leader].stop;
                *stop = Some(stop.map_or(common, |stop| stop.min(common)));
            }
            return Seating::Follows(job);
        }
        // What comes back from outside takes cells anew.
        let held = source.filter(|source| !self.spilled.contains_key(&source.holder)).map_or(0, |source| source.length);
        let needed = job.text.len() as u32 - held;
        if !self.make_cells(needed, source) {
            return Seating::NoRoom(job);
        }
        let (seat, length) = match source.and_then(|source| self.take(source, job.holder)) {
            Some(taken) => taken,
            None if !self.free_slot(None) => return Seating::NoRoom(job),
            None => match self.machine.lease() {
                Ok(seat) => (seat, 0),
                Err(error) => return Seating::Refused(job, error),
            },
        };
        self.counts.reused_tokens += u64::from(length);
        if length > 0 {
            self.counts.prefix_hits += 1;
        }
        self.sit(job, seat, length)
    }

    fn sit(&mut self, mut job: JobOf<M, V>, seat: M::Sequence, length: u32) -> Seating<JobOf<M, V>> {
        if let Some(cells) = &mut self.cells {
            let missing = length - cells.length(job.holder);
            let grown = cells.grow(job.holder, missing);
            debug_assert!(grown, "room was made for the whole text");
        }
        job.seat = Some(seat);
        job.computed = length;
        job.served = self.step;
        job.voice.start(length);
        if self.rules.share.is_some() && !job.shifted {
            self.tree.insert(job.holder, &job.text);
        }
        self.running.push(job);
        Seating::Seated
    }

    /// Who has most of a text's beginning in memory, or outside.
    fn source(&self, text: &[Token]) -> Option<Source> {
        let least = self.rules.share?;
        let usable = |holder: HolderId, common: u32| {
            let (length, reaches) = if let Some(cached) = self.cached.get(&holder) {
                let length = common.min(cached.length);
                (length, length == cached.length || self.machine.reaches(&cached.seat, length))
            } else if let Some(spilled) = self.spilled.get(&holder) {
                let length = common.min(spilled.length);
                (length, length == spilled.length || self.facts.cuts)
            } else if let Some(job) = self.running.place(holder).map(|place| &self.running[place]) {
                let length = common.min(job.computed);
                (length, job.seat.as_ref().is_some_and(|seat| self.machine.reaches(seat, length)))
            } else {
                (0, false)
            };
            if reaches && length >= least { length } else { 0 }
        };
        self.tree.best(text, usable).map(|(holder, length)| Source { holder, length })
    }

    /// A running request that will soon have more of a text's beginning in memory, with how much that will be.
    fn leader(&self, text: &[Token]) -> Option<(usize, u32)> {
        self.rules.share?;
        let usable = |holder: HolderId, common: u32| {
            let job = self.running.place(holder).map(|place| &self.running[place]);
            let computes = job.is_some_and(|job| {
                job.computed < common && !job.decodes() && !job.voice.is_full() && !job.suspect && !job.shifted
            });
            if computes { common } else { 0 }
        };
        let (holder, common) = self.tree.best(text, usable)?;
        self.running.place(holder).map(|place| (place, common))
    }

    /// A sequence with the beginning that a source has. The sequence itself, where nobody else needs it.
    fn take(&mut self, source: Source, holder: HolderId) -> Option<(M::Sequence, u32)> {
        let Source { holder: from, length } = source;
        if let Some(spilled) = self.spilled.get_mut(&from) {
            spilled.used = self.step;
            return self.unspill(source);
        }
        if let Some(cached) = self.cached.get_mut(&from) {
            cached.used = self.step;
            let whole = cached.length == length;
            if whole || !self.free_slot(Some(from)) {
                return self.take_over(source, holder);
            }
            let seat = self.machine.fork(&self.cached.get(&from)?.seat, length).ok()?;
            self.share_cells(from, holder, length);
            return Some((seat, length));
        }
        if !self.free_slot(None) {
            return None;
        }
        let place = self.running.place(from)?;
        let seat = self.machine.fork(self.running[place].seat.as_ref()?, length).ok()?;
        self.share_cells(from, holder, length);
        Some((seat, length))
    }

    fn share_cells(&mut self, from: HolderId, to: HolderId, length: u32) {
        if let Some(cells) = &mut self.cells {
            cells.fork(from, to, length);
        }
    }

    fn take_over(&mut self, Source { holder: from, length }: Source, holder: HolderId) -> Option<(M::Sequence, u32)> {
        let cached = self.cached.remove(&from)?;
        self.share_cells(from, holder, length);
        self.strike(from);
        if cached.length == length || self.machine.truncate(&cached.seat, length).is_ok() {
            return Some((cached.seat, length));
        }
        self.strike(holder);
        None
    }

    fn unspill(&mut self, Source { holder: from, length }: Source) -> Option<(M::Sequence, u32)> {
        if !self.free_slot(None) {
            return None;
        }
        let spilled = self.spilled.get(&from)?;
        let seat = self.machine.restore(&spilled.saved)?;
        if spilled.length != length && self.machine.truncate(&seat, length).is_err() {
            return None;
        }
        self.counts.restored += 1;
        self.touched = Touched::Several;
        Some((seat, length))
    }

    /// Makes room for a request's tokens by dropping cached prefixes, but for the one that it is to take. False if there is
    /// none, and somebody else runs who will make some.
    fn make_cells(&mut self, needed: u32, source: Option<Source>) -> bool {
        loop {
            let Some(cells) = &self.cells else { return true };
            // What was let in before has not computed its prompt yet, and goes on behind it.
            let promised = self.running.iter().map(|job| job.rest().saturating_add(HEADROOM));
            if cells.free() >= promised.fold(needed, u32::saturating_add) {
                return true;
            }
            if !self.evict(source.map(|source| source.holder)) {
                return self.running.is_empty();
            }
        }
    }

    /// Sees to it that a sequence can be leased, by dropping a cached prefix other than `but`.
    fn free_slot(&mut self, but: Option<HolderId>) -> bool {
        let taken = self.running.len() + self.cached.len();
        taken < self.facts.sequences as usize || self.evict(but)
    }

    /// Drops the cached prefix that was used longest ago, other than `but`; keeps a copy outside if there is room for it.
    pub(super) fn evict(&mut self, but: Option<HolderId>) -> bool {
        let oldest =
            self.cached.iter().filter(|(holder, _)| Some(**holder) != but).min_by_key(|(_, cached)| cached.used);
        let Some(holder) = oldest.map(|(holder, _)| *holder) else { return false };
        let Some(cached) = self.cached.remove(&holder) else { return false };
        self.counts.evictions += 1;
        if let Some(cells) = &mut self.cells {
            cells.remove(holder);
        }
        let saved = (self.rules.spill_bytes > 0).then(|| self.machine.save(&cached.seat)).flatten();
        match saved {
            Some(saved) if self.make_bytes(M::bytes(&saved)) => {
                self.counts.spilled += 1;
                self.spilled_bytes += M::bytes(&saved);
                self.spilled.insert(holder, Spilled { saved, length: cached.length, used: cached.used });
            }
            _ => self.tree.remove(holder),
        }
        true
    }

    /// Makes room outside of the context.
    fn make_bytes(&mut self, bytes: usize) -> bool {
        if bytes > self.rules.spill_bytes {
            return false;
        }
        while self.spilled_bytes + bytes > self.rules.spill_bytes {
            let oldest = self.spilled.iter().min_by_key(|(_, spilled)| spilled.used).map(|(holder, _)| *holder);
            let Some(spilled) = oldest.and_then(|holder| self.spilled.remove(&holder).map(|spilled| (holder, spilled)))
            else {
                return false;
            };
            self.tree.remove(spilled.0);
            self.spilled_bytes -= M::bytes(&spilled.1.saved);
        }
        true
    }

    /// Keeps the sequence of a request that ends, for what others may have in common with it.
    pub(super) fn keep(&mut self, job: &JobOf<M, V>, seat: M::Sequence) {
        let least = self.rules.share.filter(|least| job.computed >= (*least).max(1) && !job.shifted);
        if least.is_none() || self.machine.is_damaged(&seat) {
            self.strike(job.holder);
            return;
        }
        self.tree.insert(job.holder, &job.text[..job.computed as usize]);
        self.cached.insert(job.holder, Cached { seat, length: job.computed, used: self.step });
    }

    /// Takes the sequence of a running request, unless it is the only one: of one whose listener is behind, or else of the last
    /// in order. It waits then, and goes on later.
    pub(super) fn preempt_last(&mut self) -> bool {
        if self.running.len() < 2 {
            return false;
        }
        if self.preempt_silent() {
            return true;
        }
        let orders = self.running.iter().enumerate().map(|(place, job)| (place, job.order));
        let Some(place) = plan::victim(orders) else { return false };
        self.preempt(place);
        true
    }

    /// Takes the sequence of one whose listener is behind.
    fn preempt_silent(&mut self) -> bool {
        let Some(place) = self.running.iter().position(|job| job.voice.is_full()) else { return false };
        self.preempt(place);
        true
    }

    fn preempt(&mut self, place: usize) {
        let mut job = self.running.take(place);
        let Some(seat) = job.seat.take() else { return };
        self.counts.preemptions += 1;
        if job.shifted || self.rules.spill_bytes > 0 {
            let saved = (!self.machine.is_damaged(&seat)).then(|| self.machine.save(&seat)).flatten();
            // What cannot be computed again is kept whatever it takes.
            if let Some(saved) =
                saved.filter(|saved| job.computed > 0 && (self.make_bytes(M::bytes(saved)) || job.shifted))
            {
                self.spilled_bytes += M::bytes(&saved);
                job.saved = Some((saved, job.computed));
            }
        }
        job.shifted &= job.saved.is_some();
        drop(seat);
        self.strike(job.holder);
        job.computed = 0;
        job.stop = None;
        log::tell(&format!("request {} gives up its sequence and goes on later", job.holder.0));
        self.wait(job);
    }
}
