//! Encode, then decode: what a decoder sees is the last encoding, and of it the text of its own sequence.

use batch_suite::{Feed, assert_equal, exact_params, family, feed_all, nmse, prompt};
use fixtures::{Family, T5, Weights};
use llama_safe::{
    Context, ContextError, ContextParams, DecodeError, KvLayout, LoadError, MemoryKind, Model, ModelParams,
    OutputError, Pooling, PushError, Sequence, Token,
};

fn t5(weights: Weights) -> Model {
    family(Family::T5, weights)
}

/// Room for three sequences, all in 32 bits.
fn three() -> ContextParams {
    exact_params().sequences(3).context_tokens(768)
}

fn encode(context: &mut Context, texts: &[(&Sequence, &[Token])]) -> Result<(), DecodeError> {
    let mut batch = context.new_encoder_batch();
    for (sequence, text) in texts {
        batch.extend(sequence, text).expect("room");
    }
    context.encode(&mut batch).map(drop)
}

fn decode(context: &mut Context, sequence: &Sequence, token: Token) -> Result<Vec<f32>, DecodeError> {
    let mut batch = context.new_batch();
    let slot = batch.push_output(sequence, token).expect("room");
    context.decode(&mut batch).map(|outputs| outputs.get(slot).expect("logits").to_vec())
}

/// The logits after each of `tokens`, one a call, on a fresh context that encoded `text` alone.
fn alone(model: &Model, params: &ContextParams, text: &[Token], tokens: &[Token]) -> Vec<Vec<f32>> {
    let mut context = Context::new(model, &params.clone().sequences(1)).expect("a context");
    let sequence = context.new_sequence().expect("a sequence");
    encode(&mut context, &[(&sequence, text)]).expect("an encoding");
    tokens.iter().map(|token| decode(&mut context, &sequence, *token).expect("a decode")).collect()
}

/// Texts of different lengths in one encoding; then prompts of different lengths in one batch, and steps of one token each.
pub fn batch_equals_single(weights: Weights, params: &ContextParams, most: f64) {
    let model = t5(weights);
    let mut context = Context::new(&model, params).expect("a context");
    let sequences: Vec<_> = (0..3).map(|_| context.new_sequence().expect("a sequence")).collect();
    let texts: Vec<_> = (0..3).map(|index| prompt(index, 4 + 7 * index)).collect();
    let tokens: Vec<_> = (0..3).map(|index| prompt(10 + index, 9 - 2 * index)).collect();
    // Not in the order of their slots, and row by row.
    let mut batch = context.new_encoder_batch();
    for row in 0..texts[2].len() {
        for index in [2, 0, 1] {
            if let Some(token) = texts[index].get(row) {
                batch.push(&sequences[index], *token).expect("room");
            }
        }
    }
    context.encode(&mut batch).expect("an encoding");
    assert!(batch.is_empty() && sequences.iter().all(Sequence::is_empty), "encoding adds nothing to memory");

    let mut batch = context.new_batch();
    let mut slots = Vec::new();
    for index in [1, 2, 0] {
        let (_, first) = tokens[index].split_last().expect("tokens");
        slots.push((index, batch.prompt(&sequences[index], first).expect("room")));
    }
    let mut got = vec![Vec::new(); 3];
    let outputs = context.decode(&mut batch).expect("a decode");
    for (index, slot) in slots {
        got[index].push(outputs.get(slot).expect("logits").to_vec());
    }
    let slots: Vec<_> =
        (0..3).map(|index| batch.push_output(&sequences[index], *tokens[index].last().expect("tokens"))).collect();
    let outputs = context.decode(&mut batch).expect("a decode");
    for (index, slot) in slots.into_iter().enumerate() {
        got[index].push(outputs.get(slot.expect("room")).expect("logits").to_vec());
    }
    for index in 0..3 {
        let want = alone(&model, params, &texts[index], &tokens[index]);
        for (got, want) in got[index].iter().zip(&want[want.len() - 2..]) {
            assert_equal(got, want, most, &format!("{weights} sequence {index}"));
        }
        // A decoder that did not see its text would give the same for another one.
        let other = alone(&model, params, &texts[(index + 1) % 3], &tokens[index]);
        assert!(nmse(&got[index][1], other.last().expect("a row")) > 1e-2, "sequence {index} does not see its text");
    }
}

