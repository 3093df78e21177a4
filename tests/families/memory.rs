//! What is done to the memory of sequences, on each kind of memory.

use batch_suite::{assert_equal, family, params, prompt};
use fixtures::{Family, Weights};
use llama_safe::{
    Context, ContextError, ContextParams, KvLayout, MemoryError, Obstacle, Sequence, SequenceError, Token,
};
use proptest::test_runner::{Config, TestRunner};

use crate::program::{self, SLOTS, Subject, program};
use crate::scratch::{exact, from_scratch};

const LAYOUTS: [KvLayout; 2] = [KvLayout::Split, KvLayout::Unified];

fn settings(layout: KvLayout) -> ContextParams {
    exact(program::settings(layout))
}

fn context(which: Family, settings: &ContextParams) -> Context {
    Context::new(&family(which, Weights::F32), settings).unwrap()
}

/// The logits after the last of `tokens`.
fn decode(context: &mut Context, sequence: &Sequence, tokens: &[Token]) -> Vec<f32> {
    let mut batch = context.new_batch();
    let slot = batch.prompt(sequence, tokens).unwrap();
    context.decode(&mut batch).unwrap().get(slot).unwrap().to_vec()
}

fn sequence_of(context: &mut Context, tokens: &[Token]) -> Sequence {
    let sequence = context.new_sequence().unwrap();
    for chunk in tokens.chunks(context.limits().batch_tokens() as usize) {
        decode(context, &sequence, chunk);
    }
    sequence
}

/// The sequence holds `text`: it goes on for some decodes as if it had been computed from scratch.
#[track_caller]
fn assert_goes_on(which: Family, context: &mut Context, sequence: &Sequence, text: &[Token], what: &str) {
    let mut text = text.to_vec();
    assert_eq!(sequence.len(), text.len() as u32, "{what}");
    for (salt, length) in [(50, 1), (51, 3), (52, 1)] {
        let more = prompt(salt, length);
        text.extend(&more);
        let got = decode(context, sequence, &more);
        assert_equal(&got, &from_scratch(which, &text), 1e-6, what);
    }
}

/// Random programs, on both layouts.
pub fn random_programs(which: Family, cases: u32) {
    for layout in LAYOUTS {
        run_programs(which, layout, settings(layout), 6, cases);
    }
}

/// Random programs with snapshots of the states.
pub fn random_programs_with_snapshots(which: Family, cases: u32) {
    for layout in LAYOUTS {
        run_programs(which, layout, settings(layout).rollback_tokens(3), 6, cases);
    }
}

/// Random programs of longer texts, on few cells for the window, and in many passes.
pub fn random_programs_that_forget(which: Family, cases: u32) {
    let settings = settings(KvLayout::Split).context_tokens(SLOTS * 512).micro_batch_tokens(8).keep_past_window(false);
    run_programs(which, KvLayout::Split, settings, 21, cases);
}

