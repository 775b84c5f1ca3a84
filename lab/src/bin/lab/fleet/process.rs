//! What a process has used, from `/proc`; nothing on other systems than Linux.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use lab::lambda::Environment;

/// The CPU time of those processes that are there, by process id.
pub fn cpu_of(environments: &[Environment]) -> BTreeMap<u32, Duration> {
    let all = environments
        .iter()
        .filter(|environment| environment.is_alive());
    all.filter_map(|environment| Some((environment.pid(), cpu(environment.pid())?)))
        .collect()
}

/// The sum over its threads, to the nanosecond (`schedstat`).
fn cpu(pid: u32) -> Option<Duration> {
    let mut nanoseconds: u64 = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        nanoseconds += text.split(' ').next()?.parse::<u64>().ok()?;
    }
    Some(Duration::from_nanos(nanoseconds))
}

/// The resident memory in megabytes.
pub fn memory(environment: &Environment) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", environment.pid())).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kilobytes: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes / 1024.0)
}
