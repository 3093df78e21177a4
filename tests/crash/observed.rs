//! What came of a child, and whether that is what its row says.

use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::child::{self, ARRAYS, ENDLESS_SECONDS, MARK};
use crate::row::{Outcome, Row};

/// What a child told, and how it ended.
pub struct Observed {
    status: ExitStatus,
    /// What it wrote to standard error, without the lines for the parent.
    pub errors: String,
    /// The text of a wrong result.
    pub wrong: Option<String>,
    guard: Option<&'static str>,
    overflow: bool,
    jumped: bool,
    /// Functions from the innermost to the raw side, none of them of the system or of Rust's library.
    pub trace: Vec<String>,
    late: bool,
}

/// What glibc's allocator says before it ends the process.
const COMPLAINTS: [&str; 7] = [
    "free(): ",
    "munmap_chunk(): ",
    "double free",
    "malloc(): ",
    "realloc(): ",
    "corrupted ",
    "malloc_consolidate(): ",
];

/// A child gets more time on a busy machine than its processor time says.
const PATIENCE: Duration = Duration::from_secs(90);

/// Runs the raw side of `row` in a child of this program.
pub fn run(row: &Row) -> io::Result<Observed> {
    let mut child = Command::new(std::env::current_exe()?)
        .env("CASE", row.title())
        // ggml would start a debugger.
        .env("GGML_NO_BACKTRACE", "1")
        // What is given out and what is freed are filled with bytes that are no addresses, so that using either does
        // not depend on chance.
        .env("GLIBC_TUNABLES", "glibc.malloc.perturb=165:glibc.malloc.tcache_count=0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut pipe = child.stderr.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).map(|_| bytes)
    });
    let start = Instant::now();
    let patience = match row.outcome {
        // One that waits uses no processor time.
        Outcome::Endless { .. } => Duration::from_secs(4 * ENDLESS_SECONDS),
        _ => PATIENCE,
    };
    let mut late = false;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if !late && start.elapsed() > patience {
            late = true;
            // As if its processor time were up: it tells where it is.
            // SAFETY: a signal to a child that has not been waited for.
            unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGXCPU) };
        }
        if start.elapsed() > patience + Duration::from_secs(2) {
            child.kill()?;
        }
        thread::sleep(Duration::from_millis(2));
    };
    let bytes = reader.join().map_err(|_| io::ErrorKind::Other)??;
    let mut observed = Observed {
        status,
        errors: String::new(),
        wrong: None,
        guard: None,
        overflow: false,
        jumped: false,
        trace: Vec::new(),
        late,
    };
    let (mut base, mut place, mut frames) = (0, 0, Vec::new());
    for line in String::from_utf8_lossy(&bytes).split_inclusive('\n') {
        let Some((before, told)) = line.split_once(MARK) else {
            observed.errors.push_str(line);
            continue;
        };
        observed.errors.push_str(before);
        let (word, rest) = told.trim_end().split_once(' ').unwrap_or((told, ""));
        let number = usize::from_str_radix(rest, 16).unwrap_or(0);
        match word {
            "base" => base = number,
            "wrong" => observed.wrong = Some(rest.to_owned()),
            "guard" => observed.guard = ARRAYS.get(number).copied(),
            "jump" => observed.jumped = true,
            "overflow" => observed.overflow = true,
            "place" => place = number.wrapping_sub(base).wrapping_add(child::anchor()),
            "frame" => frames.push(number.wrapping_sub(base).wrapping_add(child::anchor())),
            _ => {}
        }
    }
    observed.trace = functions(&frames, place);
    Ok(observed)
}

/// The functions at `frames`, from the one that died, at `place`, to the raw side.
fn functions(frames: &[usize], place: usize) -> Vec<String> {
    let mut trace: Vec<String> = Vec::new();
    for &address in frames {
        // Taken for a return address, which may be the first of the next function: the one before it is looked up.
        let within = if address == place { address.wrapping_add(1) } else { address };
        backtrace::resolve(within as *mut _, |symbol| {
            let Some(name) = symbol.name() else { return };
            let name = plain(&format!("{name:#}"));
            if !name.is_empty() && !is_of_rust(&name) && trace.last() != Some(&name) {
                trace.push(name);
            }
        });
    }
    if let Some(handler) = trace.iter().rposition(|name| name.ends_with("child::died")) {
        trace.drain(..=handler);
    }
    if let Some(end) = trace.iter().position(|name| name.ends_with("child::raw_side")) {
        trace.truncate(end);
    }
    trace
}

