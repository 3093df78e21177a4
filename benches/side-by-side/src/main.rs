//! The runner. `cargo xtask bench` builds it and hands its options on.

use std::env;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Parser;
use side_by_side::machine::{self, Header};
use side_by_side::models::BenchModel;
use side_by_side::report::Report;
use side_by_side::roster::{self, Side};
use side_by_side::rounds::{self, Measured};
use side_by_side::scaling::{self, Scaling};
use side_by_side::{build_times, summary, tuning, workload, written};

/// Measures this library beside the C API and beside llama-cpp-2, in interleaved rounds.
///
/// Writes JSON, tables (.md) and charts (.svg), and prints the tables. A machine that does nothing else is needed: llama.cpp's threads
/// wait for each other by spinning.
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Arguments {
    /// The core of it in less than five minutes: batch API, single inference and C loop, 135M Q8_0, 1, 2 and 8 sequences.
    #[arg(long)]
    quick: bool,
    /// The JSON; tables and charts lie beside it. docs/performance/bench.json if nothing is said, with --quick in the target directory.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Rounds: in each, every side has one turn with every workload.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Threads that each side computes with: as many as there are cores, if nothing is said.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    threads: Option<u32>,
    /// Which models.
    #[arg(long, value_enum, value_delimiter = ',')]
    models: Vec<BenchModel>,
    /// How many sequences.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=256))]
    sequences: Vec<u32>,
    /// Leaves llama-cpp-2 out, which takes minutes to build.
    #[arg(long)]
    without_peers: bool,
    /// llama.cpp's own benchmark as one more side: where its binary is.
    #[arg(long, value_name = "PROGRAM")]
    llama_batched_bench: Option<PathBuf>,
    /// llama.cpp's server as one more side: where its binary is.
    #[arg(long, value_name = "PROGRAM")]
    llama_server: Option<PathBuf>,
    /// Leaves out the workloads whose requests are served as they come.
    #[arg(long)]
    only_uniform: bool,
    /// Only these sides of those that there are.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// One more side: a program that is given a model file, and orders on its standard input.
    #[arg(long = "side", value_name = "NAME=PROGRAM")]
    sides: Vec<String>,
    /// In place of all this, what the engine itself takes for a token, by sequences, vocabulary and requests that wait:
    /// docs/performance/scaling.json, its tables and its chart.
    #[arg(long)]
    scaling: bool,
    /// Measures nothing: tables and charts anew from the JSON that is there.
    #[arg(long)]
    redraw: bool,
    /// Holds what the tuner chooses against an exhaustive sweep instead, with the first of the models; into tuner.json.
    #[arg(long, conflicts_with = "redraw")]
    tuner: bool,
    /// Times builds of small programs that depend on this library and on llama-cpp-2 instead, once each; into build.json.
    #[arg(long, conflicts_with_all = ["redraw", "tuner", "quick"])]
    build_times: bool,
}

/// What is measured of a model: uniform requests by numbers of sequences, and whether requests are served as well.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Plan {
    model: BenchModel,
    widths: Vec<u32>,
    served: bool,
}

/// The models that are measured if nothing is said, each with its numbers of sequences. The first one serves requests too.
const FULL: [(BenchModel, &[u32]); 3] =
    [(BenchModel::M135Q8, &[1, 2, 4, 8, 16, 32]), (BenchModel::M135Q4, &[2, 8, 32]), (BenchModel::M500Q4, &[8])];
const QUICK_SIDES: [&str; 4] = ["c-loop", "batch", "batch-stock", "single"];
const QUICK: [(BenchModel, &[u32]); 1] = [(BenchModel::M135Q8, &[1, 2, 8])];
/// How many clients send requests under load.
const LOADS: [u32; 3] = [8, 16, 32];

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let target = target()?;
    let out = arguments.out.clone().unwrap_or_else(|| default_out(&arguments, &target));
    if arguments.scaling {
        return scale(&arguments, &target, &out);
    }
    if arguments.tuner || arguments.build_times {
        return measure_by_itself(&arguments, &target, &out);
    }
    let report = if arguments.redraw { Report::read(&out)? } else { measure(&arguments, &target, &out)? };
    for path in report.write(&out)? {
        note(&format!("wrote {}", path.display()));
    }
    io::stdout().write_all(report.tables().as_bytes()).context("writing to standard output")
}

fn default_out(arguments: &Arguments, target: &Path) -> PathBuf {
    let (full, quick) = match (arguments.tuner, arguments.build_times, arguments.scaling) {
        (true, ..) => ("tuner.json", "quick-tuner.json"),
        (_, true, _) => ("build.json", "build.json"),
        (.., true) => ("scaling.json", "scaling.json"),
        _ => ("bench.json", "quick.json"),
    };
    let documents = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/performance");
    if arguments.quick { target.join("bench").join(quick) } else { documents.join(full) }
}

/// What has no sides that take turns.
fn measure_by_itself(arguments: &Arguments, target: &Path, out: &Path) -> Result<()> {
    let header = Header::before(command(), threads(arguments), arguments.rounds);
    warn(header.load_before, header.cores);
    let (files, tables) = if arguments.tuner {
        let model = arguments.models.first().copied().unwrap_or(BenchModel::M135Q8);
        let plan = tuning::Plan::new(model, arguments.rounds, arguments.quick);
        let report = tuning::measure(header, plan, &target.join("bench"), note)?;
        (written::write(out, &report, &report.tables())?, report.tables())
    } else {
        let report = build_times::measure(Header { rounds: 1, ..header }, note)?;
        (written::write(out, &report, &report.table())?, report.table())
    };
    for path in files {
        note(&format!("wrote {}", path.display()));
    }
    io::stdout().write_all(tables.as_bytes()).context("writing to standard output")
}

