//! What a context will take, from contexts of a model without weights.

use std::ptr::NonNull;

use llama_sys as sys;

use crate::memory_use::{MemoryUse, straight_on};
use crate::model::Model;

/// Cells of a stream are a multiple of that (llama-context.cpp:277).
const CELLS_STEP: u64 = 256;
/// The most cells that are simulated: llama.cpp keeps its books of them, some 50 bytes each. From there on all grows in
/// proportion to them.
const MOST_CELLS: u64 = 1 << 20;

/// What was found, but for outputs.
pub(crate) struct Forecast<T> {
    pub(crate) used: MemoryUse,
    /// Bytes of the cache for each further cell.
    pub(crate) token_bytes: u64,
    pub(crate) cells: u64,
    /// What was read from a context of the same parameters, which may have fewer cells.
    pub(crate) read: T,
}

/// Looks at what contexts with these parameters hold.
///
/// # Errors
///
/// Why llama.cpp cannot make them.
///
/// # Safety
///
/// As for [`with_context`](crate::model::simulation::Simulation::with_context).
pub(crate) unsafe fn forecast<T>(
    model: &Model,
    params: sys::llama_context_params,
    read: impl Fn(NonNull<sys::llama_context>) -> T,
) -> Result<Forecast<T>, String> {
    let simulation = model.simulation()?;
    let measure = |params: sys::llama_context_params, cells: u64| {
        // No more than twice what is simulated at most.
        let params = sys::llama_context_params { n_ctx: cells as u32, ..params };
        // SAFETY: the caller's numbers, with another number of cells that is a multiple of their steps.
        unsafe { simulation.with_context(params, |context, memory| (read(context), memory)) }
    };
    let (cells, once) = (cells(&params), least_cells(&params));
    let at = cells.min(MOST_CELLS / once * once);
    let step = if at == cells { once } else { (at / 4).next_multiple_of(once) };
    let (read, low) = measure(params, at)?;
    let (_, high) = measure(params, at + step)?;
    let settled = |low, high| if at == cells { low } else { straight_on(low, high, step, at + step, cells) };
    let mut compute = settled(low.compute, high.compute);
    for (other, cells) in others(model, &params, cells) {
        // Only the first of llama.cpp's computations is simulated, which is not the largest here.
        if cells <= MOST_CELLS {
            compute = compute.max(measure(other, cells)?.1.compute);
        }
    }
    let cache = settled(low.cache, high.cache);
    let used = MemoryUse { weights: simulation.weights(&low), cache, compute, outputs: 0 };
    Ok(Forecast { used, token_bytes: high.cache.saturating_sub(low.cache) / step, cells, read })
}

/// Parameters whose first computation is another one of those that llama.cpp reserves memory for, with their cells.
fn others(model: &Model, params: &sys::llama_context_params, cells: u64) -> Vec<(sys::llama_context_params, u64)> {
    let mut others = Vec::new();
    if params.n_ubatch < params.n_seq_max {
        // A token of each sequence (llama-context.cpp:702); a batch has room for them.
        others.push((sys::llama_context_params { n_ubatch: params.n_seq_max, ..*params }, cells));
    }
    if params.n_seq_max > 1 && model.architecture() == "minimax-01" {
        // All tokens of one sequence (llama-context.cpp:724).
        let of_one = if params.kv_unified { cells } else { cells / u64::from(params.n_seq_max) };
        // A pass is no longer than the context. Where a sequence is shorter than a pass, that is more than is reserved.
        let of_one = of_one.max(u64::from(params.n_ubatch)).next_multiple_of(CELLS_STEP);
        others.push((sys::llama_context_params { n_seq_max: 1, ..*params }, of_one));
    }
    others
}

/// The cells that llama.cpp makes of those asked for, over all streams (llama-context.cpp:277).
fn cells(params: &sys::llama_context_params) -> u64 {
    let streams = least_cells(params) / CELLS_STEP;
    u64::from(params.n_ctx).next_multiple_of(CELLS_STEP).div_ceil(streams).next_multiple_of(CELLS_STEP) * streams
}

/// The fewest cells that a context can have: one step for each stream.
fn least_cells(params: &sys::llama_context_params) -> u64 {
    CELLS_STEP * if params.kv_unified { 1 } else { u64::from(params.n_seq_max.max(1)) }
}
