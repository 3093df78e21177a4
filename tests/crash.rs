//! Every way to break the raw API that is known, and that safe code cannot: one row a misuse.
//!
//! `cargo test --test crash` runs them all, `cargo test --test crash batches::` those of a group. The raw side of a row
//! runs in a child of this program and has to fail as recorded; the safe side runs here, gets the recorded error, and
//! computes a known text on the same context afterwards. `cargo xtask crash-report` writes `docs/crash-patterns.md`
//! from the same rows.

#[cfg(target_os = "linux")]
use std::env;
#[cfg(target_os = "linux")]
use std::panic::{AssertUnwindSafe, catch_unwind};
#[cfg(target_os = "linux")]
use std::process::ExitCode;

#[cfg(target_os = "linux")]
use libtest_mimic::{Arguments, Failed, Trial};

#[cfg(target_os = "linux")]
use crate::row::Row;

#[cfg(target_os = "linux")]
#[path = "crash/causes.rs"]
mod causes;
#[cfg(target_os = "linux")]
#[path = "crash/child.rs"]
mod child;
#[cfg(target_os = "linux")]
#[path = "crash/coverage.rs"]
mod coverage;
#[cfg(target_os = "linux")]
#[path = "crash/observed.rs"]
mod observed;
#[cfg(target_os = "linux")]
#[path = "crash/raw.rs"]
mod raw;
#[cfg(target_os = "linux")]
#[path = "crash/report.rs"]
mod report;
#[cfg(target_os = "linux")]
#[path = "crash/row.rs"]
mod row;
#[cfg(target_os = "linux")]
#[path = "crash/rows/mod.rs"]
mod rows;
#[cfg(target_os = "linux")]
#[path = "crash/safe.rs"]
mod safe;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    if let Ok(title) = env::var("CASE") {
        let row = rows::all().find(|row| row.title() == title).expect("a row of the table");
        child::run(row);
        return ExitCode::SUCCESS;
    }
    if let Ok(path) = env::var("CRASH_REPORT") {
        return match report::write(&path).and_then(|()| coverage::write()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(problem) => {
                eprintln!("no report: {problem}");
                ExitCode::FAILURE
            }
        };
    }
    let mut trials: Vec<Trial> = rows::all().map(|row| Trial::test(row.title(), move || check(row))).collect();
    trials.push(Trial::test("the_table_itself", || Ok(coverage::check()?)));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Both sides of a row.
#[cfg(target_os = "linux")]
fn check(row: &Row) -> Result<(), Failed> {
    let observed = observed::run(row).map_err(|error| error.to_string())?;
    observed.check(row)?;
    catch_unwind(AssertUnwindSafe(|| safe::check(&row.safe))).map_err(|panic| message(&*panic).into())
}

#[cfg(target_os = "linux")]
fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// Signals, limits and traces are told as Linux has them: there are no rows elsewhere.
#[cfg(not(target_os = "linux"))]
fn main() {}
