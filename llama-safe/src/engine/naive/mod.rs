//! The engine over a naive model of memory: random workloads, with faults in every call, against what each request says alone.

mod faults;
mod memory;
mod play;
mod tables;
mod voice;
mod workload;

use proptest::prelude::*;

use play::play;
use workload::workload;

/// Random workloads in all; `ENGINE_WORKLOADS` tries another number.
fn workloads() -> u32 {
    std::env::var("ENGINE_WORKLOADS").map_or(100_000, |number| number.parse().expect("a number of workloads"))
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(workloads()))]

    #[test]
    fn few_requests(workload in workload(6)) {
        play(&workload);
    }
}

proptest! {
    #![proptest_config(config(workloads() / 50))]

    #[test]
    fn many_requests(workload in workload(30)) {
        play(&workload);
    }
}
