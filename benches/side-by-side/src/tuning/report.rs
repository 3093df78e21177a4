//! What is left of it: JSON, and tables.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::grid::{Bounds, Cell, Combination, ranked};
use super::work::Taken;
use crate::machine::Header;
use crate::summary::{median, range};

/// Everything that is known of a run. `tuner.json` is this.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// When, where, with what.
    pub header: Header,
    /// The model, as tables call it.
    pub model: String,
    /// Tokens of a prompt.
    pub prompt: u32,
    /// Tokens generated for it.
    pub generated: u32,
    /// Cells of each sequence.
    pub cells: u32,
    /// The most sequences.
    pub most_sequences: u32,
    /// Every combination.
    pub sweep: Vec<Cell>,
    /// With these bounds and those.
    pub cases: Vec<Case>,
}

/// What the tuner chose within some bounds, beside the best that the sweep has within them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// In words.
    pub name: String,
    /// What had to be kept.
    pub bounds: Bounds,
    /// What was chosen.
    pub choice: Choice,
    /// That, and the best of the sweep but for it, in whole requests in turn.
    pub finalists: Vec<Finalist>,
}

/// A choice, and what it promised.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Which one.
    pub combination: Combination,
    /// Tokens generated in a second, prompts included.
    pub tokens_per_second: f64,
    /// Tokens of prompts computed in a second.
    pub prompt_tokens_per_second: f64,
    /// Milliseconds of a step.
    pub step_ms: f64,
    /// Seconds that it took to choose.
    pub tuner_s: f64,
    /// Whether it would have measured more.
    pub cut_short: bool,
    /// What it measured, a line each.
    pub measured: Vec<String>,
}

/// A combination with all of the work, a number for each round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finalist {
    /// Which one.
    pub combination: Combination,
    /// Bytes that its context takes, as the library estimates them.
    pub memory_bytes: u64,
    /// Tokens generated in a second, prompts included.
    pub tokens_per_second: Vec<f64>,
    /// Tokens of prompts computed in a second.
    pub prompt_tokens_per_second: Vec<f64>,
    /// Milliseconds of a step.
    pub step_ms: Vec<f64>,
    /// The largest share of the cores' time that other processes had in a round, 0 to 1; none where the system does not tell.
    pub others: Option<f64>,
}

impl Finalist {
    /// Of no round yet.
    #[must_use]
    pub fn new(combination: Combination, memory_bytes: u64) -> Self {
        let (tokens_per_second, prompt_tokens_per_second, step_ms) = (Vec::new(), Vec::new(), Vec::new());
        Self { combination, memory_bytes, tokens_per_second, prompt_tokens_per_second, step_ms, others: None }
    }

    /// One more round.
    pub fn add(&mut self, tokens_per_second: f64, taken: Taken, others: Option<f64>) {
        self.tokens_per_second.push(tokens_per_second);
        self.prompt_tokens_per_second.push(taken.prompt_tokens_per_second);
        self.step_ms.push(taken.step.as_secs_f64() * 1e3);
        self.others = self.others.into_iter().chain(others).reduce(f64::max);
    }
}

/// The choice beside the best other one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison<'a> {
    /// The choice.
    pub choice: &'a Finalist,
    /// The one with the highest median of those that were not chosen.
    pub best: &'a Finalist,
    /// The ratio of the medians, choice to best.
    pub ratio: f64,
    /// The lowest ratio of a round, and the highest.
    pub range: [f64; 2],
}

impl Case {
    /// The choice beside the best other one; none where there is no other.
    #[must_use]
    pub fn comparison(&self) -> Option<Comparison<'_>> {
        let is_choice = |one: &&Finalist| one.combination == self.choice.combination;
        let choice = self.finalists.iter().find(is_choice)?;
        let rate = |one: &Finalist| median(&one.tokens_per_second);
        let others = self.finalists.iter().filter(|one| !is_choice(one));
        let best = others.max_by(|one, other| rate(one).total_cmp(&rate(other)))?;
        let rounds = choice.tokens_per_second.iter().zip(&best.tokens_per_second);
        let range = range(rounds.map(|(choice, best)| choice / best));
        Some(Comparison { choice, best, ratio: rate(choice) / rate(best), range })
    }
}

/// Cells of the sweep that a table shows for each case.
const SHOWN: usize = 5;

impl Report {
    /// The tables in Markdown.
    #[must_use]
    pub fn tables(&self) -> String {
        let mut text = self.header.described();
        let Self { model, prompt, generated, most_sequences, header, .. } = self;
        let _ = writeln!(
            text,
            "\n{model}, requests of {prompt} + {generated} tokens, up to {most_sequences} sequences, {} rounds. Tokens/s are generated \
             ones, the time of their prompts included.",
            header.rounds
        );
        for case in &self.cases {
            let _ = write!(text, "\n### The tuner with {}{}\n\n{}", case.name, bounds(&case.bounds), of_case(case));
            let _ = writeln!(text, "\nThe best of {} combinations of the sweep that keep it:\n", self.sweep.len());
            text += "| combination | tokens/s | prompts, tokens/s | a step, ms | MB |\n|---|---|---|---|---|\n";
            for cell in ranked(&self.sweep, &case.bounds).into_iter().take(SHOWN) {
                let _ = writeln!(
                    text,
                    "| {} | {:.1} | {:.0} | {:.1} | {:.0} |",
                    cell.combination.described(),
                    cell.tokens_per_second,
                    cell.prompt_tokens_per_second,
                    cell.step_ms,
                    megabytes(cell.memory_bytes)
                );
            }
        }
        text
    }
}

