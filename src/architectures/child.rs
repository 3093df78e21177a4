//! One architecture a process.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::is_wrong;
use super::run::{Outcome, Subject};
use super::script::SCRIPTS;

/// What was found of an architecture.
#[derive(Clone, PartialEq, Debug)]
pub struct Finding {
    /// Its name.
    pub name: String,
    /// What it remembers; `None` if there is no model of it.
    pub memory: Option<String>,
    /// How much its outputs depend on what came before.
    pub sensitivity: Option<f64>,
    /// What came of making the model and its oracle, if that went wrong.
    pub start: Option<Outcome>,
    /// What came of each script.
    pub outcomes: Vec<(&'static str, Outcome)>,
}

impl Finding {
    /// The scripts that computed something else than the oracle, failed, or ended the process.
    pub fn wrong(&self) -> impl Iterator<Item = &(&'static str, Outcome)> {
        self.outcomes.iter().filter(|(_, outcome)| is_wrong(outcome))
    }

    /// The worst error of the scripts that ran.
    #[must_use]
    pub fn worst(&self) -> f64 {
        let ran = self.outcomes.iter().filter_map(|(_, outcome)| match outcome {
            Outcome::Ran(error) => Some(*error),
            _ => None,
        });
        ran.fold(0.0, f64::max)
    }

    /// What came of a script.
    #[must_use]
    pub fn of(&self, script: &str) -> Option<&Outcome> {
        self.outcomes.iter().find(|(name, _)| *name == script).map(|(_, outcome)| outcome)
    }
}

/// A child's whole work: the scripts from `first` on, of one architecture, written line by line.
///
/// # Errors
///
/// Where the lines cannot be written.
pub fn child(name: &str, raw: bool, first: usize, out: &mut impl Write) -> io::Result<()> {
    let one_line = |text: String| text.replace(['\n', '\t'], " ");
    writeln!(out, "begin\tstart")?;
    let subject = match Subject::new(name, raw) {
        Ok(subject) => subject,
        Err(outcome) => return writeln!(out, "{}", line("start", &outcome, one_line)),
    };
    writeln!(out, "memory\t{:?}", subject.memory)?;
    if first == 0 {
        match subject.sensitivity() {
            Ok(number) => writeln!(out, "sensitivity\t{number:e}")?,
            Err(outcome) => writeln!(out, "{}", line("start", &outcome, one_line))?,
        }
    }
    for script in &SCRIPTS[first..] {
        writeln!(out, "begin\t{}", script.name)?;
        out.flush()?;
        writeln!(out, "{}", line(script.name, &subject.run(script), one_line))?;
    }
    Ok(())
}

fn line(script: &str, outcome: &Outcome, one_line: impl Fn(String) -> String) -> String {
    match outcome {
        Outcome::Ran(error) => format!("ran\t{script}\t{error:e}"),
        Outcome::Refused(reason) => format!("refused\t{script}\t{}", one_line(reason.clone())),
        Outcome::Failed(reason) => format!("failed\t{script}\t{}", one_line(reason.clone())),
        Outcome::Died(reason) => format!("died\t{script}\t{}", one_line(reason.clone())),
    }
}

/// The longest that a child may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Compares one architecture, in processes of `program`, which calls [`child`].
///
/// # Errors
///
/// Where `program` cannot be started.
pub fn compare(program: &Path, name: &str, raw: bool) -> io::Result<Finding> {
    let mut finding =
        Finding { name: name.to_owned(), memory: None, sensitivity: None, start: None, outcomes: Vec::new() };
    let mut first = 0;
    while first < SCRIPTS.len() {
        let (text, end) = run(program, name, raw, first)?;
        let mut begun = "start";
        for words in text.lines().map(|line| line.split('\t').collect::<Vec<_>>()) {
            let outcome = match words[..] {
                ["begin", script] => {
                    begun = SCRIPTS.iter().map(|one| one.name).find(|name| *name == script).unwrap_or("start");
                    continue;
                }
                ["memory", kind] => {
                    finding.memory = Some(kind.to_lowercase());
                    continue;
                }
                ["sensitivity", number] => {
                    finding.sensitivity = number.parse().ok();
                    continue;
                }
                ["ran", _, number] => Outcome::Ran(number.parse().unwrap_or(f64::INFINITY)),
                ["refused", _, reason] => Outcome::Refused(reason.to_owned()),
                ["failed", _, reason] => Outcome::Failed(reason.to_owned()),
                _ => continue,
            };
            keep(&mut finding, begun, outcome);
        }
        if finding.start.is_some() {
            return Ok(finding);
        }
        let done = |script: &str| finding.outcomes.iter().any(|(name, _)| *name == script);
        if let Some(reason) = end
            && (begun == "start" || !done(begun))
        {
            keep(&mut finding, begun, Outcome::Died(reason));
        }
        if finding.start.is_some() {
            return Ok(finding);
        }
        let next = finding.outcomes.len();
        if next == first {
            keep(&mut finding, SCRIPTS[first].name, Outcome::Died("it ended without a word".to_owned()));
        }
        first = finding.outcomes.len();
    }
    Ok(finding)
}

fn keep(finding: &mut Finding, script: &'static str, outcome: Outcome) {
    if script == "start" {
        finding.start = Some(outcome);
    } else {
        finding.outcomes.push((script, outcome));
    }
}

/// What a child wrote, and how it ended if not well.
fn run(program: &Path, name: &str, raw: bool, first: usize) -> io::Result<(String, Option<String>)> {
    let mode = if raw { "raw" } else { "safe" };
    let mut child = Command::new(program)
        .args(["child", name, mode, &first.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut out = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut err = child.stderr.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let (text, errors, status) = std::thread::scope(|scope| {
        let out = scope.spawn(move || {
            let mut text = String::new();
            out.read_to_string(&mut text).map(|_| text)
        });
        let err = scope.spawn(move || {
            let mut text = String::new();
            err.read_to_string(&mut text).map(|_| text)
        });
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if start.elapsed() > PATIENCE {
                child.kill()?;
                child.wait()?;
                break None;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let join = |handle: std::thread::ScopedJoinHandle<'_, io::Result<String>>| {
            handle.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
        };
        Ok::<_, io::Error>((join(out)?, join(err)?, status))
    })?;
    let end = match status {
        Some(status) if status.success() => None,
        Some(status) => Some(format!("{status}: {}", reason(&errors))),
        None => Some(format!("no end after {} seconds", PATIENCE.as_secs())),
    };
    Ok((text, end))
}

/// The line of a failed assertion or of a panic.
fn reason(errors: &str) -> String {
    let found = errors.lines().find(|line| line.contains("GGML_ASSERT") || line.contains("GGML_ABORT"));
    let found = found.or_else(|| errors.lines().find(|line| line.contains("panicked"))).unwrap_or_default();
    // Without the folders of whoever built it.
    found.rsplit_once("/llama.cpp/").map_or(found, |(_, rest)| rest).to_owned()
}
