//! What a model and a context are asked for, as plain data.

use crate::gguf::overrides::MetadataValue;
use crate::limits::{KvLayout, Pooling};

/// How a model's weights get into memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LoadMode {
    /// Read where most of the weights are [rearranged](crate::kernels()) anyway and stay on the CPU, so that they are not in
    /// memory twice. As the devices like it best otherwise: mapped, on a CPU.
    #[default]
    Auto,
    /// Mapped from the file: the fastest start, shared between processes. A file that is cut short while its model lives
    /// ends the process (`SIGBUS`), and one that is overwritten changes the weights: replace files by renaming.
    Mmap,
    /// Mapped, and locked into memory.
    MmapLocked,
    /// Read into memory of the program's own: the file may go afterwards.
    Read,
}

/// How a model is loaded.
///
/// ```compile_fail,E0308
/// // There are no modes but those that have a name.
/// fn of_no_kind(params: llama_safe::ModelParams) { params.load_mode(99); }
/// ```
///
/// ```compile_fail,E0599
/// // No list that C would have to find the end of is handed in.
/// fn without_an_end(params: llama_safe::ModelParams) { params.devices(&[]); }
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct ModelParams {
    pub(crate) gpu_layers: Option<u32>,
    pub(crate) load_mode: LoadMode,
    pub(crate) vocab_only: bool,
    pub(crate) check_tensors: bool,
    pub(crate) repack: bool,
    pub(crate) kernels: bool,
    pub(crate) overrides: Vec<(String, MetadataValue)>,
}

impl Default for ModelParams {
    /// All layers on a GPU where the build and the machine have one, weights mapped, repacked where that is faster.
    fn default() -> Self {
        Self {
            gpu_layers: None,
            load_mode: LoadMode::Auto,
            vocab_only: false,
            check_tensors: false,
            repack: true,
            kernels: true,
            overrides: Vec::new(),
        }
    }
}

impl ModelParams {
    /// Layers whose weights are kept in GPU memory; 0 keeps all of them on the CPU.
    #[must_use]
    pub fn gpu_layers(mut self, layers: u32) -> Self {
        self.gpu_layers = Some(layers);
        self
    }

    /// Keeps every layer in GPU memory (the default).
    #[must_use]
    pub fn all_layers_on_gpu(mut self) -> Self {
        self.gpu_layers = None;
        self
    }

    /// How the weights get into memory.
    #[must_use]
    pub fn load_mode(mut self, mode: LoadMode) -> Self {
        self.load_mode = mode;
        self
    }

    /// Loads the vocabulary and the metadata alone: enough to tokenize, not to make a context.
    #[must_use]
    pub fn vocab_only(mut self, only: bool) -> Self {
        self.vocab_only = only;
        self
    }

    /// Checks every weight for being a number while loading, which costs a pass over the file.
    #[must_use]
    pub fn check_tensors(mut self, check: bool) -> Self {
        self.check_tensors = check;
        self
    }

    /// Whether weights may be rearranged for this CPU's instructions when they are loaded.
    #[must_use]
    pub fn repack(mut self, repack: bool) -> Self {
        self.repack = repack;
        self
    }

    /// Whether matrices may be multiplied by the [kernels for small batches](crate::kernels()) (the default), which keep them in
    /// a form of their own. Without them llama.cpp's own do; [`repack(false)`](Self::repack) turns off both. Attention has no
    /// weights, and is the kernels' in all models of a process that has them.
    #[must_use]
    pub fn kernels(mut self, kernels: bool) -> Self {
        self.kernels = kernels;
        self
    }

    /// Puts a value in the place of the file's own, or of none: `("llama.context_length", 4096)`. The last one for a key
    /// counts. It goes through the same checks as the file's values do, and loading fails if llama.cpp does not read it.
    #[must_use]
    pub fn override_metadata(mut self, key: impl Into<String>, value: impl Into<MetadataValue>) -> Self {
        let key = key.into();
        self.overrides.retain(|(one, _)| *one != key);
        self.overrides.push((key, value.into()));
        self
    }
}

