//! CPU time and memory of a process, from procfs (proc_pid_stat(5), proc_pid_status(5)).

use anyhow::{Context, Result};
use serde::Serialize;

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Usage {
    /// CPU time in user and kernel mode, seconds.
    pub cpu_seconds: f64,
    /// Resident memory, bytes.
    pub resident_bytes: u64,
    /// Highest resident memory so far, bytes.
    pub peak_bytes: u64,
}

/// What process `pid` has used.
///
/// # Errors
/// There is no such process.
pub fn usage(pid: u32) -> Result<Usage> {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).with_context(|| format!("process {pid} is gone"));
    Ok(Usage { cpu_seconds: cpu_seconds(&read("stat")?), ..memory(&read("status")?) })
}

/// Fields 14 and 15 of `stat` in ticks; the name in field 2 may hold anything, so count from behind it.
fn cpu_seconds(stat: &str) -> f64 {
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks: u64 = fields.iter().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

fn memory(status: &str) -> Usage {
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    Usage { cpu_seconds: 0.0, resident_bytes: bytes("VmRSS"), peak_bytes: bytes("VmHWM") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let used = usage(std::process::id()).unwrap();
        assert!(used.resident_bytes > 0 && used.peak_bytes >= used.resident_bytes, "{used:?}");
        assert!(usage(u32::MAX).is_err());
    }

    #[test]
    fn a_name_with_blanks_and_brackets_is_skipped() {
        let stat = "7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 150 50 0 0 20 0 1 0 5 0 0";
        assert!((cpu_seconds(stat) * rustix::param::clock_ticks_per_second() as f64 - 200.0).abs() < 1e-9);
    }
}