/// Every number of sequences with small and large micro-batches, and batches smaller, as large and larger than those: the texts in
/// one encoding, the decoders' tokens in turns, some one at a time, some in chunks; then another text in the place of the first,
/// encoded with those that go on.
pub fn turns_equal_single(weights: Weights, params: &ContextParams, most: f64) {
    let model = t5(weights);
    let texts: Vec<_> = (0..9).map(|index| prompt(40 + index, 2 + index % 5)).collect();
    let tokens: Vec<_> = (0..9).map(|index| prompt(index, 12 + index * 7 % 11)).collect();
    let oracle = params.clone().context_tokens(256).micro_batch_tokens(8);
    let want: Vec<_> = texts.iter().zip(&tokens).map(|(text, tokens)| alone(&model, &oracle, text, tokens)).collect();
    for (sequences, size, micro_batch) in [(1, 1, 16), (1, 32, 8), (2, 7, 16), (3, 7, 512), (8, 32, 40), (8, 32, 512)] {
        let check = |which: usize, position: usize, got: &[f32]| {
            let what =
                format!("{weights}, {sequences} sequences, {size} a batch, {micro_batch} at once: {which}, {position}");
            assert_equal(got, &want[which][position], most, &what);
        };
        let params = params.clone().sequences(sequences).context_tokens(256 * sequences).batch_tokens(256);
        let mut context = Context::new(&model, &params.micro_batch_tokens(micro_batch)).expect("a context");
        let count = sequences as usize;
        let mut feeds: Vec<_> = tokens[..count].iter().map(|tokens| Feed::new(&mut context, &tokens[..9])).collect();
        let pairs: Vec<_> = feeds.iter().zip(&texts).map(|(feed, text)| (&feed.sequence, &**text)).collect();
        encode(&mut context, &pairs).expect("an encoding");
        feed_all(&mut context, &mut feeds, size, check);
        drop(feeds.remove(0));
        feeds.push(Feed::new(&mut context, &tokens[count]));
        for (feed, tokens) in feeds.iter_mut().zip(&tokens[1..]) {
            feed.text.clone_from(tokens);
        }
        let pairs: Vec<_> = feeds.iter().zip(&texts[1..]).map(|(feed, text)| (&feed.sequence, &**text)).collect();
        encode(&mut context, &pairs).expect("an encoding");
        feed_all(&mut context, &mut feeds, size, |which, position, got| check(which + 1, position, got));
    }
}

/// The bias of a distance is the same however a text comes: at once, in micro-batches, in chunks, beside others.
pub fn chunks_equal_single() {
    let model = t5(Weights::F32);
    let (texts, tokens) = ([prompt(1, 20), prompt(2, 11)], [prompt(3, 150), prompt(4, 140)]);
    let wants = [0, 1].map(|index| alone(&model, &three(), &texts[index], &tokens[index]).pop().expect("a row"));
    for (batch_tokens, micro_batch_tokens) in [(290, 512), (290, 31), (64, 31), (64, 64)] {
        let params = three().batch_tokens(batch_tokens).micro_batch_tokens(micro_batch_tokens);
        let mut context = Context::new(&model, &params).expect("a context");
        let sequences = [0, 1].map(|_| context.new_sequence().expect("a sequence"));
        encode(&mut context, &[(&sequences[0], &texts[0]), (&sequences[1], &texts[1])]).expect("an encoding");
        let mut batch = context.new_batch();
        let chunk = batch.capacity() as usize / 2;
        let (mut slots, mut done) = ([None, None], 0);
        while done < 150 {
            for index in 0..2 {
                let rest = &tokens[index][done.min(tokens[index].len())..];
                let rest = &rest[..chunk.min(rest.len())];
                if !rest.is_empty() {
                    slots[index] = Some(batch.prompt(&sequences[index], rest).expect("room"));
                }
            }
            done += chunk;
            let outputs = context.decode(&mut batch).expect("a decode");
            for index in 0..2 {
                // The chunk that ends a text.
                if done >= tokens[index].len()
                    && let Some(slot) = slots[index].take()
                {
                    let what = format!("sequence {index}, batches of {batch_tokens}, {micro_batch_tokens} at once");
                    assert_equal(outputs.get(slot).expect("logits"), &wants[index], 1e-6, &what);
                }
            }
        }
    }
}

