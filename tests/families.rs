//! What each family of models does in a batch. Every test is named after its family first, so that
//! `cargo test --test families mamba` runs one family; what is tested stands in `families/`.

#[path = "families/embeddings.rs"]
mod embeddings;
#[path = "families/equivalence.rs"]
mod equivalence;

use fixtures::Family;

#[test]
fn llama_batch_equals_single() {
    equivalence::batch_equals_single(Family::Llama);
}

#[test]
fn llama_quantised_batch_equals_single() {
    equivalence::quantised_batch_equals_single(Family::Llama);
}

#[test]
fn llama_remembers_its_first_token() {
    equivalence::remembers_its_first_token(Family::Llama);
}

#[test]
fn qwen2_batch_equals_single() {
    equivalence::batch_equals_single(Family::Qwen2);
}

#[test]
fn qwen2_quantised_batch_equals_single() {
    equivalence::quantised_batch_equals_single(Family::Qwen2);
}

#[test]
fn qwen2_remembers_its_first_token() {
    equivalence::remembers_its_first_token(Family::Qwen2);
}

#[test]
fn qwen3_batch_equals_single() {
    equivalence::batch_equals_single(Family::Qwen3);
}

#[test]
fn qwen3_quantised_batch_equals_single() {
    equivalence::quantised_batch_equals_single(Family::Qwen3);
}

#[test]
fn qwen3_remembers_its_first_token() {
    equivalence::remembers_its_first_token(Family::Qwen3);
}

#[test]
fn moe_batch_equals_single() {
    equivalence::batch_equals_single(Family::Moe);
}

#[test]
fn moe_quantised_batch_equals_single() {
    equivalence::quantised_batch_equals_single(Family::Moe);
}

#[test]
fn moe_remembers_its_first_token() {
    equivalence::remembers_its_first_token(Family::Moe);
}

#[test]
fn gemma_batch_equals_single() {
    equivalence::batch_equals_single(Family::Gemma);
}

#[test]
fn gemma_quantised_batch_equals_single() {
    equivalence::quantised_batch_equals_single(Family::Gemma);
}

#[test]
fn gemma_remembers_its_first_token() {
    equivalence::remembers_its_first_token(Family::Gemma);
}

#[test]
fn mamba_batch_equals_single() {
    equivalence::batch_equals_single(Family::Mamba);
}

#[test]
fn mamba_quantised_batch_equals_single() {
    equivalence::quantised_batch_equals_single(Family::Mamba);
}

#[test]
fn mamba_remembers_its_first_token() {
    equivalence::remembers_its_first_token(Family::Mamba);
}

#[test]
fn hybrid_batch_equals_single() {
    equivalence::batch_equals_single(Family::Hybrid);
}

#[test]
fn hybrid_quantised_batch_equals_single() {
    equivalence::quantised_batch_equals_single(Family::Hybrid);
}

#[test]
fn hybrid_remembers_its_first_token() {
    equivalence::remembers_its_first_token(Family::Hybrid);
}

#[test]
fn rwkv_batch_equals_single() {
    equivalence::batch_equals_single(Family::Rwkv);
}

#[test]
fn rwkv_quantised_batch_equals_single() {
    equivalence::quantised_batch_equals_single(Family::Rwkv);
}

#[test]
fn rwkv_remembers_its_first_token() {
    equivalence::remembers_its_first_token(Family::Rwkv);
}

#[test]
fn llama_embeddings_equal_single() {
    embeddings::batch_equals_single(Family::Llama, &embeddings::POOLINGS);
}

#[test]
fn qwen2_embeddings_equal_single() {
    embeddings::batch_equals_single(Family::Qwen2, &embeddings::POOLINGS);
}

#[test]
fn qwen3_embeddings_equal_single() {
    embeddings::batch_equals_single(Family::Qwen3, &embeddings::POOLINGS);
}

#[test]
fn moe_embeddings_equal_single() {
    embeddings::batch_equals_single(Family::Moe, &embeddings::POOLINGS);
}

#[test]
fn gemma_embeddings_equal_single() {
    embeddings::batch_equals_single(Family::Gemma, &embeddings::POOLINGS);
}

#[test]
fn mamba_embeddings_equal_single() {
    embeddings::batch_equals_single(Family::Mamba, &embeddings::POOLINGS);
}

#[test]
fn hybrid_embeddings_equal_single() {
    embeddings::batch_equals_single(Family::Hybrid, &embeddings::POOLINGS);
}

#[test]
fn rwkv_embeddings_equal_single() {
    embeddings::batch_equals_single(Family::Rwkv, &embeddings::POOLINGS);
}

#[test]
fn qwen2vl_embeddings_equal_single() {
    embeddings::batch_equals_single(Family::Qwen2Vl, &embeddings::POOLINGS);
}

#[test]
fn bert_embeddings_equal_single() {
    embeddings::batch_equals_single(Family::Bert, &embeddings::POOLINGS);
}

#[test]
fn reranker_scores_equal_single() {
    embeddings::scores_equal_single(Family::Reranker);
}
