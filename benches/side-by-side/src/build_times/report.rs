//! What is left of it: JSON, and a table.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::machine::Header;

/// Everything that is known of a run. `build.json` is this.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// When, where, with what.
    pub header: Header,
    /// A row for each program; the last one is what the others are held against.
    pub rows: Vec<Built>,
}

/// The builds of a program, in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Built {
    /// The library that it depends on.
    pub library: String,
    /// With which of its features.
    pub features: String,
    /// Into an empty target directory.
    pub clean_s: f64,
    /// After a change in the program's own source.
    pub program_changed_s: f64,
    /// After a change in the library's; none of a library that comes from a registry.
    pub library_changed_s: Option<f64>,
    /// The share of the cores' time that other processes had, 0 to 1; none where the system does not tell.
    pub others: Option<f64>,
}

impl Report {
    /// The table in Markdown.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = self.header.described();
        text += "\nSeconds of one build each, in release mode, without a compiler cache, crates downloaded before. × the ratio to the \
                 last row.\n\n| library | features | from nothing | program changed | library changed | others had |\n\
                 |---|---|---|---|---|---|\n";
        let last = self.rows.last();
        for row in &self.rows {
            let compared = last.filter(|last| *last != row);
            let ratio = compared.map_or(String::new(), |last| format!(" × {:.2}", row.clean_s / last.clean_s));
            let seconds = |seconds: Option<f64>| seconds.map_or(String::new(), |seconds| format!("{seconds:.1}"));
            let others = row.others.map_or(String::new(), |share| format!("{:.0} %", share * 100.0));
            let _ = writeln!(
                text,
                "| {} | {} | {:.0}{ratio} | {} | {} | {others} |",
                row.library,
                row.features,
                row.clean_s,
                seconds(Some(row.program_changed_s)),
                seconds(row.library_changed_s),
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_each_program_and_its_ratio() {
        let built = |library: &str, clean_s, library_changed_s| Built {
            library: library.to_owned(),
            features: "default".to_owned(),
            clean_s,
            program_changed_s: 1.25,
            library_changed_s,
            others: Some(0.012),
        };
        let rows = vec![built("llama-safe", 150.0, Some(12.0)), built("llama-cpp-2", 200.0, None)];
        let text = Report { header: Header::before("cargo xtask bench".into(), 2, 1), rows }.table();
        for part in [
            "`cargo xtask bench`",
            "| llama-safe | default | 150 × 0.75 | 1.2 | 12.0 | 1 % |",
            "| llama-cpp-2 | default | 200 | 1.2 |  | 1 % |",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }
}
