//! A decode happens or does not: aborted anywhere, it leaves no trace.

use std::time::Instant;

use batch_suite::{assert_equal, encoder, is_leak_check, model, params, prompt, tiny};
use fixtures::{Llama, Weights};
use llama_safe::{
    Batch, Context, ContextParams, DecodeError, FlashAttention, KvLayout, KvType, OutputSlot, Sequence, Token,
};

const LAYOUTS: [KvLayout; 2] = [KvLayout::Split, KvLayout::Unified];

/// A batch is several micro-batches. All in 32 bits, so that no rounding hides a trace.
fn settings(layout: KvLayout) -> ContextParams {
    let settings = params().sequences(4).context_tokens(1024).batch_tokens(64).micro_batch_tokens(8).kv_layout(layout);
    settings.kv_type(KvType::F32).flash_attention(FlashAttention::Off)
}

/// A context whose three sequences hold something already.
fn filled(layout: KvLayout) -> (Context, Vec<Sequence>) {
    let mut context = Context::new(&tiny(Weights::F32), &settings(layout)).unwrap();
    let sequences: Vec<Sequence> = (0..3).map(|_| context.new_sequence().unwrap()).collect();
    let mut batch = context.new_batch();
    for (index, sequence) in (0u32..).zip(&sequences) {
        batch.extend(sequence, &prompt(index, 5 + 4 * index)).unwrap();
    }
    context.decode(&mut batch).unwrap();
    (context, sequences)
}

/// Fills the batch to its last row: chunks of all sequences in turn, an output at the end of each.
fn fill(batch: &mut Batch, sequences: &[&Sequence]) -> Vec<OutputSlot> {
    let mut slots = Vec::new();
    let mut turn = 0u32;
    while batch.len() < batch.capacity() {
        let length = (3 + turn % 5).min(batch.capacity() - batch.len());
        let sequence = sequences[turn as usize % sequences.len()];
        slots.push(batch.prompt(sequence, &prompt(100 + turn, length)).unwrap());
        turn += 1;
    }
    slots
}

fn logits(context: &Context, slots: &[OutputSlot]) -> Vec<Vec<f32>> {
    let outputs = context.outputs().expect("the outputs of a decode that worked");
    slots.iter().map(|slot| outputs.get(*slot).unwrap().to_vec()).collect()
}

fn lengths(sequences: &[&Sequence]) -> Vec<u32> {
    sequences.iter().map(|sequence| sequence.len()).collect()
}

/// Everything is as it was before the decode: lengths, memory, the batch; and there are no outputs.
#[track_caller]
fn assert_untouched(context: &Context, sequences: &[&Sequence], before: &[u32], batch: &Batch) {
    assert_eq!(lengths(sequences), before);
    for (sequence, length) in sequences.iter().zip(before) {
        assert_eq!(context.span(sequence).unwrap(), 0..*length);
        assert!(!sequence.is_damaged());
    }
    assert_eq!(batch.len(), batch.capacity(), "the batch is kept");
    assert!(context.outputs().is_none(), "no outputs of a decode that did not happen");
}

#[track_caller]
fn assert_all_equal(got: &[Vec<f32>], want: &[Vec<f32>], what: &str) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert_equal(got, want, 1e-9, what);
    }
}

/// Aborts a decode of `sequences` at one place after the other, from its first operation to its last, and each time does
/// it again unhindered. Returns the last place, as a count of operations.
fn abort_everywhere(context: &mut Context, sequences: &[&Sequence], want: &[Vec<f32>]) -> u32 {
    let before = lengths(sequences);
    let abort = context.abort_handle();
    let mut batch = context.new_batch();
    let mut last = 0;
    // A checker of memory sees each kind of node abort in a fraction of them.
    for checks in (0..).step_by(if is_leak_check() { 37 } else { 1 }) {
        let slots = fill(&mut batch, sequences);
        abort.abort_after(checks);
        match context.decode(&mut batch).map(drop) {
            Err(DecodeError::Aborted { damaged }) => {
                assert_eq!(damaged, [], "aborted after {checks} checks");
                assert_untouched(context, sequences, &before, &batch);
                last = checks;
                abort.reset();
                context.decode(&mut batch).expect("the same batch, unhindered");
            }
            // Fewer checks than that in the whole of it.
            Ok(()) => {
                abort.reset();
                assert_all_equal(&logits(context, &slots), want, "not aborted");
                break;
            }
            Err(error) => panic!("aborted after {checks} checks: {error}"),
        }
        assert!(batch.is_empty());
        assert_all_equal(&logits(context, &slots), want, &format!("after an abort at check {checks}"));
        for (sequence, length) in sequences.iter().zip(&before) {
            context.truncate(sequence, *length).unwrap();
        }
    }
    last
}

