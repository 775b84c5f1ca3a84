//! Reads the environment variables of the process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use crate::credentials::given;

/// The environment's variables; a test has its own.
#[derive(Default)]
pub(crate) struct Environment(BTreeMap<String, String>);

/// The variables of files such as `.env`, which a command has read at its start. Those of the
/// process take precedence, unless they are blank or hidden. `std::env::set_var` is unsafe, and
/// would reach the children.
#[derive(Default)]
struct Files {
    variables: BTreeMap<String, String>,
    /// The process's variables that do not count.
    hidden: BTreeSet<String>,
}

static FILES: OnceLock<Files> = OnceLock::new();

/// Adds the variables of files, once, before the environment is read.
pub(crate) fn add_files(variables: BTreeMap<String, String>, hidden: BTreeSet<String>) {
    let _ = FILES.set(Files { variables, hidden });
}

/// Reads one variable, of the process or else of the files.
pub(crate) fn variable(name: &str) -> Option<String> {
    let process = std::env::var(name).ok();
    match FILES.get() {
        Some(files) => files.variable(name, process),
        None => process,
    }
}

impl Files {
    fn variable(&self, name: &str, process: Option<String>) -> Option<String> {
        let process = process.filter(|_| !self.hidden.contains(name));
        let is_given = process.clone().and_then(given).is_some();
        let of_files = self.variables.get(name).filter(|_| !is_given);
        of_files.cloned().or(process)
    }

    /// Adds the files' variables to those of the process.
    fn merge(&self, process: &mut BTreeMap<String, String>) {
        let names = self.variables.keys().chain(&self.hidden);
        for name in names {
            let value = process.remove(name);
            let value = self.variable(name, value);
            process.extend(value.map(|value| (name.clone(), value)));
        }
    }
}

impl Environment {
    pub(crate) fn of_process() -> Self {
        let variables = std::env::vars_os();
        // A value that is not UTF-8 counts as blank.
        let readable = variables.filter_map(|(name, value)| {
            Some((
                name.into_string().ok()?,
                value.into_string().unwrap_or_default(),
            ))
        });
        let mut all: BTreeMap<String, String> = readable.collect();
        if let Some(files) = FILES.get() {
            files.merge(&mut all);
        }
        Environment(all)
    }

    #[cfg(test)]
    pub(crate) fn of(variables: &[(&str, &str)]) -> Self {
        let owned = variables.iter();
        let owned = owned.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Environment(owned.collect())
    }

    /// The value, trimmed as [`given`] does.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        given(self.0.get(name)?.clone())
    }

    /// The value as it is, blanks included.
    pub(super) fn raw(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The names of all variables.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// How many invocations this process may serve at a time.
    pub(crate) fn concurrency(&self) -> usize {
        let managed = self.get("AWS_LAMBDA_MAX_CONCURRENCY");
        match managed.and_then(|value| value.parse().ok()) {
            Some(concurrency) if concurrency > 0 => concurrency,
            // Vercel serves several at once, and says nowhere how many; it may use Lambda.
            _ if self.get("VERCEL").is_some() => 3,
            _ if self.get("AWS_LAMBDA_FUNCTION_NAME").is_some() => 1,
            _ => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_end_is_cut_and_blank_is_unset() {
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
    fn blank_and_hidden_variables_yield_to_files() {
        let map = |variables: &[(&str, &str)]| -> BTreeMap<String, String> {
            let owned = variables.iter();
            let owned = owned.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            owned.collect()
        };
        let files = Files {
            variables: map(&[("BLANK", "file"), ("SET", "file"), ("HIDDEN", "file")]),
            hidden: ["HIDDEN", "PGPASSWORD"].map(str::to_owned).into(),
        };
        let mut all = map(&[
            ("BLANK", " \n"),
            ("SET", "process"),
            ("HIDDEN", "process"),
            ("PGPASSWORD", "process"),
            ("EMPTY", ""),
        ]);
        files.merge(&mut all);
        let expected = [
            ("BLANK", "file"),
            ("SET", "process"),
            ("HIDDEN", "file"),
            ("EMPTY", ""),
        ];
        assert_eq!(all, map(&expected));
    }

    #[test]
    fn concurrency_follows_the_host() {
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
            (&[("VERCEL", "1"), ("AWS_LAMBDA_FUNCTION_NAME", "f")], 3),
        ] {
            assert_eq!(Environment::of(variables).concurrency(), expected);
        }
    }
}
