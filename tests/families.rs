//! What each family of models does in a batch. Every test is named after its family first, so that
//! `cargo test --test families mamba` runs one family; what is tested stands in `families/`.

#[path = "families/adapters.rs"]
mod adapters;
#[path = "families/adversary.rs"]
mod adversary;
#[path = "families/diffusion.rs"]
mod diffusion;
#[path = "families/embeddings.rs"]
mod embeddings;
#[path = "families/encoder_decoder.rs"]
mod encoder_decoder;
#[path = "families/encoder_program.rs"]
mod encoder_program;
#[path = "families/equivalence.rs"]
mod equivalence;
#[path = "families/memory.rs"]
mod memory;
#[path = "families/positions.rs"]
mod positions;
#[path = "families/program.rs"]
mod program;
#[path = "families/scene.rs"]
mod scene;
#[path = "families/schedules.rs"]
mod schedules;
#[path = "families/scratch.rs"]
mod scratch;
#[path = "families/state.rs"]
mod state;
#[path = "families/table.rs"]
mod table;
#[path = "families/transaction.rs"]
mod transaction;

use batch_suite::{exact_params, params};
use fixtures::{Family, Weights};
use llama_safe::{FlashAttention, Pooling};

#[test]
fn llama_batch_equals_single() {
    equivalence::batch_equals_single(Family::Llama);
}

#[test]
fn mamba_memory_programs() {
    memory::random_programs(Family::Mamba, 60);
}

#[test]
fn rwkv_memory_programs() {
    memory::random_programs(Family::Rwkv, 60);
}

#[test]
fn hybrid_memory_programs() {
    memory::random_programs(Family::Hybrid, 60);
}

#[test]
fn hybrid_memory_programs_with_snapshots() {
    memory::random_programs_with_snapshots(Family::Hybrid, 60);
}

#[test]
fn gemma_fork_past_window_is_refused() {
    memory::past_window_is_refused(Family::Gemma);
}

#[test]
fn gemma_past_window_is_kept() {
    memory::past_window_is_kept(Family::Gemma);
}

#[test]
fn qwen2vl_memory_programs() {
    memory::random_programs(Family::Qwen2Vl, 40);
}

#[test]
fn qwen2vl_does_not_shift() {
    memory::places_do_not_shift(Family::Qwen2Vl);
}

#[test]
fn bert_keeps_nothing() {
    memory::nothing_is_kept(Family::Bert);
}

#[test]
fn t5encoder_keeps_nothing() {
    memory::nothing_is_kept(Family::T5Encoder);
}

#[test]
fn llama_abort_at_every_place_is_undone_or_told() {
    transaction::abort_at_every_place(Family::Llama);
}

#[test]
fn gemma_abort_leaves_cells_in_order() {
    transaction::an_abort_leaves_cells_in_order(Family::Gemma);
}

#[test]
fn gemma_memory_programs() {
    memory::random_programs(Family::Gemma, 60);
}

#[test]
fn gemma_memory_programs_that_forget() {
    memory::random_programs_that_forget(Family::Gemma, 30);
}

#[test]
fn mamba_state_does_not_go_back() {
    memory::states_do_not_go_back(Family::Mamba);
}

#[test]
fn rwkv_state_does_not_go_back() {
    memory::states_do_not_go_back(Family::Rwkv);
}

#[test]
fn hybrid_state_does_not_go_back() {
    memory::states_do_not_go_back(Family::Hybrid);
}

#[test]
fn mamba_forks_part_ways() {
    memory::states_fork(Family::Mamba);
}

#[test]
fn rwkv_forks_part_ways() {
    memory::states_fork(Family::Rwkv);
}

#[test]
fn hybrid_forks_part_ways() {
    memory::states_fork(Family::Hybrid);
}

#[test]
fn mamba_forks_outlive_their_parent() {
    memory::forks_outlive_their_parent(Family::Mamba);
}

#[test]
fn rwkv_forks_outlive_their_parent() {
    memory::forks_outlive_their_parent(Family::Rwkv);
}

