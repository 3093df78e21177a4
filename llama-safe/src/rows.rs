//! A batch's storage: one array a column, as llama.cpp reads them, with every check made at the push.
#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::columns::Columns;
use crate::encoded;
use crate::error::{DecodeError, PushError, SequenceError};
use crate::id::{ContextId, FillId, OutputSlot, SeqId, Token};
use crate::limits::{Limits, MemoryKind, Pooling};
use crate::place::Place;
use crate::pool::Lease;

/// What each row carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Input {
    Tokens,
    Embeddings,
    /// Tokens for the encoder of an encoder-decoder.
    EncoderTokens,
}

/// The rows of one batch, and the sequences that they are of.
#[derive(Debug)]
pub(crate) struct Rows {
    context: ContextId,
    fill: FillId,
    input: Input,
    numbers: Numbers,
    columns: Columns,
    participants: Vec<Participant>,
    /// Slot of a sequence to its index in `participants`, `ABSENT` where it has no row yet.
    index_of_slot: Vec<u32>,
}

/// The most rows that there is room for from the beginning: what a context takes may be more than the machine has.
const ROOM: u32 = 1 << 16;
/// The most numbers of embeddings that there is room for from the beginning.
const ROOM_FOR_EMBEDDINGS: usize = 1 << 24;

/// No participant has this index: there are at most as many as sequences.
const ABSENT: u32 = u32::MAX;

/// The limits that a push is checked against.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    capacity: u32,
    sequence_tokens: u32,
    vocabulary: u32,
    width: u32,
    positions_per_embedding: u32,
    takes_embeddings: bool,
    /// Whether sequences grow with each decode; an encoder's begin at 0 every time.
    has_memory: bool,
    /// Whether every row gives an output, asked for or not: llama.cpp computes embeddings, and whatever is encoded, of all, and
    /// warns of each batch that does not ask for them.
    outputs_all: bool,
    /// Whether all tokens of a sequence must be in one batch, since only they are pooled.
    pools_one_batch: bool,
}

/// A sequence that has rows in this batch.
#[derive(Debug)]
pub(crate) struct Participant {
    pub(crate) lease: Arc<Lease>,
    /// Its length when its first row was pushed.
    pub(crate) start: u32,
    /// Its rows.
    pub(crate) rows: u32,
    /// Its length once they are in memory.
    pub(crate) next: u32,
    /// How far `start` was ahead of the last position in memory, see [`Lease::lead`].
    lead: u32,
    /// The place of its last row, in a batch of embeddings for a model with M-RoPE.
    last: Option<Place>,
    /// [`Lease::placed_end`] and its lead, once the rows are in memory; `None` where no row has a place of its own.
    placed: Option<(u32, u32)>,
}

impl Participant {
    /// The first position that a row may have: all that memory holds is before it.
    pub(crate) fn first_free(&self) -> u32 {
        self.start - self.lead
    }

    /// Notes that the rows are in memory.
    pub(crate) fn settle(&self) {
        self.lease.set_length(self.next);
        if let Some((end, lead)) = self.placed {
            self.lease.set_placed(end, lead);
        }
    }
}

