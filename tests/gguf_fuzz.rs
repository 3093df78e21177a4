//! Model files made to mislead: thousands of mutations of small right files, each loaded, and used if it loads. Whatever
//! a file says, the answer is a model that works or a typed error.
//!
//! The mutations run in child processes of this binary, many to a child, with a limit on memory and time, so that one that
//! takes llama.cpp down is found and named. `cargo xtask fuzz-gguf --count 100000` tries more, and `--first N --count 1`
//! repeats number `N` alone; it sets `GGUF_FUZZ_COUNT` and `GGUF_FUZZ_FIRST`.

// Not all of it is needed here.
#[allow(dead_code)]
#[path = "gguf_fuzz/document.rs"]
mod document;
#[path = "gguf_fuzz/mutate.rs"]
mod mutate;
#[path = "gguf_fuzz/pools.rs"]
mod pools;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use batch_suite::{is_leak_check, params};
use document::Document;
use fixtures::{Family, Weights};
use llama_safe::{Context, ContextError, DecodeError, LoadError, Model, ModelParams, Special, Token};
use mutate::{Random, mutate};

/// Mutations of a run of the suite.
const COUNT: u64 = 2500;
/// Mutations of one child.
const BATCH: u64 = 500;
/// Where the child finds its numbers.
const CHILD: &str = "GGUF_FUZZ_CHILD";
/// Longest that one mutation may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Address space of a child, in KiB: models are far below one MiB.
#[cfg(target_os = "linux")]
const MEMORY: u64 = 4 << 20;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What is mutated: every family, plain and quantised.
fn bases() -> Vec<Document> {
    let files = Family::ALL.iter().flat_map(|family| [Weights::F32, Weights::Q8_0].map(|weights| (*family, weights)));
    files.map(|(family, weights)| Document::new(&family.gguf(weights, 1).unwrap())).collect()
}

/// The first mutations: a file without one of its tensors or keys. (Base, and the tensor's number, or the key's behind.)
struct Loss(usize, usize);

impl Loss {
    fn document(&self, bases: &[Document]) -> Document {
        let mut document = bases[self.0].clone();
        let tensors = document.tensors.len();
        if self.1 < tensors {
            document.tensors.remove(self.1);
            document.lay_out();
        } else {
            document.pairs.remove(self.1 - tensors);
        }
        document
    }

    fn name(&self, bases: &[Document]) -> String {
        let base = &bases[self.0];
        let tensor = base.tensors.get(self.1).map(|tensor| tensor.name.as_slice());
        let name = tensor.unwrap_or_else(|| &base.pairs[self.1 - base.tensors.len()].0);
        String::from_utf8_lossy(name).into_owned()
    }
}

/// Every tensor and every key of every plain file.
fn losses(bases: &[Document]) -> Vec<Loss> {
    let plain = bases.iter().enumerate().step_by(2);
    plain
        .flat_map(|(index, base)| (0..base.tensors.len() + base.pairs.len()).map(move |lost| Loss(index, lost)))
        .collect()
}

/// No right file is refused, however it is put together.
#[test]
fn right_files_work() {
    for (index, mut base) in bases().into_iter().enumerate() {
        for version in [2, 3] {
            base.version = version;
            let answer = attempt(&base.to_bytes(), &ModelParams::default());
            let right = ["decoded", "encoded", "encoded and decoded"].contains(&answer);
            assert!(right, "base {index}, version {version}: {answer}");
        }
    }
}

/// What a child does; nothing in a run that is no child.
#[test]
fn child() {
    let Ok(range) = std::env::var(CHILD) else { return };
    let (first, end) = range.split_once(' ').expect("two numbers");
    let (first, end): (u64, u64) = (first.parse().unwrap(), end.parse().unwrap());
    let bases = bases();
    let losses = losses(&bases);
    let mut out = std::io::stdout().lock();
    for number in first..end {
        let mut random = Random(number.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let (base, bytes, what) = match losses.get(number as usize) {
            Some(loss) => (loss.0, loss.document(&bases).to_bytes(), format!("without {}", loss.name(&bases))),
            None => {
                let base = random.below(bases.len());
                let (bytes, what) = mutate(&bases[base], &mut random);
                (base, bytes, what)
            }
        };
        // On a line of its own: libtest has begun one.
        writeln!(out, "\nTRY {number} base {base}: {}", what.replace('\n', " ")).unwrap();
        out.flush().unwrap();
        let settings = ModelParams::default().vocab_only(random.below(10) == 0).check_tensors(random.below(10) == 0);
        let used = attempt(&bytes, &settings);
        writeln!(out, "\nWAS {used}").unwrap();
    }
    writeln!(out, "END").unwrap();
}

/// Loads and uses a file, and says how far it came.
fn attempt(bytes: &[u8], settings: &ModelParams) -> &'static str {
    let model = match Model::from_bytes(bytes, settings) {
        Ok(model) => model,
        Err(LoadError::Malformed(_)) => return "refused",
        Err(error) if error.to_string().contains("GGML_ASSERT") => {
            println!("ASSERTED {error}");
            return "asserted";
        }
        Err(_) => return "rejected",
    };
    let (_, _) = (model.metadata(), model.description());
    for special in [Special::None, Special::Bos] {
        let _ = model.tokenize("Hello world,\n \t 123 \u{e9}\u{4e2d}\u{1f600} <s></s>", special);
    }
    let vocab = model.vocab();
    for token in [0, 1, 200, model.vocabulary_size() as i32 - 1].map(Token) {
        let _ = (vocab.piece(token, true), vocab.text(token), vocab.score(token), vocab.is_control(token));
    }
    let _ = vocab.detokenize(&[Token(0), Token(5), Token(300)]);
    let few = params().context_tokens(256).batch_tokens(32).micro_batch_tokens(8).sequences(2);
    let mut context = match Context::new(&model, &few) {
        Ok(context) => context,
        Err(error) if error.to_string().contains("GGML_ASSERT") => {
            println!("ASSERTED {error}");
            return "no context, asserted";
        }
        Err(ContextError::UnsupportedModel { .. }) => return "unsupported",
        Err(_) => return "no context",
    };
    let Ok(sequence) = context.new_sequence() else { return "no sequence" };
    let encodes_first = context.limits().encodes_first();
    let mut compute = |encode: bool| {
        let mut batch = if encode && encodes_first { context.new_encoder_batch() } else { context.new_batch() };
        for token in [1, 2] {
            batch.push_output(&sequence, Token(token)).map_err(|_| None)?;
        }
        let computed = if encode { context.encode(&mut batch).map(drop) } else { context.decode(&mut batch).map(drop) };
        computed.map_err(Some)
    };
    match compute(false) {
        Ok(()) => "decoded",
        Err(None) => "no token",
        // An encoder, and what decodes after it has encoded.
        Err(Some(DecodeError::NoDecoder | DecodeError::NotEncoded { .. })) => match (compute(true), compute(false)) {
            (Err(_), _) => "not encoded",
            (_, Ok(())) => "encoded and decoded",
            _ => "encoded",
        },
        Err(Some(_)) => "not decoded",
    }
}

