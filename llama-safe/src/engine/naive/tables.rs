//! Single behaviours, each in the smallest engine that shows it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::engine::core::{Core, Rules};
use crate::engine::fallback::FallbackPolicy;
use crate::engine::job::{Ending, Task};
use crate::engine::machine::Facts;
use crate::engine::prefix::HolderId;
use crate::engine::width::StepCosts;
use crate::id::Token;

use super::faults::Faults;
use super::memory::{BREAKS, Memory, POISON};
use super::play::{Run, play};
use super::voice::{Actor, Heard, Script};
use super::workload::{Ask, Workload};

const SPLIT: Facts =
    Facts { sequences: 4, shared_cells: None, sequence_tokens: 32, rows: 16, cuts: true, shifts: true };
const RECURRENT: Facts = Facts { cuts: false, shifts: false, ..SPLIT };
const SHARED: Facts =
    Facts { sequences: 4, shared_cells: Some(32), sequence_tokens: 32, rows: 16, cuts: true, shifts: false };

const RULES: Rules = Rules {
    sequences: 4,
    most_sequences: 4,
    chunk: 4,
    line_chunk: u32::MAX,
    one_by_one: false,
    policy: FallbackPolicy::Split,
    share: None,
    spill_bytes: 0,
    costs: None,
    draft: 0,
};

fn ask(prompt: &[i32], most: u32) -> Ask {
    let script = Script { choice: None, most, end: None, fails_at: None, slow: None };
    let prompt = prompt.iter().map(|id| Token(*id)).collect();
    Ask { arrives: 0, prompt, script, priority: 0, cancel: None, deadline: None, keep: None }
}

fn run(facts: Facts, rules: Rules, asks: Vec<Ask>) -> Run {
    play(&Workload { facts, rules, asks, faults: Faults::none() })
}

fn heard(run: &Run, index: usize) -> std::cell::Ref<'_, Heard> {
    run.heard[index].borrow()
}

#[test]
fn a_common_beginning_is_computed_once() {
    let asks = || vec![ask(&[0, 1, 2, 3, 4, 5, 5, 5], 3), ask(&[0, 1, 2, 3, 4, 5, 1, 1, 1], 3)];
    let sharing = Rules { share: Some(4), ..RULES };
    for facts in [SPLIT, SHARED, RECURRENT] {
        let shared = run(facts, sharing.clone(), asks()).core.counts;
        assert_eq!((shared.prompt_tokens, shared.reused_tokens, shared.prefix_hits), (8 + 3, 6, 1));
        let apart = run(facts, RULES, asks()).core.counts;
        assert_eq!((apart.prompt_tokens, apart.reused_tokens), (8 + 9, 0));
    }
}

/// What is left of a text that has filled its sequence is one's beginning too while it is computed again: who waits for it may be
/// overtaken.
#[test]
fn what_is_left_of_a_full_text_is_a_beginning() {
    let facts = Facts { sequence_tokens: 16, ..SHARED };
    let sharing = Rules { share: Some(4), ..RULES };
    let long = [0, 1, 2, 3, 0, 1, 2, 3, 5, 4, 3, 2, 1, 0, 0, 1];
    let asks = vec![
        Ask { keep: Some(0), ..ask(&long, 4) },
        // These come when its last eight tokens are about to be computed again.
        Ask { arrives: 1, ..ask(&long[8..], 2) },
        Ask { arrives: 1, ..ask(&[2], 2) },
    ];
    let run = run(facts, sharing, asks);
    assert_eq!((run.core.counts.shifts, run.core.counts.reused_tokens), (1, 7));
    assert!(heard(&run, 1).started > heard(&run, 2).started);
}

