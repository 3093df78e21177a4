//! Random programs against the safe interface, good calls and bad ones in any order, on contexts of any shape. Whatever
//! they do, the process lives, every error is a typed one, what is refused changes nothing, outputs are those of the
//! last computation, and sequences hold what one-at-a-time inference holds.
//!
//! The programs run in a child process of this binary, so that one that takes llama.cpp down is found and named.
//! `ADVERSARY_PROGRAMS=2000 cargo test --test families survives_random_programs` tries more of them for each family, and
//! `ADVERSARY_FIRST=N ADVERSARY_PROGRAMS=1` repeats program `N` alone.

#[path = "adversary/compute.rs"]
mod compute;
#[path = "adversary/elsewhere.rs"]
mod elsewhere;
#[path = "adversary/memory.rs"]
mod memory;
#[path = "adversary/named.rs"]
mod named;
#[path = "adversary/random.rs"]
mod random;

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use batch_suite::{family, is_leak_check};
use fixtures::{Family, Weights};
use llama_safe::{Batch, Context, MemoryKind, Model, OutputSlot, Place, Sequence, State, Token};

use compute::row;
pub use named::{
    numbers_that_are_none_are_told_and_cleared, numbers_that_are_none_do_not_reach_the_next_texts,
    sequences_dropped_while_they_are_decoded_leave_nothing,
};
use random::{Random, Settings, random_params, tokens};

/// Where the child finds what to do.
const CHILD: &str = "ADVERSARY_CHILD";

/// Whose model the programs run on.
#[derive(Clone, Copy)]
enum Subject {
    /// One that is known in every way: outputs are compared as well.
    Family(Family),
    /// One of llama.cpp's architectures, of which it is enough that nothing breaks.
    Architecture(usize),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Family(family) => write!(f, "{family}"),
            Self::Architecture(index) => f.write_str(fixtures::ARCHITECTURES[*index]),
        }
    }
}

/// What was put at the end of a sequence.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Step {
    Token(Token),
    Embedding(u32, Option<Place>),
}

struct Live {
    sequence: Sequence,
    /// `None` where inference from scratch does not tell what it holds.
    history: Option<Vec<Step>>,
    /// What the encoder of an encoder-decoder was given for it.
    text: Option<Vec<Token>>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    Tokens,
    Encoder,
    Embeddings,
}

struct Filled {
    batch: Batch,
    kind: Kind,
    rows: Vec<(Step, usize, Option<OutputSlot>)>,
}

struct Machine<'random> {
    random: &'random mut Random,
    model: Model,
    settings: Settings,
    context: Context,
    live: Vec<(u32, Live)>,
    names: u32,
    batches: Vec<Filled>,
    /// Rows of the last computation that succeeded.
    last: Vec<(OutputSlot, Vec<f32>)>,
    old: Vec<OutputSlot>,
    states: Vec<(State, Option<Vec<Step>>)>,
    other: Option<(Context, Sequence, Batch)>,
    foreign_state: Option<State>,
    steered: bool,
    /// Whether what is computed is known.
    compares: bool,
    trace: bool,
    errors: BTreeMap<String, u32>,
    compared: u32,
    worst: f64,
}

impl<'random> Machine<'random> {
    fn new(which: Subject, random: &'random mut Random, trace: bool) -> Result<Self, String> {
        let weights = random.of(&[Weights::F32, Weights::F32, Weights::F16]);
        let model = match which {
            Subject::Family(which) => family(which, weights),
            Subject::Architecture(index) => architecture(index)?,
        };
        let mut settings = random_params(random);
        // Weights in 16 bits are multiplied with numbers that are rounded to as many.
        settings.exact &= weights == Weights::F32;
        if trace {
            println!("{which} {weights} {:?}", settings.params);
        }
        let context = Context::new(&model, &settings.params).map_err(|error| {
            let _ = error.to_string();
            format!("new {error:?}")
        })?;
        Ok(Self {
            random,
            model,
            settings,
            context,
            live: Vec::new(),
            names: 0,
            batches: Vec::new(),
            last: Vec::new(),
            old: Vec::new(),
            states: Vec::new(),
            other: None,
            foreign_state: None,
            steered: false,
            compares: matches!(which, Subject::Family(_)),
            trace,
            errors: BTreeMap::new(),
            compared: 0,
            worst: 0.0,
        })
    }

