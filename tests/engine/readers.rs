//! Readers who are slow: they wait for nobody, and nobody for them.

use batch_suite::{prompt, tiny};
use fixtures::Weights;
use llama_safe::{EngineBuilder, Generation, KvLayout, Request, Shutdown, StopConditions};

use crate::watched;
use crate::wishes::{EXACT, NOISE, Wish, all_alone, assert_answers, builder, exact};

fn endless(salt: u32, length: u32) -> Request {
    Request::tokens(prompt(salt, length)).stop(StopConditions::new().end_of_text(false))
}

/// As many silent answers as there are sequences, and others behind them; then they are read to their end.
fn others_go_on(builder: EngineBuilder, silent: u32, what: &str) {
    let model = tiny(Weights::F32);
    let engine = builder.context(exact()).unread_pieces(3).start().unwrap();
    let wishes: Vec<Wish> = (0..silent).map(|salt| Wish::greedy(salt, 40, 80)).collect();
    let want = all_alone(&model, &exact(), &wishes, NOISE);
    let mut slow: Vec<Generation> = wishes.iter().map(|wish| engine.generate(wish.request()).unwrap()).collect();
    // All of them have begun, and then nobody reads.
    slow.iter_mut().for_each(|generation| assert!(generation.next().unwrap().is_ok()));
    for salt in 0..12 {
        let others: Vec<_> =
            (0..3).map(|more| engine.generate(endless(salt * 3 + more, 60).max_tokens(30)).unwrap()).collect();
        for other in others {
            assert_eq!(other.wait().tokens.len(), 30, "{what}");
        }
    }
    let got: Vec<_> = slow.into_iter().map(Generation::wait).collect();
    assert_answers(&got, &want, EXACT, 90, what);
    let stats = engine.shutdown(Shutdown::Finish);
    assert_eq!(stats.completed, u64::from(silent) + 36, "{what}: {stats:?}");
}

#[test]
fn silent_readers_hold_nobody_up() {
    watched(|| {
        let model = tiny(Weights::F32);
        let base = || builder(&model).sequences(3).context_tokens(3 * 256);
        others_go_on(base(), 1, "one of three");
        others_go_on(base(), 3, "three of three");
        others_go_on(base().spill_bytes(1 << 20), 3, "three of three, kept outside");
        others_go_on(base(), 6, "six for three");
    });
}

/// In shared cells silent answers hold what others need.
#[test]
fn silent_readers_give_their_cells_back() {
    watched(|| {
        let model = tiny(Weights::F32);
        let base = || builder(&model).sequences(8).layout(KvLayout::Unified).context_tokens(256);
        others_go_on(base(), 3, "three in a pool");
        others_go_on(base().share_prefixes(false), 5, "five in a pool, nothing shared");
        others_go_on(base().spill_bytes(1 << 20), 5, "five in a pool, kept outside");
    });
}

/// A pause is no end: not of the engine's either.
#[test]
fn unread_answers_are_finished_at_the_end() {
    watched(|| {
        let engine = builder(&tiny(Weights::F16)).sequences(2).context_tokens(1024).unread_pieces(2).start().unwrap();
        let all: Vec<Generation> =
            (0..5).map(|salt| engine.generate(endless(salt, 5).max_tokens(50)).unwrap()).collect();
        let stats = engine.shutdown(Shutdown::Finish);
        assert_eq!((stats.completed, stats.running, stats.queued), (5, 0, 0), "{stats:?}");
        // Read when the engine is no more.
        assert!(all.into_iter().all(|generation| generation.wait().tokens.len() == 50));
    });
}
