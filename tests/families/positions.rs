//! Positions of four numbers: pictures between texts.

use std::ops::Range;

use batch_suite::{assert_equal, decode_alone, exact_params, family, nmse, prompt, tiny};
use fixtures::{Family, Weights};
use llama_safe::{
    Context, ContextParams, DecodeError, KvLayout, MemoryError, Model, Place, PushError, Sequence, Token,
};

const WIDTH: usize = 64;

fn model() -> Model {
    family(Family::Qwen2Vl, Weights::F32)
}

fn three() -> ContextParams {
    exact_params().sequences(3).context_tokens(768)
}

/// An input embedding that a picture's part could have: numbers like those of the tokens' embeddings.
fn part(salt: u32, index: u32) -> Vec<f32> {
    let number = |at: u32| ((salt * 7919 + index * 131 + at * 31 + at * at * 17) % 101) as f32 / 101.0 - 0.5;
    (0..WIDTH as u32).map(|at| 0.5 * number(at)).collect()
}

/// Pushes a picture of so many rows and columns that follows `start`, with an output for its last part.
fn picture(
    batch: &mut llama_safe::Batch,
    sequence: &Sequence,
    salt: u32,
    start: u32,
    [rows, columns]: [u32; 2],
) -> Result<llama_safe::OutputSlot, PushError> {
    let mut last = None;
    for row in 0..rows {
        for column in 0..columns {
            let place = Place { time: start, height: start + row, width: start + column, fourth: 0 };
            last = Some(batch.push_embedding_output_at(sequence, &part(salt, row * columns + column), place)?);
        }
    }
    last.ok_or(PushError::NoTokens)
}

/// A text, a picture, a text, for each of some sequences: the logits after the picture and after each token of the last text.
fn program(context: &mut Context, which: Range<u32>) -> Vec<Vec<Vec<f32>>> {
    let sequences: Vec<_> = which.clone().map(|_| context.new_sequence().expect("a sequence")).collect();
    let mut all = vec![Vec::new(); sequences.len()];
    let mut tokens = context.new_batch();
    for (index, sequence) in which.clone().zip(&sequences) {
        tokens.extend(sequence, &prompt(index, 3 + 2 * index)).expect("room");
    }
    context.decode(&mut tokens).expect("a decode");

    let mut parts = context.new_embedding_batch();
    let slots: Vec<_> = which
        .clone()
        .zip(&sequences)
        .map(|(index, sequence)| {
            picture(&mut parts, sequence, index, sequence.len(), [2 + index, 5 - index]).expect("room")
        })
        .collect();
    let outputs = context.decode(&mut parts).expect("a decode");
    for (all, slot) in all.iter_mut().zip(slots) {
        all.push(outputs.get(slot).expect("logits").to_vec());
    }
    for (index, sequence) in which.clone().zip(&sequences) {
        assert_eq!(sequence.len(), 3 + 2 * index + (2 + index).max(5 - index), "the next position");
        assert_eq!(context.span(sequence), Ok(0..3 + 2 * index + 1), "a picture is at one");
    }
    for step in 0..2 {
        let slots: Vec<_> = which
            .clone()
            .zip(&sequences)
            .map(|(index, sequence)| tokens.prompt(sequence, &prompt(20 + index, 2 + step)).expect("room"))
            .collect();
        let outputs = context.decode(&mut tokens).expect("a decode");
        for (all, slot) in all.iter_mut().zip(slots) {
            all.push(outputs.get(slot).expect("logits").to_vec());
        }
    }
    all
}

/// Texts and pictures of several sequences in common batches, against each alone and one row at a time.
pub fn pictures_equal_single() {
    let alone: Vec<_> = (0..3)
        .map(|index| {
            let params = exact_params().sequences(1).micro_batch_tokens(1);
            program(&mut Context::new(&model(), &params).expect("a context"), index..index + 1).remove(0)
        })
        .collect();
    for layout in [KvLayout::Split, KvLayout::Unified] {
        for micro_batch_tokens in [512, 7] {
            let params = three().kv_layout(layout).micro_batch_tokens(micro_batch_tokens);
            let got = program(&mut Context::new(&model(), &params).expect("a context"), 0..3);
            for (index, (got, want)) in got.iter().zip(&alone).enumerate() {
                for (step, (got, want)) in got.iter().zip(want).enumerate() {
                    assert_equal(
                        got,
                        want,
                        1e-6,
                        &format!("{layout:?} {micro_batch_tokens} sequence {index} step {step}"),
                    );
                }
            }
        }
    }
}

