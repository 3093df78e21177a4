//! Every bad input is a typed error with its numbers, and the context works afterwards as if nothing had been.

use batch_suite::{alone, assert_equal, encoder, exact_params as settings, params, prompt, still_works, tiny};
use fixtures::{Llama, Weights};
use llama_safe::{
    Context, ContextError, ContextParams, DecodeError, KvLayout, Model, ModelParams, OutputError, Pooling, PushError,
    Sampler, SamplerParamError, SamplingError, SequenceError, Special, Token,
};

fn context() -> Context {
    Context::new(&tiny(Weights::F32), &settings()).unwrap()
}

// Batches.

#[test]
fn full_batch() {
    let mut context = context();
    let sequence = context.new_sequence().unwrap();
    let mut batch = context.new_batch();
    batch.extend(&sequence, &prompt(1, 60)).unwrap();
    let full = |adding| PushError::BatchFull { limit: 64, have: 60, adding };
    assert_eq!(batch.extend(&sequence, &prompt(2, 5)), Err(full(5)));
    assert_eq!(batch.prompt(&sequence, &prompt(2, 100)), Err(full(100)));
    assert_eq!(batch.len(), 60, "all or nothing");
    let slot = batch.prompt(&sequence, &prompt(2, 4)).unwrap();
    assert_eq!(batch.push(&sequence, Token(1)), Err(PushError::BatchFull { limit: 64, have: 64, adding: 1 }));
    let want = alone(context.model(), &settings(), &[prompt(1, 60), prompt(2, 4)].concat()).pop().unwrap();
    assert_equal(context.decode(&mut batch).unwrap().get(slot).unwrap(), &want, 1e-6, "the full batch");
    still_works(&mut context);
}

#[test]
fn nothing_to_do() {
    let mut context = context();
    let sequence = context.new_sequence().unwrap();
    let mut batch = context.new_batch();
    assert_eq!(context.decode(&mut batch).unwrap_err(), DecodeError::EmptyBatch);
    assert_eq!(batch.prompt(&sequence, &[]), Err(PushError::NoTokens));
    assert_eq!(batch.extend(&sequence, &[]), Err(PushError::NoTokens));
    batch.push(&sequence, Token(1)).unwrap();
    batch.clear();
    assert_eq!(context.decode(&mut batch).unwrap_err(), DecodeError::EmptyBatch);
    still_works(&mut context);
}

#[test]
fn token_out_of_range() {
    let mut context = context();
    let sequence = context.new_sequence().unwrap();
    let mut batch = context.new_batch();
    let vocabulary = context.limits().vocabulary();
    assert_eq!(vocabulary, Llama::tiny().vocabulary);
    for token in [-1, vocabulary as i32, i32::MIN, i32::MAX] {
        let error = PushError::TokenOutOfRange { token, vocabulary };
        assert_eq!(batch.push(&sequence, Token(token)), Err(error));
        assert_eq!(batch.push_output(&sequence, Token(token)), Err(error));
        assert_eq!(batch.extend(&sequence, &[Token(1), Token(token), Token(2)]), Err(error));
        assert_eq!(batch.prompt(&sequence, &[Token(1), Token(token)]), Err(error));
        assert!(batch.is_empty(), "all or nothing");
    }
    batch.push(&sequence, Token(vocabulary as i32 - 1)).expect("the last token");
    context.decode(&mut batch).unwrap();
    still_works(&mut context);
}

#[test]
fn batch_of_another_context() {
    let (mut context, mut other) = (self::context(), self::context());
    let sequence = other.new_sequence().unwrap();
    let mut batch = other.new_batch();
    assert_eq!(context.decode(&mut batch).unwrap_err(), DecodeError::ForeignBatch, "even an empty one");
    let slot = batch.prompt(&sequence, &prompt(1, 5)).unwrap();
    assert_eq!(context.decode(&mut batch).unwrap_err(), DecodeError::ForeignBatch);
    assert_eq!(batch.len(), 5);
    assert!(other.decode(&mut batch).unwrap().get(slot).is_ok());
    still_works(&mut context);
    drop(other);
    batch.push(&sequence, Token(1)).unwrap();
    assert_eq!(context.decode(&mut batch).unwrap_err(), DecodeError::ForeignBatch, "whose context is gone");
    still_works(&mut context);
}

