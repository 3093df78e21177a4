//! How an engine is made.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use crate::context::Context;
use crate::embedder::{Embedder, EmbedderParams};
use crate::error::{ContextError, EngineError};
use crate::limits::{KvLayout, MemoryKind};
use crate::log;
use crate::model::Model;
use crate::params::ContextParams;

use super::Engine;
use super::contextual::Contextual;
use super::core::{Core, Rules};
use super::embedding::Embeds;
use super::fallback::FallbackPolicy;
use super::faults::{Call, Fault, Faults};
use super::queue::Queue;
use super::stats::Stats;
use super::tryout::{ROWS_ALIKE, computes_alike, measure};
use super::width::StepCosts;
use super::worker::Worker;

/// What most requests will be like, by which an engine chooses how sequences share memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Workload {
    /// Prompts of their own. Each sequence has cells of its own, which is the fastest; a common beginning is copied.
    #[default]
    Unrelated,
    /// Long beginnings that many prompts have in common, such as instructions: sequences share one pool of cells, in which a
    /// common beginning is held once.
    SharedPrefixes,
}

/// How a batch comes to be the same as one sequence alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Determinism {
    /// Not asked for: what a sequence is computed beside may change the last digits of its logits.
    Off,
    /// This model is computed in batches to the same bits on this machine, as was tried when the engine started.
    InBatches,
    /// It is not, so that each pass computes a single token, and each sequence has a batch to itself: the same bits, at the speed of
    /// one at a time.
    OneToken,
}

/// Tokens in common that are worth a copy.
const SHARE: u32 = 16;

/// Sequences beside those that run, which cost nothing but a number where cells are shared.
const CACHED: u32 = 16;

/// Rows of a batch.
const ROWS: u32 = 512;

/// The most tokens that are guessed at a time.
const DRAFT: u32 = 8;

/// How an [`Engine`] is made: [`Engine::builder`].
///
/// ```
/// use llama_safe::{Engine, FallbackPolicy, Workload};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let gguf = fixtures::Llama::tiny().gguf(fixtures::Weights::F16, 1)?;
/// # let model = llama_safe::Model::from_bytes(&gguf, &llama_safe::ModelParams::default())?;
/// let engine = Engine::builder(&model)
///     .sequences(16)
///     .context_tokens(16_384)
///     .expect(Workload::SharedPrefixes)
///     .fallback(FallbackPolicy::Split)
///     .start()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct EngineBuilder {
    model: Model,
    params: ContextParams,
    sequences: u32,
    most_sequences: Option<u32>,
    context_tokens: Option<u32>,
    workload: Workload,
    layout: Option<KvLayout>,
    chunk: u32,
    queue: usize,
    unread: usize,
    policy: FallbackPolicy,
    share: bool,
    spill_bytes: usize,
    costs: Option<StepCosts>,
    measure: bool,
    deterministic: bool,
    speculation: bool,
    embeddings: Option<EmbedderParams>,
    faults: Faults,
}

impl EngineBuilder {
    pub(super) fn new(model: &Model) -> Self {
        Self {
            model: model.clone(),
            params: ContextParams::default(),
            sequences: 8,
            most_sequences: None,
            context_tokens: None,
            workload: Workload::default(),
            layout: None,
            chunk: 128,
            queue: 1024,
            unread: 1024,
            policy: FallbackPolicy::default(),
            share: true,
            spill_bytes: 0,
            costs: None,
            measure: true,
            deterministic: false,
            speculation: false,
            embeddings: None,
            faults: Faults::default(),
        }
    }

    /// Sequences that run at a time; 8 where this says nothing.
    #[must_use]
    pub fn sequences(mut self, sequences: u32) -> Self {
        self.sequences = sequences;
        self
    }

    /// As many as may run where more requests wait, and that gives more tokens in a second by the [costs](StepCosts) of a step.
    /// The context has room for each of them as for the others. As many as [`sequences`](Self::sequences) where this says nothing.
    #[must_use]
    pub fn sequences_at_most(mut self, sequences: u32) -> Self {
        self.most_sequences = Some(sequences);
        self
    }

    /// Cells of the KV cache for [`sequences`](Self::sequences), all of them together, tokens: each has its part of them, or all
    /// draw on them, as the [layout](Self::expect) is. Where this says nothing, each has 4,096, or what the model was trained on.
    #[must_use]
    pub fn context_tokens(mut self, tokens: u32) -> Self {
        self.context_tokens = Some(tokens);
        self
    }

    /// What most requests will be like. [`Engine::layout`] tells what was made of it.
    #[must_use]
    pub fn expect(mut self, workload: Workload) -> Self {
        self.workload = workload;
        self
    }

    /// How sequences share memory, whatever is expected.
    #[must_use]
    pub fn layout(mut self, layout: KvLayout) -> Self {
        self.layout = Some(layout);
        self
    }

    /// Tokens of prompts in a step, but for one that is computed while nothing else runs: the longest that answers wait for prompts, and
    /// that a prompt waits for others. 128 where this says nothing.
    #[must_use]
    pub fn prompt_chunk(mut self, tokens: u32) -> Self {
        self.chunk = tokens;
        self
    }

