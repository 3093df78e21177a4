//! Continuous batching: requests from any thread, computed together in one context, answered as they come.
//!
//! The engine's thread takes steps: [`plan`] says what the next batch computes, the context computes it, and each sequence with
//! an output says its next token. Who gets a sequence, and what it finds in memory of others, is decided in [`seating`]; what is
//! done about a batch that fails, in [`trial`] by the rules of [`fallback`]. All of that is plain data over the seam of
//! [`machine`], so that it is tested with a naive model of memory as well as with a context.

mod builder;
mod cells;
mod contextual;
mod core;
mod embedding;
mod fallback;
mod faults;
mod generation;
mod job;
mod lookup;
mod machine;
#[cfg(test)]
mod naive;
mod plan;
mod prefix;
mod queue;
mod request;
mod running;
mod seating;
mod stats;
mod trial;
mod tryout;
mod voice;
mod waiting;
mod width;
mod worker;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::context::AbortHandle;
use crate::error::{RequestError, VocabError};
use crate::id::Token;
use crate::limits::{KvLayout, Limits};
use crate::model::Model;
use crate::sampling::Sampler;
use crate::stop::StopConditions;
use crate::vocab::Special;

use embedding::EmbedJob;
use job::Task;
use prefix::HolderId;
use queue::{Permit, Queue};
use voice::Speaker;
use worker::{Command, Submission};

pub use builder::{Determinism, EngineBuilder, Workload};
pub use embedding::Embedding;
pub use fallback::FallbackPolicy;
pub use faults::{Call, Fault};
pub use generation::{Canceller, Completion, EndReason, Generation, Piece, Timings, TokenLogProbs};
pub use request::{Request, WhenFull};
pub use stats::{Fallbacks, Stats};
pub(crate) use tryout::timed;
pub use width::StepCosts;
pub use worker::Shutdown;