/// What the KV cache stores its numbers as.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum KvType {
    /// 16 bits each.
    #[default]
    F16,
    /// 32 bits each. The CPU's fused attention rounds them to 16 while it computes:
    /// [`FlashAttention::Off`] keeps them.
    F32,
}

/// Whether attention is computed by the fused kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FlashAttention {
    /// Where the backend supports it.
    #[default]
    Auto,
    /// Never.
    Off,
    /// Always.
    On,
}

/// How a context is made. Numbers left out are chosen for the model and the machine.
///
/// ```compile_fail,E0308
/// // There are no poolings, number types or kinds of attention but those that have a name.
/// fn of_no_kind(params: llama_safe::ContextParams) -> llama_safe::ContextParams { params.pooling(77) }
/// ```
///
/// ```compile_fail,E0599
/// // The rotation of positions is the model's, with which its weights were trained.
/// fn rotated_otherwise(params: llama_safe::ContextParams) { params.rope_freq_base(f32::NAN); }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ContextParams {
    pub(crate) sequences: u32,
    pub(crate) context_tokens: Option<u32>,
    pub(crate) batch_tokens: u32,
    pub(crate) micro_batch_tokens: u32,
    pub(crate) kv_layout: KvLayout,
    pub(crate) kv_type: KvType,
    pub(crate) threads: Option<u32>,
    pub(crate) batch_threads: Option<u32>,
    pub(crate) embeddings: bool,
    pub(crate) pooling: Pooling,
    pub(crate) flash_attention: FlashAttention,
    pub(crate) rollback_tokens: u32,
    pub(crate) keep_past_window: bool,
    pub(crate) memory_limit: Option<u64>,
    pub(crate) fallback: bool,
}

impl Default for ContextParams {
    /// One sequence of at most 4,096 tokens (fewer if the model was trained on fewer), batches of 2,048 tokens computed
    /// 512 at a time, as many threads as the machine has cores.
    fn default() -> Self {
        Self {
            sequences: 1,
            context_tokens: None,
            batch_tokens: 2048,
            micro_batch_tokens: 512,
            kv_layout: KvLayout::default(),
            kv_type: KvType::default(),
            threads: None,
            batch_threads: None,
            embeddings: false,
            pooling: Pooling::default(),
            flash_attention: FlashAttention::default(),
            rollback_tokens: 0,
            keep_past_window: true,
            memory_limit: None,
            fallback: true,
        }
    }
}

/// Tokens of one sequence where the user does not say: memory for more is better asked for than taken.
const DEFAULT_SEQUENCE_TOKENS: u32 = 4096;

impl ContextParams {
    /// Sequences that can live at a time.
    #[must_use]
    pub fn sequences(mut self, sequences: u32) -> Self {
        self.sequences = sequences;
        self
    }

    /// Cells of the KV cache, over all sequences, tokens. llama.cpp rounds up;
    /// [`Limits`](crate::Limits) has what came of it.
    #[must_use]
    pub fn context_tokens(mut self, tokens: u32) -> Self {
        self.context_tokens = Some(tokens);
        self
    }

    /// The most tokens of one batch.
    #[must_use]
    pub fn batch_tokens(mut self, tokens: u32) -> Self {
        self.batch_tokens = tokens;
        self
    }

    /// The most tokens that are computed in one pass.
    ///
    /// A whole batch is, whatever is said here, where layers with a sliding window share cells ([`KvLayout::Unified`]):
    /// llama.cpp would forget too early between two passes.
    #[must_use]
    pub fn micro_batch_tokens(mut self, tokens: u32) -> Self {
        self.micro_batch_tokens = tokens;
        self
    }

    /// How the cells are shared out between sequences.
    #[must_use]
    pub fn kv_layout(mut self, layout: KvLayout) -> Self {
        self.kv_layout = layout;
        self
    }

