//! What is looked for in a stream, item by item: how much of it the stream's end may be the beginning of.
//!
//! Knuth, Morris and Pratt, "Fast Pattern Matching in Strings", SIAM Journal on Computing 6(2), 1977. One pattern at a time:
//! stop conditions are few and tokens short. Crates for many patterns at once tell matches, not how much of an unfinished
//! one there is, which is what has to be held back.
#![forbid(unsafe_code)]

use std::sync::Arc;

/// A sequence of items to look for, of one item at least.
#[derive(Clone, Debug)]
pub(super) struct Pattern<T> {
    items: Arc<[T]>,
    /// `[n]`: length of the longest beginning of the first `n + 1` items that is their end as well, but not all of them.
    borders: Arc<[usize]>,
}

impl<T: Copy + Eq> Pattern<T> {
    pub(super) fn new(items: &[T]) -> Self {
        let mut borders = Vec::with_capacity(items.len());
        for item in items {
            // The first item has no shorter beginning before it; the others go on from the border of those before.
            let border = borders.last().map_or(0, |&border| advance(items, &borders, border, *item));
            borders.push(border);
        }
        Self { items: items.into(), borders: borders.into() }
    }

    pub(super) fn items(&self) -> &Arc<[T]> {
        &self.items
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// How many items of the pattern the stream ends with, behind `item`, where it ended with `matched` before.
    pub(super) fn advance(&self, matched: usize, item: T) -> usize {
        advance(&self.items, &self.borders, matched, item)
    }
}

fn advance<T: Eq>(items: &[T], borders: &[usize], mut matched: usize, item: T) -> usize {
    loop {
        if items.get(matched) == Some(&item) {
            return matched + 1;
        }
        match matched.checked_sub(1).and_then(|last| borders.get(last)) {
            Some(&border) => matched = border,
            None => return 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The longest beginning of `pattern` that `stream` ends with.
    fn slow(pattern: &[u8], stream: &[u8]) -> usize {
        (0..=pattern.len()).rev().find(|length| stream.ends_with(&pattern[..*length])).unwrap_or(0)
    }

    proptest! {
        #[test]
        fn the_longest_beginning_is_known_at_every_item(
            pattern in prop::collection::vec(0u8..3, 1..9),
            stream in prop::collection::vec(0u8..3, 0..60),
        ) {
            let built = Pattern::new(&pattern);
            prop_assert_eq!(built.len(), pattern.len());
            let mut matched = 0;
            for end in 0..stream.len() {
                matched = built.advance(matched, stream[end]);
                prop_assert_eq!(matched, slow(&pattern, &stream[..=end]), "behind item {}", end);
            }
        }
    }
}
