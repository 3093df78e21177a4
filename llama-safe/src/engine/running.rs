//! Requests that have a sequence.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};

use super::job::Job;
use super::prefix::HolderId;

/// They are a slice, in no order, in which each is found by its number.
pub(super) struct Running<S, C, V> {
    jobs: Vec<Job<S, C, V>>,
    places: HashMap<HolderId, usize>,
}

impl<S, C, V> Running<S, C, V> {
    pub(super) fn new() -> Self {
        Self { jobs: Vec::new(), places: HashMap::new() }
    }

    pub(super) fn place(&self, holder: HolderId) -> Option<usize> {
        self.places.get(&holder).copied()
    }

    pub(super) fn push(&mut self, job: Job<S, C, V>) {
        self.places.insert(job.holder, self.jobs.len());
        self.jobs.push(job);
    }

    /// Takes one out; the last takes its place.
    pub(super) fn take(&mut self, place: usize) -> Job<S, C, V> {
        let job = self.jobs.swap_remove(place);
        self.places.remove(&job.holder);
        if let Some(moved) = self.jobs.get(place) {
            self.places.insert(moved.holder, place);
        }
        job
    }
}

impl<S, C, V> Deref for Running<S, C, V> {
    type Target = [Job<S, C, V>];

    fn deref(&self) -> &Self::Target {
        &self.jobs
    }
}

impl<S, C, V> DerefMut for Running<S, C, V> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.jobs
    }
}