pub fn decode_without_encode_is_refused() {
    let model = t5(Weights::F32);
    let mut context = Context::new(&model, &three()).expect("a context");
    let sequence = context.new_sequence().expect("a sequence");
    // llama-graph.cpp:1102 asserts that something was encoded.
    assert_eq!(decode(&mut context, &sequence, Token(5)), Err(DecodeError::NotEncoded { id: sequence.id() }));
    assert_eq!(context.is_encoded(&sequence), Ok(false));
    encode(&mut context, &[(&sequence, &prompt(1, 5))]).expect("an encoding");
    assert_eq!(context.is_encoded(&sequence), Ok(true));
    let want = alone(&model, &three(), &prompt(1, 5), &[Token(5)]).remove(0);
    assert_equal(&decode(&mut context, &sequence, Token(5)).expect("a decode"), &want, 1e-6, "after the refusal");
}

/// llama.cpp keeps one encoding, and computes with nothing in view for a sequence that is not in it.
pub fn only_the_last_encoding_counts() {
    let model = t5(Weights::F32);
    let (first, second, tokens) = (prompt(1, 9), prompt(2, 6), prompt(3, 5));
    let want = alone(&model, &three(), &first, &tokens);
    let mut context = Context::new(&model, &three()).expect("a context");
    let [early, late] = [0, 1].map(|_| context.new_sequence().expect("a sequence"));
    encode(&mut context, &[(&early, &first)]).expect("an encoding");
    for token in &tokens[..3] {
        decode(&mut context, &early, *token).expect("a decode");
    }
    // Another request comes.
    encode(&mut context, &[(&late, &second)]).expect("an encoding");
    assert_eq!(decode(&mut context, &early, tokens[3]), Err(DecodeError::NotEncoded { id: early.id() }));
    let refused = Err(DecodeError::EncodedOtherwise { id: early.id(), length: 3 });
    assert_eq!(encode(&mut context, &[(&late, &second), (&early, &second)]), refused);
    decode(&mut context, &late, tokens[0]).expect("the refused encoding has changed nothing");
    // Both, in one encoding: each goes on.
    encode(&mut context, &[(&late, &second), (&early, &first)]).expect("an encoding");
    assert_eq!((early.len(), late.len()), (3, 1));
    let got = decode(&mut context, &early, tokens[3]).expect("a decode");
    assert_equal(&got, &want[3], 1e-6, "the early one");
    let got = decode(&mut context, &late, tokens[1]).expect("a decode");
    assert_equal(&got, &alone(&model, &three(), &second, &tokens[..2])[1], 1e-6, "the late one");
    // A cleared sequence takes any text, and still has the one that it was encoded with.
    context.clear(&early).expect("a clear");
    assert_equal(&decode(&mut context, &early, tokens[0]).expect("a decode"), &want[0], 1e-6, "cleared");
    context.clear(&early).expect("a clear");
    encode(&mut context, &[(&early, &second)]).expect("an encoding");
}

