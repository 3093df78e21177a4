//! The pieces of code that the READMEs show: each line stands here as well, is compiled, and runs where a small model will do.

use std::error::Error;

use fixtures::{Bert, Family, Llama, Weights};
use llama_safe::{
    ChatOptions, ChatTemplate, Context, ContextParams, Embedder, EmbedderParams, Engine, Grammar, Message, Model,
    ModelParams, Request, Reranker, Sampler, Special, StopConditions, StopReason, verify,
};

type Done = Result<(), Box<dyn Error>>;

/// In a folder that holds `model.gguf`.
fn two_sequences() -> Done {
    let model = Model::load("model.gguf", &ModelParams::default())?;
    let mut context = Context::new(&model, &ContextParams::default().sequences(2))?;
    let alice = context.new_sequence()?;
    let bob = context.new_sequence()?;

    let mut batch = context.new_batch();
    let a = batch.prompt(&alice, &model.tokenize("Once upon", Special::Bos)?)?;
    let b = batch.prompt(&bob, &model.tokenize("The cat", Special::Bos)?)?;

    let outputs = context.decode(&mut batch)?;
    let next_of_alice = Sampler::greedy().sample(outputs.get(a)?)?;
    let next_of_bob = Sampler::greedy().sample(outputs.get(b)?)?;

    batch.push_output(&alice, next_of_alice)?;
    batch.push_output(&bob, next_of_bob)?;
    context.decode(&mut batch)?;
    Ok(())
}

fn requests_of_any_thread(model: Model) -> Done {
    let engine = Engine::builder(&model).sequences(16).context_tokens(16_384).start()?;

    let request = Request::text("Once upon a time").max_tokens(64).sampler(Sampler::creative(7));
    let story = engine.generate(request)?;
    for piece in story {
        print!("{}", piece?.text);
    }
    println!("{:?}", engine.stats());

    assert!(engine.stats().generated_tokens > 10, "{:?}", engine.stats());
    Ok(())
}

fn vectors_and_scores(model: Model, reranking_model: Model) -> Done {
    let documents = ["a bear that lives in China", "bamboo, and little else"];

    let mut embedder = Embedder::new(&model, &EmbedderParams::default())?;
    let vectors = embedder.embed(&["a cat", "a dog", "the price of tea"])?;

    let mut reranker = Reranker::new(&reranking_model, &EmbedderParams::default())?;
    let scores: Vec<f32> = reranker.rank("what do pandas eat?", &documents)?;

    assert_eq!((vectors.len(), scores.len()), (3, 2));
    Ok(())
}

#[rustfmt::skip]
fn an_answer(model: Model) -> Done {
    let mut context = Context::new(&model, &ContextParams::default())?;
    let sequence = context.new_sequence()?;
    let mut batch = context.new_batch();

    let template = ChatTemplate::of(&model)?;
    let prompt = template.tokens(&[Message::user("Who went to see whom?")], &ChatOptions::default())?;

    let schema = r#"{"type": "object", "properties": {"who": {"enum": ["Ada", "Oscar"]}}, "required": ["who"], "additionalProperties": false}"#;
    let grammar = Grammar::json_schema(&model, schema)?;
    let mut sampler = Sampler::chain().top_k(40)?.top_p(0.95)?.temperature(0.8)?.grammar(grammar)?.dist(42);

    let conditions = StopConditions::new().string("\n\n")?.max_tokens(100)?;
    let mut stopper = conditions.stopper(model.vocab().detokenizer())?;

    let mut slot = batch.prompt(&sequence, &prompt)?;
    let reason = loop {
        let token = sampler.sample(context.decode(&mut batch)?.get(slot)?)?;
        let step = stopper.push(token)?;
        print!("{}", step.text);
        if let Some(reason) = step.stop {
            break reason;
        }
        slot = batch.push_output(&sequence, token)?;
    };

    assert!(matches!(reason, StopReason::EndOfText { .. }), "{reason:?}: {}", stopper.text());
    let answer: serde_json::Value = serde_json::from_str(stopper.text())?;
    assert!(["Ada", "Oscar"].map(serde_json::Value::from).contains(&answer["who"]), "{answer}");
    Ok(())
}

fn a_new_model(model: Model) -> Done {
    println!("{}", verify(&model, &ContextParams::default().sequences(4))?);
    Ok(())
}

/// Among them one of 145 MB.
#[rustfmt::skip]
fn models_to_test_with() -> Done {
    let decoder: Vec<u8> = Llama::tiny().gguf(Weights::Q8_0, 1)?;      // 160 KB, in milliseconds
    let encoder: Vec<u8> = Bert::tiny().gguf(Weights::F16, 1)?;
    Llama::m135().write(Weights::Q8_0, 1, "135m.gguf")?;               // 145 MB, streamed: never in memory as a whole
    let wide = Llama { layers: 1, width: 4096, heads: 32, kv_heads: 8, ..Llama::tiny() };
    let recurrent = Family::Mamba.gguf(Weights::Q4_0, 1)?;             // any family, tiny
    let _ = (decoder, encoder, wide, recurrent);
    Ok(())
}

#[test]
fn readmes_show_what_compiles() {
    let compiled = include_str!("readme.rs");
    let mut pieces = 0;
    for readme in [include_str!("../README.md"), include_str!("../fixtures/README.md")] {
        for piece in readme.split("```rust\n").skip(1) {
            let code = piece.split("```").next().unwrap_or_default();
            pieces += 1;
            for line in code.lines().filter(|line| !line.is_empty() && !line.starts_with("use ")) {
                assert!(compiled.contains(&format!("\n    {line}\n")), "compiled nowhere: {line}");
            }
        }
    }
    assert_eq!(pieces, 6, "pieces of code in the READMEs");
    // Compiled, and not run.
    let _: fn() -> Done = models_to_test_with;
}

#[test]
fn what_the_readme_shows_runs() {
    let folder = std::env::temp_dir().join(format!("readme-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("model.gguf"), fixtures::STORIES).unwrap();
    std::env::set_current_dir(&folder).unwrap();
    let done = two_sequences();
    std::env::set_current_dir(env!("CARGO_MANIFEST_DIR")).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    done.unwrap();

    vectors_and_scores(batch_suite::encoder(), batch_suite::family(Family::Reranker, Weights::F16)).unwrap();
    requests_of_any_thread(batch_suite::stories()).unwrap();
    an_answer(batch_suite::stories()).unwrap();
    a_new_model(batch_suite::tiny(Weights::F16)).unwrap();
}
