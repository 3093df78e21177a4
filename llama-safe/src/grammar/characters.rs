//! Sets of characters as steps over the bytes of their UTF-8: a token may end within a character.

use std::collections::HashMap;

use regex_syntax::utf8::Utf8Sequences;

/// The character is whole after this byte.
pub(super) const WHOLE: u32 = u32::MAX;
/// A place within a character from where no byte goes on.
pub(super) const NOWHERE: u32 = 0;

/// From these bytes, both ends included, to that place within a character.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct Edge {
    pub(super) low: u8,
    pub(super) high: u8,
    pub(super) to: u32,
}

/// The places within characters of all sets of a grammar; equal ones are one.
#[derive(Debug)]
pub(super) struct Characters {
    places: Vec<Box<[Edge]>>,
    index: HashMap<Box<[Edge]>, u32>,
}

impl Characters {
    pub(super) fn new() -> Self {
        let mut characters = Self { places: vec![], index: HashMap::new() };
        let nowhere = characters.place(vec![]);
        debug_assert_eq!(nowhere, NOWHERE);
        characters
    }

    fn place(&mut self, mut edges: Vec<Edge>) -> u32 {
        edges.sort_unstable();
        edges.dedup();
        let edges: Box<[Edge]> = edges.into();
        let next = self.places.len() as u32;
        *self.index.entry(edges).or_insert_with_key(|edges| {
            self.places.push(edges.clone());
            next
        })
    }

    /// The place before the first byte of a character of these ranges.
    pub(super) fn set(&mut self, ranges: &[(char, char)]) -> u32 {
        let mut first = Vec::new();
        for &(low, high) in ranges {
            for sequence in Utf8Sequences::new(low, high) {
                let mut to = WHOLE;
                for (index, range) in sequence.as_slice().iter().enumerate().rev() {
                    let edge = Edge { low: range.start, high: range.end, to };
                    if index == 0 {
                        first.push(edge);
                    } else {
                        to = self.place(vec![edge]);
                    }
                }
            }
        }
        self.place(first)
    }

    /// Where bytes lead from a place.
    pub(super) fn edges(&self, place: u32) -> &[Edge] {
        self.places.get(place as usize).map_or(&[], |edges| edges)
    }

    /// A class for each byte: bytes of one class lead to the same places from everywhere. And how many classes there are.
    pub(super) fn classes(&self) -> ([u8; 256], usize) {
        // Where a class begins.
        let mut begins = [false; 257];
        for edge in self.places.iter().flat_map(|edges| edges.iter()) {
            begins[edge.low as usize] = true;
            begins[edge.high as usize + 1] = true;
        }
        let mut class = 0u8;
        let classes = std::array::from_fn(|byte| {
            if byte > 0 && begins[byte] {
                // At most 255 bytes come after the first.
                class += 1;
            }
            class
        });
        (classes, class as usize + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the bytes are one whole character of the set.
    fn matches(characters: &Characters, set: u32, bytes: &[u8]) -> bool {
        let mut places = vec![set];
        for (index, &byte) in bytes.iter().enumerate() {
            let step = |place: &u32| characters.edges(*place).iter().filter(|e| e.low <= byte && byte <= e.high);
            places = places.iter().flat_map(step).map(|edge| edge.to).collect();
            if places.contains(&WHOLE) && index + 1 < bytes.len() {
                return false;
            }
        }
        places.contains(&WHOLE)
    }

    #[test]
    fn a_set_takes_its_characters_and_no_others() {
        let ranges = [('0', '9'), ('é', 'ÿ'), ('ࠀ', '中'), ('\u{10000}', '🙂')];
        let mut characters = Characters::new();
        let set = characters.set(&ranges);
        for c in ('\0'..=char::MAX).step_by(7).chain(['é', 'ÿ', 'ࠀ', '中', '丮', '🙂', '🙃', '/', ':', '\u{ffff}'])
        {
            let mut bytes = [0; 4];
            let expected = ranges.iter().any(|(low, high)| (*low..=*high).contains(&c));
            assert_eq!(matches(&characters, set, c.encode_utf8(&mut bytes).as_bytes()), expected, "{c:?}");
        }
    }

    #[test]
    fn what_is_no_character_matches_nothing() {
        let mut characters = Characters::new();
        let any = characters.set(&[('\0', char::MAX)]);
        for bytes in
            [&b"\x80"[..], b"\xc0\x80", b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xff", b"\xe4\xb8"]
        {
            assert!(!matches(&characters, any, bytes), "{bytes:x?}");
        }
    }

    #[test]
    fn bytes_of_a_class_lead_to_the_same_places() {
        let mut characters = Characters::new();
        characters.set(&[('a', 'z'), ('é', 'é')]);
        characters.set(&[('m', 'p')]);
        let (classes, count) = characters.classes();
        assert_eq!(count, usize::from(classes[255]) + 1);
        for place in &characters.places {
            for byte in 1..=255u8 {
                let to = |byte| place.iter().filter(|e| e.low <= byte && byte <= e.high).collect::<Vec<_>>();
                if classes[byte as usize] == classes[byte as usize - 1] {
                    assert_eq!(to(byte), to(byte - 1));
                }
            }
        }
        assert_ne!(classes[b'l' as usize], classes[b'm' as usize]);
        assert_eq!(classes[b'a' as usize], classes[b'l' as usize]);
    }
}
