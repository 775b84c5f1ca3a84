//! What the server, or a pooler in its place, meant.
//!
//! The SQLSTATE decides (manual, appendix A), and where one stands for several things, or
//! where poolers put everything under the same, the words of the message. Those are
//! looked at and never shown: they may quote what a user typed. Names are shown, of
//! constraints, tables and parameters.

use tokio_postgres::error::DbError;

use super::ErrorKind;

/// An ErrorResponse, as far as it is looked at.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Said<'a> {
    pub(super) code: &'a str,
    pub(super) message: &'a str,
    /// The function of the server that reported it: not translated, as the message is.
    pub(super) routine: &'a str,
    pub(super) constraint: Option<&'a str>,
    pub(super) table: Option<&'a str>,
    /// It came in answer to the start-up packet.
    pub(super) at_start: bool,
    /// The password is that of a provider, which is asked once more before this is told.
    pub(super) provided: bool,
}

/// What it came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Meaning {
    pub(super) kind: ErrorKind,
    pub(super) cause: String,
    /// If the kind's own does not fit.
    pub(super) remedy: Option<&'static str>,
}

impl<'a> Said<'a> {
    pub(super) fn by(error: &'a DbError) -> Self {
        Said {
            code: error.code().code(),
            message: error.message(),
            routine: error.routine().unwrap_or_default(),
            constraint: error.constraint(),
            table: error.table(),
            at_start: false,
            provided: false,
        }
    }

    pub(super) fn meaning(&self) -> Meaning {
        self.pooler()
            .or_else(|| self.start())
            .unwrap_or_else(|| self.server())
    }

    pub(super) fn says(&self, words: &str) -> bool {
        self.message.contains(words)
    }

    pub(super) fn says_any(&self, words: &[&str]) -> bool {
        words.iter().any(|words| self.says(words))
    }

    fn server(&self) -> Meaning {
        use ErrorKind as Kind;
        match self.code {
            "53300" => self.full(),
            "57P03" => match () {
                () if self.says("shutting down") => {
                    plain(Kind::ServerStopping, "the server is shutting down")
                }
                () if self.says("recovery") => {
                    plain(Kind::ServerStarting, "the server is recovering")
                }
                () => plain(Kind::ServerStarting, "the server is starting up"),
            },
            "57P01" => plain(
                Kind::ServerStopping,
                "the server ended the session: it is shutting down, or an administrator ended it",
            ),
            "57P02" => plain(
                Kind::ServerStopping,
                "the server ended the session: another of its processes had crashed",
            ),
            "57P04" => plain(Kind::DatabaseMissing, "the database was dropped"),
            "57P05" => advised(
                Kind::Closed,
                "the server ended the session: it was idle for longer than idle_session_timeout",
                "ask for another connection, and keep none idle for so long (`max_idle_time`)",
            ),
            "25P03" => advised(
                Kind::TransactionFailed,
                "the server ended the session: its transaction was idle for longer than \
                 idle_in_transaction_session_timeout",
                "do not wait for others inside a transaction",
            ),
            "25P04" => advised(
                Kind::TransactionFailed,
                "the server ended the session: its transaction took longer than \
                 transaction_timeout",
                "make the transaction smaller, or raise the time-out",
            ),
            "25P02" => plain(
                Kind::TransactionFailed,
                "an earlier statement of this transaction failed, and the server takes none until \
                 it is rolled back",
            ),
            "26000" => plain(
                Kind::StatementMissing,
                "the server does not know the prepared statement",
            ),
            "42P05" => plain(
                Kind::StatementMissing,
                "a prepared statement of this name is there already",
            ),
            _ if self.is_outdated() => plain(
                Kind::StatementOutdated,
                "the schema has changed since the statement was prepared",
            ),
            "25006" => plain(
                Kind::ReadOnly,
                "nothing can be written: the transaction or the server is read-only",
            ),
            "23505" => self.violated(Kind::UniqueViolation, "a value is there already", None),
            "23503" => self.violated(
                Kind::ConstraintViolation,
                "a row refers to one that is not there, or is referred to",
                Some("store the other row first, or delete what refers to this one"),
            ),
            "23502" => self.violated(
                Kind::ConstraintViolation,
                "a value is missing",
                Some("give the column a value, or a DEFAULT"),
            ),
            "23514" => self.violated(
                Kind::ConstraintViolation,
                "a value does not pass its check",
                None,
            ),
            "23P01" => self.violated(
                Kind::ConstraintViolation,
                "a value excludes one that is there already",
                None,
            ),
            "22P05" | "22021" => plain(
                Kind::BadInput,
                "a text has a character that the database cannot store",
            ),
            "22001" => plain(Kind::BadInput, "a text is longer than its column"),
            "22003" => plain(Kind::BadInput, "a number is out of range"),
            "22007" | "22008" => plain(Kind::BadInput, "a value is no date or time"),
            "22012" => plain(Kind::BadInput, "a division by zero"),
            "22P02" | "22P03" => plain(Kind::BadInput, "a value is not of its type's form"),
            "40P01" => plain(
                Kind::SerializationFailure,
                "two transactions waited for each other, and this one gave way (deadlock)",
            ),
            "40001" | "OC000" | "OC001" => plain(
                Kind::SerializationFailure,
                "the transaction met another that changed the same, and gave way",
            ),
            "42501" => plain(Kind::PermissionDenied, "the role may not do this"),
            "55P03" => plain(Kind::LockTimeout, "a lock was not to be had in time"),
            "57014" if self.says("statement timeout") => plain(
                Kind::StatementTimeout,
                "the statement took longer than the server's statement_timeout",
            ),
            "57014" => plain(Kind::Cancelled, "the statement was cancelled on request"),
            "42P01" | "42703" | "42883" | "42704" | "3F000" => advised(
                Kind::Database,
                "a table, column, function or type of the statement does not exist",
                "did the migration run, and is search_path right? the source says which",
            ),
            "42601" => advised(
                Kind::Database,
                "the statement has a syntax error",
                "the source says where",
            ),
            "P0001" => advised(
                Kind::Database,
                "a function of the database raised an error of its own",
                "the source says which",
            ),
            "53100" => advised(
                Kind::Database,
                "the server's disk is full",
                "make room; until then nothing can be written",
            ),
            "53200" => advised(
                Kind::Database,
                "the server is out of memory",
                "lower work_mem or the number of connections, or take a larger one",
            ),
            code => match code.get(..2) {
                Some("08") => plain(
                    Kind::Unreachable,
                    "the connection to the server failed, as what lies in between says",
                ),
                Some("22") => plain(Kind::BadInput, "a value is not as it must be"),
                Some("23") => {
                    self.violated(Kind::ConstraintViolation, "a constraint was violated", None)
                }
                _ if self.at_start => plain(Kind::Database, "the server refused it"),
                _ => plain(Kind::Database, "the server refused the statement"),
            },
        }
    }

