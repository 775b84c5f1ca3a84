//! What the process was told by its environment.

use crate::credentials::given;

/// Reads variables; a test has its own.
pub(crate) struct Environment {
    variable: Box<Variable>,
    names: Box<Names>,
}

type Variable = dyn Fn(&str) -> Option<String>;
type Names = dyn Fn() -> Vec<String>;

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

    /// As it is, blanks included.
    pub(super) fn raw(&self, name: &str) -> Option<String> {
        (self.variable)(name)
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
        ] {
            assert_eq!(Environment::of(variables).concurrency(), expected);
        }
    }
}
