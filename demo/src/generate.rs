//! Several requests, answered as sequences of one context in shared batches. This file is the one to copy.

use std::time::{Duration, Instant};

use anyhow::Result;
use llama_safe::{Batch, Context, Detokenizer, Model, OutputSlot, Sampler, Sequence, Token};

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
    /// Decoding and sampling. What a [`Sink`] does with the text is not counted.
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

/// A sequence with what belongs to it.
struct Live {
    sequence: Sequence,
    sampler: Sampler,
    /// Puts tokens together to whole characters.
    detokenizer: Detokenizer,
    left: u32,
    /// The token to decode next; none before the prompt is decoded, and none again at the end.
    next: Option<Token>,
    reply: Reply,
}

/// Answers all requests. The context needs a free sequence and enough room for each.
///
/// # Errors
/// What the calls in it report: no free sequence, a sequence that outgrows its room, a token out of range; and whatever the sink does.
pub fn generate(ctx: &mut Context, requests: &[Request], sink: &mut impl Sink) -> Result<Generation> {
    let model = ctx.model().clone();
    let mut live = Vec::with_capacity(requests.len());
    for request in requests {
        live.push(Live {
            sequence: ctx.new_sequence()?,
            sampler: request.sampler()?,
            detokenizer: model.vocab().detokenizer().continuing(),
            left: request.tokens,
            next: None,
            reply: Reply::default(),
        });
    }
    let mut batch = ctx.new_batch();
    let mut asked = Vec::with_capacity(requests.len());
    let mut time = Duration::ZERO;
    let (mut done, total) = (0, requests.iter().map(|request| request.prompt.len()).sum());

    sink.prompt(done, total)?;
    // The prompts, one behind the other: a batch takes the end of one and the beginning of the next.
    for (index, request) in requests.iter().enumerate() {
        let mut rest = request.prompt.as_slice();
        while !rest.is_empty() {
            let sequence = &live[index].sequence;
            let room = (batch.capacity() - batch.len()) as usize;
            let (now, later) = rest.split_at(room.min(rest.len()));
            if later.is_empty() {
                asked.push((index, batch.prompt(sequence, now)?));
            } else {
                batch.extend(sequence, now)?;
            }
            rest = later;
            if batch.len() == batch.capacity() {
                done += batch.len() as usize;
                time += step(ctx, &model, &mut batch, &mut asked, &mut live, sink)?;
                sink.prompt(done, total)?;
            }
        }
    }
    done += batch.len() as usize;
    time += step(ctx, &model, &mut batch, &mut asked, &mut live, sink)?;
    sink.prompt(done, total)?;

    // Then one token of each sequence that is not at its end, all in one batch.
    loop {
        for (index, live) in live.iter().enumerate() {
            if let Some(token) = live.next {
                asked.push((index, batch.push_output(&live.sequence, token)?));
            }
        }
        if batch.is_empty() {
            break;
        }
        time += step(ctx, &model, &mut batch, &mut asked, &mut live, sink)?;
    }
    Ok(Generation { replies: live.into_iter().map(|live| live.reply).collect(), time })
}

/// Decodes the batch, if there is anything in it, and gives every sequence that asked for an output its next token.
fn step(
    ctx: &mut Context,
    model: &Model,
    batch: &mut Batch,
    asked: &mut Vec<(usize, OutputSlot)>,
    live: &mut [Live],
    sink: &mut impl Sink,
) -> Result<Duration> {
    if batch.is_empty() {
        return Ok(Duration::ZERO);
    }
    let started = Instant::now();
    let outputs = ctx.decode(batch)?;
    for (index, slot) in asked.iter() {
        let live = &mut live[*index];
        live.next = Some(live.sampler.sample(outputs.get(*slot)?)?);
    }
    let time = started.elapsed();
    for (index, _) in asked.drain(..) {
        live[index].accept(model, index, sink)?;
    }
    Ok(time)
}

impl Live {
    /// Adds the sampled token to the reply, and ends the request where it or its budget says so.
    fn accept(&mut self, model: &Model, index: usize, sink: &mut impl Sink) -> Result<()> {
        let Some(token) = self.next else { return Ok(()) };
        let over = model.vocab().is_end_of_generation(token)?;
        if !over {
            self.left = self.left.saturating_sub(1);
            self.reply.tokens.push(token);
            let text = self.detokenizer.push(token)?;
            self.reply.text.push_str(text);
            sink.text(index, text)?;
        }
        if over || self.left == 0 {
            self.next = None;
            // Half a character, if the budget ran out in the middle of one.
            let rest = self.detokenizer.finish();
            self.reply.text.push_str(rest);
            sink.text(index, rest)?;
            sink.end(index)?;
        }
        Ok(())
    }
}

/// Decodes one token and forgets it, so that whoever is measured first does not pay for reading the weights from disk.
pub fn warm_up(ctx: &mut Context, token: Token) -> Result<()> {
    let sequence = ctx.new_sequence()?;
    let mut batch = ctx.new_batch();
    batch.prompt(&sequence, &[token])?;
    ctx.decode(&mut batch)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use fixtures::{Llama, Weights};
    use llama_safe::{ContextParams, ModelParams, Special};

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

    fn run(model: &Model, requests: &[Request]) -> (Generation, Heard) {
        // Batches so small that every prompt is cut somewhere.
        let sequences = requests.len() as u32;
        let params = ContextParams::default().sequences(sequences).context_tokens(256 * sequences).batch_tokens(7);
        // Tests run beside each other: threads that wait for each other would not get their turn.
        let params = params.threads(1).batch_threads(1);
        let mut ctx = Context::new(model, &params).unwrap();
        let mut heard = Heard { texts: vec![String::new(); requests.len()], ..Heard::default() };
        let generation = generate(&mut ctx, requests, &mut heard).unwrap();
        (generation, heard)
    }

    #[test]
    fn together_says_what_each_says_alone() {
        let model = model();
        for temperature in [0.0, 0.8] {
            let requests = requests(&model, temperature);
            let (together, _) = run(&model, &requests);
            for (request, reply) in requests.iter().zip(&together.replies) {
                let (alone, _) = run(&model, std::slice::from_ref(request));
                assert_eq!(&alone.replies[0], reply, "at temperature {temperature}");
            }
        }
    }

    #[test]
    fn the_sink_hears_everything_once() {
        let model = model();
        let requests = requests(&model, 0.8);
        let (generation, heard) = run(&model, &requests);
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
    fn more_requests_than_sequences_is_an_error() {
        let model = model();
        let params = ContextParams::default().sequences(2).context_tokens(512).threads(1).batch_threads(1);
        let mut ctx = Context::new(&model, &params).unwrap();
        let mut heard = Heard { texts: vec![String::new(); 3], ..Heard::default() };
        assert!(generate(&mut ctx, &requests(&model, 0.0), &mut heard).is_err());
        assert!(generate(&mut ctx, &requests(&model, 0.0)[..2], &mut heard).is_ok());
    }
}
