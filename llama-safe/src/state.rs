//! Saving what sequences have in memory, and restoring it: later, in another context, in another process.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use llama_sys as sys;

use crate::backend;
use crate::context::Context;
use crate::encoded::Encoded;
use crate::error::StateError;
use crate::limits::{KvLayout, MemoryKind};
use crate::log;
use crate::pool::Lease;
use crate::saved::payload::{Bodies, Facts, Layout};
use crate::saved::snapshot::{self, Conditions, Entry, Saved};
use crate::saved::{SavedSequence, State};
use crate::sequence::Sequence;

impl Context {
    /// Saves what a sequence has in memory. It goes on as before.
    ///
    /// A shift or fork that no decode has carried out yet is carried out first, by computing one token in a free
    /// sequence; the outputs of the last decode are gone then, and so is the encoding of an encoder-decoder, whose sequences must
    /// be [encoded](Self::encode) again.
    ///
    /// ```compile_fail,E0599
    /// // A state is bytes of its own, as many as it needs: none stay on a device, none go into a buffer that is given.
    /// fn elsewhere(context: &mut llama_safe::Context, sequence: &llama_safe::Sequence) {
    ///     context.save_on_device(sequence).unwrap();
    /// }
    /// ```
    ///
    /// Of a layer with a sliding window only the window is saved, whatever
    /// [`keep_past_window`](crate::ContextParams::keep_past_window) says: what is restored cannot go back past it. Of a recurrent
    /// state the snapshots are not saved. Of an encoder-decoder the text that the sequence was encoded with is saved, not the encoding.
    ///
    /// ```
    /// # use llama_safe::{Context, ContextParams, Model, ModelParams, State, Token};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let gguf = fixtures::Llama::tiny().gguf(fixtures::Weights::F16, 1)?;
    /// # let model = Model::from_bytes(&gguf, &ModelParams::default())?;
    /// # let path = std::env::temp_dir().join(format!("doctest-{}.state", std::process::id()));
    /// let mut context = Context::new(&model, &ContextParams::default())?;
    /// let sequence = context.new_sequence()?;
    /// let mut batch = context.new_batch();
    /// batch.extend(&sequence, &[Token(5), Token(6), Token(7)])?;
    /// context.decode(&mut batch)?;
    /// context.save(&sequence)?.write(&path)?;
    ///
    /// // Later, in another process.
    /// let mut context = Context::new(&model, &ContextParams::default())?;
    /// let sequence = context.restore(&State::read(&path)?)?;
    /// assert_eq!(sequence.len(), 3);
    /// # std::fs::remove_file(&path)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`StateError`]: the sequence cannot be used, its kind of memory cannot be saved, or a shift or fork cannot be
    /// carried out.
    pub fn save(&mut self, sequence: &Sequence) -> Result<State, StateError> {
        sequence.lease().check(self.id)?;
        self.save_leases(&[Arc::clone(sequence.lease())])
    }

    /// Saves every sequence of the context, in the order of their slots, with those that are empty.
    ///
    /// Each is saved whole: what forks share on a unified cache is in the state once for each of them, and takes as many
    /// cells when it is restored.
    ///
    /// # Errors
    ///
    /// As [`save`](Self::save).
    pub fn save_all(&mut self) -> Result<State, StateError> {
        let leases: Vec<_> = self.pool.live().cloned().collect();
        self.save_leases(&leases)
    }

    /// Restores a state of one sequence, into a sequence that is free. Others are not touched; outputs of the last decode
    /// are gone.
    ///
    /// The context may have another number of sequences, another size and another [`KvLayout`] than the one that saved; it
    /// must have the same model, the same [`KvType`](crate::KvType) and the same flash attention. The first restore of a
    /// context computes one token, to learn how states are laid out there.
    ///
    /// A restored sequence of an encoder-decoder must be [encoded](Self::encode) with its text before it is decoded, as a
    /// fork must; so must the others, whose encoding that replaces anyway.
    ///
    /// # Errors
    ///
    /// [`StateError`]: the state does not fit this context, or there is no room for it. Nothing is restored then.
    pub fn restore(&mut self, state: &State) -> Result<Sequence, StateError> {
        match state.sequences.len() {
            1 => self.restore_all(state)?.pop().ok_or(StateError::SeveralSequences { found: 0 }),
            found => Err(StateError::SeveralSequences { found }),
        }
    }

