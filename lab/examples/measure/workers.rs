//! What one invocation takes, counted by tools from outside.
//!
//! A worker runs a small batch and a large one; what the large one took more, divided by the
//! invocations that it had more, is the count of one invocation without any start-up.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::process::{Command, Output};

use clap::ValueEnum;
use serde_json::Value;

use crate::Result;
use crate::subjects::Statement;
use crate::worker::{Regime, Task};

/// Starts workers on a server.
pub struct Workers {
    pub url: String,
    /// The URL of a role that may not connect.
    pub full: Option<String>,
}

/// What a worker is to do.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    pub task: Task,
    pub statement: Statement,
    pub regime: Regime,
    /// The candidates; all if there is no name.
    pub names: &'a [&'a str],
    pub rounds: u32,
    /// Invocations one after the other.
    pub batch: u32,
}

/// Sizes of the two batches of a count.
pub type Batches = (u32, u32);

impl Workers {
    /// Runs a worker, with another program's words before its own, and reads its result.
    pub fn result(&self, prefix: &[&str], job: Job<'_>) -> Result<Value> {
        let output = self.output(prefix, job)?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    fn output(&self, prefix: &[&str], job: Job<'_>) -> Result<Output> {
        let measure = env::current_exe()?;
        let mut words: Vec<OsString> = prefix.iter().map(OsString::from).collect();
        words.push(measure.into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("worker").arg(word(job.task));
        command.args(["--url", &self.url]);
        if let Some(full) = &self.full {
            command.args(["--full", full]);
        }
        command.args(["--statement", &word(job.statement)]);
        command.args(["--regime", &word(job.regime)]);
        command.args(["--rounds", &job.rounds.to_string()]);
        command.args(["--batch", &job.batch.to_string()]);
        command.args(job.names.iter().flat_map(|name| ["--only", name]));
        let output = command.output()?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{command:?} failed: {text}").into());
        }
        Ok(output)
    }

    /// Runs a batch of one candidate on a current-thread runtime.
    fn batch(
        &self,
        prefix: &[&str],
        task: Task,
        (name, statement): (&str, Statement),
        batch: u32,
    ) -> Result<Output> {
        let job = Job {
            task,
            statement,
            regime: Regime::CurrentThread,
            names: &[name],
            rounds: 1,
            batch,
        };
        self.output(prefix, job)
    }

    /// What a worker counts itself: allocations (reallocations included) and CPU time.
    pub fn own(&self, candidate: (&str, Statement), batch: u32) -> Result<Value> {
        let output = self.batch(&[], Task::Count, candidate, batch)?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Instructions in user space, counted by valgrind's simulation: the machine's own
    /// counters are often not there in a virtual machine.
    pub fn instructions(
        &self,
        candidate: (&str, Statement),
        (small, large): Batches,
    ) -> Result<f64> {
        let valgrind = [
            "valgrind",
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
        ];
        let collected = |batch| -> Result<f64> {
            let output = self.batch(&valgrind, Task::Run, candidate, batch)?;
            let text = String::from_utf8_lossy(&output.stderr);
            let line = text
                .lines()
                .find_map(|line| line.split_once("Collected : "));
            let count = line.and_then(|(_, count)| count.trim().parse::<f64>().ok());
            count.ok_or_else(|| format!("valgrind has collected nothing: {text}").into())
        };
        Ok((collected(large)? - collected(small)?) / f64::from(large - small))
    }

    /// System calls by name.
    pub fn system_calls(
        &self,
        candidate: (&str, Statement),
        (small, large): Batches,
    ) -> Result<BTreeMap<String, f64>> {
        let counted = |batch| {
            let file = tempfile::NamedTempFile::new()?;
            let path = file.path().to_string_lossy().into_owned();
            let strace = ["strace", "-f", "-c", "-o", &path];
            self.batch(&strace, Task::Run, candidate, batch)?;
            Ok::<_, crate::BoxError>(summary(&std::fs::read_to_string(file.path())?))
        };
        let (few, many) = (counted(small)?, counted(large)?);
        let each = many.into_iter().map(|(call, count)| {
            let more = count - few.get(&call).copied().unwrap_or_default();
            (call, more / f64::from(large - small))
        });
        // What is there more often by chance is not of an invocation.
        Ok(each.filter(|(_, each)| *each >= 0.05).collect())
    }
}

/// The table of `strace -c`: share, seconds, microseconds, calls, errors if any, name.
fn summary(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let calls = words.get(3)?.parse().ok()?;
        let name = words.last().filter(|name| **name != "total")?;
        Some((name.to_string(), calls))
    });
    lines.collect()
}

/// A value as an argument.
pub fn word(value: impl ValueEnum) -> String {
    let value = value.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Whether a program is installed, and may do here what it is for.
pub fn works(words: &[&str]) -> bool {
    let output = Command::new(words[0])
        .args(&words[1..])
        .arg("true")
        .output();
    output.is_ok_and(|output| output.status.success())
}