#[test]
fn tokens_and_embeddings_do_not_mix() {
    let mut context = context();
    let width = context.limits().input_width();
    let sequence = context.new_sequence().unwrap();
    let (mut tokens, mut embeddings) = (context.new_batch(), context.new_embedding_batch());
    let good = vec![0.25; width as usize];
    assert_eq!(tokens.push_embedding(&sequence, &good), Err(PushError::TakesTokens));
    assert_eq!(tokens.push_embedding_output(&sequence, &good), Err(PushError::TakesTokens));
    assert_eq!(embeddings.push(&sequence, Token(1)), Err(PushError::TakesEmbeddings));
    assert_eq!(embeddings.prompt(&sequence, &prompt(1, 3)), Err(PushError::TakesEmbeddings));
    for got in [0, width as usize - 1, width as usize + 1, 2 * width as usize] {
        let error = PushError::EmbeddingWidth { got, expected: width };
        assert_eq!(embeddings.push_embedding(&sequence, &vec![0.25; got]), Err(error));
    }
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut embedding = good.clone();
        embedding[7] = bad;
        match embeddings.push_embedding(&sequence, &embedding) {
            Err(PushError::EmbeddingNotFinite { index: 7, value }) => assert_eq!(value.to_bits(), bad.to_bits()),
            other => panic!("{other:?}"),
        }
    }
    assert!(tokens.is_empty() && embeddings.is_empty());
    embeddings.push_embedding(&sequence, &good).unwrap();
    context.decode(&mut embeddings).unwrap();
    still_works(&mut context);
}

// Sequences.

#[test]
fn dropped_sequence() {
    let mut context = context();
    let sequence = context.new_sequence().unwrap();
    let id = sequence.id();
    let mut batch = context.new_batch();
    batch.prompt(&sequence, &prompt(1, 5)).unwrap();
    drop(sequence);
    let stale = SequenceError::Stale { id };
    assert_eq!(context.decode(&mut batch).unwrap_err(), stale.into());
    assert_eq!(batch.len(), 5, "a refused batch is kept");
    // The slot gets another tenant: the rows of the old one are not his.
    let tenant = context.new_sequence().unwrap();
    assert_eq!((tenant.id().slot(), tenant.id().generation()), (id.slot(), id.generation() + 1));
    assert_eq!(context.decode(&mut batch).unwrap_err(), stale.into());
    assert_eq!(batch.push(&tenant, Token(1)), Err(stale.into()));
    assert_eq!(batch.len(), 5);
    assert!(tenant.is_empty());
    batch.clear();
    let slot = batch.prompt(&tenant, &prompt(2, 5)).unwrap();
    let want = alone(context.model(), &settings(), &prompt(2, 5)).pop().unwrap();
    assert_equal(context.decode(&mut batch).unwrap().get(slot).unwrap(), &want, 1e-6, "the new tenant");
    still_works(&mut context);
}

#[test]
fn foreign_sequence() {
    let (mut context, mut other) = (self::context(), self::context());
    let sequence = other.new_sequence().unwrap();
    let foreign = SequenceError::Foreign { id: sequence.id() };
    let mut batch = context.new_batch();
    assert_eq!(batch.push(&sequence, Token(1)), Err(foreign.into()));
    assert_eq!(batch.prompt(&sequence, &prompt(1, 3)), Err(foreign.into()));
    let embedding = vec![0.5; context.limits().input_width() as usize];
    assert_eq!(context.new_embedding_batch().push_embedding(&sequence, &embedding), Err(foreign.into()));
    assert!(batch.is_empty());
    assert_eq!(context.span(&sequence), Err(foreign));
    drop(other);
    assert_eq!(batch.push(&sequence, Token(1)), Err(foreign.into()), "whose context is gone");
    still_works(&mut context);
}

#[test]
fn too_many_sequences() {
    let mut context = context();
    let (first, second) = (context.new_sequence().unwrap(), context.new_sequence().unwrap());
    let full = SequenceError::NoFreeSlot { limit: 2 };
    assert_eq!(context.new_sequence().unwrap_err(), full);
    assert_eq!(context.fork(&first).unwrap_err(), full.into());
    drop(second);
    still_works(&mut context);
}