impl Rows {
    /// Empty rows with room for as many as the context takes, or the first 65,536 of them.
    pub(crate) fn new(context: ContextId, limits: &Limits, input: Input) -> Self {
        let for_encoder = input == Input::EncoderTokens;
        let capacity = if for_encoder { limits.encoder_tokens() } else { limits.batch_tokens() };
        let room = capacity.min(ROOM) as usize;
        let mut rows = Self {
            context,
            fill: FillId::next(),
            input,
            numbers: Numbers {
                capacity,
                sequence_tokens: limits.sequence_tokens(),
                vocabulary: limits.vocabulary(),
                width: limits.input_width(),
                positions_per_embedding: limits.positions_per_embedding,
                takes_embeddings: limits.takes_embeddings,
                has_memory: limits.memory() != MemoryKind::None,
                outputs_all: limits.has_embeddings()
                    || for_encoder
                    || limits.memory() == MemoryKind::None
                    || limits.fallback().is_some(),
                pools_one_batch: limits.has_embeddings() && !matches!(limits.pooling(), Pooling::None | Pooling::Last),
            },
            columns: Columns {
                positions: Vec::with_capacity(room),
                sequences: Vec::with_capacity(room),
                outputs: Vec::with_capacity(room),
                ..Columns::default()
            },
            participants: Vec::with_capacity(limits.sequences() as usize),
            index_of_slot: vec![ABSENT; limits.sequences() as usize],
        };
        match input {
            Input::Tokens | Input::EncoderTokens => rows.columns.tokens.reserve_exact(room),
            Input::Embeddings => {
                let numbers = room * limits.input_width() as usize;
                rows.columns.embeddings.reserve_exact(numbers.min(ROOM_FOR_EMBEDDINGS));
            }
        }
        rows
    }

    pub(crate) fn len(&self) -> u32 {
        // Never more than `capacity`.
        self.columns.len() as u32
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.numbers.capacity
    }

    pub(crate) fn fill(&self) -> FillId {
        self.fill
    }

    /// Whether they are texts for the encoder of an encoder-decoder.
    pub(crate) fn for_encoder(&self) -> bool {
        self.input == Input::EncoderTokens
    }

    /// The place of a row in its sequence. A text for the encoder begins at 0 there, wherever its sequence's tokens end.
    pub(crate) fn position(&self, row: u32) -> Option<u32> {
        let position = *self.columns.positions.get(row as usize)?;
        let index = self.index_of_slot[self.columns.sequences[row as usize] as usize];
        let start = if self.for_encoder() { self.participants[index as usize].start } else { 0 };
        // Positions are not negative.
        Some(position as u32 - start)
    }

    /// The tokens of one sequence.
    pub(crate) fn tokens_of(&self, slot: i32) -> impl Iterator<Item = i32> {
        let rows = self.columns.sequences.iter().zip(&self.columns.tokens);
        rows.filter(move |(sequence, _)| **sequence == slot).map(|(_, token)| *token)
    }

    pub(crate) fn participants(&self) -> &[Participant] {
        &self.participants
    }

    /// Whether a sequence has rows here.
    pub(crate) fn has(&self, lease: &Lease) -> bool {
        self.index_of_slot.get(lease.slot() as usize).is_some_and(|index| *index != ABSENT)
    }

    /// What the rows hold.
    pub(crate) fn columns(&self) -> &Columns {
        &self.columns
    }

    /// What the rows hold, to be lent to C, which wants pointers that it could write through.
    pub(crate) fn columns_mut(&mut self) -> &mut Columns {
        &mut self.columns
    }

    /// The sequence of a row.
    pub(crate) fn sequence(&self, row: u32) -> Option<SeqId> {
        let slot = *self.columns.sequences.get(row as usize)?;
        let index = self.index_of_slot[slot as usize];
        Some(self.participants[index as usize].lease.id())
    }

    /// Empties the rows. Every output slot given out so far is void.
    pub(crate) fn clear(&mut self) {
        self.fill = FillId::next();
        self.columns.clear();
        for participant in self.participants.drain(..) {
            self.index_of_slot[participant.lease.slot() as usize] = ABSENT;
        }
    }

    /// Adds tokens of one sequence, all or none; the last one gives an output if `output_on_last`.
    pub(crate) fn push_tokens(
        &mut self,
        lease: &Arc<Lease>,
        tokens: &[Token],
        output_on_last: bool,
    ) -> Result<OutputSlot, PushError> {
        if self.input == Input::Embeddings {
            return Err(PushError::TakesEmbeddings);
        }
        if tokens.is_empty() {
            return Err(PushError::NoTokens);
        }
        let vocabulary = self.numbers.vocabulary;
        // A negative id wraps to one that is above any vocabulary.
        if let Some(bad) = tokens.iter().find(|token| token.0 as u32 >= vocabulary) {
            return Err(PushError::TokenOutOfRange { token: bad.0, vocabulary });
        }
        let start = self.admit(lease, tokens.len(), tokens.len())?;
        self.columns.tokens.extend(tokens.iter().map(|token| token.0));
        Ok(self.append(lease.slot(), start, tokens.len() as u32, output_on_last))
    }