/// Answers requests from any thread, as sequences of one context that are computed together.
///
/// It owns a context and a thread that computes. An answer is read from a [`Generation`] while it is generated; one that is dropped
/// is cancelled. Prompts that begin like others take that from memory. A batch that cannot be computed is tried again in smaller
/// ones, so that a request fails by itself alone. Where memory is full, the last request to come gives up its sequence and goes on
/// later: what was accepted is answered once.
///
/// Dropping it cancels what runs, and waits for the batch that is being computed.
///
/// ```
/// use llama_safe::{Engine, Request, Sampler};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let gguf = fixtures::Llama::tiny().gguf(fixtures::Weights::F16, 1)?;
/// # let model = llama_safe::Model::from_bytes(&gguf, &llama_safe::ModelParams::default())?;
/// let engine = Engine::builder(&model).sequences(4).context_tokens(2048).start()?;
/// let story = engine.generate(Request::text("Once upon a time").max_tokens(8))?;
/// let other = engine.generate(Request::text("The cat").max_tokens(8).sampler(Sampler::creative(1)))?;
/// for piece in story {
///     print!("{}", piece?.text);
/// }
/// println!("{}", other.wait().text);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Engine {
    model: Model,
    limits: Limits,
    costs: Option<StepCosts>,
    determinism: Determinism,
    embeds: bool,
    unread: usize,
    queue: Queue,
    next: AtomicU64,
    commands: mpsc::Sender<Command>,
    stats: Arc<Mutex<Stats>>,
    abort: AbortHandle,
    /// Whether all requests are cancelled.
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// How an engine for a model is made.
    #[must_use]
    pub fn builder(model: &Model) -> EngineBuilder {
        EngineBuilder::new(model)
    }

    /// Has a request answered. Waits while as many wait as may.
    ///
    /// # Errors
    ///
    /// [`RequestError`]: the prompt is empty, too long or not of this vocabulary, or the engine was shut down.
    pub fn generate(&self, request: Request) -> Result<Generation, RequestError> {
        let prepared = self.prepare(&request)?;
        self.submit_one(request, prepared, self.queue.enter()?)
    }

    /// [`generate`](Self::generate) that does not wait. The request can be used again.
    ///
    /// # Errors
    ///
    /// As there, and [`RequestError::QueueFull`].
    pub fn try_generate(&self, request: &Request) -> Result<Generation, RequestError> {
        let prepared = self.prepare(request)?;
        self.submit_one(request.clone(), prepared, self.queue.try_enter()?)
    }

    /// [`generate`](Self::generate) that waits without blocking a thread.
    ///
    /// # Errors
    ///
    /// As there.
    #[cfg(feature = "async")]
    pub async fn generate_async(&self, request: Request) -> Result<Generation, RequestError> {
        let prepared = self.prepare(&request)?;
        self.submit_one(request, prepared, self.queue.entered().await?)
    }

    /// Has a request answered several times, once by each sampler, which takes the place of the request's own. The prompt is
    /// computed once, and counts as one request that waits.
    ///
    /// # Errors
    ///
    /// As [`generate`](Self::generate), and [`RequestError::NoSamplers`].
    pub fn generate_each(
        &self,
        request: Request,
        samplers: impl IntoIterator<Item = Sampler>,
    ) -> Result<Vec<Generation>, RequestError> {
        let samplers: Vec<Sampler> = samplers.into_iter().collect();
        if samplers.is_empty() {
            return Err(RequestError::NoSamplers);
        }
        let prepared = self.prepare(&request)?;
        let permit = self.queue.enter()?;
        self.submit(request, prepared, samplers, permit)
    }

    /// Has texts turned into vectors, one for each, between the steps of what is generated. Waits as
    /// [`generate`](Self::generate) does.
    ///
    /// # Errors
    ///
    /// [`RequestError::NoEmbeddings`] unless the engine was started with [embeddings](EngineBuilder::embeddings);
    /// [`RequestError::Vocab`].
    pub fn embed<S: AsRef<str>>(&self, texts: &[S]) -> Result<Embedding, RequestError> {
        if !self.embeds {
            return Err(RequestError::NoEmbeddings);
        }
        let added = self.model.tokenize("", Special::Bos)?.len();
        let tokens = texts.iter().map(|text| {
            let tokens = self.model.tokenize(text.as_ref(), Special::Bos)?;
            // One that is nothing but what is added to each is empty, as it is for an embedder.
            Ok(if tokens.len() > added { tokens } else { Vec::new() })
        });
        let texts = tokens.collect::<Result<_, VocabError>>()?;
        let permit = Some(self.queue.enter()?);
        let (reply, replies) = async_channel::bounded(1);
        let cancelled = Arc::new(AtomicBool::new(false));
        let job = EmbedJob { texts, vectors: Vec::new(), reply, cancelled: Arc::clone(&cancelled), permit };
        self.send(Command::Embed(Box::new(job)))?;
        Ok(Embedding::new(replies, cancelled))
    }

    /// What it does now, and has done.
    #[must_use]
    pub fn stats(&self) -> Stats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its model.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The numbers of its context.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// How its sequences share memory: what was chosen for the [workload](EngineBuilder::expect) and the model.
    #[must_use]
    pub fn layout(&self) -> KvLayout {
        self.limits.kv_layout()
    }

    /// What a step costs at each width, as it was measured or given; `None` if neither.
    #[must_use]
    pub fn step_costs(&self) -> Option<&StepCosts> {
        self.costs.as_ref()
    }

    /// What it takes that an answer is the same to the last bit whatever runs beside it.
    #[must_use]
    pub fn determinism(&self) -> Determinism {
        self.determinism
    }

    /// Takes no more requests, ends those that there are, waits for that, and tells what was done in all.
    pub fn shutdown(mut self, how: Shutdown) -> Stats {
        self.close(how);
        self.stats()
    }

    fn close(&mut self, how: Shutdown) {
        self.queue.close();
        // An engine whose thread is gone has nothing to end.
        let _ = self.commands.send(Command::Shutdown(how));
        if how == Shutdown::Cancel {
            // First: the batch that is stopped is then nobody's failure.
            self.stopping.store(true, Ordering::Relaxed);
            self.abort.abort();
        }
        // A function of a request's may be the last that has the engine: its thread does not wait for itself.
        let is_itself = |thread: &JoinHandle<()>| thread.thread().id() == std::thread::current().id();
        if let Some(thread) = self.thread.take().filter(|thread| !is_itself(thread)) {
            let _ = thread.join();
        }
    }

    /// What can be wrong with a request is, before it waits.
    fn prepare(&self, request: &Request) -> Result<Prepared, RequestError> {
        let submitted = Instant::now();
        let prompt = request.tokens_of(&self.model, self.limits.sequence_tokens())?;
        Ok(Prepared { submitted, prompt, conditions: request.conditions()? })
    }

    fn submit_one(&self, request: Request, prepared: Prepared, permit: Permit) -> Result<Generation, RequestError> {
        let samplers = vec![request.sampler.clone()];
        self.submit(request, prepared, samplers, permit)?.pop().ok_or(RequestError::NoSamplers)
    }

    fn submit(
        &self,
        request: Request,
        Prepared { submitted, prompt, conditions }: Prepared,
        samplers: Vec<Sampler>,
        permit: Permit,
    ) -> Result<Vec<Generation>, RequestError> {
        let permit = Arc::new(permit);
        let first = self.next.fetch_add(samplers.len() as u64, Ordering::Relaxed);
        let mut tasks = Vec::with_capacity(samplers.len());
        let mut generations = Vec::with_capacity(samplers.len());
        for (index, mut sampler) in samplers.into_iter().enumerate() {
            let holder = HolderId(first + index as u64);
            if request.sampler_sees_prompt {
                prompt.iter().try_for_each(|token| sampler.accept_prompt(*token))?;
            }
            let detokenizer = self.model.vocab().detokenizer();
            let detokenizer = if request.continues { detokenizer.continuing() } else { detokenizer };
            let (events, heard) = async_channel::unbounded();
            let cancelled = Arc::new(AtomicBool::new(false));
            let voice = Speaker {
                sampler,
                stopper: conditions.stopper(detokenizer)?,
                logprobs: request.logprobs,
                events,
                unread: self.unread,
                cancelled: Arc::clone(&cancelled),
                stopping: Arc::clone(&self.stopping),
                permit: Some(Arc::clone(&permit)),
                submitted,
                started: None,
                first: None,
                // At most as many as a sequence has room for.
                prompt_tokens: prompt.len() as u32,
                reused_tokens: 0,
            };
            let task = Task {
                prompt: prompt.clone(),
                voice,
                priority: request.priority,
                deadline: request.deadline.and_then(|within| submitted.checked_add(within)),
                keep: match request.when_full {
                    WhenFull::End => None,
                    WhenFull::Discard { keep } => Some(keep),
                },
            };
            tasks.push((holder, Box::new(Submission(task))));
            generations.push(Generation::new(heard, Canceller::new(holder, self.commands.clone(), cancelled)));
        }
        // The last of what is the user's in a request goes with its end, on the engine's thread, rather than here or there.
        drop((request, conditions));
        self.send(Command::Submit(tasks))?;
        Ok(generations)
    }

    fn send(&self, command: Command) -> Result<(), RequestError> {
        self.commands.send(command).map_err(|_| RequestError::Stopped)
    }
}

/// A request that was checked.
struct Prepared {
    submitted: Instant,
    prompt: Vec<Token>,
    conditions: StopConditions,
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.close(Shutdown::Cancel);
        }
    }
}
