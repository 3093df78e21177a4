//! Vectors and scores of many texts in few batches: what they equal, how they are packed, what is refused.

use batch_suite::{assert_equal, encoder, family, is_leak_check, nmse, params, prompt, tiny};
use fixtures::{Bert, Family, Llama, Lora, Weights};
use llama_safe::{
    Adapter, Context, ContextError, ContextParams, EmbedError, Embedder, EmbedderParams, Embeddings, FlashAttention,
    KvType, MemoryKind, Model, ModelParams, Pooling, Reranker, Special, Token,
};

/// All in 32 bits.
fn exact() -> ContextParams {
    params().kv_type(KvType::F32).flash_attention(FlashAttention::Off)
}

fn settings() -> EmbedderParams {
    EmbedderParams::default().context(exact())
}

fn bert(shape: &Bert) -> Model {
    let gguf = shape.gguf(Weights::F32, 1).unwrap();
    Model::from_bytes(&gguf, &ModelParams::default()).unwrap()
}

/// Texts of 1 to 30 tokens, none like another.
fn texts(count: u32) -> Vec<Vec<Token>> {
    (0..count).map(|text| prompt(text, 1 + text * 7 % 30)).collect()
}

/// The vectors of each text computed by itself.
fn one_at_a_time(embedder: &mut Embedder, texts: &[Vec<Token>]) -> Vec<Embeddings> {
    texts.iter().map(|text| embedder.embed_tokens(std::slice::from_ref(text)).unwrap()).collect()
}

#[track_caller]
fn assert_batched_equals_alone(model: &Model, settings: &EmbedderParams, what: &str) {
    let mut embedder = Embedder::new(model, settings).unwrap();
    let texts = texts(40);
    let together = embedder.embed_tokens(&texts).unwrap();
    let alone = one_at_a_time(&mut embedder, &texts);
    assert_eq!((together.len(), alone.len()), (40, 40));
    assert!(together.batches() < 10, "{what}: {} batches", together.batches());
    for (text, want) in alone.iter().enumerate() {
        assert_eq!(want.batches(), 1);
        let (got, want) = (together.get(text).unwrap(), want.get(0).unwrap());
        let rows = if embedder.context().limits().is_pooled() { 1 } else { texts[text].len() };
        assert_eq!(got.len(), rows * together.width(), "{what}: text {text}");
        assert_equal(got, want, 1e-6, what);
    }
}

#[test]
fn encoders_equal_one_text_at_a_time() {
    for pooling in [Pooling::Mean, Pooling::Cls, Pooling::Last, Pooling::None] {
        let settings = settings().pooling(pooling).batch_tokens(128);
        assert_batched_equals_alone(&encoder(), &settings, &format!("bert {pooling:?}"));
        assert_batched_equals_alone(&encoder(), &settings.normalize(false), &format!("bert {pooling:?} as it is"));
    }
}

#[test]
fn decoders_equal_one_text_at_a_time() {
    for pooling in [Pooling::Mean, Pooling::Cls, Pooling::Last, Pooling::None] {
        let settings = settings().pooling(pooling).batch_tokens(128);
        assert_batched_equals_alone(&tiny(Weights::F32), &settings, &format!("llama {pooling:?}"));
    }
}

/// Those that compute sequences of different lengths in several passes, or with a window, or without a decoder.
#[test]
fn families_equal_one_text_at_a_time() {
    for which in [Family::Gemma, Family::Mamba, Family::Rwkv, Family::Hybrid, Family::Qwen2Vl, Family::T5] {
        for pooling in [Pooling::Mean, Pooling::Cls, Pooling::Last, Pooling::None] {
            if which == Family::T5 && pooling != Pooling::None {
                continue;
            }
            // No multiple of the sequences.
            let settings = settings().pooling(pooling).batch_tokens(150);
            assert_batched_equals_alone(&family(which, Weights::F32), &settings, &format!("{which} {pooling:?}"));
        }
    }
}

