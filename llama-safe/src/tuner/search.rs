//! What is measured, in which order, and until when.

use std::time::{Duration, Instant};

use crate::context::Context;
use crate::error::TunerError;
use crate::limits::KvLayout;
use crate::saved::State;

use super::choice::{self, Aim, Candidate, MICRO_BATCHES, NEAR, Step, Way};
use super::record::{Measured, Record};
use super::trial::{Decoding, Subject, prefill};

/// Tokens of a prompt that is timed, at most.
const TIMED_PROMPT: u32 = 512;

/// What is slower than the best by more than this will not be the best when it is measured again.
const FAR: f64 = 0.1;

/// Rounds in which that which is near to the best is measured again, as the time given allows: how much slower it may be. What was
/// measured once may have had a slow spell, which on a machine that others use is easily [`FAR`]; what was measured often has not.
const AGAIN: [f64; 6] = [2.0 * FAR, 2.0 * FAR, FAR, FAR, FAR, FAR];

/// A search that is under way: one number is varied after the other, from what is usual; then the best ones are measured several
/// times more in turn, so that no fast or slow spell of the machine decides.
pub(super) struct Search {
    pub subject: Subject,
    pub aim: Aim,
    pub most_sequences: u32,
    /// One at least, those that are likely first.
    pub threads: Vec<u32>,
    pub until: Instant,
    /// The longest that one measurement took: the next may take as long.
    pub longest: Duration,
    pub record: Record,
    /// Sequences that the memory limit leaves room for, by layout and micro-batch.
    pub room: Vec<((KvLayout, u32), u32)>,
    /// The text that sequences have in memory while steps are timed.
    pub text: Option<State>,
    pub cut_short: bool,
}

/// What came of it.
pub(super) struct Found {
    pub best: Candidate,
    pub measured: Vec<Measured>,
    pub cut_short: bool,
}

impl Search {
    pub(super) fn run(mut self) -> Result<Found, TunerError> {
        let mut best = Way { threads: self.threads[0], layout: KvLayout::Split };
        let usual = self.usual(best)?;
        self.steps(best)?;
        self.prefill(best, usual)?;
        for threads in self.threads.clone().into_iter().skip(1) {
            let way = Way { threads, ..best };
            if self.is_late() {
                break;
            }
            if !self.is_promising(way, best)? || !self.is_better(way, best, 0.0)? {
                // Still fewer would be slower still.
                break;
            }
            best = way;
        }
        let unified = Way { layout: KvLayout::Unified, ..best };
        // Cells of their own are right where there is nothing between the two: they are never full.
        if !self.is_late() && self.is_better(unified, best, NEAR)? {
            best = unified;
        }
        for micro_batch in MICRO_BATCHES.into_iter().filter(|tokens| *tokens != usual) {
            if self.is_late() {
                break;
            }
            self.prefill(best, micro_batch)?;
        }
        for far in AGAIN {
            self.again(far)?;
        }
        let Some(best) = choice::best(self.aim, &self.candidates()?) else {
            let times = self.record.ways().into_iter().flat_map(|way| self.record.steps(way)).map(|step| step.time);
            let fastest = times.min().unwrap_or_default();
            return Err(TunerError::GapTooShort { gap: self.aim.gap.unwrap_or_default(), fastest });
        };
        Ok(Found { best, measured: self.record.measured(), cut_short: self.cut_short })
    }

    fn is_late(&mut self) -> bool {
        self.cut_short |= !self.has_time();
        self.cut_short
    }

    fn has_time(&self) -> bool {
        Instant::now() + self.longest < self.until
    }

    /// Notes how long a measurement took that began then.
    fn took(&mut self, since: Instant) {
        self.longest = self.longest.max(since.elapsed());
    }

