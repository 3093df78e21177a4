//! The memory that a process has in use. Linux tells; elsewhere nothing is known.

use std::fs;

/// The metric of [`peak_mib`].
pub const PEAK: &str = "peak_resident_mib";

/// Has the system forget how much a process had before, so that its peak is that of what it does from here on.
pub fn forget_peak(process: u32) {
    // Where it may not, the peak is that since its start.
    let _ = fs::write(format!("/proc/{process}/clear_refs"), "5");
}

/// The most that was resident, weights that lie in a mapped file included, MiB.
#[must_use]
pub fn peak_mib(process: u32) -> Option<f64> {
    of_status(&fs::read_to_string(format!("/proc/{process}/status")).ok()?)
}

fn of_status(text: &str) -> Option<f64> {
    let value = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u32 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(f64::from(kib) / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read() {
        assert_eq!(of_status("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n"), Some(2.0));
        assert_eq!(of_status("VmHWM:\t many kB\n"), None);
        assert_eq!(of_status(""), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_a_peak() {
        forget_peak(std::process::id());
        assert!(peak_mib(std::process::id()).unwrap() > 1.0);
        assert_eq!(peak_mib(u32::MAX), None);
    }
}
