//! Explains the failure of a migration's statement.

use tokio_postgres::error::SqlState;

use super::error::{Error, ErrorKind};
use super::event::At;
use super::files::Step;
use super::report::Report;
use super::run_settings::RunSettings;

/// The failure of a statement.
pub(super) struct StatementError {
    pub(super) error: tokio_postgres::Error,
    pub(super) line: Option<usize>,
    /// It ran outside a transaction, or ended its own, and may have committed a part of its work.
    pub(super) may_have_committed: bool,
}

impl StatementError {
    /// The failure of a statement that was rolled back.
    pub(super) fn undone(error: tokio_postgres::Error, line: Option<usize>) -> Self {
        StatementError {
            error,
            line,
            may_have_committed: false,
        }
    }

    /// Returns whether a retry may succeed: the statement had no effect, and failed with a
    /// lock timeout, a deadlock or a serialization failure.
    pub(super) fn is_retryable(&self) -> bool {
        let code = self.error.code().filter(|_| !self.may_have_committed);
        code.is_some_and(|code| {
            [
                SqlState::LOCK_NOT_AVAILABLE,
                SqlState::T_R_DEADLOCK_DETECTED,
                SqlState::T_R_SERIALIZATION_FAILURE,
            ]
            .contains(code)
        })
    }

    /// The error if the connection was lost.
    pub(super) fn lost(self, name: &str) -> Error {
        Error::new(
            ErrorKind::Connection,
            format!(
                "the connection was lost during {}: run the migrations again; the history records \
                 what was applied before",
                At(name, self.line)
            ),
        )
        .with_source(antifreeze::Error::from(self.error))
    }

    /// The error after the last attempt.
    pub(super) fn give_up(
        self,
        step: &Step,
        attempts: u32,
        settings: &RunSettings,
        report: &Report,
    ) -> Error {
        let name = step.name();
        let at = At(&name, self.line);
        let code = self.error.code();
        let code = code.map_or("no SQLSTATE", SqlState::code).to_owned();
        let error = antifreeze::Error::from(self.error);
        let together = step.script.in_transaction;
        let (kind, message) = match error.kind() {
            kind if self.may_have_committed => (
                match kind {
                    antifreeze::ErrorKind::LockTimeout => ErrorKind::Blocked,
                    antifreeze::ErrorKind::StatementTimeout => ErrorKind::Timeout,
                    _ => ErrorKind::Statement,
                },
                format!(
                    "{at} failed (SQLSTATE {code}): {}; it may have committed a part of its work, \
                     and is not run again: check what is missing, then run the migrations again, \
                     or `resolve` version {} if nothing is",
                    hint(&error),
                    step.version()
                ),
            ),
            _ if code == SqlState::T_R_DEADLOCK_DETECTED.code() => (
                ErrorKind::Blocked,
                format!(
                    "{at} ran into a deadlock in each of {attempts} attempts: run it when there is \
                     less traffic"
                ),
            ),
            antifreeze::ErrorKind::LockTimeout => {
                let blocked = report.blocked_now();
                let by = blocked.map_or_else(
                    || "the blocking session was not seen".to_owned(),
                    |blocked| blocked.to_string(),
                );
                (
                    ErrorKind::Blocked,
                    format!(
                        "{at} timed out after {:?} while waiting for a lock, in each of {attempts} \
                         attempts ({by}): end the blocking session, or set \
                         `terminate_idle_in_transaction`",
                        settings.lock_timeout
                    ),
                )
            }
            antifreeze::ErrorKind::StatementTimeout => (
                ErrorKind::Timeout,
                format!(
                    "{at} exceeded statement_timeout and was rolled back: split it into smaller \
                     parts, or raise `{}`",
                    if together {
                        "statement_timeout"
                    } else {
                        "concurrent_timeout"
                    }
                ),
            ),
            _ if together && code == SqlState::INVALID_TRANSACTION_TERMINATION.code() => (
                ErrorKind::Statement,
                format!(
                    "{at} commits or rolls back, but runs in a transaction together with its entry \
                     in the history; all of it was rolled back: put `-- antifreeze: \
                     no-transaction` into the file to run it without a transaction"
                ),
            ),
            _ if together && code == SqlState::ACTIVE_SQL_TRANSACTION.code() => (
                ErrorKind::Statement,
                format!(
                    "{at} cannot run in a transaction, or must come first in it; all of it was \
                     rolled back: put `-- antifreeze: no-transaction` into the file to run it \
                     without a transaction; SET TRANSACTION must be the first statement"
                ),
            ),
            _ if !together => (
                ErrorKind::Statement,
                format!(
                    "{at} failed (SQLSTATE {code}): {}; it runs without a transaction: if an \
                     earlier run has completed it, `resolve` version {}",
                    hint(&error),
                    step.version()
                ),
            ),
            _ => (
                ErrorKind::Statement,
                format!(
                    "{at} failed (SQLSTATE {code}) and was rolled back: {}",
                    hint(&error)
                ),
            ),
        };
        Error::new(kind, message).with_source(error)
    }
}

/// Describes the error. The server's own message is only in the source.
fn hint(error: &antifreeze::Error) -> String {
    match error.kind() {
        antifreeze::ErrorKind::Database => "see the source for the server's message".to_owned(),
        _ => error.to_string(),
    }
}
