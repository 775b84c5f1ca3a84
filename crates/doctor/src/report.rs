//! What the doctor says.

use std::fmt;

use serde::Serialize;

use super::text::plain;

/// What was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Step {
    /// Where the settings come from.
    Configuration,
    /// How the database is reached, and why it is thought so.
    Path,
    /// The addresses of the host.
    Name,
    /// Whether they answer.
    Tcp,
    /// Encryption and the certificate.
    Tls,
    /// Whether the server takes who we are.
    Authentication,
    /// Whether the database is there.
    Database,
    /// What runs there, and as whom we are.
    Server,
    /// Whether it can be written to.
    Writable,
    /// How long an answer takes.
    RoundTrip,
    /// Whether the settings that we send at the start have arrived.
    StartUp,
    /// What the server ends by itself.
    Timeouts,
    /// Whether other roles' sessions can be seen.
    Visibility,
    /// How many connections there may be, and are.
    Slots,
    /// Sessions that have a transaction open and do nothing.
    IdleInTransaction,
    /// Transactions that have been open for long.
    Transactions,
    /// Who waits for whom.
    Locks,
    /// Named statements across transactions.
    Statements,
    /// Whether what one client SETs reaches another.
    SessionState,
    /// Where the database is, and where the function.
    Region,
    /// Whether a pooler would serve better.
    Pooler,
}

/// How a check has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Mark {
    /// As it should be.
    Well,
    /// Good to know.
    Note,
    /// Something is to be done.
    Finding,
    /// It could not be looked at, nor what depends on it.
    Failed,
}

/// One thing that was looked at: one line, and another that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Check {
    /// What was looked at.
    pub step: Step,
    /// How it is.
    pub mark: Mark,
    /// What was seen, in one line without control characters.
    pub text: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// All that was looked at.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// In the order in which it was looked at.
    pub checks: Vec<Check>,
}

/// What a report comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Verdict {
    /// Nothing is to be done.
    Well,
    /// Something is.
    Findings,
    /// Not everything could be looked at.
    Failed,
}

impl Report {
    /// What it all comes to.
    pub fn verdict(&self) -> Verdict {
        let has = |mark| self.checks.iter().any(|check| check.mark == mark);
        if has(Mark::Failed) {
            Verdict::Failed
        } else if has(Mark::Finding) {
            Verdict::Findings
        } else {
            Verdict::Well
        }
    }
}

impl Check {
    fn new(step: Step, mark: Mark, text: &str) -> Self {
        Check {
            step,
            mark,
            text: plain(text),
            remedy: None,
        }
    }

    pub(super) fn well(step: Step, text: impl AsRef<str>) -> Self {
        Check::new(step, Mark::Well, text.as_ref())
    }

    pub(super) fn note(step: Step, text: impl AsRef<str>) -> Self {
        Check::new(step, Mark::Note, text.as_ref())
    }

    pub(super) fn finding(step: Step, text: impl AsRef<str>, remedy: impl AsRef<str>) -> Self {
        Check::new(step, Mark::Finding, text.as_ref()).remedied(remedy)
    }

    pub(super) fn failed(step: Step, text: impl AsRef<str>, remedy: impl AsRef<str>) -> Self {
        Check::new(step, Mark::Failed, text.as_ref()).remedied(remedy)
    }

    pub(super) fn remedied(mut self, remedy: impl AsRef<str>) -> Self {
        self.remedy = Some(plain(remedy.as_ref()));
        self
    }
}

impl Step {
    /// In words.
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
            Step::Locks => "locks",
            Step::Statements => "statements",
            Step::SessionState => "session state",
            Step::Region => "region",
            Step::Pooler => "pooler",
        }
    }
}

impl Mark {
    /// One sign for a line.
    pub fn sign(self) -> &'static str {
        match self {
            Mark::Well => "\u{2713}",
            Mark::Note => "\u{b7}",
            Mark::Finding => "!",
            Mark::Failed => "\u{2717}",
        }
    }
}

/// A line, and the remedy in another.
impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, name) = (self.mark.sign(), self.step.name());
        write!(f, "{sign} {name:<14} {}", self.text)?;
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
    fn worst_finding_decides() {
        let mut report = Report::default();
        assert_eq!(report.verdict(), Verdict::Well);
        report.checks.push(Check::note(Step::Path, "direct"));
        assert_eq!(report.verdict(), Verdict::Well);
        report.checks.push(Check::finding(Step::Slots, "a", "b"));
        assert_eq!(report.verdict(), Verdict::Findings);
        report.checks.push(Check::failed(Step::Server, "a", "b"));
        report.checks.push(Check::finding(Step::Slots, "a", "b"));
        assert_eq!(report.verdict(), Verdict::Failed);
    }

    #[test]
    fn server_text_cannot_control_the_terminal() {
        let check = Check::finding(Step::Slots, "a\u{1b}[2J", "b\u{7}");
        assert!(!check.to_string().contains(['\u{1b}', '\u{7}']));
    }
}