    /// 53300, `too_many_connections`.
    fn full(&self) -> Meaning {
        let (cause, remedy) = match () {
            () if self.says("connections for role") => (
                "the role has no connection left of its CONNECTION LIMIT",
                Some(
                    "lower `max_connections` or the function's concurrency, or ALTER ROLE .. \
                     CONNECTION LIMIT",
                ),
            ),
            () if self.says("connections for database") => (
                "the database has no connection left of its CONNECTION LIMIT",
                Some(
                    "lower `max_connections` or the function's concurrency, or ALTER DATABASE .. \
                     CONNECTION LIMIT",
                ),
            ),
            () if self.says("reserved") => (
                "the server has no connection left but those that it keeps for superusers \
                 (max_connections)",
                None,
            ),
            () => ("the server has no connection left (max_connections)", None),
        };
        Meaning {
            kind: ErrorKind::TooManyConnections,
            cause: cause.to_owned(),
            remedy,
        }
    }

    fn violated(&self, kind: ErrorKind, what: &str, remedy: Option<&'static str>) -> Meaning {
        let constraint = self.constraint.map(shown);
        let table = self.table.map(shown);
        let cause = match (constraint, table) {
            (Some(constraint), Some(table)) => {
                format!("{what}, says the constraint {constraint} of table {table}")
            }
            (Some(constraint), None) => format!("{what}, says the constraint {constraint}"),
            (None, Some(table)) => format!("{what} in table {table}"),
            (None, None) => what.to_owned(),
        };
        Meaning {
            kind,
            cause,
            remedy,
        }
    }

    /// The statement was prepared for a schema that is no more: found before anything of
    /// it is executed, when the server looks at its plan (`plancache.c`) or at the types of
    /// its parameters (`lsyscache.c`, whose messages are not translated).
    pub(super) fn is_outdated(&self) -> bool {
        match self.code {
            "0A000" => {
                self.routine == "RevalidateCachedQuery" || self.says("cached plan must not change")
            }
            "XX000" => self.message.starts_with("cache lookup failed for type"),
            _ => false,
        }
    }
}

impl Meaning {
    /// The cause, and the SQLSTATE for who wants to look it up.
    pub(super) fn cause_with(&self, code: &str) -> String {
        match self.cause.strip_suffix(')') {
            Some(cause) => format!("{cause}, {code})"),
            None => format!("{} ({code})", self.cause),
        }
    }
}

pub(super) fn plain(kind: ErrorKind, cause: &str) -> Meaning {
    Meaning {
        kind,
        cause: cause.to_owned(),
        remedy: None,
    }
}

pub(super) fn advised(kind: ErrorKind, cause: &str, remedy: &'static str) -> Meaning {
    Meaning {
        remedy: Some(remedy),
        ..plain(kind, cause)
    }
}

/// The name of a parameter; `None` if it does not look like one.
pub(super) fn parameter(text: &str) -> Option<&str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    (!text.is_empty() && text.len() < 64 && text.chars().all(fits)).then_some(text)
}

/// A name as it stands in one line.
fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests;
