//! Shows what the doctor waits for, and keeps the checks that it has made.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use antifreeze_doctor::{Check, Report, Status, Step, format_seconds};
use tokio::time::{Instant, sleep};

use crate::output;
use crate::wrap::cut;

/// How often the line is written again. The first one is written after this time, since most
/// examinations are done by then.
const INTERVAL: Duration = Duration::from_millis(500);

/// Erases the line (ECMA-48: CR, EL).
const ERASE: &str = "\r\u{1b}[2K";

pub struct Progress {
    report: Mutex<Report>,
    begun: Instant,
    /// Whether the standard error is a terminal.
    is_shown: bool,
    json: bool,
    wait: Duration,
}

impl Progress {
    pub fn new(json: bool, wait: Duration) -> Self {
        Progress {
            report: Mutex::default(),
            begun: Instant::now(),
            is_shown: !json && std::io::stderr().is_terminal(),
            json,
            wait,
        }
    }

    /// Adds a check. Where no line is shown, says that the doctor waits for a slot: that can
    /// take a while.
    pub fn add(&self, check: &Check) {
        let mut report = self.lock();
        let is_connecting = !report.checks.iter().any(|it| it.step == Step::Server);
        let waits = check.step == Step::Slots && check.status == Status::Finding && is_connecting;
        if waits && !self.is_shown && !self.json {
            output::eprint(&format!("no connection slot is free: {}", check.text));
            output::eprint(&format!("retrying for {:?} ..", self.wait));
        }
        report.checks.push(check.clone());
    }

    /// Returns the checks so far.
    pub fn report(&self) -> Report {
        self.lock().clone()
    }

    /// Shows the last step, again and again; does not return.
    pub async fn show(&self) {
        loop {
            sleep(INTERVAL).await;
            if self.is_shown {
                let line = cut(&self.line(), output::error_width());
                let _ = write!(std::io::stderr().lock(), "{ERASE}{line}");
                let _ = std::io::stderr().flush();
            }
        }
    }

    fn line(&self) -> String {
        let time = format_seconds(self.begun.elapsed().as_secs_f64());
        let report = self.lock();
        let last = report.checks.last();
        match last {
            Some(check) if check.step == Step::Slots && check.status == Status::Finding => {
                format!(
                    "no connection slot is free, retrying for {:?}: {time}",
                    self.wait
                )
            }
            Some(check) => format!("examining, after {}: {time}", check.step.name()),
            None => format!("examining: {time}"),
        }
    }

    /// Erases the line, before the report is printed.
    pub fn clear(&self) {
        if self.is_shown {
            let _ = write!(std::io::stderr().lock(), "{ERASE}");
            let _ = std::io::stderr().flush();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