    fn note<T, E: Debug + std::error::Error>(&mut self, what: &str, result: &Result<T, E>) {
        if let Err(error) = result {
            let text = format!("{error:?}");
            assert!(!error.to_string().is_empty());
            let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '(').collect();
            if self.trace {
                println!("    {what}: {error}");
            }
            *self.errors.entry(format!("{what} {name}")).or_default() += 1;
        }
    }

    fn pick(&mut self) -> Option<usize> {
        if self.live.is_empty() { None } else { Some(self.random.below(self.live.len() as u32) as usize) }
    }

    fn add(&mut self, sequence: Sequence, history: Option<Vec<Step>>, text: Option<Vec<Token>>) {
        self.names += 1;
        self.live.push((self.names, Live { sequence, history, text }));
    }

    fn has_memory(&self) -> bool {
        self.context.limits().memory() != MemoryKind::None
    }

    fn lengths(&self) -> Vec<u32> {
        self.live.iter().map(|(_, live)| live.sequence.len()).collect()
    }

    fn step(&mut self) {
        let op = self.random.below(100);
        if self.trace {
            println!("  op {op} lengths {:?}", self.lengths());
        }
        match op {
            0..10 => self.lease(),
            10..13 => {
                if let Some(index) = self.pick() {
                    self.live.swap_remove(index);
                }
            }
            13..40 => self.fill(),
            40..62 => {
                let which = self.pick_batch();
                self.prepare(which);
                self.compute(which, None);
            }
            62..66 => {
                let which = self.pick_batch();
                let most = self.random.of(&[1, 5, 30, 100, 300]);
                let checks = self.random.below(most);
                self.compute(which, Some(checks));
            }
            66..72 => self.truncate(),
            72..78 => self.fork(),
            78..81 => self.shift(),
            81..83 => self.clear(),
            83..88 => self.save(),
            88..92 => self.restore(),
            92..94 => self.steer(),
            94..97 => self.strangers(),
            _ => self.look(),
        }
        self.check_outputs();
    }

    fn lease(&mut self) {
        let made = self.context.new_sequence();
        self.note("lease", &made);
        match made {
            Ok(sequence) => {
                assert_eq!(sequence.len(), 0);
                self.add(sequence, Some(Vec::new()), None);
            }
            Err(_) => assert_eq!(self.live.len() as u32, self.context.limits().sequences()),
        }
    }

    fn look(&mut self) {
        for (_, live) in &self.live {
            let span = self.context.span(&live.sequence).expect("its own");
            let kind = self.context.limits().memory();
            if kind == MemoryKind::Attention && !live.sequence.is_damaged() {
                // A picture is at one position.
                let placed = |step: &Step| matches!(step, Step::Embedding(_, Some(_)));
                let placed = live.history.as_ref().is_none_or(|history| history.iter().any(placed));
                assert!(placed || span.end == live.sequence.len(), "{span:?} of {}", live.sequence.len());
            }
            let _ = self.context.is_encoded(&live.sequence);
        }
        for filled in &self.batches {
            for row in [0, filled.batch.len(), filled.batch.len().wrapping_sub(1), u32::MAX] {
                let _ = (filled.batch.token(row), filled.batch.position(row), filled.batch.sequence(row));
                let _ = (filled.batch.embedding(row).map(<[f32]>::len), filled.batch.is_output(row));
            }
        }
        let _ = format!("{:?} {:?}", self.context, self.batches.first().map(|filled| &filled.batch));
    }

    /// Outputs are those of the last computation, or there are none.
    fn check_outputs(&mut self) {
        let Some(outputs) = self.context.outputs() else { return };
        let _ = format!("{outputs:?}");
        for (slot, values) in self.last.iter().take(4) {
            let pooled = self.context.limits().is_pooled();
            let found = match outputs.get(*slot) {
                Ok(row) => Some(row),
                Err(_) if pooled => None,
                Err(_) => outputs.embedding(*slot).ok(),
            };
            if let Some(found) = found {
                assert!(found == values, "an output has changed");
            }
        }
        for slot in &self.old {
            if !self.last.iter().any(|(last, _)| last == slot) && outputs.get(*slot).is_ok() {
                panic!("an output of an earlier computation is read");
            }
        }
    }

    /// A known prompt gives the known result.
    fn end(&mut self) {
        let _ = self.context.clear_control_vector();
        self.steered = false;
        self.batches.clear();
        // What lives goes on from what it holds.
        for _ in 0..2 {
            let Some(index) = self.pick() else { break };
            let (_, live) = self.live.swap_remove(index);
            if live.history.as_ref().is_none_or(|history| history.len() > 60) || live.sequence.is_damaged() {
                continue;
            }
            if self.context.limits().encodes_first() || !self.has_memory() {
                continue;
            }
            let mut batch = self.context.new_batch();
            let Ok(slot) = batch.push_output(&live.sequence, Token(9)) else { continue };
            let pooled = self.context.limits().is_pooled();
            let Ok(outputs) = self.context.decode(&mut batch) else { continue };
            let got = row(outputs, pooled, slot, &live.sequence).map(<[f32]>::to_vec);
            let Some(got) = got else { continue };
            let mut history = live.history.expect("looked at above");
            history.push(Step::Token(Token(9)));
            self.compare(&got, &history, None);
        }
        self.live.clear();
        let sequence = self.context.new_sequence().expect("all are free");
        let limits = self.context.limits().clone();
        let text = tokens(self.random, &self.model, 5.min(limits.batch_tokens()).min(limits.encoder_tokens()));
        if limits.encodes_first() {
            let mut batch = self.context.new_encoder_batch();
            batch.extend(&sequence, &text).expect("room");
            self.context.encode(&mut batch).expect("an encoding");
        }
        let mut batch = self.context.new_batch();
        let slot = batch.prompt(&sequence, &text).expect("room");
        let outputs = if limits.memory() == MemoryKind::None {
            self.context.encode(&mut batch)
        } else {
            self.context.decode(&mut batch)
        };
        let outputs = outputs.expect("a right batch");
        if !limits.has_logits() && !limits.has_embeddings() {
            return;
        }
        let got = row(outputs, limits.is_pooled(), slot, &sequence).expect("an output").to_vec();
        let history: Vec<Step> = text.iter().copied().map(Step::Token).collect();
        self.compare(&got, &history, Some(&text));
    }
}

