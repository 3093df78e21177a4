//! `soak REQUESTS SEED`: many requests against one engine; the last line is what came of them, as JSON.

use std::process::ExitCode;

fn main() -> ExitCode {
    let numbers: Option<Vec<u64>> = std::env::args().skip(1).map(|text| text.parse().ok()).collect();
    let Some([requests, seed]) = numbers.as_deref() else {
        eprintln!("soak REQUESTS SEED: two numbers");
        return ExitCode::FAILURE;
    };
    let report = batch_suite::soak::soak(*requests, *seed, |done| eprintln!("{done} of {requests}"));
    println!("{report}");
    if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
