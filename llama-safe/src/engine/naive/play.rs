//! An engine over a naive memory, watched in each step.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::engine::core::{Core, JobOf};
use crate::engine::fallback::FallbackPolicy;
use crate::engine::job::{Ending, Task, Voice};
use crate::engine::machine::Machine;
use crate::engine::prefix::HolderId;
use crate::engine::stats::Stats;

use super::memory::Memory;
use super::voice::{Actor, Heard, Last, alone, text_before};
use super::workload::{Ask, Workload};

/// What was heard in a run, and what the engine counted up to each step.
pub(super) struct Run {
    pub core: Core<Memory, Actor>,
    pub heard: Vec<Rc<RefCell<Heard>>>,
    pub history: Vec<Stats>,
    pub steps: u64,
}

/// Plays a workload to its end, with all that must hold on the way and in the end.
pub(super) fn play(workload: &Workload) -> Run {
    let Workload { facts, rules, asks, faults } = workload;
    let clock = Rc::new(Cell::new(0));
    let heard: Vec<Rc<RefCell<Heard>>> = asks.iter().map(|_| Rc::default()).collect();
    let core = Core::new(Memory::new(*facts, *faults), rules.clone());
    let mut run = Run { core, heard, history: vec![Stats::default()], steps: 0 };
    let begin = Instant::now();
    let most = most_steps(workload);
    let mut submitted = 0;
    loop {
        // Before the first one, as it is in what a step has said or started.
        run.steps += 1;
        let now = run.steps;
        clock.set(now);
        while let Some(ask) = asks.get(submitted).filter(|ask| ask.arrives < now) {
            let voice = Actor { script: ask.script, heard: Rc::clone(&run.heard[submitted]), clock: Rc::clone(&clock) };
            let deadline = ask.deadline.map(|steps| begin + Duration::from_secs(ask.arrives + steps));
            let (prompt, priority, keep) = (ask.prompt.clone(), ask.priority, ask.keep);
            run.core.submit(HolderId(submitted as u64), Task { prompt, voice, priority, deadline, keep });
            submitted += 1;
        }
        for (index, ask) in asks[..submitted].iter().enumerate() {
            // Once, as when a piece is read.
            if run.heard[index].borrow().full_until + 1 == now {
                run.core.heard(HolderId(index as u64));
            }
            let Some(steps) = ask.cancel else { continue };
            // The flag is seen before the command comes.
            match now.checked_sub(ask.arrives + 1 + steps) {
                Some(0) => run.heard[index].borrow_mut().gone = true,
                Some(1) => run.core.cancel(HolderId(index as u64)),
                _ => {}
            }
        }
        let stepped = run.core.step(begin + Duration::from_secs(now));
        run.history.push(run.core.counts);
        check_step(&run, workload);
        check_order(&run, workload);
        if !stepped {
            check_idle(&run, &asks[..submitted], now);
        }
        if submitted == asks.len() && run.heard.iter().all(|heard| heard.borrow().ending.is_some()) {
            break;
        }
        assert!(now < most, "not done after {now} steps");
    }
    check_end(&run, workload);
    run
}

/// Steps in which every workload is done.
fn most_steps(workload: &Workload) -> u64 {
    let last = workload.asks.iter().map(|ask| ask.arrives).max().unwrap_or(0);
    let pauses: u64 = workload
        .asks
        .iter()
        .filter_map(|ask| ask.script.slow.map(|(every, steps)| u64::from(ask.script.most / every * (steps + 1))))
        .sum();
    let tokens: u64 = workload.asks.iter().map(|ask| ask.prompt.len() as u64 + u64::from(ask.script.most)).sum();
    last + pauses + 20 * tokens + 100
}

/// What the engine believes of memory is so, and its bounds are kept.
fn check_step(run: &Run, workload: &Workload) {
    let Run { core, .. } = run;
    let (facts, rules) = (&workload.facts, &workload.rules);
    assert_eq!(core.machine.leased(), core.running.len() + core.cached.len(), "leases");
    assert!(core.running.len() <= rules.most_sequences.min(facts.sequences) as usize, "sequences");
    if let Some(cells) = &core.cells {
        assert_eq!(cells.used() as usize, core.machine.used(), "cells");
    }
    for job in core.running.iter() {
        core.machine.with_slot(job.seat.as_ref().unwrap(), |slot| {
            assert_eq!(slot.tokens, job.text[..job.computed as usize], "{:?}", job.holder);
            assert!(!slot.damaged);
            assert!(core.cells.as_ref().is_none_or(|cells| cells.length(job.holder) == job.computed));
        });
        assert!(job.rest() >= 1 && job.text.len() <= facts.sequence_tokens as usize);
    }
    for (holder, cached) in &core.cached {
        core.machine.with_slot(&cached.seat, |slot| {
            assert_eq!(slot.tokens.len(), cached.length as usize);
            assert_eq!(core.tree.common(*holder, &slot.tokens), cached.length, "{holder:?} is found");
            assert!(!slot.damaged);
            assert!(core.cells.as_ref().is_none_or(|cells| cells.length(*holder) == cached.length));
        });
    }
    let kept = core.cached.len() + core.spilled.len();
    assert!((kept..=kept + core.running.len()).contains(&core.tree.len()), "texts that are known");
    let spilled: usize = core.spilled.values().map(|spilled| Memory::bytes(&spilled.saved)).sum();
    let waiting = core.waiting.jobs().filter_map(|job| Some((job, &job.saved.as_ref()?.0)));
    let (mut saved, mut shifted) = (0, 0);
    for (job, copied) in waiting {
        saved += Memory::bytes(copied);
        shifted += if job.shifted { Memory::bytes(copied) } else { 0 };
    }
    assert_eq!(core.spilled_bytes, spilled + saved, "bytes outside");
    assert!(core.spilled_bytes - shifted <= rules.spill_bytes, "bytes outside");
    if rules.share.is_none() {
        assert!(core.cached.is_empty() && core.spilled.is_empty(), "nothing is kept");
    }
}

