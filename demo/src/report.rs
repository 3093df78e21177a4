//! What it comes to: the table, the JSON, and the memory.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::generate::Reply;

/// The same work done both ways.
pub struct Report {
    pub prompts: Vec<String>,
    /// By one engine, as sequences of one context, and the time it took.
    pub together: (Vec<Reply>, Duration),
    /// One at a time.
    pub alone: (Vec<Reply>, Duration),
    /// The most memory that was resident, bytes; none where the system does not tell.
    pub peak_memory: Option<u64>,
    /// Whether the likeliest token was taken each time, which makes the two runs comparable token by token.
    pub greedy: bool,
}

#[derive(Serialize)]
struct Json<'a> {
    sequences: Vec<JsonSequence<'a>>,
    batched_tokens_per_second: f64,
    single_tokens_per_second: f64,
    /// Null where nothing was generated.
    ratio: Option<f64>,
    /// Null where the system does not tell.
    peak_memory_bytes: Option<u64>,
}

#[derive(Serialize)]
struct JsonSequence<'a> {
    prompt: &'a str,
    text: &'a str,
    tokens: Vec<i32>,
}

impl Report {
    /// Batched tokens/s over single tokens/s; none where nothing was generated.
    fn ratio(&self) -> Option<f64> {
        let (together, alone) = (rate(&self.together), rate(&self.alone));
        (together > 0.0 && alone > 0.0).then(|| together / alone)
    }

    /// The table, and below it whether both ways said the same.
    pub fn table(&self) -> String {
        let row = |name: &str, run: &(Vec<Reply>, Duration)| {
            format!("{name:<20} {:>10.1} {:>8} {:>8.2} s\n", rate(run), count(&run.0), run.1.as_secs_f64())
        };
        let mut text = format!("{:<20} {:>10} {:>8} {:>10}\n", "", "tokens/s", "tokens", "time");
        text += &row(&format!("{} together", self.prompts.len()), &self.together);
        text += &row("one at a time", &self.alone);
        let ratio = self.ratio().map_or("unknown".to_string(), |ratio| format!("{ratio:.2}"));
        text += &format!("{:<20} {ratio:>10}\n", "ratio");
        let memory = self.peak_memory.map_or("unknown".to_string(), mebibytes);
        text += &format!("{:<20} {memory:>10}\n", "peak memory");
        text + &self.verdict()
    }

    /// Whether both ways gave the same tokens.
    fn verdict(&self) -> String {
        let (together, alone) = (&self.together.0, &self.alone.0);
        let different = together.iter().zip(alone).filter(|(one, other)| one.tokens != other.tokens).count();
        match (different, self.greedy) {
            (0, _) => "Both ways gave the same tokens.".to_string(),
            (n, true) => format!(
                "{n} of {} sequences got other tokens one at a time: where two tokens are nearly equally likely, \
                 rounding decides.",
                self.prompts.len()
            ),
            (n, false) => {
                format!("{n} of {} sequences drew other tokens one at a time, from the same seeds.", self.prompts.len())
            }
        }
    }

    /// One object on one line.
    ///
    /// # Errors
    /// None in practice: every field has a JSON form.
    pub fn json(&self) -> Result<String> {
        let sequences = self.prompts.iter().zip(&self.together.0).map(|(prompt, reply)| JsonSequence {
            prompt,
            text: &reply.text,
            tokens: reply.tokens.iter().map(|token| token.0).collect(),
        });
        let json = Json {
            sequences: sequences.collect(),
            batched_tokens_per_second: rate(&self.together),
            single_tokens_per_second: rate(&self.alone),
            ratio: self.ratio(),
            peak_memory_bytes: self.peak_memory,
        };
        serde_json::to_string(&json).context("writing JSON")
    }
}

fn count(replies: &[Reply]) -> usize {
    replies.iter().map(|reply| reply.tokens.len()).sum()
}