#[test]
fn sequence_full() {
    let mut context = context();
    let limit = context.limits().sequence_tokens();
    assert_eq!((limit, context.limits().context_tokens()), (256, 512));
    let text = prompt(1, limit);
    let sequence = context.new_sequence().unwrap();
    let id = sequence.id();
    let mut batch = context.new_batch();
    for part in text[..192].chunks(64) {
        batch.extend(&sequence, part).unwrap();
        context.decode(&mut batch).unwrap();
    }
    batch.extend(&sequence, &text[192..255]).unwrap();
    let error = PushError::SequenceFull { id, length: 255, adding: 2, limit };
    // Two fit neither here nor there: the batch is asked first.
    assert_eq!(batch.extend(&sequence, &text[..2]), Err(PushError::BatchFull { limit: 64, have: 63, adding: 2 }));
    context.decode(&mut batch).unwrap();
    assert_eq!(batch.extend(&sequence, &text[..2]), Err(error));
    // To the last cell.
    let slot = batch.push_output(&sequence, text[255]).unwrap();
    assert_eq!(batch.push(&sequence, Token(1)), Err(PushError::SequenceFull { id, length: 256, adding: 1, limit }));
    let want = alone(context.model(), &settings().context_tokens(256), &text).pop().unwrap();
    assert_equal(context.decode(&mut batch).unwrap().get(slot).unwrap(), &want, 1e-6, "the last cell");
    assert_eq!(context.span(&sequence).unwrap(), 0..256);
    assert_eq!(batch.push(&sequence, Token(1)), Err(PushError::SequenceFull { id, length: 256, adding: 1, limit }));
    still_works(&mut context);
}

#[test]
fn context_full() {
    let settings = settings().context_tokens(256).batch_tokens(256).kv_layout(KvLayout::Unified);
    let mut context = Context::new(&tiny(Weights::F32), &settings).unwrap();
    let (first, second) = (context.new_sequence().unwrap(), context.new_sequence().unwrap());
    let mut batch = context.new_batch();
    batch.extend(&first, &prompt(1, 200)).unwrap();
    context.decode(&mut batch).unwrap();
    // One too many, over both. Each alone may have all 256.
    let text = prompt(2, 57);
    let slot = batch.prompt(&second, &text).unwrap();
    let full = DecodeError::NoSlot { tokens: 57, context_tokens: 256 };
    for _ in 0..2 {
        assert_eq!(context.decode(&mut batch).unwrap_err(), full);
        assert!(context.outputs().is_none(), "no outputs of a decode that did not happen");
        assert_eq!((batch.len(), second.len(), first.len()), (57, 0, 200));
        assert_eq!((context.span(&second).unwrap(), context.span(&first).unwrap()), (0..0, 0..200));
    }
    drop(first);
    let want = alone(context.model(), &settings, &text).pop().unwrap();
    assert_equal(context.decode(&mut batch).unwrap().get(slot).unwrap(), &want, 1e-6, "once there is room");
    still_works(&mut context);
}

#[test]
fn sequence_changed_under_the_batch() {
    let mut context = context();
    let sequence = context.new_sequence().unwrap();
    let id = sequence.id();
    let (mut batch, mut other) = (context.new_batch(), context.new_batch());
    batch.extend(&sequence, &prompt(1, 5)).unwrap();
    context.decode(&mut batch).unwrap();

    batch.push(&sequence, Token(1)).unwrap();
    other.extend(&sequence, &prompt(2, 3)).unwrap();
    context.decode(&mut other).unwrap();
    let changed = |found| DecodeError::SequenceChanged { id, expected: 5, found };
    assert_eq!(context.decode(&mut batch).unwrap_err(), changed(8), "longer");
    context.truncate(&sequence, 2).unwrap();
    assert_eq!(context.decode(&mut batch).unwrap_err(), changed(2), "shorter");
    context.clear(&sequence).unwrap();
    assert_eq!(context.decode(&mut batch).unwrap_err(), changed(0), "cleared");
    assert_eq!((batch.len(), sequence.len()), (1, 0));
    still_works(&mut context);
}

// Outputs.