    /// Restores all sequences of a state, each into a sequence that is free, in the order of
    /// [`State::sequences`]: all or none.
    ///
    /// # Errors
    ///
    /// As [`restore`](Self::restore).
    pub fn restore_all(&mut self, state: &State) -> Result<Vec<Sequence>, StateError> {
        self.can_have_states()?;
        self.reclaim();
        self.check_conditions(&state.header.conditions)?;
        self.check_room(&state.sequences)?;
        if state.sequences.iter().all(SavedSequence::is_empty) {
            return state.sequences.iter().map(|_| Ok(self.new_sequence()?)).collect();
        }
        // A copy that waits for the next decode would overwrite what is restored.
        self.settle(&[])?;
        let layout = self.layout()?;
        check_kv(&layout, &state.header.conditions)?;
        let mut checked = Vec::with_capacity(state.sequences.len());
        for entry in &state.header.entries {
            let (text, bytes) = self.text_of(&state.bytes[entry.bytes.clone()], entry)?;
            checked.push(match entry.length {
                0 if bytes.is_empty() => (text, bytes, Bodies::new()),
                0 => return Err(StateError::Malformed { at: 0, what: "the end" }),
                _ => (text, bytes, layout.check(bytes, self.facts(entry.length, entry.placed))?),
            });
        }
        self.last = None;
        let mut sequences = Vec::with_capacity(checked.len());
        for (entry, (text, bytes, bodies)) in state.header.entries.iter().zip(checked) {
            let restored = self.new_sequence().map_err(StateError::from).and_then(|sequence| {
                if entry.length > 0 {
                    let native = layout.to_native(bytes, &bodies, self.streams(), sequence.id().slot());
                    self.put(sequence.lease(), &native, entry)?;
                }
                if let Some(encoded) = self.encoded.as_mut().filter(|_| entry.length > 0) {
                    encoded.restore(sequence.id(), text);
                }
                Ok(sequence)
            });
            match restored {
                Ok(sequence) => sequences.push(sequence),
                Err(error) => {
                    // Their cells are needed by whoever comes next.
                    drop(sequences);
                    self.reclaim();
                    return Err(error);
                }
            }
        }
        Ok(sequences)
    }

