//! Reports as files.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

/// Writes a report as JSON to `path`, and its tables beside it as `.md`. Returns both.
///
/// # Errors
///
/// What the file system reports.
pub fn write(path: &Path, report: &impl Serialize, tables: &str) -> Result<[PathBuf; 2]> {
    let folder = path.parent().unwrap_or(Path::new(""));
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let files = [path.to_owned(), path.with_extension("md")];
    for (file, text) in files.iter().zip([serde_json::to_string_pretty(report)? + "\n", tables.to_owned()]) {
        fs::write(file, text).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_tables_lie_beside_each_other() {
        let folder = std::env::temp_dir().join(format!("side-by-side-written-{}", std::process::id()));
        let [json, tables] = write(&folder.join("new/a.json"), &[1, 2], "| a |\n").unwrap();
        assert_eq!(fs::read_to_string(&json).unwrap(), "[\n  1,\n  2\n]\n");
        assert_eq!(
            (tables, "| a |\n"),
            (folder.join("new/a.md"), fs::read_to_string(json.with_extension("md")).unwrap().as_str())
        );
        fs::remove_dir_all(&folder).unwrap();
    }
}
