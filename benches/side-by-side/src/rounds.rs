//! Rounds: in each of them every order is run by one side after the other.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::others;
use crate::process::Process;
use crate::protocol::{Answer, Order};
use crate::resident::{PEAK, forget_peak, peak_mib};
use crate::roster::{Side, reference};
use crate::workload::over_time;

/// What a side has done with one order, over all rounds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// The side.
    pub side: String,
    /// The side that it is held against.
    pub reference: String,
    /// The workload.
    pub workload: String,
    /// The model, as tables call it.
    pub model: String,
    /// Requests at a time.
    pub sequences: u32,
    /// A number for each round, by metric.
    pub values: BTreeMap<String, Vec<f64>>,
    /// The largest share of the cores' time that went to other processes in a turn; none where the system does not tell.
    pub others: Option<f64>,
    /// Outputs that were held against those of the reference: requests, times rounds.
    pub compared: usize,
    /// Those of them that have another token somewhere.
    pub different: usize,
}

/// All that was measured on a model, and what each side says that it is.
#[derive(Clone, Debug, Default)]
pub struct Measurements {
    /// A row for each side and order.
    pub rows: Vec<Measured>,
    /// Versions by side.
    pub versions: BTreeMap<String, String>,
}

/// Lets the sides take turns. `note` hears what is done next.
///
/// # Errors
///
/// A side that fails; and one that has other tokens than the reference though it may not, before any speed is compared.
pub fn measure(
    sides: &[Side],
    model: (&str, &Path),
    orders: &[Order],
    rounds: u32,
    mut note: impl FnMut(&str),
) -> Result<Measurements> {
    let mut processes = Vec::with_capacity(sides.len());
    for side in sides {
        let process = Process::start(side.command(model.1)).with_context(|| format!("side {}", side.name))?;
        processes.push((side, process));
    }
    let mut rows: Vec<Measured> = Vec::new();
    for order in orders {
        rows.extend(sides.iter().map(|side| Measured {
            side: side.name.clone(),
            reference: reference(order).to_owned(),
            workload: order.workload.clone(),
            model: model.0.to_owned(),
            sequences: order.concurrent,
            ..Measured::default()
        }));
    }
    for round in 0..rounds {
        for (order, rows) in orders.iter().zip(rows.chunks_mut(sides.len())) {
            note(&format!("{}, {} sequences, round {} of {rounds}", model.0, order.concurrent, round + 1));
            let mut wanted: Option<Vec<Vec<i32>>> = None;
            for ((side, process), row) in processes.iter_mut().zip(rows).filter(|((side, _), _)| side.takes(order)) {
                let order = if over_time(order) { order.clone() } else { shortened(order, side.most_requests) };
                let (answer, others) = turn(process, &order).with_context(|| format!("side {}", side.name))?;
                row.others = others.into_iter().chain(row.others).reduce(f64::max);
                for (metric, value) in answer.metrics {
                    row.values.entry(metric).or_default().push(value);
                }
                if side.name == row.reference {
                    wanted = Some(answer.outputs);
                } else if let Some(wanted) = wanted.as_ref().filter(|_| !answer.outputs.is_empty()) {
                    row.compared += answer.outputs.len();
                    row.different += different(&answer.outputs, wanted);
                }
            }
        }
    }
    let versions = processes.iter().map(|(side, process)| (side.name.clone(), process.hello.version.clone())).collect();
    for (side, row) in sides.iter().cycle().zip(&rows) {
        if side.same_tokens && row.different > 0 {
            bail!(
                "{} has other tokens than {} in {} of {} outputs ({}, {} sequences)",
                side.name,
                row.reference,
                row.different,
                row.compared,
                row.model,
                row.sequences
            );
        }
    }
    rows.retain(|row| !row.values.is_empty());
    Ok(Measurements { rows, versions })
}

/// So often at most: on a machine that is never quiet, the least disturbed turn counts.
const TRIES: u32 = 4;

