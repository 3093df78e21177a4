//! Embeddings through the engine's queue: a batch of them between two steps.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_channel::{Receiver, Sender};

use crate::embedder::Embedder;
use crate::error::EmbedError;
use crate::id::Token;

use super::queue::Permit;

/// Vectors of texts, one for each, in their order.
pub(crate) type Vectors = Vec<Vec<f32>>;

/// Texts to embed.
#[derive(Debug)]
pub(crate) struct EmbedJob {
    pub texts: VecDeque<Vec<Token>>,
    pub vectors: Vectors,
    pub reply: Sender<Result<Vectors, EmbedError>>,
    pub cancelled: Arc<AtomicBool>,
    pub permit: Option<Permit>,
}

/// Vectors on their way. Dropping it cancels them.
#[derive(Debug)]
#[must_use = "vectors that nobody waits for are not computed"]
pub struct Embedding {
    reply: Receiver<Result<Vectors, EmbedError>>,
    cancelled: Arc<AtomicBool>,
}

impl Embedding {
    pub(super) fn new(reply: Receiver<Result<Vectors, EmbedError>>, cancelled: Arc<AtomicBool>) -> Self {
        Self { reply, cancelled }
    }

    /// Waits for the vectors, in the order of the texts.
    ///
    /// # Errors
    ///
    /// [`EmbedError`]: a text is empty or too long, or computing failed; [`EmbedError::Stopped`]: the engine was shut down.
    pub fn wait(self) -> Result<Vec<Vec<f32>>, EmbedError> {
        self.reply.recv_blocking().unwrap_or(Err(EmbedError::Stopped))
    }

    /// [`wait`](Self::wait) without blocking a thread.
    ///
    /// # Errors
    ///
    /// As there.
    #[cfg(feature = "async")]
    pub async fn finished(self) -> Result<Vec<Vec<f32>>, EmbedError> {
        self.reply.recv().await.unwrap_or(Err(EmbedError::Stopped))
    }
}

impl Drop for Embedding {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

/// Embedding requests, the first of which is being computed.
#[derive(Debug)]
pub(crate) struct Embeds {
    embedder: Option<Embedder>,
    jobs: VecDeque<EmbedJob>,
    done: u64,
}

impl Embeds {
    pub(crate) fn new(embedder: Option<Embedder>) -> Self {
        Self { embedder, jobs: VecDeque::new(), done: 0 }
    }

    pub(crate) fn is_busy(&self) -> bool {
        !self.jobs.is_empty()
    }

    /// Texts embedded.
    pub(crate) fn done(&self) -> u64 {
        self.done
    }

    /// Takes a request; one with a text that cannot be embedded is answered at once.
    pub(crate) fn submit(&mut self, mut job: EmbedJob) {
        let Some(embedder) = &self.embedder else { return };
        if job.texts.is_empty() {
            return drop(job.reply.try_send(Ok(Vec::new())));
        }
        let checked = embedder.check(job.texts.make_contiguous());
        match checked {
            Ok(_) => self.jobs.push_back(job),
            Err(error) => drop(job.reply.try_send(Err(error))),
        }
    }

    /// Computes one batch. False if there was nothing to do.
    pub(crate) fn step(&mut self) -> bool {
        while self.jobs.front().is_some_and(|job| job.cancelled.load(Ordering::Relaxed)) {
            self.jobs.pop_front();
        }
        let (Some(embedder), Some(job)) = (&mut self.embedder, self.jobs.front_mut()) else { return false };
        job.permit = None;
        let count = batch(job.texts.iter().map(Vec::len), embedder.room());
        let texts: Vec<Vec<Token>> = job.texts.drain(..count).collect();
        let outcome = embedder.embed_tokens(&texts);
        let result = match outcome {
            Ok(vectors) => {
                self.done += texts.len() as u64;
                job.vectors.extend(vectors.iter().map(<[f32]>::to_vec));
                if !job.texts.is_empty() {
                    return true;
                }
                Ok(std::mem::take(&mut job.vectors))
            }
            // Its place among all texts, rather than among those of this batch.
            Err(EmbedError::NotFinite { text, index, value }) => {
                Err(EmbedError::NotFinite { text: text + job.vectors.len(), index, value })
            }
            Err(error) => Err(error),
        };
        let _ = job.reply.try_send(result);
        self.jobs.pop_front();
        true
    }

    /// Ends all requests.
    pub(crate) fn cancel_all(&mut self) {
        self.jobs.clear();
    }
}

/// How many texts of these lengths, from the first on, fit into one batch of so many tokens and texts; one at least.
fn batch(lengths: impl Iterator<Item = usize>, (tokens, texts): (usize, usize)) -> usize {
    let mut used = 0;
    let fits = lengths.take(texts).take_while(|length| {
        used += length;
        used <= tokens
    });
    fits.count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_takes_what_fits() {
        let of = |lengths: &[usize], room| batch(lengths.iter().copied(), room);
        assert_eq!(of(&[3, 4, 5], (8, 9)), 2);
        assert_eq!(of(&[3, 4, 5], (99, 2)), 2);
        assert_eq!(of(&[3, 4, 5], (99, 9)), 3);
        assert_eq!(of(&[30], (8, 9)), 1);
    }
}