/// Generated tokens per second, the time for the prompts included; 0 where nothing was generated.
fn rate((replies, time): &(Vec<Reply>, Duration)) -> f64 {
    let seconds = time.as_secs_f64();
    if seconds > 0.0 { count(replies) as f64 / seconds } else { 0.0 }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20))
}

/// The most memory that this process has had resident, bytes; none where the system does not tell.
#[cfg(target_os = "linux")]
pub fn peak_memory() -> Option<u64> {
    high_water_mark(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// The most memory that this process has had resident, bytes; none where the system does not tell.
#[cfg(all(unix, not(target_os = "linux")))]
pub fn peak_memory() -> Option<u64> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` is valid for writes of a whole `rusage`, and lives until the call is over.
    let code = unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
    if code != 0 {
        return None;
    }
    // SAFETY: every bit pattern is a valid `rusage` (integers only), it began zeroed, and a successful call has filled it in.
    let most = unsafe { usage.assume_init() }.ru_maxrss;
    // Apple counts bytes, the others kibibytes.
    let unit = if cfg!(target_vendor = "apple") { 1 } else { 1024 };
    u64::try_from(most).ok()?.checked_mul(unit)
}

/// The most memory that this process has had resident, bytes; none where the system does not tell.
#[cfg(not(unix))]
pub fn peak_memory() -> Option<u64> {
    None
}

/// Bytes of the line `VmHWM:     1234 kB`.
#[cfg(target_os = "linux")]
fn high_water_mark(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use llama_safe::Token;

    use super::*;

    fn run(tokens: &[&[i32]], seconds: f64) -> (Vec<Reply>, Duration) {
        let reply = |ids: &&[i32]| Reply {
            tokens: ids.iter().map(|&id| Token(id)).collect(),
            text: format!("{} \"tokens\"", ids.len()),
        };
        (tokens.iter().map(reply).collect(), Duration::from_secs_f64(seconds))
    }

    fn report(alone: &[&[i32]]) -> Report {
        Report {
            prompts: vec!["one".into(), "two".into()],
            together: run(&[&[1, 2], &[3, 4]], 0.5),
            alone: run(alone, 2.0),
            peak_memory: Some(3 << 20),
            greedy: true,
        }
    }

    #[test]
    fn table_has_every_figure() {
        let table = report(&[&[1, 2], &[3, 4]]).table();
        for part in ["2 together", "8.0", "2.0", "4.00", "3 MiB", "the same tokens"] {
            assert!(table.contains(part), "{part} in {table}");
        }
    }

    #[test]
    fn other_tokens_are_told() {
        assert!(report(&[&[1, 2], &[3, 5]]).table().contains("1 of 2 sequences got other tokens"));
    }

    #[test]
    fn json_has_the_promised_fields() {
        let value: serde_json::Value = serde_json::from_str(&report(&[&[1, 2], &[3, 4]]).json().unwrap()).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "sequences": [
                    {"prompt": "one", "text": "2 \"tokens\"", "tokens": [1, 2]},
                    {"prompt": "two", "text": "2 \"tokens\"", "tokens": [3, 4]},
                ],
                "batched_tokens_per_second": 8.0,
                "single_tokens_per_second": 2.0,
                "ratio": 4.0,
                "peak_memory_bytes": 3 << 20,
            })
        );
    }

    #[test]
    fn nothing_generated_is_no_ratio() {
        let empty = Report { together: run(&[&[], &[]], 0.5), ..report(&[&[], &[]]) };
        assert_eq!(empty.ratio(), None);
        assert!(empty.json().unwrap().contains("\"ratio\":null"));
        assert!(empty.table().contains("unknown"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_is_read_from_the_status() {
        assert_eq!(high_water_mark("Name:\tdemo\nVmPeak:\t 9 kB\nVmHWM:\t    12 kB\n"), Some(12 * 1024));
        assert_eq!(high_water_mark("Name:\tdemo\n"), None);
        assert!(peak_memory().is_some_and(|bytes| bytes > 100_000));
    }
}