#[test]
fn copies_of_one_prompt_compute_it_once() {
    for facts in [SPLIT, SHARED, RECURRENT] {
        let copies = (0..4).map(|_| ask(&[0, 1, 2, 3, 4, 5, 0, 1], 3)).collect();
        let counts = run(facts, Rules { share: Some(4), ..RULES }, copies).core.counts;
        // The last token of each is computed for its output.
        assert_eq!((counts.prompt_tokens, counts.reused_tokens), (8 + 3, 3 * 7));
    }
}

#[test]
fn what_ended_is_taken_by_who_begins_like_it() {
    let rules = Rules { sequences: 1, most_sequences: 1, share: Some(4), ..RULES };
    let asks = || vec![ask(&[0, 1, 2, 3, 4, 5, 5, 5], 3), ask(&[0, 1, 2, 3, 4, 5, 1, 1], 3)];
    assert_eq!(run(SPLIT, rules.clone(), asks()).core.counts.reused_tokens, 6);
    // A state that went on cannot be taken back.
    assert_eq!(run(RECURRENT, rules, asks()).core.counts.reused_tokens, 0);
}

#[test]
fn the_last_gives_way_where_memory_is_full() {
    let asks = vec![ask(&[1; 4], 24), ask(&[2; 4], 24)];
    for spill_bytes in [0, 10_000] {
        let run = run(SHARED, Rules { spill_bytes, ..RULES }, asks.clone());
        assert!(run.core.counts.preemptions >= 1);
        assert_eq!(run.core.counts.restored > 0, spill_bytes > 0);
        assert_eq!(heard(&run, 0).started.len(), 1);
        assert!(heard(&run, 1).started.len() > 1);
        assert_eq!(run.core.counts.completed, 2);
    }
}

#[test]
fn who_is_let_in_has_room_for_its_prompt() {
    let counts = run(SHARED, RULES, (0..4).map(|id| ask(&[id; 14], 2)).collect()).core.counts;
    assert_eq!((counts.preemptions, counts.completed), (0, 4));
}

#[test]
fn a_guess_takes_nobodys_memory() {
    // What repeats itself is guessed; there is room for both, and none for guesses.
    let asks = vec![ask(&[1; 14], 2), ask(&[2; 14], 2)];
    let counts = run(SHARED, Rules { draft: 8, ..RULES }, asks).core.counts;
    assert_eq!((counts.preemptions, counts.completed), (0, 2));
}

#[test]
fn who_waits_takes_the_sequence_of_one_that_is_not_read() {
    let asks = || {
        let mut slow = ask(&[1; 9], 8);
        slow.script.slow = Some((2, 20));
        vec![slow, ask(&[2; 9], 8)]
    };
    let one = Rules { sequences: 1, most_sequences: 1, ..RULES };
    // There are sequences enough for both, but no cells.
    for (facts, rules) in [(SPLIT, one), (SHARED, RULES)] {
        let run = run(facts, rules, asks());
        assert!(heard(&run, 1).steps.last() < heard(&run, 0).steps.last());
        let starts = [0, 1].map(|index| heard(&run, index).started.len());
        assert_eq!(starts, [2, 1]);
    }
}

#[test]
fn who_is_not_read_gives_way_before_the_last() {
    let mut slow = ask(&[1; 4], 8);
    slow.script.slow = Some((2, 40));
    let run = run(SHARED, RULES, vec![slow, ask(&[2; 4], 28)]);
    assert_eq!([0, 1].map(|index| heard(&run, index).started.len()), [2, 1]);
}

#[test]
fn who_waits_for_a_common_beginning_keeps_its_place() {
    let rules = Rules { sequences: 2, most_sequences: 2, line_chunk: 2, share: Some(2), ..RULES };
    let asks = vec![ask(&[1; 10], 6), ask(&[1; 10], 2), ask(&[2; 2], 2)];
    let run = run(SPLIT, rules, asks);
    let starts = [0, 1, 2].map(|index| heard(&run, index).started[0]);
    assert!(starts.is_sorted() && starts[0] < starts[1], "{starts:?}");
    // One token more is not worth waiting for.
    assert_eq!(run.core.counts.reused_tokens, 8);
}

