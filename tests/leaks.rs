//! What is made and dropped again and again leaves nothing behind: resident memory stays flat.
//!
//! `cargo test --test leaks -- --nocapture` prints the figures.

use std::ops::ControlFlow;
use std::sync::{Mutex, MutexGuard, PoisonError};

use batch_suite::{encoder, is_leak_check, params, resident, tiny};
use fixtures::{Llama, Weights};
use llama_safe::{
    Context, ContextError, ContextParams, EmbedError, Embedder, EmbedderParams, LoadError, LoadMode, Model,
    ModelParams, Pooling, State, Token,
};

/// Growth that is no leak: pages that the allocator keeps, and that the kernel counts late.
const ALLOWED: i64 = 4 << 20;

/// Resident memory is of the process: one measurement at a time.
fn alone_in_the_process() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `cycle` `cycles` times and measures from the end of the first tenth, when every cache is warm.
#[track_caller]
fn stays_flat(what: &str, cycles: u32, mut cycle: impl FnMut(u32)) {
    let warm = cycles / 10;
    (0..warm).for_each(&mut cycle);
    let before = resident();
    (warm..cycles).for_each(&mut cycle);
    let (Some(before), Some(after)) = (before, resident()) else {
        println!("{what}: {cycles} cycles, resident memory is not known on this system");
        return;
    };
    let growth = after - before;
    println!(
        "{what}: {cycles} cycles, resident {before} bytes after {warm}, {after} at the end, growth {growth} bytes"
    );
    assert!(is_leak_check() || growth <= ALLOWED, "{what}: resident memory grew by {growth} bytes");
}

fn small() -> ContextParams {
    params().context_tokens(256).batch_tokens(64)
}

#[test]
fn states() {
    let _alone = alone_in_the_process();
    let mut context = Context::new(&tiny(Weights::F16), &small().sequences(2)).unwrap();
    let sequence = context.new_sequence().unwrap();
    let mut batch = context.new_batch();
    batch.extend(&sequence, &[Token(5); 40]).unwrap();
    context.decode(&mut batch).unwrap();
    let good = context.save(&sequence).unwrap();
    stays_flat("save and restore", if is_leak_check() { 20 } else { 1000 }, |cycle| {
        let state = context.save(&sequence).unwrap();
        assert_eq!(context.restore(&state).unwrap().len(), 40);
        let mut bytes = state.into_bytes();
        let index = cycle as usize % bytes.len();
        bytes[index] ^= 1;
        assert!(State::from_bytes(bytes).is_err());
        if cycle % 10 == 0 {
            let mut other = Context::new(&tiny(Weights::F16), &small()).unwrap();
            assert!(other.restore_all(&good).is_ok());
        }
    });
}

#[test]
fn batches() {
    let _alone = alone_in_the_process();
    let mut context = Context::new(&tiny(Weights::F16), &small()).unwrap();
    stays_flat("batch and sequence", if is_leak_check() { 50 } else { 10_000 }, |cycle| {
        let sequence = context.new_sequence().unwrap();
        let mut batch = context.new_batch();
        let slot = batch.push_output(&sequence, Token(cycle as i32 % 500)).unwrap();
        assert!(context.decode(&mut batch).unwrap().get(slot).is_ok());
        // The other way to go: dropped while it is full, before its sequence or after.
        batch.push(&sequence, Token(1)).unwrap();
        if cycle % 2 == 0 {
            drop(sequence);
        }
    });
}

#[test]
fn contexts() {
    let _alone = alone_in_the_process();
    let model = tiny(Weights::F16);
    stays_flat("context", if is_leak_check() { 3 } else { 200 }, |cycle| {
        let mut context = Context::new(&model, &small().sequences(2)).unwrap();
        let sequence = context.new_sequence().unwrap();
        let mut batch = context.new_batch();
        batch.push_output(&sequence, Token(cycle as i32)).unwrap();
        context.decode(&mut batch).unwrap();
        let fork = context.fork(&sequence).unwrap();
        // Sequences and batches may outlive their context.
        drop(context);
        drop((batch, fork, sequence));
    });
}

#[test]
fn embedders() {
    let _alone = alone_in_the_process();
    let texts: Vec<[Token; 3]> = (0..40).map(|text| [Token(text), Token(text + 1), Token(5)]).collect();
    let settings = EmbedderParams::default().context(small()).pooling(Pooling::Mean).batch_tokens(64);
    stays_flat("embedder", if is_leak_check() { 3 } else { 200 }, |cycle| {
        let model = if cycle % 2 == 0 { tiny(Weights::F16) } else { encoder() };
        let mut embedder = Embedder::new(&model, &settings).unwrap();
        assert_eq!(embedder.embed_tokens(&texts).unwrap().batches(), 2);
        // Refused before it is computed, and stopped while it is.
        assert!(matches!(embedder.embed_tokens(&[[Token(-1)]]), Err(EmbedError::TokenOutOfRange { .. })));
        embedder.context().abort_handle().abort_after(cycle % 50);
        assert!(matches!(embedder.embed_tokens(&texts), Err(EmbedError::Decode(_))));
    });
}

