//! Whether the tuner chooses well: its choice beside an exhaustive sweep of real work.
//!
//! Every [combination](grid::all) computes requests, prompts and answers; then the best of them and what the tuner chose take turns, in
//! which all requests are computed whole. Once without bounds, once with one on the gap between tokens, once with one on memory.

pub mod grid;
pub mod report;
pub mod work;

use std::path::Path;
use std::process::id;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use llama_safe::{ContextParams, Model, ModelParams, Tuner};

use crate::machine::{self, Header};
use crate::models::BenchModel;
use crate::others;
use grid::{Bounds, Cell, Combination};
use report::{Case, Choice, Finalist, Report};
use work::{Portion, Requests, Taken};

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The model.
    pub model: BenchModel,
    /// What requests are like.
    pub requests: Requests,
    /// The most sequences.
    pub most_sequences: u32,
    /// Rounds of the best against each other.
    pub rounds: u32,
}

impl Plan {
    /// Requests of 64 tokens and 32 more, with up to 32 sequences; `quick`: of 32 and 16, with up to 4.
    #[must_use]
    pub const fn new(model: BenchModel, rounds: u32, quick: bool) -> Self {
        let (prompt, generated, most_sequences) = if quick { (32, 16, 4) } else { (64, 32, 32) };
        Self { model, requests: Requests { prompt, generated, cells: 256 }, most_sequences, rounds }
    }
}

/// A turn that others disturbed is repeated once.
const TRIES: u32 = 2;
/// Combinations this near to the best one of a case are looked at so often in all.
const NEAR: f64 = 0.2;
const LOOKS: u32 = 3;
/// Tokens of prompts that a combination of the sweep computes, at most: those of the largest pass.
const PROMPT_TOKENS: u32 = 512;
/// Steps of a combination of the sweep: with fewest sequences, and with most.
const STEPS: (u32, u32) = (16, 6);

/// Sweeps, lets the tuner choose, and compares. `note` hears what is done next.
///
/// # Errors
///
/// What the library reports, and a model that cannot be written into the folder `models`.
pub fn measure(mut header: Header, plan: Plan, models: &Path, mut note: impl FnMut(&str)) -> Result<Report> {
    note(&format!("writing the model {}", plan.model.name()));
    let model = Model::load(plan.model.write(models)?, &ModelParams::default())?;
    let bench = Bench { model, plan };
    let cores = u32::try_from(machine::cores()).unwrap_or(1);
    let combinations = grid::all(cores, plan.most_sequences);
    let mut cells = Vec::with_capacity(combinations.len());
    for (index, combination) in combinations.iter().enumerate() {
        note(&format!("{} of {}: {}", index + 1, combinations.len(), combination.described()));
        cells.push(bench.cell(*combination)?);
    }

    let mut cases = Vec::new();
    for (name, bounds) in bench.bounds(&cells)? {
        note(&format!("the tuner, {name}"));
        let choice = bench.choose(&bounds)?;
        for looks in 1..LOOKS {
            note(&format!("{name}, look {} at those near to the best", looks + 1));
            again(&mut cells, &bounds, looks, |cell| bench.look(cell))?;
        }
        cases.push((name, bounds, choice));
    }
    let finalists: Vec<Vec<Combination>> =
        cases.iter().map(|(_, bounds, choice)| finalists(&cells, bounds, choice.combination)).collect();
    let finals = bench.finals(&finalists.concat(), &mut note)?;
    let case = |((name, bounds, choice), combinations): ((&str, Bounds, Choice), Vec<Combination>)| {
        let of_case = finals.iter().filter(|one| combinations.contains(&one.combination)).cloned().collect();
        Case { name: name.to_owned(), bounds, choice, finalists: of_case }
    };
    let cases = cases.into_iter().zip(finalists).map(case).collect();
    header.load_after = machine::load();
    Ok(Report {
        header,
        model: plan.model.name().to_owned(),
        prompt: plan.requests.prompt,
        generated: plan.requests.generated,
        cells: plan.requests.cells,
        most_sequences: plan.most_sequences,
        sweep: cells,
        cases,
    })
}

/// Has those that are near to the best measured once more, if they were `looks` times, and those that others disturbed: how near they
/// are is not known.
fn again(cells: &mut [Cell], bounds: &Bounds, looks: u32, mut look: impl FnMut(&mut Cell) -> Result<()>) -> Result<()> {
    let most = grid::ranked(cells, bounds).first().map_or(0.0, |best| best.tokens_per_second);
    let is_near = |cell: &Cell| bounds.keeps(cell) && cell.tokens_per_second >= most * (1.0 - NEAR);
    for cell in cells.iter_mut().filter(|cell| cell.looks == looks && (is_near(cell) || cell.is_disturbed())) {
        look(cell)?;
    }
    Ok(())
}

