//! Reads the environment variables of the process.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use crate::credentials::text::given;

/// The environment's variables; a test has its own.
#[derive(Default)]
pub(crate) struct Environment(BTreeMap<String, String>);

/// The variables that replace those of the process; without a value, they hide them.
/// `std::env::set_var` is unsafe, and would reach the children.
static REPLACED: OnceLock<Replaced> = OnceLock::new();

type Replaced = BTreeMap<String, Option<String>>;

/// Replaces variables of the process, once, before a configuration is read: by those of files such
/// as `.env`. One without a value is hidden.
pub fn replace_variables(variables: BTreeMap<String, Option<String>>) {
    let _ = REPLACED.set(variables);
}

/// Reads a variable of the process, or what replaces it.
pub fn variable(name: &str) -> Option<String> {
    match REPLACED.get().and_then(|replaced| replaced.get(name)) {
        Some(value) => value.clone(),
        None => std::env::var(name).ok(),
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
        Environment::replaced(readable, REPLACED.get())
    }

    fn replaced(
        process: impl Iterator<Item = (String, String)>,
        replaced: Option<&Replaced>,
    ) -> Self {
        let process = process.map(|(name, value)| (name, Some(value)));
        let mut all: Replaced = process.collect();
        all.extend(replaced.cloned().unwrap_or_default());
        let all = all.into_iter();
        Environment(
            all.filter_map(|(name, value)| Some((name, value?)))
                .collect(),
        )
    }

    #[cfg(test)]
    pub(crate) fn of(variables: &[(&str, &str)]) -> Self {
        let owned = variables.iter();
        let owned = owned.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Environment(owned.collect())
    }

    /// Returns the value, trimmed as [`given`] does.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        given(self.0.get(name)?.clone())
    }

    /// Returns the value as it is, even if it is blank.
    pub(super) fn raw(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Lists the names of all variables.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Returns how many invocations this process may serve at a time.
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
    fn variables_are_replaced_and_hidden() {
        let process = [
            ("SET", "process"),
            ("BLANK", " "),
            ("HIDDEN", "x"),
            ("OTHER", ""),
        ];
        let process = process.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let replaced = [
            ("SET", Some("file")),
            ("BLANK", Some("file")),
            ("HIDDEN", None),
        ];
        let replaced = replaced.map(|(name, value)| (name.to_owned(), value.map(str::to_owned)));
        let environment = Environment::replaced(process.into_iter(), Some(&replaced.into()));
        let all = ["SET", "BLANK", "HIDDEN", "OTHER"].map(|name| environment.raw(name));
        assert_eq!(all, [Some("file"), Some("file"), None, Some("")]);
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
