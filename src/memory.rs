//! Memory of the process, as the system counts it.

/// Resident memory now, bytes. `None` where the system has no such file.
#[must_use]
pub fn resident() -> Option<i64> {
    line("VmRSS:")
}

/// The most resident memory so far, bytes. `None` where the system has no such file.
#[must_use]
pub fn peak() -> Option<i64> {
    line("VmHWM:")
}

fn line(name: &str) -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}
