//! The engine over a naive model of memory: random workloads, with faults in every call, against what each request says alone.

mod faults;
mod memory;
mod play;
mod tables;
mod voice;
mod workload;

use proptest::prelude::*;
use proptest::test_runner::RngAlgorithm;

use play::play;
use workload::workload;

/// Random workloads in all; `ENGINE_WORKLOADS` tries another number.
fn workloads() -> u32 {
    std::env::var("ENGINE_WORKLOADS").map_or(100_000, |number| number.parse().expect("a number of workloads"))
}

fn config(cases: u32) -> ProptestConfig {
    let rng_algorithm = RngAlgorithm::XorShift;
    ProptestConfig { cases, failure_persistence: None, rng_algorithm, max_shrink_iters: 20_000, ..Default::default() }
}

proptest! {
    #![proptest_config(config(workloads() / 100 * 65))]

    #[test]
    fn three_requests(workload in workload(3)) {
        play(&workload);
    }
}

proptest! {
    #![proptest_config(config(workloads() / 100 * 34))]

    #[test]
    fn six_requests(workload in workload(6)) {
        play(&workload);
    }
}

proptest! {
    #![proptest_config(config(workloads() / 100))]

    #[test]
    fn thirty_requests(workload in workload(30)) {
        play(&workload);
    }
}
