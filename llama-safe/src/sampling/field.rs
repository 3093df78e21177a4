//! What is left to choose from, while a chain works on it.
//!
//! At first that is the whole row of logits, read where it lies, or a copy once a step changes it. The first step that
//! takes some away, or needs them in order, makes a list of the others. Forbidden tokens, those at minus infinity, are in
//! no list; they are counted, since llama.cpp keeps them and some of its formulas depend on how many candidates there are.

use std::cmp::Ordering;
use std::collections::HashMap;

use crate::error::SamplingError;
use crate::scan::{self, BLOCK};

use super::candidates::Candidate;

/// Below `exp` of this a 32-bit float is zero.
const NO_WEIGHT: f32 = -104.0;

/// Memory that a sampler keeps from one call to the next.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    values: Vec<f32>,
    maxima: Vec<f32>,
    bounds: Vec<f32>,
    /// `exp` of each logit of the row less the highest: probabilities that are not divided by their sum yet.
    pub(super) weights: Vec<f32>,
    keys: Vec<u64>,
    pub(super) list: Vec<Candidate>,
    pub(super) spare: Vec<Candidate>,
    pub(super) scores: Vec<(f32, u32)>,
    pub(super) order: Vec<u32>,
    pub(super) begun: Vec<u32>,
}

impl Clone for Buffers {
    /// A fork has no use for what is written anew in each call.
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// Candidates: the row of logits, or a list.
pub(super) struct Field<'a> {
    logits: &'a [f32],
    /// Whether the row is `buffers.values`.
    owned: bool,
    /// Whether it is a row still.
    row: bool,
    /// Whether the list goes from the highest logit to the lowest.
    pub(super) sorted: bool,
    /// Candidates at minus infinity that are not in the list.
    pub(super) forbidden: usize,
    pub(super) buffers: &'a mut Buffers,
}

impl<'a> Field<'a> {
    pub(super) fn new(
        logits: &'a [f32],
        mask: Option<&[u64]>,
        buffers: &'a mut Buffers,
    ) -> Result<Self, SamplingError> {
        const MAX: usize = i32::MAX as usize;
        match logits.len() {
            0 => return Err(SamplingError::NoLogits),
            got if got > MAX => return Err(SamplingError::TooManyLogits { got, max: MAX }),
            _ => {}
        }
        let fine = scan::scan(logits, mask, &mut buffers.values, &mut buffers.maxima);
        if !fine && let Some(token) = logits.iter().position(|value| value.is_nan() || *value == f32::INFINITY) {
            return Err(SamplingError::NotFinite { token, value: logits[token] });
        }
        let field = Self { logits, owned: mask.is_some(), row: true, sorted: false, forbidden: 0, buffers };
        field.check_any()?;
        Ok(field)
    }

    fn check_any(&self) -> Result<(), SamplingError> {
        if self.highest() == f32::NEG_INFINITY { Err(SamplingError::NothingAllowed) } else { Ok(()) }
    }

    /// Tokens of the vocabulary.
    pub(super) fn vocabulary(&self) -> usize {
        self.logits.len()
    }

    /// Candidates, as llama.cpp counts them: with those at minus infinity.
    pub(super) fn len(&self) -> usize {
        if self.row { self.logits.len() } else { self.buffers.list.len() + self.forbidden }
    }

    /// The row, if no list was made yet.
    pub(super) fn row(&self) -> Option<&[f32]> {
        self.row.then(|| self.values())
    }

    fn values(&self) -> &[f32] {
        if self.owned { &self.buffers.values } else { self.logits }
    }

    /// Whether the row has the token and it is not forbidden there.
    pub(super) fn is_allowed(&self, token: i32) -> bool {
        usize::try_from(token).ok().and_then(|token| self.values().get(token)).is_some_and(|v| *v > f32::NEG_INFINITY)
    }

    pub(super) fn highest(&self) -> f32 {
        if self.row {
            return scan::highest(&self.buffers.maxima);
        }
        let higher = |high: f32, value: f32| if value > high { value } else { high };
        match self.buffers.list.first() {
            Some(first) if self.sorted => first.logit,
            _ => self.buffers.list.iter().map(|one| one.logit).fold(f32::NEG_INFINITY, higher),
        }
    }

    fn own(&mut self) {
        if !self.owned {
            self.buffers.values.clear();
            self.buffers.values.extend_from_slice(self.logits);
            self.owned = true;
        }
    }

    /// Changes the logits of the tokens that `change` names.
    pub(super) fn adjust<V>(
        &mut self,
        change: &HashMap<i32, V>,
        new: impl Fn(f32, &V) -> f32,
    ) -> Result<(), SamplingError> {
        if change.is_empty() {
            return Ok(());
        }
        if self.row {
            self.own();
            let Buffers { values, maxima, .. } = &mut *self.buffers;
            for (&token, by) in change {
                let Ok(token) = usize::try_from(token) else { continue };
                let Some(value) = values.get_mut(token) else { continue };
                if *value == f32::NEG_INFINITY {
                    continue;
                }
                *value = new(*value, by);
                let block = token / BLOCK;
                let end = values.len().min((block + 1) * BLOCK);
                maxima[block] = scan::highest(&values[block * BLOCK..end]);
            }
        } else {
            for one in &mut self.buffers.list {
                if let Some(by) = change.get(&one.token) {
                    one.logit = new(one.logit, by);
                }
            }
            self.sorted = false;
            self.drop_forbidden();
        }
        self.check_any()
    }

