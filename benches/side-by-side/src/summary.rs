//! Medians, spreads and ratios.

use serde::{Deserialize, Serialize};

use crate::roster::OURS;
use crate::rounds::Measured;

/// A metric of a side, and how it compares with that of another one. A side has one row for each that it is compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The side.
    pub side: String,
    /// The workload.
    pub workload: String,
    /// The model.
    pub model: String,
    /// Requests at a time.
    pub sequences: u32,
    /// What is measured.
    pub metric: String,
    /// The middle one of the rounds.
    pub median: f64,
    /// The lowest.
    pub min: f64,
    /// The highest.
    pub max: f64,
    /// The largest share of the cores' time that other processes had in a turn, 0 to 1: above 0.05 the row is worth nothing.
    pub others: Option<f64>,
    /// The side that it is compared with.
    pub ratio_to: Option<String>,
    /// The ratio of the medians.
    pub ratio: Option<f64>,
    /// The lowest ratio of a round, and the highest: two sides are different where 1 is not between them.
    pub ratio_range: Option<[f64; 2]>,
}

/// How many outputs of a side differ from the reference's. Kernels that round in another way choose other tokens here and there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The side.
    pub side: String,
    /// The model.
    pub model: String,
    /// Requests at a time.
    pub sequences: u32,
    /// Outputs with another token somewhere.
    pub different: usize,
    /// Outputs in all.
    pub compared: usize,
}

/// The middle of some numbers; of an even count, the mean of the two in the middle. 0 of none.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => 0.0,
        (length, middle) if length.is_multiple_of(2) => f64::midpoint(sorted[middle - 1], sorted[middle]),
        (_, middle) => sorted[middle],
    }
}

/// A number with so many decimals: no run is repeated more exactly.
fn rounded(value: f64, decimals: i32) -> f64 {
    let scale = 10f64.powi(decimals);
    (value * scale).round() / scale
}

/// The lowest and the highest.
#[must_use]
pub fn range(values: impl Iterator<Item = f64>) -> [f64; 2] {
    values.fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], value| [low.min(value), high.max(value)])
}

/// The rows of all sides: each is compared with the reference, and ours with every other one.
#[must_use]
pub fn rows(measured: &[Measured]) -> Vec<Row> {
    let mut rows = Vec::new();
    for one in measured {
        let others: Vec<&Measured> = measured
            .iter()
            .filter(|other| same_order(one, other) && other.side != one.side)
            .filter(|other| other.side == one.reference || OURS.contains(&one.side.as_str()))
            .collect();
        for (metric, values) in &one.values {
            let [min, max] = range(values.iter().copied());
            let alone = Row {
                side: one.side.clone(),
                workload: one.workload.clone(),
                model: one.model.clone(),
                sequences: one.sequences,
                metric: metric.clone(),
                median: rounded(median(values), 2),
                min: rounded(min, 2),
                max: rounded(max, 2),
                others: one.others.map(|share| rounded(share, 3)),
                ratio_to: None,
                ratio: None,
                ratio_range: None,
            };
            let compared = others.iter().filter_map(|other| {
                let theirs = other.values.get(metric)?;
                Some(Row {
                    ratio_to: Some(other.side.clone()),
                    ratio: Some(rounded(median(values) / median(theirs), 4)),
                    ratio_range: Some(
                        range(values.iter().zip(theirs).map(|(one, other)| one / other)).map(|ratio| rounded(ratio, 4)),
                    ),
                    ..alone.clone()
                })
            });
            let before = rows.len();
            rows.extend(compared);
            if rows.len() == before {
                rows.push(alone);
            }
        }
    }
    rows
}

/// What was compared, of every side but the reference.
#[must_use]
pub fn differences(measured: &[Measured]) -> Vec<Difference> {
    let compared = measured.iter().filter(|row| row.compared > 0);
    let difference = |row: &Measured| Difference {
        side: row.side.clone(),
        model: row.model.clone(),
        sequences: row.sequences,
        different: row.different,
        compared: row.compared,
    };
    compared.map(difference).collect()
}

fn same_order(one: &Measured, other: &Measured) -> bool {
    (&one.workload, &one.model, one.sequences) == (&other.workload, &other.model, other.sequences)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roster::REFERENCE;

    fn measured(side: &str, sequences: u32, values: &[f64]) -> Measured {
        Measured {
            side: side.to_owned(),
            reference: REFERENCE.to_owned(),
            workload: "uniform".to_owned(),
            model: "m".to_owned(),
            sequences,
            values: [("speed".to_owned(), values.to_vec())].into(),
            ..Measured::default()
        }
    }

    #[test]
    fn medians() {
        for (values, expected) in
            [(&[][..], 0.0), (&[3.0][..], 3.0), (&[4.0, 1.0][..], 2.5), (&[9.0, 1.0, 2.0][..], 2.0)]
        {
            assert_eq!(median(values), expected, "{values:?}");
        }
    }

    #[test]
    fn each_is_compared_with_the_reference_and_ours_with_all() {
        let all = [
            measured(REFERENCE, 2, &[10.0, 12.0, 11.0]),
            measured(OURS[0], 2, &[10.0, 9.0, 11.0]),
            measured("peer", 2, &[5.0, 5.0, 4.0]),
            measured("peer", 4, &[1.0]),
        ];
        let got: Vec<_> = rows(&all)
            .into_iter()
            .map(|row| (row.side, row.sequences, row.median, row.ratio_to, row.ratio, row.ratio_range))
            .collect();
        let row = |side: &str, sequences, median, to: &str, ratio, range| {
            (side.to_owned(), sequences, median, Some(to.to_owned()), Some(ratio), Some(range))
        };
        assert_eq!(
            got,
            [
                (REFERENCE.to_owned(), 2, 11.0, None, None, None),
                row(OURS[0], 2, 10.0, REFERENCE, 0.9091, [0.75, 1.0]),
                row(OURS[0], 2, 10.0, "peer", 2.0, [1.8, 2.75]),
                row("peer", 2, 5.0, REFERENCE, 0.4545, [0.3636, 0.5]),
                ("peer".to_owned(), 4, 1.0, None, None, None),
            ]
        );
    }

    #[test]
    fn differences_are_of_those_that_were_compared() {
        let mut other = measured("peer", 2, &[]);
        (other.compared, other.different) = (10, 3);
        let got = differences(&[measured(REFERENCE, 2, &[]), other]);
        assert_eq!(got.len(), 1);
        assert_eq!((got[0].different, got[0].compared), (3, 10));
    }
}
