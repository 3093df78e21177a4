//! The three batch tests, on the native path, and what else a batch must do.
//!
//! `encode_context`, `decode_tokens` and `multiple_sequences` take the tokens, positions, sequences and outputs of three
//! tests that had to be switched off elsewhere because they ended the process.

use batch_suite::{alone, assert_equal, best, encoder, is_leak_check, model, params, tiny};
use fixtures::{Llama, Weights};
use llama_safe::{Batch, Context, DecodeError, OutputError, PushError, Token};

fn tokens(ids: std::ops::RangeInclusive<i32>) -> Vec<Token> {
    ids.map(Token).collect()
}

/// What the batch holds, row by row: token, position, slot of the sequence, output.
fn rows(batch: &Batch) -> Vec<(i32, u32, u32, bool)> {
    (0..batch.len())
        .map(|row| {
            (
                batch.token(row).unwrap().0,
                batch.position(row).unwrap(),
                batch.sequence(row).unwrap().slot(),
                batch.is_output(row).unwrap(),
            )
        })
        .collect()
}

/// Logits within 1e-6 of those of one token at a time, and the same best token.
#[track_caller]
fn assert_same_logits(got: &[f32], want: &[f32]) {
    assert_equal(got, want, 1e-6, "against one token at a time");
    assert_eq!(best(got).0, best(want).0, "best token");
}

#[test]
fn encode_context() {
    // A decoder without encoder: llama_encode dereferences NULL there (llama-context.cpp:1542).
    let mut decoder = Context::new(&tiny(Weights::F16), &params()).unwrap();
    let sequence = decoder.new_sequence().unwrap();
    let mut batch = decoder.new_batch();
    batch.prompt(&sequence, &tokens(1..=3)).unwrap();
    assert_eq!(rows(&batch), [(1, 0, 0, false), (2, 1, 0, false), (3, 2, 0, true)]);
    assert_eq!(decoder.encode(&mut batch).unwrap_err(), DecodeError::NoEncoder);
    assert_eq!(batch.len(), 3, "a refused batch is kept");
    assert_eq!(decoder.span(&sequence).unwrap(), 0..0);
    decoder.decode(&mut batch).expect("the same batch decodes");
    assert_eq!(decoder.span(&sequence).unwrap(), 0..3);

    // An encoder: the same tokens encode, and give what they give in any company.
    let settings = params().sequences(2).embeddings(true);
    let mut context = Context::new(&encoder(), &settings).unwrap();
    let sequence = context.new_sequence().unwrap();
    let mut batch = context.new_batch();
    batch.prompt(&sequence, &tokens(1..=3)).unwrap();
    assert_eq!(context.decode(&mut batch).unwrap_err(), DecodeError::NoDecoder);
    let single = context.encode(&mut batch).unwrap().sequence_embedding(&sequence).unwrap().to_vec();
    assert_eq!(single.len(), context.limits().output_width() as usize);
    assert!(single.iter().any(|number| *number != 0.0) && single.iter().all(|number| number.is_finite()));

    let other = context.new_sequence().unwrap();
    batch.prompt(&other, &tokens(4..=9)).unwrap();
    batch.prompt(&sequence, &tokens(1..=3)).unwrap();
    let outputs = context.encode(&mut batch).unwrap();
    assert_equal(outputs.sequence_embedding(&sequence).unwrap(), &single, 1e-6, "beside another sequence");
    let another = outputs.sequence_embedding(&other).unwrap().to_vec();
    assert!(batch_suite::nmse(&another, &single) > 1e-3, "two texts have two embeddings");
    assert_eq!(sequence.len(), 0, "an encoder remembers nothing");
}

#[test]
fn decode_tokens() {
    let model = tiny(Weights::F16);
    let settings = params();
    let want = alone(&model, &settings, &tokens(1..=3));

    let mut context = Context::new(&model, &settings).unwrap();
    let sequence = context.new_sequence().unwrap();
    let mut batch = context.new_batch();
    let last = batch.prompt(&sequence, &tokens(1..=3)).unwrap();
    assert_eq!(rows(&batch), [(1, 0, 0, false), (2, 1, 0, false), (3, 2, 0, true)]);
    let outputs = context.decode(&mut batch).unwrap();
    assert_same_logits(outputs.get(last).unwrap(), &want[2]);
    assert_eq!(context.span(&sequence).unwrap(), 0..3);
    assert_eq!(sequence.len(), 3);
    assert!(batch.is_empty());
}