fn scale(arguments: &Arguments, target: &Path, out: &Path) -> Result<()> {
    let run = if arguments.redraw { Scaling::read(out)? } else { scaling::measure(command(), target)? };
    for path in run.write(out)? {
        note(&format!("wrote {}", path.display()));
    }
    io::stdout().write_all(run.tables().as_bytes()).context("writing to standard output")
}

fn threads(arguments: &Arguments) -> u32 {
    arguments.threads.unwrap_or_else(|| u32::try_from(machine::cores()).unwrap_or(1))
}

/// Measures one model after the other; what is known after each is written to `out`, so that a run that ends early is not lost.
fn measure(arguments: &Arguments, target: &Path, out: &Path) -> Result<Report> {
    let sides = sides(arguments, target)?;
    let plan = plan(arguments);
    let mut files = Vec::with_capacity(plan.len());
    for Plan { model, .. } in &plan {
        note(&format!("writing the model {}", model.name()));
        files.push(model.write(&target.join("bench"))?);
    }
    let threads = threads(arguments);
    let header = Header::before(command(), threads, arguments.rounds);
    warn(header.load_before, header.cores);

    let mut report = Report { header, rows: Vec::new(), differences: Vec::new() };
    let mut measured: Vec<Measured> = Vec::new();
    for (Plan { model, widths, served }, file) in plan.iter().zip(&files) {
        let vocabulary = model.vocabulary();
        let mut orders: Vec<_> = widths.iter().map(|width| workload::uniform(vocabulary, *width, threads)).collect();
        if *served {
            orders.extend(LOADS.map(|clients| workload::load(vocabulary, clients, threads)));
            orders.extend([workload::shared(vocabulary, threads), workload::ragged(vocabulary, threads)]);
        }
        let done = rounds::measure(&sides, (model.name(), file), &orders, arguments.rounds, note)?;
        measured.extend(done.rows);
        report.header.versions.extend(done.versions);
        report.header.load_after = machine::load();
        report.rows = summary::rows(&measured);
        report.differences = summary::differences(&measured);
        report.write(out)?;
    }
    Ok(report)
}

fn sides(arguments: &Arguments, target: &Path) -> Result<Vec<Side>> {
    let mut sides = roster::ours()?;
    if !arguments.quick && !arguments.without_peers {
        note("building llama-cpp-2, if it is not there yet");
        sides.extend(roster::llama_cpp_2(target, |name| is_wanted(arguments, name))?);
    }
    if let Some(program) = &arguments.llama_batched_bench {
        sides.push(roster::llama_cpp_program("batched-bench", program)?);
    }
    if let Some(program) = &arguments.llama_server {
        sides.push(roster::llama_cpp_program("server", program)?);
    }
    if arguments.quick {
        sides.retain(|side| QUICK_SIDES.contains(&side.name.as_str()));
    }
    for text in &arguments.sides {
        let side = roster::external(text)?;
        if sides.iter().any(|other| other.name == side.name) {
            bail!("there is a side {} already", side.name);
        }
        sides.push(side);
    }
    if let Some(unknown) = arguments.only.iter().find(|name| sides.iter().all(|side| side.name != **name)) {
        bail!("there is no side {unknown}");
    }
    sides.retain(|side| is_wanted(arguments, &side.name));
    Ok(sides)
}

fn is_wanted(arguments: &Arguments, side: &str) -> bool {
    arguments.only.is_empty() || arguments.only.iter().any(|only| only == side)
}

fn plan(arguments: &Arguments) -> Vec<Plan> {
    let usual: &[(BenchModel, &[u32])] = if arguments.quick { &QUICK } else { &FULL };
    let widths_of = |model: BenchModel| {
        let widths = usual.iter().find(|(usual, _)| *usual == model).map_or(QUICK[0].1, |(_, widths)| widths);
        if arguments.sequences.is_empty() { widths.to_vec() } else { arguments.sequences.clone() }
    };
    let models: Vec<BenchModel> = match arguments.models.as_slice() {
        [] => usual.iter().map(|(model, _)| *model).collect(),
        some => some.to_vec(),
    };
    let serves =
        |index: usize| !arguments.quick && !arguments.only_uniform && (index == 0 || !arguments.models.is_empty());
    let plan = |(index, model)| Plan { model, widths: widths_of(model), served: serves(index) };
    models.into_iter().enumerate().map(plan).collect()
}

/// The target directory, from where this program lies: cargo marks its root.
fn target() -> Result<PathBuf> {
    let program = env::current_exe().context("where this program is")?;
    let marked = program.ancestors().filter(|folder| folder.join("CACHEDIR.TAG").is_file()).last();
    let folder = marked.or_else(|| program.parent()?.parent()).context("this program is not in a target directory")?;
    Ok(folder.to_path_buf())
}

/// The command, with files by their names: where they lie is of no use elsewhere.
fn command() -> String {
    let named = |argument: String| match argument.split_once('=') {
        Some((name, value)) => format!("{name}={}", file_name(value)),
        None => file_name(&argument).to_owned(),
    };
    ["cargo xtask bench".to_owned()].into_iter().chain(env::args().skip(1).map(named)).collect::<Vec<_>>().join(" ")
}

fn file_name(text: &str) -> &str {
    text.rsplit(['/', '\\']).next().unwrap_or(text)
}

fn warn(load: Option<f64>, cores: usize) {
    if let Some(load) = load.filter(|load| *load > cores as f64 / 2.0) {
        note(&format!("the load average is {load}: beside other work these figures are worth nothing"));
    }
}

/// A line on standard error. A closed one is no reason to stop.
fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
