//! Filling in: which token ends a text that goes between two others, and which of several that begin alike stands for all.

use std::sync::Arc;

use crate::error::{SamplerParamError, SamplingError};
use crate::id::Token;
use crate::vocab::Vocab;

use super::candidates::Candidate;
use super::field::{Buffers, Field};

/// What filling in needs of a vocabulary: the bytes of each token, and which end a text.
#[derive(Debug)]
pub(super) struct Pieces {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    ends_text: Vec<bool>,
    end: i32,
}

impl Pieces {
    pub(super) fn of(vocab: &Vocab<'_>) -> Result<Arc<Self>, SamplerParamError> {
        let end = vocab.eot().or(vocab.eos()).ok_or(SamplerParamError::NoEndToken)?.0;
        let size = vocab.size() as usize;
        let mut pieces = Self { bytes: Vec::new(), ends: Vec::with_capacity(size), ends_text: Vec::new(), end };
        let mut piece = vec![0; 64];
        for token in (0..size as i32).map(Token) {
            let length = vocab.piece_into(token, false, &mut piece)?;
            pieces.bytes.extend_from_slice(&piece[..length]);
            pieces.ends.push(pieces.bytes.len());
            pieces.ends_text.push(vocab.is_end_of_generation(token)?);
        }
        Ok(Arc::new(pieces))
    }

    fn piece(&self, token: i32) -> &[u8] {
        let token = token as usize;
        let start = token.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[token]]
    }

    fn is_end(&self, one: &Candidate) -> bool {
        self.ends_text[one.token as usize]
    }

    pub(super) fn apply(&self, field: &mut Field<'_>) -> Result<(), SamplingError> {
        let (expected, got) = (self.ends.len(), field.vocabulary());
        if got != expected {
            return Err(SamplingError::OtherVocabulary { expected, got });
        }
        // Only the row tells whether the end is forbidden by what came before.
        let end_is_allowed = field.is_allowed(self.end);
        field.sort();
        field.softmax();
        let count = field.len();
        let (mut text, mut end) = (0.0f32, 0.0f32);
        for one in &field.buffers.list {
            *(if self.is_end(one) { &mut end } else { &mut text }) += one.p;
        }
        if 3.0 * end * count as f32 > text {
            field.buffers.list.retain(|one| self.is_end(one));
            field.forbidden = 0;
            return Ok(());
        }
        let likeliest = field.buffers.list[0];
        self.combine(field.buffers);
        field.drop_forbidden();
        self.keep_likely(field, 0.2);
        let texts = field.buffers.list.iter().filter(|one| !self.is_end(one)).count();
        if texts == 0 {
            // llama.cpp takes the end even where it is forbidden.
            let end = Candidate { token: self.end, logit: 1.0, p: 1.0 };
            field.buffers.list.clear();
            field.buffers.list.push(if end_is_allowed { end } else { likeliest });
            field.forbidden = 0;
            return Ok(());
        }
        let mut sum = 0.0f32;
        field.buffers.list.iter().for_each(|one| sum += one.p);
        field.buffers.list.iter_mut().for_each(|one| one.p /= sum);
        self.keep_likely(field, (1.0 / (texts as f64 + 1.0)) as f32);
        Ok(())
    }

    fn keep_likely(&self, field: &mut Field<'_>, least: f32) {
        field.buffers.list.retain(|one| one.p >= least || self.is_end(one));
    }

    /// Adds the probability of a token to that of one whose text begins the same, in llama.cpp's order, and forbids it.
    ///
    /// llama.cpp compares every pair; here the tokens that begin with a text stand together in the order of texts, so that
    /// 150,000 candidates do not take hours.
    fn combine(&self, buffers: &mut Buffers) {
        let Buffers { list, order, begun, .. } = buffers;
        order.clear();
        order.extend(0..list.len() as u32);
        let piece_at = |list: &[Candidate], place: u32| self.piece(list[place as usize].token);
        order.sort_unstable_by(|a, b| piece_at(list, *a).cmp(piece_at(list, *b)));
        for first in 0..list.len() {
            let piece = self.piece(list[first].token);
            if piece.is_empty() || list[first].logit == f32::NEG_INFINITY {
                continue;
            }
            let from = order.partition_point(|place| piece_at(list, *place) < piece);
            begun.clear();
            begun.extend(order[from..].iter().take_while(|place| piece_at(list, **place).starts_with(piece)));
            begun.sort_unstable();
            for second in begun.iter().map(|place| *place as usize) {
                if second == first || list[second].logit == f32::NEG_INFINITY {
                    continue;
                }
                let second_is_likelier = list[second].p > list[first].p;
                let (kept, gone) = if second_is_likelier { (second, first) } else { (first, second) };
                list[kept].p += list[gone].p;
                list[gone].p = 0.0;
                list[gone].logit = f32::NEG_INFINITY;
                if second_is_likelier {
                    break;
                }
            }
        }
    }
}