    /// The first micro-batch with room for a sequence.
    fn usual(&mut self, way: Way) -> Result<u32, TunerError> {
        for micro_batch in MICRO_BATCHES {
            if self.room(way.layout, micro_batch)? > 0 {
                return Ok(micro_batch);
            }
        }
        // None: a context says so, with its numbers.
        let smallest = MICRO_BATCHES[MICRO_BATCHES.len() - 1];
        drop(Context::new(&self.subject.model, &self.subject.full(way, smallest, 1))?);
        Ok(smallest)
    }

    /// As many sequences of full length as the memory limit allows, and as were asked for.
    fn room(&mut self, layout: KvLayout, micro_batch: u32) -> Result<u32, TunerError> {
        let key = (layout, micro_batch);
        if let Some((_, room)) = self.room.iter().find(|(of, _)| *of == key) {
            return Ok(*room);
        }
        let way = Way { threads: self.threads[0], layout };
        let (mut room, mut above) = (0, self.most_sequences.saturating_add(1));
        match self.subject.base.memory_limit {
            None => room = self.most_sequences,
            Some(limit) => {
                while above - room > 1 {
                    let middle = room + (above - room) / 2;
                    let params = self.subject.full(way, micro_batch, middle);
                    if self.subject.model.estimate(&params)?.resident().context() <= limit {
                        room = middle;
                    } else {
                        above = middle;
                    }
                }
            }
        }
        self.room.push((key, room));
        Ok(room)
    }

    /// The most sequences that any micro-batch leaves room for.
    fn most(&mut self, layout: KvLayout) -> Result<u32, TunerError> {
        let mut most = 0;
        for micro_batch in MICRO_BATCHES {
            let room = self.room(layout, micro_batch)?;
            most = most.max(if is_one_pass(room, micro_batch) { room } else { micro_batch });
        }
        Ok(most)
    }

    /// Sequences with texts in memory, so that steps of them can be timed.
    fn decoding(&mut self, way: Way) -> Result<(Decoding, u32, u32), TunerError> {
        // Half of the answer is there on average.
        let length = self.aim.prompt + self.aim.generated / 2;
        let most = self.most(way.layout)?.max(1);
        // The least memory: a step is one pass, whatever the micro-batch is then.
        let micro_batch = MICRO_BATCHES.into_iter().rev().find(|tokens| is_one_pass(most, *tokens));
        let micro_batch = micro_batch.unwrap_or(MICRO_BATCHES[0]);
        let decoding = Decoding::new(&self.subject, way, micro_batch, most, length.max(1), &mut self.text)?;
        Ok((decoding, micro_batch, most))
    }

    /// Steps of more and more sequences, as long as that is of use. The first is measured however late it is.
    fn steps(&mut self, way: Way) -> Result<(), TunerError> {
        let (mut decoding, micro_batch, most) = self.decoding(way)?;
        let mut steps = Vec::new();
        while let Some(sequences) = choice::next(self.aim, &steps, most) {
            if !steps.is_empty() && self.is_late() {
                break;
            }
            let step = self.step(&mut decoding, way, micro_batch, sequences)?;
            steps.push(step);
        }
        Ok(())
    }

    fn step(
        &mut self,
        decoding: &mut Decoding,
        way: Way,
        micro_batch: u32,
        sequences: u32,
    ) -> Result<Step, TunerError> {
        let begun = Instant::now();
        let step = decoding.step(sequences)?;
        self.took(begun);
        self.record.add(way, micro_batch, Some(sequences), f64::from(sequences) / step.time.as_secs_f64());
        Ok(step)
    }

    fn prefill(&mut self, way: Way, micro_batch: u32) -> Result<(), TunerError> {
        let room = self.room(way.layout, micro_batch)?;
        if room > 0 {
            let length = self.aim.prompt.min(TIMED_PROMPT);
            let begun = Instant::now();
            let rate = prefill(&self.subject, way, micro_batch, room, length)?;
            self.took(begun);
            self.record.add(way, micro_batch, None, rate);
        }
        Ok(())
    }

