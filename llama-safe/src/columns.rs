//! The columns of a batch, and their order when they are lent to llama.cpp.
#![forbid(unsafe_code)]

use crate::place::Place;

/// One array a column, as llama.cpp reads them. All but `embeddings` and `places` have one element a row.
///
/// ```text
/// tokens      [n]          the token, in a batch of tokens; otherwise empty
/// embeddings  [n, width]   the input embedding, in a batch of embeddings; otherwise empty
/// positions   [n]          place in its sequence: derived, but for embeddings of a model with M-RoPE
/// places      [n, 3]       height, width and a fourth number, in a batch of embeddings for such a model; otherwise empty
/// sequences   [n]          slot of its sequence
/// outputs     [n]          1 where an output is wanted
/// ```
#[derive(Debug, Default)]
pub(crate) struct Columns {
    pub(crate) tokens: Vec<i32>,
    pub(crate) embeddings: Vec<f32>,
    pub(crate) positions: Vec<i32>,
    pub(crate) places: Vec<[i32; 3]>,
    pub(crate) sequences: Vec<i32>,
    pub(crate) outputs: Vec<i8>,
}

impl Columns {
    /// Rows.
    pub(crate) fn len(&self) -> usize {
        self.positions.len()
    }

    pub(crate) fn clear(&mut self) {
        self.tokens.clear();
        self.embeddings.clear();
        self.positions.clear();
        self.places.clear();
        self.sequences.clear();
        self.outputs.clear();
    }

    /// The input embedding of a row.
    pub(crate) fn embedding(&self, row: usize) -> Option<&[f32]> {
        let width = self.embeddings.len().checked_div(self.len())?;
        self.embeddings.get(row * width..(row + 1) * width).filter(|embedding| !embedding.is_empty())
    }

    /// The place of a row, in a batch of embeddings for a model with M-RoPE.
    pub(crate) fn place(&self, row: usize) -> Option<Place> {
        // None of the numbers is negative.
        let [height, width, fourth] = self.places.get(row)?.map(i32::cast_unsigned);
        let time = self.positions.get(row)?.cast_unsigned();
        Some(Place { time, height, width, fourth })
    }

    /// Puts the positions of rows with places where llama.cpp looks for them: all times, all heights, all widths, and
    /// all fourth numbers (llama-batch.cpp:1380).
    pub(crate) fn flatten_places(&self, flat: &mut Vec<i32>) {
        flat.clear();
        flat.extend_from_slice(&self.positions);
        for part in 0..3 {
            flat.extend(self.places.iter().map(|place| place[part]));
        }
    }

    /// Becomes the rows of `from` in the given order.
    fn gather(&mut self, from: &Self, order: &[u32]) {
        self.clear();
        let rows = || order.iter().map(|row| *row as usize);
        if !from.tokens.is_empty() {
            self.tokens.extend(rows().map(|row| from.tokens[row]));
        }
        for row in rows() {
            self.embeddings.extend_from_slice(from.embedding(row).unwrap_or_default());
        }
        self.positions.extend(rows().map(|row| from.positions[row]));
        if !from.places.is_empty() {
            self.places.extend(rows().map(|row| from.places[row]));
        }
        self.sequences.extend(rows().map(|row| from.sequences[row]));
        self.outputs.extend(rows().map(|row| from.outputs[row]));
    }
}

/// Rows arranged by the slot of their sequence.
///
/// With a split cache llama.cpp computes in one pass only sequences whose slots follow each other in the batch
/// (`split_equal`, llama-batch.cpp): four tokens pushed for slots 3, 2, 1, 0 take four passes, in slot order one. So the
/// order of pushing must not be the order of lending.
#[derive(Debug, Default)]
pub(crate) struct BySlot {
    columns: Columns,
    /// Place in the arrangement to row of the batch.
    order: Vec<u32>,
    /// Row of the batch to place in the arrangement; empty where they are the same.
    places: Vec<u32>,
}

impl BySlot {
    /// Arranges rows, keeping the order within each sequence. Copies only where they are not in order already.
    pub(crate) fn arrange<'a>(&'a mut self, rows: &'a mut Columns) -> &'a mut Columns {
        self.places.clear();
        if rows.sequences.is_sorted() {
            return rows;
        }
        // A batch has at most `i32::MAX` rows.
        let count = rows.len() as u32;
        self.order.clear();
        self.order.extend(0..count);
        // Unstable sorting allocates nothing; the row makes every key unique, and so the order stable.
        self.order.sort_unstable_by_key(|row| (rows.sequences[*row as usize], *row));
        self.places.resize(count as usize, 0);
        for (place, row) in (0..count).zip(&self.order) {
            self.places[*row as usize] = place;
        }
        self.columns.gather(rows, &self.order);
        &mut self.columns
    }

    /// Where a row of the batch stands in the arrangement.
    pub(crate) fn place(&self, row: u32) -> u32 {
        self.places.get(row as usize).copied().unwrap_or(row)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Slots ascend, each sequence keeps its order, every row keeps its columns, and `place` finds it.
        #[test]
        fn rows_are_arranged_by_slot(slots in prop::collection::vec(0i32..5, 1..40), embeddings: bool) {
            let count = slots.len() as i32;
            let mut rows = Columns {
                tokens: if embeddings { Vec::new() } else { (100..100 + count).collect() },
                embeddings: if embeddings { (0..3 * count).map(|number| number as f32).collect() } else { Vec::new() },
                positions: (0..count).collect(),
                places: if embeddings { (0..count).map(|row| [row, 2 * row, 3 * row]).collect() } else { Vec::new() },
                sequences: slots.clone(),
                outputs: (0..count).map(|row| (row % 2) as i8).collect(),
            };
            let mut by_slot = BySlot::default();
            let arranged = by_slot.arrange(&mut rows);
            prop_assert!(arranged.sequences.is_sorted());
            prop_assert_eq!(arranged.len(), slots.len());
            let (positions, outputs) = (arranged.positions.clone(), arranged.outputs.clone());
            let mut flat = Vec::new();
            arranged.flatten_places(&mut flat);
            let (tokens, arranged_slots) = (arranged.tokens.clone(), arranged.sequences.clone());
            let all: Vec<Option<Vec<f32>>> =
                (0..slots.len()).map(|row| arranged.embedding(row).map(<[f32]>::to_vec)).collect();
            for pair in (0..slots.len()).collect::<Vec<_>>().windows(2) {
                prop_assert!(arranged_slots[pair[0]] < arranged_slots[pair[1]] || positions[pair[0]] < positions[pair[1]]);
            }
            for row in 0..count {
                let place = by_slot.place(row as u32) as usize;
                prop_assert_eq!(positions[place], row);
                prop_assert_eq!(arranged_slots[place], slots[row as usize]);
                prop_assert_eq!(outputs[place], (row % 2) as i8);
                if embeddings {
                    let wanted: Vec<f32> = (3 * row..3 * row + 3).map(|number| number as f32).collect();
                    prop_assert_eq!(all[place].as_ref(), Some(&wanted));
                    let flat: Vec<i32> = (0..4).map(|part| flat[part * slots.len() + place]).collect();
                    prop_assert_eq!(flat, [row, row, 2 * row, 3 * row]);
                } else {
                    prop_assert_eq!(tokens[place], 100 + row);
                    prop_assert_eq!(&all[place], &None);
                }
            }
        }
    }
}