/// The choice, and the best others: two without bounds, where wide batches are near to each other, else one.
fn finalists(cells: &[Cell], bounds: &Bounds, choice: Combination) -> Vec<Combination> {
    let others = if *bounds == Bounds::default() { 2 } else { 1 };
    let ranked = grid::ranked(cells, bounds).into_iter().map(|cell| cell.combination);
    [choice].into_iter().chain(ranked.filter(|one| *one != choice).take(others)).collect()
}

struct Bench {
    model: Model,
    plan: Plan,
}

impl Bench {
    fn memory(&self, combination: Combination) -> Result<u64> {
        let params = work::params(combination, self.plan.requests);
        Ok(self.model.estimate(&params)?.resident().context())
    }

    fn cell(&self, combination: Combination) -> Result<Cell> {
        let memory_bytes = self.memory(combination)?;
        let (taken, others) = self.compute(combination, self.portion(combination.sequences))?;
        Ok(Cell {
            combination,
            memory_bytes,
            prompt_tokens_per_second: taken.prompt_tokens_per_second,
            step_ms: taken.step.as_secs_f64() * 1e3,
            tokens_per_second: self.plan.requests.rate(combination.sequences, taken),
            others,
            looks: 1,
        })
    }

    /// One more look at a cell: a mean of spells of the machine, fast ones and slow ones.
    fn look(&self, cell: &mut Cell) -> Result<()> {
        let now = self.cell(cell.combination)?;
        if cell.is_disturbed() && !now.is_disturbed() {
            // Worth nothing, and no part of a mean.
            *cell = Cell { looks: cell.looks + 1, ..now };
            return Ok(());
        }
        let looks = f64::from(cell.looks);
        let mean = |before: f64, now: f64| (before * looks + now) / (looks + 1.0);
        let token = mean(1.0 / cell.prompt_tokens_per_second, 1.0 / now.prompt_tokens_per_second);
        cell.prompt_tokens_per_second = 1.0 / token;
        cell.step_ms = mean(cell.step_ms, now.step_ms);
        cell.others = cell.others.into_iter().chain(now.others).reduce(f64::max);
        cell.looks += 1;
        let step = Duration::from_secs_f64(cell.step_ms / 1e3);
        let taken = Taken { prompt_tokens_per_second: cell.prompt_tokens_per_second, step };
        cell.tokens_per_second = self.plan.requests.rate(cell.combination.sequences, taken);
        Ok(())
    }

    /// Wide steps are long: few of them tell as much as many narrow ones.
    fn portion(&self, sequences: u32) -> Portion {
        let prompts = (PROMPT_TOKENS / self.plan.requests.prompt).max(1);
        Portion { prompts, steps: (STEPS.0 * STEPS.1 / sequences).clamp(STEPS.1, STEPS.0) }
    }

    fn compute(&self, combination: Combination, portion: Portion) -> Result<(Taken, Option<f64>)> {
        let turn = || work::compute(&self.model, combination, self.plan.requests, portion);
        others::quietest(id(), TRIES, turn).with_context(|| combination.described())
    }