fn start(first: u64, end: u64) -> Child {
    let binary = std::env::current_exe().unwrap();
    let arguments = ["--exact", "child", "--nocapture", "--test-threads=1"];
    #[cfg(target_os = "linux")]
    let mut command = {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -v {MEMORY}; ulimit -c 0; exec \"$0\" \"$@\"")]).arg(binary);
        command
    };
    #[cfg(not(target_os = "linux"))]
    let mut command = Command::new(binary);
    command.args(arguments).env(CHILD, format!("{first} {end}")).env_remove("RUST_BACKTRACE");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// How a child ended.
struct Ending {
    /// The number that is to be tried next, and what was the matter with the one before; `None` if it came to its end.
    death: Option<(u64, String)>,
    /// How often each answer was given.
    answers: Vec<String>,
}

fn run(first: u64, end: u64) -> Ending {
    let mut child = start(first, end);
    let (send, receive) = mpsc::channel();
    let lines = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        for line in lines.split(b'\n').map_while(Result::ok) {
            if send.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
    let errors = BufReader::new(child.stderr.take().unwrap());
    let errors = std::thread::spawn(move || {
        let lines = errors.split(b'\n').map_while(Result::ok).map(|line| String::from_utf8_lossy(&line).into_owned());
        lines
            .filter(|line| line.contains("GGML_") || line.contains(".cpp:") || line.contains("panicked"))
            .take(3)
            .collect()
    });
    let (mut trying, mut answers, mut ended, mut late) = (None, Vec::new(), false, false);
    loop {
        match receive.recv_timeout(PATIENCE) {
            Ok(line) => {
                if let Some(rest) = line.strip_prefix("TRY ") {
                    trying = Some(rest.to_owned());
                } else if let Some(answer) = line.strip_prefix("WAS ") {
                    answers.push(answer.to_owned());
                } else if let Some(assertion) = line.strip_prefix("ASSERTED ") {
                    println!("ASSERTED {assertion}: {}", trying.as_deref().unwrap_or_default());
                } else if line == "END" {
                    ended = true;
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                late = true;
                child.kill().unwrap();
            }
        }
    }
    let status = child.wait().unwrap();
    reader.join().unwrap();
    let errors: Vec<String> = errors.join().unwrap();
    let death = (!ended || !status.success()).then(|| {
        let what = trying.unwrap_or_else(|| format!("{first} before the first"));
        let number = what.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(end);
        let how = if late { "took too long".to_owned() } else { format!("{status}") };
        (number + 1, format!("{how}: {}: {what}", errors.join(" | ")))
    });
    Ending { death, answers }
}

#[test]
fn mutations() {
    if std::env::var_os(CHILD).is_some() {
        return;
    }
    let first = variable("GGUF_FUZZ_FIRST").unwrap_or(0);
    let count = variable("GGUF_FUZZ_COUNT").unwrap_or(if is_leak_check() { 20 } else { COUNT });
    let (mut next, end) = (first, first + count);
    let mut deaths = Vec::new();
    let mut answers = std::collections::BTreeMap::<String, u64>::new();
    while next < end {
        let stop = end.min(next + BATCH);
        let ending = run(next, stop);
        for answer in ending.answers {
            *answers.entry(answer).or_default() += 1;
        }
        match ending.death {
            Some((after, death)) => {
                println!("{death}");
                deaths.push(death);
                next = after;
            }
            None => next = stop,
        }
    }
    println!("{count} mutations from {first} on: {answers:?}, {} deaths", deaths.len());
    assert!(deaths.is_empty(), "{} of {count} mutations took the process down:\n{}", deaths.len(), deaths.join("\n"));
    // Every loss is tried, and more.
    assert!(count < COUNT || losses(&bases()).len() as u64 + 500 < COUNT, "{}", losses(&bases()).len());
    // Enough of them get past the checks for the rest to be tried.
    let used: u64 =
        ["decoded", "encoded", "no context", "not decoded"].iter().filter_map(|key| answers.get(*key)).sum();
    assert!(count < 100 || used * 20 > count, "{answers:?}");
}
