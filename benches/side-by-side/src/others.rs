//! How much of the machine went to other processes while a side had its turn. Linux tells; elsewhere nothing is known.

use std::fs;

use anyhow::{Context, Result};

/// Ticks of processor time since the start: of all processes, of one of them, and of the cores doing nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    busy: u64,
    idle: u64,
    own: u64,
}

impl Snapshot {
    /// The counters now, with those of the process that has its turn.
    #[must_use]
    pub fn take(process: u32) -> Option<Self> {
        let system = fs::read_to_string("/proc/stat").ok()?;
        let process = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        let (busy, idle) = of_system(&system)?;
        Some(Self { busy, idle, own: of_process(&process)? })
    }

    /// The share of the cores' time that went to others since then, 0 to 1.
    #[must_use]
    pub fn others_since(self, before: Self) -> f64 {
        let (busy, idle) = (self.busy.saturating_sub(before.busy), self.idle.saturating_sub(before.idle));
        let others = busy.saturating_sub(self.own.saturating_sub(before.own));
        others as f64 / (busy + idle).max(1) as f64
    }
}

/// A turn in which others had more of the cores than this is worth nothing, and is repeated.
pub const OTHERS: f64 = 0.05;

/// Runs something once, and again, `tries` times at most, while others have too much of the cores. What came of the least disturbed turn,
/// and the share that others had in it; none where the system does not tell.
///
/// # Errors
///
/// What `turn` reports.
pub fn quietest<T>(process: u32, tries: u32, mut turn: impl FnMut() -> Result<T>) -> Result<(T, Option<f64>)> {
    let mut quietest: Option<(T, f64)> = None;
    for _ in 0..tries.max(1) {
        let before = Snapshot::take(process);
        let result = turn()?;
        let after = Snapshot::take(process);
        let (Some(before), Some(after)) = (before, after) else { return Ok((result, None)) };
        let others = after.others_since(before);
        if quietest.as_ref().is_none_or(|(_, least)| others < *least) {
            quietest = Some((result, others));
        }
        if others <= OTHERS {
            break;
        }
    }
    quietest.map(|(result, others)| (result, Some(others))).context("no turn")
}

/// Busy and idle ticks of all cores, from `cpu user nice system idle iowait irq softirq steal ..`.
fn of_system(text: &str) -> Option<(u64, u64)> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().map_while(|number| number.parse().ok()).collect();
    let [user, nice, system, idle, waiting, interrupts, soft, stolen, ..] = ticks[..] else { return None };
    Some((user + nice + system + interrupts + soft + stolen, idle + waiting))
}

/// Ticks in user and system mode, of the process and of its children that have ended. The name before them, in brackets, may hold
/// anything.
fn of_process(text: &str) -> Option<u64> {
    let fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks: Vec<u64> = fields.take(4).map_while(|number| number.parse().ok()).collect();
    (ticks.len() == 4).then(|| ticks.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read() {
        assert_eq!(of_system("cpu  10 1 4 100 5 2 3 7 0 0\ncpu0 1 1 1 1 1 1 1 1\n"), Some((27, 105)));
        assert_eq!(of_system("cpu  10 1\n"), None);
        assert_eq!(of_process("7 (a ) b) S 1 1 1 0 -1 0 0 0 0 0 30 12 5 3 20"), Some(50));
        assert_eq!(of_process("7 S 1"), None);
    }

    #[test]
    fn what_is_not_ones_own_is_of_others() {
        let before = Snapshot { busy: 100, idle: 50, own: 10 };
        let after = Snapshot { busy: 280, idle: 70, own: 170 };
        assert_eq!(after.others_since(before), 0.1);
        assert_eq!(before.others_since(before), 0.0);
    }

    #[test]
    fn a_turn_is_repeated_as_often_as_is_said_at_most() {
        // Of this process: whoever else runs tests has more of the cores than it.
        let mut turns = 0;
        let (last, others) = quietest(std::process::id(), 3, || {
            turns += 1;
            Ok(turns)
        })
        .unwrap();
        assert!((1..=3).contains(&turns) && (1..=turns).contains(&last));
        assert!(others.is_none_or(|share| (0.0..=1.0).contains(&share)));
        assert!(quietest(std::process::id(), 3, || -> Result<()> { anyhow::bail!("no") }).is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_counters() {
        assert!(Snapshot::take(std::process::id()).is_some());
        assert!(Snapshot::take(u32::MAX).is_none());
    }
}
