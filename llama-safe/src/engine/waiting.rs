//! Requests that wait for a sequence: each step looks at the first that can go on, however many there are.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use super::job::{Job, Voice};
use super::prefix::HolderId;

/// A place in the order of those that wait.
pub(super) type Place = (i64, HolderId);

/// Those that wait, in their order. Who was found with a listener that is behind stands aside until that one has read.
pub(super) struct Waiting<S, C, V> {
    line: BTreeMap<Place, Job<S, C, V>>,
    aside: BTreeMap<Place, Job<S, C, V>>,
    places: HashMap<HolderId, Place>,
}

impl<S, C, V: Voice> Waiting<S, C, V> {
    pub(super) fn new() -> Self {
        Self { line: BTreeMap::new(), aside: BTreeMap::new(), places: HashMap::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(super) fn push(&mut self, job: Job<S, C, V>) {
        let place = (job.order, job.holder);
        self.places.insert(job.holder, place);
        self.line.insert(place, job);
    }

    /// Takes a request out; `None` if it does not wait.
    pub(super) fn take(&mut self, holder: HolderId) -> Option<Job<S, C, V>> {
        let place = self.places.remove(&holder)?;
        self.line.remove(&place).or_else(|| self.aside.remove(&place))
    }

    /// The first that can go on, of those behind `after` if that is a place.
    pub(super) fn next(&mut self, after: Option<Place>) -> Option<Place> {
        let behind = after.map_or(Bound::Unbounded, Bound::Excluded);
        loop {
            let (&place, job) = self.line.range((behind, Bound::Unbounded)).next()?;
            if !job.voice.is_full() {
                return Some(place);
            }
            if let Some(job) = self.line.remove(&place) {
                self.aside.insert(place, job);
            }
        }
    }

    /// A listener has read: if its request stood aside for it, it may go on.
    pub(super) fn heard(&mut self, holder: HolderId) {
        let aside = self.places.get(&holder).and_then(|place| self.aside.remove_entry(place));
        self.line.extend(aside);
    }

    /// Has every one go on, however far its listener is behind.
    pub(super) fn speak_on(&mut self) {
        self.line.append(&mut self.aside);
        self.line.values_mut().for_each(|job| job.voice.speak_on());
    }

    /// All of them.
    pub(super) fn holders(&self) -> Vec<HolderId> {
        self.line.keys().chain(self.aside.keys()).map(|(_, holder)| *holder).collect()
    }

    #[cfg(test)]
    pub(super) fn jobs(&self) -> impl Iterator<Item = &Job<S, C, V>> {
        self.line.values().chain(self.aside.values())
    }
}
