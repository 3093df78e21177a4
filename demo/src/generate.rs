//! Several requests, answered by one engine. This file is the one to copy.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use llama_safe::{Completion, EndReason, Engine, Piece, Sampler, StopReason, Token};

/// What to continue, and how.
pub struct Request {
    /// The tokens to start from, one at least.
    pub prompt: Vec<Token>,
    /// The most tokens to generate.
    pub tokens: u32,
    /// 0 takes the likeliest token each time; higher is more varied.
    pub temperature: f32,
    /// Of this request's random numbers, so that it does not matter which others run beside it.
    pub seed: u32,
}

impl Request {
    /// What picks this request's tokens.
    ///
    /// # Errors
    /// Where the temperature is not a number of 0 or above.
    pub fn sampler(&self) -> Result<Sampler> {
        if self.temperature == 0.0 {
            return Ok(Sampler::greedy());
        }
        Ok(Sampler::chain().temperature(self.temperature)?.dist(self.seed))
    }

    /// As the engine takes it.
    fn of_engine(&self) -> Result<llama_safe::Request> {
        let request = llama_safe::Request::tokens(self.prompt.clone());
        Ok(request.sampler(self.sampler()?).max_tokens(self.tokens))
    }
}

/// What was generated for one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// Without the token that ended it.
    pub tokens: Vec<Token>,
    /// What the tokens say.
    pub text: String,
}

/// The replies, in the order of the requests, and what they took.
pub struct Generation {
    pub replies: Vec<Reply>,
    /// From the first request to the last token.
    pub time: Duration,
}

/// Hears what happens while it happens.
pub trait Sink {
    /// So many of all the prompts' tokens have been decoded.
    fn prompt(&mut self, done: usize, total: usize) -> Result<()>;
    /// A request has got some more text, perhaps none: a character may take several tokens.
    fn text(&mut self, request: usize, text: &str) -> Result<()>;
    /// A request is complete.
    fn end(&mut self, request: usize) -> Result<()>;
}

/// What a thread that listens to one answer passes on.
enum News {
    Piece(Piece),
    End(Box<Completion>),
}

/// How often the progress of prompts is looked at while nothing is said.
const LOOK: Duration = Duration::from_millis(100);

