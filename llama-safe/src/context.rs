//! The only owner of a `llama_context`.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use llama_sys as sys;

use crate::backend;
use crate::columns::BySlot;
use crate::encoded::{self, Encoded};
use crate::error::ContextError;
use crate::forecast::{Forecast, forecast};
use crate::graph_chain::GraphSlots;
use crate::id::{ContextId, FillId, SeqId};
use crate::limits::{self, Fallback, KvLayout, Limits, MemoryKind, Pooling};
use crate::log;
use crate::memory_use::{MemoryEstimate, MemoryUse, OutputRoom};
use crate::model::Model;
use crate::model::adapter::Steering;
use crate::model::simulation::memory_of;
use crate::params::{ContextParams, FlashAttention, KvType};
use crate::pool::Pool;
use crate::quirks::{self, Quirk};
use crate::saved::payload::Layout;

/// Room to compute in, and the memory of up to [`Limits::sequences`] sequences.
///
/// It keeps its model alive. It can be moved to another thread, but not used from two at a time: `Send`, not `Sync`.
///
/// ```
/// fn can_be_moved<T: Send>() {}
/// can_be_moved::<llama_safe::Context>();
/// ```
///
/// ```compile_fail,E0277
/// fn can_be_shared<T: Sync>() {}
/// can_be_shared::<llama_safe::Context>();
/// ```
///
/// ```compile_fail,E0277
/// // A context is no number, so no other object's address can be taken for one.
/// fn of_a_handle(handle: i64) -> llama_safe::Context { handle.into() }
/// ```
///
/// ```compile_fail,E0382
/// // What was dropped cannot be used, nor be dropped again.
/// fn after_drop(context: llama_safe::Context) { drop(context); context.limits(); }
/// ```
///
/// ```compile_fail,E0599
/// // No function of the program's is called in the middle of a decode.
/// fn called_back(mut context: llama_safe::Context) { context.set_eval_callback(|| panic!()); }
/// ```
///
/// ```compile_fail,E0599
/// // Threads are the context's own.
/// fn with_threads_of_others(mut context: llama_safe::Context) { context.attach_threadpool(); }
/// ```
///
/// ```compile_fail,E0599
/// // Nothing of llama.cpp's training is offered.
/// fn trained(mut context: llama_safe::Context) { context.opt_epoch(); }
/// ```
///
/// ```compile_fail,E0599
/// // Whether attention knows an order is the model's, not a switch between two decodes.
/// fn without_order(mut context: llama_safe::Context) { context.set_causal_attn(false); }
/// ```
#[derive(Debug)]
pub struct Context {
    raw: NonNull<sys::llama_context>,
    /// llama.cpp's memory of this context; `None` for an encoder, which has none or does not use it.
    memory: Option<NonNull<sys::llama_memory_i>>,
    pub(crate) id: ContextId,
    pub(crate) limits: Limits,
    pub(crate) pool: Pool,
    /// The decode whose outputs can be read.
    pub(crate) last: Option<FillId>,
    /// The sequences of that decode.
    pub(crate) last_sequences: Vec<SeqId>,
    /// The batch as it was lent to that decode.
    pub(crate) by_slot: BySlot,
    /// The texts that the encoder of an encoder-decoder was given; `None` for every other model.
    pub(crate) encoded: Option<Encoded>,
    /// Whether the last outputs are those of the encoder of an encoder-decoder.
    pub(crate) last_is_encoding: bool,
    /// The positions of rows with places, in the order that llama.cpp reads them in.
    pub(crate) flat_places: Vec<i32>,
    /// For each row lent, where its sequence ids stand: a column that llama.cpp wants as pointers.
    pub(crate) sequence_pointers: Vec<*mut i32>,
    /// For each row lent, how many sequence ids stand there.
    pub(crate) ones: Vec<i32>,
    pub(crate) abort: Arc<Abort>,
    pub(crate) steering: Steering,
    /// The samplers that run in its computations. llama.cpp points to them: they are dropped after the context's own `drop` has run.
    pub(crate) graph: GraphSlots,
    /// How large llama.cpp's buffer for outputs is, and may become.
    pub(crate) outputs: OutputRoom,
    /// Whether the next decode copies streams of cells before anything else.
    pub(crate) copies_wait: bool,
    /// How llama.cpp lays out states of this context, once that was needed.
    pub(crate) layout: Option<Layout>,
    /// What is known to be wrong with the architecture, unless that is asked for.
    pub(crate) quirk: Option<&'static Quirk>,
    /// Last, so that it is dropped after the context's own `drop` has run.
    model: Model,
}

