//! What the encoder of an encoder-decoder has been given, sequence by sequence. Plain data, no llama.cpp.
//!
//! llama.cpp keeps the last encoding alone, and knows whose each of its tokens is by slot (llama-context.cpp:1634). A decoder's token
//! of a slot that is not in it sees none of it, and llama.cpp computes with that; a slot that has a new owner sees the text
//! of the old one. So the texts are remembered here by sequence, not by slot.
#![forbid(unsafe_code)]

use crate::error::{DecodeError, PushError, StateError};
use crate::id::SeqId;
use crate::pool::Lease;

/// The texts that sequences were encoded with, by slot.
#[derive(Debug)]
pub(crate) struct Encoded {
    texts: Vec<Text>,
}

#[derive(Debug, Default, Clone)]
struct Text {
    /// Whose it is; `None` before the slot's first.
    of: Option<SeqId>,
    tokens: Vec<i32>,
    /// Whether the last encoding has it.
    current: bool,
}

impl Encoded {
    pub(crate) fn new(slots: u32) -> Self {
        Self { texts: vec![Text::default(); slots as usize] }
    }

    fn text(&self, id: SeqId) -> Option<&Text> {
        self.texts.get(id.slot as usize).filter(|text| text.of == Some(id))
    }

    /// Whether a sequence is in the last encoding.
    pub(crate) fn has(&self, id: SeqId) -> bool {
        self.text(id).is_some_and(|text| text.current)
    }

    /// Refuses to decode a sequence that is not in the last encoding.
    pub(crate) fn check_decode(&self, id: SeqId) -> Result<(), DecodeError> {
        if self.has(id) { Ok(()) } else { Err(DecodeError::NotEncoded { id }) }
    }

    /// Refuses another text for a sequence whose tokens in memory were decoded with one in view.
    ///
    /// Where the text is not known, as after the sequence's memory came from elsewhere, any is taken.
    pub(crate) fn check_encode(&self, lease: &Lease, tokens: impl Iterator<Item = i32>) -> Result<(), DecodeError> {
        let (id, length) = (lease.id(), lease.length());
        match self.text(id) {
            Some(text) if length > 0 && !text.tokens.iter().copied().eq(tokens) => {
                Err(DecodeError::EncodedOtherwise { id, length })
            }
            _ => Ok(()),
        }
    }

    /// A new encoding has replaced the last one: no sequence is in it but those [added](Self::add) from here on.
    pub(crate) fn replace(&mut self) {
        for text in &mut self.texts {
            text.current = false;
        }
    }

    /// A sequence is in the last encoding.
    pub(crate) fn add(&mut self, id: SeqId, tokens: impl Iterator<Item = i32>) {
        let Some(text) = self.texts.get_mut(id.slot as usize) else { return };
        text.of = Some(id);
        text.current = true;
        text.tokens.clear();
        text.tokens.extend(tokens);
    }

