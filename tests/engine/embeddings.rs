//! Vectors beside answers.

use batch_suite::{nmse, tiny};
use fixtures::Weights;
use futures_lite::future::block_on;
use llama_safe::{EmbedError, Embedder, EmbedderParams, Engine, Pooling, Request, Shutdown};

use crate::watched;
use crate::wishes::{EXACT, NOISE, all_alone, assert_answers, builder, exact, wishes};

fn settings() -> EmbedderParams {
    EmbedderParams::default().context(exact()).pooling(Pooling::Mean).batch_tokens(64)
}

fn engine() -> Engine {
    let model = tiny(Weights::F32);
    let builder = builder(&model).context(exact()).sequences(3).context_tokens(3 * 256);
    builder.embeddings(settings()).start().unwrap()
}

#[test]
fn vectors_are_the_embedders() {
    watched(|| {
        let model = tiny(Weights::F32);
        let texts: Vec<String> =
            (0..60).map(|text| format!("the text number {text} {}", "of many ".repeat(text % 4))).collect();
        let mut embedder = Embedder::new(&model, &settings()).unwrap();
        let want = embedder.embed(&texts).unwrap();
        let want: Vec<&[f32]> = want.iter().collect();
        let engine = engine();
        let wishes = wishes(12);
        let answers: Vec<_> = wishes.iter().map(|wish| engine.generate(wish.request()).unwrap()).collect();
        let (all, some) = (engine.embed(&texts).unwrap(), engine.embed(&texts[..3]).unwrap());
        let one = engine.embed(&texts[7..8]).unwrap();
        // Other batches, and with them other rounding.
        let same = |got: Vec<Vec<f32>>, want: &[&[f32]]| {
            assert_eq!(got.len(), want.len());
            got.iter().zip(want).for_each(|(got, want)| assert!(nmse(got, want) < 1e-9));
        };
        same(one.wait().unwrap(), &want[7..8]);
        same(all.wait().unwrap(), &want);
        same(block_on(some.finished()).unwrap(), &want[..3]);
        let got: Vec<_> = answers.into_iter().map(|answer| answer.wait()).collect();
        assert_answers(&got, &all_alone(&model, &exact(), &wishes, NOISE), EXACT, 90, "beside vectors");
        let stats = engine.shutdown(Shutdown::Finish);
        assert_eq!((stats.embedded, stats.completed), (64, 12), "{stats:?}");
    });
}

#[test]
fn what_cannot_be_embedded() {
    watched(|| {
        let engine = engine();
        let none: [&str; 0] = [];
        assert!(engine.embed(&none).unwrap().wait().unwrap().is_empty());
        let long = "a b c d e f g h ".repeat(40);
        let error = engine.embed(&["short", &long]).unwrap().wait().unwrap_err();
        let EmbedError::TooLong { text: 1, limit: 64, .. } = error else { panic!("{error}") };
        // Dropped before it is computed, and while.
        drop(engine.embed(&["a"; 500]).unwrap());
        let first = engine.embed(&["a"; 500]).unwrap();
        drop(engine.embed(&["a"; 500]).unwrap());
        assert_eq!(first.wait().unwrap().len(), 500);
        assert_eq!(engine.generate(Request::text("a").max_tokens(3)).unwrap().wait().prompt_tokens, 2);
    });
}
