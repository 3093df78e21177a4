//! What criterion leaves of a run: a folder for each figure, with who it is and what was estimated.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Point, Series};

/// `benchmark.json`.
#[derive(Deserialize)]
struct Benchmark {
    function_id: String,
    value_str: String,
    throughput: Throughput,
}

/// Tokens that an iteration generates.
#[derive(Deserialize)]
struct Throughput {
    #[serde(rename = "Elements")]
    elements: u64,
}

/// `estimates.json`, nanoseconds of an iteration.
#[derive(Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    point_estimate: f64,
    confidence_interval: Interval,
}

#[derive(Deserialize)]
struct Interval {
    lower_bound: f64,
    upper_bound: f64,
}

/// All figures below a folder, in the order of their names and amounts.
pub fn read(folder: &Path) -> Result<Vec<Series>> {
    let mut series: BTreeMap<String, Vec<Point>> = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
            let path = entry?.path();
            // `base` is the same of the run before.
            if path.join("estimates.json").is_file() && path.ends_with("new") {
                let (name, point) = figure(&path)?;
                series.entry(name).or_default().push(point);
            } else if path.is_dir() {
                folders.push(path);
            }
        }
    }
    if series.is_empty() {
        bail!("criterion has left nothing in {}", folder.display());
    }
    let sorted = |(name, mut points): (String, Vec<Point>)| {
        points.sort_by_key(|point| point.amount);
        Series { name, points }
    };
    Ok(series.into_iter().map(sorted).collect())
}

fn figure(folder: &Path) -> Result<(String, Point)> {
    let Benchmark { function_id, value_str, throughput } = json(&folder.join("benchmark.json"))?;
    let Estimates { median } = json(&folder.join("estimates.json"))?;
    let amount = value_str.parse().with_context(|| format!("{value_str} of {function_id} is no amount"))?;
    let micros = |nanoseconds: f64| nanoseconds / 1e3 / throughput.elements as f64;
    let Interval { lower_bound, upper_bound } = median.confidence_interval;
    let point =
        Point { amount, micros: micros(median.point_estimate), low: micros(lower_bound), high: micros(upper_bound) };
    Ok((function_id, point))
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} has something else in it", path.display()))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A folder as criterion leaves it.
    struct Left(PathBuf);

    impl Left {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("side-by-side-{name}-{}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }

        fn put(&self, function: &str, value: &str, run: &str, nanoseconds: f64) {
            let folder = self.0.join("own time").join(function).join(value).join(run);
            fs::create_dir_all(&folder).unwrap();
            let benchmark = format!(
                r#"{{"group_id":"own time","function_id":"{function}","value_str":"{value}","throughput":{{"Elements":32}},"title":"a"}}"#
            );
            let (low, high) = (nanoseconds / 2.0, nanoseconds * 2.0);
            let estimates = format!(
                r#"{{"mean":null,"median":{{"confidence_interval":{{"confidence_level":0.95,"lower_bound":{low},"upper_bound":{high}}},
                "point_estimate":{nanoseconds},"standard_error":1.0}},"slope":null}}"#
            );
            fs::write(folder.join("benchmark.json"), benchmark).unwrap();
            fs::write(folder.join("estimates.json"), estimates).unwrap();
        }
    }

    impl Drop for Left {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn figures_are_read_in_order_and_only_those_of_the_last_run() {
        let left = Left::new("estimates");
        left.put("waiting", "1000", "new", 320_000.0);
        left.put("sequences", "16", "new", 64_000.0);
        left.put("sequences", "4", "new", 32_000.0);
        left.put("sequences", "4", "base", 99_000.0);
        fs::create_dir_all(left.0.join("own time/report")).unwrap();
        let point = |amount, micros: f64| Point { amount, micros, low: micros / 2.0, high: micros * 2.0 };
        let expected = [
            Series { name: "sequences".into(), points: vec![point(4, 1.0), point(16, 2.0)] },
            Series { name: "waiting".into(), points: vec![point(1_000, 10.0)] },
        ];
        assert_eq!(read(&left.0).unwrap(), expected);
    }

    #[test]
    fn nothing_and_something_else_are_errors() {
        let left = Left::new("nothing");
        assert!(read(&left.0).unwrap_err().to_string().contains("left nothing"));
        left.put("sequences", "many", "new", 1.0);
        assert!(read(&left.0).unwrap_err().to_string().contains("many of sequences"));
        assert!(read(&left.0.join("missing")).is_err());
    }
}