    /// Adds one embedding of a sequence, at a place of its own or the next one.
    pub(crate) fn push_embedding(
        &mut self,
        lease: &Arc<Lease>,
        embedding: &[f32],
        place: Option<Place>,
        output: bool,
    ) -> Result<OutputSlot, PushError> {
        if self.input != Input::Embeddings {
            return Err(PushError::TakesTokens);
        }
        if !self.numbers.takes_embeddings {
            return Err(PushError::TokensAlone);
        }
        // llama.cpp reads that many positions a row (llama-batch.cpp:1380).
        let has_places = match self.numbers.positions_per_embedding {
            1 => false,
            4 => true,
            positions => return Err(PushError::SeveralPositions { positions }),
        };
        if place.is_some() && !has_places {
            return Err(PushError::OnePosition);
        }
        if embedding.len() != self.numbers.width as usize {
            return Err(PushError::EmbeddingWidth { got: embedding.len(), expected: self.numbers.width });
        }
        if let Some(index) = embedding.iter().position(|number| !number.is_finite()) {
            return Err(PushError::EmbeddingNotFinite { index, value: embedding[index] });
        }
        let start = match place {
            Some(place) => self.admit_at(lease, place)?,
            None => self.admit(lease, 1, 1)?,
        };
        self.columns.embeddings.extend_from_slice(embedding);
        if has_places {
            let place = place.unwrap_or_else(|| Place::of_text(start));
            // Below `sequence_tokens`, which is below i32::MAX.
            self.columns.places.push([place.height, place.width, place.fourth].map(|number| number as i32));
            let index = self.index_of_slot[lease.slot() as usize];
            self.participants[index as usize].last = Some(place);
        }
        Ok(self.append(lease.slot(), start, 1, output))
    }

    /// [`admit`](Self::admit) for an embedding with a place of its own.
    fn admit_at(&mut self, lease: &Arc<Lease>, place: Place) -> Result<u32, PushError> {
        let id = lease.id();
        let limit = self.numbers.sequence_tokens;
        if place.largest() >= limit {
            return Err(PushError::PlaceBeyondContext { id, place, limit });
        }
        let known =
            self.index_of_slot.get(lease.slot() as usize).and_then(|index| self.participants.get(*index as usize));
        match known.filter(|participant| Arc::ptr_eq(&participant.lease, lease)) {
            Some(Participant { last: Some(last), .. }) if !place.comes_after(*last) => {
                return Err(PushError::PlaceOutOfOrder { id, place, after: *last });
            }
            // All that memory holds is before the first row, so that a failed decode can be taken back by position.
            None if place.time < lease.length() - lease.lead() => {
                return Err(PushError::PlaceInThePast { id, place, first: lease.length() - lease.lead() });
            }
            _ => {}
        }
        self.admit(lease, 1, 0)?;
        let participant = &mut self.participants[self.index_of_slot[lease.slot() as usize] as usize];
        participant.next = participant.next.max(place.next());
        participant.placed = Some((participant.next, participant.next - place.time - 1));
        Ok(place.time)
    }

