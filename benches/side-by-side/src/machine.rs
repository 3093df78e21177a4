//! What a run was made on, and with: figures without it mean nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use serde::{Deserialize, Serialize};

/// Instructions that decide how fast llama.cpp's kernels are, in the words of `/proc/cpuinfo`.
const FLAGS: [&str; 12] = [
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "asimddp",
];

/// The top of a report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// When the run began, UTC.
    pub date: String,
    /// The command that repeats it.
    pub command: String,
    /// The commit, with `-dirty` where files differ from it. Empty outside a repository.
    pub commit: String,
    /// The processor's name; empty where the system does not tell.
    pub processor: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Bytes of memory; none where the system does not tell.
    pub memory_bytes: Option<u64>,
    /// Instructions that matter.
    pub cpu_flags: Vec<String>,
    /// Threads that each side computes with.
    pub threads: u32,
    /// Rounds.
    pub rounds: u32,
    /// The compiler, and what each side says that it is.
    pub versions: BTreeMap<String, String>,
    /// The load average of a minute, before the run and after it; none where the system does not tell.
    pub load_before: Option<f64>,
    /// After it.
    pub load_after: Option<f64>,
}

impl Header {
    /// What there is to be said before a run.
    #[must_use]
    pub fn before(command: String, threads: u32, rounds: u32) -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        Self {
            date: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
            command,
            commit: printed(Command::new("git").current_dir(root).args(["describe", "--always", "--dirty"])),
            processor: field(&cpu, "model name").to_owned(),
            cores: cores(),
            memory_bytes: memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default()),
            cpu_flags: flags(&cpu),
            threads,
            rounds,
            versions: [("rustc".to_owned(), printed(Command::new("rustc").arg("--version")))].into(),
            load_before: load(),
            load_after: None,
        }
    }

    /// The same in Markdown.
    #[must_use]
    pub fn described(&self) -> String {
        let load = |load: Option<f64>| load.map_or("unknown".to_owned(), |load| format!("{load:.2}"));
        let gib =
            self.memory_bytes.map_or(String::new(), |bytes| format!(", {:.0} GiB", bytes as f64 / f64::from(1 << 30)));
        let versions: Vec<String> = self.versions.iter().map(|(what, version)| format!("{what}: {version}")).collect();
        format!(
            "`{}`, {}, commit {}.\n\n{} ({} cores{gib}; {}), load average {} before and {} after. {}.\n",
            self.command,
            self.date,
            self.commit,
            self.processor,
            self.cores,
            self.cpu_flags.join(" "),
            load(self.load_before),
            load(self.load_after),
            versions.join("; "),
        )
    }
}

/// Cores that this process may use.
#[must_use]
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// The load average of the last minute; none where the system does not tell.
#[must_use]
pub fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// The value of the first line `NAME : VALUE`; empty if there is none.
fn field<'a>(text: &'a str, name: &str) -> &'a str {
    let values = text.lines().filter_map(|line| line.split_once(':'));
    values.filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim()).next().unwrap_or_default()
}

fn memory(text: &str) -> Option<u64> {
    field(text, "MemTotal").strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn flags(cpu: &str) -> Vec<String> {
    let has: Vec<&str> = field(cpu, "flags").split(' ').chain(field(cpu, "Features").split(' ')).collect();
    FLAGS.iter().filter(|flag| has.contains(flag)).map(|flag| (*flag).to_owned()).collect()
}

/// The first line that a command prints; empty if it fails.
fn printed(command: &mut Command) -> String {
    let output = command.output().ok().filter(|output| output.status.success());
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_system() {
        let cpu = "processor\t: 0\nmodel name\t: Fast One\nflags\t\t: fpu avx avx2 avx512_vnni\nmodel name\t: other\n";
        assert_eq!(field(cpu, "model name"), "Fast One");
        assert_eq!(field(cpu, "bogomips"), "");
        assert_eq!(flags(cpu), ["avx", "avx2", "avx512_vnni"]);
        assert_eq!(memory("MemFree: 1 kB\nMemTotal:       16 kB\n"), Some(16 * 1024));
        assert_eq!(memory(""), None);
    }

    #[test]
    fn a_header_says_when_and_with_what() {
        let header = Header::before("cargo xtask bench".into(), 2, 5);
        assert!(header.date.ends_with("UTC") && header.cores > 0);
        assert!(header.versions["rustc"].starts_with("rustc"));
        let text = header.described();
        assert!(
            text.starts_with("`cargo xtask bench`, ") && text.contains(" cores") && text.contains("rustc: rustc"),
            "{text}"
        );
    }
}
