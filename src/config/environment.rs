//! What the process was told by its environment.

use std::time::Duration;

use super::{duration, overrides, spelling};
use crate::error::{Error, Result};

/// Reads variables; a test has its own.
pub(crate) struct Environment {
    variable: Box<Variable>,
    names: Box<Names>,
}

type Variable = dyn Fn(&str) -> Option<String>;
type Names = dyn Fn() -> Vec<String>;

/// What the environment says of limits, below the code and the URL.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Limits {
    pub(super) max_connections: Option<usize>,
    pub(super) max_idle: Option<usize>,
    pub(super) max_age: Option<Duration>,
    pub(super) max_idle_time: Option<Duration>,
}

impl Environment {
    pub(crate) fn of_process() -> Self {
        Environment {
            variable: Box::new(|name| std::env::var(name).ok()),
            names: Box::new(|| {
                let names = std::env::vars_os().map(|(name, _)| name.into_string());
                names.filter_map(Result::ok).collect()
            }),
        }
    }

    #[cfg(test)]
    pub(crate) fn of(variables: &[(&str, &str)]) -> Self {
        let owned = variables.iter();
        let owned = owned.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let variables: std::collections::BTreeMap<String, String> = owned.collect();
        let names = variables.keys().cloned().collect::<Vec<_>>();
        Environment {
            variable: Box::new(move |name| variables.get(name).cloned()),
            names: Box::new(move || names.clone()),
        }
    }

    /// As [`given`] has it.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        given((self.variable)(name)?)
    }

    /// A secret, without the line's end that files and consoles leave behind. What is set
    /// and empty was meant to hold one.
    pub(super) fn secret(&self, name: &str) -> Result<Option<String>> {
        let Some(value) = (self.variable)(name) else {
            return Ok(None);
        };
        match value.trim() {
            "" => Err(Error::configuration(format!(
                "{name} is set and empty: give it a value, or unset it"
            ))),
            value => Ok(Some(value.to_owned())),
        }
    }

    /// The names of all variables.
    pub(super) fn names(&self) -> Vec<String> {
        (self.names)()
    }

    /// How many invocations this process may serve at a time.
    pub(crate) fn concurrency(&self) -> usize {
        let managed = self.get("AWS_LAMBDA_MAX_CONCURRENCY");
        match managed.and_then(|value| value.parse().ok()) {
            Some(concurrency) if concurrency > 0 => concurrency,
            _ if self.get("AWS_LAMBDA_FUNCTION_NAME").is_some() => 1,
            // Vercel serves several at once, and says nowhere how many.
            _ => 3,
        }
    }

    /// How many connections the operator wants warmed, if he says so.
    pub(crate) fn warm_up(&self) -> Result<Option<usize>> {
        self.count(overrides::WARM_UP, 0)
    }

    /// The limits that Go's `database/sql` has, by the names that services in Go give
    /// their variables. Zero is never, as it is there.
    pub(super) fn limits(&self) -> Result<Limits> {
        let max_age = self.duration("DB_MAX_LIFETIME")?;
        Ok(Limits {
            max_connections: self.count("DB_MAX_OPEN_CONNS", 1)?,
            max_idle: self.count("DB_MAX_IDLE_CONNS", 0)?,
            max_age: max_age.map(|age| if age.is_zero() { Duration::MAX } else { age }),
            max_idle_time: self
                .duration("DB_MAX_IDLE_TIME")?
                .filter(|time| !time.is_zero()),
        })
    }

    pub(super) fn count(&self, name: &str, least: usize) -> Result<Option<usize>> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match value.trim().parse() {
            Ok(count) if count >= least => Ok(Some(count)),
            _ => Err(Error::configuration(format!(
                "{} is not a number of connections, {least} or more",
                spelling::shown(name, &value)
            ))),
        }
    }

    pub(super) fn duration(&self, name: &str) -> Result<Option<Duration>> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match duration::parse(&value) {
            Some(duration) => Ok(Some(duration)),
            None => Err(Error::configuration(format!(
                "{} is not {}",
                spelling::shown(name, &value),
                duration::WANTED
            ))),
        }
    }
}

