//! What one invocation takes, counted by tools from outside.
//!
//! A worker runs a small batch and a large one; what the large one took more, divided by the
//! invocations that it had more, is the count of one invocation without any start-up.

use std::collections::BTreeMap;
use std::env;
use std::process::{Command, Output};

use serde_json::Value;

use crate::Result;
use crate::subjects::Statement;

/// Starts workers on a server.
pub struct Workers {
    pub url: String,
    pub full: Option<String>,
}

/// Sizes of the two batches.
pub type Batches = (u32, u32);

impl Workers {
    /// Runs a worker and reads its result.
    pub fn result(&self, prefix: &[&str], arguments: &[&str]) -> Result<Value> {
        let output = self.output(prefix, arguments)?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    fn output(&self, prefix: &[&str], arguments: &[&str]) -> Result<Output> {
        let measure = env::current_exe()?;
        let mut words = prefix.to_vec();
        let measure = measure.to_string_lossy();
        words.push(&measure);
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg("worker").args(arguments);
        command.args(["--url", &self.url]);
        if let Some(full) = &self.full {
            command.args(["--full", full]);
        }
        let output = command.output()?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{words:?} {arguments:?} failed: {text}").into());
        }
        Ok(output)
    }

    fn batch(&self, prefix: &[&str], name: &str, on: Statement, batch: u32) -> Result<Output> {
        let (statement, batch) = (on.word(), batch.to_string());
        let work = [
            "count",
            "--only",
            name,
            "--statement",
            statement,
            "--batch",
            &batch,
        ];
        self.output(prefix, &work)
    }

    /// What a worker says of itself: allocations (reallocations included) and CPU time.
    pub fn own(&self, name: &str, on: Statement, batch: u32) -> Result<Value> {
        let output = self.batch(&[], name, on, batch)?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Instructions in user space, counted by valgrind's simulation: the machine's own
    /// counters are often not there in a virtual machine.
    pub fn instructions(&self, name: &str, on: Statement, (small, large): Batches) -> Result<f64> {
        let valgrind = [
            "valgrind",
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
        ];
        let collected = |batch| -> Result<f64> {
            let output = self.batch(&valgrind, name, on, batch)?;
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
        name: &str,
        on: Statement,
        (small, large): Batches,
    ) -> Result<BTreeMap<String, f64>> {
        let counted = |batch| {
            let file = tempfile::NamedTempFile::new()?;
            let path = file.path().to_string_lossy().into_owned();
            self.batch(&["strace", "-f", "-c", "-o", &path], name, on, batch)?;
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

/// Whether a program is installed.
pub fn is_there(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}
