//! Requests through an engine give what each gives alone, whatever runs beside it and whatever fails; each ends once; nothing hangs.

#[path = "engine/embeddings.rs"]
mod embeddings;
#[path = "engine/ends.rs"]
mod ends;
#[path = "engine/equality.rs"]
mod equality;
#[path = "engine/faults.rs"]
mod faults;
#[path = "engine/full.rs"]
mod full;
#[path = "engine/lives.rs"]
mod lives;
#[path = "engine/panics.rs"]
mod panics;
#[path = "engine/queue.rs"]
mod queue;
#[path = "engine/readers.rs"]
mod readers;
#[path = "engine/sharing.rs"]
mod sharing;
#[path = "engine/soak.rs"]
mod soak;
#[path = "engine/start.rs"]
mod start;
#[path = "engine/streams.rs"]
mod streams;
#[path = "engine/wishes.rs"]
mod wishes;

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// Much longer than any test takes.
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs a test on a thread of its own, and fails if that never ends.
#[track_caller]
fn watched(test: impl FnOnce() + Send + 'static) {
    let (done, ends) = channel();
    let thread = thread::spawn(move || {
        test();
        let _ = done.send(());
    });
    match ends.recv_timeout(PATIENCE) {
        Err(RecvTimeoutError::Timeout) => panic!("it hangs"),
        Ok(()) | Err(RecvTimeoutError::Disconnected) => {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}