#[test]
fn hybrid_forks_outlive_their_parent() {
    memory::forks_outlive_their_parent(Family::Hybrid);
}

#[test]
fn hybrid_snapshots_go_back() {
    memory::snapshots_go_back(Family::Hybrid);
}

#[test]
fn hybrid_snapshots_of_a_batch_go_back() {
    memory::snapshots_of_a_batch_go_back(Family::Hybrid);
}

#[test]
fn hybrid_snapshots_are_offered_where_they_are_right() {
    memory::snapshots_are_offered_where_they_are_right();
}

#[test]
fn gemma_abort_at_every_place_is_undone_or_told() {
    transaction::abort_at_every_place(Family::Gemma);
}

#[test]
fn gemma_abort_of_new_sequences_leaves_no_trace() {
    transaction::new_sequences(Family::Gemma);
}

#[test]
fn gemma_abort_of_old_sequences_is_undone_or_told() {
    transaction::old_sequences(Family::Gemma, false);
}

#[test]
fn mamba_abort_at_every_place_is_undone_or_told() {
    transaction::abort_at_every_place(Family::Mamba);
}

#[test]
fn mamba_abort_of_new_sequences_leaves_no_trace() {
    transaction::new_sequences(Family::Mamba);
}

#[test]
fn mamba_abort_of_old_sequences_is_undone_or_told() {
    transaction::old_sequences(Family::Mamba, true);
}

#[test]
fn mamba_abort_spares_bystanders() {
    transaction::bystanders_are_safe(Family::Mamba);
}

#[test]
fn rwkv_abort_at_every_place_is_undone_or_told() {
    transaction::abort_at_every_place(Family::Rwkv);
}

#[test]
fn rwkv_abort_of_new_sequences_leaves_no_trace() {
    transaction::new_sequences(Family::Rwkv);
}

#[test]
fn rwkv_abort_of_old_sequences_is_undone_or_told() {
    transaction::old_sequences(Family::Rwkv, true);
}

#[test]
fn rwkv_abort_spares_bystanders() {
    transaction::bystanders_are_safe(Family::Rwkv);
}

#[test]
fn hybrid_abort_at_every_place_is_undone_or_told() {
    transaction::abort_at_every_place(Family::Hybrid);
}

#[test]
fn hybrid_abort_of_new_sequences_leaves_no_trace() {
    transaction::new_sequences(Family::Hybrid);
}

#[test]
fn hybrid_abort_of_old_sequences_is_undone_or_told() {
    transaction::old_sequences(Family::Hybrid, true);
}

#[test]
fn hybrid_abort_spares_bystanders() {
    transaction::bystanders_are_safe(Family::Hybrid);
}

#[test]
fn hybrid_snapshots_do_not_move() {
    memory::snapshots_do_not_move(Family::Hybrid);
}

#[test]
fn llama_quantised_batch_equals_single() {
    equivalence::quantised_batch_equals_single(Family::Llama);
}