#[test]
fn outputs_of_other_decodes() {
    let mut context = context();
    assert!(context.outputs().is_none());
    let sequence = context.new_sequence().unwrap();
    let mut batch = context.new_batch();
    let first = batch.push_output(&sequence, Token(1)).unwrap();
    context.decode(&mut batch).unwrap();
    let second = batch.push_output(&sequence, Token(2)).unwrap();
    assert_eq!(context.outputs().unwrap().get(second), Err(OutputError::OtherDecode), "not decoded yet");
    let outputs = context.decode(&mut batch).unwrap();
    assert_eq!(outputs.get(first), Err(OutputError::OtherDecode), "an earlier decode");
    assert!(outputs.get(second).is_ok());
    let cleared = batch.push_output(&sequence, Token(3)).unwrap();
    batch.clear();
    let third = batch.push_output(&sequence, Token(4)).unwrap();
    let outputs = context.decode(&mut batch).unwrap();
    assert_eq!(outputs.get(cleared), Err(OutputError::OtherDecode), "a batch that was cleared");
    assert_eq!(outputs.embedding(third), Err(OutputError::NoEmbeddings));
    assert_eq!(outputs.sequence_embedding(&sequence), Err(OutputError::NoEmbeddings));

    let mut other = self::context();
    let theirs = other.new_sequence().unwrap();
    let mut batch = other.new_batch();
    let slot = batch.push_output(&theirs, Token(4)).unwrap();
    other.decode(&mut batch).unwrap();
    assert_eq!(context.outputs().unwrap().get(slot), Err(OutputError::OtherDecode), "another context");
    still_works(&mut context);
}

#[test]
fn embeddings_where_there_are_none() {
    let pooled = settings().embeddings(true).pooling(Pooling::Mean);
    let mut context = Context::new(&tiny(Weights::F32), &pooled).unwrap();
    let (sequence, idle) = (context.new_sequence().unwrap(), context.new_sequence().unwrap());
    let mut batch = context.new_batch();
    let slot = batch.prompt(&sequence, &prompt(1, 4)).unwrap();
    let outputs = context.decode(&mut batch).unwrap();
    assert_eq!(outputs.get(slot), Err(OutputError::NoLogits));
    assert_eq!(outputs.embedding(slot), Err(OutputError::Pooled));
    let absent = OutputError::SequenceNotInBatch { id: idle.id() };
    assert_eq!(outputs.sequence_embedding(&idle), Err(absent));
    let want = outputs.sequence_embedding(&sequence).unwrap().to_vec();
    // The mean of the new tokens alone would be no mean of the text.
    let id = sequence.id();
    assert_eq!(batch.push(&sequence, Token(1)), Err(PushError::PooledAcrossDecodes { id, length: 4 }));
    context.clear(&sequence).unwrap();
    batch.prompt(&sequence, &prompt(1, 4)).unwrap();
    let outputs = context.decode(&mut batch).unwrap();
    assert_equal(outputs.sequence_embedding(&sequence).unwrap(), &want, 1e-6, "again");

    let unpooled = settings().embeddings(true).pooling(Pooling::None);
    let mut context = Context::new(&tiny(Weights::F32), &unpooled).unwrap();
    let sequence = context.new_sequence().unwrap();
    let mut batch = context.new_batch();
    let slot = batch.prompt(&sequence, &prompt(1, 4)).unwrap();
    let outputs = context.decode(&mut batch).unwrap();
    assert_eq!(outputs.sequence_embedding(&sequence), Err(OutputError::NotPooled));
    assert!(outputs.embedding(slot).is_ok());
}

/// llama.cpp looks positions up in a table of the trained length, and aborts past its end.
#[test]
fn more_than_the_encoder_was_trained_on() {
    let settings = params().context_tokens(1024).batch_tokens(1024).micro_batch_tokens(1024).embeddings(true);
    let mut context = Context::new(&encoder(), &settings).unwrap();
    let sequence = context.new_sequence().unwrap();
    let id = sequence.id();
    let mut batch = context.new_batch();
    let error = PushError::SequenceFull { id, length: 0, adding: 513, limit: 512 };
    assert_eq!(batch.prompt(&sequence, &prompt(1, 513)), Err(error));
    batch.prompt(&sequence, &prompt(1, 512)).unwrap();
    assert_eq!(
        batch.push(&sequence, Token(1)),
        Err(PushError::SequenceFull { id, length: 512, adding: 1, limit: 512 })
    );
    let outputs = context.encode(&mut batch).unwrap();
    assert!(outputs.sequence_embedding(&sequence).unwrap().iter().all(|number| number.is_finite()));
    batch.push(&sequence, Token(1)).expect("each call begins anew");
}