#[test]
fn an_abort_anywhere_leaves_no_trace() {
    for layout in LAYOUTS {
        let (mut undisturbed, owned) = filled(layout);
        let mut batch = undisturbed.new_batch();
        let slots = fill(&mut batch, &owned.iter().collect::<Vec<_>>());
        undisturbed.decode(&mut batch).unwrap();
        let want = logits(&undisturbed, &slots);

        let (mut context, owned) = filled(layout);
        let sequences: Vec<&Sequence> = owned.iter().collect();
        let last = abort_everywhere(&mut context, &sequences, &want);
        // Eight micro-batches of two layers at least, each layer of more than ten operations.
        println!("{layout:?}: aborted at up to {last} operations");
        assert!(last > 160, "{layout:?}: only {last} operations");
    }
}

/// A fork that no decode has carried out yet survives the abort of the one that does.
#[test]
fn a_fork_survives_an_abort() {
    for layout in LAYOUTS {
        let (mut undisturbed, mut owned) = filled(layout);
        owned.push(undisturbed.fork(&owned[2]).unwrap());
        let mut batch = undisturbed.new_batch();
        let slots = fill(&mut batch, &owned.iter().collect::<Vec<_>>());
        undisturbed.decode(&mut batch).unwrap();
        let want = logits(&undisturbed, &slots);

        for checks in [0, 1, 2, 10, 60, 150] {
            let (mut context, mut owned) = filled(layout);
            owned.push(context.fork(&owned[2]).unwrap());
            let sequences: Vec<&Sequence> = owned.iter().collect();
            let before = lengths(&sequences);
            let mut batch = context.new_batch();
            let slots = fill(&mut batch, &sequences);
            context.abort_handle().abort_after(checks);
            assert_eq!(context.decode(&mut batch).unwrap_err(), DecodeError::Aborted { damaged: vec![] });
            assert_untouched(&context, &sequences, &before, &batch);
            context.abort_handle().reset();
            context.decode(&mut batch).unwrap();
            assert_all_equal(&logits(&context, &slots), &want, &format!("{layout:?}, abort at check {checks}"));
        }
    }
}

/// An abort stays in force until it is taken back, and the batch can wait for that as long as it likes.
#[test]
fn an_abort_lasts_until_reset() {
    let (mut context, owned) = filled(KvLayout::Split);
    let sequences: Vec<&Sequence> = owned.iter().collect();
    let before = lengths(&sequences);
    let abort = context.abort_handle();
    let mut batch = context.new_batch();
    let slots = fill(&mut batch, &sequences);
    abort.abort_after(100);
    for _ in 0..5 {
        assert_eq!(context.decode(&mut batch).unwrap_err(), DecodeError::Aborted { damaged: vec![] });
        assert_untouched(&context, &sequences, &before, &batch);
    }
    abort.reset();
    let outputs = context.decode(&mut batch).unwrap();
    for slot in slots {
        assert!(outputs.get(slot).is_ok(), "a promise is good for the batch however often it is tried");
    }
    // Nothing of the context is needed by a handle.
    drop(context);
    abort.abort();
}

/// Outputs of an earlier decode are gone once a later one was aborted.
#[test]
fn no_outputs_after_an_abort() {
    let (mut context, owned) = filled(KvLayout::Split);
    let mut batch = context.new_batch();
    let early = batch.push_output(&owned[0], Token(7)).unwrap();
    context.decode(&mut batch).unwrap();
    assert!(context.outputs().unwrap().get(early).is_ok());
    let late = batch.push_output(&owned[0], Token(8)).unwrap();
    context.abort_handle().abort();
    assert!(context.decode(&mut batch).is_err());
    assert!(context.outputs().is_none());
    context.abort_handle().reset();
    context.decode(&mut batch).unwrap();
    assert!(context.outputs().unwrap().get(late).is_ok());
    assert!(context.outputs().unwrap().get(early).is_err());
}

