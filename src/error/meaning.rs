//! Interprets what a server or pooler reports: kind, cause and remedy.
//!
//! Its SQLSTATE decides, and where one stands for several things, or where poolers put
//! everything under the same, the words of the message. Those are looked at and never shown:
//! they may quote what a user typed. Names are shown, of constraints, tables and parameters.

use tokio_postgres::error::DbError;

use super::ErrorKind;
use crate::provider;

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
    pub(super) remedy: &'static str,
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
        let known = provider::refusal(self.code, self.message, self.routine, self.at_start);
        let is_password = match (self.code, known.kind) {
            // An older pooler puts it under 08P01.
            ("28P01" | "08P01", ErrorKind::Authentication) => true,
            // Where the words tell nothing else.
            ("28000", kind @ ErrorKind::Authentication) => known.remedy() == kind.remedy(),
            _ => false,
        };
        Meaning {
            kind: known.kind,
            cause: if self.code.starts_with("23") {
                self.violated(known.cause)
            } else {
                known.cause.replace("{parameter}", self.parameter())
            },
            remedy: if is_password && self.provided {
                provider::PASSWORD_REFUSED
            } else {
                known.remedy()
            },
        }
    }

    fn violated(&self, what: &str) -> String {
        let constraint = self.constraint.map(shown);
        let table = self.table.map(shown);
        match (constraint, table) {
            (Some(constraint), Some(table)) => {
                format!("{what}, violating constraint {constraint} of table {table}")
            }
            (Some(constraint), None) => format!("{what}, violating constraint {constraint}"),
            (None, Some(table)) => format!("{what} in table {table}"),
            (None, None) => what.to_owned(),
        }
    }

    /// The parameter that the message names, if it looks like one.
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
    /// The cause, with the SQLSTATE to look up.
    pub(super) fn cause_with(&self, code: &str) -> String {
        match self.cause.strip_suffix(')') {
            Some(cause) => format!("{cause}, {code})"),
            None => format!("{} ({code})", self.cause),
        }
    }
}

/// A name as it stands in one line.
pub(super) fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests;
