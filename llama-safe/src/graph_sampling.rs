//! Sampling inside the computation: which sequences, and the random numbers as a part of decode's transaction.

use llama_sys as sys;

use crate::context::Context;
use crate::error::{DecodeError, GraphSamplerError};
use crate::graph_chain::Chain;
use crate::graph_sampler::{GraphSampler, Selector};
use crate::limits::MemoryKind;
use crate::log;
use crate::rows::Rows;
use crate::sequence::Sequence;

impl Context {
    /// Samples the outputs of a sequence inside the computation from now on, or with `None` no longer.
    ///
    /// Such a row gives a token with [`Outputs::sampled`](crate::Outputs::sampled), or what is left of the vocabulary with
    /// [`Outputs::candidates`](crate::Outputs::candidates), and no logits. A sequence with a sampler can have one output in a
    /// batch.
    ///
    /// The sampler belongs to the lease, not to its text: it stays when the sequence is cleared, truncated or shifted, it is
    /// not saved with it, and a [fork](Self::fork) has none. Its random numbers depend on its seed and on how many outputs the
    /// sequence has had since, whatever batch they were computed in and whatever else was in it; a decode that is aborted or
    /// fails draws none. Set it again to begin anew.
    ///
    /// The outputs of the last decode stay readable. The next decode takes longer: llama.cpp prepares its computation anew, unless
    /// the sequence, or the one that had its slot before, has a sampler that is the same but for its seed.
    ///
    /// # Errors
    ///
    /// [`GraphSamplerError`]: a sampler that does not fit the model, a context without logits, or a step that the device cannot
    /// compute. In the last case the sequence has no sampler, in the others the one that it had.
    pub fn set_graph_sampler(
        &mut self,
        sequence: &Sequence,
        sampler: Option<&GraphSampler>,
    ) -> Result<(), GraphSamplerError> {
        let lease = sequence.lease();
        lease.check(self.id)?;
        let id = lease.id();
        let Some(sampler) = sampler else {
            if self.graph.wanted(id).is_some() {
                // llama.cpp's is taken off once a row is to have its logits.
                self.graph.slot_mut(id.slot()).wanted = None;
            }
            return Ok(());
        };
        self.check_can_sample()?;
        let vocabulary = self.limits.vocabulary();
        let failed = |reason| GraphSamplerError::Failed { reason };
        let chain = Chain::new(&sampler.plan(vocabulary)?, vocabulary).map_err(failed)?;
        let slot = self.graph.slot_mut(id.slot());
        match &mut slot.chain {
            Some((known, attached)) if known.has_shape_of(sampler) => attached.begin_as(&chain).map_err(failed)?,
            _ => self.attach(id.slot(), sampler, chain)?,
        }
        self.graph.slot_mut(id.slot()).wanted = Some((id, sampler.clone()));
        Ok(())
    }

    /// The sampler that a sequence was given; `None` if its outputs are logits.
    ///
    /// # Errors
    ///
    /// [`GraphSamplerError::Sequence`]: the sequence is not of this context.
    pub fn graph_sampler(&self, sequence: &Sequence) -> Result<Option<&GraphSampler>, GraphSamplerError> {
        let lease = sequence.lease();
        lease.check(self.id)?;
        Ok(self.graph.wanted(lease.id()))
    }

    fn check_can_sample(&self) -> Result<(), GraphSamplerError> {
        // An encoder's batch is sampled in the graph, and what is sampled never fetched (llama-context.cpp:1556).
        if !self.limits.has_logits() || self.limits.memory() == MemoryKind::None {
            return Err(GraphSamplerError::NoLogits);
        }
        match self.limits.fallback() {
            Some(fallback) => Err(GraphSamplerError::EveryRowIsOutput { reason: fallback.reason() }),
            None => Ok(()),
        }
    }

    /// Gives llama.cpp a chain, in the place of the slot's last one.
    fn attach(&mut self, slot: u32, sampler: &GraphSampler, chain: Chain) -> Result<(), GraphSamplerError> {
        self.put_outputs_in_order();
        log::forget_errors();
        let raw = chain.as_ptr();
        let taken = self.set_sampler(slot, raw);
        let old = match &taken {
            // The old one is known to llama.cpp no more: it was replaced, or taken off.
            Ok(_) => self.graph.slot_mut(slot).chain.replace((sampler.clone(), chain)),
            // The exception came before the new one was noted (llama-context.cpp:1313).
            Err(_) => None,
        };
        drop(old);
        let failed = |reason| GraphSamplerError::Failed { reason };
        let problem = match taken {
            Err(reason) => return Err(failed(reason)),
            Ok(false) => GraphSamplerError::Rejected { reason: log::errors_or("it gives no reason") },
            Ok(true) => {
                let (_, chain) = self.graph.slot_mut(slot).chain.as_ref().ok_or_else(|| failed(String::new()))?;
                match chain.unsupported().map_err(failed)? {
                    Some(step) => GraphSamplerError::Unsupported { step },
                    None => return Ok(()),
                }
            }
        };
        self.graph.slot_mut(slot).wanted = None;
        self.detach(slot).map_err(failed)?;
        Err(problem)
    }