/// Runs one program.
fn program(which: Subject, number: u64, errors: &mut BTreeMap<String, u32>, trace: bool) -> (u32, f64) {
    let salt = match which {
        Subject::Family(which) => which as u64,
        Subject::Architecture(index) => 1000 + index as u64,
    };
    let mut random = Random(number.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ salt);
    let steps = 5 + random.below(60);
    let mut machine = match Machine::new(which, &mut random, trace) {
        Ok(machine) => machine,
        Err(error) => {
            *errors.entry(error.split([' ', '{']).take(2).collect::<Vec<_>>().join(" ")).or_default() += 1;
            return (0, 0.0);
        }
    };
    for _ in 0..steps {
        machine.step();
    }
    machine.end();
    for (name, count) in &machine.errors {
        *errors.entry(name.clone()).or_default() += count;
    }
    (machine.compared, machine.worst)
}

/// What the child does: the programs of its range, and a line for each.
fn child(which: Subject, range: &str) {
    let (first, end) = range.split_once(' ').expect("two numbers");
    let (first, end): (u64, u64) = (first.parse().expect("a number"), end.parse().expect("a number"));
    let mut errors = BTreeMap::new();
    let (mut compared, mut worst) = (0, 0.0_f64);
    for number in first..end {
        println!("TRY {number}");
        std::io::stdout().flush().expect("a pipe");
        let trace = std::env::var_os("ADVERSARY_TRACE").is_some();
        let ran = catch_unwind(AssertUnwindSafe(|| program(which, number, &mut errors, trace)));
        match ran {
            Ok((count, error)) => {
                compared += count;
                worst = worst.max(error);
            }
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                println!("WRONG {which} program {number}: {}", text.unwrap_or_default().replace('\n', " "));
            }
        }
    }
    println!("SAW {compared} comparisons, the worst {worst:e}; {errors:?}");
    println!("END");
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The tiny model of an architecture, made once.
fn architecture(index: usize) -> Result<Model, String> {
    static MODELS: Mutex<BTreeMap<usize, Model>> = Mutex::new(BTreeMap::new());
    let mut models = MODELS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(model) = models.get(&index) {
        return Ok(model.clone());
    }
    let made = batch_suite::architectures::architecture(fixtures::ARCHITECTURES[index]);
    let made = made.map_err(|error| format!("load {error:?}"))?;
    models.insert(index, made.clone());
    Ok(made)
}