    /// Takes candidates at minus infinity out of the list.
    pub(super) fn drop_forbidden(&mut self) {
        let before = self.buffers.list.len();
        self.buffers.list.retain(|one| one.logit > f32::NEG_INFINITY);
        self.forbidden += before - self.buffers.list.len();
    }

    /// Divides every logit by a number above 0.
    ///
    /// Where that overflows, differences to the highest are divided: llama.cpp goes on with infinities (llama-sampler.cpp:273).
    pub(super) fn divide(&mut self, by: f32) {
        let highest = self.highest();
        let less = if (highest / by).is_finite() { 0.0 } else { highest };
        if self.row {
            let Buffers { values, maxima, .. } = &mut *self.buffers;
            if self.owned {
                values.iter_mut().for_each(|value| *value = (*value - less) / by);
            } else {
                values.clear();
                values.extend(self.logits.iter().map(|value| (value - less) / by));
                self.owned = true;
            }
            // Division keeps the order, so that the highest of a block stays the highest.
            maxima.iter_mut().for_each(|value| *value = (*value - less) / by);
        } else {
            self.buffers.list.iter_mut().for_each(|one| one.logit = (one.logit - less) / by);
            self.drop_forbidden();
        }
    }

    /// Keeps the highest alone: the first of several.
    pub(super) fn keep_highest(&mut self) {
        let Some(place) = self.place_of_highest() else { return };
        let others = self.len() - 1;
        if let Some(row) = self.row() {
            let best = Candidate { token: place as i32, logit: row[place], p: 0.0 };
            self.start_list();
            self.buffers.list.push(best);
        } else {
            self.buffers.list.swap(0, place);
            self.buffers.list.truncate(1);
        }
        self.forbidden = others;
        self.sorted = true;
    }

    /// The place of the highest logit in the row or list, the first of several.
    pub(super) fn place_of_highest(&self) -> Option<usize> {
        let highest = self.highest();
        let Some(row) = self.row() else {
            return self.buffers.list.iter().position(|one| one.logit == highest);
        };
        let block = self.buffers.maxima.iter().position(|maximum| *maximum == highest)? * BLOCK;
        row[block..].iter().position(|value| *value == highest).map(|place| block + place)
    }

    fn start_list(&mut self) {
        self.buffers.list.clear();
        self.row = false;
        self.forbidden = 0;
        self.sorted = false;
    }

    /// Makes a list of all that is not forbidden, in the order of their ids.
    pub(super) fn list(&mut self) {
        if self.row {
            self.list_from(f32::NEG_INFINITY);
            self.forbidden = self.logits.len() - self.buffers.list.len();
        }
    }

    /// Makes a list of the row's tokens whose logit is at least `bound`, in the order of their ids.
    pub(super) fn list_from(&mut self, bound: f32) {
        self.start_list();
        let Buffers { values, maxima, list, .. } = &mut *self.buffers;
        let row = if self.owned { &values[..] } else { self.logits };
        each_from(row, maxima, bound, |token, logit| list.push(Candidate { token, logit, p: 0.0 }));
    }

    /// Keeps the `k` highest, in order; of equals at the end those with the lowest ids.
    pub(super) fn top(&mut self, k: usize) {
        let k = k.min(self.len());
        if self.row {
            self.top_of_row(k);
            return;
        }
        if !self.sorted {
            let list = &mut self.buffers.list;
            if k > 0 && k < list.len() {
                list.select_nth_unstable_by(k - 1, descending);
                list.truncate(k);
                self.forbidden = 0;
            }
            self.sort();
        }
        self.truncate(k);
    }

    /// Makes the list of the `k` highest of the row.
    pub(super) fn top_of_row(&mut self, k: usize) {
        self.start_list();
        let Buffers { values, maxima, bounds, keys, list, .. } = &mut *self.buffers;
        let row = if self.owned { &values[..] } else { self.logits };
        let bound = if k > 0 && k < maxima.len() {
            bounds.clear();
            bounds.extend_from_slice(maxima);
            *bounds.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
        } else {
            f32::NEG_INFINITY
        };
        keys.clear();
        each_from(row, maxima, bound, |token, logit| keys.push(key(token, logit)));
        if k < keys.len() && k > 0 {
            keys.select_nth_unstable_by(k - 1, |a, b| b.cmp(a));
            keys.truncate(k);
        }
        keys.sort_unstable_by(|a, b| b.cmp(a));
        list.extend(keys.iter().map(|key| of_key(*key)));
        self.sorted = true;
        self.forbidden = k - self.buffers.list.len();
    }

    /// Makes a list from the highest to the lowest; equals in the order of their ids.
    pub(super) fn sort(&mut self) {
        if self.row {
            self.top_of_row(self.logits.len());
        } else if !self.sorted {
            self.buffers.list.sort_unstable_by(descending);
            self.sorted = true;
        }
    }