    /// Checks everything that does not depend on the input's kind, enters the sequence among the participants, and
    /// returns the position of the first new row. Changes nothing where it returns an error.
    ///
    /// So many rows, which take so many positions from the next one on.
    fn admit(&mut self, lease: &Arc<Lease>, rows: usize, positions: usize) -> Result<u32, PushError> {
        lease.check_usable(self.context)?;
        let have = self.len();
        let (rows, adding) = (rows as u64, positions as u64);
        if u64::from(have) + rows > u64::from(self.numbers.capacity) {
            return Err(PushError::BatchFull { limit: self.numbers.capacity, have, adding: rows });
        }
        let slot = lease.slot() as usize;
        let index = self.index_of_slot[slot];
        let length = if index == ABSENT {
            if self.numbers.has_memory { lease.length() } else { 0 }
        } else {
            let participant = &self.participants[index as usize];
            if !Arc::ptr_eq(&participant.lease, lease) {
                // The slot was released and leased anew while its old rows still stand in this batch.
                return Err(SequenceError::Stale { id: participant.lease.id() }.into());
            }
            participant.next
        };
        if self.for_encoder() {
            encoded::check_length(lease.id(), length, adding)?;
        } else {
            let limit = self.numbers.sequence_tokens;
            if u64::from(length) + adding > u64::from(limit) {
                return Err(PushError::SequenceFull { id: lease.id(), length, adding, limit });
            }
        }
        if self.numbers.pools_one_batch && index == ABSENT && length > 0 {
            return Err(PushError::PooledAcrossDecodes { id: lease.id(), length });
        }
        if index == ABSENT {
            self.index_of_slot[slot] = self.participants.len() as u32;
            self.participants.push(Participant {
                lease: Arc::clone(lease),
                start: length,
                rows: rows as u32,
                next: length + adding as u32,
                lead: if self.numbers.has_memory { lease.lead() } else { 0 },
                last: None,
                placed: None,
            });
        } else {
            let participant = &mut self.participants[index as usize];
            participant.rows += rows as u32;
            participant.next += adding as u32;
        }
        Ok(length)
    }

    fn append(&mut self, slot: i32, start: u32, count: u32, output_on_last: bool) -> OutputSlot {
        // Positions stay below `sequence_tokens`, which is below i32::MAX.
        let columns = &mut self.columns;
        columns.positions.extend((start..start + count).map(|position| position as i32));
        let length = columns.len();
        columns.sequences.resize(length, slot);
        columns.outputs.resize(length, i8::from(self.numbers.outputs_all));
        if output_on_last {
            columns.outputs[length - 1] = 1;
        }
        OutputSlot { fill: self.fill, row: length as u32 - 1 }
    }