/// Random programs of a family; `test` is the name of the test that calls this.
pub fn survives_random_programs(which: Family, test: &str, count: u64) {
    if let Ok(range) = std::env::var(CHILD) {
        return child(Subject::Family(which), &range);
    }
    let count = variable("ADVERSARY_PROGRAMS").unwrap_or(if is_leak_check() { 2 } else { count });
    let wrong = in_children(Subject::Family(which), test, count);
    assert!(wrong.is_empty(), "{} of {count} programs went wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Random programs of every architecture that llama.cpp has, most of which no other test does more with than decode.
pub fn architectures_survive_random_programs(test: &str, count: u64) {
    if let Ok(asked) = std::env::var(CHILD) {
        let (index, range) = asked.split_once(' ').expect("an architecture and two numbers");
        return child(Subject::Architecture(index.parse().expect("a number")), range);
    }
    let count = variable("ADVERSARY_PROGRAMS").unwrap_or(count);
    let step = if is_leak_check() { 17 } else { 1 };
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, std::num::NonZero::get) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(step, Ordering::Relaxed);
                    if index >= fixtures::ARCHITECTURES.len() {
                        break;
                    }
                    let found = in_children(Subject::Architecture(index), test, count);
                    wrong.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(wrong.is_empty(), "{} programs went wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Runs so many programs in children, a new one after each that dies. Returns what went wrong.
fn in_children(which: Subject, test: &str, count: u64) -> Vec<String> {
    let first = variable("ADVERSARY_FIRST").unwrap_or(0);
    let (mut next, end) = (first, first + count);
    let mut wrong = Vec::new();
    while next < end {
        let asked = match which {
            Subject::Family(_) => format!("{next} {end}"),
            Subject::Architecture(index) => format!("{index} {next} {end}"),
        };
        let binary = std::env::current_exe().expect("this binary");
        let mut command = Command::new(binary);
        command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
        command.env(CHILD, asked).env("GGML_NO_BACKTRACE", "1").env_remove("RUST_BACKTRACE");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = command.output().expect("a child");
        let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if std::env::var_os("ADVERSARY_TRACE").is_some() {
            println!("{text}");
        }
        wrong.extend(text.lines().filter(|line| line.starts_with("WRONG ")).map(str::to_owned));
        for line in text.lines().filter(|line| line.starts_with("SAW ")) {
            println!("{which}: {line}");
        }
        if output.status.success() && text.lines().any(|line| line == "END") {
            break;
        }
        let last = text.lines().rev().find_map(|line| line.rsplit_once("TRY ")?.1.parse::<u64>().ok()).unwrap_or(end);
        let why: Vec<&str> =
            errors.lines().filter(|line| line.contains(".cpp:") || line.contains("panicked")).collect();
        wrong.push(format!("{which} program {last}: {}: {}", output.status, why.join(" | ")));
        next = last + 1;
    }
    wrong
}