#[test]
fn llama_any_schedule_equals_single() {
    schedules::any_schedule_equals_single(Family::Llama);
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
fn moe_any_schedule_equals_single() {
    schedules::any_schedule_equals_single(Family::Moe);
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
fn gemma_any_schedule_equals_single() {
    schedules::any_schedule_equals_single(Family::Gemma);
}

#[test]
fn gemma_batches_on_shared_cells_are_one_pass() {
    schedules::windows_on_shared_cells_take_one_pass();
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
fn mamba_any_schedule_equals_single() {
    schedules::any_schedule_equals_single(Family::Mamba);
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
fn hybrid_any_schedule_equals_single() {
    schedules::any_schedule_equals_single(Family::Hybrid);
}

#[test]
fn hybrid_windows_share_no_cells() {
    schedules::windows_beside_states_share_no_cells();
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
fn rwkv_any_schedule_equals_single() {
    schedules::any_schedule_equals_single(Family::Rwkv);
}

#[test]
fn rwkv_remembers_its_first_token() {
    equivalence::remembers_its_first_token(Family::Rwkv);
}

#[test]
fn qwen2vl_any_schedule_equals_single() {
    schedules::any_schedule_equals_single(Family::Qwen2Vl);
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
fn t5encoder_embeddings_equal_single() {
    embeddings::batch_equals_single(Family::T5Encoder, &embeddings::POOLINGS);
}

#[test]
fn diffusion_embeddings_equal_single() {
    embeddings::batch_equals_single(Family::Diffusion, &embeddings::POOLINGS);
}

#[test]
fn t5_embeddings_equal_single() {
    // Its decoder needs a vector of each token, so that there is no other pooling.
    embeddings::batch_equals_single(Family::T5, &[Pooling::None]);
}

#[test]
fn bert_embeddings_equal_single() {
    embeddings::batch_equals_single(Family::Bert, &embeddings::POOLINGS);
}

#[test]
fn reranker_scores_equal_single() {
    embeddings::scores_equal_single(Family::Reranker);
}

#[test]
fn t5_batch_equals_single() {
    let params = exact_params().sequences(3).context_tokens(768);
    encoder_decoder::batch_equals_single(Weights::F32, &params, 1e-6);
}

#[test]
fn t5_batch_equals_single_in_other_formats() {
    for weights in [Weights::F16, Weights::Q8_0] {
        let params = exact_params().sequences(3).context_tokens(768);
        encoder_decoder::batch_equals_single(weights, &params, 1e-6);
        encoder_decoder::batch_equals_single(weights, &params.flash_attention(FlashAttention::Auto), 1e-5);
    }
}

#[test]
fn t5_turns_equal_single() {
    encoder_decoder::turns_equal_single(Weights::F32, &exact_params(), 1e-6);
    encoder_decoder::turns_equal_single(Weights::F32, &params(), 1e-5);
    encoder_decoder::turns_equal_single(Weights::Q8_0, &exact_params(), 1e-6);
}

#[test]
fn t5_aborted_decode_is_rolled_back() {
    encoder_decoder::aborted_decode_is_rolled_back();
}

#[test]
fn t5_shift_moves_distances() {
    encoder_decoder::shift_moves_distances();
}

#[test]
fn t5_random_programs() {
    encoder_program::random_programs(32);
}

#[test]
fn t5_chunks_equal_single() {
    encoder_decoder::chunks_equal_single();
}

#[test]
fn t5_decode_without_encode_is_refused() {
    encoder_decoder::decode_without_encode_is_refused();
}

#[test]
fn t5_only_the_last_encoding_counts() {
    encoder_decoder::only_the_last_encoding_counts();
}

#[test]
fn t5_fork_is_encoded_with_its_parents_text() {
    encoder_decoder::fork_is_encoded_with_its_parents_text();
}

#[test]
fn t5_new_owner_of_a_slot_is_not_encoded() {
    encoder_decoder::new_owner_of_a_slot_is_not_encoded();
}

#[test]
fn t5_truncate_equals_recomputing() {
    encoder_decoder::truncate_equals_recomputing();
}

#[test]
fn t5_encoder_batches_are_checked() {
    encoder_decoder::encoder_batches_are_checked();
}

#[test]
fn t5_long_texts_are_encoded() {
    encoder_decoder::long_texts_are_encoded();
}

#[test]
fn t5_aborted_encode_changes_nothing() {
    encoder_decoder::aborted_encode_changes_nothing();
}

#[test]
fn t5_encoder_outputs_can_be_read() {
    encoder_decoder::encoder_outputs(Family::T5, &exact_params());
    encoder_decoder::encoder_outputs(Family::T5, &exact_params().embeddings(true));
    encoder_decoder::outputs_are_those_of_the_last_call();
}

#[test]
fn t5_contexts_are_checked() {
    encoder_decoder::contexts_are_checked();
}

#[test]
fn t5encoder_batch_equals_single() {
    encoder_decoder::encoder_outputs(Family::T5Encoder, &exact_params().embeddings(true));
}

#[test]
fn t5encoder_has_no_memory() {
    encoder_decoder::encoder_alone_has_no_memory();
}

#[test]
fn diffusion_batch_equals_single() {
    diffusion::batch_equals_single();
}

#[test]
fn diffusion_fused_attention_equals_single() {
    diffusion::fused_attention_equals_single();
}

#[test]
fn diffusion_tokens_see_what_follows() {
    diffusion::tokens_see_what_follows();
}

#[test]
fn diffusion_limits_are_checked() {
    diffusion::limits_are_checked();
}

#[test]
fn diffusion_aborted_encode_is_an_error() {
    diffusion::aborted_encode_is_an_error();
}

#[test]
fn qwen2vl_batch_equals_single() {
    equivalence::batch_equals_single(Family::Qwen2Vl);
}

#[test]
fn qwen2vl_quantised_batch_equals_single() {
    equivalence::quantised_batch_equals_single(Family::Qwen2Vl);
}

#[test]
fn qwen2vl_remembers_its_first_token() {
    equivalence::remembers_its_first_token(Family::Qwen2Vl);
}

#[test]
fn qwen2vl_random_programs() {
    memory::random_programs(Family::Qwen2Vl, 8);
}

#[test]
fn qwen2vl_forks_outlive_their_parent() {
    memory::forks_outlive_their_parent(Family::Qwen2Vl);
}

#[test]
fn qwen2vl_aborts_are_rolled_back() {
    transaction::new_sequences(Family::Qwen2Vl);
    transaction::old_sequences(Family::Qwen2Vl, false);
}

#[test]
fn qwen2vl_pictures_equal_single() {
    positions::pictures_equal_single();
}

#[test]
fn qwen2vl_embeddings_of_tokens_are_tokens() {
    positions::embeddings_of_tokens_are_tokens();
}

#[test]
fn qwen2vl_places_are_what_they_are_called() {
    positions::places_are_what_they_are_called();
}

#[test]
fn qwen2vl_places_are_checked() {
    positions::places_are_checked();
}

#[test]
fn qwen2vl_pictures_are_not_cut() {
    positions::pictures_are_not_cut();
}

#[test]
fn qwen2vl_aborted_pictures_are_rolled_back() {
    positions::aborted_pictures_are_rolled_back();
}

#[test]
fn llama_tensors_are_adapted_or_named() {
    adapters::each_tensor_is_adapted_or_named(Family::Llama, "output.weight", &[]);
}

#[test]
fn qwen2_tensors_are_adapted_or_named() {
    adapters::each_tensor_is_adapted_or_named(Family::Qwen2, "blk.0.attn_q.weight", &["token_embd.weight"]);
}

#[test]
fn qwen3_tensors_are_adapted_or_named() {
    adapters::each_tensor_is_adapted_or_named(Family::Qwen3, "blk.0.attn_q.weight", &["token_embd.weight"]);
}

#[test]
fn moe_tensors_are_adapted_or_named() {
    adapters::each_tensor_is_adapted_or_named(Family::Moe, "blk.0.attn_q.weight", &[]);
}

#[test]
fn gemma_tensors_are_adapted_or_named() {
    adapters::each_tensor_is_adapted_or_named(Family::Gemma, "blk.0.attn_q.weight", &["token_embd.weight"]);
}

#[test]
fn mamba_tensors_are_adapted_or_named() {
    adapters::each_tensor_is_adapted_or_named(Family::Mamba, "blk.0.ssm_in.weight", &[]);
}

#[test]
fn hybrid_tensors_are_adapted_or_named() {
    adapters::each_tensor_is_adapted_or_named(Family::Hybrid, "blk.0.ssm_in.weight", &[]);
}

#[test]
fn rwkv_tensors_are_adapted_or_named() {
    adapters::each_tensor_is_adapted_or_named(Family::Rwkv, "output.weight", &[]);
}

#[test]
fn bert_tensors_are_adapted_or_named() {
    adapters::each_tensor_is_adapted_or_named(Family::Bert, "blk.0.attn_q.weight", &[]);
}

#[test]
fn reranker_tensors_are_adapted_or_named() {
    adapters::each_tensor_is_adapted_or_named(Family::Reranker, "blk.0.attn_q.weight", &[]);
}

#[test]
fn t5_tensors_are_adapted_or_named() {
    adapters::each_tensor_is_adapted_or_named(Family::T5, "output.weight", &[]);
}

#[test]
fn t5encoder_tensors_are_adapted_or_named() {
    adapters::each_tensor_is_adapted_or_named(Family::T5Encoder, "enc.blk.0.attn_q.weight", &[]);
}

#[test]
fn qwen2vl_tensors_are_adapted_or_named() {
    adapters::each_tensor_is_adapted_or_named(Family::Qwen2Vl, "blk.0.attn_q.weight", &[]);
}

#[test]
fn diffusion_tensors_are_adapted_or_named() {
    adapters::each_tensor_is_adapted_or_named(Family::Diffusion, "blk.0.attn_q.weight", &[]);
}

#[test]
fn llama_control_vector_steers_or_is_refused() {
    adapters::control_vector_steers_or_is_refused(Family::Llama, false);
}

#[test]
fn qwen2_control_vector_steers_or_is_refused() {
    adapters::control_vector_steers_or_is_refused(Family::Qwen2, false);
}

#[test]
fn qwen3_control_vector_steers_or_is_refused() {
    adapters::control_vector_steers_or_is_refused(Family::Qwen3, false);
}

#[test]
fn moe_control_vector_steers_or_is_refused() {
    adapters::control_vector_steers_or_is_refused(Family::Moe, false);
}

#[test]
fn gemma_control_vector_steers_or_is_refused() {
    adapters::control_vector_steers_or_is_refused(Family::Gemma, false);
}

#[test]
fn mamba_control_vector_steers_or_is_refused() {
    adapters::control_vector_steers_or_is_refused(Family::Mamba, false);
}

#[test]
fn hybrid_control_vector_steers_or_is_refused() {
    adapters::control_vector_steers_or_is_refused(Family::Hybrid, false);
}

#[test]
fn rwkv_control_vector_steers_or_is_refused() {
    adapters::control_vector_steers_or_is_refused(Family::Rwkv, false);
}

#[test]
fn bert_control_vector_steers_or_is_refused() {
    adapters::control_vector_steers_or_is_refused(Family::Bert, true);
}

#[test]
fn reranker_control_vector_steers_or_is_refused() {
    adapters::control_vector_steers_or_is_refused(Family::Reranker, true);
}

#[test]
fn t5_control_vector_steers_or_is_refused() {
    adapters::control_vector_steers_or_is_refused(Family::T5, false);
}

#[test]
fn t5encoder_control_vector_steers_or_is_refused() {
    adapters::control_vector_steers_or_is_refused(Family::T5Encoder, false);
}

#[test]
fn qwen2vl_control_vector_steers_or_is_refused() {
    adapters::control_vector_steers_or_is_refused(Family::Qwen2Vl, false);
}

#[test]
fn diffusion_control_vector_steers_or_is_refused() {
    adapters::control_vector_steers_or_is_refused(Family::Diffusion, false);
}

#[test]
fn llama_state_survives_restore() {
    state::survives_restore(Family::Llama);
}

#[test]
fn qwen2_state_survives_restore() {
    state::survives_restore(Family::Qwen2);
}

#[test]
fn qwen3_state_survives_restore() {
    state::survives_restore(Family::Qwen3);
}

#[test]
fn moe_state_survives_restore() {
    state::survives_restore(Family::Moe);
}

#[test]
fn gemma_state_survives_restore() {
    state::survives_restore(Family::Gemma);
}

#[test]
fn mamba_state_survives_restore() {
    state::survives_restore(Family::Mamba);
}

#[test]
fn hybrid_state_survives_restore() {
    state::survives_restore(Family::Hybrid);
}

#[test]
fn rwkv_state_survives_restore() {
    state::survives_restore(Family::Rwkv);
}

#[test]
fn bert_state_is_refused() {
    state::is_refused(Family::Bert);
}

#[test]
fn qwen2vl_state_survives_restore() {
    state::survives_restore(Family::Qwen2Vl);
}

#[test]
fn diffusion_state_is_refused() {
    state::is_refused(Family::Diffusion);
}

#[test]
fn t5_state_survives_restore() {
    state::encoded_survive_restore();
}

#[test]
fn t5encoder_state_is_refused() {
    state::is_refused(Family::T5Encoder);
}

#[test]
fn qwen2vl_state_with_pictures_survives_restore() {
    state::pictures_survive_restore();
}

#[test]
fn table_names_every_family_and_tests_that_exist() {
    table::names_every_family_and_tests_that_exist();
}

#[test]
fn gemma_restored_state_goes_back_within_the_window() {
    state::goes_back_within_the_window();
}

#[test]
fn architectures_survive_random_programs() {
    adversary::architectures_survive_random_programs("architectures_survive_random_programs", 3);
}

#[test]
fn llama_survives_random_programs() {
    adversary::survives_random_programs(Family::Llama, "llama_survives_random_programs", 12);
}

#[test]
fn qwen2_survives_random_programs() {
    adversary::survives_random_programs(Family::Qwen2, "qwen2_survives_random_programs", 12);
}

#[test]
fn qwen3_survives_random_programs() {
    adversary::survives_random_programs(Family::Qwen3, "qwen3_survives_random_programs", 12);
}

#[test]
fn moe_survives_random_programs() {
    adversary::survives_random_programs(Family::Moe, "moe_survives_random_programs", 12);
}

#[test]
fn gemma_survives_random_programs() {
    adversary::survives_random_programs(Family::Gemma, "gemma_survives_random_programs", 12);
}

#[test]
fn mamba_survives_random_programs() {
    adversary::survives_random_programs(Family::Mamba, "mamba_survives_random_programs", 12);
}

#[test]
fn hybrid_survives_random_programs() {
    adversary::survives_random_programs(Family::Hybrid, "hybrid_survives_random_programs", 12);
}

#[test]
fn rwkv_survives_random_programs() {
    adversary::survives_random_programs(Family::Rwkv, "rwkv_survives_random_programs", 12);
}

#[test]
fn bert_survives_random_programs() {
    adversary::survives_random_programs(Family::Bert, "bert_survives_random_programs", 12);
}

#[test]
fn reranker_survives_random_programs() {
    adversary::survives_random_programs(Family::Reranker, "reranker_survives_random_programs", 12);
}

#[test]
fn t5_survives_random_programs() {
    adversary::survives_random_programs(Family::T5, "t5_survives_random_programs", 12);
}

#[test]
fn t5encoder_survives_random_programs() {
    adversary::survives_random_programs(Family::T5Encoder, "t5encoder_survives_random_programs", 12);
}

#[test]
fn qwen2vl_survives_random_programs() {
    adversary::survives_random_programs(Family::Qwen2Vl, "qwen2vl_survives_random_programs", 12);
}

#[test]
fn diffusion_survives_random_programs() {
    adversary::survives_random_programs(Family::Diffusion, "diffusion_survives_random_programs", 12);
}

#[test]
fn gemma_numbers_that_are_none_are_told_and_cleared() {
    adversary::numbers_that_are_none_are_told_and_cleared(Family::Gemma);
}

#[test]
fn hybrid_numbers_that_are_none_are_told_and_cleared() {
    adversary::numbers_that_are_none_are_told_and_cleared(Family::Hybrid);
}

#[test]
fn gemma_numbers_that_are_none_do_not_reach_the_next_texts() {
    adversary::numbers_that_are_none_do_not_reach_the_next_texts(Family::Gemma);
}

#[test]
fn llama_sequences_dropped_while_they_are_decoded_leave_nothing() {
    adversary::sequences_dropped_while_they_are_decoded_leave_nothing(Family::Llama);
}
