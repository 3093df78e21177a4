//! Tables in Markdown.

use std::fmt::Write;

use super::{Report, distinct, title};
use crate::machine::Header;
use crate::roster::{OURS, REFERENCE, SERVED_REFERENCE};
use crate::summary::Row;

/// What the run was, a table for each workload, model and metric, and what became of the tokens.
pub fn all(report: &Report) -> String {
    let mut text = header(report);
    for (workload, model) in distinct(report.rows.iter().map(|row| (row.workload.as_str(), row.model.as_str()))) {
        let rows: Vec<&Row> =
            report.rows.iter().filter(|row| (row.workload.as_str(), row.model.as_str()) == (workload, model)).collect();
        for metric in distinct(rows.iter().map(|row| row.metric.as_str())) {
            let rows: Vec<&Row> = rows.iter().copied().filter(|row| row.metric == metric).collect();
            let _ = write!(text, "\n### {model}, {workload}: {}\n\n{}", title(metric), table(&rows));
        }
    }
    text + &tokens(report)
}

fn header(report: &Report) -> String {
    let header = &report.header;
    let Header { threads, rounds, .. } = header;
    header.described()
        + &format!(
            "\n{threads} threads, {rounds} rounds. Median (lowest to highest), × the ratio of medians to the side that is named.\n"
        )
}

/// Those that a cell's ratio is to.
const REFERENCES: [&str; 2] = [REFERENCE, SERVED_REFERENCE];

/// A line for each side, a column for each number of sequences; then the ratios of ours to each other side.
fn table(rows: &[&Row]) -> String {
    let widths = distinct(rows.iter().map(|row| row.sequences));
    let mut text = line("sequences", widths.iter().map(u32::to_string));
    text += &line("---", widths.iter().map(|_| "---".to_owned()));
    for side in distinct(rows.iter().map(|row| row.side.as_str())) {
        let cell = |width: &u32| {
            let of_side = || rows.iter().filter(|row| row.side == side && row.sequences == *width);
            let is_to_reference = |row: &&&Row| row.ratio_to.as_deref().is_some_and(|to| REFERENCES.contains(&to));
            of_side().find(is_to_reference).or_else(|| of_side().next()).map_or(String::new(), |row| {
                let ratio = match (&row.ratio_to, row.ratio) {
                    (Some(to), Some(ratio)) if REFERENCES.contains(&to.as_str()) => format!(" × {ratio:.3}"),
                    _ => String::new(),
                };
                format!("{:.0} ({:.0} to {:.0}){ratio}", row.median, row.min, row.max)
            })
        };
        text += &line(side, widths.iter().map(cell));
    }
    let others = |width: &u32| {
        let share = rows.iter().filter(|row| row.sequences == *width).filter_map(|row| row.others).reduce(f64::max);
        share.map_or(String::new(), |share| format!("{:.0} %", share * 100.0))
    };
    text += &line("most that others had of the cores", widths.iter().map(others));
    let pairs = rows.iter().filter_map(|row| Some((row.side.as_str(), row.ratio_to.as_deref()?)));
    for (ours, other) in distinct(pairs.filter(|(side, _)| OURS.contains(side))) {
        let cell = |width: &u32| {
            let row = rows
                .iter()
                .find(|row| row.side == ours && row.sequences == *width && row.ratio_to.as_deref() == Some(other));
            match row.and_then(|row| Some((row.ratio?, row.ratio_range?))) {
                Some((ratio, [low, high])) => format!("× {ratio:.3} ({low:.2} to {high:.2})"),
                None => String::new(),
            }
        };
        text += &line(&format!("**{ours} / {other}**"), widths.iter().map(cell));
    }
    text
}

fn line(first: &str, cells: impl Iterator<Item = String>) -> String {
    let cells: Vec<String> = std::iter::once(first.to_owned()).chain(cells).collect();
    format!("| {} |\n", cells.join(" | "))
}

fn tokens(report: &Report) -> String {
    // No outputs were compared where no side was there to compare them with.
    if report.differences.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "\n### Tokens\n\nOutputs with a token that {REFERENCE} has not ({SERVED_REFERENCE} where requests are served as they come), of all outputs:\n\n"
    );
    for side in distinct(report.differences.iter().map(|one| one.side.as_str())) {
        let of_side = report.differences.iter().filter(|one| one.side == side);
        let (different, compared) = of_side.fold((0, 0), |sum, one| (sum.0 + one.different, sum.1 + one.compared));
        let _ = writeln!(text, "- {side}: {different} of {compared}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;

    #[test]
    fn a_table_has_each_side_and_the_ratios() {
        let text = all(&report());
        for part in [
            "`cargo xtask bench`",
            "### 135M Q8_0, uniform: generation, tokens/s",
            "| sequences | 1 | 8 |",
            "| c-loop | 100 (99 to 101) | 200 (199 to 201) |",
            "| batch | 50 (49 to 51) × 0.500 | 200 (199 to 201) × 1.000 |",
            "| peer |  | 100 (99 to 101) × 0.500 |",
            "| **batch / peer** |  | × 2.000",
            "| most that others had of the cores | 1 % | 1 % |",
            "- peer: 1 of 24",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        let nothing_compared = Report { differences: Vec::new(), ..report() };
        assert!(!all(&nothing_compared).contains("### Tokens"));
    }
}