#[test]
fn multiple_sequences() {
    let model = tiny(Weights::F16);
    let settings = params().sequences(2);
    let want = [alone(&model, &settings, &tokens(1..=3)), alone(&model, &settings, &tokens(4..=6))];

    let mut context = Context::new(&model, &settings).unwrap();
    let sequences = [context.new_sequence().unwrap(), context.new_sequence().unwrap()];
    let mut batch = context.new_batch();
    let slots =
        [batch.prompt(&sequences[0], &tokens(1..=3)).unwrap(), batch.prompt(&sequences[1], &tokens(4..=6)).unwrap()];
    assert_eq!(
        rows(&batch),
        [(1, 0, 0, false), (2, 1, 0, false), (3, 2, 0, true), (4, 0, 1, false), (5, 1, 1, false), (6, 2, 1, true)]
    );
    let outputs = context.decode(&mut batch).unwrap();
    for (slot, want) in slots.into_iter().zip(&want) {
        assert_same_logits(outputs.get(slot).unwrap(), &want[2]);
    }
    for sequence in &sequences {
        assert_eq!(context.span(sequence).unwrap(), 0..3);
    }
}

/// Nothing of many contexts is left in the next one. `cargo xtask crash-report` asks for a thousand.
#[test]
fn again_and_again() {
    let times = std::env::var("BATCH_REPETITIONS").ok().and_then(|text| text.parse().ok());
    for _ in 0..times.unwrap_or(if is_leak_check() { 3 } else { 50 }) {
        encode_context();
        decode_tokens();
        multiple_sequences();
    }
}

/// Every output that was asked for equals one token at a time; those that were not have no slot, and old slots are refused.
#[test]
fn outputs_are_those_asked_for() {
    let model = tiny(Weights::F16);
    let settings = params().sequences(2);
    let want = [alone(&model, &settings, &tokens(10..=17)), alone(&model, &settings, &tokens(20..=27))];
    let mut context = Context::new(&model, &settings).unwrap();
    let sequences = [context.new_sequence().unwrap(), context.new_sequence().unwrap()];
    let mut batch = context.new_batch();
    let mut slots = Vec::new();
    // Rows of the two sequences alternate; every third one gives an output.
    for index in 0..8usize {
        for (which, sequence) in sequences.iter().enumerate() {
            let token = Token([10, 20][which] + index as i32);
            if (index + which) % 3 == 0 {
                slots.push((batch.push_output(sequence, token).unwrap(), which, index));
            } else {
                batch.push(sequence, token).unwrap();
            }
        }
    }
    let outputs = context.decode(&mut batch).unwrap();
    for &(slot, which, index) in &slots {
        assert_same_logits(outputs.get(slot).unwrap(), &want[which][index]);
        assert_eq!(outputs.embedding(slot), Err(OutputError::NoEmbeddings));
    }
    assert_eq!(outputs.sequence_embedding(&sequences[0]), Err(OutputError::NoEmbeddings));

    let again = batch.push_output(&sequences[0], Token(1)).unwrap();
    let outputs = context.decode(&mut batch).unwrap();
    assert!(outputs.get(again).is_ok());
    assert_eq!(outputs.get(slots[0].0), Err(OutputError::OtherDecode));
    // A promise that was cleared away before any decode.
    let void = batch.push_output(&sequences[0], Token(1)).unwrap();
    batch.clear();
    assert_eq!(context.outputs().unwrap().get(void), Err(OutputError::OtherDecode));
    assert!(context.outputs().unwrap().get(again).is_ok(), "until the next decode");
}

