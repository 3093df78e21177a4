//! What random programs and their reading have found, each by itself.

use std::sync::atomic::{AtomicBool, Ordering};

use batch_suite::{exact_params, family, is_leak_check, prompt};
use fixtures::{Family, Weights};
use llama_safe::{
    Context, DecodeError, EmbedError, Embedder, EmbedderParams, KvLayout, OutputError, Pooling, SequenceError, Token,
};

/// A computation that overflows is an error where its outputs are read, and its numbers, which stay in memory and go
/// wherever a mask only hides them, are gone after `clear_all`. The fused attention of the CPU passes over what a mask
/// hides (ggml-cpu/ops.cpp, `ggml_compute_forward_flash_attn_ext_f16_one_chunk`), the other one adds to it.
pub fn numbers_that_are_none_are_told_and_cleared(which: Family) {
    let model = family(which, Weights::F32);
    let mut context = Context::new(&model, &exact_params().kv_layout(KvLayout::Unified)).expect("a context");
    let decode = |context: &mut Context, tokens: &[Token]| {
        let sequence = context.new_sequence().expect("a free sequence");
        let mut batch = context.new_batch();
        let slot = batch.prompt(&sequence, tokens).expect("room");
        context.decode(&mut batch).expect("a computation").get(slot).map(<[f32]>::to_vec)
    };
    let right = decode(&mut context, &prompt(1, 5)).expect("logits");
    let (width, last) = (model.width(), model.layers() - 1);
    context.set_control_vector(&vec![f32::MAX; (width * last) as usize], 1..=last).expect("finite numbers");
    assert_eq!(decode(&mut context, &prompt(2, 20)), Err(OutputError::NotNumbers { row: 19 }));
    context.clear_control_vector().expect("nothing to refuse");
    // Hidden by a mask, and multiplied with it.
    assert_eq!(
        decode(&mut context, &prompt(1, 5)),
        Err(OutputError::NotNumbers { row: 4 }),
        "if not, the error need not be"
    );
    context.clear_all().expect("nothing to refuse");
    assert_eq!(decode(&mut context, &prompt(1, 5)), Ok(right));
}

/// The same of an embedder, which clears its memory itself.
pub fn numbers_that_are_none_do_not_reach_the_next_texts(which: Family) {
    let model = family(which, Weights::F32);
    let settings = EmbedderParams::default().pooling(Pooling::Mean).batch_tokens(64).context(exact_params());
    let mut embedder = Embedder::new(&model, &settings).expect("an embedder");
    let texts: Vec<_> = (0..5).map(|text| prompt(text, 3 + 2 * text)).collect();
    let want = embedder.embed_tokens(&texts).expect("vectors");
    let (width, last) = (model.width(), model.layers() - 1);
    let context = embedder.context_mut();
    context.set_control_vector(&vec![f32::MAX; (width * last) as usize], 1..=last).expect("finite numbers");
    // In more cells than the others take over.
    assert!(matches!(embedder.embed_tokens(&[prompt(7, 60)]), Err(EmbedError::NotFinite { .. })));
    embedder.context_mut().clear_control_vector().expect("nothing to refuse");
    assert!(embedder.embed_tokens(&texts).expect("vectors") == want);
}

/// A sequence that another thread drops while it is decoded: its slot is good for the next, whichever came first.
pub fn sequences_dropped_while_they_are_decoded_leave_nothing(which: Family) {
    let mut context = Context::new(&family(which, Weights::F32), &exact_params().sequences(1)).expect("a context");
    for round in 0..if is_leak_check() { 20 } else { 500 } {
        let sequence = context.new_sequence().expect("the one sequence is free");
        let mut batch = context.new_batch();
        batch.extend(&sequence, &[Token(5), Token(6)]).expect("room");
        if let Err(error) = context.decode(&mut batch) {
            panic!("round {round}: {error}");
        }
        batch.push(&sequence, Token(7)).expect("room");
        let (ready, go) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                ready.store(true, Ordering::Release);
                while !go.load(Ordering::Acquire) {
                    std::hint::spin_loop();
                }
                (0..round % 50).for_each(|_| std::hint::spin_loop());
                drop(sequence);
            });
            while !ready.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            go.store(true, Ordering::Release);
            (0..round / 50 % 10).for_each(|_| std::hint::spin_loop());
            match context.decode(&mut batch) {
                Ok(_) | Err(DecodeError::Sequence(SequenceError::Stale { .. })) => {}
                Err(error) => panic!("round {round}: {error}"),
            }
        });
    }
}
