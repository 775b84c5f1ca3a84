//! Interprets ErrorResponses of a server or pooler: kind, cause and remedy.
//!
//! The SQLSTATE decides; where one stands for several conditions, as with most poolers, the
//! message does. Messages are read and never shown, since they may quote values. Names are
//! shown, of constraints, tables and parameters.

use tokio_postgres::error::DbError;

use super::ErrorKind;
use crate::provider;

/// The fields of an ErrorResponse that are read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ErrorResponse<'a> {
    pub(super) code: &'a str,
    pub(super) message: &'a str,
    /// The function of the server that reported it, which is not translated as the message is.
    pub(super) routine: &'a str,
    pub(super) constraint: Option<&'a str>,
    pub(super) table: Option<&'a str>,
    /// It answers the startup packet.
    pub(super) at_start: bool,
    /// The password is that of a credentials provider, which was asked twice.
    pub(super) provided: bool,
}

/// The meaning of an ErrorResponse.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Meaning {
    pub(super) kind: ErrorKind,
    pub(super) cause: String,
    pub(super) remedy: &'static str,
}

impl<'a> From<&'a DbError> for ErrorResponse<'a> {
    fn from(error: &'a DbError) -> Self {
        ErrorResponse {
            code: error.code().code(),
            message: error.message(),
            routine: error.routine().unwrap_or_default(),
            constraint: error.constraint(),
            table: error.table(),
            at_start: false,
            provided: false,
        }
    }
}

impl ErrorResponse<'_> {
    pub(super) fn meaning(&self) -> Meaning {
        let known = provider::known_error(self.code, self.message, self.routine, self.at_start);
        let is_password = match (self.code, known.kind) {
            // PgBouncer up to 1.18 reports it as 08P01.
            ("28P01" | "08P01", ErrorKind::Authentication) => true,
            // A message that is not known better.
            ("28000", kind @ ErrorKind::Authentication) => known.remedy() == kind.remedy(),
            _ => false,
        };
        let cause = known.cause.replace("{parameter}", self.parameter());
        Meaning {
            kind: known.kind,
            cause: cause + &self.violated(),
            remedy: if is_password && self.provided {
                provider::PASSWORD_REFUSED
            } else {
                known.remedy()
            },
        }
    }

    /// Names the constraint and table of a constraint violation.
    fn violated(&self) -> String {
        let table = self.table.map(printable);
        match (self.constraint.map(printable), table) {
            _ if !self.code.starts_with("23") => String::new(),
            (Some(constraint), Some(table)) => format!(" ({constraint} of table {table})"),
            (Some(constraint), None) => format!(" ({constraint})"),
            (None, Some(table)) => format!(" (table {table})"),
            (None, None) => String::new(),
        }
    }

    /// Returns the parameter that the message names, if it is a valid name.
    fn parameter(&self) -> &str {
        let quoted = self.message.split('"').nth(1);
        let named = quoted.or(self.message.rsplit(": ").next());
        let fits = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        named
            .filter(|name| (1..64).contains(&name.len()) && name.chars().all(fits))
            .unwrap_or("a parameter")
    }
}

impl Meaning {
    /// Returns the cause with its SQLSTATE.
    pub(super) fn cause_with(&self, code: &str) -> String {
        if !is_sqlstate(code) {
            return self.cause.to_string();
        }
        match self.cause.strip_suffix(')') {
            Some(cause) => format!("{cause}, {code})"),
            None => format!("{} ({code})", self.cause),
        }
    }
}

/// Returns whether a server's code is one: it may send any text, which is not to be shown.
pub(crate) fn is_sqlstate(code: &str) -> bool {
    code.len() == 5 && code.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Removes control characters from a name, so that it stays on one line.
pub(super) fn printable(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests;