/// One turn of a side, and the share of the cores' time that others had meanwhile.
fn turn(process: &mut Process, order: &Order) -> Result<(Answer, Option<f64>)> {
    let id = process.id();
    others::quietest(id, TRIES, || {
        forget_peak(id);
        let mut answer = process.run(order)?;
        // A side whose work is another process's has told its own.
        if let (Entry::Vacant(free), Some(peak)) = (answer.metrics.entry(PEAK.to_owned()), peak_mib(id)) {
            free.insert(peak);
        }
        Ok(answer)
    })
}

/// The first requests of an order.
fn shortened(order: &Order, most: Option<usize>) -> Order {
    let most = most.unwrap_or(order.requests.len());
    Order { requests: order.requests.iter().take(most).cloned().collect(), ..order.clone() }
}

/// Outputs that are not those which were wanted.
fn different(outputs: &[Vec<i32>], wanted: &[Vec<i32>]) -> usize {
    outputs.iter().zip(wanted).filter(|(output, wanted)| output != wanted).count()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::roster::{REFERENCE, Takes};
    use crate::workload::uniform;

    /// A side whose answers are always the same.
    fn side(name: &str, tokens: &str, same_tokens: bool) -> Side {
        let answer = format!(r#"{{"metrics":{{"speed":1.5}},"outputs":[[{tokens}]]}}"#);
        let script = format!(r#"echo '{{"version":"{name} 1"}}'; while read order; do echo '{answer}'; done"#);
        let program = ["sh", "-c", &script].map(Into::into).to_vec();
        Side { name: name.to_owned(), program, most_requests: None, takes: Takes::AtOnce, same_tokens, kernels: true }
    }

    #[test]
    fn each_side_has_a_number_for_each_round_and_its_outputs_compared() {
        let sides = [side(REFERENCE, "1,2", true), side("same", "1,2", true), side("other", "1,3", false)];
        let model = ("m", Path::new("m.gguf"));
        let measured = measure(&sides, model, &[uniform(512, 1, 1)], 3, |_| {}).unwrap();
        assert_eq!(measured.versions["other"], "other 1");
        assert!(measured.rows.iter().all(|row| row.values["speed"] == [1.5, 1.5, 1.5]));
        let counts: Vec<_> = measured.rows.iter().map(|row| (row.compared, row.different)).collect();
        assert_eq!(counts, [(0, 0), (3, 0), (3, 3)]);
    }

    #[test]
    fn a_side_that_must_have_the_same_tokens_and_has_not_is_an_error() {
        let sides = [side(REFERENCE, "1,2", true), side("ours", "1,3", true)];
        let error = measure(&sides, ("m", Path::new("m.gguf")), &[uniform(512, 1, 1)], 2, |_| {}).unwrap_err();
        assert!(error.to_string().contains("ours has other tokens than c-loop in 2 of 2"), "{error}");
    }

    #[test]
    fn what_is_served_is_for_those_that_queue() {
        let mut sides = [side(REFERENCE, "1,2", true), side("single", "1,2", false), side("engine", "1,2", false)];
        sides[1].takes = Takes::Both;
        sides[2].takes = Takes::Served;
        // One request: the answers have one output.
        let queued = Order { workload: "load".to_owned(), ..uniform(512, 1, 1) };
        let measured = measure(&sides, ("m", Path::new("m.gguf")), &[queued], 1, |_| {}).unwrap();
        let rows: Vec<_> = measured.rows.iter().map(|row| (row.side.as_str(), row.compared)).collect();
        assert_eq!(rows, [("single", 0), ("engine", 1)]);
    }

    #[test]
    fn few_requests_are_the_first_ones() {
        let order = uniform(512, 8, 1);
        assert_eq!(shortened(&order, Some(4)).requests, order.requests[..4]);
        assert_eq!(shortened(&order, None), order);
    }
}