/// The encoding names slots: a fork's is not in it.
pub fn fork_is_encoded_with_its_parents_text() {
    let model = t5(Weights::F32);
    let (text, tokens) = (prompt(1, 9), prompt(3, 5));
    let mut context = Context::new(&model, &three()).expect("a context");
    let parent = context.new_sequence().expect("a sequence");
    encode(&mut context, &[(&parent, &text)]).expect("an encoding");
    for token in &tokens[..3] {
        decode(&mut context, &parent, *token).expect("a decode");
    }
    let fork = context.fork_prefix(&parent, 2).expect("a fork");
    assert_eq!(decode(&mut context, &fork, tokens[2]), Err(DecodeError::NotEncoded { id: fork.id() }));
    let other = encode(&mut context, &[(&parent, &text), (&fork, &text[1..])]);
    assert_eq!(other, Err(DecodeError::EncodedOtherwise { id: fork.id(), length: 2 }));
    encode(&mut context, &[(&parent, &text), (&fork, &text)]).expect("an encoding");
    let want = alone(&model, &three(), &text, &tokens);
    assert_equal(&decode(&mut context, &fork, tokens[2]).expect("a decode"), &want[2], 1e-6, "the fork");
    assert_equal(&decode(&mut context, &parent, tokens[3]).expect("a decode"), &want[3], 1e-6, "the parent");
}

/// A new sequence in a slot does not see what the old one was given.
pub fn new_owner_of_a_slot_is_not_encoded() {
    let mut context = Context::new(&t5(Weights::F32), &three()).expect("a context");
    let old = context.new_sequence().expect("a sequence");
    encode(&mut context, &[(&old, &prompt(1, 5))]).expect("an encoding");
    let slot = old.id().slot();
    drop(old);
    let new = context.new_sequence().expect("a sequence");
    assert_eq!(new.id().slot(), slot);
    assert_eq!(decode(&mut context, &new, Token(5)), Err(DecodeError::NotEncoded { id: new.id() }));
}

/// Truncated and decoded anew, it is as if the tokens had never been.
pub fn truncate_equals_recomputing() {
    let model = t5(Weights::F32);
    let (text, tokens) = (prompt(1, 9), prompt(3, 6));
    let mut context = Context::new(&model, &three()).expect("a context");
    let sequence = context.new_sequence().expect("a sequence");
    encode(&mut context, &[(&sequence, &text)]).expect("an encoding");
    for token in prompt(3, 3).iter().chain(&prompt(4, 4)) {
        decode(&mut context, &sequence, *token).expect("a decode");
    }
    context.truncate(&sequence, 3).expect("a truncation");
    let want = alone(&model, &three(), &text, &tokens);
    for index in 3..6 {
        let got = decode(&mut context, &sequence, tokens[index]).expect("a decode");
        assert_equal(&got, &want[index], 1e-6, "truncated");
    }
}

/// An encoder computes in one pass (an assertion, llama-context.cpp:1505), and its batches are no decoder's.
pub fn encoder_batches_are_checked() {
    let model = t5(Weights::F32);
    let mut context = Context::new(&model, &three().micro_batch_tokens(16)).expect("a context");
    let sequence = context.new_sequence().expect("a sequence");
    let mut texts = context.new_encoder_batch();
    assert_eq!((texts.capacity(), context.limits().encoder_tokens(), context.new_batch().capacity()), (16, 16, 64));
    assert_eq!(texts.extend(&sequence, &prompt(1, 17)), Err(PushError::BatchFull { limit: 16, have: 0, adding: 17 }));
    texts.extend(&sequence, &prompt(1, 16)).expect("room");
    assert_eq!((texts.position(0), texts.position(15), texts.is_output(3)), (Some(0), Some(15), Some(true)));
    assert_eq!(context.decode(&mut texts).map(drop), Err(DecodeError::NotForDecoder));
    context.encode(&mut texts).expect("an encoding");
    let mut tokens = context.new_batch();
    tokens.push_output(&sequence, Token(5)).expect("room");
    assert_eq!(context.encode(&mut tokens).map(drop), Err(DecodeError::NotForEncoder));
    context.decode(&mut tokens).expect("a decode");
    let mut embeddings = context.new_embedding_batch();
    let slot = embeddings.push_embedding_output(&sequence, &[0.1; 64]).expect("room");
    assert_eq!(context.encode(&mut embeddings).map(drop), Err(DecodeError::NotForEncoder));
    let outputs = context.decode(&mut embeddings).expect("a decode");
    assert!(outputs.get(slot).expect("logits").iter().all(|logit| logit.is_finite()));
    context.truncate(&sequence, 1).expect("a truncation");
    // Again, mid-way: the text begins at 0 for whoever looks.
    texts.extend(&sequence, &prompt(1, 16)).expect("room");
    assert_eq!((texts.position(0), texts.position(15)), (Some(0), Some(15)));
    context.clear(&sequence).expect("a clear");
    let changed = DecodeError::SequenceChanged { id: sequence.id(), expected: 1, found: 0 };
    assert_eq!(context.encode(&mut texts).map(drop), Err(changed));
}