/// The embeddings of the model's tokens, which are the first tensor of the file.
fn token_embeddings() -> Vec<f32> {
    let gguf = Family::Qwen2Vl.gguf(Weights::F32, 1).expect("a model");
    let layer = 2 * 64 + 2 * 64 * 64 + 2 * 64 * 32 + (64 + 32 + 32) + 3 * 64 * 128;
    let data = 4 * (2 * 512 * WIDTH + 64 + 2 * layer);
    let (floats, _) = gguf[gguf.len() - data..].as_chunks::<4>();
    floats[..512 * WIDTH].iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// An embedding of a token, where the token would stand, is the token: all four numbers reach llama.cpp in their order.
pub fn embeddings_of_tokens_are_tokens() {
    let (text, embeddings) = (prompt(1, 9), token_embeddings());
    let mut context = Context::new(&model(), &three()).expect("a context");
    let want = decode_alone(&mut context, &text);
    let embedding = |token: Token| &embeddings[token.0 as usize * WIDTH..][..WIDTH];
    for given in [false, true] {
        // Two sequences, pushed against the order of their slots.
        let [first, second] = [0, 1].map(|_| context.new_sequence().expect("a sequence"));
        let mut batch = context.new_embedding_batch();
        let mut slots = Vec::new();
        for (position, token) in (0..).zip(&text) {
            for sequence in [&second, &first] {
                let place = Place { time: position, height: position, width: position, fourth: 0 };
                let slot = match given {
                    true => batch.push_embedding_output_at(sequence, embedding(*token), place),
                    false => batch.push_embedding_output(sequence, embedding(*token)),
                };
                slots.push((position as usize, slot.expect("room")));
            }
        }
        let outputs = context.decode(&mut batch).expect("a decode");
        for (position, slot) in slots {
            let got = outputs.get(slot).expect("logits");
            assert_equal(got, &want[position], 1e-6, &format!("token {position}, place given: {given}"));
        }
        assert_eq!((first.len(), second.len()), (9, 9));
    }
}

/// Each of the numbers means what it is called, and distances count, not positions.
pub fn places_are_what_they_are_called() {
    let mut context = Context::new(&model(), &three()).expect("a context");
    let mut logits = |places: &dyn Fn(u32) -> Place| {
        let sequence = context.new_sequence().expect("a sequence");
        let mut batch = context.new_embedding_batch();
        let slots = [0, 1, 2, 3].map(|index| batch.push_embedding_output_at(&sequence, &part(3, index), places(index)));
        let slot = slots[3].expect("room");
        context.decode(&mut batch).expect("a decode").get(slot).expect("logits").to_vec()
    };
    let row = |index| Place { time: 5, height: 5, width: 5 + index, fourth: 0 };
    let want = logits(&row);
    let close = |got: &[f32]| nmse(got, &want) <= 1e-6;
    // The model's fourth section is empty.
    assert!(close(&logits(&|index| Place { fourth: index * 3, ..row(index) })), "the fourth number counts");
    assert!(close(&logits(&|index| Place { time: 9, height: 9, width: 9 + index, fourth: 0 })), "positions count");
    for (what, different) in [
        ("height", &(|index| Place { height: 5 + index, width: 5, ..row(index) }) as &dyn Fn(u32) -> Place),
        ("time", &|index| Place { time: 5 + index, width: 5, ..row(index) }),
        ("width", &|index| Place { width: 5 + 2 * index, ..row(index) }),
    ] {
        assert!(nmse(&logits(different), &want) > 1e-4, "{what} does not count");
    }
}

/// What llama.cpp cannot tell apart, or reads out of bounds.
pub fn places_are_checked() {
    let mut context = Context::new(&model(), &three()).expect("a context");
    let sequence = context.new_sequence().expect("a sequence");
    let id = sequence.id();
    let mut tokens = context.new_batch();
    tokens.extend(&sequence, &prompt(1, 4)).expect("room");
    context.decode(&mut tokens).expect("a decode");
    let mut batch = context.new_embedding_batch();
    let place = |time, height, width| Place { time, height, width, fourth: 0 };
    let mut push = |place| batch.push_embedding_at(&sequence, &part(1, 0), place);
    assert_eq!(push(place(3, 9, 9)), Err(PushError::PlaceInThePast { id, place: place(3, 9, 9), first: 4 }));
    push(place(4, 5, 6)).expect("free");
    for bad in [place(4, 5, 6), place(4, 5, 5), place(4, 4, 9), place(3, 9, 9)] {
        assert_eq!(push(bad), Err(PushError::PlaceOutOfOrder { id, place: bad, after: place(4, 5, 6) }));
    }
    for bad in [place(256, 0, 0), place(5, 256, 5), place(5, 5, u32::MAX), Place { fourth: 256, ..place(5, 5, 5) }] {
        assert_eq!(push(bad), Err(PushError::PlaceBeyondContext { id, place: bad, limit: 256 }));
    }
    assert_eq!((batch.len(), batch.position(0), batch.place(0)), (1, Some(4), Some(place(4, 5, 6))));
    assert_eq!((batch.place(1), tokens.place(0), context.limits().positions_per_embedding()), (None, None, 4));
    assert_eq!(
        batch.push_embedding_at(&sequence, &[0.0; 3], place(5, 5, 5)),
        Err(PushError::EmbeddingWidth { got: 3, expected: 64 })
    );
    context.decode(&mut batch).expect("a decode");
    assert_eq!(sequence.len(), 7);

    // A model with one position.
    let mut context = Context::new(&tiny(Weights::F32), &three()).expect("a context");
    let sequence = context.new_sequence().expect("a sequence");
    let mut batch = context.new_embedding_batch();
    assert_eq!(batch.push_embedding_at(&sequence, &part(1, 0), place(0, 0, 0)), Err(PushError::OnePosition));
    batch.push_embedding(&sequence, &part(1, 0)).expect("room");
}

/// Memory knows a picture by one position: it can be kept or dropped as a whole with all before it, never cut.
pub fn pictures_are_not_cut() {
    let (model, params) = (model(), three());
    let want = program(&mut Context::new(&model, &params).expect("a context"), 0..1).remove(0);
    for layout in [KvLayout::Split, KvLayout::Unified] {
        let mut context = Context::new(&model, &params.clone().kv_layout(layout)).expect("a context");
        let sequence = context.new_sequence().expect("a sequence");
        let mut tokens = context.new_batch();
        tokens.extend(&sequence, &prompt(0, 3)).expect("room");
        context.decode(&mut tokens).expect("a decode");
        let mut parts = context.new_embedding_batch();
        picture(&mut parts, &sequence, 0, 3, [2, 5]).expect("room");
        context.decode(&mut parts).expect("a decode");
        // To be forgotten again.
        tokens.extend(&sequence, &prompt(9, 4)).expect("room");
        context.decode(&mut tokens).expect("a decode");
        assert_eq!(sequence.len(), 12);
        for length in 1..8 {
            assert!(context.truncate(&sequence, length).is_err(), "cut at {length}");
            assert!(context.fork_prefix(&sequence, length).is_err(), "forked at {length}");
        }
        assert!(matches!(context.shift(&sequence, 1..2), Err(MemoryError::CannotShift { .. })));
        let fork = context.fork_prefix(&sequence, 8).expect("a fork");
        context.truncate(&sequence, 10).expect("after the picture");
        context.truncate(&sequence, 8).expect("at the picture's end");
        for sequence in [&sequence, &fork] {
            assert_eq!((sequence.len(), context.span(sequence)), (8, Ok(0..4)));
            for step in 0..2 {
                let slot = tokens.prompt(sequence, &prompt(20, 2 + step)).expect("room");
                let outputs = context.decode(&mut tokens).expect("a decode");
                assert_equal(outputs.get(slot).expect("logits"), &want[1 + step as usize], 1e-6, "after the cut");
            }
        }
        context.clear(&sequence).expect("a clear");
        tokens.extend(&sequence, &prompt(1, 12)).expect("room");
        context.decode(&mut tokens).expect("a decode");
        context.truncate(&sequence, 3).expect("the picture is forgotten");
    }
}

/// A film goes on in the next decode, at the next time, though its pictures are wider than that; and an aborted decode is
/// taken back without a trace.
pub fn aborted_pictures_are_rolled_back() {
    let film = |context: &mut Context, abort: bool| {
        let sequence = context.new_sequence().expect("a sequence");
        let mut batch = context.new_embedding_batch();
        let mut got = Vec::new();
        for time in 0..3 {
            let mut slot = None;
            for (row, column) in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2)] {
                let place = Place { time, height: row, width: column, fourth: 0 };
                slot = Some(
                    batch.push_embedding_output_at(&sequence, &part(time, row * 3 + column), place).expect("room"),
                );
            }
            for checks in if abort { vec![0, 10, 40] } else { vec![] } {
                let handle = context.abort_handle();
                handle.abort_after(checks);
                let aborted = context.decode(&mut batch).map(drop);
                handle.reset();
                assert_eq!(aborted, Err(DecodeError::Aborted { damaged: vec![] }), "picture {time}");
                assert_eq!(context.span(&sequence), Ok(0..time));
            }
            let outputs = context.decode(&mut batch).expect("a decode");
            got.push(outputs.get(slot.expect("parts")).expect("logits").to_vec());
            assert_eq!((sequence.len(), context.span(&sequence)), (3, Ok(0..time + 1)));
        }
        got
    };
    let params = three().micro_batch_tokens(3);
    let want = film(&mut Context::new(&model(), &params).expect("a context"), false);
    let got = film(&mut Context::new(&model(), &params).expect("a context"), true);
    for (got, want) in got.iter().zip(&want) {
        assert_equal(got, want, 1e-6, "after the aborts");
    }
    // At once.
    let mut context = Context::new(&model(), &three()).expect("a context");
    let sequence = context.new_sequence().expect("a sequence");
    let mut batch = context.new_embedding_batch();
    let mut slots = Vec::new();
    for time in 0..3 {
        for (row, column) in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2)] {
            let place = Place { time, height: row, width: column, fourth: 0 };
            slots.push(batch.push_embedding_output_at(&sequence, &part(time, row * 3 + column), place).expect("room"));
        }
    }
    let outputs = context.decode(&mut batch).expect("a decode");
    for (time, want) in want.iter().enumerate() {
        assert_equal(outputs.get(slots[time * 5 + 4]).expect("logits"), want, 1e-6, "the film at once");
    }
}