/// Answers all requests.
///
/// # Errors
/// What the engine reports: a prompt that does not fit, a token out of range, a computation that failed; and whatever the sink does.
pub fn generate(engine: &Engine, requests: &[Request], sink: &mut impl Sink) -> Result<Generation> {
    let total: usize = requests.iter().map(|request| request.prompt.len()).sum();
    let begun = engine.stats().prompt_tokens;
    let started = Instant::now();
    sink.prompt(0, total)?;
    let answers =
        requests.iter().map(|request| Ok(engine.generate(request.of_engine()?)?)).collect::<Result<Vec<_>>>()?;
    thread::scope(|scope| {
        let (sender, news) = mpsc::channel();
        for (index, mut answer) in answers.into_iter().enumerate() {
            let sender = sender.clone();
            scope.spawn(move || {
                for piece in answer.by_ref().flatten() {
                    if sender.send((index, News::Piece(piece))).is_err() {
                        // Nobody listens any more: the answer is dropped here, which cancels it.
                        return;
                    }
                }
                let _ = sender.send((index, News::End(Box::new(answer.wait()))));
            });
        }
        drop(sender);
        let mut replies = vec![Reply::default(); requests.len()];
        let mut prompts = 0;
        loop {
            let heard = match news.recv_timeout(LOOK) {
                Ok(heard) => Some(heard),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if prompts < total {
                prompts = usize::try_from(engine.stats().prompt_tokens - begun)?.min(total);
                sink.prompt(prompts, total)?;
            }
            match heard {
                Some((index, News::Piece(piece))) => sink.text(index, &piece.text)?,
                Some((index, News::End(end))) => {
                    replies[index] = reply(*end).with_context(|| format!("request {}", index + 1))?;
                    sink.end(index)?;
                }
                None => {}
            }
        }
        sink.prompt(total, total)?;
        Ok(Generation { replies, time: started.elapsed() })
    })
}

/// The reply of a request that was answered.
fn reply(Completion { text, mut tokens, reason, .. }: Completion) -> Result<Reply> {
    match reason {
        EndReason::Failed(error) => return Err(error.into()),
        EndReason::Stop(StopReason::EndOfText { .. }) => drop(tokens.pop()),
        _ => {}
    }
    Ok(Reply { tokens, text })
}

/// Has one token generated, so that whoever is measured first does not pay for reading the weights from disk.
pub fn warm_up(engine: &Engine, token: Token) -> Result<()> {
    let request = llama_safe::Request::tokens([token]).max_tokens(1);
    reply(engine.generate(request)?.wait()).map(drop)
}

#[cfg(test)]
mod tests {
    use fixtures::{Llama, Weights};
    use llama_safe::{ContextParams, Model, ModelParams, Special};

    use super::*;

    /// Writes down what it hears.
    #[derive(Default)]
    struct Heard {
        prompt: Vec<(usize, usize)>,
        texts: Vec<String>,
        ended: Vec<usize>,
    }

    impl Sink for Heard {
        fn prompt(&mut self, done: usize, total: usize) -> Result<()> {
            self.prompt.push((done, total));
            Ok(())
        }

        fn text(&mut self, request: usize, text: &str) -> Result<()> {
            self.texts[request].push_str(text);
            Ok(())
        }

        fn end(&mut self, request: usize) -> Result<()> {
            self.ended.push(request);
            Ok(())
        }
    }

    fn model() -> Model {
        let gguf = Llama::tiny().gguf(Weights::Q8_0, 1).unwrap();
        Model::from_bytes(&gguf, &ModelParams::default()).unwrap()
    }

    fn requests(model: &Model, temperature: f32) -> Vec<Request> {
        let prompts = ["one", "a prompt that is longer than a whole batch", "the third of them"];
        let request = |(index, text): (usize, &&str)| Request {
            prompt: model.tokenize(text, Special::Bos).unwrap(),
            tokens: 5 + index as u32,
            temperature,
            seed: index as u32,
        };
        prompts.iter().enumerate().map(request).collect()
    }

    fn engine(model: &Model, sequences: u32) -> Engine {
        // Steps so small that every prompt is cut somewhere. Tests run beside each other: threads that wait for each other
        // would not get their turn.
        let params = ContextParams::default().threads(1).batch_threads(1);
        let builder = Engine::builder(model).sequences(sequences).context_tokens(256 * sequences);
        builder.prompt_chunk(7).measure(false).context(params).start().unwrap()
    }

    fn run(engine: &Engine, requests: &[Request]) -> (Generation, Heard) {
        let mut heard = Heard { texts: vec![String::new(); requests.len()], ..Heard::default() };
        let generation = generate(engine, requests, &mut heard).unwrap();
        (generation, heard)
    }

    #[test]
    fn together_says_what_each_says_alone() {
        let model = model();
        for temperature in [0.0, 0.8] {
            let requests = requests(&model, temperature);
            let (together, _) = run(&engine(&model, 3), &requests);
            // One after the other in one sequence.
            let (alone, _) = run(&engine(&model, 1), &requests);
            assert_eq!(alone.replies, together.replies, "at temperature {temperature}");
        }
    }

    #[test]
    fn the_sink_hears_everything_once() {
        let model = model();
        let requests = requests(&model, 0.8);
        let (generation, heard) = run(&engine(&model, 3), &requests);
        let total: usize = requests.iter().map(|request| request.prompt.len()).sum();
        assert_eq!(heard.prompt.last(), Some(&(total, total)));
        assert!(heard.prompt.windows(2).all(|pair| pair[0].0 <= pair[1].0));
        let mut ended = heard.ended.clone();
        ended.sort_unstable();
        assert_eq!(ended, [0, 1, 2]);
        for ((request, reply), text) in requests.iter().zip(&generation.replies).zip(&heard.texts) {
            assert!(reply.tokens.len() <= request.tokens as usize);
            assert_eq!(&reply.text, text);
        }
    }

    #[test]
    fn a_prompt_that_does_not_fit_is_an_error() {
        let model = model();
        let engine = engine(&model, 2);
        let mut requests = requests(&model, 0.0);
        requests[1].prompt = vec![Token(5); 300];
        let mut heard = Heard { texts: vec![String::new(); 3], ..Heard::default() };
        let error = generate(&engine, &requests, &mut heard).err().unwrap().to_string();
        assert!(error.contains("300") && error.contains("256"), "{error}");
        assert!(generate(&engine, &requests[..1], &mut heard).is_ok());
    }
}
