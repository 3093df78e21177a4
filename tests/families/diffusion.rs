//! A whole text at a time, logits for every token, nothing remembered.

use batch_suite::{assert_equal, exact_params, family, nmse, prompt};
use fixtures::{Family, Weights};
use llama_safe::{
    Context, ContextParams, DecodeError, FlashAttention, Limits, MemoryError, MemoryKind, Model, OutputError,
    PushError, Sequence, Token,
};

fn three() -> ContextParams {
    exact_params().sequences(3).context_tokens(768)
}

/// The logits of every token of texts that are encoded together.
fn logits(context: &mut Context, texts: &[(&Sequence, &[Token])]) -> Vec<Vec<Vec<f32>>> {
    let mut batch = context.new_batch();
    let slots: Vec<Vec<_>> = texts
        .iter()
        .map(|(sequence, text)| text.iter().map(|token| batch.push_output(sequence, *token).expect("room")).collect())
        .collect();
    let outputs = context.encode(&mut batch).expect("an encoding");
    let read = |slots: &Vec<_>| slots.iter().map(|slot| outputs.get(*slot).expect("logits").to_vec()).collect();
    slots.iter().map(read).collect()
}

fn alone(model: &Model, params: &ContextParams, text: &[Token]) -> Vec<Vec<f32>> {
    let mut context = Context::new(model, params).expect("a context");
    let sequence = context.new_sequence().expect("a sequence");
    logits(&mut context, &[(&sequence, text)]).remove(0)
}

/// Three texts in one batch, each as if it were alone, in slot order and against it.
pub fn batch_equals_single() {
    for (weights, most) in [(Weights::F32, 1e-6), (Weights::F16, 1e-6), (Weights::Q8_0, 1e-6)] {
        let model = family(Family::Diffusion, weights);
        let params = three();
        let mut context = Context::new(&model, &params).expect("a context");
        let sequences = [0, 1, 2].map(|_| context.new_sequence().expect("a sequence"));
        let texts = [prompt(1, 9), prompt(2, 20), prompt(3, 14)];
        for order in [[0, 1, 2], [2, 0, 1]] {
            let batch: Vec<_> = order.iter().map(|index| (&sequences[*index], &*texts[*index])).collect();
            let got = logits(&mut context, &batch);
            for (index, got) in order.into_iter().zip(got) {
                let want = alone(&model, &params, &texts[index]);
                assert_eq!(got.len(), want.len());
                for (row, (got, want)) in got.iter().zip(&want).enumerate() {
                    assert_equal(got, want, most, &format!("{weights} sequence {index} token {row}"));
                }
            }
        }
        assert!(sequences.iter().all(Sequence::is_empty), "nothing is remembered");
    }
}

/// With fused attention, which rounds keys and values to 16 bits.
pub fn fused_attention_equals_single() {
    let model = family(Family::Diffusion, Weights::F32);
    let params = three().flash_attention(FlashAttention::On);
    let mut context = Context::new(&model, &params).expect("a context");
    let sequences = [0, 1].map(|_| context.new_sequence().expect("a sequence"));
    let texts = [prompt(1, 9), prompt(2, 20)];
    let got = logits(&mut context, &[(&sequences[0], &texts[0]), (&sequences[1], &texts[1])]);
    for (got, text) in got.iter().zip(&texts) {
        for (got, want) in got.iter().zip(alone(&model, &params, text)) {
            assert_equal(got, &want, 1e-6, "fused");
        }
    }
}

/// Every token sees those after it, and the order.
pub fn tokens_see_what_follows() {
    let model = family(Family::Diffusion, Weights::F32);
    let text = prompt(1, 12);
    let mut other = text.clone();
    other[11] = Token(other[11].0 + 1);
    let (first, second) = (alone(&model, &three(), &text), alone(&model, &three(), &other));
    assert!(nmse(&second[0], &first[0]) > 1e-5, "the last token does not reach the first");
    other.swap(4, 5);
    assert!(nmse(&alone(&model, &three(), &other)[0], &second[0]) > 1e-5, "the order does not count");
}

/// What would abort (llama-context.cpp:1505) or has no meaning is refused, and the context goes on.
pub fn limits_are_checked() {
    let model = family(Family::Diffusion, Weights::F32);
    assert!(model.is_diffusion() && !model.is_encoder_decoder());
    assert_eq!(model.vocab().mask(), Some(Token(511)));
    let mut context = Context::new(&model, &three().micro_batch_tokens(16)).expect("a context");
    let limits: &Limits = context.limits();
    assert_eq!((limits.memory(), limits.has_logits(), limits.batch_tokens()), (MemoryKind::None, true, 16));
    let sequence = context.new_sequence().expect("a sequence");
    let mut batch = context.new_batch();
    let full = PushError::BatchFull { limit: 16, have: 0, adding: 17 };
    assert_eq!(batch.extend(&sequence, &prompt(1, 17)), Err(full));
    let slot = batch.prompt(&sequence, &prompt(1, 16)).expect("room");
    assert_eq!(context.decode(&mut batch).map(drop), Err(DecodeError::NoDecoder));
    let outputs = context.encode(&mut batch).expect("an encoding");
    assert_eq!(outputs.embedding(slot), Err(OutputError::NoEmbeddings));
    let got = outputs.get(slot).expect("logits").to_vec();
    assert_equal(&got, &alone(&model, &three(), &prompt(1, 16))[15], 1e-6, "after the refusals");
    assert!(matches!(context.fork(&sequence), Err(MemoryError::NoMemory)));
    let mut embeddings = context.new_embedding_batch();
    let slot = embeddings.push_embedding_output(&sequence, &[0.1; 64]).expect("room");
    let outputs = context.encode(&mut embeddings).expect("an encoding");
    assert!(outputs.get(slot).expect("logits").iter().all(|logit| logit.is_finite()));
    assert_eq!(context.span(&sequence), Ok(0..0));
}

/// An aborted computation leaves a context that computes.
pub fn aborted_encode_is_an_error() {
    let model = family(Family::Diffusion, Weights::F32);
    let mut context = Context::new(&model, &three()).expect("a context");
    let sequence = context.new_sequence().expect("a sequence");
    let handle = context.abort_handle();
    handle.abort_after(3);
    let mut batch = context.new_batch();
    batch.extend(&sequence, &prompt(1, 9)).expect("room");
    assert_eq!(context.encode(&mut batch).map(drop), Err(DecodeError::Aborted { damaged: vec![] }));
    handle.reset();
    let got = logits(&mut context, &[(&sequence, &prompt(1, 9))]);
    for (got, want) in got[0].iter().zip(alone(&model, &three(), &prompt(1, 9))) {
        assert_equal(got, &want, 1e-6, "after the abort");
    }
}
