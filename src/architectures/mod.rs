//! The same computation in many ways, on a tiny model of every architecture: what llama.cpp gets right in a batch.
//!
//! Each architecture runs in a process of its own, since some end it. The safe layer's own corrections can be switched off,
//! which is how they are found, and how a test sees that they are still needed.

mod child;
mod make;
mod report;
mod run;
mod script;

use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use child::{Finding, child, compare};
pub use make::{architecture, experts_by_table};
pub use report::{Pair, contradictions, markdown};
pub use run::Outcome;

/// The most that two rows may differ by and still count as equal.
pub const MOST: f64 = 1e-6;

/// Whether a script computed something else than the oracle, failed, or ended the process.
#[must_use]
pub fn is_wrong(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Ran(error) => *error > MOST,
        Outcome::Refused(_) => false,
        Outcome::Failed(_) | Outcome::Died(_) => true,
    }
}

/// Compares these architectures both ways, as many at a time as there are cores, in processes of `program`, which calls
/// [`child`]. `done` is told each as it ends.
///
/// # Errors
///
/// Where a process cannot be started.
///
/// # Panics
///
/// If `done` does.
pub fn compare_all(program: &Path, names: &[&str], done: impl Fn(&Pair) + Sync) -> io::Result<Vec<Pair>> {
    let next = AtomicUsize::new(0);
    let pairs = Mutex::new(Vec::new());
    let work = || -> io::Result<()> {
        while let Some(&name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
            let raw = compare(program, name, true)?;
            // Where the table has nothing to say of it, the two are the same computation.
            let known = llama_safe::known_faults().any(|(known, _)| known == name);
            let safe = if known { compare(program, name, false)? } else { raw.clone() };
            let pair = Pair { raw, safe };
            done(&pair);
            pairs.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(pair);
        }
        Ok(())
    };
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(names.len().max(1));
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        handles.into_iter().try_for_each(|handle| handle.join().expect("a worker that does not panic"))
    })?;
    let mut pairs = pairs.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    pairs.sort_by(|one: &Pair, other| one.raw.name.cmp(&other.raw.name));
    Ok(pairs)
}
