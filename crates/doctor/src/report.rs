//! The report: checks, their status, and the verdict.

use std::fmt;

use serde::Serialize;

use super::text::printable;

/// A step of the examination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Step {
    /// The source of the settings.
    Configuration,
    /// How the database is reached (directly or through a pooler), and how that was determined.
    Path,
    /// Name resolution of the host.
    Name,
    /// TCP connections to its addresses.
    Tcp,
    /// Encryption and the certificate.
    Tls,
    /// Login with the configured role.
    Authentication,
    /// Existence of the database.
    Database,
    /// The server's version, and the role and database of the session.
    Server,
    /// Whether the server accepts writes.
    Writable,
    /// The round-trip time.
    RoundTrip,
    /// Whether the settings sent at start-up are in force.
    StartUp,
    /// The server's timeouts in force.
    Timeouts,
    /// Whether the role can see the sessions of other roles.
    Visibility,
    /// Connection slots: used, reserved, limit.
    Slots,
    /// Sessions that are idle in a transaction.
    IdleInTransaction,
    /// Transactions that have been open for long.
    Transactions,
    /// Transactions that were prepared for a two-phase commit.
    Prepared,
    /// Sessions that wait for a lock, and those that block them.
    Locks,
    /// The age of the oldest transaction ID.
    Wraparound,
    /// The WAL that replication slots hold.
    Replication,
    /// Sequences that are near their end.
    Sequences,
    /// Indexes that are invalid.
    Indexes,
    /// Prepared statements through the pooler.
    Statements,
    /// Whether session settings of one client reach another through the pooler.
    SessionState,
    /// The regions of function and database.
    Region,
    /// Whether a pooler is needed.
    Pooler,
}

/// The steps whose findings weigh most, the heaviest first: what stops all requests, then what
/// stops or slows some, then what will. The others follow in the order of the examination.
const BY_WEIGHT: [Step; 15] = [
    Step::Writable,
    Step::Locks,
    Step::Slots,
    Step::Pooler,
    Step::Path,
    Step::Wraparound,
    Step::Replication,
    Step::Sequences,
    Step::IdleInTransaction,
    Step::Transactions,
    Step::Prepared,
    Step::StartUp,
    Step::SessionState,
    Step::Timeouts,
    Step::Indexes,
];

/// The outcome of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Status {
    /// The check passed.
    Ok,
    /// Information that needs no action.
    Note,
    /// A problem that needs action.
    Finding,
    /// The check could not be made, nor those that depend on it.
    Failed,
}

/// The result of one check: a line of text, and a remedy where action is needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Check {
    /// The step that was checked.
    pub step: Step,
    /// The outcome.
    pub status: Status,
    /// The observation, in one line without control characters.
    pub text: String,
    /// The action to take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// The checks of an examination.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The checks, in the order in which they were made.
    pub checks: Vec<Check>,
}

/// The summary of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Verdict {
    /// No problem was found.
    Ok,
    /// At least one problem was found.
    Findings,
    /// At least one check could not be made.
    Failed,
}

impl Report {
    /// Summarizes the checks: the worst status decides.
    pub fn verdict(&self) -> Verdict {
        let has = |status| self.checks.iter().any(|check| check.status == status);
        if has(Status::Failed) {
            Verdict::Failed
        } else if has(Status::Finding) {
            Verdict::Findings
        } else {
            Verdict::Ok
        }
    }
}

impl Report {
    /// Returns the checks that ask for something, by weight: those that failed, findings, then
    /// notes with a remedy. Without what a step has found before it failed, which is the reason
    /// of the failure.
    pub fn to_do(&self) -> Vec<&Check> {
        let failed = self.checks.iter().filter(|it| it.status == Status::Failed);
        let failed: Vec<Step> = failed.map(|check| check.step).collect();
        let is_reason =
            |check: &Check| check.status == Status::Finding && failed.contains(&check.step);
        let checks = self.checks.iter();
        let checks = checks.filter(|check| check.remedy.is_some() && !is_reason(check));
        let mut checks: Vec<&Check> = checks.collect();
        checks.sort_by_key(|check| {
            let status = match check.status {
                Status::Failed => 0,
                Status::Finding => 1,
                _ => 2,
            };
            let step = BY_WEIGHT.iter().position(|step| *step == check.step);
            (status, step.unwrap_or(BY_WEIGHT.len()))
        });
        checks
    }
}

