//! What each family of models does in a batch. Every test is named after its family first, so that
//! `cargo test --test families mamba` runs one family; what is tested stands in `families/`.

#[path = "families/equivalence.rs"]
mod equivalence;

use fixtures::Family;

#[test]
fn llama_batch_equals_single() {
    equivalence::batch_equals_single(Family::Llama);
}
