//! A sequence that was saved goes on elsewhere as if nothing had happened.

use batch_suite::{assert_equal, decode_alone, family, params, prompt};
use fixtures::{Family, Weights};
use llama_safe::{
    Context, ContextParams, DecodeError, FlashAttention, KvLayout, KvType, MemoryError, Place, Sequence, State,
    StateError, Token,
};

const LAYOUTS: [KvLayout; 2] = [KvLayout::Split, KvLayout::Unified];

/// All in 32 bits, so that nothing is lost to rounding.
fn settings(layout: KvLayout, sequences: u32) -> ContextParams {
    let settings = params().sequences(sequences).context_tokens(256 * sequences).kv_layout(layout);
    settings.batch_tokens(128).micro_batch_tokens(32).kv_type(KvType::F32).flash_attention(FlashAttention::Off)
}

/// The logits after each of `tokens`, one a call.
fn go_on(context: &mut Context, sequence: &Sequence, tokens: &[Token]) -> Vec<Vec<f32>> {
    let mut batch = context.new_batch();
    let step = |token: &Token| {
        let slot = batch.push_output(sequence, *token).expect("room");
        context.decode(&mut batch).expect("a decode").get(slot).expect("logits").to_vec()
    };
    tokens.iter().map(step).collect()
}

/// A context in which `texts` were decoded in one batch.
fn filled(which: Family, settings: &ContextParams, texts: &[Vec<Token>]) -> (Context, Vec<Sequence>) {
    let mut context = Context::new(&family(which, Weights::F32), settings).expect("a context");
    let sequences: Vec<_> = texts.iter().map(|_| context.new_sequence().expect("a sequence")).collect();
    let mut batch = context.new_batch();
    for (sequence, text) in sequences.iter().zip(texts) {
        batch.extend(sequence, text).expect("room");
    }
    context.decode(&mut batch).expect("a decode");
    (context, sequences)
}

/// Into contexts of other sizes and layouts, into another slot, beside other sequences; the next five tokens are the
/// same as without. Longer than Gemma's window of 8.
pub fn survives_restore(which: Family) {
    let texts: Vec<_> = (0..2).map(|index| prompt(index, 21 + 5 * index)).collect();
    let next = prompt(7, 5);
    for from in LAYOUTS {
        let (mut context, sequences) = filled(which, &settings(from, 3), &texts);
        let one = context.save(&sequences[1]).expect("a state");
        let all = context.save_all().expect("a state");
        let one = State::from_bytes(one.into_bytes()).expect("its own bytes");
        let want = [go_on(&mut context, &sequences[0], &next), go_on(&mut context, &sequences[1], &next)];
        let compare = |got: Vec<Vec<f32>>, want: &[Vec<f32>], to| {
            for (got, want) in got.iter().zip(want) {
                assert_equal(got, want, 1e-6, &format!("{which} from {from:?} to {to:?}"));
            }
        };
        for to in LAYOUTS {
            let mut context = Context::new(&family(which, Weights::F32), &settings(to, 4)).expect("a context");
            let other = context.new_sequence().expect("a sequence");
            let before = go_on(&mut context, &other, &texts[0]);
            let restored = context.restore(&one).expect("a sequence");
            assert_eq!(restored.len(), texts[1].len() as u32);
            assert!(context.outputs().is_none());
            compare(go_on(&mut context, &restored, &next), &want[1], to);
            compare(go_on(&mut context, &other, &next), &want[0], to);
            drop((restored, other));
            let both = context.restore_all(&all).expect("two sequences");
            for (sequence, want) in both.iter().zip(&want) {
                compare(go_on(&mut context, sequence, &next), want, to);
            }
            drop(both);
            compare(decode_alone(&mut context, &texts[0]), &before, to);
        }
    }
}

/// A state has the last 8 tokens in the layers with a window, also from a context that keeps all of them, and into one.
pub fn goes_back_within_the_window() {
    let text = prompt(1, 40);
    for keeps in [[true, true], [true, false], [false, true]] {
        let [from, to] = keeps.map(|keeps| settings(KvLayout::Split, 2).keep_past_window(keeps));
        let (mut context, sequences) = filled(Family::Gemma, &from, std::slice::from_ref(&text));
        let state = context.save(&sequences[0]).expect("a state");
        let mut context = Context::new(&family(Family::Gemma, Weights::F32), &to).expect("a context");
        let restored = context.restore(&state).expect("a sequence");
        assert!(matches!(context.truncate(&restored, 38), Err(MemoryError::CannotTruncate { .. })), "{keeps:?}");
        context.truncate(&restored, 39).expect("the window of the next token is there");
        let got = go_on(&mut context, &restored, &[Token(17)]);
        let want = decode_alone(&mut context, &[&text[..39], &[Token(17)]].concat());
        assert_equal(&got[0], &want[39], 1e-6, &format!("{keeps:?}"));
    }
}

