//! What the tests in `tests/` and the benchmarks in `benches/` share: models to run on, and the oracle, which is
//! inference of one token at a time.

pub mod architectures;
mod edit;
mod feed;
mod memory;
mod models;
mod oracle;
mod raw_chain;
pub mod soak;

pub use edit::Edited;
pub use feed::{Feed, feed_all, feed_at_once};
pub use memory::{peak, resident};
pub use models::{encoder, family, model, params, stories, tiny, vocabulary};
pub use oracle::{Same, alone, assert_equal, assert_same, best, decode_alone, exact_params, nmse, prompt, still_works};
pub use raw_chain::{Left, RawChain, RawVocab};

/// How many random programs a test runs: `FUZZ_PROGRAMS` if that is set (by `cargo xtask fuzz`), a few for a checker of
/// memory, and otherwise so many.
#[must_use]
pub fn programs(usual: u32) -> u32 {
    let asked = std::env::var("FUZZ_PROGRAMS").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(if is_leak_check() { usual.min(3) } else { usual })
}

/// Whether a checker of every memory access runs the tests (`cargo xtask leaks` sets `LEAK_CHECK=1`): some fifty times
/// slower, and content with one case of each kind, so that loops may be short.
#[must_use]
pub fn is_leak_check() -> bool {
    std::env::var_os("LEAK_CHECK").is_some_and(|value| value == "1")
}
