//! How many requests may wait: permits, which are handed out and come back.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicUsize, Ordering};

use async_channel::{Receiver, Sender, TryRecvError};

use crate::error::RequestError;

/// As many permits as requests may wait, each made when it is needed first. A channel has those that came back, so that it is a
/// queue's business to wake whoever waits for one.
#[derive(Debug)]
pub(crate) struct Queue {
    free: Receiver<()>,
    back: Sender<()>,
    made: AtomicUsize,
    limit: usize,
}

/// A place among those that wait, which comes back when this is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    back: Sender<()>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        // A queue that is closed needs none back.
        let _ = self.back.try_send(());
    }
}

impl Queue {
    pub(crate) fn new(limit: usize) -> Self {
        let (back, free) = async_channel::unbounded();
        Self { free, back, made: AtomicUsize::new(0), limit }
    }

    fn permit(&self) -> Permit {
        Permit { back: self.back.clone() }
    }

    /// Makes one more, if that is not too many.
    fn make(&self) -> bool {
        let more = |made: usize| (made < self.limit).then_some(made + 1);
        self.made.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// A permit, if there is one now.
    pub(crate) fn try_enter(&self) -> Result<Permit, RequestError> {
        match self.free.try_recv() {
            Ok(()) => Ok(self.permit()),
            Err(TryRecvError::Empty) if self.make() => Ok(self.permit()),
            Err(TryRecvError::Empty) => Err(RequestError::QueueFull { limit: self.limit }),
            Err(TryRecvError::Closed) => Err(RequestError::Stopped),
        }
    }

    /// A permit, as soon as there is one.
    pub(crate) fn enter(&self) -> Result<Permit, RequestError> {
        match self.try_enter() {
            // All are made: one of them will come back.
            Err(RequestError::QueueFull { .. }) => {}
            at_once => return at_once,
        }
        self.free.recv_blocking().map(|()| self.permit()).map_err(|_| RequestError::Stopped)
    }

    /// A permit, as soon as there is one, without blocking a thread.
    #[cfg(feature = "async")]
    pub(crate) async fn entered(&self) -> Result<Permit, RequestError> {
        match self.try_enter() {
            Err(RequestError::QueueFull { .. }) => {}
            at_once => return at_once,
        }
        self.free.recv().await.map(|()| self.permit()).map_err(|_| RequestError::Stopped)
    }

    /// Refuses whoever waits, and all to come.
    pub(crate) fn close(&self) {
        self.free.close();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn permits_come_back() {
        let queue = Queue::new(2);
        let one = queue.try_enter().unwrap();
        let _two = queue.try_enter().unwrap();
        assert_eq!(queue.try_enter().unwrap_err(), RequestError::QueueFull { limit: 2 });
        drop(one);
        queue.try_enter().unwrap();
    }

    #[test]
    fn whoever_waits_is_woken_by_a_permit_and_by_the_end() {
        let queue = Queue::new(1);
        let first = queue.enter().unwrap();
        thread::scope(|scope| {
            let waits = scope.spawn(|| queue.enter());
            drop(first);
            let second = waits.join().unwrap().unwrap();
            let waits = scope.spawn(|| queue.enter().map(drop));
            queue.close();
            assert_eq!(waits.join().unwrap(), Err(RequestError::Stopped));
            drop(second);
        });
        assert_eq!(queue.try_enter().unwrap_err(), RequestError::Stopped);
    }
}