// SAFETY: llama.cpp keeps no state of the calling thread in a context; nothing else owns the pointers; `&mut self` or
// `!Sync` keeps two threads from calling at the same time.
unsafe impl Send for Context {}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: this is the only owner, and whatever borrows from the context is gone by now.
        // An exception cannot be reported from here, and leaves nothing to be done.
        let _ = sys::guarded_unit(|error| unsafe { sys::guard_llama_free(error, self.raw.as_ptr()) });
    }
}

impl Context {
    /// Makes a context for a model.
    ///
    /// # Errors
    ///
    /// [`ContextError`]: a number out of its range, a model without weights or of a kind that is not supported, or not
    /// enough memory.
    pub fn new(model: &Model, params: &ContextParams) -> Result<Self, ContextError> {
        let prepared = Prepared::new(model, params)?;
        if let Some(limit) = params.memory_limit {
            let least = least_of(model, params, &prepared)?;
            if least.context() > LITTLE {
                check_memory(least, limit)?;
            }
            let (estimate, every) = estimate_of(model, params, &prepared)?;
            check_memory(if every { estimate.peak() } else { estimate.resident() }, limit)?;
        }
        let Prepared { asked, quirk, fallback, abort, raw: raw_params } = prepared;
        log::forget_errors();
        let raw = model.exclusively(|| {
            sys::guarded(std::ptr::null_mut(), |result, error| {
                // SAFETY: the model lives. The numbers were checked against what llama.cpp asserts. The callback's data
                // is kept alive by the context.
                unsafe { sys::guard_llama_init_from_model(result, error, model.as_ptr(), raw_params) }
            })
        });
        let raw = raw
            .map_err(|reason| ContextError::Rejected { reason })
            .map(NonNull::new)?
            .ok_or_else(|| ContextError::Rejected { reason: log::errors_or("it gives no reason") })?;

        // SAFETY: the context was just made.
        let memory = NonNull::new(unsafe { sys::llama_get_memory(raw.as_ptr()) });
        let memory = memory.filter(|_| keeps_memory(model, quirk));
        let limits = Limits { fallback, ..read_limits(raw, memory.is_some(), model, params) };
        let id = ContextId::next();
        let supports_rollback = limits.rollback_tokens == asked.rollback_tokens;
        let mut context = Self {
            raw,
            memory,
            id,
            pool: Pool::new(id, limits.sequences),
            last: None,
            last_sequences: Vec::with_capacity(limits.sequences as usize),
            encoded: limits.encodes_first.then(|| Encoded::new(limits.sequences)),
            last_is_encoding: false,
            by_slot: BySlot::default(),
            flat_places: Vec::new(),
            sequence_pointers: Vec::new(),
            ones: Vec::new(),
            outputs: output_room(model, params, limits.sequences),
            limits,
            abort,
            steering: Steering::default(),
            graph: GraphSlots::default(),
            copies_wait: false,
            layout: None,
            quirk,
            model: model.clone(),
        };
        if let Some(limit) = params.memory_limit {
            context.limit_memory(limit)?;
        }
        context.check_classifier(params.pooling)?;
        context.check_output_width()?;
        let one_token = context.limits.fallback.is_some_and(|fallback| fallback.is_one_token_at_a_time());
        if one_token && context.limits.has_embeddings() && context.limits.is_pooled() {
            let reason =
                "llama.cpp computes its batches wrong but for one token at a time, and pools each pass by itself";
            return Err(ContextError::UnsupportedModel { architecture: model.architecture(), reason });
        }
        if !supports_rollback {
            // llama.cpp makes a context without them (llama-context.cpp:108).
            return Err(no_rollback(model, "llama.cpp keeps no snapshots of its states"));
        }
        Ok(context)
    }

