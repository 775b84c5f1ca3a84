//! Sets what another driver asks for at its start-up in a session that has begun already.

use std::fmt::Write as _;
use std::sync::{MutexGuard, PoisonError};

use super::ServerSession;
use crate::config::Pooler;
use crate::wire::OwnAnswer;

/// What PgBouncer carries from server to server (its manual, `track_extra_parameters`).
const CARRIED: [&str; 6] = [
    "application_name",
    "client_encoding",
    "DateStyle",
    "IntervalStyle",
    "standard_conforming_strings",
    "TimeZone",
];

/// Parameters of a session, by name.
pub(crate) type Parameters = [(String, String)];

impl ServerSession {
    /// Sets these parameters, and resets others that an earlier driver asked for. Sends nothing if
    /// they hold already, which they do until a reset. `None`: the connection has ended.
    pub(crate) async fn set_parameters(&self, wanted: &Parameters) -> Option<OwnAnswer> {
        let Some(statements) = self.differing(wanted) else {
            return Some(OwnAnswer::default());
        };
        // It is in force before anything of the driver is sent.
        let answer = self.ask(&statements, true)?.await?;
        if answer.error.is_none() {
            *self.parameters() = wanted.to_vec();
        }
        Some(answer)
    }

    pub(crate) fn has_parameters(&self) -> bool {
        !self.parameters().is_empty()
    }

    /// Returns whether the session has others than these.
    pub(crate) fn has_parameters_other_than(&self, wanted: &Parameters) -> bool {
        self.differing(wanted).is_some()
    }

    /// Notes that a reset has removed the parameters.
    pub(crate) fn forget_parameters(&self) {
        self.parameters().clear();
    }

    /// Returns the statements that change what the session has into what is wanted.
    fn differing(&self, wanted: &Parameters) -> Option<String> {
        let set = self.parameters();
        if **set == *wanted {
            return None;
        }
        let mut statements = String::new();
        for (name, _) in set
            .iter()
            .filter(|(name, _)| !wanted.iter().any(|(n, _)| n == name))
        {
            // Writing to a string does not fail.
            let _ = write!(statements, "RESET {};", quoted_name(name));
        }
        let missing = |pair: &&(String, String)| {
            !set.contains(pair) && !self.link.wire.reports(&pair.0, &pair.1)
        };
        for pair in wanted.iter().filter(missing) {
            let (name, value) = (literal(&pair.0), literal(&pair.1));
            let _ = write!(
                statements,
                "SELECT pg_catalog.set_config({name},{value},false);"
            );
        }
        (!statements.is_empty()).then_some(statements)
    }

    /// Returns the parameter that cannot be set on this path: a transaction pooler carries few to
    /// other servers.
    pub(crate) fn not_carried<'a>(&self, wanted: &'a Parameters) -> Option<&'a str> {
        let pools = self.link.pooler == Pooler::Transaction;
        let mut names = wanted.iter().map(|(name, _)| name.as_str());
        let carried = |name: &str| CARRIED.iter().any(|one| name.eq_ignore_ascii_case(one));
        names.find(|name| pools && !carried(name))
    }

    fn parameters(&self) -> MutexGuard<'_, Vec<(String, String)>> {
        self.parameters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Quotes a string, whatever `standard_conforming_strings` says.
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// Quotes the name of a parameter, whose parts are separated by dots.
fn quoted_name(name: &str) -> String {
    let parts = name
        .split('.')
        .map(|part| format!("\"{}\"", part.replace('"', "\"\"")));
    parts.collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_cannot_leave_their_quotes() {
        assert_eq!(literal(r"a'b\'c"), r"E'a''b\\''c'");
        assert_eq!(quoted_name(r#"a.b"c"#), r#""a"."b""c""#);
    }
}
