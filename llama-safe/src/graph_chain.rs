//! llama.cpp's side of samplers inside the computation: chains, who owns them, and their random state.

use std::ffi::{CStr, c_char};
use std::ptr::NonNull;

use llama_sys as sys;

use crate::graph_sampler::{GraphSampler, Link, Selector};
use crate::id::SeqId;

/// A sampler that is freed with this.
#[derive(Debug)]
struct Owned(NonNull<sys::llama_sampler>);

impl Owned {
    fn as_ptr(&self) -> *mut sys::llama_sampler {
        self.0.as_ptr()
    }

    fn of(raw: Result<*mut sys::llama_sampler, String>) -> Result<Self, String> {
        NonNull::new(raw?).map(Self).ok_or_else(|| "no sampler was made".to_owned())
    }

    /// A chain of new samplers, the last of which is [`KEEP`].
    fn chain(links: &[Link], vocabulary: u32) -> Result<Self, String> {
        // SAFETY: returns a plain value.
        let params = unsafe { sys::llama_sampler_chain_default_params() };
        let chain = Self::of(sys::guarded(std::ptr::null_mut(), |result, error| {
            // SAFETY: takes a plain value.
            unsafe { sys::guard_llama_sampler_chain_init(result, error, params) }
        }))?;
        let samplers = links.iter().map(|link| Self::link(link, vocabulary)).chain([Self::keep()]);
        for sampler in samplers {
            let sampler = sampler?;
            sys::guarded_unit(|error| {
                // SAFETY: both live, and the sampler is in no chain.
                unsafe { sys::guard_llama_sampler_chain_add(error, chain.as_ptr(), sampler.as_ptr()) }
            })?;
            // The chain frees it from now on.
            std::mem::forget(sampler);
        }
        Ok(chain)
    }

    fn link(link: &Link, vocabulary: u32) -> Result<Self, String> {
        let biases: Vec<sys::llama_logit_bias> = match link {
            Link::LogitBias(biases) => {
                biases.iter().map(|(token, bias)| sys::llama_logit_bias { token: token.0, bias: *bias }).collect()
            }
            _ => Vec::new(),
        };
        Self::of(sys::guarded(std::ptr::null_mut(), |result, error| {
            // SAFETY: plain values, but for the biases: as many as are told, which llama.cpp copies. A vocabulary has at most
            // `i32::MAX` tokens, and no token twice among its biases.
            unsafe {
                match *link {
                    Link::LogitBias(_) => sys::guard_llama_sampler_init_logit_bias(
                        result,
                        error,
                        vocabulary as i32,
                        biases.len() as i32,
                        biases.as_ptr(),
                    ),
                    Link::TopK(k) => sys::guard_llama_sampler_init_top_k(result, error, k),
                    Link::TopP(p) => sys::guard_llama_sampler_init_top_p(result, error, p, 1),
                    Link::MinP(p) => sys::guard_llama_sampler_init_min_p(result, error, p, 1),
                    Link::Temperature(temperature) => sys::guard_llama_sampler_init_temp(result, error, temperature),
                    Link::Dist(seed) => sys::guard_llama_sampler_init_dist(result, error, seed),
                }
            }
        }))
    }

    /// A sampler of [`KEEP`].
    fn keep() -> Result<Self, String> {
        Self::of(sys::guarded(std::ptr::null_mut(), |result, error| {
            // SAFETY: the functions live as long as the program, and are only read; they need no data.
            unsafe {
                let functions = (&raw const KEEP).cast_mut();
                sys::guard_llama_sampler_init(result, error, functions, std::ptr::null_mut())
            }
        }))
    }

    /// Takes over the random state of a chain of the same links.
    fn copy_state(&self, from: &Self) -> Result<(), String> {
        sys::guarded_unit(|error| {
            // SAFETY: both live, and are chains of the same samplers in the same order, which llama.cpp asserts.
            unsafe { sys::guard_llama_sampler_copy(error, from.as_ptr(), self.as_ptr()) }
        })
    }
}

/// The functions of a sampler that does nothing but mark what the ones before it leave as outputs of the graph.
///
/// llama.cpp marks the results of those samplers alone that have an output in the micro-batch (llama-graph.cpp:1418). The
/// allocator uses its plan of an earlier graph for one with as many nodes that are not larger (ggml-alloc.c:1009), as those of two
/// micro-batches are in which other samplers have outputs: by that plan the memory of what was not marked then is given to
/// others, and one sequence's candidates are written over another's.
static KEEP: sys::llama_sampler_i = sys::llama_sampler_i {
    name: Some(keep_name),
    accept: None,
    apply: Some(keep_apply),
    reset: None,
    clone: None,
    free: None,
    backend_init: Some(keep_backend_init),
    backend_accept: None,
    backend_apply: Some(keep_backend_apply),
    backend_set_input: None,
    backend_reset: None,
    copy_state: Some(keep_copy_state),
};

unsafe extern "C" fn keep_name(_: *const sys::llama_sampler) -> *const c_char {
    c"+keep".as_ptr()
}

unsafe extern "C" fn keep_apply(_: *mut sys::llama_sampler, _: *mut sys::llama_token_data_array) {}

unsafe extern "C" fn keep_copy_state(_: *const sys::llama_sampler, _: *mut sys::llama_sampler) {}

unsafe extern "C" fn keep_backend_init(_: *mut sys::llama_sampler, _: sys::ggml_backend_buffer_type_t, _: u32) -> bool {
    true
}