    /// Takes a slot's chain off llama.cpp, and frees it.
    fn detach(&mut self, slot: u32) -> Result<(), String> {
        self.set_sampler(slot, std::ptr::null_mut())?;
        self.graph.slot_mut(slot).chain = None;
        Ok(())
    }

    fn set_sampler(&mut self, slot: u32, chain: *mut sys::llama_sampler) -> Result<bool, String> {
        // Whatever comes of it, llama.cpp reserves its graph anew, which walks through the model's adapters.
        self.steering.reserve_pending = true;
        let context = self.as_ptr();
        // Below `n_seq_max`.
        let slot = slot as i32;
        sys::guarded(false, |result, error| {
            // SAFETY: the context lives, and so does the chain, until it is taken off or the context is freed. It is a chain, is
            // not empty, and was not set up before.
            unsafe { sys::guard_llama_set_sampler(result, error, context, slot, chain) }
        })
    }

    /// llama.cpp puts rows in the order of the batch when they are first read, and looks then, not before, whether there are
    /// samplers: with one that has come since it follows a null pointer, with one that has gone it leaves the tokens in
    /// the wrong order (llama-context.cpp:2340). So they are read before either.
    fn put_outputs_in_order(&mut self) {
        if self.last.is_some() {
            let context = self.as_ptr();
            let _ = sys::guarded(std::ptr::null_mut(), |result, error| {
                // SAFETY: the context lives. Of a row that it does not know it gives a list of its own.
                unsafe { sys::guard_llama_get_sampled_candidates_ith(result, error, context, 0) }
            });
        }
    }

    /// The rows of a batch that will be sampled, ascending; refuses what llama.cpp does not sample.
    pub(crate) fn check_graph_samplers(&self, rows: &Rows) -> Result<Vec<(u32, Selector)>, DecodeError> {
        let mut sampled = Vec::new();
        if self.graph.is_empty() {
            return Ok(sampled);
        }
        let mut counts = vec![0u32; self.limits.sequences() as usize];
        for (row, id) in outputs(rows).filter_map(|row| Some((row, rows.sequence(row)?))) {
            let Some(sampler) = self.graph.wanted(id) else { continue };
            counts[id.slot() as usize] += 1;
            sampled.push((row, sampler.selector()));
        }
        let ids = rows.participants().iter().map(|participant| participant.lease.id());
        match ids.map(|id| (id, counts[id.slot() as usize])).find(|(_, outputs)| *outputs > 1) {
            Some((id, outputs)) => Err(DecodeError::SeveralSampled { id, outputs }),
            None => Ok(sampled),
        }
    }

    /// Takes off the chains that the batch's rows are not to be sampled with, before they are computed. No outputs can be
    /// read any more by now.
    pub(crate) fn arrange_graph_samplers(&mut self, rows: &Rows, sampled: &[(u32, Selector)]) -> Result<(), String> {
        if self.graph.is_empty() {
            return Ok(());
        }
        // A sequence of the batch may have been dropped by another thread since it was checked.
        let in_use = !sampled.is_empty() || self.pool.live().any(|lease| self.graph.wanted(lease.id()).is_some());
        let mut gives_logits = vec![false; self.limits.sequences() as usize];
        for id in outputs(rows).filter_map(|row| rows.sequence(row)) {
            gives_logits[id.slot() as usize] |= self.graph.wanted(id).is_none();
        }
        let idle = self.graph.attached().filter(|slot| !in_use || gives_logits[*slot as usize]);
        let idle: Vec<u32> = idle.collect();
        for slot in idle {
            self.detach(slot)?;
        }
        if !in_use {
            self.graph.clear();
        }
        Ok(())
    }

    /// Keeps the random numbers of a decode that worked, or takes those of another back.
    pub(crate) fn finish_graph_samplers(&mut self, rows: &Rows, sampled: &[(u32, Selector)], worked: bool) {
        for id in sampled.iter().filter_map(|(row, _)| rows.sequence(*row)) {
            let Some((_, chain)) = self.graph.slot(id.slot()).and_then(|slot| slot.chain.as_ref()) else { continue };
            // Copying a state allocates nothing, and so has nothing to throw.
            let _ = if worked { chain.settle() } else { chain.take_back() };
        }
    }
}

/// The rows of a batch that give an output.
fn outputs(rows: &Rows) -> impl Iterator<Item = u32> {
    (0u32..).zip(&rows.columns().outputs).filter(|(_, output)| **output != 0).map(|(row, _)| row)
}