/// More tokens than the model was trained for, which is what llama.cpp reserves room for.
pub fn long_texts_are_encoded() {
    let model = t5(Weights::F32);
    let params = three().context_tokens(1024).batch_tokens(1024).micro_batch_tokens(700);
    let text = prompt(1, 600);
    assert!(text.len() as u32 > model.context_length());
    let mut context = Context::new(&model, &params).expect("a context");
    let [sequence, other] = [0, 1].map(|_| context.new_sequence().expect("a sequence"));
    encode(&mut context, &[(&sequence, &text), (&other, &prompt(2, 30))]).expect("an encoding");
    let got = decode(&mut context, &sequence, Token(5)).expect("a decode");
    assert_equal(&got, &alone(&model, &params, &text, &[Token(5)])[0], 1e-6, "600 tokens");
}

/// What an aborted encoding would have replaced is still there.
pub fn aborted_encode_changes_nothing() {
    let model = t5(Weights::F32);
    let (text, tokens) = (prompt(1, 9), prompt(3, 4));
    let want = alone(&model, &three(), &text, &tokens);
    let mut context = Context::new(&model, &three()).expect("a context");
    let [sequence, other] = [0, 1].map(|_| context.new_sequence().expect("a sequence"));
    encode(&mut context, &[(&sequence, &text)]).expect("an encoding");
    for token in &tokens[..2] {
        decode(&mut context, &sequence, *token).expect("a decode");
    }
    let handle = context.abort_handle();
    for checks in [0, 5, 20] {
        handle.abort_after(checks);
        let aborted = encode(&mut context, &[(&sequence, &text), (&other, &prompt(2, 8))]);
        assert_eq!(aborted, Err(DecodeError::Aborted { damaged: vec![] }), "after {checks} checks");
        assert!(context.outputs().is_none());
        handle.reset();
    }
    assert_eq!((sequence.len(), context.is_encoded(&sequence), context.is_encoded(&other)), (2, Ok(true), Ok(false)));
    for index in 2..4 {
        let got = decode(&mut context, &sequence, tokens[index]).expect("a decode");
        assert_equal(&got, &want[index], 1e-6, "after the aborted encodings");
    }
}