/// An assertion that fails while a context is made (bert.cpp:71) is an error, and what was made by then is freed.
#[cfg(not(target_env = "msvc"))]
#[test]
fn contexts_that_fail_an_assertion() {
    let _alone = alone_in_the_process();
    let gguf = fixtures::Bert::tiny().gguf(Weights::F32, 1).unwrap();
    let other = ModelParams::default().override_metadata("bert.attention.key_length", 129);
    let model = Model::from_bytes(&gguf, &other).unwrap();
    stays_flat("context, failed assertion", if is_leak_check() { 3 } else { 200 }, |_| {
        let error = Context::new(&model, &small()).map(drop).unwrap_err();
        let ContextError::Rejected { reason } = error else { panic!("{error}") };
        assert!(reason.contains("GGML_ASSERT(n_embd_head == hparams.n_embd_head_k())"), "{reason}");
    });
    batch_suite::still_works(&mut Context::new(&tiny(Weights::F32), &batch_suite::exact_params()).unwrap());
}

#[test]
fn models() {
    let _alone = alone_in_the_process();
    let gguf = Llama::tiny().gguf(Weights::F16, 1).unwrap();
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("leaks.gguf");
    std::fs::write(&path, &gguf).unwrap();
    let settings = ModelParams::default();
    stays_flat("model, loaded, refused, cancelled", if is_leak_check() { 3 } else { 100 }, |cycle| {
        assert!(Model::load(&path, &settings).is_ok());
        assert!(Model::from_bytes(&gguf, &settings).is_ok());
        let cut = gguf.len() * (cycle as usize % 9 + 1) / 10;
        assert!(matches!(Model::from_bytes(&gguf[..cut], &settings), Err(LoadError::Malformed(_))));
        let cancelled = Model::load_with_progress(&path, &settings, |_| ControlFlow::Break(()));
        assert!(matches!(cancelled, Err(LoadError::Cancelled)));
        // At another step each time.
        let mut steps = cycle % 20;
        let cancelled = Model::from_bytes_with_progress(&gguf, &settings, |_| match steps.checked_sub(1) {
            Some(left) => {
                steps = left;
                ControlFlow::Continue(())
            }
            None => ControlFlow::Break(()),
        });
        assert!(matches!(cancelled, Err(LoadError::Cancelled)));
        // Loaded, and then refused.
        let unused = settings.clone().override_metadata("llama.there_is_no_such_key", 1);
        assert!(matches!(Model::from_bytes(&gguf, &unused), Err(LoadError::Override(_))));
    });
}

/// Weights that are rearranged pass through the heap, which keeps what they leave and gives it to whoever comes next.
fn give_back_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: gives free memory back to the system, and nothing else.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Of the shape whose speed is told everywhere else.
#[test]
fn a_context_takes_what_was_estimated_and_a_refused_one_nothing() {
    let _alone = alone_in_the_process();
    let shape = if is_leak_check() { Llama::tiny() } else { Llama::m135() };
    let gguf = shape.gguf(Weights::Q8_0, 1).unwrap();
    let model = Model::from_bytes(&gguf, &ModelParams::default().load_mode(LoadMode::Read)).unwrap();
    drop(gguf);
    let params = ContextParams::default().sequences(2).context_tokens(1024).batch_tokens(256).micro_batch_tokens(256);
    let params = params.threads(2);
    let estimate = model.estimate(&params).unwrap();
    let large = params.clone().context_tokens(1 << 17);
    let limit = estimate.resident().context();

    // What is made once and kept, by llama.cpp and by the allocator.
    assert!(matches!(Context::new(&model, &large.clone().memory_limit(limit)), Err(ContextError::MemoryLimit { .. })));
    give_back_free_memory();
    let before = resident();
    for _ in 0..5 {
        assert!(matches!(
            Context::new(&model, &large.clone().memory_limit(limit)),
            Err(ContextError::MemoryLimit { .. })
        ));
    }
    give_back_free_memory();
    let refused = resident();
    let mut context = Context::new(&model, &params).unwrap();
    let sequences = [context.new_sequence().unwrap(), context.new_sequence().unwrap()];
    let mut batch = context.new_batch();
    // Every cell is written, and every token has an output: that touches all there is.
    for _ in 0..if is_leak_check() { 1 } else { 4 } {
        for row in 0..256 {
            batch.push_output(&sequences[row % 2], Token(row as i32)).unwrap();
        }
        context.decode(&mut batch).unwrap();
    }
    let (Some(before), Some(refused), Some(after)) = (before, refused, resident()) else { return };
    let (grown, peak) = (after - refused, estimate.peak().context() as i64);
    println!(
        "refused: resident grew by {} bytes; made and filled: by {grown}, estimated {peak} ({}), held {}",
        refused - before,
        estimate.peak(),
        context.memory_used().unwrap()
    );
    assert!(is_leak_check() || refused - before <= ALLOWED, "refused contexts have left {} bytes", refused - before);
    assert!(is_leak_check() || (grown - peak).abs() * 20 <= peak, "grown by {grown} bytes, estimated {peak}");
}