impl Check {
    fn new(step: Step, status: Status, text: &str) -> Self {
        Check {
            step,
            status,
            text: printable(text),
            remedy: None,
        }
    }

    pub(super) fn ok(step: Step, text: impl AsRef<str>) -> Self {
        Check::new(step, Status::Ok, text.as_ref())
    }

    pub(super) fn note(step: Step, text: impl AsRef<str>) -> Self {
        Check::new(step, Status::Note, text.as_ref())
    }

    pub(super) fn finding(step: Step, text: impl AsRef<str>, remedy: impl AsRef<str>) -> Self {
        Check::new(step, Status::Finding, text.as_ref()).remedied(remedy)
    }

    pub(super) fn failed(step: Step, text: impl AsRef<str>, remedy: impl AsRef<str>) -> Self {
        Check::new(step, Status::Failed, text.as_ref()).remedied(remedy)
    }

    pub(super) fn remedied(mut self, remedy: impl AsRef<str>) -> Self {
        self.remedy = Some(printable(remedy.as_ref()));
        self
    }
}

impl Step {
    /// Returns the name of the step, as the report prints it.
    pub fn name(self) -> &'static str {
        match self {
            Step::Configuration => "configuration",
            Step::Path => "path",
            Step::Name => "name",
            Step::Tcp => "tcp",
            Step::Tls => "tls",
            Step::Authentication => "authentication",
            Step::Database => "database",
            Step::Server => "server",
            Step::Writable => "writable",
            Step::RoundTrip => "round trip",
            Step::StartUp => "start-up",
            Step::Timeouts => "timeouts",
            Step::Visibility => "visibility",
            Step::Slots => "slots",
            Step::IdleInTransaction => "idle in tx",
            Step::Transactions => "transactions",
            Step::Prepared => "prepared tx",
            Step::Locks => "locks",
            Step::Wraparound => "wraparound",
            Step::Replication => "replication",
            Step::Sequences => "sequences",
            Step::Indexes => "indexes",
            Step::Statements => "statements",
            Step::SessionState => "session state",
            Step::Region => "region",
            Step::Pooler => "pooler",
        }
    }
}

impl Status {
    /// Returns the symbol that a line begins with: ✓, ·, ! or ✗.
    pub fn symbol(self) -> &'static str {
        match self {
            Status::Ok => "\u{2713}",
            Status::Note => "\u{b7}",
            Status::Finding => "!",
            Status::Failed => "\u{2717}",
        }
    }
}

/// Writes the check in one line, and the remedy in another.
impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (symbol, name) = (self.status.symbol(), self.step.name());
        write!(f, "{symbol} {name:<14} {}", self.text)?;
        match &self.remedy {
            Some(remedy) => write!(f, "\n                 -> {remedy}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worst_status_decides_the_verdict() {
        let mut report = Report::default();
        assert_eq!(report.verdict(), Verdict::Ok);
        report.checks.push(Check::note(Step::Path, "direct"));
        assert_eq!(report.verdict(), Verdict::Ok);
        report.checks.push(Check::finding(Step::Slots, "a", "b"));
        assert_eq!(report.verdict(), Verdict::Findings);
        report.checks.push(Check::failed(Step::Server, "a", "b"));
        report.checks.push(Check::finding(Step::Slots, "a", "b"));
        assert_eq!(report.verdict(), Verdict::Failed);
    }

    #[test]
    fn control_characters_are_replaced() {
        let check = Check::finding(Step::Slots, "a\u{1b}[2J", "b\u{7}");
        assert!(!check.to_string().contains(['\u{1b}', '\u{7}']));
    }
}