/// Against the context's own calls, one text each, and the poolings against the vectors of the tokens.
#[test]
fn poolings_are_what_their_names_say() {
    let texts = texts(5);
    let vectors = |pooling| {
        let settings = settings().pooling(pooling).normalize(false);
        Embedder::new(&encoder(), &settings).unwrap().embed_tokens(&texts).unwrap()
    };
    let (each, mean) = (vectors(Pooling::None), vectors(Pooling::Mean));
    let (first, last) = (vectors(Pooling::Cls), vectors(Pooling::Last));
    let mut context = Context::new(&encoder(), &exact().embeddings(true).pooling(Pooling::Mean)).unwrap();
    let mut batch = context.new_batch();
    let sequence = context.new_sequence().unwrap();
    for (text, tokens) in texts.iter().enumerate() {
        let rows: Vec<&[f32]> = each.vectors(text).unwrap().collect();
        assert_eq!(rows.len(), tokens.len());
        assert_equal(first.get(text).unwrap(), rows[0], 1e-6, "first");
        assert_equal(last.get(text).unwrap(), rows[rows.len() - 1], 1e-6, "last");
        let average: Vec<f32> = (0..each.width())
            .map(|column| rows.iter().map(|row| row[column]).sum::<f32>() / rows.len() as f32)
            .collect();
        assert_equal(mean.get(text).unwrap(), &average, 1e-6, "mean");
        batch.prompt(&sequence, tokens).unwrap();
        let outputs = context.encode(&mut batch).unwrap();
        assert_equal(mean.get(text).unwrap(), outputs.sequence_embedding(&sequence).unwrap(), 1e-6, "by hand");
    }
}

#[test]
fn normalised_vectors_have_length_one_and_their_direction() {
    let texts = texts(6);
    let vectors =
        |normalize| Embedder::new(&encoder(), &settings().normalize(normalize)).unwrap().embed_tokens(&texts).unwrap();
    let (unit, plain) = (vectors(true), vectors(false));
    for (unit, plain) in unit.iter().zip(plain.iter()) {
        let length = |vector: &[f32]| vector.iter().map(|number| number * number).sum::<f32>().sqrt();
        assert!((length(unit) - 1.0).abs() < 1e-5 && (length(plain) - 1.0).abs() > 1e-3);
        let scaled: Vec<f32> = plain.iter().map(|number| number / length(plain)).collect();
        assert_equal(unit, &scaled, 1e-9, "direction");
    }
}

/// 1,000 short texts of different lengths: no more batches than their tokens need, and the order of the texts.
#[test]
fn a_thousand_texts_take_as_few_batches_as_their_tokens() {
    let texts: Vec<Vec<Token>> = (0..1000u32).map(|text| prompt(text, 2 + text * 31 % 19)).collect();
    let mut embedder = Embedder::new(&encoder(), &settings()).unwrap();
    let embeddings = embedder.embed_tokens(&texts).unwrap();
    let tokens: usize = texts.iter().map(Vec::len).sum();
    assert_eq!(embeddings.batches() as usize, tokens.div_ceil(512), "of 512 tokens");
    for text in [0, 1, 500, 998, 999] {
        let alone = embedder.embed_tokens(&texts[text..=text]).unwrap();
        assert_equal(embeddings.get(text).unwrap(), alone.get(0).unwrap(), 1e-6, "in its place");
    }
}

/// Parameters may be given in any order; the pooling that is asked for by name counts.
#[test]
fn the_order_of_parameters_does_not_matter() {
    let pooling = |params: EmbedderParams| Embedder::new(&encoder(), &params).unwrap().context().limits().pooling();
    assert_eq!(pooling(EmbedderParams::default().pooling(Pooling::Last).context(exact())), Pooling::Last);
    assert_eq!(pooling(EmbedderParams::default().context(exact()).pooling(Pooling::Last)), Pooling::Last);
    assert_eq!(pooling(EmbedderParams::default().context(exact().pooling(Pooling::Cls))), Pooling::Cls);
    assert_eq!(pooling(settings()), Pooling::Mean, "the model's own");
}

/// What is set on the embedder's context is what it computes with.
#[test]
fn adapters_reach_the_vectors() {
    let model = tiny(Weights::F32);
    let adapter = Adapter::from_bytes(&model, &Lora::tiny().gguf(&Llama::tiny(), 7).unwrap()).unwrap();
    let mut embedder = Embedder::new(&model, &settings().pooling(Pooling::Last).batch_tokens(64)).unwrap();
    let texts = texts(12);
    let without = embedder.embed_tokens(&texts).unwrap();
    embedder.context_mut().set_adapters(&[(&adapter, 1.0)]).unwrap();
    drop(adapter);
    let with = embedder.embed_tokens(&texts).unwrap();
    for (text, (with, without)) in with.iter().zip(without.iter()).enumerate() {
        assert!(nmse(with, without) > 1e-4, "the adapter has an effect");
        let alone = embedder.embed_tokens(&texts[text..=text]).unwrap();
        assert_equal(with, alone.get(0).unwrap(), 1e-6, "one text at a time");
    }
    embedder.context_mut().set_adapters(&[]).unwrap();
    assert_eq!(embedder.embed_tokens(&texts).unwrap(), without);
}