    /// Keeps the first so many of the list, those at minus infinity counted as the last.
    pub(super) fn truncate(&mut self, count: usize) {
        let listed = self.buffers.list.len();
        self.buffers.list.truncate(count);
        self.forbidden = self.forbidden.min(count.saturating_sub(listed));
    }

    /// Sets the probabilities of the list, rounded as llama.cpp rounds them: sums in 32 bits, in the list's order.
    pub(super) fn softmax(&mut self) {
        let highest = self.highest();
        softmax(&mut self.buffers.list, highest);
    }

    /// `exp` of each logit of the row less the highest, into `buffers.weights`.
    pub(super) fn weigh_row(&mut self) {
        let highest = self.highest();
        let Buffers { values, maxima, weights, .. } = &mut *self.buffers;
        let row = if self.owned { &values[..] } else { self.logits };
        weights.clear();
        for (block, maximum) in row.chunks(BLOCK).zip(maxima.iter()) {
            if maximum - highest < NO_WEIGHT {
                weights.resize(weights.len() + block.len(), 0.0);
            } else {
                weights.extend(block.iter().map(|value| (value - highest).exp()));
            }
        }
    }
}

/// Sets the probabilities of a list whose logits are compared to `highest`.
pub(super) fn softmax(list: &mut [Candidate], highest: f32) {
    let mut sum = 0.0f32;
    for one in &mut *list {
        one.p = (one.logit - highest).exp();
        sum += one.p;
    }
    list.iter_mut().for_each(|one| one.p /= sum);
}

/// The higher logit first; the lower id of equals.
pub(super) fn descending(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal).then(a.token.cmp(&b.token))
}

/// Calls `each` for the tokens of a row whose logits are at least `bound` and not minus infinity.
fn each_from(row: &[f32], maxima: &[f32], bound: f32, mut each: impl FnMut(i32, f32)) {
    for (index, (block, maximum)) in row.chunks(BLOCK).zip(maxima).enumerate() {
        if *maximum < bound || *maximum == f32::NEG_INFINITY {
            continue;
        }
        for (place, &logit) in block.iter().enumerate() {
            if logit >= bound && logit > f32::NEG_INFINITY {
                each((index * BLOCK + place) as i32, logit);
            }
        }
    }
}

/// A number that is higher for a higher logit, and for the lower id of equals.
fn key(token: i32, logit: f32) -> u64 {
    // Minus zero is equal to zero.
    let bits = (logit + 0.0).to_bits();
    let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    u64::from(ordered) << 32 | u64::from(!(token as u32))
}

fn of_key(key: u64) -> Candidate {
    let ordered = (key >> 32) as u32;
    let bits = if ordered >> 31 == 1 { ordered & !(1 << 31) } else { !ordered };
    Candidate { token: !(key as u32) as i32, logit: f32::from_bits(bits), p: 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn logits() -> impl Strategy<Value = Vec<f32>> {
        let one = prop_oneof![8 => -20.0f32..20.0, 1 => Just(f32::NEG_INFINITY), 1 => (-3i8..3).prop_map(f32::from)];
        proptest::collection::vec(one, 1..1500)
    }

    proptest! {
        /// The highest `k` by blocks are those of a whole sort.
        #[test]
        fn the_top_is_that_of_a_whole_sort(logits in logits(), k in 1usize..200, before in any::<bool>()) {
            prop_assume!(logits.iter().any(|value| *value > f32::NEG_INFINITY));
            let mut naive: Vec<Candidate> = (0..).zip(&logits).map(|(token, &logit)| Candidate { token, logit, p: 0.0 }).collect();
            naive.sort_by(descending);
            naive.truncate(k);
            let possible: Vec<_> = naive.iter().filter(|one| one.logit > f32::NEG_INFINITY).map(|one| one.token).collect();
            let mut buffers = Buffers::default();
            let mut field = Field::new(&logits, None, &mut buffers).unwrap();
            if before {
                field.list();
            }
            field.top(k);
            prop_assert_eq!(field.len(), naive.len());
            prop_assert_eq!(field.buffers.list.iter().map(|one| one.token).collect::<Vec<_>>(), possible);
        }

        #[test]
        fn keys_go_there_and_back(token in 0..i32::MAX, logit in -1e30f32..1e30) {
            let back = of_key(key(token, logit));
            prop_assert_eq!((back.token, back.logit), (token, logit));
        }
    }

    #[test]
    fn a_division_that_overflows_keeps_the_differences() {
        let logits = [3.0f32, 2.0, 3.0, f32::NEG_INFINITY];
        for list in [false, true] {
            let mut buffers = Buffers::default();
            let mut field = Field::new(&logits, None, &mut buffers).unwrap();
            if list {
                field.list();
            }
            field.divide(1e-45);
            field.list();
            assert_eq!(field.buffers.list.iter().map(|one| one.token).collect::<Vec<_>>(), [0, 2]);
            assert_eq!(field.len(), 4);
        }
    }
}
