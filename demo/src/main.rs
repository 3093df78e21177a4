//! Has several prompts continued by one engine, as sequences of one context, and compares that with one at a time.

mod generate;
mod prompts;
mod report;
mod view;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use llama_safe::{ContextParams, Engine, Model, ModelParams, Special};

use crate::generate::{Request, generate, warm_up};
use crate::report::Report;
use crate::view::{Count, View, bar, note, print};

/// Below so many parameters one thread computes faster than several wait for each other, which on a busy machine takes them
/// a hundred times as long.
const WORTH_SHARING: u64 = 1_000_000;

/// Tokens that a story takes at most; most are at their end before that.
const STORY: u32 = 200;
/// Tokens to generate with any other model, which may be a large one.
const SOME: u32 = 48;

/// Continues several texts at once, as sequences of one context, and measures it against one at a time.
#[derive(Parser)]
#[command(name = "demo")]
struct Arguments {
    /// A model, as a GGUF file; without it a very small one that tells little stories.
    #[arg(long, value_name = "FILE.gguf")]
    model: Option<PathBuf>,
    /// A text to continue; may be given many times. Without any, eight come along.
    #[arg(long, value_name = "TEXT")]
    prompt: Vec<String>,
    /// A file of prompts, one a line; - is standard input.
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// The most tokens to generate for each prompt; without it as many as a little story takes, or 48 of a model given.
    #[arg(long, value_name = "N")]
    tokens: Option<u32>,
    /// Of the random numbers; each prompt has its own that follow from it.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u32,
    /// How varied the text is; 0 takes the likeliest token each time.
    #[arg(long, value_name = "T", default_value_t = 0.8, allow_negative_numbers = true)]
    temperature: f32,
    /// Print the result once more as one JSON object, the last line.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // llama.cpp may give its reasons in several lines.
            note(&format!("demo: {error:#}").replace('\n', "; "));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    // What comes along where the model is ours, and where it is the user's.
    let (along, usual) = match arguments.model {
        None => (fixtures::stories::PROMPTS, STORY),
        Some(_) => (prompts::ANY_MODEL, SOME),
    };
    if arguments.tokens == Some(0) {
        bail!("--tokens is 0: there is nothing to generate");
    }
    let prompts = prompts::gather(&arguments.prompt, arguments.prompts.as_deref(), along)?;
    let model = load(arguments.model.as_deref())?;
    let requests = requests(&model, &prompts, usual, arguments)?;
    let room = room(&model, &requests)?;

    let several = engine(&model, requests.len(), requests.len(), room)?;
    warm_up(&several, requests[0].prompt[0])?;
    let tokens = several.limits().context_tokens();
    note(&format!("Sequences in one context: {}, tokens in it: {tokens}", requests.len()));
    let mut view = View::new(&prompts);
    let together = generate(&several, &requests, &mut view)?;
    view.close()?;
    drop(several);
    let peak_memory = report::peak_memory();

    note("The same once more, one at a time");
    let single = engine(&model, requests.len(), 1, room)?;
    warm_up(&single, requests[0].prompt[0])?;
    let mut count = Count(bar("one at a time"));
    count.0.set_length(requests.len() as u64);
    let alone = generate(&single, &requests, &mut count)?;
    count.0.finish_and_clear();

    let report = Report {
        prompts,
        together: (together.replies, together.time),
        alone: (alone.replies, alone.time),
        peak_memory,
        greedy: arguments.temperature == 0.0,
    };
    print("")?;
    print(&report.table())?;
    if arguments.json {
        print(&report.json()?)?;
    }
    Ok(())
}

/// The user's model, or the one that comes along.
fn load(path: Option<&Path>) -> Result<Model> {
    let params = ModelParams::default();
    let model = match path {
        Some(path) => {
            let bar = bar("loading the model, %");
            bar.set_length(100);
            let model = Model::load_with_progress(path, &params, |part| {
                bar.set_position((part * 100.0) as u64);
                ControlFlow::Continue(())
            });
            bar.finish_and_clear();
            model.with_context(|| format!("the model {}", path.display()))?
        }
        None => Model::from_bytes(fixtures::STORIES, &params).context("the model that comes along")?,
    };
    let name = model.metadata_value("general.name").unwrap_or_else(|| "without a name".to_owned());
    note(&format!("Model: {name}, {} parameters, {}", model.parameters(), model.description()));
    if path.is_none() {
        note("It is very small and knows little stories only. Give another with --model FILE.gguf:");
        note("the larger a model, the more a batch gains, since its weights are read once for all sequences.");
    }
    Ok(model)
}