#[test]
fn texts_are_tokenized_with_what_the_model_adds() {
    let mut embedder = Embedder::new(&encoder(), &settings()).unwrap();
    let strings = ["balo bake", "do", "a rather long one, with signs!"];
    let tokens: Vec<Vec<Token>> = strings.iter().map(|text| encoder().tokenize(text, Special::Bos).unwrap()).collect();
    assert_eq!(embedder.embed(&strings).unwrap(), embedder.embed_tokens(&tokens).unwrap());
    let nothing = embedder.embed::<&str>(&[]).unwrap();
    assert!(nothing.is_empty() && nothing.batches() == 0 && nothing.get(0).is_none());
}

/// What is refused names the text, computes nothing, and leaves the embedder as good as new.
#[test]
fn texts_that_cannot_be_embedded_are_named() {
    let mut embedder = Embedder::new(&encoder(), &settings().batch_tokens(64)).unwrap();
    let good = vec![prompt(1, 5)];
    let want = embedder.embed_tokens(&good).unwrap();
    let refused = |embedder: &mut Embedder, bad: Vec<Token>| {
        let error = embedder.embed_tokens(&[prompt(1, 5), prompt(2, 64), bad]).unwrap_err();
        assert_eq!(embedder.embed_tokens(&good).unwrap(), want, "after {error}");
        error
    };
    assert_eq!(
        refused(&mut embedder, prompt(3, 65)),
        EmbedError::TooLong { text: 2, tokens: 65, limit: 64 },
        "one token above the batch"
    );
    assert_eq!(refused(&mut embedder, Vec::new()), EmbedError::Empty { text: 2 });
    let (vocabulary, text) = (256, 2);
    assert_eq!(refused(&mut embedder, vec![Token(-1)]), EmbedError::TokenOutOfRange { text, token: -1, vocabulary });
    assert_eq!(refused(&mut embedder, vec![Token(256)]), EmbedError::TokenOutOfRange { text, token: 256, vocabulary });
    for empty in ["", " ", "\n\t"] {
        assert_eq!(embedder.embed(&["balo", empty]), Err(EmbedError::Empty { text: 1 }), "{empty:?}");
    }
    let long = "b ".repeat(63);
    assert_eq!(embedder.embed(&[long]), Err(EmbedError::TooLong { text: 0, tokens: 65, limit: 64 }), "with its two");
    assert_eq!(embedder.embed_tokens(&good).unwrap(), want);
}

/// Learned positions end where the model was trained to, whatever a batch holds.
#[test]
fn a_text_beyond_the_positions_is_refused() {
    let model = bert(&Bert { context: 32, ..Bert::tiny() });
    let mut embedder = Embedder::new(&model, &settings()).unwrap();
    assert_eq!(embedder.text_tokens(), 32);
    assert!(embedder.embed_tokens(&[prompt(0, 32)]).is_ok());
    let error = embedder.embed_tokens(&[prompt(0, 33)]).unwrap_err();
    assert_eq!(error, EmbedError::TooLong { text: 0, tokens: 33, limit: 32 });
}

#[test]
fn an_aborted_call_leaves_the_embedder_usable() {
    for model in [encoder(), tiny(Weights::F32)] {
        let mut embedder = Embedder::new(&model, &settings().pooling(Pooling::Mean).batch_tokens(64)).unwrap();
        let texts = texts(12);
        let want = embedder.embed_tokens(&texts).unwrap();
        let handle = embedder.context().abort_handle();
        handle.abort_after(20);
        assert!(matches!(embedder.embed_tokens(&texts), Err(EmbedError::Decode(_))));
        handle.reset();
        assert_eq!(embedder.embed_tokens(&texts).unwrap(), want);
    }
}

