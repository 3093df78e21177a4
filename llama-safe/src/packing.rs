//! Which texts go into which batch. Plain numbers, no llama.cpp.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

/// What one batch has room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Room {
    /// Tokens, over all of its texts.
    pub(crate) tokens: u32,
    /// Texts: each takes a sequence.
    pub(crate) texts: u32,
}

/// Shares texts out to few batches, given the length of each in tokens (1 to `room.tokens`): the indices of the texts
/// of each batch.
///
/// Longest first, each into the fullest batch that has room, a new one only where none has. So when the last batch is
/// begun, every other lacks room for a text that long, in tokens or in number: where no text is longer than a tenth of the
/// room, and the number of texts does not bind, all batches but the last are at least nine tenths full.
pub(crate) fn pack(lengths: &[u32], room: Room) -> Vec<Vec<usize>> {
    let mut longest_first: Vec<usize> = (0..lengths.len()).collect();
    longest_first.sort_by_key(|text| std::cmp::Reverse(lengths[*text]));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    // Tokens left in a batch, and the batch: those that may take another text.
    let mut open: BTreeSet<(u32, usize)> = BTreeSet::new();
    for text in longest_first {
        let length = lengths[text];
        let fullest = open.range((length, 0)..).next().copied();
        let (left, batch) = fullest.unwrap_or((room.tokens, batches.len()));
        open.remove(&(left, batch));
        if batch == batches.len() {
            batches.push(Vec::new());
        }
        batches[batch].push(text);
        let left = left.saturating_sub(length);
        if left > 0 && batches[batch].len() < room.texts as usize {
            open.insert((left, batch));
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tokens(batch: &[usize], lengths: &[u32]) -> u32 {
        batch.iter().map(|text| lengths[*text]).sum()
    }

    #[test]
    fn nothing_needs_no_batch() {
        assert!(pack(&[], Room { tokens: 8, texts: 2 }).is_empty());
    }

    #[test]
    fn a_batch_of_one_text_each_where_there_is_one_sequence() {
        assert_eq!(pack(&[3, 8, 1], Room { tokens: 8, texts: 1 }), [[1], [0], [2]]);
    }

    /// 1,000 texts of 2 to 51 tokens, as an embedder has them: batches of 512 tokens, 256 sequences.
    #[test]
    fn a_thousand_short_texts_fill_their_batches() {
        let lengths: Vec<u32> = (0..1000u32).map(|text| 2 + text.wrapping_mul(2_654_435_761) % 50).collect();
        let batches = pack(&lengths, Room { tokens: 512, texts: 256 });
        let total: u32 = lengths.iter().sum();
        assert_eq!(batches.len() as u32, total.div_ceil(512), "not one batch more than the tokens need");
        for batch in &batches[..batches.len() - 1] {
            assert!(tokens(batch, &lengths) * 10 >= 512 * 9, "{} of 512", tokens(batch, &lengths));
        }
    }

    proptest! {
        /// Every text once; no batch over a limit; every batch but the last is full, which means: at its number of texts, or
        /// without room for the longest text of the last.
        #[test]
        fn every_text_once_and_no_batch_without_need(
            lengths in prop::collection::vec(1u32..60, 0..400),
            room in 60u32..600,
            texts in 1u32..300,
        ) {
            let batches = pack(&lengths, Room { tokens: room, texts });
            let mut seen: Vec<usize> = batches.concat();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
            let longest = batches.last().map_or(0, |batch| batch.iter().map(|text| lengths[*text]).max().unwrap());
            for (index, batch) in batches.iter().enumerate() {
                let tokens = tokens(batch, &lengths);
                prop_assert!(tokens <= room && batch.len() <= texts as usize && !batch.is_empty());
                let full = tokens + longest > room || batch.len() == texts as usize;
                prop_assert!(full || index == batches.len() - 1, "batch {} has {} of {} tokens", index, tokens, room);
            }
        }

        /// Nine tenths full, all but the last, where no text is longer than a tenth and sequences suffice.
        #[test]
        fn short_texts_leave_a_tenth_at_most(lengths in prop::collection::vec(2u32..=51, 1..1500)) {
            let batches = pack(&lengths, Room { tokens: 512, texts: 256 });
            for batch in &batches[..batches.len() - 1] {
                prop_assert!(tokens(batch, &lengths) * 10 >= 512 * 9);
            }
        }
    }
}
