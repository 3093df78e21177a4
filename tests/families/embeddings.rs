//! Vectors and scores of a family, many texts in few batches.

use batch_suite::{assert_equal, exact_params, family, prompt};
use fixtures::{Family, Weights};
use llama_safe::{Embedder, EmbedderParams, Pooling, Reranker, Token};

fn texts() -> Vec<Vec<Token>> {
    (0..12).map(|text| prompt(text, 2 + text * 5 % 17)).collect()
}

/// Every pooling that a context can be asked for.
pub const POOLINGS: [Pooling; 4] = [Pooling::Mean, Pooling::Cls, Pooling::Last, Pooling::None];

/// Vectors of texts in batches, each as if it were alone, for every pooling of the family.
pub fn batch_equals_single(which: Family, poolings: &[Pooling]) {
    let model = family(which, Weights::F32);
    for pooling in poolings {
        let params = EmbedderParams::default().context(exact_params()).pooling(*pooling).batch_tokens(64);
        let mut embedder = Embedder::new(&model, &params).expect("an embedder");
        let together = embedder.embed_tokens(&texts()).expect("vectors");
        for (text, got) in texts().iter().zip(together.iter()) {
            let alone = embedder.embed_tokens(&[text]).expect("a vector");
            assert_equal(got, alone.get(0).expect("one text"), 1e-6, &format!("{which} {pooling:?}"));
        }
    }
}

/// Scores of pairs in batches, each as if it were alone.
pub fn scores_equal_single(which: Family) {
    let params = EmbedderParams::default().context(exact_params()).batch_tokens(64);
    let mut reranker = Reranker::new(&family(which, Weights::F32), &params).expect("a reranker");
    let together = reranker.scores_of_tokens(&texts()).expect("scores");
    let together: Vec<f32> = together.iter().map(|scores| scores[0]).collect();
    let mut alone = Vec::new();
    for pair in &texts() {
        alone.extend_from_slice(reranker.scores_of_tokens(&[pair]).expect("a score").get(0).expect("one pair"));
    }
    assert_equal(&together, &alone, 1e-6, which.name());
    let spread = together.iter().fold(0f32, |most, score| most.max((score - together[0]).abs()));
    assert!(spread > 0.01, "scores are told apart: {spread}");
}
