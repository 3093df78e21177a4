//! Batches: filled token by token, computed in one call, all or nothing.

use std::sync::atomic::Ordering;

use llama_sys as sys;

use crate::context::Context;
use crate::error::{DecodeError, PushError, SequenceError};
use crate::id::{OutputSlot, SeqId, Token};
use crate::log;
use crate::outputs::Outputs;
use crate::place::Place;
use crate::reach::{self, Mix};
use crate::rows::{Input, Rows};
use crate::sequence::Sequence;

/// Tokens of any number of sequences, to be computed in one call.
///
/// It owns its memory, is made once and used again and again; a push allocates nothing, but for the first time that a batch grows
/// beyond 65,536 rows. Every push is all or nothing: where it returns an error, the batch is as it was.
///
/// Positions are not given but follow from the sequence's length and what the batch holds of it: llama.cpp accepts no
/// others. Parts of pictures, for models with M-RoPE, are given [places](Place).
///
/// ```compile_fail,E0382
/// // What was dropped cannot be used.
/// fn after_drop(batch: llama_safe::Batch) -> u32 { drop(batch); batch.len() }
/// ```
///
/// ```compile_fail,E0609
/// // The arrays that C reads cannot be reached, so none of them can be left unfilled or be of another length.
/// fn unset(mut batch: llama_safe::Batch) { batch.n_seq_id[0] = -1; }
/// ```
///
/// ```compile_fail,E0609
/// // Positions follow from lengths.
/// fn somewhere(mut batch: llama_safe::Batch) { batch.pos[0] = 7; }
/// ```
#[derive(Debug)]
pub struct Batch {
    rows: Rows,
}

impl Batch {
    /// Adds a token without output.
    ///
    /// # Errors
    ///
    /// [`PushError`]: no room in batch or sequence, token out of range, or a sequence that is not of this context.
    pub fn push(&mut self, sequence: &Sequence, token: Token) -> Result<(), PushError> {
        self.rows.push_tokens(sequence.lease(), &[token], false).map(drop)
    }

    /// Adds a token and asks for its output.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    pub fn push_output(&mut self, sequence: &Sequence, token: Token) -> Result<OutputSlot, PushError> {
        self.rows.push_tokens(sequence.lease(), &[token], true)
    }

    /// Adds tokens without output: a part of a prompt that is not its last.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    pub fn extend(&mut self, sequence: &Sequence, tokens: &[Token]) -> Result<(), PushError> {
        self.rows.push_tokens(sequence.lease(), tokens, false).map(drop)
    }

    /// Adds tokens, and asks for the output of the last one.
    ///
    /// A prompt longer than a batch goes in parts: [`extend`](Self::extend) and [`decode`](Context::decode) with each
    /// [`capacity`](Self::capacity) of tokens, and `prompt` with the rest.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push), and [`PushError::NoTokens`].
    pub fn prompt(&mut self, sequence: &Sequence, tokens: &[Token]) -> Result<OutputSlot, PushError> {
        self.rows.push_tokens(sequence.lease(), tokens, true)
    }

    /// Adds an input embedding, [`Limits::input_width`](crate::Limits::input_width) numbers, without output.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push), and where the embedding has another width or is not finite.
    pub fn push_embedding(&mut self, sequence: &Sequence, embedding: &[f32]) -> Result<(), PushError> {
        self.rows.push_embedding(sequence.lease(), embedding, None, false).map(drop)
    }

    /// Adds an input embedding at a place of its own, such as a part of a picture, without output. For models whose positions
    /// are [four numbers](Place).
    ///
    /// Places ascend by time, height and width, and times go on from what the sequence holds. The sequence's next position is
    /// then one more than the largest time, height or width. Memory knows the times alone, so that a sequence cannot be
    /// truncated to a length before such an embedding, unless to 0.
    ///
    /// # Errors
    ///
    /// As [`push_embedding`](Self::push_embedding), and where the place is not after the last one, or the model has one
    /// position a token.
    pub fn push_embedding_at(&mut self, sequence: &Sequence, embedding: &[f32], place: Place) -> Result<(), PushError> {
        self.rows.push_embedding(sequence.lease(), embedding, Some(place), false).map(drop)
    }

    /// [`push_embedding_at`](Self::push_embedding_at), and asks for its output.
    ///
    /// # Errors
    ///
    /// As [`push_embedding_at`](Self::push_embedding_at).
    pub fn push_embedding_output_at(
        &mut self,
        sequence: &Sequence,
        embedding: &[f32],
        place: Place,
    ) -> Result<OutputSlot, PushError> {
        self.rows.push_embedding(sequence.lease(), embedding, Some(place), true)
    }

    /// Adds an input embedding and asks for its output.
    ///
    /// # Errors
    ///
    /// As [`push_embedding`](Self::push_embedding).
    pub fn push_embedding_output(&mut self, sequence: &Sequence, embedding: &[f32]) -> Result<OutputSlot, PushError> {
        self.rows.push_embedding(sequence.lease(), embedding, None, true)
    }

    /// Tokens or embeddings in the batch.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.rows.len()
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The most tokens it can hold: [`Limits::batch_tokens`](crate::Limits::batch_tokens).
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.rows.capacity()
    }

    /// Empties it. Outputs that it promised are void.
    pub fn clear(&mut self) {
        self.rows.clear();
    }

    /// The token of a row; `None` past the end, and in a batch of embeddings.
    #[must_use]
    pub fn token(&self, row: u32) -> Option<Token> {
        self.rows.columns().tokens.get(row as usize).map(|token| Token(*token))
    }

    /// The input embedding of a row; `None` past the end, and in a batch of tokens.
    #[must_use]
    pub fn embedding(&self, row: u32) -> Option<&[f32]> {
        self.rows.columns().embedding(row as usize)
    }

    /// The position of a row in its sequence; the time of a row with a [place](Place) of its own.
    #[must_use]
    pub fn position(&self, row: u32) -> Option<u32> {
        self.rows.position(row)
    }

    /// The place of a row; `None` past the end, and in a batch of tokens or for a model with one position.
    #[must_use]
    pub fn place(&self, row: u32) -> Option<Place> {
        self.rows.columns().place(row as usize)
    }

    /// The sequence of a row.
    #[must_use]
    pub fn sequence(&self, row: u32) -> Option<SeqId> {
        self.rows.sequence(row)
    }

    /// Whether a row gives an output. Where embeddings are computed, and where a batch is encoded, every row does.
    #[must_use]
    pub fn is_output(&self, row: u32) -> Option<bool> {
        self.rows.columns().outputs.get(row as usize).map(|output| *output != 0)
    }
}