    /// Requests that may wait for a sequence; 1,024 where this says nothing.
    #[must_use]
    pub fn queue(mut self, requests: usize) -> Self {
        self.queue = requests;
        self
    }

    /// Pieces of an answer that may wait to be read before it is paused; 1,024 where this says nothing.
    #[must_use]
    pub fn unread_pieces(mut self, pieces: usize) -> Self {
        self.unread = pieces;
        self
    }

    /// What is done when a batch cannot be computed.
    #[must_use]
    pub fn fallback(mut self, policy: FallbackPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Whether prompts that begin like others take that from memory instead of computing it. They do unless this is told to be
    /// false.
    #[must_use]
    pub fn share_prefixes(mut self, share: bool) -> Self {
        self.share = share;
        self
    }

    /// Bytes outside of the context for prefixes that have to leave it, and for answers that have to pause. 0 where this says
    /// nothing: what leaves is computed again.
    #[must_use]
    pub fn spill_bytes(mut self, bytes: usize) -> Self {
        self.spill_bytes = bytes;
        self
    }

    /// What a step costs at each width, instead of measuring it at the start.
    #[must_use]
    pub fn step_costs(mut self, costs: StepCosts) -> Self {
        self.costs = Some(costs);
        self
    }

    /// Whether the start measures what a step costs at each width, which takes up to a second or, with large models, a few steps
    /// more. Without, all sequences run in one batch, whether that is faster or not.
    #[must_use]
    pub fn measure(mut self, measure: bool) -> Self {
        self.measure = measure;
        self
    }

    /// Whether an answer is the same to the last bit whatever runs beside it. [`Engine::determinism`] tells what that took, and
    /// the costs: chunks of 32 tokens of a prompt in a step, cells of its own for each sequence; and where batches are not
    /// computed to the same bits, one token a pass.
    #[must_use]
    pub fn deterministic(mut self, deterministic: bool) -> Self {
        self.deterministic = deterministic;
        self
    }

    /// Whether the engine guesses what comes next from what came before in the same text, and computes several tokens at once
    /// where that pays. The text is the same, and comes faster where it repeats itself. For models whose sequences can be cut
    /// ([`MemoryKind::Attention`]); others ignore it.
    #[must_use]
    pub fn speculation(mut self, speculation: bool) -> Self {
        self.speculation = speculation;
        self
    }

    /// Makes embeddings as well, in a context of their own.
    #[must_use]
    pub fn embeddings(mut self, params: EmbedderParams) -> Self {
        self.embeddings = Some(params);
        self
    }

    /// Everything else about the context: threads, attention, number types. Its sizes and sequences are not taken. Its
    /// [memory limit](ContextParams::memory_limit) is that of all contexts of the engine together.
    #[must_use]
    pub fn context(mut self, params: ContextParams) -> Self {
        self.params = params;
        self
    }

    /// Has calls fail on purpose, for tests.
    #[doc(hidden)]
    #[must_use]
    pub fn faults(mut self, plan: impl FnMut(Call) -> Option<Fault> + Send + 'static) -> Self {
        self.faults = Faults::new(plan);
        self
    }

    /// Makes the context, tries it out, and starts the engine's thread.
    ///
    /// # Errors
    ///
    /// [`EngineError`]: the context is refused, the model does not continue texts, or a number is out of its range.
    pub fn start(self) -> Result<Engine, EngineError> {
        self.check()?;
        let (mut context, determinism) = self.make_context()?;
        let limits = context.limits().clone();
        if limits.memory() == MemoryKind::None || limits.encodes_first() {
            let reason = if limits.encodes_first() {
                "its decoder wants a text that was encoded first: use Context::encode"
            } else {
                "it has no memory: use Embedder, Reranker or Context::encode"
            };
            return Err(EngineError::CannotGenerate { architecture: self.model.architecture(), reason });
        }
        let most = self.most().min(limits.sequences());
        let costs = match self.costs.clone() {
            None if self.measure && most > 1 && determinism != Determinism::OneToken => measure(&mut context, most)?,
            costs => costs,
        };
        let params = match (self.embeddings.clone(), self.params.memory_limit) {
            // Both contexts together.
            (Some(params), Some(limit)) => {
                Some(params.memory_limit(limit.saturating_sub(context.memory_used()?.context())))
            }
            (params, _) => params,
        };
        let embedder = params.map(|params| Embedder::new(&self.model, &params)).transpose()?;
        if embedder.as_ref().is_some_and(|embedder| !embedder.context().limits().is_pooled()) {
            return Err(EngineError::Unpooled);
        }
        let rules = Rules {
            sequences: self.sequences.min(most),
            most_sequences: most,
            chunk: self.chunk,
            line_chunk: if determinism == Determinism::Off { u32::MAX } else { ROWS_ALIKE },
            // Passes of one token are only that where a batch has one sequence: llama.cpp takes a token of two, where it cuts
            // a batch by sequences and is to take one (llama-batch.cpp:640).
            one_by_one: determinism == Determinism::OneToken,
            policy: self.policy,
            share: self.share.then_some(SHARE),
            spill_bytes: self.spill_bytes,
            costs: costs.clone(),
            draft: if self.speculation { DRAFT } else { 0 },
        };
        log::tell(&format!(
            "engine: {} sequences, up to {most}, on {:?} cells for {:?}; deterministic: {determinism:?}; costs of a step: {:?}",
            rules.sequences,
            limits.kv_layout(),
            self.workload,
            costs.as_ref().map(StepCosts::points),
        ));
        let abort = context.abort_handle();
        let stats = Arc::new(Mutex::new(Stats::default()));
        let (sender, commands) = mpsc::channel();
        let core = Core::new(Contextual::new(context, self.faults), rules);
        *stats.lock().unwrap_or_else(PoisonError::into_inner) = core.stats();
        let worker = Worker { core, embeds: Embeds::new(embedder), commands, stats: Arc::clone(&stats) };
        let thread = thread::Builder::new().name("llama-engine".to_owned()).spawn(move || worker.run())?;
        Ok(Engine {
            model: self.model,
            embeds: self.embeddings.is_some(),
            limits,
            costs,
            determinism,
            unread: self.unread,
            queue: Queue::new(self.queue),
            next: AtomicU64::new(0),
            commands: sender,
            stats,
            abort,
            stopping: Arc::new(AtomicBool::new(false)),
            thread: Some(thread),
        })
    }

    fn check(&self) -> Result<(), EngineError> {
        let at_least_1 = [
            ("prompt_chunk", u64::from(self.chunk)),
            ("queue", self.queue as u64),
            ("unread_pieces", self.unread as u64),
        ];
        if let Some((what, got)) = at_least_1.into_iter().find(|(_, got)| *got == 0) {
            return Err(EngineError::OutOfRange { what, got, allowed: "1 or more" });
        }
        if self.most() < self.sequences {
            let got = self.most().into();
            return Err(EngineError::OutOfRange { what: "sequences_at_most", got, allowed: "sequences or more" });
        }
        if self.deterministic && self.layout == Some(KvLayout::Unified) {
            return Err(EngineError::NotDeterministic { got: "unified cells were asked for" });
        }
        Ok(())
    }

    fn most(&self) -> u32 {
        self.most_sequences.unwrap_or(self.sequences)
    }

    /// The layout to ask for.
    fn wanted_layout(&self) -> KvLayout {
        // Recurrent states are no cells, and hybrid ones are cut as little as those.
        let is_attention = !self.model.is_recurrent() && !self.model.is_hybrid();
        match (self.layout, self.workload) {
            (Some(layout), _) => layout,
            (None, Workload::SharedPrefixes) if is_attention && !self.deterministic => KvLayout::Unified,
            (None, _) => KvLayout::Split,
        }
    }

    fn make_context(&self) -> Result<(Context, Determinism), EngineError> {
        let mut params = self.context_params(self.sequences, self.most(), CACHED);
        let mut context = match Context::new(&self.model, &params) {
            // The slower way that is right.
            Err(ContextError::OneSequence { reason, .. }) => {
                log::warn(&format!("the engine runs one sequence at a time: {reason}"));
                params = self.context_params(1, 1, 0);
                Context::new(&self.model, &params)?
            }
            other => other?,
        };
        if !self.deterministic {
            return Ok((context, Determinism::Off));
        }
        if context.limits().kv_layout() == KvLayout::Unified && context.limits().sequences() > 1 {
            return Err(EngineError::NotDeterministic { got: "this model has them shared" });
        }
        if context.limits().memory() != MemoryKind::None && computes_alike(&mut context)? {
            return Ok((context, Determinism::InBatches));
        }
        drop(context);
        let context = Context::new(&self.model, &params.micro_batch_tokens(1))?;
        Ok((context, Determinism::OneToken))
    }

    /// `cached`: sequences beside the `most` that run, where they cost nothing.
    fn context_params(&self, sequences: u32, most: u32, cached: u32) -> ContextParams {
        let layout = self.wanted_layout();
        let params = self.params.clone().sequences(sequences).embeddings(false);
        let params = match self.context_tokens {
            Some(tokens) => params.context_tokens(tokens),
            None => params,
        };
        // Of the sequences that were asked for; each further one gets as many.
        let tokens = u64::from(params.context_tokens_for(self.model.context_length()));
        let tokens = u32::try_from(tokens * u64::from(most) / u64::from(sequences.max(1))).unwrap_or(u32::MAX);
        let slots = match layout {
            KvLayout::Unified if self.share => most.saturating_add(cached).min(MOST_SLOTS).max(most),
            _ => most,
        };
        // No chunk is longer than all that there is room for.
        let rows = ROWS.max(most.saturating_add(self.chunk.min(tokens))).max(slots);
        params.sequences(slots).context_tokens(tokens).batch_tokens(rows).kv_layout(layout)
    }
}

/// `llama_max_parallel_sequences()`.
const MOST_SLOTS: u32 = 256;