fn bounds(bounds: &Bounds) -> String {
    let gap = bounds.gap_ms.map(|gap| format!(": {gap:.1} ms"));
    let memory = bounds.memory_bytes.map(|bytes| format!(": {:.0} MB", megabytes(bytes)));
    gap.into_iter().chain(memory).collect()
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn of_case(case: &Case) -> String {
    let choice = &case.choice;
    let cut_short = if choice.cut_short { ", cut short" } else { "" };
    let mut text = format!(
        "Chosen in {:.1} s{cut_short}: {}; promised {:.1} tokens/s, prompts {:.0} tokens/s, a step {:.1} ms.\n\n\
         | in whole requests | tokens/s | prompts, tokens/s | a step, ms | MB | others had |\n|---|---|---|---|---|---|\n",
        choice.tuner_s,
        choice.combination.described(),
        choice.tokens_per_second,
        choice.prompt_tokens_per_second,
        choice.step_ms
    );
    for one in &case.finalists {
        let spread = |values: &[f64], decimals: usize| {
            let [low, high] = range(values.iter().copied());
            format!("{:.decimals$} ({low:.decimals$} to {high:.decimals$})", median(values))
        };
        let chosen = if one.combination == choice.combination { "**chosen**: " } else { "" };
        let _ = writeln!(
            text,
            "| {chosen}{} | {} | {} | {} | {:.0} | {} |",
            one.combination.described(),
            spread(&one.tokens_per_second, 1),
            spread(&one.prompt_tokens_per_second, 0),
            spread(&one.step_ms, 1),
            megabytes(one.memory_bytes),
            one.others.map_or(String::new(), |share| format!("{:.0} %", share * 100.0))
        );
    }
    if let Some(Comparison { ratio, range: [low, high], .. }) = case.comparison() {
        let _ = writeln!(text, "\nThe choice to the best other: × {ratio:.3} ({low:.2} to {high:.2}).");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::grid::tests::cell;
    use super::*;

    fn finalist(sequences: u32, tokens_per_second: &[f64]) -> Finalist {
        let mut finalist = Finalist::new(cell(sequences, 512, 0.0, 0.0, 0).combination, 2_000_000);
        for rate in tokens_per_second {
            let taken = Taken { prompt_tokens_per_second: 300.0, step: std::time::Duration::from_millis(20) };
            finalist.add(*rate, taken, Some(0.02));
        }
        finalist
    }

    fn case() -> Case {
        let choice = Choice {
            combination: cell(4, 512, 0.0, 0.0, 0).combination,
            tokens_per_second: 60.0,
            prompt_tokens_per_second: 310.0,
            step_ms: 19.0,
            tuner_s: 12.5,
            cut_short: false,
            measured: vec!["2 threads".to_owned()],
        };
        let finalists =
            vec![finalist(4, &[57.0, 60.0, 58.0]), finalist(2, &[50.0, 70.0, 51.0]), finalist(8, &[60.0, 59.0, 61.0])];
        Case {
            name: "a bound on the gap".to_owned(),
            bounds: Bounds { gap_ms: Some(25.0), ..Bounds::default() },
            choice,
            finalists,
        }
    }

    #[test]
    fn the_choice_is_held_against_the_best_other_by_medians() {
        let case = case();
        let Comparison { choice, best, ratio, range } = case.comparison().unwrap();
        assert_eq!((choice.combination.sequences, best.combination.sequences), (4, 8));
        assert_eq!((ratio, range), (58.0 / 60.0, [57.0 / 60.0, 60.0 / 59.0]));
        assert_eq!(Case { finalists: case.finalists[..1].to_vec(), ..case.clone() }.comparison(), None);
        assert_eq!(Case { finalists: case.finalists[1..].to_vec(), ..case.clone() }.comparison(), None);
    }

    #[test]
    fn tables_have_the_choice_its_promise_and_the_best() {
        let sweep = vec![cell(4, 512, 60.0, 20.0, 2_000_000), cell(8, 512, 70.0, 30.0, 3_000_000)];
        let header = Header::before("cargo xtask bench --tuner".into(), 2, 3);
        let model = "135M Q8_0".to_owned();
        let report = Report {
            header,
            model,
            prompt: 128,
            generated: 64,
            cells: 256,
            most_sequences: 8,
            sweep,
            cases: vec![case()],
        };
        let text = report.tables();
        for part in [
            "135M Q8_0, requests of 128 + 64 tokens, up to 8 sequences, 3 rounds.",
            "### The tuner with a bound on the gap: 25.0 ms",
            "Chosen in 12.5 s: 4 sequences, split cells, passes of 512, 2 threads; promised 60.0 tokens/s",
            "| **chosen**: 4 sequences, split cells, passes of 512, 2 threads | 58.0 (57.0 to 60.0) | 300 (300 to 300) | 20.0 (20.0 to 20.0) | 2 | 2 % |",
            "× 0.967 (0.95 to 1.02)",
            "| 4 sequences, split cells, passes of 512, 2 threads | 60.0 | 300 | 20.0 | 2 |",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(!text.contains("| 70.0 | 300 |"), "it takes too long:\n{text}");
    }
}