    /// No bounds; a gap between what two narrower widths take; the memory of three eighths of the sequences.
    fn bounds(&self, cells: &[Cell]) -> Result<[(&'static str, Bounds); 3]> {
        let best = grid::ranked(cells, &Bounds::default()).into_iter().next().context("an empty sweep")?;
        let gap = grid::gap_below(cells, best);
        let sequences = (self.plan.most_sequences * 3 / 8).max(1);
        let usual = Combination { micro_batch: grid::MICRO_BATCHES[0], ..best.combination };
        let memory = self.memory(Combination { sequences, ..usual })?;
        Ok([
            ("no bounds", Bounds::default()),
            ("a bound on the gap", Bounds { gap_ms: Some(gap), memory_bytes: None }),
            ("a bound on memory", Bounds { gap_ms: None, memory_bytes: Some(memory) }),
        ])
    }

    fn choose(&self, bounds: &Bounds) -> Result<Choice> {
        let Requests { prompt, generated, cells } = self.plan.requests;
        let mut tuner = Tuner::new(&self.model).requests(prompt, generated).sequence_tokens(cells);
        tuner = tuner.most_sequences(self.plan.most_sequences);
        if let Some(gap) = bounds.gap_ms {
            tuner = tuner.token_gap(Duration::from_secs_f64(gap / 1e3));
        }
        if let Some(limit) = bounds.memory_bytes {
            tuner = tuner.context(ContextParams::default().memory_limit(limit));
        }
        let started = Instant::now();
        let tuned = tuner.tune()?;
        let tuner_s = started.elapsed().as_secs_f64();
        let combination = Combination {
            threads: tuned.threads,
            layout: tuned.kv_layout.into(),
            micro_batch: tuned.micro_batch_tokens,
            sequences: tuned.sequences,
        };
        Ok(Choice {
            combination,
            tokens_per_second: tuned.tokens_per_second,
            prompt_tokens_per_second: tuned.prompt_tokens_per_second,
            step_ms: tuned.token_gap.as_secs_f64() * 1e3,
            tuner_s,
            cut_short: tuned.cut_short,
            measured: tuned.to_string().lines().map(str::to_owned).collect(),
        })
    }

    /// Whole requests of each combination in turn.
    fn finals(&self, combinations: &[Combination], mut note: impl FnMut(&str)) -> Result<Vec<Finalist>> {
        let mut finals: Vec<Finalist> = Vec::new();
        for combination in combinations {
            if finals.iter().all(|one| one.combination != *combination) {
                finals.push(Finalist::new(*combination, self.memory(*combination)?));
            }
        }
        for round in 1..=self.plan.rounds {
            for one in &mut finals {
                note(&format!("round {round} of {}: {}", self.plan.rounds, one.combination.described()));
                let (taken, others) = self.compute(one.combination, Portion::WHOLE)?;
                let rate = self.plan.requests.rate(one.combination.sequences, taken);
                one.add(rate, taken, others);
            }
        }
        Ok(finals)
    }
}

#[cfg(test)]
mod tests {
    use super::grid::tests::cell;
    use super::*;

    #[test]
    fn those_near_the_best_are_looked_at_again() {
        let mut cells = [cell(1, 512, 79.0, 1.0, 1), cell(2, 512, 100.0, 2.0, 2), cell(4, 512, 120.0, 3.0, 3)];
        let bounds = Bounds { gap_ms: Some(2.5), memory_bytes: None };
        let mut seen = Vec::new();
        again(&mut cells, &bounds, 1, |cell| {
            seen.push(cell.combination.sequences);
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, [2], "100 is the best within the bounds, 79 is far from it");
        (cells[0].others, cells[2].others) = (Some(0.2), Some(0.2));
        seen.clear();
        again(&mut cells, &bounds, 1, |cell| {
            seen.push(cell.combination.sequences);
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, [1, 2, 4], "whoever was disturbed could be anywhere");
        again(&mut cells, &bounds, 2, |_| panic!("none was looked at twice")).unwrap();
    }

    #[test]
    fn finalists_are_the_choice_and_the_best_others() {
        let cells = [cell(1, 512, 80.0, 1.0, 1), cell(2, 512, 100.0, 2.0, 2), cell(4, 512, 120.0, 3.0, 3)];
        let widths = |bounds: &Bounds, choice: Combination| -> Vec<u32> {
            finalists(&cells, bounds, choice).into_iter().map(|one| one.sequences).collect()
        };
        let free = Bounds::default();
        assert_eq!(widths(&free, cells[2].combination), [4, 2, 1]);
        assert_eq!(widths(&free, Combination { sequences: 3, ..cells[2].combination }), [3, 4, 2]);
        let bounded = Bounds { memory_bytes: Some(2), gap_ms: None };
        assert_eq!(widths(&bounded, cells[1].combination), [2, 1]);
        assert_eq!(widths(&bounded, cells[0].combination), [1, 2]);
    }

    #[test]
    fn a_small_model_is_tuned_and_compared() {
        let gguf = fixtures::Llama::tiny().gguf(fixtures::Weights::Q8_0, 1).unwrap();
        let model = Model::from_bytes(&gguf, &ModelParams::default()).unwrap();
        let plan = Plan { rounds: 2, ..Plan::new(BenchModel::M135Q8, 2, true) };
        let bench = Bench { model, plan };
        let combination = Combination { threads: 1, sequences: 3, ..cell(1, 64, 0.0, 0.0, 0).combination };
        let cell = bench.cell(combination).unwrap();
        assert!(cell.tokens_per_second > 0.0 && cell.step_ms > 0.0 && cell.memory_bytes > 0);
        let mut second = cell.clone();
        bench.look(&mut second).unwrap();
        assert_eq!((second.looks, second.combination), (2, combination));
        assert!(second.step_ms > cell.step_ms / 2.0, "a mean of both");
        let finals = bench.finals(&[combination, combination], |_| {}).unwrap();
        assert_eq!(finals.len(), 1);
        assert_eq!(finals[0].tokens_per_second.len(), 2);
    }
}
