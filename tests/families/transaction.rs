//! A decode happens or does not, on each kind of memory: aborted anywhere it leaves no trace, or says which sequences it
//! has damaged. Never others.

use batch_suite::{assert_equal, is_leak_check, params, prompt};
use fixtures::Family;
use llama_safe::{ContextParams, DecodeError, KvLayout};

use crate::scene::{Fault, Scene, Tally, disturb};
use crate::scratch::{exact, from_scratch};

const LAYOUTS: [KvLayout; 2] = [KvLayout::Split, KvLayout::Unified];

const ABORT: Fault = Fault {
    name: "an abort",
    arm: |context, checks| context.abort_handle().abort_after(checks),
    disarm: |context| context.abort_handle().reset(),
    spares_others: true,
};

/// Aborts a decode at places all over it.
fn abort_everywhere(which: Family, settings: &ContextParams, lengths: &[u32], parts: &[(usize, u32)]) -> Tally {
    let places = (0..8).chain((8..).step_by(29).take(60));
    disturb(which, settings, (lengths, parts), &ABORT, places.step_by(if is_leak_check() { 11 } else { 1 }))
}

/// Aborts a decode of several passes at every place there is.
pub fn abort_at_every_place(which: Family) {
    for layout in LAYOUTS {
        let every = (0..).step_by(if is_leak_check() { 97 } else { 1 });
        let tally = disturb(which, &settings(which, layout), (&[5, 9, 7], &[(1, 20)]), &ABORT, every);
        println!("{which}, {layout:?}: {tally:?}");
        assert!(tally.finished == 2 && tally.clean + tally.damaging > several(), "{tally:?}");
    }
}

/// Several passes to a batch, but for a window on unified cells.
fn settings(which: Family, layout: KvLayout) -> ContextParams {
    let pass = if which == Family::Gemma && layout == KvLayout::Unified { 64 } else { 8 };
    params().sequences(4).context_tokens(4 * 256).batch_tokens(64).micro_batch_tokens(pass).kv_layout(layout)
}

/// More aborts than these came to something: as many as show that the places are spread over the whole computation.
fn several() -> u32 {
    if is_leak_check() { 1 } else { 10 }
}

/// Prompts of new sequences: an abort leaves nothing of them, and nothing of it in the others.
pub fn new_sequences(which: Family) {
    for layout in LAYOUTS {
        let tally = abort_everywhere(which, &settings(which, layout), &[0, 5, 0], &[(0, 20)]);
        assert!(tally.clean > several() && tally.damaging == 0, "{tally:?}");
        // Two in one pass, and nobody else in memory.
        let tally = abort_everywhere(which, &settings(which, layout), &[0, 0], &[(0, 20), (1, 13)]);
        assert!(tally.clean > several() && tally.damaging == 0, "{tally:?}");
    }
}

/// Sequences that hold something already, alone in the batch or with others. Attention goes back; a state is damaged if it
/// was touched.
pub fn old_sequences(which: Family, has_state: bool) {
    for layout in LAYOUTS {
        for (lengths, parts) in [
            (vec![5, 9, 7], vec![(1, 20)]),
            (vec![5, 9], vec![(0, 6), (1, 20)]),
            (vec![5, 9, 0], vec![(0, 6), (2, 20)]),
            (vec![6, 0, 9], vec![(0, 3), (1, 9), (2, 20)]),
        ] {
            let tally = abort_everywhere(which, &settings(which, layout), &lengths, &parts);
            if has_state {
                // Where both are computed in one pass, one of them old, a decode that would move a third one finishes.
                let finishes = parts.len() > 1 && lengths.len() > 2 && tally.clean + tally.damaging <= 1;
                assert!(finishes || tally.damaging > several(), "{lengths:?} {parts:?}: {tally:?}");
            } else if which == Family::Gemma && layout == KvLayout::Split && parts == [(0, 6), (2, 20)] {
                // See `an_abort_leaves_cells_in_order`.
                assert!(tally.finished > 1 && tally.damaging == 0, "{lengths:?} {parts:?}: {tally:?}");
            } else {
                assert!(tally.clean > several() && tally.damaging == 0, "{lengths:?} {parts:?}: {tally:?}");
            }
        }
    }
}