#[test]
fn a_full_text_goes_on_where_wrong_guesses_stay() {
    for (facts, seed) in (0..64).flat_map(|seed| [(SPLIT, seed), (SHARED, seed)]) {
        let facts = Facts { sequence_tokens: 12, ..facts };
        let mut endless = ask(&[1, 2, 1, 2, 1, 2], 30);
        (endless.keep, endless.script.choice) = (Some(3), Some(seed));
        let faults = Faults { no_cuts: true, ..Faults::new(0, 0, 0, false) };
        let run = play(&Workload { facts, rules: Rules { draft: 4, ..RULES }, asks: vec![endless], faults });
        assert_eq!(heard(&run, 0).tokens.len(), 30);
    }
}

#[test]
fn time_that_is_over_ends_it_with_what_it_has() {
    let mut hurried = ask(&[1; 4], 20);
    hurried.deadline = Some(5);
    let run = run(SPLIT, RULES, vec![hurried, ask(&[2; 4], 20)]);
    assert_eq!(heard(&run, 0).ending, Some(Ending::Deadline));
    assert_eq!((heard(&run, 0).tokens.len(), heard(&run, 1).tokens.len()), (4, 20));
}

#[test]
fn groups_take_turns_where_that_is_faster() {
    let costs = StepCosts::new([(1, Duration::from_millis(10)), (2, Duration::from_millis(30))]).unwrap();
    let run = run(SPLIT, Rules { costs: Some(costs), ..RULES }, vec![ask(&[1], 6), ask(&[2], 6)]);
    let steps = [0, 1].map(|index| heard(&run, index).steps[1..].to_vec());
    assert!(steps[0].iter().all(|step| !steps[1].contains(step)), "{steps:?}");
    let together = [steps[0][0], steps[1][0]];
    assert!(steps[0].iter().zip(&steps[1]).all(|(one, other)| one.abs_diff(*other) == 1), "{together:?}");
}

#[test]
fn who_cannot_be_computed_ends_alone() {
    for bad in [POISON, BREAKS] {
        for facts in [SPLIT, SHARED, RECURRENT] {
            for policy in [FallbackPolicy::Split, FallbackPolicy::Sequential] {
                let mut asks = vec![ask(&[1; 4], 4), ask(&[2; 4], 4), ask(&[3; 4], 4)];
                asks[1].prompt[2] = bad;
                let run = run(facts, Rules { policy, ..RULES }, asks);
                assert_eq!((run.core.counts.completed, run.core.counts.failed), (2, 1));
                assert!(matches!(heard(&run, 1).ending, Some(Ending::Failed(_))));
            }
        }
    }
}

#[test]
fn who_spoils_memory_is_found_at_once() {
    let facts = Facts { shared_cells: Some(100), ..SHARED };
    let costs = StepCosts::new([(1, Duration::from_millis(10)), (2, Duration::from_millis(30))]).unwrap();
    let mut asks = vec![ask(&[1], 20), ask(&[2], 20), ask(&[3; 20], 2)];
    // The others' outputs show it long before its own.
    (asks[2].arrives, asks[2].prompt[0]) = (3, POISON);
    let run = run(facts, Rules { chunk: 2, costs: Some(costs), ..RULES }, asks);
    assert_eq!((run.core.counts.completed, run.core.counts.failed), (2, 1));
    assert!(run.core.counts.fallbacks.total() <= 6, "{:?}", run.core.counts.fallbacks);
}

#[test]
fn a_batch_ends_as_one_where_that_is_asked_for() {
    let mut asks = vec![ask(&[1; 4], 4), ask(&[2; 4], 4), ask(&[3; 4], 4)];
    asks[1].prompt[2] = BREAKS;
    let run = run(SPLIT, Rules { policy: FallbackPolicy::NativeOnly, chunk: 12, ..RULES }, asks);
    assert_eq!((run.core.counts.completed, run.core.counts.failed), (0, 3));
    assert_eq!(run.core.counts.fallbacks.split, 0);
}