    /// What the KV cache stores its numbers as.
    #[must_use]
    pub fn kv_type(mut self, kv_type: KvType) -> Self {
        self.kv_type = kv_type;
        self
    }

    /// Threads that compute a batch of one token.
    ///
    /// No more than there are cores to spare: llama.cpp's threads wait for each other after every step of a computation
    /// without giving their core away, so that one too many makes it slower by orders of magnitude.
    #[must_use]
    pub fn threads(mut self, threads: u32) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Threads that compute a batch of several tokens.
    #[must_use]
    pub fn batch_threads(mut self, threads: u32) -> Self {
        self.batch_threads = Some(threads);
        self
    }

    /// Computes embeddings instead of logits.
    #[must_use]
    pub fn embeddings(mut self, embeddings: bool) -> Self {
        self.embeddings = embeddings;
        self
    }

    /// How embeddings of tokens become one of a sequence.
    #[must_use]
    pub fn pooling(mut self, pooling: Pooling) -> Self {
        self.pooling = pooling;
        self
    }

    /// Whether attention is computed by the fused kernel.
    #[must_use]
    pub fn flash_attention(mut self, flash_attention: FlashAttention) -> Self {
        self.flash_attention = flash_attention;
        self
    }

    /// How many tokens a recurrent state can be taken back with [`truncate`](crate::Context::truncate), at most: llama.cpp
    /// keeps that many snapshots of the state of each sequence, each as large as the state.
    ///
    /// They are of the last decode of the sequence, and reach back to its first token, not before it: after a decode of
    /// four tokens the state can be taken back three at most, after one of a single token not at all. What can be done is
    /// told by [`can_truncate`](crate::Context::can_truncate).
    ///
    /// Memories of attention alone go back without, and ignore it. The other architectures either support it, or making
    /// the context fails. 0 is the default.
    #[must_use]
    pub fn rollback_tokens(mut self, tokens: u32) -> Self {
        self.rollback_tokens = tokens;
        self
    }

    /// Whether layers with a sliding window have as many cells as the others (`swa_full`, the default), or only what the
    /// window and a micro-batch need.
    ///
    /// The few cells save most of the KV cache of models with many such layers and long contexts. With them a sequence
    /// forgets what its window has left behind, and can then be truncated and forked at its last tokens only;
    /// [`span`](crate::Context::span) tells from where on it remembers. They are to be had with [`KvLayout::Split`] alone:
    /// unified cells are as many in all layers, whatever is said here.
    #[must_use]
    pub fn keep_past_window(mut self, keep: bool) -> Self {
        self.keep_past_window = keep;
        self
    }

    /// The most bytes that the context may take for its cache, its computations and its outputs
    /// ([`MemoryUse::context`](crate::MemoryUse::context)); the model's weights are not counted.
    ///
    /// A context that needs more is refused before it is allocated. One that has been made stays below: a batch with more
    /// outputs than there is room for is refused. No limit is the default.
    #[must_use]
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.memory_limit = Some(bytes);
        self
    }

    /// Leaves llama.cpp as it is where it is known to compute something else than asked. For the comparison that finds such
    /// places, and for nothing else.
    ///
    /// # Safety
    ///
    /// A context of these parameters computes wrong outputs, reads them where nothing was written, or ends the process, where
    /// [`known_faults`](crate::known_faults) names the model's architecture.
    #[doc(hidden)]
    #[must_use]
    pub unsafe fn without_fallback(mut self) -> Self {
        self.fallback = false;
        self
    }

    /// Cells to ask llama.cpp for, given what the model was trained on.
    pub(crate) fn context_tokens_for(&self, trained: u32) -> u32 {
        let one = if trained == 0 { DEFAULT_SEQUENCE_TOKENS } else { trained.min(DEFAULT_SEQUENCE_TOKENS) };
        // 0 would mean "as trained" to llama.cpp; here it is as bad as any number below the sequences.
        self.context_tokens.unwrap_or_else(|| one.saturating_mul(self.sequences))
    }
}