/// The way from a panic to the end of the process.
fn is_of_rust(name: &str) -> bool {
    ["std::sys::", "std::process::", "std::panicking::", "core::panicking::", "__rustc::"]
        .iter()
        .any(|part| name.starts_with(part))
}

/// A name without parameters, template arguments, and what a compiler adds.
fn plain(name: &str) -> String {
    let name = name.replace("(anonymous namespace)::", "");
    let name = name.split(" [clone").next().unwrap_or_default();
    let (mut plain, mut depth) = (String::new(), 0_u32);
    for letter in name.chars() {
        match letter {
            '(' => break,
            '<' if !plain.ends_with("operator") => depth += 1,
            '>' if depth > 0 => depth -= 1,
            _ if depth == 0 => plain.push(letter),
            _ => {}
        }
    }
    // The type of a result, which a template's name begins with.
    plain.rsplit(' ').next().unwrap_or_default().to_owned()
}

impl Observed {
    /// Whether this is what `row` says; otherwise what it is instead.
    pub fn check(&self, row: &Row) -> Result<(), String> {
        let right = match row.outcome {
            Outcome::Segfault { .. } => {
                self.died_of(libc::SIGSEGV) && self.guard.is_none() && !self.overflow && self.inside(row)
            }
            Outcome::GuardPage { array, .. } => self.died_of(libc::SIGSEGV) && self.guard == Some(array),
            Outcome::Bus { .. } => self.died_of(libc::SIGBUS) && self.inside(row),
            Outcome::Panic { says, .. } => self.died_of(libc::SIGABRT) && self.errors.contains(says),
            Outcome::Division { .. } => self.died_of(libc::SIGFPE) && self.inside(row),
            Outcome::StackOverflow { .. } => self.died_of(libc::SIGSEGV) && self.overflow,
            Outcome::Heap => self.died_of(libc::SIGABRT) && COMPLAINTS.iter().any(|text| self.errors.contains(text)),
            Outcome::Assertion { at, says } => {
                let message = format!("{at}: {says}");
                self.died_of(libc::SIGABRT) && self.errors.lines().any(|line| line.ends_with(&message))
            }
            Outcome::Exception { kind, says, .. } => {
                let thrown = format!("terminate called after throwing an instance of '{kind}'");
                self.died_of(libc::SIGABRT) && self.errors.contains(&thrown) && self.errors.contains(says)
            }
            Outcome::Wrong { .. } => self.wrong.is_some() && self.status.success(),
            Outcome::Endless { .. } => (self.late || self.died_of(libc::SIGXCPU)) && self.inside(row),
        };
        if right {
            return Ok(());
        }
        if self.status.success() && self.wrong.is_none() {
            return Err(format!(
                "the raw side has become harmless: {} no longer comes to {:?}. If llama.cpp has mended it, take the row out, \
                 and see whether the check in llama-safe is still needed",
                row.functions[0], row.outcome
            ));
        }
        Err(format!("expected {:?}, found {self}", row.outcome))
    }

    fn died_of(&self, signal: i32) -> bool {
        self.status.signal() == Some(signal)
    }

    /// The child died below the row's function, or below another that it went on to instead of calling it. Not so where
    /// it followed what the function returned, and where it went to an address that is no code.
    fn inside(&self, row: &Row) -> bool {
        let of_caller = matches!(row.outcome, Outcome::Segfault { at: "the caller" });
        self.jumped
            || of_caller
            || self.trace.iter().any(|name| name == row.functions[0])
            || self.trace.first().is_some_and(|name| !name.starts_with("crash::"))
    }

    /// How the child ended, in a few words.
    pub fn end(&self) -> String {
        match (self.status.signal(), self.guard) {
            _ if self.late => "no end".to_owned(),
            (Some(libc::SIGSEGV), Some(array)) => format!("SIGSEGV behind the array {array}"),
            (Some(libc::SIGSEGV), _) if self.overflow => "SIGSEGV, the stack is used up".to_owned(),
            (Some(libc::SIGSEGV), _) => "SIGSEGV".to_owned(),
            (Some(libc::SIGABRT), _) => "SIGABRT".to_owned(),
            (Some(libc::SIGBUS), _) => "SIGBUS".to_owned(),
            (Some(libc::SIGFPE), _) => "SIGFPE".to_owned(),
            (Some(libc::SIGXCPU), _) => "no end within the processor time of the child".to_owned(),
            (Some(signal), _) => format!("signal {signal}"),
            (None, _) => match &self.wrong {
                Some(text) => format!("a wrong result: {text}"),
                None => self.status.to_string(),
            },
        }
    }
}

impl std::fmt::Display for Observed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\n{}\n  {}", self.end(), self.errors.trim_end(), self.trace.join("\n  "))
    }
}
