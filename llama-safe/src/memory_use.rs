//! Bytes of memory by what they are for, and what may be added to them.
#![forbid(unsafe_code)]

use std::fmt;

/// Memory by what it is for, in bytes, over all devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MemoryUse {
    pub(crate) weights: u64,
    pub(crate) cache: u64,
    pub(crate) compute: u64,
    pub(crate) outputs: u64,
}

impl MemoryUse {
    /// The model's weights, which its contexts share. A mapped file counts whole, with the tensors of which there is a copy
    /// rearranged for this processor.
    #[must_use]
    pub fn weights(&self) -> u64 {
        self.weights
    }

    /// Keys and values of tokens, and states of sequences: all of them from the start, whether they are used or not.
    #[must_use]
    pub fn cache(&self) -> u64 {
        self.cache
    }

    /// What a computation keeps between its steps.
    #[must_use]
    pub fn compute(&self) -> u64 {
        self.compute
    }

    /// Rows of logits and embeddings.
    #[must_use]
    pub fn outputs(&self) -> u64 {
        self.outputs
    }

    /// What belongs to the context: all but the weights.
    #[must_use]
    pub fn context(&self) -> u64 {
        self.cache + self.compute + self.outputs
    }

    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.weights + self.context()
    }
}

impl fmt::Display for MemoryUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { weights, cache, compute, outputs } = self;
        write!(f, "weights {weights}, cache {cache}, compute {compute}, outputs {outputs} bytes")
    }
}

/// What a context will take, before it is made: [`Model::estimate`](crate::Model::estimate).
///
/// Adapters, control vectors and samplers inside the computation come on top, and what llama.cpp keeps to find its way: about
/// 50 bytes for each cell, 4 for each token of the vocabulary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryEstimate {
    pub(crate) resident: MemoryUse,
    pub(crate) peak_outputs: u64,
    pub(crate) token_bytes: u64,
    pub(crate) sequence_bytes: u64,
}

impl MemoryEstimate {
    /// Of a context from its first decode on, with no more outputs in a batch than it has sequences.
    #[must_use]
    pub fn resident(&self) -> MemoryUse {
        self.resident
    }

    /// The same after a batch in which every token has an output. llama.cpp keeps the room. Where embeddings are computed, and
    /// where texts are encoded, every batch is of that kind.
    #[must_use]
    pub fn peak(&self) -> MemoryUse {
        MemoryUse { outputs: self.peak_outputs, ..self.resident }
    }

    /// Bytes of the cache for each further token that a context has room for, over the next 256 of each sequence. 0 where no
    /// keys and values are kept.
    #[must_use]
    pub fn kv_bytes_per_token(&self) -> u64 {
        self.token_bytes
    }

    /// Bytes of the cache that each sequence takes whatever its length: its recurrent state with its snapshots, and the cells
    /// of layers that [forget](crate::ContextParams::keep_past_window) what their window has left.
    #[must_use]
    pub fn bytes_per_sequence(&self) -> u64 {
        self.sequence_bytes
    }

    /// Of what was measured with `cells` in all.
    pub(crate) fn new(resident: MemoryUse, peak_outputs: u64, token_bytes: u64, cells: u64, sequences: u32) -> Self {
        let of_tokens = token_bytes.saturating_mul(cells);
        let sequence_bytes = resident.cache.saturating_sub(of_tokens) / u64::from(sequences.max(1));
        Self { resident, peak_outputs, token_bytes, sequence_bytes }
    }
}

/// The value at `to` of what is `low` at `from - step` and `high` at `from`, and goes on as straight.
pub(crate) fn straight_on(low: u64, high: u64, step: u64, from: u64, to: u64) -> u64 {
    let rise = u128::from(high.saturating_sub(low)) * u128::from(to.saturating_sub(from));
    u64::try_from(u128::from(high) + rise / u128::from(step.max(1))).unwrap_or(u64::MAX)
}