/// A picture between two texts, and one at the end: many cells at one position, and positions without any.
pub fn pictures_survive_restore() {
    let which = Family::Qwen2Vl;
    for (from, after) in LAYOUTS.into_iter().flat_map(|from| [(from, 0), (from, 3)]) {
        let (mut context, sequences) = filled(which, &settings(from, 2), &[prompt(1, 6)]);
        let sequence = &sequences[0];
        let mut batch = context.new_embedding_batch();
        for part in 0..15u32 {
            let embedding: Vec<f32> = (0..64).map(|at| ((part * 131 + at * 31) % 101) as f32 / 200.0 - 0.25).collect();
            let place = Place { time: 6, height: 6 + part / 5, width: 6 + part % 5, fourth: 0 };
            batch.push_embedding_at(sequence, &embedding, place).expect("room");
        }
        context.decode(&mut batch).expect("a picture");
        assert_eq!(sequence.len(), 11);
        go_on(&mut context, sequence, &prompt(2, after));
        let state = context.save(sequence).expect("a state");
        let next = prompt(7, 3);
        let want = go_on(&mut context, sequence, &next);
        for to in LAYOUTS {
            let mut context = Context::new(&family(which, Weights::F32), &settings(to, 3)).expect("a context");
            let restored = context.restore(&state).expect("a sequence");
            assert_eq!(restored.len(), 11 + after);
            assert!(context.truncate(&restored, 8).is_err(), "a part of a picture");
            for (got, want) in go_on(&mut context, &restored, &next).iter().zip(&want) {
                assert_equal(got, want, 1e-6, &format!("a picture from {from:?} to {to:?}, and {after} tokens"));
            }
        }
    }
}

/// Of an encoder-decoder the text is saved, and encoded again: after a restore the sequences are decoded as forks are.
pub fn encoded_survive_restore() {
    let encode = |context: &mut Context, texts: &[(&Sequence, &[Token])]| {
        let mut batch = context.new_encoder_batch();
        for (sequence, text) in texts {
            batch.extend(sequence, text).expect("room");
        }
        context.encode(&mut batch).map(drop)
    };
    let model = family(Family::T5, Weights::F32);
    let texts = [prompt(1, 7), prompt(2, 10)];
    let next = prompt(7, 3);
    // Its cells are unified, whatever is asked for.
    let mut context = Context::new(&model, &settings(KvLayout::Unified, 3)).expect("a context");
    let sequences = [(); 2].map(|()| context.new_sequence().expect("a sequence"));
    let pairs = [(&sequences[0], &texts[0][..]), (&sequences[1], &texts[1][..])];
    encode(&mut context, &pairs).expect("an encoding");
    for (index, sequence) in sequences.iter().enumerate() {
        go_on(&mut context, sequence, &prompt(3, 4 + index as u32));
    }
    let fork = context.fork(&sequences[1]).expect("a fork");
    let all = context.save_all().expect("a state");
    drop(fork);
    let want = pairs.map(|(sequence, _)| go_on(&mut context, sequence, &next));

    let mut context = Context::new(&model, &settings(KvLayout::Unified, 4)).expect("a context");
    let restored = context.restore_all(&all).expect("three sequences");
    let ids = [0, 1, 2].map(|index| restored[index].id());
    let mut batch = context.new_batch();
    batch.push(&restored[0], next[0]).expect("room");
    assert_eq!(context.decode(&mut batch).map(drop), Err(DecodeError::NotEncoded { id: ids[0] }));
    let other = encode(&mut context, &[(&restored[2], &texts[0])]);
    assert_eq!(other, Err(DecodeError::EncodedOtherwise { id: ids[2], length: 5 }));
    let pairs = [(&restored[0], &texts[0][..]), (&restored[1], &texts[1]), (&restored[2], &texts[1])];
    encode(&mut context, &pairs).expect("an encoding");
    for (sequence, want) in restored.iter().zip([&want[0], &want[1], &want[1]]) {
        for (got, want) in go_on(&mut context, sequence, &next).iter().zip(want) {
            assert_equal(got, want, 1e-6, "t5 after a restore");
        }
    }
}

/// Without a memory there is nothing to save.
pub fn is_refused(which: Family) {
    let mut context = Context::new(&family(which, Weights::F32), &params()).expect("a context");
    let sequence = context.new_sequence().expect("a sequence");
    assert!(matches!(context.save(&sequence), Err(StateError::NoMemory)));
    assert!(matches!(context.save_all(), Err(StateError::NoMemory)));
}
