//! Parses libpq's keyword strings: `host=db user='an app' password=it\'s`.
//!
//! As libpq does (manual, "Keyword/Value Connection Strings"): spaces
//! around `=` are free, a value in single quotes may hold spaces, and a backslash
//! takes the next character as it is.

use std::iter::Peekable;
use std::str::Chars;

use crate::error::{Error, Result};

/// Splits `text` into names and values, in its order. Errors quote nothing: it may be a piece
/// of a password.
pub(super) fn parse(text: &str) -> Result<Vec<(String, String)>> {
    let mut rest = text.chars().peekable();
    let mut found = Vec::new();
    loop {
        skip_spaces(&mut rest);
        if rest.peek().is_none() {
            return Ok(found);
        }
        let mut name = String::new();
        while let Some(c) = rest.next_if(|&c| c != '=' && !c.is_whitespace()) {
            name.push(c);
        }
        skip_spaces(&mut rest);
        if rest.next() != Some('=') || name.is_empty() {
            return Err(Error::configuration(
                "is not a connection string: expected a URL (postgres://user:password@host:port/database) or keywords \
                 (host=db user=app); put a value with spaces in single quotes",
            ));
        }
        skip_spaces(&mut rest);
        let value = match rest.next_if_eq(&'\'') {
            Some(_) => quoted(&mut rest)?,
            None => bare(&mut rest),
        };
        found.push((name, value));
    }
}

fn skip_spaces(rest: &mut Peekable<Chars<'_>>) {
    while rest.next_if(|c| c.is_whitespace()).is_some() {}
}

fn bare(rest: &mut Peekable<Chars<'_>>) -> String {
    let mut value = String::new();
    while let Some(c) = rest.next_if(|c| !c.is_whitespace()) {
        match c {
            '\\' => value.extend(rest.next()),
            c => value.push(c),
        }
    }
    value
}

fn quoted(rest: &mut Peekable<Chars<'_>>) -> Result<String> {
    let mut value = String::new();
    while let Some(c) = rest.next() {
        match c {
            '\'' => return Ok(value),
            '\\' => value.extend(rest.next()),
            c => value.push(c),
        }
    }
    Err(Error::configuration(
        "contains a single quote that is not closed: write a quote in a value as \\'",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_are_split_as_libpq_does() {
        for (text, expected) in [
            ("", &[][..]),
            ("  ", &[]),
            ("host=db user=app", &[("host", "db"), ("user", "app")]),
            ("host = db\tuser\n=app ", &[("host", "db"), ("user", "app")]),
            ("user='an app'", &[("user", "an app")]),
            (
                "user='an app'host=db",
                &[("user", "an app"), ("host", "db")],
            ),
            (r"password=it\'s\ \\", &[("password", r"it's \")]),
            (r"password='it\'s \\'", &[("password", r"it's \")]),
            ("password='' user=a", &[("password", ""), ("user", "a")]),
            ("password=", &[("password", "")]),
            ("password=a=b", &[("password", "a=b")]),
            ("host=a host=b", &[("host", "a"), ("host", "b")]),
            (r"user=a\", &[("user", "a")]),
        ] {
            let found = parse(text).expect(text);
            let found: Vec<_> = found
                .iter()
                .map(|(n, v)| (n.as_str(), v.as_str()))
                .collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn malformed_keywords_are_not_quoted() {
        for (text, word) in [
            ("hunter2", "is not a connection string"),
            ("host=db hunter2", "is not a connection string"),
            (
                "host=db password=a hunter2 user=x",
                "is not a connection string",
            ),
            ("=hunter2", "is not a connection string"),
            ("password='hunter2", "not closed"),
            (r"password='hunter2\'", "not closed"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(word), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