/// Nobody is overtaken by one who comes later in order, but while it waits for the beginning of its text to be computed by
/// another. That ends with the other's text: whoever has as much in common with it waits as well.
fn check_order(run: &Run, workload: &Workload) {
    let Run { core, heard, steps, .. } = run;
    let started = |job: &&JobOf<Memory, Actor>| job.voice.heard.borrow().started.last() == Some(steps);
    let Some(last) = core.running.iter().filter(started).map(|job| job.order).max() else { return };
    for job in core.waiting.jobs().filter(|job| job.order < last && !job.voice.is_full()) {
        let known = &job.text[..job.text.len() - 1];
        let computes = |(ask, heard): (&Ask, &Rc<RefCell<Heard>>)| {
            let heard = heard.borrow();
            let alive = !heard.started.is_empty() && (heard.ending.is_none() || heard.ended == *steps);
            // What is left of a text that has filled its sequence may be computed again: that is the beginning of another one.
            let computes = |step: u64| {
                let text = text_before(step, &ask.prompt, &heard, ask.keep, workload.facts.sequence_tokens);
                let common = text.iter().zip(known).take_while(|(one, other)| one == other).count();
                workload.rules.share.is_some_and(|least| common >= least as usize)
            };
            alive && (computes(*steps) || computes(*steps + 1))
        };
        let others = workload.asks.iter().zip(heard).enumerate();
        let mut others = others.filter(|(index, _)| *index as u64 != job.holder.0).map(|(_, other)| other);
        assert!(others.any(computes), "{:?} was overtaken", job.holder);
    }
}

/// Where nothing was computed, nobody could go on.
fn check_idle(run: &Run, submitted: &[Ask], now: u64) {
    for (index, _) in submitted.iter().enumerate() {
        let heard = run.heard[index].borrow();
        assert!(heard.ending.is_some() || heard.gone || now <= heard.full_until, "{index} could go on");
    }
}

fn check_end(run: &Run, workload: &Workload) {
    let Run { core, .. } = run;
    assert!(!core.is_busy() && core.next_deadline().is_none());
    for (index, ask) in workload.asks.iter().enumerate() {
        check_said(index, ask, &run.heard[index].borrow(), run, workload);
    }
    if workload.is_calm() {
        (0..workload.asks.len()).for_each(|index| check_pace(index, run, workload));
    }
    let Stats { submitted, completed, cancelled, failed, .. } = core.counts;
    assert_eq!(submitted, workload.asks.len() as u64);
    assert_eq!(submitted, completed + cancelled + failed);
    if core.cached.is_empty() {
        assert_eq!(core.machine.used(), 0);
    }
}

/// It said what it says alone, or the beginning of that if it was ended.
fn check_said(index: usize, ask: &Ask, heard: &Heard, run: &Run, workload: &Workload) {
    let (tokens, last) = alone(&ask.prompt, &ask.script, ask.keep, workload.facts.sequence_tokens);
    assert!(tokens.starts_with(&heard.tokens), "{index} said {:?} and not {tokens:?}", heard.tokens);
    let whole = tokens.len() == heard.tokens.len();
    // Whoever is in a batch that fails ends with it, where that is the policy.
    let others_fail = workload.rules.policy == FallbackPolicy::NativeOnly || workload.faults.storm;
    let others_fail = others_fail && !workload.is_calm();
    match heard.ending.as_ref().unwrap() {
        Ending::Over(()) => assert!(whole && last == Last::Over, "{index} is whole"),
        Ending::ContextFull => assert!(whole && last == Last::ContextFull, "{index} is full"),
        Ending::Cancelled => assert!(heard.gone),
        Ending::Deadline => assert!(ask.deadline.is_some_and(|steps| ask.arrives + steps <= run.steps)),
        Ending::Failed(error) => assert!(whole && last == Last::Failed || others_fail, "{index} failed: {error}"),
    }
}

/// Between two tokens of one that goes on there is at most one chunk of prompts.
fn check_pace(index: usize, run: &Run, workload: &Workload) {
    let heard = run.heard[index].borrow();
    if workload.asks[index].script.slow.is_some() {
        return;
    }
    for pair in heard.steps.windows(2) {
        let [before, after] = [pair[0], pair[1]].map(|step| run.history[step as usize]);
        // What it says may fill its sequence: that is computed again like a prompt.
        let shifts = run.history[pair[0] as usize - 1].shifts;
        if before.preemptions == after.preemptions && shifts == after.shifts && before.fallbacks == after.fallbacks {
            let prompts = after.prompt_tokens - before.prompt_tokens;
            assert!(prompts <= u64::from(workload.rules.chunk), "{index} waits for {prompts} tokens of prompts");
        }
    }
}