    /// The memory that it holds now.
    pub(crate) fn used(&self) -> Result<MemoryUse, String> {
        let held = memory_of(self.raw)?;
        let weights = held.plain + held.changed;
        Ok(MemoryUse { weights, cache: held.cache, compute: held.compute, outputs: self.outputs.held })
    }

    /// Keeps outputs below what is left of the limit.
    fn limit_memory(&mut self, limit: u64) -> Result<(), ContextError> {
        let used = self.used().map_err(|reason| ContextError::Rejected { reason })?;
        check_memory(used, limit)?;
        self.outputs.limit = Some(limit - used.cache - used.compute);
        Ok(())
    }

    /// llama.cpp reads the scores of sequence `i` at `i * n_cls_out`, whatever the head leaves for each
    /// (llama-context.cpp:1613): of a file without a head, other numbers of the first sequence.
    fn check_classifier(&self, asked: Pooling) -> Result<(), ContextError> {
        let limits = &self.limits;
        if asked == Pooling::Rank && limits.pooling() != Pooling::Rank {
            return Err(ContextError::NotReranker);
        }
        if !limits.has_embeddings() || limits.pooling() != Pooling::Rank {
            return Ok(());
        }
        // What `build_pooling` ends with (llama-graph.cpp:3850); a tensor that no head is made of is refused by the loader.
        let rows = |name: &str| Some(self.model.shapes()?.get(name)?[1]);
        let head = rows("cls.output.weight").or_else(|| rows("cls.weight"));
        let width = head.unwrap_or_else(|| self.model.width().into());
        if width == u64::from(limits.output_width()) {
            Ok(())
        } else {
            let width = u32::try_from(width).unwrap_or(u32::MAX);
            Err(ContextError::NoClassifier { scores: limits.output_width(), width })
        }
    }

    /// llama.cpp reads embeddings as rows of `n_embd_out` numbers, whatever the graph leaves for each (llama-context.cpp:1970
    /// and :1989): of wider rows the others' numbers, or what is behind the last, which aborts.
    fn check_output_width(&self) -> Result<(), ContextError> {
        let (limits, model) = (&self.limits, &self.model);
        if !limits.has_embeddings() || limits.pooling() == Pooling::Rank || model.output_width() == model.width() {
            return Ok(());
        }
        let architecture = model.architecture();
        let projects = match architecture.as_str() {
            // models/lfm2.cpp:85.
            "lfm2" | "lfm2moe" => model.shapes().is_some_and(|shapes| shapes.contains_key("dense_2.weight")),
            // models/wavtokenizer-dec.cpp:110, models/clef.cpp:22, models/modern-bert.cpp:41.
            "wavtokenizer-dec" | "clef" | "modern-bert" => true,
            // models/deepseek4.cpp:53 and models/qwen4exp.cpp:54 mean what another model drafts from, not this one's embeddings.
            // Of others, it is what a file or an override says (llama-model.cpp:1325).
            _ => false,
        };
        if projects {
            return Ok(());
        }
        let reason = "its embeddings have another width than it says, and llama.cpp would read others' numbers";
        Err(ContextError::UnsupportedModel { architecture, reason })
    }

