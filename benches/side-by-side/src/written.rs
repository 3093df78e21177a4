//! Reports as files: one way for all kinds of them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

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

/// A report that was written before.
///
/// # Errors
///
/// A file that cannot be read, or holds something else.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no such report", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_tables_lie_beside_each_other() {
        let folder = std::env::temp_dir().join(format!("side-by-side-written-{}", std::process::id()));
        let [json, tables] = write(&folder.join("new/a.json"), &[1, 2], "| a |\n").unwrap();
        assert_eq!(fs::read_to_string(&json).unwrap(), "[\n  1,\n  2\n]\n");
        assert_eq!(read::<Vec<u32>>(&json).unwrap(), [1, 2]);
        assert!(read::<String>(&json).unwrap_err().to_string().contains("a.json is no such report"));
        assert_eq!(
            (tables, "| a |\n"),
            (folder.join("new/a.md"), fs::read_to_string(json.with_extension("md")).unwrap().as_str())
        );
        fs::remove_dir_all(&folder).unwrap();
    }
}
