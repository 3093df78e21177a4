//! Compares batches with one-at-a-time inference on a tiny model of every architecture, and writes what it finds to standard output
//! as Markdown; `cargo xtask architectures` runs it. Given names, it does so for those.

use std::io::{self, Write};
use std::process::ExitCode;

use batch_suite::architectures::{self, Outcome, Pair};

fn main() -> io::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let names: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["child", name, mode, first] = names[..] {
        let first = first.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
        architectures::child(name, mode == "raw", first, &mut io::stdout().lock())?;
        return Ok(ExitCode::SUCCESS);
    }
    let names = if names.is_empty() { fixtures::ARCHITECTURES.to_vec() } else { names };
    let pairs = architectures::compare_all(&std::env::current_exe()?, &names, tell)?;
    io::stdout().write_all(architectures::markdown(&pairs).as_bytes())?;
    let against: Vec<String> = pairs.iter().flat_map(architectures::contradictions).collect();
    for line in &against {
        writeln!(io::stderr(), "{line}")?;
    }
    Ok(if against.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One line a process, as it ends.
fn tell(pair: &Pair) {
    let count = |kind: fn(&Outcome) -> bool| pair.safe.outcomes.iter().filter(|(_, outcome)| kind(outcome)).count();
    let wrong = pair.raw.wrong().count();
    let (ran, refused) =
        (count(|outcome| matches!(outcome, Outcome::Ran(_))), count(|outcome| matches!(outcome, Outcome::Refused(_))));
    let name = &pair.safe.name;
    let _ = match &pair.safe.start {
        Some(_) => writeln!(io::stderr(), "{name}: cannot be made"),
        None => writeln!(io::stderr(), "{name}: {ran} agree, {refused} refused, {wrong} wrong as llama.cpp is"),
    };
}
