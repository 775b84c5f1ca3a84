//! Sets what another driver asks for at its start-up in a session that has begun already.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::ServerSession;
use crate::config::Pooler;
use crate::wire::{OwnAnswer, TransactionStatus, once};

/// What PgBouncer carries from server to server (its manual, `track_extra_parameters`).
const CARRIED: [&str; 6] = [
    "application_name",
    "client_encoding",
    "datestyle",
    "intervalstyle",
    "standard_conforming_strings",
    "timezone",
];

/// Parameters of a session, by name in lower case.
pub(crate) type Parameters = [(String, String)];

/// What drivers have asked for in a transaction.
#[derive(Debug, Default)]
pub(crate) struct LastParameters {
    /// Those of the last driver; `None` before the first.
    parameters: Option<Vec<(String, String)>>,
    /// The names that any of them has changed.
    names: BTreeSet<String>,
    /// How many [ends](crate::wire::ServerFacts::ends) there were when these were set.
    ends: u64,
}

/// How parameters are set.
#[derive(Clone, Copy)]
enum Scope {
    Session,
    /// Until the end of the transaction. `intact`: what was set in it before is in force.
    Transaction {
        intact: bool,
    },
}

impl LastParameters {
    pub(crate) fn new(parameters: &Parameters, ends: u64) -> Self {
        LastParameters {
            parameters: Some(parameters.to_vec()),
            names: BTreeSet::new(),
            ends,
        }
    }
}

impl ServerSession {
    /// Sets these parameters, and resets others that an earlier driver asked for. Sends nothing if
    /// they hold already, which they do until a reset. `None`: the connection has ended.
    pub(crate) async fn set_parameters(&self, wanted: &Parameters) -> Option<OwnAnswer> {
        let statements = self.differing(&self.parameters.lock(), wanted, Scope::Session);
        let Some(statements) = statements else {
            return Some(OwnAnswer::default());
        };
        let answer = self.ask(&statements, true)?;
        // Either may hold if this future is dropped meanwhile. No driver can want a NUL; and a
        // future that is polled late does not know what the next holder has set.
        let unique = format!("\0{}", once());
        let before = self.parameters.lock().clone();
        let names = before.iter().chain(wanted).map(|(name, _)| name.clone());
        let names = names.collect::<BTreeSet<_>>().into_iter();
        let unknown: Vec<_> = names.map(|name| (name, unique.clone())).collect();
        self.parameters.lock().clone_from(&unknown);
        // It is in force before anything of the driver is sent.
        let answer = answer.await?;
        let error = answer.error.as_ref();
        // In a transaction that has begun meanwhile they may be rolled back.
        let holds = self.link.wire.snapshot().status == Some(TransactionStatus::Idle);
        let mut known = self.parameters.lock();
        // Otherwise a reset has removed them.
        if holds && *known == unknown {
            if error.is_some() && before.iter().any(|(_, value)| value.starts_with('\0')) {
                // A name that the server refuses would be sent again and again.
                self.terminate();
            }
            *known = error.map_or_else(|| wanted.to_vec(), |_| before);
        }
        Some(answer)
    }

    /// Does the same inside a transaction, until its end. What the last driver has changed there
    /// stays if this one wants the same parameters, and nothing was rolled back since.
    pub(crate) async fn set_parameters_inside(
        &self,
        wanted: &Parameters,
        last: &mut LastParameters,
    ) -> Option<OwnAnswer> {
        let ends = self.link.wire.facts().ends;
        let intact = last.parameters.is_none() || last.ends == ends;
        let session = || self.parameters.lock().clone();
        let mut before = last.parameters.clone().unwrap_or_else(session);
        if !intact {
            before = session();
            let names = last.names.iter().filter(|name| !has(&before, name));
            let named = names.map(|name| (name.clone(), String::new()));
            before.extend(named.collect::<Vec<_>>());
        }
        let statements = self.differing(&before, wanted, Scope::Transaction { intact });
        if let Some(statements) = statements {
            let changed = before.iter().chain(wanted).map(|(name, _)| name.clone());
            last.names.extend(changed);
            let answer = self.ask(&statements, true)?.await?;
            if answer.error.is_some() {
                return Some(answer);
            }
        }
        last.parameters = Some(wanted.to_vec());
        last.ends = ends;
        Some(OwnAnswer::default())
    }

    pub(crate) fn has_parameters(&self) -> bool {
        !self.parameters.lock().is_empty()
    }

    /// Notes that a reset has removed the parameters.
    pub(crate) fn forget_parameters(&self) {
        self.parameters.lock().clear();
    }

    /// Notes that they may hold or not.
    pub(crate) fn doubt_parameters(&self) {
        for (_, value) in &mut *self.parameters.lock() {
            value.clear();
            value.push('\0');
        }
    }

    /// Returns the statements that change what was set into what is wanted.
    fn differing(&self, set: &Parameters, wanted: &Parameters, scope: Scope) -> Option<String> {
        let (keyword, local, intact) = match scope {
            Scope::Session => ("SET", false, true),
            Scope::Transaction { intact } => ("SET LOCAL", true, intact),
        };
        if intact && set == wanted {
            return None;
        }
        let mut statements = String::new();
        let mut gone = set.iter().filter(|(name, _)| !has(wanted, name)).peekable();
        let timeouts = gone.peek().map(|_| self.timeouts_behind_startup());
        let timeouts = timeouts.unwrap_or_default();
        for (name, _) in gone {
            let timeout = timeouts.iter().find(|(timeout, _)| timeout == name);
            let value = timeout.map_or("DEFAULT".to_owned(), |(_, value)| value.to_string());
            // Writing to a string does not fail.
            let _ = write!(statements, "{keyword} {} TO {value};", quoted_name(name));
        }
        let holds = |pair: &(String, String)| {
            (intact && set.contains(pair)) || self.link.wire.reports(&pair.0, &pair.1)
        };
        for pair in wanted.iter().filter(|pair| !holds(pair)) {
            let (name, value) = (literal(&pair.0), literal(&pair.1));
            let _ = write!(
                statements,
                "SELECT pg_catalog.set_config({name},{value},{local});"
            );
        }
        (!statements.is_empty()).then_some(statements)
    }

    /// Returns the parameter that cannot be set on this path: a transaction pooler carries few to
    /// other servers.
    pub(crate) fn not_carried<'a>(&self, wanted: &'a Parameters) -> Option<&'a str> {
        let pools = self.link.pooler == Pooler::Transaction;
        let mut names = wanted.iter().map(|(name, _)| name.as_str());
        names.find(|name| pools && !CARRIED.contains(name))
    }
}

pub(super) fn has(parameters: &Parameters, name: &str) -> bool {
    parameters.iter().any(|(known, _)| known == name)
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