/// A request for each prompt, of `usual` tokens if they are not given.
fn requests(model: &Model, prompts: &[String], usual: u32, arguments: &Arguments) -> Result<Vec<Request>> {
    let mut requests = Vec::with_capacity(prompts.len());
    for (index, text) in prompts.iter().enumerate() {
        let prompt = model.tokenize(text, Special::Bos).with_context(|| format!("prompt {}", index + 1))?;
        if prompt.is_empty() {
            bail!("prompt {} is empty", index + 1);
        }
        let tokens = arguments.tokens.unwrap_or_else(|| what_fits(usual, prompt.len(), model.context_length()));
        let seed = arguments.seed.wrapping_add(index as u32);
        let request = Request { prompt, tokens, temperature: arguments.temperature, seed };
        request.sampler().context("--temperature")?;
        requests.push(request);
    }
    Ok(requests)
}

/// As many of the tokens as the model has room for behind the prompt, one at least (0: it does not say).
fn what_fits(tokens: u32, prompt: usize, trained: u32) -> u32 {
    match trained {
        0 => tokens,
        _ => tokens.min(trained.saturating_sub(u32::try_from(prompt).unwrap_or(u32::MAX))).max(1),
    }
}

/// Tokens that the longest sequence comes to.
fn room(model: &Model, requests: &[Request]) -> Result<u32> {
    let sum = |request: &Request| request.prompt.len().saturating_add(request.tokens as usize);
    let (index, longest) = requests.iter().enumerate().max_by_key(|(_, request)| sum(request)).context("no prompts")?;
    fit(longest.prompt.len(), longest.tokens, model.context_length()).with_context(|| format!("prompt {}", index + 1))
}

/// Prompt and reply together, where the model was trained for that many tokens (0: it does not say).
fn fit(prompt: usize, tokens: u32, trained: u32) -> Result<u32> {
    let sum = u32::try_from(prompt).unwrap_or(u32::MAX).saturating_add(tokens);
    let most = if trained == 0 { u32::MAX - 1 } else { trained };
    if sum > most {
        bail!("{prompt} tokens of prompt and {tokens} to generate are more than the model's context of {most}");
    }
    Ok(sum)
}

/// An engine for so many requests, so many sequences at a time, each with room for so many tokens.
fn engine(model: &Model, requests: usize, sequences: usize, room: u32) -> Result<Engine> {
    let sequences = u32::try_from(sequences)?;
    let total =
        room.checked_mul(sequences).with_context(|| format!("{sequences} sequences of {room} tokens are too many"))?;
    let mut params = ContextParams::default();
    if model.parameters() < WORTH_SHARING {
        params = params.threads(1).batch_threads(1);
    }
    // What one prompt takes from another would not be computed, and so not be measured.
    let builder = Engine::builder(model).share_prefixes(false).queue(requests).context(params);
    builder.sequences(sequences).context_tokens(total).start().context("the engine")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn without_a_number_a_reply_takes_the_room_that_there_is() {
        assert_eq!(what_fits(200, 10, 256), 200);
        assert_eq!(what_fits(200, 100, 256), 156);
        assert_eq!(what_fits(200, 300, 256), 1);
        assert_eq!(what_fits(200, 300, 0), 200);
    }

    #[test]
    fn what_does_not_fit_is_told_in_numbers() {
        assert_eq!(fit(10, 20, 30).unwrap(), 30);
        assert_eq!(fit(10, 20, 0).unwrap(), 30);
        let error = fit(11, 20, 30).unwrap_err().to_string();
        assert!(error.contains("11") && error.contains("20") && error.contains("30"), "{error}");
        assert!(fit(1, u32::MAX, 0).is_err());
        assert!(fit(usize::MAX, u32::MAX, 0).is_err());
    }
}