/// An aborted decode is taken back, and what was encoded stays.
pub fn aborted_decode_is_rolled_back() {
    let model = t5(Weights::F32);
    let (texts, tokens) = ([prompt(1, 9), prompt(2, 4)], prompt(3, 12));
    let mut context = Context::new(&model, &three().micro_batch_tokens(16)).expect("a context");
    let sequences = [0, 1].map(|_| context.new_sequence().expect("a sequence"));
    encode(&mut context, &[(&sequences[0], &texts[0]), (&sequences[1], &texts[1])]).expect("an encoding");
    decode(&mut context, &sequences[0], tokens[0]).expect("a decode");
    let handle = context.abort_handle();
    let mut batch = context.new_batch();
    let late = batch.prompt(&sequences[1], &tokens).expect("room");
    let early = batch.prompt(&sequences[0], &tokens[1..]).expect("room");
    for checks in [0, 30, 100] {
        handle.abort_after(checks);
        assert_eq!(context.decode(&mut batch).map(drop), Err(DecodeError::Aborted { damaged: vec![] }));
        handle.reset();
        assert_eq!((sequences[0].len(), context.span(&sequences[1])), (1, Ok(0..0)));
    }
    let outputs = context.decode(&mut batch).expect("a decode");
    for (text, slot) in texts.iter().zip([early, late]) {
        let want = alone(&model, &three(), text, &tokens).pop().expect("a row");
        assert_equal(outputs.get(slot).expect("logits"), &want, 1e-6, "after the aborts");
    }
}

/// Distances close up over tokens that are removed; keys know no position, so nothing is rotated.
pub fn shift_moves_distances() {
    let model = t5(Weights::F32);
    let text = prompt(1, 5);
    let mut context = Context::new(&model, &three()).expect("a context");
    let [long, short] = [0, 1].map(|_| context.new_sequence().expect("a sequence"));
    encode(&mut context, &[(&long, &text), (&short, &text)]).expect("an encoding");
    // The tokens removed are those that all others were computed without: the first is alone in both.
    for token in prompt(3, 1).iter().chain(&prompt(4, 3)) {
        decode(&mut context, &long, *token).expect("a decode");
    }
    context.shift(&long, 1..3).expect("a shift");
    assert_eq!((long.len(), context.span(&long)), (2, Ok(0..2)));
    context.truncate(&long, 1).expect("a truncation");
    decode(&mut context, &short, prompt(3, 1)[0]).expect("a decode");
    for token in prompt(5, 3) {
        let want = decode(&mut context, &short, token).expect("a decode");
        assert_equal(&decode(&mut context, &long, token).expect("a decode"), &want, 1e-6, "after the shift");
    }
}

/// The encoder's outputs can be read after an encoding, and its logits, which are none, cannot.
pub fn encoder_outputs(which: Family, params: &ContextParams) {
    let model = family(which, Weights::F32);
    let mut context = Context::new(&model, params).expect("a context");
    let [first, second] = [0, 1].map(|_| context.new_sequence().expect("a sequence"));
    let texts = [prompt(1, 7), prompt(2, 12)];
    let mut batch = context.new_encoder_batch();
    let late = batch.prompt(&second, &texts[1]).expect("room");
    let early = batch.prompt(&first, &texts[0]).expect("room");
    let outputs = context.encode(&mut batch).expect("an encoding");
    assert_eq!(outputs.get(late), Err(OutputError::NoLogits));
    let got = [early, late].map(|slot| outputs.embedding(slot).expect("an embedding").to_vec());
    for (text, got) in texts.iter().zip(got) {
        let mut context = Context::new(&model, params).expect("a context");
        let sequence = context.new_sequence().expect("a sequence");
        let mut batch = context.new_encoder_batch();
        let slot = batch.prompt(&sequence, text).expect("room");
        let outputs = context.encode(&mut batch).expect("an encoding");
        let want = outputs.embedding(slot).expect("an embedding");
        assert_eq!(want.len(), 64);
        assert!(nmse(&got, want) <= 1e-6, "{which}");
    }
}

/// Decoder outputs are what the context was made for, whatever the encoder gave before.
pub fn outputs_are_those_of_the_last_call() {
    let model = t5(Weights::F32);
    for embeddings in [false, true] {
        let params = three().embeddings(embeddings);
        let mut context = Context::new(&model, &params).expect("a context");
        let sequence = context.new_sequence().expect("a sequence");
        encode(&mut context, &[(&sequence, &prompt(1, 5))]).expect("an encoding");
        let mut batch = context.new_batch();
        let slot = batch.push_output(&sequence, Token(5)).expect("room");
        let outputs = context.decode(&mut batch).expect("a decode");
        let (logits, embedding) = (outputs.get(slot), outputs.embedding(slot));
        if embeddings {
            assert_eq!((logits, embedding.map(<[f32]>::len)), (Err(OutputError::NoLogits), Ok(64)));
        } else {
            assert_eq!((logits.map(<[f32]>::len), embedding), (Ok(512), Err(OutputError::NoEmbeddings)));
        }
    }
}