/// One sequence, and requests with these numbers and priorities, all at once: the order in which they start.
fn starts(requests: &[(u64, i8)]) -> Vec<u64> {
    let rules = Rules { sequences: 1, most_sequences: 1, ..RULES };
    let mut core = Core::new(Memory::new(SPLIT, Faults::none()), rules);
    let clock = Rc::new(Cell::new(1));
    let heard: Vec<Rc<RefCell<Heard>>> = requests.iter().map(|_| Rc::default()).collect();
    for ((number, priority), heard) in requests.iter().zip(&heard) {
        let Ask { prompt, script, .. } = ask(&[1; 4], 3);
        let voice = Actor { script, heard: Rc::clone(heard), clock: Rc::clone(&clock) };
        let task = Task { prompt, voice, priority: *priority, deadline: None, keep: None };
        core.submit(HolderId(*number), task);
    }
    while core.step(Instant::now()) {
        clock.set(clock.get() + 1);
    }
    let mut starts: Vec<(u64, u64)> =
        requests.iter().zip(&heard).map(|((number, _), heard)| (heard.borrow().started[0], *number)).collect();
    starts.sort_unstable();
    starts.into_iter().map(|(_, number)| number).collect()
}

#[test]
fn a_priority_is_a_thousand_arrivals() {
    assert_eq!(starts(&[(0, 0), (1, 0), (2, 0)]), [0, 1, 2]);
    assert_eq!(starts(&[(0, 0), (1, 0), (2, 1)]), [2, 0, 1]);
    assert_eq!(starts(&[(0, 0), (999, 1), (1001, 1)]), [999, 0, 1001]);
    assert_eq!(starts(&[(0, -1), (1001, 0), (999, 0), (2001, 1)]), [999, 0, 1001, 2001]);
}

/// Many wait for a sequence, and as many for their listeners: a step looks at few of both, and each goes on when its listener
/// has read.
#[test]
fn a_step_does_not_look_at_all_that_wait() {
    const EACH: u64 = 300;
    let rules = Rules { sequences: 2, most_sequences: 2, ..RULES };
    let mut core = Core::new(Memory::new(SPLIT, Faults::none()), rules);
    let clock = Rc::new(Cell::new(1));
    let heard: Vec<Rc<RefCell<Heard>>> = (0..2 * EACH).map(|_| Rc::default()).collect();
    for (number, heard) in (0..).zip(&heard) {
        let Ask { prompt, mut script, .. } = ask(&[1; 4], 6);
        script.slow = (number < EACH).then_some((3, u32::MAX));
        let voice = Actor { script, heard: Rc::clone(heard), clock: Rc::clone(&clock) };
        core.submit(HolderId(number), Task { prompt, voice, priority: 0, deadline: None, keep: None });
    }
    let play = |core: &mut Core<Memory, Actor>| {
        let asked = || heard.iter().map(|heard| heard.borrow().asked.get()).sum::<u64>();
        let (mut before, mut most) = (asked(), 0);
        while core.step(Instant::now()) {
            clock.set(clock.get() + 1);
            most = most.max(asked() - before);
            before = asked();
        }
        most
    };
    let said = |number: u64| heard[number as usize].borrow().tokens.len();
    let most = play(&mut core);
    assert!(most < 40, "{most} were looked at in one step");
    assert!((0..2 * EACH).all(|number| said(number) == if number < EACH { 3 } else { 6 }));
    assert_eq!(core.stats().queued + core.stats().running, EACH as usize);
    for number in 0..EACH {
        heard[number as usize].borrow_mut().full_until = 0;
        core.heard(HolderId(number));
    }
    let most = play(&mut core);
    assert!(most < 40, "{most} were looked at in one step");
    assert!((0..EACH).all(|number| said(number) == 6) && !core.is_busy());
}
