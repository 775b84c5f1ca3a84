//! What the server, or a pooler in its place, meant.
//!
//! The SQLSTATE decides ([`sqlstate`](super::sqlstate)), and where one stands for several
//! things, or where poolers put everything under the same, the words of the message. Those
//! are looked at and never shown: they may quote what a user typed. Names are shown, of
//! constraints, tables and parameters.

use std::borrow::Cow;

use tokio_postgres::error::DbError;

use super::{ErrorKind, sqlstate};
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
    pub(super) cause: Cow<'static, str>,
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
        self.pooler()
            .or_else(|| self.setting())
            .unwrap_or_else(|| self.server())
    }

    /// What a pooler or a provider says, mostly under 08P01 and XX000.
    fn pooler(&self) -> Option<Meaning> {
        let codes = ["08P01", "08006", "XX000", "53300", "0A000", "28000"];
        if !codes.contains(&self.code) && !self.at_start {
            return None;
        }
        let refusal = provider::refusal(self.code, self.message)?;
        let named = self.message.rsplit(": ").next();
        Some(Meaning {
            kind: refusal.kind,
            cause: naming(refusal.cause, named),
            remedy: match (self.code, refusal.kind) {
                ("08P01", ErrorKind::Authentication) => self.password(refusal.remedy),
                _ => refusal.remedy,
            },
        })
    }

    /// What a server says of a setting in the start-up packet.
    fn setting(&self) -> Option<Meaning> {
        let (cause, remedy) = match self.code {
            _ if !self.at_start => return None,
            // "invalid command-line argument", "-c .. requires a value" (postgres.c).
            "42601" => (
                "the server does not understand `options`".into(),
                "write them as -c name=value, separated by spaces; in a URL a space is %20 and \
                 no `+`: options=-c%20name%3Dvalue",
            ),
            "42704" | "22023" | "42501" | "22P02" | "55P02" | "42602" => (
                naming(
                    "the server does not take {parameter} at start-up",
                    self.message.split('"').nth(1),
                ),
                "correct it, or take it out of `options` in the URL",
            ),
            _ => return None,
        };
        Some(Meaning {
            kind: ErrorKind::ParameterRefused,
            cause,
            remedy,
        })
    }

    fn server(&self) -> Meaning {
        if self.is_outdated() {
            let kind = ErrorKind::StatementOutdated;
            return Meaning {
                kind,
                cause: "the schema has changed since the statement was prepared".into(),
                remedy: kind.remedy(),
            };
        }
        let fits = |row: &&sqlstate::Row| row.is_for(self.code) && self.says_all(row.words);
        let Some(row) = sqlstate::ROWS.iter().find(fits) else {
            let cause = match self.at_start {
                true => "the server refused it",
                false => "the server refused the statement",
            };
            let kind = ErrorKind::Database;
            return Meaning {
                kind,
                cause: cause.into(),
                remedy: kind.remedy(),
            };
        };
        let remedy = row.remedy.first().copied();
        Meaning {
            kind: row.kind,
            cause: match self.code.starts_with("23") {
                true => self.violated(row.cause),
                false => row.cause.into(),
            },
            remedy: match (self.code, remedy) {
                ("28P01", Some(remedy)) => self.password(remedy),
                ("28000", None) => self.password(row.kind.remedy()),
                _ => remedy.unwrap_or(row.kind.remedy()),
            },
        }
    }

    /// `remedy` is for who wrote the password into a URL.
    fn password(&self, remedy: &'static str) -> &'static str {
        match self.provided {
            true => provider::PASSWORD_REFUSED,
            false => remedy,
        }
    }

    fn violated(&self, what: &str) -> Cow<'static, str> {
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
        cause.into()
    }

    fn says_all(&self, words: &[&str]) -> bool {
        words.iter().all(|words| self.message.contains(words))
    }

    /// The statement was prepared for a schema that is no more: found before anything of
    /// it is executed, when the server looks at its plan (`plancache.c`) or at the types of
    /// its parameters (`lsyscache.c`, whose messages are not translated).
    fn is_outdated(&self) -> bool {
        match self.code {
            "0A000" => {
                self.routine == "RevalidateCachedQuery"
                    || self.message.contains("cached plan must not change")
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

/// `cause` with the name of a parameter for its `{parameter}`, if `text` looks like one.
fn naming(cause: &'static str, text: Option<&str>) -> Cow<'static, str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let name = text.filter(|text| (1..64).contains(&text.len()) && text.chars().all(fits));
    match cause.contains("{parameter}") {
        true => cause
            .replace("{parameter}", name.unwrap_or("a parameter"))
            .into(),
        false => cause.into(),
    }
}

/// A name as it stands in one line.
pub(super) fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests;