#[test]
fn nothing_to_sample() {
    for got in [-1.0, f32::NAN, f32::INFINITY, 1000.1] {
        match Sampler::chain().temperature(got) {
            Err(SamplerParamError::OutOfRange { parameter: "temperature", got: told, allowed: "from 0 to 1000" }) => {
                assert_eq!(told.to_bits(), got.to_bits());
            }
            other => panic!("{other:?}"),
        }
    }
    let mut context = context();
    let sequence = context.new_sequence().unwrap();
    let mut batch = context.new_batch();
    let slot = batch.push_output(&sequence, Token(1)).unwrap();
    let logits = context.decode(&mut batch).unwrap().get(slot).unwrap().to_vec();
    for mut sampler in [Sampler::greedy(), Sampler::chain().temperature(0.8).unwrap().dist(1)] {
        let error = sampler.sample(&logits[..0]).unwrap_err();
        assert_eq!(error, SamplingError::NoLogits);
        let mut broken = logits.clone();
        broken[300] = f32::INFINITY;
        let error = sampler.sample(&broken).unwrap_err();
        assert_eq!(error, SamplingError::NotFinite { token: 300, value: f32::INFINITY });
        broken[300] = f32::NAN;
        let error = sampler.sample(&broken).unwrap_err();
        assert!(matches!(error, SamplingError::NotFinite { token: 300, value } if value.is_nan()));
        let error = sampler.sample(&vec![f32::NEG_INFINITY; logits.len()]).unwrap_err();
        assert_eq!(error, SamplingError::NothingAllowed);
        assert!(sampler.sample(&logits).is_ok());
    }
}

// Contexts.

#[test]
fn context_numbers_out_of_range() {
    let model = tiny(Weights::F32);
    let refused = |params: ContextParams| Context::new(&model, &params).map(drop).unwrap_err();
    for got in [0, 257, u32::MAX] {
        assert_eq!(refused(settings().sequences(got)), ContextError::SequencesOutOfRange { got, max: 256 });
    }
    assert_eq!(refused(settings().batch_tokens(0)), ContextError::BatchTokensZero);
    assert_eq!(refused(settings().micro_batch_tokens(0)), ContextError::MicroBatchTokensZero);
    assert_eq!(refused(settings().batch_tokens(0).micro_batch_tokens(0)), ContextError::BatchTokensZero);
    let too_large = |what| ContextError::TooLarge { what, got: u32::MAX.into(), max: i32::MAX as u64 - 511 };
    for layout in [KvLayout::Split, KvLayout::Unified] {
        assert_eq!(refused(settings().kv_layout(layout).context_tokens(u32::MAX)), too_large("context_tokens"));
    }
    assert_eq!(refused(settings().batch_tokens(u32::MAX)), too_large("batch_tokens"));
    let small = |batch_tokens, sequences| ContextError::BatchSmallerThanSequences { batch_tokens, sequences };
    assert_eq!(refused(settings().sequences(8).batch_tokens(7)), small(7, 8));
    assert_eq!(
        refused(settings().sequences(8).context_tokens(4)),
        small(4, 8),
        "a batch is no larger than the context"
    );
    assert_eq!(refused(settings().context_tokens(0)), small(0, 2));
    for got in [0, 513, 65_536, 100_000, u32::MAX] {
        assert_eq!(refused(settings().threads(got)), ContextError::ThreadsOutOfRange { got, max: 512 });
        assert_eq!(refused(settings().batch_threads(got)), ContextError::ThreadsOutOfRange { got, max: 512 });
    }
    // What is odd, but possible.
    for params in [
        settings().micro_batch_tokens(u32::MAX),
        settings().sequences(256).batch_tokens(256).context_tokens(256),
        settings().sequences(8).batch_tokens(8).micro_batch_tokens(1),
    ] {
        let mut context = Context::new(&model, &params).unwrap();
        assert!(context.limits().micro_batch_tokens() <= context.limits().batch_tokens());
        still_works(&mut context);
    }
}

#[test]
fn vocabulary_without_weights() {
    let gguf = Llama::tiny().gguf(Weights::F32, 1).unwrap();
    let model = Model::from_bytes(&gguf, &ModelParams::default().vocab_only(true)).unwrap();
    assert_eq!(Context::new(&model, &settings()).map(drop).unwrap_err(), ContextError::VocabularyOnly);
    let text = "It has words all the same.";
    let tokens = model.tokenize(text, Special::None).unwrap();
    assert_eq!(model.detokenize(&tokens).unwrap(), text);
}