/// A variable's value without the line's end that files and consoles leave behind. What is
/// blank is not set.
pub fn given(mut value: String) -> Option<String> {
    value.truncate(without_line_end(value.as_bytes()).len());
    Some(value).filter(|value| !value.trim().is_empty())
}

/// One line's end is a file's or a console's, and no part of a secret.
pub(crate) fn without_line_end(text: &[u8]) -> &[u8] {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    text.strip_suffix(b"\r").unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_end_is_cut_and_blank_is_unset() {
        for (value, expected) in [
            ("x", Some("x")),
            ("x\n", Some("x")),
            ("x\r\n", Some("x")),
            ("x\n\n", Some("x\n")),
            (" x ", Some(" x ")),
            ("", None),
            (" \t\r\n", None),
        ] {
            let environment = Environment::of(&[("NAME", value)]);
            assert_eq!(environment.get("NAME").as_deref(), expected, "{value:?}");
        }
    }

    #[test]
    fn one_connection_for_each_invocation_that_can_run() {
        for (variables, expected) in [
            (&[][..], 3),
            (&[("AWS_LAMBDA_FUNCTION_NAME", "f")], 1),
            (
                &[
                    ("AWS_LAMBDA_FUNCTION_NAME", "f"),
                    ("AWS_LAMBDA_MAX_CONCURRENCY", "8"),
                ],
                8,
            ),
            (&[("AWS_LAMBDA_MAX_CONCURRENCY", "many")], 3),
        ] {
            assert_eq!(Environment::of(variables).concurrency(), expected);
        }
    }

    #[test]
    fn a_misspelt_number_is_named() {
        let error = Environment::of(&[("ANTIFREEZE_WARM_UP", "two")])
            .warm_up()
            .expect_err("no number");
        assert!(error.to_string().contains("ANTIFREEZE_WARM_UP=two"));
    }

    #[test]
    fn limits_as_go_has_them() {
        let seconds = Duration::from_secs;
        let given = Environment::of(&[
            ("DB_MAX_OPEN_CONNS", "4"),
            ("DB_MAX_IDLE_CONNS", "0"),
            ("DB_MAX_LIFETIME", "1h30m"),
            ("DB_MAX_IDLE_TIME", "90s"),
        ]);
        let expected = Limits {
            max_connections: Some(4),
            max_idle: Some(0),
            max_age: Some(seconds(5400)),
            max_idle_time: Some(seconds(90)),
        };
        assert_eq!(given.limits().expect("fine"), expected);
        let never = Environment::of(&[("DB_MAX_LIFETIME", "0s"), ("DB_MAX_IDLE_TIME", "0s")]);
        let expected = Limits {
            max_age: Some(Duration::MAX),
            ..Limits::default()
        };
        assert_eq!(never.limits().expect("fine"), expected);
        let none = Environment::of(&[("DB_MAX_OPEN_CONNS", "")]);
        assert_eq!(none.limits().expect("fine"), Limits::default());
    }

    #[test]
    fn limits_that_are_none_are_named() {
        for (name, value, wanted) in [
            ("DB_MAX_OPEN_CONNS", "0", "1 or more"),
            ("DB_MAX_OPEN_CONNS", "many", "a number of connections"),
            ("DB_MAX_IDLE_CONNS", "-1", "0 or more"),
            ("DB_MAX_LIFETIME", "1d", "a duration"),
            ("DB_MAX_IDLE_TIME", "-5s", "a duration"),
        ] {
            let error = Environment::of(&[(name, value)]).limits();
            let error = error.expect_err(name).to_string();
            assert!(
                error.contains(&format!("{name}={value} is not ")),
                "{error}"
            );
            assert!(error.contains(wanted), "{error}");
        }
    }
}