/// What llama.cpp would abort on, or compute in silence with half of the text.
pub fn contexts_are_checked() {
    let model = t5(Weights::F32);
    assert!(model.is_encoder_decoder() && !model.is_diffusion());
    assert_eq!(model.decoder_start_token(), Some(Token(257)));
    for pooling in [Pooling::Mean, Pooling::Cls, Pooling::Last] {
        let made = Context::new(&model, &three().embeddings(true).pooling(pooling));
        assert_eq!(made.map(drop), Err(ContextError::PooledEncoder));
    }
    // ggml.c:2072 and llama-kv-cache.cpp:1806 assert one stream of cells.
    let context = Context::new(&model, &three().kv_layout(KvLayout::Split)).expect("a context");
    assert_eq!((context.limits().kv_layout(), context.limits().encodes_first()), (KvLayout::Unified, true));
    // A bucket beyond the bias: an assertion of `get_rows` (ggml-cpu/ops.cpp:5363).
    for buckets in [1, 2, 3, 4, 255, 256, 300] {
        let gguf = T5 { buckets, ..T5::tiny() }.gguf(Weights::F32, 1).expect("a shape");
        let model = Model::from_bytes(&gguf, &ModelParams::default()).expect("a model");
        let made = Context::new(&model, &three());
        if (4..=255).contains(&buckets) {
            let mut context = made.expect("a context");
            let sequence = context.new_sequence().expect("a sequence");
            encode(&mut context, &[(&sequence, &prompt(1, 60))]).expect("an encoding");
            let mut batch = context.new_batch();
            for _ in 0..4 {
                batch.extend(&sequence, &prompt(2, 60)).expect("room");
                context.decode(&mut batch).expect("a decode");
            }
        } else {
            assert!(matches!(made, Err(ContextError::UnsupportedModel { .. })), "{buckets} buckets");
        }
    }
    // More layers in the decoder: llama.cpp has no cache for them, and throws.
    let gguf = T5 { decoder_layers: 3, ..T5::tiny() }.gguf(Weights::F32, 1).expect("a shape");
    assert!(matches!(Model::from_bytes(&gguf, &ModelParams::default()), Err(LoadError::Malformed(_))));
    // Fewer are fine.
    let gguf = T5 { decoder_layers: 1, ..T5::tiny() }.gguf(Weights::F32, 1).expect("a shape");
    let model = Model::from_bytes(&gguf, &ModelParams::default()).expect("a model");
    assert!(alone(&model, &three(), &prompt(1, 5), &prompt(2, 3))[2].iter().all(|logit| logit.is_finite()));
}

/// llama.cpp gives it a cache and would decode with it, each micro-batch by itself.
pub fn encoder_alone_has_no_memory() {
    let model = family(Family::T5Encoder, Weights::F32);
    let params = three().embeddings(true).micro_batch_tokens(15);
    let mut context = Context::new(&model, &params).expect("a context");
    assert_eq!((context.limits().memory(), context.limits().batch_tokens()), (MemoryKind::None, 15));
    let sequence = context.new_sequence().expect("a sequence");
    let mut batch = context.new_batch();
    let slot = batch.prompt(&sequence, &prompt(1, 5)).expect("room");
    assert_eq!(context.decode(&mut batch).map(drop), Err(DecodeError::NoDecoder));
    assert_eq!(context.encode(&mut batch).expect("an encoding").embedding(slot).map(<[f32]>::len), Ok(64));
    assert!(context.fork(&sequence).is_err() && sequence.is_empty());
}