fn run_programs(which: Family, layout: KvLayout, settings: ContextParams, most: u32, cases: u32) {
    let subject = Subject {
        model: family(which, Weights::F32),
        settings,
        alone: exact(params().context_tokens(512)),
        layout,
        tolerance: [Some(1e-6); 2],
    };
    let cases = batch_suite::programs(cases);
    let config = Config { cases, max_shrink_iters: 500, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&program(most), |ops| {
        program::run(&subject, &ops);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{which}, {layout:?}: {error}"));
}

/// Tokens that a layer with a window sees, in the model that has some.
const WINDOW: u32 = 8;

/// Few cells for the window: a long text is forgotten but for its end, which is told, and nothing is done without it.
pub fn past_window_is_refused(which: Family) {
    let settings = settings(KvLayout::Split).context_tokens(SLOTS * 512).keep_past_window(false);
    let mut context = context(which, &settings);
    let text = prompt(1, 300);
    let sequence = sequence_of(&mut context, &text);
    let id = sequence.id();
    let first = context.span(&sequence).unwrap().start;
    // The window has 256 cells at least.
    assert!(first > 0 && first <= 300 - WINDOW, "{first}");
    let least = first + WINDOW - 1;
    let obstacle = Obstacle::Forgotten { first, window: WINDOW };
    for length in [1, first, least - 1] {
        assert!(!context.can_fork_at(&sequence, length));
        let refused = MemoryError::CannotFork { id, length, obstacle };
        assert_eq!(context.fork_prefix(&sequence, length).unwrap_err(), refused);
        assert!(!context.can_truncate(&sequence, length));
        assert_eq!(context.truncate(&sequence, length), Err(MemoryError::CannotTruncate { id, length, obstacle }));
    }
    assert!(!context.can_shift(&sequence, 0..280));
    let refused = MemoryError::CannotShift { id, obstacle: Obstacle::Window { window: WINDOW } };
    assert_eq!(context.shift(&sequence, 0..280), Err(refused));

    // At the last place that can be forked every token that is looked back on is there, and not one more.
    assert!(context.can_fork_at(&sequence, least) && context.can_fork_at(&sequence, 300));
    let fork = context.fork_prefix(&sequence, least).unwrap();
    assert_eq!(context.span(&fork).unwrap(), first..least);
    assert_goes_on(which, &mut context, &fork, &text[..least as usize], "a fork of what is left");
    drop(fork);
    assert_goes_on(which, &mut context, &sequence, &text, "the whole");
    let first = context.span(&sequence).unwrap().start;
    let least = first + WINDOW - 1;
    context.truncate(&sequence, least).unwrap();
    assert_goes_on(which, &mut context, &sequence, &text[..least as usize], "truncated to what is left");

    let short = sequence_of(&mut context, &prompt(2, 20));
    assert_eq!(context.span(&short).unwrap(), 0..20);
    assert!(context.can_fork_at(&short, 1));
    context.truncate(&short, 3).unwrap();
    assert_goes_on(which, &mut context, &short, &prompt(2, 20)[..3], "a short text");
}

/// As many cells for the window as for the rest: a text stays, and can be forked and truncated anywhere.
pub fn past_window_is_kept(which: Family) {
    for layout in LAYOUTS {
        let mut context = context(which, &settings(layout).context_tokens(SLOTS * 512).keep_past_window(true));
        let text = prompt(1, 300);
        let sequence = sequence_of(&mut context, &text);
        assert_eq!(context.span(&sequence).unwrap(), 0..300);
        let fork = context.fork_prefix(&sequence, 20).unwrap();
        assert_eq!(context.span(&fork).unwrap(), 0..20);
        assert_goes_on(which, &mut context, &fork, &text[..20], "a fork");
        assert!(context.can_truncate(&sequence, 9));
        context.truncate(&sequence, 9).unwrap();
        assert_goes_on(which, &mut context, &sequence, &text[..9], "truncated");
        // A shift would leave its cells in an order in which llama.cpp forgets what it still needs.
        let refused = MemoryError::CannotShift { id: sequence.id(), obstacle: Obstacle::Window { window: WINDOW } };
        assert!(!context.can_shift(&sequence, 2..5));
        assert_eq!(context.shift(&sequence, 2..5), Err(refused));
    }
}

/// Positions of four numbers are not shifted; all else is as with one.
pub fn places_do_not_shift(which: Family) {
    for layout in LAYOUTS {
        let mut context = context(which, &settings(layout));
        let text = prompt(1, 12);
        let sequence = sequence_of(&mut context, &text);
        let refused = MemoryError::CannotShift { id: sequence.id(), obstacle: Obstacle::Positions };
        assert!(!context.can_shift(&sequence, 2..5));
        assert_eq!(context.shift(&sequence, 2..5), Err(refused));
        assert_goes_on(which, &mut context, &sequence, &text, "after it was refused");
    }
}

/// Without memory nothing can be forked or shifted, and forgetting is free.
pub fn nothing_is_kept(which: Family) {
    let mut context = Context::new(&family(which, Weights::F32), &params().sequences(2).embeddings(true)).unwrap();
    let sequence = context.new_sequence().unwrap();
    assert!(!context.can_fork_at(&sequence, 0) && !context.can_shift(&sequence, 0..0));
    assert!(context.can_truncate(&sequence, 0) && !context.can_truncate(&sequence, 1));
    assert_eq!(context.fork(&sequence).unwrap_err(), MemoryError::NoMemory);
    assert_eq!(context.shift(&sequence, 0..0), Err(MemoryError::NoMemory));
    context.truncate(&sequence, 0).unwrap();
    assert_eq!(context.span(&sequence).unwrap(), 0..0);
}

/// A recurrent state goes back to nothing, and nowhere else.
pub fn states_do_not_go_back(which: Family) {
    for layout in LAYOUTS {
        let mut context = context(which, &settings(layout));
        let text = prompt(1, 12);
        let sequence = sequence_of(&mut context, &text);
        let id = sequence.id();
        let obstacle = Obstacle::State { rollback: 0 };
        for length in [1, 6, 11] {
            assert!(!context.can_truncate(&sequence, length));
            assert_eq!(context.truncate(&sequence, length), Err(MemoryError::CannotTruncate { id, length, obstacle }));
            assert!(!context.can_fork_at(&sequence, length));
            let refused = MemoryError::CannotFork { id, length, obstacle };
            assert_eq!(context.fork_prefix(&sequence, length).unwrap_err(), refused);
            assert!(!context.can_shift(&sequence, 0..length));
            assert_eq!(context.shift(&sequence, 0..length), Err(MemoryError::CannotShift { id, obstacle }));
        }
        assert_eq!(context.shift(&sequence, 6..12), Err(MemoryError::CannotTruncate { id, length: 6, obstacle }));
        assert_eq!(context.span(&sequence).unwrap(), 11..12);
        assert_goes_on(which, &mut context, &sequence, &text, "after what was refused");

        assert!(context.can_truncate(&sequence, 0));
        context.truncate(&sequence, 0).unwrap();
        assert_eq!(context.span(&sequence).unwrap(), 0..0);
        assert_goes_on(which, &mut context, &sequence, &[], "cleared");
    }
}

/// Forks of a state part ways, outlive it, and are as many as there are slots.
pub fn states_fork(which: Family) {
    for layout in LAYOUTS {
        let mut context = context(which, &settings(layout));
        let text = prompt(1, 9);
        let parent = sequence_of(&mut context, &text);
        let forks: Vec<Sequence> = (1..SLOTS).map(|_| context.fork(&parent).unwrap()).collect();
        assert!(!context.can_fork_at(&parent, 9), "no slot is free");
        let full = MemoryError::from(SequenceError::NoFreeSlot { limit: SLOTS });
        assert_eq!(context.fork(&parent).unwrap_err(), full);

        // All of them in one batch, each its own way: as many states as there are cells.
        let mut batch = context.new_batch();
        let ways: Vec<Vec<Token>> = (0..SLOTS).map(|index| prompt(10 + index, 2 + index)).collect();
        let all: Vec<&Sequence> = forks.iter().chain([&parent]).collect();
        let slots: Vec<_> = all.iter().zip(&ways).map(|(sequence, way)| batch.prompt(sequence, way).unwrap()).collect();
        let outputs = context.decode(&mut batch).unwrap();
        for (slot, way) in slots.iter().zip(&ways) {
            let whole = [text.as_slice(), way].concat();
            assert_equal(outputs.get(*slot).unwrap(), &from_scratch(which, &whole), 1e-6, "forks in one batch");
        }
        drop(parent);
        let heir = context.fork(&forks[1]).unwrap();
        let whole = [text.as_slice(), &ways[1]].concat();
        assert_goes_on(which, &mut context, &heir, &whole, "the fork of a fork");
        assert_goes_on(which, &mut context, &forks[1], &whole, "its parent");
        for (index, sequence) in forks.iter().enumerate().filter(|(index, _)| *index != 1) {
            let whole = [text.as_slice(), &ways[index]].concat();
            assert_goes_on(which, &mut context, sequence, &whole, "the others");
        }
    }
}

/// A fork that was not decoded has the state of a parent that was dropped.
pub fn forks_outlive_their_parent(which: Family) {
    for layout in LAYOUTS {
        let mut context = context(which, &settings(layout));
        let text = prompt(1, 9);
        let parent = sequence_of(&mut context, &text);
        let fork = context.fork(&parent).unwrap();
        drop(parent);
        let stranger = sequence_of(&mut context, &prompt(3, 5));
        assert_goes_on(which, &mut context, &fork, &text, "the heir");
        assert_goes_on(which, &mut context, &stranger, &prompt(3, 5), "in the parent's slot");
    }
}

/// With snapshots a state goes back to where a decode has left one.
pub fn snapshots_go_back(which: Family) {
    const SNAPSHOTS: u32 = 3;
    for layout in LAYOUTS {
        let settings = settings(layout).rollback_tokens(SNAPSHOTS);
        let text = prompt(1, 20);
        // Tokens of the last decode, and what can be taken back of them.
        for (last, most) in [(1, 0), (2, 1), (3, 2), (4, 3), (5, 3), (19, 3)] {
            for back in 1..=4 {
                let mut context = context(which, &settings);
                assert_eq!(context.limits().rollback_tokens(), SNAPSHOTS);
                let sequence = context.new_sequence().unwrap();
                let whole = 12 + last;
                let text = prompt(1, whole);
                decode(&mut context, &sequence, &text[..12]);
                decode(&mut context, &sequence, &text[12..]);
                let length = whole - back;
                let can = back <= most;
                assert_eq!(context.can_truncate(&sequence, length), can, "{back} of {last}");
                if !can {
                    let obstacle = Obstacle::State { rollback: most };
                    let refused = MemoryError::CannotTruncate { id: sequence.id(), length, obstacle };
                    assert_eq!(context.truncate(&sequence, length), Err(refused));
                    assert_goes_on(which, &mut context, &sequence, &text, "refused");
                    continue;
                }
                context.truncate(&sequence, length).unwrap();
                assert_eq!(context.span(&sequence).unwrap(), length - 1..length);
                // Once: the others are of the state that was left.
                let obstacle = Obstacle::State { rollback: 0 };
                let refused = MemoryError::CannotTruncate { id: sequence.id(), length: length - 1, obstacle };
                assert_eq!(context.truncate(&sequence, length - 1), Err(refused));
                let refused = MemoryError::CannotFork { id: sequence.id(), length, obstacle: Obstacle::TakenBack };
                assert_eq!(context.fork(&sequence).unwrap_err(), refused);
                assert_goes_on(which, &mut context, &sequence, &text[..length as usize], "taken back");
            }
        }
        // A fork has the same cell until one of them is decoded, and a cell has one position.
        let mut context = context(which, &settings);
        let first = sequence_of(&mut context, &text);
        let second = context.fork(&first).unwrap();
        for sequence in [&first, &second] {
            assert!(!context.can_truncate(sequence, 18));
        }
        let obstacle = Obstacle::SharedState;
        let refused = MemoryError::CannotTruncate { id: first.id(), length: 18, obstacle };
        assert_eq!(context.truncate(&first, 18), Err(refused));
        decode(&mut context, &second, &prompt(7, 4));
        context.truncate(&first, 18).unwrap();
        context.truncate(&second, 22).unwrap();
        assert_goes_on(which, &mut context, &first, &text[..18], "its cell is its own again");
        let other = [text.as_slice(), &prompt(7, 4)[..2]].concat();
        assert_goes_on(which, &mut context, &second, &other, "and so is the fork's");
    }
}

/// Two sequences that take turns in one batch, and are taken back at the same time: what speculative decoding does.
pub fn snapshots_of_a_batch_go_back(which: Family) {
    for layout in LAYOUTS {
        let mut context = context(which, &settings(layout).rollback_tokens(3));
        let mut texts: Vec<Vec<Token>> = (0..3).map(|index| prompt(index, 7 + index)).collect();
        let sequences: Vec<Sequence> = texts.iter().map(|text| sequence_of(&mut context, text)).collect();
        let mut batch = context.new_batch();
        for round in 0..6 {
            let drafts: Vec<Vec<Token>> = (0..3).map(|index| prompt(20 + 3 * round + index, 4)).collect();
            let slots: Vec<_> =
                sequences.iter().zip(&drafts).map(|(sequence, draft)| batch.prompt(sequence, draft).unwrap()).collect();
            let outputs = context.decode(&mut batch).unwrap();
            for ((slot, text), draft) in slots.iter().zip(&mut texts).zip(&drafts) {
                text.extend(draft);
                assert_equal(outputs.get(*slot).unwrap(), &from_scratch(which, text), 1e-6, "a draft");
            }
            for (index, (sequence, text)) in (0..).zip(sequences.iter().zip(&mut texts)) {
                text.truncate(text.len() - (round + index) as usize % 4);
                context.truncate(sequence, text.len() as u32).unwrap();
            }
        }
    }
}

/// A state that another sequence's pass has moved has left its snapshots behind: nobody goes back to them.
pub fn snapshots_do_not_move(which: Family) {
    for layout in LAYOUTS {
        for together in [true, false] {
            let mut context = context(which, &settings(layout).rollback_tokens(3));
            let sequences: Vec<Sequence> = (0..3).map(|_| context.new_sequence().unwrap()).collect();
            let mut texts: Vec<Vec<Token>> = (0..3).map(|index| prompt(index, 6)).collect();
            // Cells are taken in this order: the first sequence has the one between those of the others.
            for index in [1, 0, 2] {
                decode(&mut context, &sequences[index], &texts[index]);
            }
            let mut batch = context.new_batch();
            for (index, rows) in [(0, 4), (1, 5), (2, 5)] {
                let more = prompt(30 + rows, rows);
                batch.extend(&sequences[index], &more).unwrap();
                texts[index].extend(more);
                if index == 0 && !together {
                    context.decode(&mut batch).unwrap();
                }
            }
            context.decode(&mut batch).unwrap();
            assert!(!context.can_truncate(&sequences[0], 9), "{layout:?}");
            let obstacle = Obstacle::State { rollback: 0 };
            let refused = MemoryError::CannotTruncate { id: sequences[0].id(), length: 9, obstacle };
            assert_eq!(context.truncate(&sequences[0], 9), Err(refused));
            for (sequence, text) in sequences.iter().zip(&texts) {
                assert_goes_on(which, &mut context, sequence, text, "none was taken back");
            }
        }
    }
}

/// Which snapshots there can be.
pub fn snapshots_are_offered_where_they_are_right() {
    let settings = settings(KvLayout::Split).rollback_tokens(3);
    for which in [Family::Mamba, Family::Rwkv] {
        let error = Context::new(&family(which, Weights::F32), &settings).unwrap_err();
        assert!(matches!(error, ContextError::RollbackUnsupported { .. }), "{error}");
    }
    let hybrid = family(Family::Hybrid, Weights::F32);
    let error = Context::new(&hybrid, &settings.clone().embeddings(true)).unwrap_err();
    assert!(matches!(error, ContextError::RollbackUnsupported { .. }), "{error}");
    // llama.cpp asserts that a pass has room for them (llama-batch.cpp:702).
    let error = Context::new(&hybrid, &settings.clone().rollback_tokens(15)).unwrap_err();
    assert_eq!(error, ContextError::RollbackOutOfRange { got: 15, max: 14 });
    let most = Context::new(&hybrid, &settings.clone().rollback_tokens(14)).unwrap();
    assert_eq!(most.limits().rollback_tokens(), 14);
    // Attention goes back without them.
    let context = context(Family::Llama, &settings);
    assert_eq!(context.limits().rollback_tokens(), 0);
}