    /// Checks, right before the computation, that nothing has happened to the sequences since they were pushed.
    pub(crate) fn check(&self, context: ContextId) -> Result<(), DecodeError> {
        if self.context != context {
            return Err(DecodeError::ForeignBatch);
        }
        if self.len() == 0 {
            return Err(DecodeError::EmptyBatch);
        }
        for Participant { lease, start, lead, .. } in &self.participants {
            lease.check_usable(context)?;
            if self.numbers.has_memory && (lease.length() != *start || lease.lead() != *lead) {
                return Err(DecodeError::SequenceChanged { id: lease.id(), expected: *start, found: lease.length() });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::KvLayout;
    use crate::pool::Pool;

    fn limits() -> Limits {
        Limits {
            context_tokens: 64,
            sequence_tokens: 16,
            batch_tokens: 24,
            micro_batch_tokens: 8,
            sequences: 4,
            vocabulary: 100,
            input_width: 3,
            output_width: 3,
            positions_per_embedding: 1,
            takes_embeddings: true,
            causal: true,
            embeddings: false,
            pooling: Pooling::None,
            memory: MemoryKind::Attention,
            kv_layout: KvLayout::Split,
            encodes_first: false,
            output_head: true,
            fallback: None,
            rollback_tokens: 0,
        }
    }

    fn tokens(ids: &[i32]) -> Vec<Token> {
        ids.iter().copied().map(Token).collect()
    }

    /// What one row must hold.
    type Row = (i32, i32, i32, i8);

    fn read(rows: &Rows) -> Vec<Row> {
        let columns = rows.columns();
        (0..columns.len())
            .map(|row| (columns.tokens[row], columns.positions[row], columns.sequences[row], columns.outputs[row]))
            .collect()
    }

    #[test]
    fn a_sequence_that_was_replaced_in_its_slot_is_stale() {
        let context = ContextId::next();
        let mut pool = Pool::new(context, 1);
        let mut rows = Rows::new(context, &limits(), Input::Tokens);
        let old = pool.lease().unwrap();
        rows.push_tokens(&old, &tokens(&[1]), false).unwrap();
        old.release();
        pool.reclaim(|_| Ok::<(), ()>(())).unwrap();
        let new = pool.lease().unwrap();
        let stale = SequenceError::Stale { id: old.id() };
        assert_eq!(rows.push_tokens(&new, &tokens(&[1]), false), Err(stale.into()));
        assert_eq!(rows.check(context), Err(stale.into()));
        rows.clear();
        assert!(rows.push_tokens(&new, &tokens(&[1]), false).is_ok());
        assert_eq!(rows.check(context), Ok(()));
        assert_eq!(rows.check(ContextId::next()), Err(DecodeError::ForeignBatch));
    }

    /// A recurrent context may take batches of any size, since it needs no memory for each token.
    #[test]
    fn a_batch_may_hold_more_than_the_machine_can() {
        let context = ContextId::next();
        let lease = Pool::new(context, 1).lease().unwrap();
        let most = i32::MAX as u32;
        let limits = Limits { batch_tokens: most, sequence_tokens: most, input_width: 1 << 16, ..limits() };
        let mut rows = Rows::new(context, &limits, Input::Embeddings);
        assert_eq!(rows.capacity(), most);
        for _ in 0..300 {
            rows.push_embedding(&lease, &vec![0.5; 1 << 16], None, false).unwrap();
        }
        assert_eq!(rows.columns().embedding(299), Some(&[0.5; 1 << 16][..]));
    }

    #[test]
    fn a_sequence_that_has_grown_since_is_refused() {
        let context = ContextId::next();
        let lease = Pool::new(context, 1).lease().unwrap();
        let mut rows = Rows::new(context, &limits(), Input::Tokens);
        rows.push_tokens(&lease, &tokens(&[1, 2]), true).unwrap();
        lease.set_length(5);
        assert_eq!(rows.check(context), Err(DecodeError::SequenceChanged { id: lease.id(), expected: 0, found: 5 }));
    }

    #[test]
    fn pooling_and_several_positions_are_refused_where_they_would_be_wrong() {
        let context = ContextId::next();
        let lease = Pool::new(context, 1).lease().unwrap();
        let pooled = Limits { embeddings: true, pooling: Pooling::Mean, ..limits() };
        let mut rows = Rows::new(context, &pooled, Input::Tokens);
        rows.push_tokens(&lease, &tokens(&[1]), true).unwrap();
        rows.push_tokens(&lease, &tokens(&[2]), true).expect("in the same batch");
        rows.clear();
        lease.set_length(2);
        assert_eq!(
            rows.push_tokens(&lease, &tokens(&[3]), true),
            Err(PushError::PooledAcrossDecodes { id: lease.id(), length: 2 })
        );
        let two = Limits { positions_per_embedding: 2, ..limits() };
        let mut rows = Rows::new(context, &two, Input::Embeddings);
        let refused = PushError::SeveralPositions { positions: 2 };
        assert_eq!(rows.push_embedding(&lease, &[0.0; 3], None, true), Err(refused));
    }

    fn place(time: u32, height: u32, width: u32) -> Place {
        Place { time, height, width, fourth: 0 }
    }

    #[test]
    fn a_picture_takes_one_position_and_the_next_is_after_its_largest() {
        let context = ContextId::next();
        let lease = Pool::new(context, 1).lease().unwrap();
        lease.set_length(2);
        let four = Limits { positions_per_embedding: 4, ..limits() };
        let mut rows = Rows::new(context, &four, Input::Embeddings);
        let id = lease.id();
        let mut push = |place| rows.push_embedding(&lease, &[0.0; 3], place, false).map(|slot| slot.row);
        let past = PushError::PlaceInThePast { id, place: place(1, 5, 5), first: 2 };
        assert_eq!(push(Some(place(1, 5, 5))), Err(past));
        let beyond = PushError::PlaceBeyondContext { id, place: place(2, 16, 2), limit: 16 };
        assert_eq!(push(Some(place(2, 16, 2))), Err(beyond));
        assert_eq!(push(Some(place(2, 2, 2))), Ok(0));
        assert_eq!(push(Some(place(2, 2, 5))), Ok(1));
        let disorder = PushError::PlaceOutOfOrder { id, place: place(2, 2, 5), after: place(2, 2, 5) };
        assert_eq!(push(Some(place(2, 2, 5))), Err(disorder));
        assert_eq!(push(Some(place(2, 3, 2))), Ok(2));
        assert_eq!(push(None), Ok(3));
        assert_eq!(rows.columns().positions, [2, 2, 2, 6]);
        assert_eq!(rows.columns().places, [[2, 2, 0], [2, 5, 0], [3, 2, 0], [6, 6, 0]]);
        rows.participants()[0].settle();
        assert_eq!((lease.length(), lease.lead(), lease.placed_end()), (7, 0, 6));

        // Ended by a picture, memory's last position is not the one before the next.
        rows.clear();
        let mut push = |place| rows.push_embedding(&lease, &[0.0; 3], place, false).map(|slot| slot.row);
        assert_eq!(push(Some(place(7, 7, 10))), Ok(0));
        rows.participants()[0].settle();
        assert_eq!((lease.length(), lease.lead(), lease.placed_end()), (11, 3, 11));
        rows.clear();
        rows.push_embedding(&lease, &[0.0; 3], Some(place(8, 9, 9)), false).expect("the next picture of a film");
        assert_eq!(rows.participants()[0].first_free(), 8);
        lease.set_length(5);
        assert_eq!((lease.lead(), lease.placed_end()), (0, 0));
        assert!(rows.check(context).is_err());
    }

    proptest! {
        /// Any pushes, good and bad, against rows kept one by one: a refused push changes nothing, and positions go on
        /// from the sequence's length.
        #[test]
        fn pushes_are_all_or_nothing(
            lengths in prop::array::uniform3(0u32..18),
            pushes in prop::collection::vec((0usize..3, prop::collection::vec(-1i32..102, 0..9), any::<bool>()), 0..20),
        ) {
            let context = ContextId::next();
            let limits = limits();
            let mut pool = Pool::new(context, 4);
            let leases = lengths.map(|length| {
                let lease = pool.lease().unwrap();
                lease.set_length(length);
                lease
            });
            let mut rows = Rows::new(context, &limits, Input::Tokens);
            let mut naive: Vec<Row> = Vec::new();
            for (which, ids, output) in pushes {
                let lease = &leases[which];
                let of_sequence = naive.iter().filter(|row| row.2 == lease.slot()).count();
                let length = lengths[which] as usize + of_sequence;
                let good = !ids.is_empty()
                    && ids.iter().all(|id| (0..100).contains(id))
                    && naive.len() + ids.len() <= 24
                    && length + ids.len() <= 16;
                let result = rows.push_tokens(lease, &tokens(&ids), output);
                prop_assert_eq!(result.is_ok(), good, "{:?}", result);
                if good {
                    for (index, id) in ids.iter().enumerate() {
                        let last = index + 1 == ids.len();
                        naive.push((*id, (length + index) as i32, lease.slot(), i8::from(last && output)));
                    }
                    prop_assert_eq!(result.unwrap().row as usize, naive.len() - 1);
                }
                prop_assert_eq!(read(&rows), naive.clone());
                let claimed: u32 = rows.participants().iter().map(|participant| participant.rows).sum();
                prop_assert_eq!(claimed as usize, naive.len());
            }
            let before = rows.fill();
            rows.clear();
            prop_assert!(rows.fill() != before && rows.len() == 0 && rows.participants().is_empty());
        }
    }
}