/// A damaged weight: an error, not a vector of NaN.
#[test]
fn what_is_no_number_is_an_error() {
    // The last norm: the output is scaled by infinity.
    let mut gguf = Llama::tiny().gguf(Weights::F32, 1).unwrap();
    let ones: Vec<u8> = std::iter::repeat_n(1.0f32.to_le_bytes(), 64).flatten().collect();
    let last = gguf.windows(ones.len()).rposition(|bytes| bytes == ones).expect("a norm");
    gguf[last..last + 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let model = Model::from_bytes(&gguf, &ModelParams::default()).unwrap();
    let mut embedder = Embedder::new(&model, &settings().pooling(Pooling::Mean)).unwrap();
    let error = embedder.embed_tokens(&[prompt(0, 4)]).unwrap_err();
    assert!(matches!(error, EmbedError::NotFinite { text: 0, index: 0, .. }), "{error}");
}

#[test]
fn bad_sizes_and_models_without_weights_are_errors() {
    let gguf = Bert::tiny().gguf(Weights::F32, 1).unwrap();
    let vocab_only = Model::from_bytes(&gguf, &ModelParams::default().vocab_only(true)).unwrap();
    assert_eq!(Embedder::new(&vocab_only, &settings()).unwrap_err(), EmbedError::Context(ContextError::VocabularyOnly));
    let error = |settings: EmbedderParams| Embedder::new(&encoder(), &settings).unwrap_err();
    assert_eq!(error(settings().batch_tokens(0)), EmbedError::Context(ContextError::BatchTokensZero));
    assert_eq!(error(settings().texts(0)), EmbedError::Context(ContextError::SequencesOutOfRange { got: 0, max: 256 }));
    assert_eq!(
        error(settings().batch_tokens(8).texts(9)),
        EmbedError::Context(ContextError::BatchSmallerThanSequences { batch_tokens: 8, sequences: 9 })
    );
    let mut one = Embedder::new(&encoder(), &settings().batch_tokens(1)).unwrap();
    assert_eq!(one.embed_tokens(&[[Token(5)], [Token(6)]]).unwrap().batches(), 2);
}

/// Documents in one call as each by itself, and the score of the same tokens by the context's own calls.
#[test]
fn documents_are_scored_in_their_order() {
    let model = bert(&Bert::reranker());
    let mut reranker = Reranker::new(&model, &settings().batch_tokens(64)).unwrap();
    let documents: Vec<String> =
        (0..30).map(|document| format!("balo {} do", "ke ".repeat(document * 5 % 17))).collect();
    let scores = reranker.rank("who bakes?", &documents).unwrap();
    assert_eq!(scores.len(), 30);
    let mut context = Context::new(&model, &exact().embeddings(true)).unwrap();
    let sequence = context.new_sequence().unwrap();
    let mut batch = context.new_batch();
    let (mut alone, mut by_hand) = (Vec::new(), Vec::new());
    for document in &documents {
        alone.extend(reranker.rank("who bakes?", &[document]).unwrap());
        batch.prompt(&sequence, &reranker.pair("who bakes?", document).unwrap()).unwrap();
        by_hand.extend_from_slice(context.encode(&mut batch).unwrap().sequence_embedding(&sequence).unwrap());
    }
    assert_equal(&scores, &alone, 1e-6, "each document by itself");
    assert_equal(&scores, &by_hand, 1e-6, "by the context's own calls");
    let spread = scores.iter().fold(0f32, |most, score| most.max((score - scores[0]).abs()));
    assert!(spread > 0.01, "documents differ by {spread}");
    assert!(reranker.rank::<&str>("who bakes?", &[]).unwrap().is_empty());
}

/// `[CLS] query [SEP] document`, as the vocabulary's flags ask for.
#[test]
fn a_pair_is_framed_as_the_vocabulary_says() {
    let model = bert(&Bert::reranker());
    let reranker = Reranker::new(&model, &settings()).unwrap();
    let vocab = model.vocab();
    assert!(vocab.adds_bos() && vocab.adds_sep() && !vocab.adds_eos());
    let cut = |text| model.tokenize(text, Special::None).unwrap();
    let want = [vec![vocab.bos().unwrap()], cut("who bakes"), vec![vocab.sep().unwrap()], cut("balo")].concat();
    assert_eq!(reranker.pair("who bakes", "balo").unwrap(), want);
}

/// The model's own template, whose special tokens are read; a query that looks like a place in it is text.
#[test]
fn a_template_frames_a_pair_instead() {
    let template = Some("[CLS] {query} [SEP] {document} [SEP]");
    let model = bert(&Bert { rerank_template: template, ..Bert::reranker() });
    let mut reranker = Reranker::new(&model, &settings()).unwrap();
    let vocab = model.vocab();
    let (cls, sep) = (vec![vocab.bos().unwrap()], vec![vocab.sep().unwrap()]);
    let cut = |text| model.tokenize(text, Special::None).unwrap();
    let framed = |query, document| [&cls, &cut(query), &sep, &cut(document), &sep].map(Vec::as_slice).concat();
    assert_eq!(reranker.pair("who bakes", "balo").unwrap(), framed("who bakes", "balo"));
    assert_eq!(reranker.pair("a {document}", "balo").unwrap(), framed("a {document}", "balo"));
    let scores = reranker.rank("who bakes", &["balo", "ke"]).unwrap();
    let want = reranker.scores_of_tokens(&[framed("who bakes", "balo"), framed("who bakes", "ke")]).unwrap();
    assert_eq!(scores, want.iter().flatten().copied().collect::<Vec<_>>());
    assert_eq!(reranker.rank("who bakes", &["balo", ""]), Err(EmbedError::Empty { text: 1 }));
}

#[test]
fn a_template_without_places_is_refused() {
    for (template, lacks) in [("[CLS] {query} [SEP]", "{document}"), ("{document}", "{query}"), ("", "{query}")] {
        let model = bert(&Bert { rerank_template: Some(template), ..Bert::reranker() });
        let error = Reranker::new(&model, &settings()).unwrap_err();
        assert_eq!(error, EmbedError::Template { lacks }, "{template}");
    }
}

#[test]
fn a_model_with_labels_gives_a_score_each() {
    let model = bert(&Bert { labels: 3, ..Bert::reranker() });
    let names = model.labels();
    assert_eq!(names, ["label 0", "label 1", "label 2"].map(|label| Some(label.to_owned())));
    let mut reranker = Reranker::new(&model, &settings()).unwrap();
    let documents = ["balo", "ke do", "ka"];
    let scores = reranker.scores("who?", &documents).unwrap();
    assert_eq!((scores.len(), scores.width()), (3, 3));
    let first: Vec<f32> = scores.iter().map(|scores| scores[0]).collect();
    assert_eq!(reranker.rank("who?", &documents).unwrap(), first);
    for (document, text) in documents.iter().enumerate() {
        let alone = reranker.scores("who?", &[text]).unwrap();
        assert_equal(scores.get(document).unwrap(), alone.get(0).unwrap(), 1e-6, "each by itself");
    }
    // Without names there is one score; more outputs than numbers in the hidden state are read right as well.
    assert_eq!(bert(&Bert::reranker()).labels(), [None]);
    let wide = bert(&Bert { labels: 100, ..Bert::reranker() });
    let mut reranker = Reranker::new(&wide, &settings()).unwrap();
    let scores = reranker.scores("who?", &documents).unwrap();
    let alone = reranker.scores("who?", &documents[2..]).unwrap();
    assert_equal(scores.get(2).unwrap(), alone.get(0).unwrap(), 1e-6, "100 labels");
}

#[test]
fn pairs_that_cannot_be_scored_are_named() {
    let model = bert(&Bert::reranker());
    let mut reranker = Reranker::new(&model, &settings().batch_tokens(32)).unwrap();
    let want = reranker.rank("who?", &["balo"]).unwrap();
    assert_eq!(reranker.rank("", &["balo"]), Err(EmbedError::EmptyQuery));
    assert_eq!(reranker.rank(" ", &["balo"]), Err(EmbedError::EmptyQuery));
    assert_eq!(reranker.rank("who?", &["balo", ""]), Err(EmbedError::Empty { text: 1 }));
    assert_eq!(reranker.rank("who?", &["balo", " "]), Err(EmbedError::Empty { text: 1 }));
    let long = "ke ".repeat(60);
    let error = reranker.rank("who?", &["balo", &long]).unwrap_err();
    assert!(matches!(error, EmbedError::TooLong { text: 1, tokens: 62.., limit: 32 }), "{error}");
    assert_eq!(reranker.rank("who?", &["balo"]).unwrap(), want);
}

/// A model is asked for what it can give, and one that lost its head is refused: llama.cpp would take the score of the
/// second document from the vector of the first.
#[test]
fn models_of_the_other_kind_are_refused() {
    assert_eq!(Reranker::new(&encoder(), &settings()).unwrap_err(), EmbedError::NotReranker);
    assert_eq!(Reranker::new(&tiny(Weights::F32), &settings()).unwrap_err(), EmbedError::NotReranker);
    let rank = exact().embeddings(true).pooling(Pooling::Rank);
    assert_eq!(Context::new(&encoder(), &rank).unwrap_err(), ContextError::NotReranker);
    let model = bert(&Bert::reranker());
    assert!(Context::new(&model, &rank).is_ok());
    assert_eq!(Embedder::new(&model, &settings()).unwrap_err(), EmbedError::IsReranker);
    assert!(Embedder::new(&model, &settings().pooling(Pooling::Mean)).is_ok(), "another pooling was asked for");

    let headless = bert(&Bert { labels: 0, ..Bert::reranker() });
    let lost = ContextError::NoClassifier { scores: 1, width: 64 };
    assert_eq!(Reranker::new(&headless, &settings()).unwrap_err(), EmbedError::Context(lost.clone()));
    assert_eq!(Context::new(&headless, &params().embeddings(true)).unwrap_err(), lost);
    assert!(Context::new(&headless, &params().embeddings(true).pooling(Pooling::Mean)).is_ok());
}

/// Raw llama.cpp aborts on these (ggml-backend.cpp:423), or gives rows made of two.
#[test]
fn embeddings_of_another_width_than_told_are_refused() {
    let embeddings = params().embeddings(true).pooling(Pooling::None);
    for name in ["deepseek4", "qwen4exp"] {
        let model = batch_suite::architectures::architecture(name).unwrap();
        let error = Context::new(&model, &embeddings).unwrap_err();
        assert!(matches!(error, ContextError::UnsupportedModel { .. }), "{name}: {error}");
        assert!(Context::new(&model, &params()).is_ok(), "{name}");
    }
    let gguf = Llama::tiny().gguf(Weights::F32, 1).unwrap();
    for width in [16u32, 4096] {
        let told = ModelParams::default().override_metadata("llama.embedding_length_out", width);
        let model = Model::from_bytes(&gguf, &told).unwrap();
        let error = Context::new(&model, &embeddings).unwrap_err();
        assert!(matches!(error, ContextError::UnsupportedModel { .. }), "{width}: {error}");
    }
}

#[test]
fn a_context_can_have_any_number_of_sequences() {
    // Raw llama.cpp aborts while it makes a context that takes means, where the sequences do not divide the tokens of a pass
    // (ggml.c:3354, called from llama-graph.cpp:3831).
    let counts: &[u32] = if is_leak_check() { &[3] } else { &[1, 3, 7, 64, 200, 256] };
    for &sequences in counts {
        for tokens in [300, 512] {
            let params = params().sequences(sequences).context_tokens(tokens).embeddings(true);
            for model in [encoder(), tiny(Weights::F32)] {
                for pooling in [Pooling::Mean, Pooling::Last, Pooling::None] {
                    let mut context = Context::new(&model, &params.clone().pooling(pooling)).unwrap();
                    let limits = context.limits().clone();
                    assert!(limits.batch_tokens() >= sequences);
                    // A batch as large as may be, of one token for each sequence and the rest for the last.
                    let sequences: Vec<_> = (0..sequences).map(|_| context.new_sequence().unwrap()).collect();
                    let mut batch = context.new_batch();
                    for sequence in &sequences {
                        batch.push(sequence, Token(7)).unwrap();
                    }
                    let rest = (limits.batch_tokens() - batch.len()).min(limits.sequence_tokens() - 1);
                    for _ in 0..rest {
                        batch.push(&sequences[0], Token(9)).unwrap();
                    }
                    let encoder = limits.memory() == MemoryKind::None;
                    let outputs = if encoder { context.encode(&mut batch) } else { context.decode(&mut batch) };
                    assert!(outputs.is_ok(), "{tokens} {pooling:?}: {:?}", outputs.map(drop));
                }
            }
        }
    }
}