    /// Whether a step of another way, of as many sequences as are best so far, is not far slower. Prompts gain from what it has at most
    /// as much.
    fn is_promising(&mut self, way: Way, than: Way) -> Result<bool, TunerError> {
        let Some(best) = self.best_of(than)? else { return Ok(true) };
        let (mut decoding, micro_batch, _) = self.decoding(way)?;
        let step = self.step(&mut decoding, way, micro_batch, best.step.sequences)?;
        Ok(choice::rate(self.aim, step, best.prefill) > best.rate(self.aim) * (1.0 - FAR))
    }

    /// Whether another way is better than the best so far by more than a share of it.
    fn is_better(&mut self, way: Way, than: Way, by: f64) -> Result<bool, TunerError> {
        self.steps(way)?;
        let Some(best) = self.best_of(than)? else { return Ok(self.best_of(way)?.is_some()) };
        let hopes = |step| choice::rate(self.aim, step, best.prefill);
        let hope = self.record.steps(way).into_iter().map(hopes).fold(0.0, f64::max);
        if hope <= best.rate(self.aim) * (1.0 - FAR) {
            return Ok(false);
        }
        self.prefill(way, best.micro_batch)?;
        let rate = self.best_of(way)?.map_or(0.0, |one| one.rate(self.aim));
        Ok(rate > best.rate(self.aim) * (1.0 + by))
    }

    fn best_of(&mut self, way: Way) -> Result<Option<Candidate>, TunerError> {
        let of_way: Vec<Candidate> = self.candidates()?.into_iter().filter(|one| one.way == way).collect();
        Ok(choice::best(self.aim, &of_way))
    }

    /// All that could be chosen of what was measured.
    fn candidates(&mut self) -> Result<Vec<Candidate>, TunerError> {
        let mut candidates = Vec::new();
        for way in self.record.ways() {
            for micro_batch in MICRO_BATCHES {
                let Some(prefill) = self.record.prefill(way, micro_batch) else { continue };
                let room = self.room(way.layout, micro_batch)?;
                let steps = self.record.steps(way).into_iter();
                let fits = steps.filter(|step| step.sequences <= room && is_one_pass(step.sequences, micro_batch));
                candidates.extend(fits.map(|step| Candidate { way, micro_batch, step, prefill }));
            }
        }
        Ok(candidates)
    }

    /// Measures what is slower than the best by no more than a share of it once more, as far as there is time.
    fn again(&mut self, far: f64) -> Result<(), TunerError> {
        let candidates = self.candidates()?;
        let Some(best) = choice::best(self.aim, &candidates) else { return Ok(()) };
        // One that takes a little longer than it may could have had a slow spell.
        let may_keep = |one: &&Candidate| self.aim.gap.is_none_or(|gap| one.step.time <= gap.mul_f64(1.0 + far));
        let near = |one: &&Candidate| may_keep(one) && one.rate(self.aim) >= best.rate(self.aim) * (1.0 - far);
        let near: Vec<Candidate> = candidates.iter().filter(near).copied().collect();
        for way in self.record.ways() {
            let mut widths: Vec<u32> = near.iter().filter(|one| one.way == way).map(|one| one.step.sequences).collect();
            widths.sort_unstable();
            widths.dedup();
            if widths.is_empty() || !self.has_time() {
                continue;
            }
            let (mut decoding, micro_batch, _) = self.decoding(way)?;
            for sequences in widths {
                if !self.has_time() {
                    return Ok(());
                }
                self.step(&mut decoding, way, micro_batch, sequences)?;
            }
            drop(decoding);
            for micro_batch in MICRO_BATCHES {
                let is_near = near.iter().any(|one| (one.way, one.micro_batch) == (way, micro_batch));
                if is_near && self.has_time() {
                    self.prefill(way, micro_batch)?;
                }
            }
        }
        Ok(())
    }
}

/// Whether a step of so many sequences takes a single pass, or as few passes as there can be.
fn is_one_pass(sequences: u32, micro_batch: u32) -> bool {
    sequences <= micro_batch || micro_batch == MICRO_BATCHES[0]
}