/// States of sequences that are not in the batch are moved to other cells by a pass that computes two that are: such a
/// decode runs to its end, and the next does not begin.
pub fn bystanders_are_safe(which: Family) {
    for layout in LAYOUTS {
        // The cells of the first two are not neighbours: those between belong to the third.
        let mut scene = Scene::new(which, &exact(settings(which, layout)), &[0, 0, 0, 0]);
        for index in [0, 2, 3, 1] {
            scene.assert_goes_on(index, "made in this order");
        }
        let tally = abort_between(scene);
        assert!(tally.finished > 10, "{tally:?}");
    }
}

fn abort_between(mut scene: Scene) -> Tally {
    let mut tally = Tally::default();
    let abort = scene.context.abort_handle();
    for checks in [0, 1, 5, 10, 20, 35, 50, 80] {
        for parts in [[(0, 3), (1, 3)], [(2, 3), (3, 3)], [(0, 5), (1, 2)], [(1, 3), (2, 3)]] {
            let what = format!("{}, aborted after {checks} checks, {parts:?}", scene.which);
            let mut batch = scene.context.new_batch();
            let _ = scene.fill(&mut batch, &parts);
            abort.abort_after(checks);
            match scene.context.decode(&mut batch).map(drop) {
                Ok(()) => {
                    tally.finished += 1;
                    scene.decoded(&parts);
                }
                Err(DecodeError::Aborted { damaged }) => {
                    // Where nobody else holds anything there is no reason to wait.
                    let members = parts.map(|(index, _)| scene.sequences[index].id());
                    assert!(damaged.iter().all(|id| members.contains(id)), "{what}: {damaged:?}");
                    tally.clean += u32::from(damaged.is_empty());
                    tally.damaging += u32::from(!damaged.is_empty());
                }
                Err(error) => panic!("{what}: {error}"),
            }
            if scene.texts.iter().all(|text| !text.is_empty()) {
                abort.abort();
                let mut next = scene.context.new_batch();
                let _ = scene.fill(&mut next, &parts);
                let refused = DecodeError::Aborted { damaged: vec![] };
                assert_eq!(scene.context.decode(&mut next).unwrap_err(), refused, "{what}: the next");
            }
            abort.reset();
            for index in 0..4 {
                scene.assert_goes_on(index, &what);
                if scene.texts[index].len() > 30 {
                    // The cells that are free, and so those that are taken next, are others each time.
                    scene.context.clear(&scene.sequences[index]).unwrap();
                    scene.texts[index].clear();
                }
            }
        }
    }
    tally
}

/// After an abort llama.cpp would look for the cells of sequences whose turn had not come from where another's ended
/// (llama-kv-cache.cpp:824). A window's cells are no longer in the order of its positions then, and a long batch forgets what its
/// first pass needs. Where that could be, the decode runs to its end.
pub fn an_abort_leaves_cells_in_order(which: Family) {
    let settings = params().sequences(3).context_tokens(3 * 512).batch_tokens(400).micro_batch_tokens(8);
    let settings = exact(settings.keep_past_window(false));
    let mut scene = Scene::new(which, &settings, &[8, 0, 4]);
    let mut batch = scene.context.new_batch();
    let _ = scene.fill(&mut batch, &[(0, 1), (2, 3)]);
    scene.context.abort_handle().abort_after(1);
    let finished = scene.context.decode(&mut batch).is_ok();
    assert_eq!(
        scene.context.decode(&mut batch).unwrap_err(),
        match finished {
            true => DecodeError::EmptyBatch,
            false => DecodeError::Aborted { damaged: vec![] },
        }
    );
    scene.context.abort_handle().reset();
    batch.clear();
    for (index, length) in [(0, 1), (2, 3)].into_iter().take(if finished { 2 } else { 0 }) {
        scene.texts[index].extend(prompt(40 + u32::from(index == 2), length));
    }
    for length in [3, 1, 270] {
        let more = prompt(70 + length, length);
        scene.texts[2].extend(&more);
        let mut slots = Vec::new();
        for token in more {
            slots.push(batch.push_output(&scene.sequences[2], token).unwrap());
        }
        let first = scene.texts[2].len() - slots.len();
        let outputs = scene.context.decode(&mut batch).unwrap();
        for (index, slot) in slots.into_iter().enumerate() {
            let want = from_scratch(which, &scene.texts[2][..first + index + 1]);
            assert_equal(outputs.get(slot).unwrap(), &want, 1e-6, &format!("token {index} of {length}"));
        }
    }
}
