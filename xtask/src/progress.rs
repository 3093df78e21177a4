//! A long command with its progress shown: a spinner or a bar on a terminal, plain lines elsewhere.

use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::ninja::{Edges, Watch};

/// Lines on a machine without a terminal come no nearer than this many percent of the C++ build.
const PERCENT_A_LINE: usize = 10;

/// Runs a command to its end. What it prints is kept back on a terminal, where only the last line shows, and comes out
/// in full if the command fails.
///
/// # Errors
/// Where the command cannot be started or fails.
pub fn watch(mut command: Command, label: &str, cpp: Option<Watch>) -> Result<()> {
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{label}: starting {command:?}"))?;
    let (lines, printed) = mpsc::channel();
    let readers = [
        child.stdout.take().map(|pipe| forward(pipe, lines.clone())),
        child.stderr.take().map(|pipe| forward(pipe, lines)),
    ];
    let mut view = View::new(label);
    let mut kept = Vec::new();
    loop {
        match printed.recv_timeout(Duration::from_millis(200)) {
            Ok(line) => {
                view.line(&line);
                kept.push(line);
            }
            Err(RecvTimeoutError::Timeout) => {
                if let Some(edges) = cpp.as_ref().and_then(Watch::look) {
                    view.edges(edges);
                }
            }
            // Both pipes are closed.
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    for reader in readers.into_iter().flatten() {
        let _ = reader.join();
    }
    let status = child.wait()?;
    view.close();
    if !status.success() {
        if view.live() {
            say(&kept.join("\n"));
        }
        bail!("{label}: failed ({status})");
    }
    // Not worth a line where nothing had to be done.
    if started.elapsed() > Duration::from_secs(2) {
        say(&format!("{label}: done in {}", duration(started.elapsed())));
    }
    Ok(())
}

/// Sends each line of a pipe on.
fn forward(pipe: impl Read + Send + 'static, lines: Sender<String>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_string();
            if !line.is_empty() && lines.send(line).is_err() {
                break;
            }
        }
    })
}

/// What is shown while the command runs.
struct View {
    label: String,
    bar: Option<ProgressBar>,
    /// The last step of the C++ build that got its own line.
    percent: usize,
}

impl View {
    fn new(label: &str) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner().with_message(label.to_string());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { label: label.to_string(), bar, percent: 0 }
    }

    fn live(&self) -> bool {
        self.bar.is_some()
    }

    fn line(&mut self, line: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_style(style("{spinner} {elapsed:>4} {wide_msg}"));
                bar.set_message(format!("{}: {}", self.label, line.trim()));
            }
            None => say(line),
        }
    }

    fn edges(&mut self, edges: Edges) {
        let Edges { done, total } = edges;
        if let Some(bar) = &self.bar {
            bar.set_style(style("{spinner} {elapsed:>4} [{bar:30}] {pos}/{len} {wide_msg}"));
            bar.set_length(total as u64);
            bar.set_position(done as u64);
            bar.set_message("llama.cpp is being compiled, once for all profiles");
        } else if let Some(line) = line_for(edges, &mut self.percent) {
            say(&line);
        }
    }

    fn close(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The line that tells how far the C++ build is, if it has got far enough since the last one.
pub fn line_for(edges: Edges, percent: &mut usize) -> Option<String> {
    let now = edges.done * 100 / edges.total.max(1);
    if now < *percent + PERCENT_A_LINE {
        return None;
    }
    *percent = now;
    Some(format!("   llama.cpp: {} of {} compiled", edges.done, edges.total))
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// A line on standard error. A closed one is no reason to stop.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// `6 min 12 s`, `3.4 s`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        _ => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        assert_eq!(duration(Duration::from_millis(3440)), "3.4 s");
        assert_eq!(duration(Duration::from_secs(59)), "59 s");
        assert_eq!(duration(Duration::from_secs(372)), "6 min 12 s");
    }

    #[test]
    fn lines_come_every_tenth() {
        let mut percent = 0;
        let told: Vec<usize> =
            (0..=200).filter(|&done| line_for(Edges { done, total: 200 }, &mut percent).is_some()).collect();
        assert_eq!(told, [20, 40, 60, 80, 100, 120, 140, 160, 180, 200]);
        assert!(line_for(Edges { done: 0, total: 0 }, &mut percent).is_none());
    }

    #[cfg(unix)]
    #[test]
    fn a_failing_command_is_an_error() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; exit 3"]);
        let error = watch(command, "Trying", None).unwrap_err().to_string();
        assert!(error.starts_with("Trying: failed"), "{error}");
        assert!(watch(Command::new("there-is-no-such-program"), "Trying", None).is_err());
    }
}