    /// What a saved state has of a sequence before its memory: how many tokens its text has, and which.
    pub(crate) fn to_bytes(&self, id: SeqId) -> Vec<u8> {
        let tokens = self.text(id).map_or(&[][..], |text| &text.tokens);
        let numbers = std::iter::once(tokens.len() as i32).chain(tokens.iter().copied());
        numbers.flat_map(i32::to_ne_bytes).collect()
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote, and gives what follows it.
    pub(crate) fn from_bytes(bytes: &[u8], vocabulary: u32) -> Result<(Vec<i32>, &[u8]), StateError> {
        let malformed = |what| StateError::Malformed { at: 0, what };
        let (count, rest) = bytes.split_first_chunk().ok_or(malformed("tokens of the encoder's text"))?;
        let count = usize::try_from(u32::from_ne_bytes(*count)).ok().and_then(|count| count.checked_mul(4));
        let split = count.and_then(|count| rest.split_at_checked(count));
        let (tokens, rest) = split.ok_or(malformed("tokens of the encoder's text"))?;
        let tokens: Vec<_> = tokens.as_chunks().0.iter().map(|token| i32::from_ne_bytes(*token)).collect();
        match tokens.iter().all(|token| (0..i64::from(vocabulary)).contains(&i64::from(*token))) {
            true => Ok((tokens, rest)),
            false => Err(malformed("a token of the encoder's text")),
        }
    }

    /// A restored sequence has its text, but is in no encoding.
    pub(crate) fn restore(&mut self, id: SeqId, tokens: Vec<i32>) {
        if let Some(text) = self.texts.get_mut(id.slot as usize) {
            *text = Text { of: Some(id), tokens, current: false };
        }
    }

    /// A fork has its parent's text, but is not in the encoding, which knows the parent's slot alone.
    pub(crate) fn fork(&mut self, from: SeqId, to: SeqId) {
        let Some(text) = self.text(from) else { return };
        let copy = Text { of: Some(to), tokens: text.tokens.clone(), current: false };
        if let Some(text) = self.texts.get_mut(to.slot as usize) {
            *text = copy;
        }
    }
}

/// The numbers of an encoder-decoder that llama.cpp computes with unchecked.
///
/// The bucket of a distance is divided by the logarithm of 128 over half (the encoder: a quarter) of the buckets, so that
/// fewer than 4 or more than 255 give rows that the bias does not have (`llama_relative_position_bucket`,
/// llama-graph.cpp:4010; an assertion of `get_rows`).
pub(crate) fn buckets_are_sound(buckets: Option<u32>) -> bool {
    buckets.is_some_and(|buckets| (4..=255).contains(&buckets))
}

/// A token of a text to be encoded has no position of its own: distances count, so the text may begin where the sequence's
/// tokens end, which is what llama.cpp asks of it (llama-batch.cpp:388). Only `int32_t` limits it.
pub(crate) fn check_length(id: SeqId, length: u32, adding: u64) -> Result<(), PushError> {
    let limit = i32::MAX as u32;
    if u64::from(length) + adding > u64::from(limit) {
        return Err(PushError::SequenceFull { id, length, adding, limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ContextId;
    use crate::pool::Pool;

    #[test]
    fn only_the_last_encoding_counts_and_a_text_that_is_in_use_stays() {
        let mut pool = Pool::new(ContextId::next(), 2);
        let (a, b) = (pool.lease().unwrap(), pool.lease().unwrap());
        let mut encoded = Encoded::new(2);
        assert_eq!(encoded.check_decode(a.id()), Err(DecodeError::NotEncoded { id: a.id() }));
        encoded.add(a.id(), [1, 2].into_iter());
        assert_eq!(encoded.check_decode(a.id()), Ok(()));
        a.set_length(3);
        encoded.replace();
        encoded.add(b.id(), [7].into_iter());
        assert_eq!(encoded.check_decode(a.id()), Err(DecodeError::NotEncoded { id: a.id() }));
        assert_eq!(encoded.check_encode(&a, [1, 2].into_iter()), Ok(()));
        for other in [vec![1], vec![1, 2, 3], vec![2, 1]] {
            let refused = Err(DecodeError::EncodedOtherwise { id: a.id(), length: 3 });
            assert_eq!(encoded.check_encode(&a, other.into_iter()), refused);
        }
        a.set_length(0);
        assert_eq!(encoded.check_encode(&a, [5].into_iter()), Ok(()));
    }

    #[test]
    fn a_restored_sequence_has_its_text_and_no_encoding() {
        let mut pool = Pool::new(ContextId::next(), 2);
        let (old, new) = (pool.lease().unwrap(), pool.lease().unwrap());
        let mut encoded = Encoded::new(2);
        encoded.add(old.id(), [1, 2].into_iter());
        let bytes = [encoded.to_bytes(old.id()), vec![9]].concat();
        let (tokens, rest) = Encoded::from_bytes(&bytes, 3).unwrap();
        assert_eq!((tokens.as_slice(), rest), (&[1, 2][..], &[9][..]));
        assert!(Encoded::from_bytes(&bytes, 2).is_err(), "2 is no token");
        assert!((0..12).all(|length| Encoded::from_bytes(&bytes[..length], 3).is_err()));
        encoded.restore(new.id(), tokens);
        new.set_length(1);
        assert!(!encoded.has(new.id()));
        assert!(encoded.check_encode(&new, [1].into_iter()).is_err());
        assert!(encoded.check_encode(&new, [1, 2].into_iter()).is_ok());
    }

    #[test]
    fn a_slot_with_a_new_owner_has_no_text() {
        let mut pool = Pool::new(ContextId::next(), 1);
        let old = pool.lease().unwrap();
        let mut encoded = Encoded::new(1);
        encoded.add(old.id(), [1].into_iter());
        old.release();
        pool.reclaim(|_| Ok::<(), ()>(())).unwrap();
        let new = pool.lease().unwrap();
        assert_eq!(encoded.check_decode(new.id()), Err(DecodeError::NotEncoded { id: new.id() }));
    }

    #[test]
    fn a_fork_must_be_encoded_with_its_parents_text() {
        let mut pool = Pool::new(ContextId::next(), 2);
        let (parent, fork) = (pool.lease().unwrap(), pool.lease().unwrap());
        let mut encoded = Encoded::new(2);
        encoded.add(parent.id(), [1, 2].into_iter());
        fork.set_length(1);
        encoded.fork(parent.id(), fork.id());
        assert!(encoded.has(parent.id()) && !encoded.has(fork.id()));
        assert!(encoded.check_encode(&fork, [1, 2].into_iter()).is_ok());
        assert!(encoded.check_encode(&fork, [1].into_iter()).is_err());
    }
}
