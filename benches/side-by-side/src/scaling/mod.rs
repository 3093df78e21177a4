//! What the engine itself takes for a token, as there is more of something: sequences, vocabulary, requests that wait.
//!
//! `cargo bench --bench engine` measures it; what criterion leaves is read, and becomes JSON, a table and a chart.

mod chart;
mod estimates;

use std::env;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::machine::Header;
use crate::written;

/// Samples that criterion takes of each figure.
const SAMPLES: u32 = 10;

/// The benchmark that is run.
const BENCH: &str = "engine";

/// A run. `scaling.json` is this.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scaling {
    /// When, where, with what; its rounds are criterion's samples.
    pub header: Header,
    /// One for each thing that there is more of.
    pub series: Vec<Series>,
}

/// The time of a token as there is more of one thing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// What there is more of, and what stays as it is.
    pub name: String,
    /// From few to many.
    pub points: Vec<Point>,
}

/// One figure: a median, and the interval that it lies in with 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// How much there is.
    pub amount: u64,
    /// Microseconds that a generated token takes beside llama.cpp's computation.
    pub micros: f64,
    /// The least that they may be.
    pub low: f64,
    /// The most.
    pub high: f64,
}

/// Runs the benchmark and reads what it leaves. `target` is the target directory, `command` what repeats the run.
///
/// # Errors
///
/// Where cargo fails, or criterion left something else than was expected.
pub fn measure(command: String, target: &Path) -> Result<Scaling> {
    let header = Header::before(command, 1, SAMPLES);
    // A folder of its own: no figure of an earlier run is taken for one of this run, and none is lost.
    let left = target.join("bench/scaling");
    if left.exists() {
        fs::remove_dir_all(&left).with_context(|| format!("emptying {}", left.display()))?;
    }
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")).args(["bench", "--bench", BENCH]);
    cargo.args(["--", "--sample-size"]).arg(SAMPLES.to_string());
    let status =
        cargo.env("CARGO_TARGET_DIR", target).env("CRITERION_HOME", &left).status().context("starting cargo")?;
    if !status.success() {
        bail!("measuring the engine: {status}");
    }
    let series = estimates::read(&left)?;
    Ok(Scaling { header: Header { load_after: crate::machine::load(), ..header }, series })
}

impl Scaling {
    /// A run that was written before.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or is none.
    pub fn read(path: &Path) -> Result<Self> {
        written::read(path)
    }

    /// Writes the JSON to `path`, the tables beside it as `.md`, and the chart as `.svg`. Returns the files.
    ///
    /// # Errors
    ///
    /// What the file system reports.
    pub fn write(&self, path: &Path) -> Result<Vec<PathBuf>> {
        let mut files = Vec::from(written::write(path, self, &self.tables())?);
        let svg = path.with_extension("svg");
        fs::write(&svg, chart::draw(&self.series)?).with_context(|| format!("writing {}", svg.display()))?;
        files.push(svg);
        Ok(files)
    }

    /// The tables in Markdown.
    #[must_use]
    pub fn tables(&self) -> String {
        let mut text = self.header.described();
        let _ = writeln!(
            text,
            "\nMicroseconds of a generated token beside llama.cpp's computation: the median of {} samples, and its 95 % interval.",
            self.header.rounds
        );
        for Series { name, points } in &self.series {
            let row = |first: &str, cell: &dyn Fn(&Point) -> String| {
                points.iter().fold(format!("| {first} |"), |row, point| row + " " + &cell(point) + " |") + "\n"
            };
            text += "\n";
            text += &row(name, &|point| grouped(point.amount));
            text += &row("---", &|_| "---".to_owned());
            text += &row("µs a token", &|point| micros(point.micros));
            text += &row("95 % interval", &|point| format!("{} to {}", micros(point.low), micros(point.high)));
        }
        text
    }
}

/// Two digits at least.
fn micros(micros: f64) -> String {
    if micros < 10.0 { format!("{micros:.1}") } else { format!("{micros:.0}") }
}

/// A number with commas between its thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let commas = |place: usize| place > 0 && (digits.len() - place).is_multiple_of(3);
    digits
        .chars()
        .enumerate()
        .flat_map(|(place, digit)| commas(place).then_some(',').into_iter().chain([digit]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn series() -> Vec<Series> {
        let points = |amounts: &[(u64, f64)]| {
            let point = |(amount, micros): &(u64, f64)| Point {
                amount: *amount,
                micros: *micros,
                low: micros * 0.9,
                high: micros * 1.2,
            };
            amounts.iter().map(point).collect()
        };
        vec![
            Series { name: "sequences".into(), points: points(&[(1, 10.0), (4, 4.0), (256, 5.0)]) },
            Series { name: "waiting, 8 sequences".into(), points: points(&[(0, 4.0), (1_000, 4.0), (100_000, 4.5)]) },
        ]
    }

    fn run() -> Scaling {
        Scaling { header: Header::before("cargo xtask bench --scaling".into(), 1, SAMPLES), series: series() }
    }

    #[test]
    fn what_is_written_is_read_again_with_tables_and_a_chart_beside_it() {
        let folder = env::temp_dir().join(format!("side-by-side-scaling-{}", std::process::id()));
        let path = folder.join("scaling.json");
        let run = run();
        let files = run.write(&path).unwrap();
        let names: Vec<_> = files.iter().filter_map(|file| file.file_name()?.to_str()).collect();
        assert_eq!(names, ["scaling.json", "scaling.md", "scaling.svg"]);
        assert_eq!(Scaling::read(&path).unwrap(), run);
        assert!(Scaling::read(&files[1]).is_err());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn tables_have_each_amount_and_its_time() {
        let text = run().tables();
        for part in [
            "`cargo xtask bench --scaling`",
            "the median of 10 samples",
            "| sequences | 1 | 4 | 256 |",
            "| µs a token | 10 | 4.0 | 5.0 |",
            "| 95 % interval | 9.0 to 12 | 3.6 to 4.8 | 4.5 to 6.0 |",
            "| waiting, 8 sequences | 0 | 1,000 | 100,000 |",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn thousands_are_told_apart() {
        let texts = [0, 12, 123, 1_234, 12_345, 1_234_567].map(grouped);
        assert_eq!(texts, ["0", "12", "123", "1,234", "12,345", "1,234,567"]);
    }
}