    /// The numbers that hold for this context.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Its model.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// A handle that stops computations of this context from another thread.
    #[must_use]
    pub fn abort_handle(&self) -> AbortHandle {
        AbortHandle { abort: Arc::clone(&self.abort) }
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::llama_context {
        self.raw.as_ptr()
    }

    pub(crate) fn memory(&self) -> Option<sys::llama_memory_t> {
        self.memory.map(NonNull::as_ptr)
    }
}

/// What a context is made of, with every check that can be made before.
struct Prepared {
    asked: limits::Asked,
    quirk: Option<&'static Quirk>,
    fallback: Option<Fallback>,
    abort: Arc<Abort>,
    raw: sys::llama_context_params,
}

impl Prepared {
    fn new(model: &Model, params: &ContextParams) -> Result<Self, ContextError> {
        backend::init();
        let asked = asked(model, params);
        // SAFETY: returns a constant.
        let max_sequences = unsafe { sys::llama_max_parallel_sequences() } as u32;
        limits::check(&asked, max_sequences, sys::GGML_MAX_N_THREADS)?;
        check_model(model, params)?;
        check_rollback(model, params, asked.rollback_tokens)?;
        let quirk = params.fallback.then(|| quirks::of(&model.architecture())).flatten();
        let fallback = check_quirk(model, quirk, asked.sequences)?;
        let abort = Arc::new(Abort { checks_left: AtomicI64::new(NEVER), deferred: AtomicBool::new(false) });
        let mut raw = raw_params(model, params, &asked, &abort);
        if let Some(quirk) = quirk {
            // llama.cpp cuts a pass to the batch (llama-context.cpp:250), which must not be what unmakes the multiple.
            let most = raw.n_ubatch.min(raw.n_batch);
            raw.n_ubatch = quirk.micro_batch_tokens(most, asked.sequences);
        }
        Ok(Self { asked, quirk, fallback, abort, raw })
    }
}

/// What a context with these parameters will take.
pub(crate) fn estimate(model: &Model, params: &ContextParams) -> Result<MemoryEstimate, ContextError> {
    estimate_of(model, params, &Prepared::new(model, params)?).map(|(estimate, _)| estimate)
}

/// The same, and whether every row of every batch has an output.
fn estimate_of(
    model: &Model,
    params: &ContextParams,
    prepared: &Prepared,
) -> Result<(MemoryEstimate, bool), ContextError> {
    let has_memory = keeps_memory(model, prepared.quirk);
    let read = |context| {
        // SAFETY: the context lives as long as this is called.
        let has_memory = has_memory && !unsafe { sys::llama_get_memory(NonNull::as_ptr(context)) }.is_null();
        read_limits(context, has_memory, model, params)
    };
    // SAFETY: the numbers were checked against what llama.cpp asserts.
    let forecast = unsafe { forecast(model, prepared.raw, read) };
    let Forecast { used, token_bytes, cells, read: limits } =
        forecast.map_err(|reason| ContextError::Rejected { reason })?;
    let room = output_room(model, params, limits.sequences);
    let every = limits.has_embeddings()
        || limits.memory == MemoryKind::None
        || limits.encodes_first
        || prepared.fallback.is_some();
    let used = MemoryUse { outputs: room.held, ..used };
    let peak = room.bytes(limits.batch_tokens(), false);
    Ok((MemoryEstimate::new(used, peak, token_bytes, cells, limits.sequences), every))
}

/// Bytes that may be taken for a moment to estimate a context that is then refused.
const LITTLE: u64 = 16 << 20;

/// What a context takes at the least, from one that takes nothing to speak of: that of [`estimate_of`] really takes, for a
/// moment, what is counted here.
fn least_of(model: &Model, params: &ContextParams, prepared: &Prepared) -> Result<MemoryUse, ContextError> {
    let outputs = output_room(model, params, prepared.asked.sequences).held;
    if !has_state(model) {
        return Ok(MemoryUse { outputs, ..MemoryUse::default() });
    }
    let raw = sys::llama_context_params { n_seq_max: 1, n_ctx: 1, ..prepared.raw };
    // SAFETY: the numbers were checked, and fewer sequences and cells are as good.
    let one = unsafe { forecast(model, raw, |_| ()) }.map_err(|reason| ContextError::Rejected { reason })?;
    let state = one.used.cache.saturating_sub(one.token_bytes * one.cells);
    Ok(MemoryUse { cache: state * u64::from(prepared.asked.sequences), outputs, ..MemoryUse::default() })
}

/// Refuses more memory than there may be.
fn check_memory(used: MemoryUse, limit: u64) -> Result<(), ContextError> {
    let MemoryUse { cache, compute, outputs, .. } = used;
    let needed = used.context();
    if needed > limit { Err(ContextError::MemoryLimit { needed, limit, cache, compute, outputs }) } else { Ok(()) }
}

/// Room for outputs in a context that was just made (llama-context.cpp:2129).
fn output_room(model: &Model, params: &ContextParams, sequences: u32) -> OutputRoom {
    let embeds = params.embeddings || model.architecture() == "t5";
    OutputRoom::new(model.vocabulary_size(), if embeds { model.output_width() } else { 0 }, sequences)
}

/// Whether llama.cpp's memory is one that is used.
///
/// The encoder of T5 alone has a cache that its computation neither fills nor reads; decoding would not tell
/// micro-batches and sequences apart (models/t5.cpp builds the same graph for both).
fn keeps_memory(model: &Model, quirk: Option<&'static Quirk>) -> bool {
    model.has_decoder() && !quirk.is_some_and(Quirk::is_encoder)
}

fn asked(model: &Model, params: &ContextParams) -> limits::Asked {
    let cores = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
    let cores = cores.min(sys::GGML_MAX_N_THREADS);
    let threads = params.threads.unwrap_or(cores);
    limits::Asked {
        context_tokens: params.context_tokens_for(model.context_length()),
        batch_tokens: params.batch_tokens,
        micro_batch_tokens: params.micro_batch_tokens,
        sequences: params.sequences,
        threads,
        batch_threads: params.batch_threads.unwrap_or(threads),
        rollback_tokens: if has_state(model) { params.rollback_tokens } else { 0 },
    }
}

/// Refuses models that llama.cpp would abort on, or that this version would compute something else with.
fn check_model(model: &Model, params: &ContextParams) -> Result<(), ContextError> {
    if model.is_vocab_only() {
        return Err(ContextError::VocabularyOnly);
    }
    let architecture = model.architecture();
    let unsupported = |reason| Err(ContextError::UnsupportedModel { architecture: architecture.clone(), reason });
    if windows_share_cells(model, params) && model.is_hybrid() {
        // A state wants micro-batches of equal lengths, so that a batch is not always one.
        return unsupported(
            "its sliding window forgets too early on shared cells: take KvLayout::Split, without embeddings",
        );
    }
    if !model.has_encoder() {
        return Ok(());
    }
    if architecture != "t5" && architecture != "t5encoder" {
        // Drafting models, whose encoder takes another model's hidden states.
        return unsupported("its encoder reads what another model left, and there is no checked way for that yet");
    }
    let buckets = model.metadata_value(&format!("{architecture}.attention.relative_buckets_count"));
    if !encoded::buckets_are_sound(buckets.and_then(|text| text.parse().ok())) {
        return unsupported("its relative_buckets_count is not within 4 to 255, which llama.cpp can compute with");
    }
    if model.is_encoder_decoder() && !matches!(params.pooling, Pooling::Model | Pooling::None) {
        return Err(ContextError::PooledEncoder);
    }
    Ok(())
}

/// Refuses what llama.cpp computes wrong, or tells the slower way that is right.
fn check_quirk(model: &Model, quirk: Option<&'static Quirk>, sequences: u32) -> Result<Option<Fallback>, ContextError> {
    let architecture = model.architecture();
    let tensors = model.shapes().into_iter().flat_map(|shapes| shapes.keys().map(String::as_str));
    let number = |key: &str| model.metadata_value(&format!("{architecture}.{key}"))?.parse().ok();
    if let Some(reason) = quirks::unsound(&architecture, tensors, number) {
        return Err(ContextError::UnsupportedModel { architecture, reason });
    }
    let Some(quirk) = quirk else { return Ok(None) };
    if quirk.refuses(sequences) {
        return Err(ContextError::OneSequence { architecture, got: sequences, reason: quirk.wrong() });
    }
    let fallback = quirk.fallback(sequences);
    if let Some(fallback) = fallback {
        log::warn(&format!("llama.cpp computes batches of {architecture} wrong: {fallback}"));
    }
    Ok(fallback)
}

/// Whether sequences have a recurrent state.
fn has_state(model: &Model) -> bool {
    model.is_recurrent() || model.is_hybrid()
}

fn no_rollback(model: &Model, reason: &'static str) -> ContextError {
    ContextError::RollbackUnsupported { architecture: model.architecture(), reason }
}

/// Refuses snapshots of recurrent states where llama.cpp offers them, but what it goes back to is not what was.
fn check_rollback(model: &Model, params: &ContextParams, tokens: u32) -> Result<(), ContextError> {
    if tokens == 0 {
        return Ok(());
    }
    if model.sliding_window() > 0 {
        // Of the window's positions only the last can be asked for (llama-memory-hybrid-iswa.cpp:179).
        return Err(no_rollback(model, "its sliding window does not tell what it has forgotten"));
    }
    // Each writes the state of `n` tokens back as snapshot `n`, up to the first token of the pass (models/mamba-base.cpp:269,
    // models/delta-net-base.cpp:588, models/lfm2.cpp:209). Of the others that llama.cpp lists (llama-arch.cpp:1162) this was
    // not established.
    const KNOWN: [&str; 6] = ["nemotron_h", "nemotron_h_moe", "qwen35", "qwen35moe", "lfm2", "lfm2moe"];
    if !KNOWN.contains(&model.architecture().as_str()) {
        return Err(no_rollback(
            model,
            "llama.cpp keeps no snapshots of its states, or none that are known to be right",
        ));
    }
    if params.embeddings {
        // The cut of the batch forgets about the snapshots then (llama-memory-recurrent.cpp:450).
        return Err(no_rollback(model, "the context computes embeddings, whose passes do not keep the snapshots"));
    }
    Ok(())
}

fn raw_params(
    model: &Model,
    params: &ContextParams,
    asked: &limits::Asked,
    abort: &Arc<Abort>,
) -> sys::llama_context_params {
    // SAFETY: returns a plain value.
    let mut raw = unsafe { sys::llama_context_default_params() };
    raw.n_ctx = asked.context_tokens;
    // llama.cpp cuts it itself with causal attention; a batch larger than the context serves nobody without it either.
    raw.n_batch = asked.batch_tokens.min(asked.context_tokens);
    let at_once = windows_share_cells(model, params);
    raw.n_ubatch = limits::micro_batch_tokens(asked, params.embeddings, at_once);
    if at_once {
        raw.n_batch = raw.n_batch.min(raw.n_ubatch);
    }
    raw.n_seq_max = asked.sequences;
    // Checked to be at most GGML_MAX_N_THREADS.
    raw.n_threads = asked.threads as i32;
    raw.n_threads_batch = asked.batch_threads as i32;
    // Pooling needs all tokens of a sequence in one micro-batch. Only the unified layout cuts batches so that a batch
    // of at most `n_ubatch` tokens is one micro-batch; the split one cuts sequences of unequal lengths.
    raw.kv_unified = kv_layout(model, params) == KvLayout::Unified;
    raw.embeddings = params.embeddings;
    raw.pooling_type = match params.pooling {
        // What its decoder attends to is the encoder's output for each token (llama-context.cpp:1642).
        Pooling::Model if model.is_encoder_decoder() => sys::LLAMA_POOLING_TYPE_NONE,
        Pooling::Model | Pooling::Rank => sys::LLAMA_POOLING_TYPE_UNSPECIFIED,
        Pooling::None => sys::LLAMA_POOLING_TYPE_NONE,
        Pooling::Mean => sys::LLAMA_POOLING_TYPE_MEAN,
        Pooling::Cls => sys::LLAMA_POOLING_TYPE_CLS,
        Pooling::Last => sys::LLAMA_POOLING_TYPE_LAST,
    };
    raw.flash_attn_type = match params.flash_attention {
        FlashAttention::Auto => sys::LLAMA_FLASH_ATTN_TYPE_AUTO,
        FlashAttention::Off => sys::LLAMA_FLASH_ATTN_TYPE_DISABLED,
        FlashAttention::On => sys::LLAMA_FLASH_ATTN_TYPE_ENABLED,
    };
    let kv_type = match params.kv_type {
        KvType::F16 => sys::GGML_TYPE_F16,
        KvType::F32 => sys::GGML_TYPE_F32,
    };
    raw.type_k = kv_type;
    raw.type_v = kv_type;
    raw.n_rs_seq = asked.rollback_tokens;
    // Outputs of a sequence that is sampled in the graph; of others as many as there are tokens.
    raw.n_outputs_max_per_seq = 1;
    // On few shared cells those of a fork may be kept by the sequences that share them until no room is left for the whole
    // batch, and llama.cpp cuts it to smaller micro-batches (llama-kv-cache-iswa.cpp:203).
    raw.swa_full = params.keep_past_window || at_once;
    raw.abort_callback = Some(on_abort_check);
    raw.abort_callback_data = Arc::as_ptr(abort).cast_mut().cast();
    raw
}

/// Asks the context for the numbers that it settled on.
fn read_limits(raw: NonNull<sys::llama_context>, has_memory: bool, model: &Model, params: &ContextParams) -> Limits {
    let context = raw.as_ptr();
    // SAFETY: the context was just made; these functions only read it, and the model that it was made of.
    unsafe {
        Limits {
            context_tokens: sys::llama_n_ctx(context),
            sequence_tokens: sequence_tokens(sys::llama_n_ctx_seq(context), model),
            batch_tokens: sys::llama_n_batch(context),
            micro_batch_tokens: sys::llama_n_ubatch(context),
            sequences: sys::llama_n_seq_max(context),
            vocabulary: model.vocabulary_size(),
            input_width: model.input_width(),
            output_width: match sys::llama_pooling_type(context) {
                sys::LLAMA_POOLING_TYPE_RANK => sys::llama_model_n_cls_out(model.as_ptr()),
                _ => model.output_width(),
            },
            positions_per_embedding: match sys::llama_model_rope_type(model.as_ptr()) {
                // llama-hparams.cpp: four positions for both.
                sys::LLAMA_ROPE_TYPE_MROPE | sys::LLAMA_ROPE_TYPE_IMROPE => 4,
                _ => 1,
            },
            takes_embeddings: quirks::takes_embeddings(&model.architecture()),
            causal: sys::llama_get_causal_attn(context),
            embeddings: params.embeddings,
            pooling: match sys::llama_pooling_type(context) {
                sys::LLAMA_POOLING_TYPE_MEAN => Pooling::Mean,
                sys::LLAMA_POOLING_TYPE_CLS => Pooling::Cls,
                sys::LLAMA_POOLING_TYPE_LAST => Pooling::Last,
                sys::LLAMA_POOLING_TYPE_RANK => Pooling::Rank,
                _ => Pooling::None,
            },
            memory: match (has_memory, model.is_recurrent(), model.is_hybrid()) {
                (false, ..) => MemoryKind::None,
                (true, true, _) => MemoryKind::Recurrent,
                (true, false, true) => MemoryKind::Hybrid,
                (true, false, false) => MemoryKind::Attention,
            },
            rollback_tokens: sys::llama_n_rs_seq(context),
            kv_layout: kv_layout(model, params),
            encodes_first: model.is_encoder_decoder(),
            output_head: has_memory || model.is_diffusion(),
            fallback: None,
        }
    }
}

/// The layout that a context gets.
fn kv_layout(model: &Model, params: &ContextParams) -> KvLayout {
    // Embeddings: see `raw_params`. Relative positions and attention to an encoder's output are not made for more than one
    // stream of cells: they assert it (llama-graph.cpp:1093, llama-kv-cache.cpp:1806).
    let shares = params.fallback && quirks::of(&model.architecture()).is_some_and(Quirk::is_unified);
    if params.embeddings || model.has_encoder() || shares { KvLayout::Unified } else { params.kv_layout }
}

/// Whether layers with a sliding window share cells: then a batch has to be one micro-batch.
///
/// Before it computes, llama.cpp looks for the cells of every micro-batch. One that takes a cell which the window will have left
/// behind removes whatever is older (llama-kv-cache.cpp:1172), and that is not put back (llama-kv-cache.cpp:815) when the first is
/// computed, which may need it: its logits are wrong, without a sign. Where each sequence has cells of its own, they are
/// taken in order, and nothing older is there.
fn windows_share_cells(model: &Model, params: &ContextParams) -> bool {
    params.sequences > 1 && model.sliding_window() > 0 && kv_layout(model, params) == KvLayout::Unified
}

/// The most tokens of one sequence: its cells, and no more than the model has positions for where those are learned.
///
/// llama.cpp looks learned positions up in a table of the trained length without asking (an assertion of `get_rows`).
fn sequence_tokens(cells: u32, model: &Model) -> u32 {
    if learns_positions(model) { cells.min(model.context_length()) } else { cells }
}

/// Whether the model adds something learned for each position to its tokens: the architectures whose graph reads
/// `pos_embd`.
pub(crate) fn learns_positions(model: &Model) -> bool {
    ["bert", "gpt2", "starcoder", "mpt"].contains(&model.architecture().as_str())
}

/// What the abort callback looks at.
#[derive(Debug)]
pub(crate) struct Abort {
    /// Checks until the abort: 0 aborts at the next, [`NEVER`] at none.
    checks_left: AtomicI64,
    /// Set while a position shift waits for the next decode: aborted half way through, it would rotate the keys of some
    /// layers twice (llama-kv-cache.cpp:898), so that computation runs to its end. Set during a decode that moves recurrent
    /// states between cells.
    pub(crate) deferred: AtomicBool,
}

impl Abort {
    /// Whether the next check aborts.
    pub(crate) fn is_requested(&self) -> bool {
        self.checks_left.load(Ordering::Relaxed) == 0
    }
}

const NEVER: i64 = -1;

unsafe extern "C" fn on_abort_check(data: *mut c_void) -> bool {
    // SAFETY: `data` is the `Abort` that the context keeps alive, and it is only read and written atomically.
    let abort = unsafe { &*data.cast_const().cast::<Abort>() };
    if abort.deferred.load(Ordering::Relaxed) {
        return false;
    }
    let one_less = |left| (left > 0).then(|| left - 1);
    match abort.checks_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less) {
        Ok(_) => false,
        Err(left) => left != NEVER,
    }
}

/// Stops computations of a context, from any thread. Works where the backend asks, which the CPU does.
#[derive(Clone, Debug)]
pub struct AbortHandle {
    abort: Arc<Abort>,
}

impl AbortHandle {
    /// Aborts the computation that runs, and every later one until [`reset`](Self::reset).
    ///
    /// Some decodes finish first, since what they leave half done could not be told from what is right: one that
    /// carries out a position shift, and one that computes recurrent states of several sequences in one pass while other
    /// sequences have states as well, and one of several sequences with sliding windows whose slots do not follow one another.
    /// After one of the latter the next such decode is refused before it begins.
    pub fn abort(&self) {
        self.abort_after(0);
    }

    /// Aborts once llama.cpp has asked `checks` more times, which it does once for every node of the computation: a
    /// way to make a decode fail half way at a place that can be repeated.
    pub fn abort_after(&self, checks: u32) {
        self.abort.checks_left.store(checks.into(), Ordering::Relaxed);
    }

    /// Lets computations run again.
    pub fn reset(&self) {
        self.abort.checks_left.store(NEVER, Ordering::Relaxed);
    }
}
