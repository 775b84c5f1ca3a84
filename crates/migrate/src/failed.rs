//! Why a migration's statement failed, and what is to be done about it.

use tokio_postgres::error::SqlState;

use super::error::{Error, Kind};
use super::event::At;
use super::files::Step;
use super::report::Report;
use super::settings::Settings;

/// Why a statement failed.
pub(super) struct Failed {
    pub(super) error: tokio_postgres::Error,
    pub(super) line: Option<usize>,
}

impl Failed {
    /// It may succeed the next time, and nothing of it was done: a lock that was not to be
    /// had, a deadlock, a serialization failure.
    pub(super) fn gives_way(&self) -> bool {
        self.error.code().is_some_and(|code| {
            [
                SqlState::LOCK_NOT_AVAILABLE,
                SqlState::T_R_DEADLOCK_DETECTED,
                SqlState::T_R_SERIALIZATION_FAILURE,
            ]
            .contains(code)
        })
    }

    pub(super) fn lost(self, name: &str) -> Error {
        Error::new(
            Kind::Connection,
            format!(
                "the connection was lost at {}: run it again, and what was done by then is known \
                 from the history",
                At(name, self.line)
            ),
        )
        .with_source(antifreeze::Error::from(self.error))
    }

    /// Nothing is left to be tried.
    pub(super) fn refused(
        self,
        step: &Step,
        attempts: u32,
        settings: &Settings,
        report: &Report,
    ) -> Error {
        let name = step.name();
        let at = At(&name, self.line);
        let code = self.error.code();
        let code = code.map_or("no SQLSTATE", SqlState::code).to_owned();
        let error = antifreeze::Error::from(self.error);
        let together = step.script.in_transaction;
        let (kind, message) = match error.kind() {
            _ if code == SqlState::T_R_DEADLOCK_DETECTED.code() => (
                Kind::Blocked,
                format!(
                    "{at} met a deadlock at each of {attempts} attempts: run it when there is less traffic"
                ),
            ),
            antifreeze::ErrorKind::LockTimeout => {
                let blocked = report.blocked_now();
                let by = blocked.map_or_else(
                    || "who had it was gone by then".to_owned(),
                    |blocked| blocked.to_string(),
                );
                (
                    Kind::Blocked,
                    format!(
                        "{at} did not get its lock within {:?} at any of {attempts} attempts, and gave \
                         way each time ({by}): end who blocks, or consent to it with \
                         `terminate_idle_in_transaction`",
                        settings.lock_timeout
                    ),
                )
            }
            antifreeze::ErrorKind::StatementTimeout => (
                Kind::Timeout,
                format!(
                    "{at} took longer than statement_timeout allows and was undone: do it in smaller \
                     parts, or raise `{}`",
                    if together {
                        "statement_timeout"
                    } else {
                        "concurrent_timeout"
                    }
                ),
            ),
            _ if together && code == SqlState::INVALID_TRANSACTION_TERMINATION.code() => (
                Kind::Statement,
                format!(
                    "{at} commits or rolls back, and runs in a transaction together with its row \
                     in the history; all of it was rolled back: write `-- antifreeze: \
                     no-transaction` into the file to run it without one"
                ),
            ),
            _ if together && code == SqlState::ACTIVE_SQL_TRANSACTION.code() => (
                Kind::Statement,
                format!(
                    "{at} cannot run in a transaction, or not behind what precedes it there, and \
                     all of it was rolled back: write `-- antifreeze: no-transaction` into the \
                     file to run it without one; SET TRANSACTION comes first in its file"
                ),
            ),
            _ if !together => (
                Kind::Statement,
                format!(
                    "{at} failed (SQLSTATE {code}): {}; it runs without a transaction, so if an \
                     earlier run has done it, `resolve` version {}",
                    hint(&error),
                    step.version()
                ),
            ),
            _ => (
                Kind::Statement,
                format!(
                    "{at} failed (SQLSTATE {code}), and all of it was rolled back: {}",
                    hint(&error)
                ),
            ),
        };
        Error::new(kind, message).with_source(error)
    }
}

/// What the kind of the error is, in a few words. The server's own are in the source.
fn hint(error: &antifreeze::Error) -> String {
    match error.kind() {
        antifreeze::ErrorKind::Database => "the source has the server's words".to_owned(),
        _ => error.to_string(),
    }
}
