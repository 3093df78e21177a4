//! Measures this library beside llama.cpp's C API and beside other libraries, in one interleaved run.
//!
//! A side is a process that is given [orders](protocol::Order) and prints what came of them. The [runner](rounds) lets the sides take turns
//! within each round, so that what the machine does besides meets all of them; it compares the tokens that they chose, and then
//! their speeds.

pub mod build_times;
pub mod machine;
pub mod models;
pub mod others;
pub mod process;
pub mod protocol;
pub mod report;
pub mod resident;
pub mod roster;
pub mod rounds;
pub mod scaling;
pub mod served;
pub mod sides;
pub mod summary;
pub mod tuning;
pub mod workload;
pub mod written;