/// Room for outputs in llama.cpp's buffer, which grows to what the largest batch had, and to what a limit allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct OutputRoom {
    /// Bytes of an output.
    pub(crate) row: u64,
    /// Bytes of an output of a context that samples inside of its computation.
    pub(crate) sampled_row: u64,
    /// There is room for as many at any rate.
    pub(crate) least: u32,
    /// Bytes of the buffer.
    pub(crate) held: u64,
    /// The most that it may have.
    pub(crate) limit: Option<u64>,
}

impl OutputRoom {
    /// Of a model with this many numbers in a row.
    pub(crate) fn new(vocabulary: u32, embedding: u32, sequences: u32) -> Self {
        let numbers = u64::from(vocabulary) + u64::from(embedding);
        // Logits and probabilities again, candidates, and the token (llama-context.cpp:2162).
        let sampled = numbers + 3 * u64::from(vocabulary) + 1;
        let row = numbers * 4;
        Self { row, sampled_row: sampled * 4, least: sequences, held: row * u64::from(sequences), limit: None }
    }

    /// Bytes for as many outputs (llama-context.cpp:2118).
    pub(crate) fn bytes(&self, outputs: u32, sampled: bool) -> u64 {
        u64::from(outputs.max(self.least)) * if sampled { self.sampled_row } else { self.row }
    }

    /// Notes a batch of as many outputs; the most that there may be if those are too many.
    pub(crate) fn admit(&mut self, outputs: u32, sampled: bool) -> Result<(), u32> {
        let bytes = self.bytes(outputs, sampled);
        match self.limit {
            Some(limit) if bytes > limit => {
                let row = if sampled { self.sampled_row } else { self.row };
                let most = u32::try_from(limit / row.max(1)).unwrap_or(u32::MAX);
                // Below the least there is room for none: that is what is held anyway.
                Err(if most < self.least { 0 } else { most })
            }
            _ => {
                self.held = self.held.max(bytes);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums() {
        let used = MemoryUse { weights: 1000, cache: 200, compute: 30, outputs: 4 };
        assert_eq!((used.context(), used.total()), (234, 1234));
        assert_eq!(used.to_string(), "weights 1000, cache 200, compute 30, outputs 4 bytes");
        let estimate = MemoryEstimate::new(used, 40, 3, 50, 2);
        assert_eq!(estimate.peak(), MemoryUse { outputs: 40, ..used });
        assert_eq!((estimate.kv_bytes_per_token(), estimate.bytes_per_sequence()), (3, 25));
        assert_eq!(MemoryEstimate::new(used, 40, 5, 50, 2).bytes_per_sequence(), 0);
    }

    #[test]
    fn lines() {
        for (low, high, step, from, to, wanted) in [
            (10, 20, 5, 100, 110, 40),
            (10, 20, 5, 100, 100, 20),
            (10, 10, 5, 100, 1000, 10),
            (20, 10, 5, 100, 200, 10),
            (0, u64::MAX, 1, 1, u64::MAX, u64::MAX),
        ] {
            assert_eq!(straight_on(low, high, step, from, to), wanted, "{low} {high} {step} {from} {to}");
        }
    }

    #[test]
    fn outputs_are_let_in_up_to_the_limit() {
        let mut room = OutputRoom::new(9, 1, 4);
        assert_eq!((room.row, room.sampled_row, room.held), (40, 152, 160));
        assert_eq!((room.admit(1, false), room.held), (Ok(()), 160));
        assert_eq!((room.admit(10, false), room.held), (Ok(()), 400));
        assert_eq!((room.admit(5, false), room.held), (Ok(()), 400));
        room.limit = Some(439);
        assert_eq!((room.admit(11, false), room.held), (Err(10), 400));
        assert_eq!((room.admit(10, false), room.held), (Ok(()), 400));
        assert_eq!(room.admit(1, true), Err(0));
        room.limit = Some(152 * 4);
        assert_eq!((room.admit(4, true), room.admit(5, true), room.held), (Ok(()), Err(4), 608));
    }
}