unsafe extern "C" fn keep_backend_apply(
    _: *mut sys::llama_sampler,
    _: *mut sys::ggml_context,
    _: *mut sys::ggml_cgraph,
    data: *mut sys::llama_sampler_data,
) {
    // SAFETY: llama.cpp lends the results of the samplers before this one, each NULL or a tensor of the graph that it builds.
    let results = unsafe { [(*data).logits, (*data).probs, (*data).sampled, (*data).candidates] };
    for tensor in results.into_iter().filter(|tensor| !tensor.is_null()) {
        // SAFETY: a tensor of the graph; only a flag of it is set.
        unsafe { sys::ggml_set_output(tensor) };
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: this is the only owner, and no chain or context knows the sampler any more. It only runs destructors.
        unsafe { sys::llama_sampler_free(self.as_ptr()) };
    }
}

/// A chain for one slot of one context, and the random state of its last decode that worked.
///
/// llama.cpp draws when it sets the inputs of a computation (llama-sampler.cpp:1338), whatever becomes of that; what a decode
/// that failed has drawn is given back by copying the state.
#[derive(Debug)]
pub(crate) struct Chain {
    attached: Owned,
    settled: Owned,
    /// How many samplers were asked for.
    links: usize,
}

impl Chain {
    pub(crate) fn new(links: &[Link], vocabulary: u32) -> Result<Self, String> {
        let [attached, settled] = [Owned::chain(links, vocabulary)?, Owned::chain(links, vocabulary)?];
        Ok(Self { attached, settled, links: links.len() })
    }

    /// What a context may be given, once: llama.cpp asserts that no chain is set up twice (llama-sampler.cpp:739).
    pub(crate) fn as_ptr(&self) -> *mut sys::llama_sampler {
        self.attached.as_ptr()
    }

    /// Keeps what was drawn.
    pub(crate) fn settle(&self) -> Result<(), String> {
        self.settled.copy_state(&self.attached)
    }

    /// Takes back what was drawn since the last [`settle`](Self::settle).
    pub(crate) fn take_back(&self) -> Result<(), String> {
        self.attached.copy_state(&self.settled)
    }

    /// Begins with the random state of another chain of the same shape.
    pub(crate) fn begin_as(&self, other: &Self) -> Result<(), String> {
        self.attached.copy_state(&other.attached)?;
        self.settled.copy_state(&other.attached)
    }

    /// The first sampler that the backend of the context that it was set up for cannot compute. llama.cpp leaves it and all
    /// that follow out (llama-sampler.cpp:753), and says so in their names alone.
    pub(crate) fn unsupported(&self) -> Result<Option<String>, String> {
        // And one more, which keeps their results.
        for index in 0..=self.links as i32 {
            // SAFETY: the chain lives, and an index beyond its samplers gives NULL.
            let sampler = unsafe { sys::llama_sampler_chain_get(self.as_ptr(), index) };
            let name = sys::guarded(std::ptr::null(), |result, error| {
                // SAFETY: the chain has one sampler more than links.
                unsafe { sys::guard_llama_sampler_name(result, error, sampler) }
            })?;
            if name.is_null() {
                return Err("a sampler without a name".to_owned());
            }
            // SAFETY: a text that ends with 0, which lives as long as the sampler is not asked again.
            let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
            if !name.starts_with('+') {
                return Ok(Some(name.trim_start_matches('-').to_owned()));
            }
        }
        Ok(None)
    }
}

/// The samplers of a context's slots.
#[derive(Debug, Default)]
pub(crate) struct GraphSlots {
    slots: Vec<GraphSlot>,
    /// The rows that the last decode sampled, ascending, and what came of each.
    pub(crate) sampled: Vec<(u32, Selector)>,
}

#[derive(Debug, Default)]
pub(crate) struct GraphSlot {
    /// The sequence that is to be sampled in the graph, and how.
    pub(crate) wanted: Option<(SeqId, GraphSampler)>,
    /// What llama.cpp holds a pointer to. It outlives the sequence that it was for, since taking it off costs a decode's time.
    pub(crate) chain: Option<(GraphSampler, Chain)>,
}

impl GraphSlots {
    /// Whether no slot has ever had a sampler, or all were taken off.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.slots.clear();
    }

    pub(crate) fn slot(&self, slot: u32) -> Option<&GraphSlot> {
        self.slots.get(slot as usize)
    }

    /// The slot, which is below the context's sequences.
    pub(crate) fn slot_mut(&mut self, slot: u32) -> &mut GraphSlot {
        let index = slot as usize;
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, GraphSlot::default);
        }
        &mut self.slots[index]
    }

    /// How a sequence is sampled, if it is.
    pub(crate) fn wanted(&self, id: SeqId) -> Option<&GraphSampler> {
        let (wanted_by, sampler) = self.slot(id.slot())?.wanted.as_ref()?;
        (*wanted_by == id).then_some(sampler)
    }

    /// The slots that llama.cpp holds a chain of.
    pub(crate) fn attached(&self) -> impl Iterator<Item = u32> {
        (0u32..).zip(&self.slots).filter(|(_, slot)| slot.chain.is_some()).map(|(index, _)| index)
    }

    /// What the last decode made of a row; `None` where it left its logits.
    pub(crate) fn selector_of(&self, row: u32) -> Option<Selector> {
        let index = self.sampled.binary_search_by_key(&row, |(row, _)| *row).ok()?;
        self.sampled.get(index).map(|(_, selector)| *selector)
    }
}