/// Which of llama.cpp's two computations.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Encode,
    Decode,
}

impl Context {
    /// An empty batch of tokens for this context.
    #[must_use]
    pub fn new_batch(&self) -> Batch {
        Batch { rows: Rows::new(self.id, &self.limits, Input::Tokens) }
    }

    /// An empty batch of tokens for [`encode`](Self::encode).
    ///
    /// Encoder-decoders have two kinds of batches: this one takes the texts to be encoded, up to
    /// [`Limits::encoder_tokens`](crate::Limits::encoder_tokens) tokens together, and [`new_batch`](Self::new_batch) what is decoded then. For
    /// every other model the two are the same.
    #[must_use]
    pub fn new_encoder_batch(&self) -> Batch {
        let input = if self.limits.encodes_first() { Input::EncoderTokens } else { Input::Tokens };
        Batch { rows: Rows::new(self.id, &self.limits, input) }
    }

    /// An empty batch of input embeddings for this context.
    #[must_use]
    pub fn new_embedding_batch(&self) -> Batch {
        Batch { rows: Rows::new(self.id, &self.limits, Input::Embeddings) }
    }

    /// Computes a batch, and adds its tokens to the memory of their sequences.
    ///
    /// All or nothing: on success every token of the batch is in memory, and the batch is empty; on an error none is, and
    /// the batch is as it was. The one exception are memories that cannot go back: a recurrent state after a computation
    /// that was aborted or failed. Such sequences are listed in the error and refuse their use until they are
    /// [cleared](Context::clear); all others go on.
    ///
    /// # Errors
    ///
    /// [`DecodeError`].
    pub fn decode(&mut self, batch: &mut Batch) -> Result<Outputs<'_>, DecodeError> {
        // llama.cpp would quietly encode (llama-context.cpp:1715).
        if self.memory().is_none() {
            return Err(DecodeError::NoDecoder);
        }
        self.compute(batch, Call::Decode)
    }

    /// Computes a batch with an encoder, or with a diffusion model. Nothing is remembered: each call sees its own tokens
    /// alone, and those of other sequences not at all.
    ///
    /// # Encoder-decoders
    ///
    /// The batch is one of [`new_encoder_batch`](Self::new_encoder_batch), with the whole texts of all sequences that are to
    /// be decoded next. llama.cpp keeps **the last encoding alone**: a sequence that is not in it cannot be decoded until it
    /// is encoded again, together with the others. That costs time, but nothing is lost by it: a sequence that holds tokens
    /// already goes on as if nothing had been, as long as its text is the same, and another text is refused. So a request
    /// that comes late is encoded in one batch with the texts of those under way. A [fork](Self::fork) has its parent's
    /// text, and must be encoded with it before it is decoded.
    ///
    /// Encoding adds nothing to a sequence's length. The outputs are the encoder's, one [embedding](Outputs::embedding) a token.
    ///
    /// ```
    /// use llama_safe::{Context, ContextParams, Model, ModelParams, Sampler, Special};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let gguf = fixtures::T5::tiny().gguf(fixtures::Weights::F16, 1)?;
    /// # let model = Model::from_bytes(&gguf, &ModelParams::default())?;
    /// let mut context = Context::new(&model, &ContextParams::default().sequences(2))?;
    /// let [alice, bob] = [context.new_sequence()?, context.new_sequence()?];
    ///
    /// let mut texts = context.new_encoder_batch();
    /// texts.extend(&alice, &model.tokenize("summarize: a long story", Special::None)?)?;
    /// texts.extend(&bob, &model.tokenize("translate: a short one", Special::None)?)?;
    /// context.encode(&mut texts)?;
    ///
    /// let start = model.decoder_start_token().ok_or("the model does not say how to begin")?;
    /// let mut batch = context.new_batch();
    /// let slots = [batch.push_output(&alice, start)?, batch.push_output(&bob, start)?];
    /// let outputs = context.decode(&mut batch)?;
    /// for slot in slots {
    ///     Sampler::greedy().sample(outputs.get(slot)?)?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`DecodeError`]. What was encoded before, and all sequences, are as they were.
    pub fn encode(&mut self, batch: &mut Batch) -> Result<Outputs<'_>, DecodeError> {
        // llama.cpp would follow a null pointer: it builds the graph without memory (llama-context.cpp:1542).
        if self.memory().is_some() && self.encoded.is_none() {
            return Err(DecodeError::NoEncoder);
        }
        self.compute(batch, Call::Encode)
    }

    /// Whether a sequence is in the last encoding, so that it can be decoded. True of every model that encodes nothing first.
    ///
    /// # Errors
    ///
    /// [`SequenceError`]: the sequence is not of this context.
    pub fn is_encoded(&self, sequence: &Sequence) -> Result<bool, SequenceError> {
        let lease = sequence.lease();
        lease.check(self.id)?;
        Ok(self.encoded.as_ref().is_none_or(|encoded| encoded.has(lease.id())))
    }

    /// The order of encoding and decoding, which llama.cpp asserts or does not look at.
    fn check_encoded(&self, rows: &Rows, call: Call) -> Result<(), DecodeError> {
        let Some(encoded) = &self.encoded else { return Ok(()) };
        match (call, rows.for_encoder()) {
            (Call::Encode, false) => return Err(DecodeError::NotForEncoder),
            (Call::Decode, true) => return Err(DecodeError::NotForDecoder),
            _ => {}
        }
        rows.participants().iter().try_for_each(|participant| match call {
            Call::Encode => encoded.check_encode(&participant.lease, rows.tokens_of(participant.lease.slot())),
            Call::Decode => encoded.check_decode(participant.lease.id()),
        })
    }

    /// What an encoding leaves behind.
    fn remember_encoded(&mut self, rows: &Rows) {
        let Some(encoded) = &mut self.encoded else { return };
        encoded.replace();
        for participant in rows.participants() {
            encoded.add(participant.lease.id(), rows.tokens_of(participant.lease.slot()));
        }
    }

    fn compute(&mut self, batch: &mut Batch, call: Call) -> Result<Outputs<'_>, DecodeError> {
        // Before the checks: a sequence that another thread drops after them keeps its cells until the next call.
        self.reclaim();
        batch.rows.check(self.id)?;
        self.check_encoded(&batch.rows, call)?;
        let sampled = match call {
            Call::Decode => self.check_graph_samplers(&batch.rows)?,
            Call::Encode => Vec::new(),
        };
        self.admit_outputs(&batch.rows, call)?;
        self.last = None;
        if call == Call::Decode {
            let arranged = self.arrange_graph_samplers(&batch.rows, &sampled);
            arranged.map_err(|reason| DecodeError::Failed { reason, damaged: Vec::new() })?;
        }
        let mix = self.mix(&batch.rows);
        let waits = mix.loses_places || (mix.moves_cells && self.has_bystanders(&batch.rows));
        if waits {
            if self.abort.is_requested() {
                return Err(DecodeError::Aborted { damaged: Vec::new() });
            }
            self.abort.deferred.store(true, Ordering::Relaxed);
        }
        log::forget_errors();
        let result = if self.steering.reserve_pending {
            // Reserving walks through the model's adapters, which another thread may be loading or freeing.
            let model = self.model().clone();
            let result = model.exclusively(|| self.call(&mut batch.rows, call));
            self.steering.reserve_pending = result != Ok(0);
            result
        } else {
            self.call(&mut batch.rows, call)
        };
        if waits {
            self.abort.deferred.store(false, Ordering::Relaxed);
        }
        self.finish_graph_samplers(&batch.rows, &sampled, result == Ok(0));
        match result {
            Ok(0) => {}
            Ok(1) => {
                return Err(DecodeError::NoSlot { tokens: batch.len(), context_tokens: self.limits.context_tokens() });
            }
            Ok(-1) => return Err(DecodeError::Rejected { reason: log::errors_or("it gives no reason") }),
            Ok(2) => return Err(DecodeError::Aborted { damaged: self.roll_back(&batch.rows, call, mix) }),
            Ok(code) => {
                let reason = log::errors_or(&format!("code {code}"));
                return Err(DecodeError::Failed { reason, damaged: self.roll_back(&batch.rows, call, mix) });
            }
            Err(reason) => return Err(DecodeError::Failed { reason, damaged: self.roll_back(&batch.rows, call, mix) }),
        }
        match call {
            // A shift or copy that waited has been carried out before the first token.
            Call::Decode => {
                self.abort.deferred.store(false, Ordering::Relaxed);
                self.copies_wait = false;
            }
            Call::Encode => self.remember_encoded(&batch.rows),
        }
        self.last_is_encoding = call == Call::Encode && self.encoded.is_some();
        self.graph.sampled = sampled;
        self.last = Some(batch.rows.fill());
        self.last_sequences.clear();
        for participant in batch.rows.participants() {
            self.last_sequences.push(participant.lease.id());
            if call == Call::Decode {
                participant.settle();
            }
        }
        if call == Call::Decode && self.has_state() {
            self.note_states(&batch.rows, mix);
        }
        batch.rows.clear();
        Ok(Outputs::new(self))
    }

    /// Refuses more outputs than the memory limit has room for, and notes how many there were.
    fn admit_outputs(&mut self, rows: &Rows, call: Call) -> Result<(), DecodeError> {
        let flags = &rows.columns().outputs;
        let every = call == Call::Encode || self.limits.has_embeddings();
        let outputs = if every { flags.len() } else { flags.iter().filter(|output| **output != 0).count() };
        // At most `batch_tokens()`.
        let outputs = outputs as u32;
        let admitted = self.outputs.admit(outputs, !self.graph.is_empty());
        admitted.map_err(|most| DecodeError::MemoryLimit { outputs, most })
    }

    /// Lends the rows to llama.cpp for one call, in the order of their slots.
    fn call(&mut self, rows: &mut Rows, call: Call) -> Result<i32, String> {
        let context = self.as_ptr();
        let columns = self.by_slot.arrange(rows.columns_mut());
        let count = columns.len();
        let positions = if columns.places.is_empty() {
            &mut columns.positions
        } else {
            columns.flatten_places(&mut self.flat_places);
            &mut self.flat_places
        };
        self.ones.resize(count.max(self.ones.len()), 1);
        self.sequence_pointers.clear();
        self.sequence_pointers.extend(columns.sequences.iter_mut().map(std::ptr::from_mut));
        let raw = sys::llama_batch {
            // At most `n_batch`, an `int32_t`.
            n_tokens: count as i32,
            token: if columns.tokens.is_empty() { std::ptr::null_mut() } else { columns.tokens.as_mut_ptr() },
            embd: if columns.embeddings.is_empty() { std::ptr::null_mut() } else { columns.embeddings.as_mut_ptr() },
            pos: positions.as_mut_ptr(),
            n_seq_id: self.ones.as_mut_ptr(),
            seq_id: self.sequence_pointers.as_mut_ptr(),
            logits: columns.outputs.as_mut_ptr(),
        };
        let function = match call {
            Call::Encode => sys::guard_llama_encode,
            Call::Decode => sys::guard_llama_decode,
        };
        // SAFETY: the context lives. Every column has `n_tokens` elements (`ones` at least as many, `embd` that many
        // rows of the model's input width, `pos` four times as many where llama.cpp reads four), each sequence pointer
        // names one element, as its count of 1 says, and all of them outlive the call, which only reads them. The
        // numbers were checked when they were pushed: tokens within the vocabulary, slots below `n_seq_max`, positions
        // that continue their sequences, at most `batch_tokens()` rows.
        sys::guarded(0, |result, error| unsafe { function(result, error, context, raw) })
    }

    /// What the batch does to cells, where they are not each token's own.
    fn mix(&self, rows: &Rows) -> Mix {
        let window = self.model().sliding_window();
        if self.memory().is_none() || !(self.has_state() || window > 0) {
            return Mix::default();
        }
        let parts = rows.participants().iter().map(|participant| (participant.lease.slot(), participant.rows));
        Mix::of(self.limits.memory(), self.limits.kv_layout(), window, self.limits.micro_batch_tokens(), parts)
    }

    /// Whether a sequence that has no part in the batch holds anything.
    fn has_bystanders(&self, rows: &Rows) -> bool {
        self.pool.live().any(|lease| lease.length() > 0 && !rows.has(lease))
    }

    /// Notes which states have cells of their own, and how far their snapshots go back.
    fn note_states(&mut self, rows: &Rows, mix: Mix) {
        let snapshots = self.limits.rollback_tokens();
        if snapshots > 0 && mix.moves_cells {
            // A state is moved without its snapshots (llama-graph.cpp:3621).
            self.pool.live().for_each(|lease| lease.set_rollback(0));
        }
        for participant in rows.participants() {
            // The state has been written to a cell of its own (llama-memory-recurrent.cpp:619).
            participant.lease.set_family(self.pool.new_family());
            participant.lease.set_rollback(mix.rollback(participant.rows, snapshots));
        }
    }

    /// Takes every sequence of a failed batch back to its length before the call. Returns those where that cannot be.
    fn roll_back(&mut self, rows: &Rows, call: Call, mix: Mix) -> Vec<SeqId> {
        let mut damaged = Vec::new();
        if call == Call::Encode {
            // Memory is untouched. An exception leaves attention as encoding wants it (llama-context.cpp:1539).
            // SAFETY: the context lives.
            unsafe { sys::llama_set_causal_attn(self.as_ptr(), self.limits.causal) };
            return damaged;
        }
        let Some(memory) = self.memory() else { return damaged };
        if mix.moves_cells || mix.loses_places {
            // Where states are is known no more, and which cells are empty: one that was to be zeroed counts as zeroed
            // (llama-memory-recurrent.cpp:714); nor where the cells of a window go on. Only a whole memory is cleared of
            // that. An abort has waited where this costs others than the batch's; a failure cannot.
            let _ = sys::guarded_unit(|error| {
                // SAFETY: the memory lives as long as the context.
                unsafe { sys::guard_llama_memory_clear(error, memory, true) }
            });
            for lease in self.pool.live().filter(|lease| lease.length() > 0) {
                lease.set_damaged(true);
                damaged.push(lease.id());
            }
            return damaged;
        }
        let (has_state, snapshots) = (self.has_state(), self.limits.rollback_tokens());
        for participant in rows.participants() {
            let (lease, start, first) = (&participant.lease, participant.start, participant.first_free());
            let end = self.positions(lease).end;
            // Below `sequence_tokens`, an `int32_t`.
            let removed = self.remove(lease, first as i32, -1) == Ok(true);
            let kept = match (start, has_state) {
                (0, _) => true,
                (_, true) => reach::is_untouched(snapshots, first, end),
                (_, false) => self.reach(lease).holds(start).is_ok(),
            };
            if !removed || !kept || self.positions(lease).end != first {
                lease.set_damaged(true);
                damaged.push(lease.id());
            }
        }
        damaged
    }
}
