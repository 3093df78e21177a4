//! What the tests in `tests/` and the benchmarks in `benches/` share: models to run on, and the oracle, which is
//! inference of one token at a time.

mod models;
mod oracle;

pub use models::{encoder, model, params, tiny};
pub use oracle::{alone, assert_equal, best, decode_alone, exact_params, nmse, prompt, still_works};
