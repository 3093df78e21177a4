//! What is left of a run: JSON, tables, charts.

mod chart;
mod table;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::machine::Header;
use crate::summary::{Difference, Row};
use crate::written;

/// Everything that is known of a run. `bench.json` is this.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// When, where, with what.
    pub header: Header,
    /// What was measured.
    pub rows: Vec<Row>,
    /// Outputs that differ from the reference's.
    pub differences: Vec<Difference>,
}

impl Report {
    /// A report that was written before.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or is none.
    pub fn read(path: &Path) -> Result<Self> {
        written::read(path)
    }

    /// Writes the JSON to `path`, the tables beside it as `.md`, and a chart for each model, workload and metric as `.svg`. Returns the files.
    ///
    /// # Errors
    ///
    /// What the file system reports.
    pub fn write(&self, path: &Path) -> Result<Vec<PathBuf>> {
        let mut files = Vec::from(written::write(path, self, &self.tables())?);
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        for (name, svg) in chart::all(&self.rows)? {
            let file = path.with_file_name(format!("{stem}-{name}.svg"));
            fs::write(&file, svg).with_context(|| format!("writing {}", file.display()))?;
            files.push(file);
        }
        Ok(files)
    }

    /// The tables in Markdown.
    #[must_use]
    pub fn tables(&self) -> String {
        table::all(self)
    }
}

/// Values in the order in which they come first.
fn distinct<'a, T: PartialEq + Copy>(values: impl Iterator<Item = T> + 'a) -> Vec<T> {
    let mut seen = Vec::new();
    for value in values {
        if !seen.contains(&value) {
            seen.push(value);
        }
    }
    seen
}

/// The units that metrics end in, and what people call them.
const UNITS: [(&str, &str); 3] = [("_tokens_per_second", "tokens/s"), ("_ms", "ms"), ("_mib", "MiB")];

/// A metric as people read it: `generation_tokens_per_second` is "generation, tokens/s".
fn title(metric: &str) -> String {
    let of_unit = |(end, unit): &(&str, &str)| Some(format!("{}, {unit}", metric.strip_suffix(end)?.replace('_', " ")));
    UNITS.iter().find_map(of_unit).unwrap_or_else(|| metric.replace('_', " "))
}

/// What a metric is counted in; nothing where it does not say.
fn unit(metric: &str) -> &'static str {
    UNITS.iter().find(|(end, _)| metric.ends_with(end)).map_or("", |(_, unit)| unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rounds::Measured;
    use crate::summary;

    pub fn report() -> Report {
        let measured = |side: &str, sequences, value: f64| Measured {
            side: side.to_owned(),
            reference: "c-loop".to_owned(),
            workload: "uniform".to_owned(),
            model: "135M Q8_0".to_owned(),
            sequences,
            values: [("generation_tokens_per_second".to_owned(), vec![value, value + 2.0, value + 1.0])].into(),
            others: Some(0.01),
            compared: 3 * sequences as usize,
            different: usize::from(side == "peer"),
        };
        let all = [
            measured("c-loop", 1, 99.0),
            measured("c-loop", 8, 199.0),
            measured("batch", 1, 49.0),
            measured("batch", 8, 199.0),
            measured("peer", 8, 99.0),
        ];
        let header = Header::before("cargo xtask bench".into(), 2, 3);
        Report { header, rows: summary::rows(&all), differences: summary::differences(&all) }
    }

    #[test]
    fn what_is_written_is_read_again_with_tables_and_charts_beside_it() {
        let folder = std::env::temp_dir().join(format!("side-by-side-{}", std::process::id()));
        let path = folder.join("bench.json");
        let files = report().write(&path).unwrap();
        let names: Vec<_> = files.iter().filter_map(|file| file.file_name()?.to_str()).collect();
        assert_eq!(names, ["bench.json", "bench.md", "bench-135m-q8-0-uniform-generation.svg"]);
        assert_eq!(Report::read(&path).unwrap(), report_with_date(&path));
        assert!(Report::read(&files[1]).is_err());
        fs::remove_dir_all(&folder).unwrap();
    }

    /// The same report; its date and load are the file's.
    fn report_with_date(path: &Path) -> Report {
        let header = Report::read(path).unwrap().header;
        Report { header, ..report() }
    }

    #[test]
    fn titles() {
        assert_eq!(title("prefill_tokens_per_second"), "prefill, tokens/s");
        assert_eq!(title("first_token_p50_ms"), "first token p50, ms");
        assert_eq!((unit("peak_resident_mib"), unit("count")), ("MiB", ""));
    }
}