/// Keys that are half rotated cannot be told from others: the decode that rotates them runs to its end, and the abort
/// meets the next one.
#[test]
fn a_shift_that_waits_is_not_aborted() {
    for layout in LAYOUTS {
        let shifted = || {
            let (mut context, owned) = filled(layout);
            context.shift(&owned[2], 2..6).unwrap();
            (context, owned)
        };
        let (mut undisturbed, owned) = shifted();
        let mut batch = undisturbed.new_batch();
        let slots = fill(&mut batch, &owned.iter().collect::<Vec<_>>());
        undisturbed.decode(&mut batch).unwrap();
        let want = logits(&undisturbed, &slots);

        for checks in 0..4 {
            let (mut context, owned) = shifted();
            let sequences: Vec<&Sequence> = owned.iter().collect();
            let abort = context.abort_handle();
            abort.abort_after(checks);
            let mut batch = context.new_batch();
            let slots = fill(&mut batch, &sequences);
            context.decode(&mut batch).expect("a decode that must not be aborted");
            assert_all_equal(&logits(&context, &slots), &want, &format!("{layout:?}, {checks} checks"));

            let before = lengths(&sequences);
            fill(&mut batch, &sequences);
            assert_eq!(context.decode(&mut batch).unwrap_err(), DecodeError::Aborted { damaged: vec![] });
            assert_untouched(&context, &sequences, &before, &batch);
        }
    }
}

#[test]
fn an_encoder_can_be_aborted() {
    let settings = params().sequences(2).embeddings(true).batch_tokens(64).micro_batch_tokens(64);
    let mut context = Context::new(&encoder(), &settings).unwrap();
    let sequence = context.new_sequence().unwrap();
    let mut batch = context.new_batch();
    batch.prompt(&sequence, &prompt(1, 20)).unwrap();
    let want = context.encode(&mut batch).unwrap().sequence_embedding(&sequence).unwrap().to_vec();
    batch.prompt(&sequence, &prompt(1, 20)).unwrap();
    context.abort_handle().abort_after(10);
    assert_eq!(context.encode(&mut batch).unwrap_err(), DecodeError::Aborted { damaged: vec![] });
    assert!(context.outputs().is_none());
    context.abort_handle().reset();
    let got = context.encode(&mut batch).unwrap().sequence_embedding(&sequence).unwrap();
    assert_equal(got, &want, 1e-6, "encoded after an abort");
}

#[test]
fn another_thread_ends_a_long_decode() {
    let shape = Llama { layers: 4, width: 256, heads: 8, kv_heads: 4, feed_forward: 1024, ..Llama::tiny() };
    let model = model(&shape, Weights::F16, 1);
    let settings = params().context_tokens(1024).batch_tokens(1024);
    let mut context = Context::new(&model, &settings).unwrap();
    let sequence = context.new_sequence().unwrap();
    let mut batch = context.new_batch();
    let text = prompt(1, 1024);
    batch.prompt(&sequence, &text).unwrap();
    let start = Instant::now();
    context.decode(&mut batch).unwrap();
    let whole = start.elapsed();
    context.clear(&sequence).unwrap();

    // The aborting thread may be held up until the decode is over; not every time.
    for _ in 0..10 {
        batch.prompt(&sequence, &text).unwrap();
        let abort = context.abort_handle();
        let aborter = std::thread::spawn(move || {
            std::thread::sleep(whole / 5);
            abort.abort();
        });
        let start = Instant::now();
        let result = context.decode(&mut batch).map(drop);
        println!("the whole takes {whole:?}, aborted it took {:?}", start.elapsed());
        aborter.join().unwrap();
        // Whatever the clock says: a decode that reports an abort did not run to its end.
        if result.is_err() {
            assert_eq!(result, Err(DecodeError::Aborted { damaged: vec![] }));
            assert_eq!((sequence.len(), context.span(&sequence).unwrap(), batch.len()), (0, 0..0, 1024));
            return;
        }
        context.abort_handle().reset();
        context.clear(&sequence).unwrap();
    }
    panic!("no decode was aborted");
}