#[test]
fn a_batch_of_tokens_reads_back_what_was_pushed() {
    let settings = params().batch_tokens(32);
    let mut context = Context::new(&tiny(Weights::F16), &settings).unwrap();
    let sequence = context.new_sequence().unwrap();
    let mut batch = context.new_batch();
    assert_eq!((batch.capacity(), batch.len()), (32, 0));
    for id in 0..32 {
        batch.push(&sequence, Token(id)).unwrap();
    }
    assert_eq!(batch.push(&sequence, Token(0)), Err(PushError::BatchFull { limit: 32, have: 32, adding: 1 }));
    assert_eq!(rows(&batch), (0..32).map(|id| (id, id as u32, 0, false)).collect::<Vec<_>>());
    assert_eq!(
        (batch.token(32), batch.position(32), batch.sequence(32), batch.is_output(32)),
        (None, None, None, None)
    );
    assert_eq!(batch.embedding(0), None);
    batch.clear();
    assert_eq!(batch.len(), 0);
    assert_eq!(batch.token(0), None);
}

/// 16 embeddings of width 4096 for two sequences: stored, read back, and computed.
#[test]
fn a_batch_of_embeddings_reads_back_what_was_pushed() {
    let shape =
        Llama { layers: 1, width: 4096, heads: 32, kv_heads: 4, feed_forward: 64, vocabulary: 300, ..Llama::tiny() };
    let model = model(&shape, Weights::Q4_0, 1);
    let settings = params().sequences(2).context_tokens(64).batch_tokens(16);
    let mut context = Context::new(&model, &settings).unwrap();
    let sequences = [context.new_sequence().unwrap(), context.new_sequence().unwrap()];
    let mut batch = context.new_embedding_batch();
    assert_eq!(batch.capacity(), 16);
    let embedding = |row: u32| -> Vec<f32> { (0..4096).map(|i| ((row * 31 + i) % 97) as f32 / 97.0 - 0.5).collect() };
    let mut last = None;
    for row in 0..16 {
        let sequence = &sequences[row as usize % 2];
        if row < 15 {
            batch.push_embedding(sequence, &embedding(row)).unwrap();
        } else {
            last = Some(batch.push_embedding_output(sequence, &embedding(row)).unwrap());
        }
    }
    for row in 0..16 {
        assert_eq!(batch.embedding(row).unwrap(), embedding(row));
        assert_eq!(batch.token(row), None);
        assert_eq!(batch.position(row), Some(row / 2));
        assert_eq!(batch.sequence(row).unwrap().slot(), row % 2);
        assert_eq!(batch.is_output(row), Some(row == 15));
    }
    assert_eq!(batch.embedding(16), None);
    assert_eq!(
        batch.push_embedding(&sequences[0], &[0.0; 4096]),
        Err(PushError::BatchFull { limit: 16, have: 16, adding: 1 })
    );
    let outputs = context.decode(&mut batch).unwrap();
    assert!(outputs.get(last.unwrap()).unwrap().iter().all(|logit| logit.is_finite()));
    assert_eq!(context.span(&sequences[0]).unwrap(), 0..8);
}

/// Embeddings in one batch compute what they compute one at a time, and tokens may follow.
#[test]
fn embeddings_together_equal_one_at_a_time() {
    let shape = Llama::tiny();
    let model = model(&shape, Weights::F32, 3);
    let settings = params();
    let mut context = Context::new(&model, &settings).unwrap();
    let width = context.limits().input_width();
    let sequence = context.new_sequence().unwrap();
    let mut batch = context.new_embedding_batch();
    let first: Vec<f32> = (0..width).map(|i| (i % 13) as f32 / 13.0).collect();
    let second: Vec<f32> = (0..width).map(|i| (i % 7) as f32 / 7.0).collect();
    // Together and one at a time.
    batch.push_embedding(&sequence, &first).unwrap();
    let slot = batch.push_embedding_output(&sequence, &second).unwrap();
    let together = context.decode(&mut batch).unwrap().get(slot).unwrap().to_vec();
    context.clear(&sequence).unwrap();
    batch.push_embedding(&sequence, &first).unwrap();
    context.decode(&mut batch).unwrap();
    let slot = batch.push_embedding_output(&sequence, &second).unwrap();
    let apart = context.decode(&mut batch).unwrap().get(slot).unwrap().to_vec();
    assert_same_logits(&together, &apart);
    // A sequence may go on with tokens.
    let mut tokens = context.new_batch();
    tokens.push(&sequence, Token(5)).unwrap();
    context.decode(&mut tokens).unwrap();
    assert_eq!(context.span(&sequence).unwrap(), 0..3);
}