    /// The text that a sequence was encoded with, and what it has in memory; no text where nothing is encoded first.
    fn text_of<'bytes>(&self, bytes: &'bytes [u8], entry: &Entry) -> Result<(Vec<i32>, &'bytes [u8]), StateError> {
        match self.encoded {
            Some(_) if entry.length > 0 => Encoded::from_bytes(bytes, self.limits.vocabulary()),
            _ => Ok((Vec::new(), bytes)),
        }
    }

    fn save_leases(&mut self, leases: &[Arc<Lease>]) -> Result<State, StateError> {
        self.can_have_states()?;
        self.reclaim();
        for lease in leases {
            lease.check_usable(self.id)?;
        }
        self.settle(leases)?;
        let mut sequences = Vec::with_capacity(leases.len());
        for lease in leases {
            let (length, slot) = (lease.length(), lease.id().slot());
            let mut bytes = if length == 0 { Vec::new() } else { self.portable(lease)? };
            if let Some(encoded) = self.encoded.as_ref().filter(|_| length > 0) {
                bytes = [encoded.to_bytes(lease.id()), bytes].concat();
            }
            sequences.push(Saved { length, slot, placed: placed(lease), bytes });
        }
        let (bytes, header) = snapshot::write(self.conditions(), &sequences);
        Ok(State::new(bytes, header))
    }

    /// Refuses contexts whose sequences are not all in the memory that llama.cpp saves.
    fn can_have_states(&self) -> Result<(), StateError> {
        if self.memory().is_none() {
            return Err(StateError::NoMemory);
        }
        if let Some(quirk) = self.quirk.filter(|quirk| !quirk.has_states()) {
            return Err(self.unsupported(quirk.wrong()));
        }
        if self.model().fingerprint().is_none() {
            return Err(self.unsupported("nothing tells this model from others"));
        }
        Ok(())
    }

    fn unsupported(&self, reason: &'static str) -> StateError {
        StateError::Unsupported { architecture: self.model().architecture(), reason }
    }

    /// What the numbers in memory depend on.
    fn conditions(&self) -> Conditions {
        let mut llama_cpp = [0; 32];
        for (to, from) in llama_cpp.iter_mut().zip(backend::llama_cpp_version().bytes()) {
            *to = from;
        }
        let (keys, values, transposed) = self.layout.as_ref().and_then(Layout::kv).unwrap_or((-1, None, false));
        Conditions {
            model: self.model().fingerprint().map_or([0; 32], |fingerprint| *fingerprint.as_bytes()),
            adapters: self.steering.fingerprint(),
            llama_cpp,
            memory: match self.limits.memory() {
                MemoryKind::None => 0,
                MemoryKind::Attention => 1,
                MemoryKind::Recurrent => 2,
                MemoryKind::Hybrid => 3,
            },
            kv: (keys, values.unwrap_or(-1), transposed),
        }
    }

    fn check_conditions(&self, found: &Conditions) -> Result<(), StateError> {
        let expected = self.conditions();
        if found.llama_cpp != expected.llama_cpp {
            let text = |bytes: [u8; 32]| String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned();
            return Err(StateError::OtherLlamaCpp { found: text(found.llama_cpp), expected: text(expected.llama_cpp) });
        }
        if found.model != expected.model {
            return Err(StateError::OtherModel);
        }
        if found.adapters != expected.adapters {
            return Err(StateError::OtherAdapters);
        }
        same("kind of memory", found.memory.into(), expected.memory.into())
    }

    /// Slots and cells, as far as can be told without trying.
    fn check_room(&self, sequences: &[SavedSequence]) -> Result<(), StateError> {
        let free = self.limits.sequences() as usize - self.pool.taken();
        if sequences.len() > free {
            return Err(StateError::NotEnoughSequences { needed: sequences.len(), free });
        }
        let limit = self.limits.sequence_tokens();
        if let Some(too_long) = sequences.iter().find(|sequence| sequence.length > limit) {
            return Err(StateError::TooLong { length: too_long.length, limit });
        }
        let tokens = sequences.iter().map(|sequence| u64::from(sequence.length)).sum();
        let context_tokens = self.limits.context_tokens();
        if self.has_cells() && tokens > context_tokens.into() {
            return Err(StateError::NoRoom { tokens, context_tokens });
        }
        Ok(())
    }

    /// Whether each token takes a cell.
    fn has_cells(&self) -> bool {
        matches!(self.limits.memory(), MemoryKind::Attention | MemoryKind::Hybrid)
    }

    fn facts(&self, length: u32, (placed_end, placed_lead): (u32, u32)) -> Facts {
        Facts {
            length,
            placed_end,
            lead: if placed_end == length { placed_lead } else { 0 },
            cells: self.limits.context_tokens(),
            vocabulary: self.limits.vocabulary(),
            windowed: self.model().sliding_window() > 0,
        }
    }

    /// Streams of cells that llama.cpp has: one for each sequence, or one for all (llama-kv-cache.cpp:136).
    fn streams(&self) -> u32 {
        match self.limits.kv_layout() {
            KvLayout::Unified => 1,
            KvLayout::Split => self.limits.sequences(),
        }
    }

    /// Has llama.cpp carry out what it has put off to the next decode: it saves keys that are not rotated yet, and
    /// copies that are not made yet, as if they were.
    ///
    /// A decode does it before anything else (llama-context.cpp:1811). It is made of one token, in a free sequence, or
    /// else at the end of one that can be taken back.
    fn settle(&mut self, leases: &[Arc<Lease>]) -> Result<(), StateError> {
        if !self.copies_wait && !self.abort.deferred.load(Ordering::Relaxed) {
            return Ok(());
        }
        if let Ok(sequence) = self.new_sequence() {
            self.compute_one(sequence.lease())?;
            drop(sequence);
            self.reclaim();
            return Ok(());
        }
        let can_go_back = self.limits.memory() == MemoryKind::Attention && self.model().sliding_window() == 0;
        let limit = self.limits.sequence_tokens();
        let lease = leases.iter().find(|lease| can_go_back && lease.length() < limit).ok_or(StateError::Unsettled)?;
        // Taken back whether it was computed or not: a computation that throws leaves its cell.
        let computed = self.compute_one(lease);
        let length = lease.length();
        match self.remove(lease, length as i32, -1) {
            Ok(true) => computed.map(drop),
            other => {
                lease.set_damaged(true);
                Err(StateError::Failed { reason: format!("one token more could not be taken back: {other:?}") })
            }
        }
    }

    /// How states are laid out in this context, from one that llama.cpp writes of a single token.
    fn layout(&mut self) -> Result<Layout, StateError> {
        if let Some(layout) = &self.layout {
            return Ok(layout.clone());
        }
        let sequence = self.new_sequence()?;
        let lease = Arc::clone(sequence.lease());
        let portable = self.compute_one(&lease).and_then(|computed| {
            if !computed {
                return Err(StateError::NoRoom { tokens: 1, context_tokens: self.limits.context_tokens() });
            }
            lease.set_length(1);
            self.portable(&lease)
        });
        drop(sequence);
        self.reclaim();
        portable?;
        self.layout.clone().ok_or(self.unsupported("its layout is not known"))
    }

    /// Computes one token at the end of a sequence, without counting it. False where there is no cell for it; what was
    /// put off is carried out all the same.
    fn compute_one(&mut self, lease: &Lease) -> Result<bool, StateError> {
        // The decoder's token must see an encoded text: masked from all of them, it leaves NaN in its cell.
        if let Some(encoded) = &mut self.encoded {
            encoded.replace();
            self.call_with_one(lease, Call::Encode)?;
        }
        self.call_with_one(lease, Call::Decode)
    }

    /// One token at the end of a sequence for one of llama.cpp's computations. False where there is no cell for it.
    fn call_with_one(&mut self, lease: &Lease, call: Call) -> Result<bool, StateError> {
        self.last = None;
        let (mut token, mut position, mut slot) = (0i32, lease.length() as i32, lease.slot());
        // With an output, which nobody reads: there are models that abort in a pass without one (models/chameleon.cpp:198).
        let (mut count, mut output) = (1i32, 1i8);
        let mut slots = &raw mut slot;
        let batch = sys::llama_batch {
            n_tokens: 1,
            token: &raw mut token,
            embd: std::ptr::null_mut(),
            pos: &raw mut position,
            n_seq_id: &raw mut count,
            seq_id: &raw mut slots,
            logits: &raw mut output,
        };
        // It is one token: nobody waits for it long, and nothing is left half done.
        let deferred = self.abort.deferred.swap(true, Ordering::Relaxed);
        log::forget_errors();
        let function = match call {
            Call::Encode => sys::guard_llama_encode,
            Call::Decode => sys::guard_llama_decode,
        };
        let compute = || {
            sys::guarded(0, |result, error| {
                // SAFETY: the context lives. Each column has one element, and all of them outlive the call. The slot is
                // below `n_seq_max`, the position follows the sequence's last and is below its limit, and llama.cpp
                // refuses token 0 where a vocabulary has none.
                unsafe { function(result, error, self.as_ptr(), batch) }
            })
        };
        // Reserving walks through the model's adapters, which another thread may be loading or freeing.
        let result = if self.steering.reserve_pending { self.model().exclusively(compute) } else { compute() };
        self.steering.reserve_pending &= result != Ok(0);
        // Encoding carries out nothing that waits.
        let computed = call == Call::Decode && matches!(result, Ok(0 | 1));
        self.abort.deferred.store(deferred && !computed, Ordering::Relaxed);
        self.copies_wait &= !computed;
        match result {
            Ok(0) => Ok(true),
            Ok(1) => Ok(false),
            Ok(code) => Err(StateError::Failed { reason: log::errors_or(&format!("code {code}")) }),
            Err(reason) => Err(StateError::Failed { reason }),
        }
    }

    /// What a sequence has in memory, without what depends on its slot.
    fn portable(&mut self, lease: &Lease) -> Result<Vec<u8>, StateError> {
        let native = self.take(lease)?;
        let facts = self.facts(lease.length(), placed(lease));
        let (layout, bodies) = Layout::learn(&native, self.streams(), lease.id().slot(), facts)
            .ok_or_else(|| self.unsupported("its states have a layout that is not known"))?;
        if *self.layout.get_or_insert_with(|| layout.clone()) != layout {
            return Err(self.unsupported("the layout of its states changes"));
        }
        let portable = layout.to_portable(&native, &bodies);
        layout.check(&portable, facts)?;
        Ok(portable)
    }

    /// llama.cpp's bytes of a sequence.
    fn take(&self, lease: &Lease) -> Result<Vec<u8>, StateError> {
        let failed = |reason| StateError::Failed { reason };
        log::forget_errors();
        let size = sys::guarded(0, |result, error| {
            // SAFETY: the context lives, and the slot is below `n_seq_max`.
            unsafe { sys::guard_llama_state_seq_get_size_ext(result, error, self.as_ptr(), lease.slot(), 0) }
        })
        .map_err(failed)?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(size).map_err(|_| StateError::TooLarge { bytes: size as u64 })?;
        bytes.resize(size, 0);
        let written = sys::guarded(0, |result, error| {
            let (context, to) = (self.as_ptr(), bytes.as_mut_ptr());
            // SAFETY: as above, and `to` is writable for `size` bytes.
            unsafe { sys::guard_llama_state_seq_get_data_ext(result, error, context, to, size, lease.slot(), 0) }
        })
        .map_err(failed)?;
        if written == size && size > 0 {
            Ok(bytes)
        } else {
            Err(failed(log::errors_or(&format!("{written} of {size} bytes were written"))))
        }
    }

    /// Gives llama.cpp bytes for an empty sequence. On an error nothing of them is left once the lease is reclaimed.
    fn put(&mut self, lease: &Lease, native: &[u8], entry: &Entry) -> Result<(), StateError> {
        log::forget_errors();
        let read = sys::guarded(0, |result, error| {
            let (context, from) = (self.as_ptr(), native.as_ptr());
            // SAFETY: the context lives, the slot is below `n_seq_max`, and `from` is readable for that many bytes, whose
            // numbers were checked against all that llama.cpp does not check.
            unsafe {
                sys::guard_llama_state_seq_set_data_ext(result, error, context, from, native.len(), lease.slot(), 0)
            }
        })
        .map_err(|reason| StateError::Failed { reason })?;
        if read == 0 && self.has_cells() {
            // All else that it refuses was compared with what it writes itself.
            let context_tokens = self.limits.context_tokens();
            return Err(StateError::NoRoom { tokens: entry.length.into(), context_tokens });
        }
        lease.set_length(entry.length);
        lease.set_placed(entry.placed.0, entry.placed.1);
        if read != native.len() || self.positions(lease).end != entry.length - lease.lead() {
            let what = format!("{read} of {} bytes were read, to {:?}", native.len(), self.positions(lease));
            return Err(StateError::Failed { reason: log::errors_or(&what) });
        }
        Ok(())
    }
}

/// Which of llama.cpp's two computations.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Encode,
    Decode,
}

/// What a saved sequence has of [`Lease::set_placed`].
fn placed(lease: &Lease) -> (u32, u32) {
    (lease.placed_end(), lease.placed_lead())
}

fn same(what: &'static str, found: i64, expected: i64) -> Result<(), StateError> {
    if found == expected { Ok(()) } else { Err(StateError::OtherContext { what, found, expected }) }
}

fn check_kv(layout: &Layout, found: &Conditions) -> Result<(), StateError> {
    let (keys, values, transposed) = layout.kv().unwrap_or((-1, None, false));
    same("a KV cache with keys of ggml's type", found.kv.0.into(), keys.into())?;
    same("a KV cache with values of ggml's type", found.kv.1.into(), values.unwrap_or(-1).into())?;
    same("transposed values (no flash attention)", found.kv.2.into(), transposed.into())
}
