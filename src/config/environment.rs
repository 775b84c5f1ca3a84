//! What the process was told by its environment.

use crate::error::{Error, Result};

/// The variables that a URL is looked for in, in this order.
const URLS: [&str; 2] = ["DATABASE_URL", "POSTGRES_URL"];

/// Reads variables; a test has its own.
pub(crate) struct Environment(Box<Variables>);

type Variables = dyn Fn(&str) -> Option<String>;

impl Environment {
    pub(crate) fn of_process() -> Self {
        Environment(Box::new(|name| std::env::var(name).ok()))
    }

    fn get(&self, name: &str) -> Option<String> {
        self.0(name).filter(|value| !value.is_empty())
    }

    /// The first URL that is set, and the variable that it was found in.
    pub(super) fn url(&self) -> Result<(&'static str, String)> {
        let mut found = URLS.into_iter().map(|name| (name, self.get(name)));
        let url = found.find_map(|(name, url)| Some((name, url?)));
        url.ok_or_else(|| {
            Error::configuration(
                "no database is named: set DATABASE_URL=postgres://user:password@host/database",
            )
        })
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
        let Some(value) = self.get("ANTIFREEZE_WARM_UP") else {
            return Ok(None);
        };
        let connections = value.parse().map_err(|_| {
            Error::configuration(format!(
                "ANTIFREEZE_WARM_UP={value} is not a number of connections"
            ))
        })?;
        Ok(Some(connections))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &'static [(&str, &str)]) -> Environment {
        Environment(Box::new(|name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        }))
    }

    #[test]
    fn the_first_url_wins() {
        let both = environment(&[("POSTGRES_URL", "b"), ("DATABASE_URL", "a")]);
        assert_eq!(both.url().expect("set").0, "DATABASE_URL");
        let second = environment(&[("POSTGRES_URL", "b"), ("DATABASE_URL", "")]);
        assert_eq!(second.url().expect("set").0, "POSTGRES_URL");
        let error = environment(&[]).url().expect_err("not set").to_string();
        assert!(error.contains("DATABASE_URL="), "{error}");
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
            assert_eq!(environment(variables).concurrency(), expected);
        }
    }

    #[test]
    fn a_misspelt_number_is_named() {
        let error = environment(&[("ANTIFREEZE_WARM_UP", "two")])
            .warm_up()
            .expect_err("no number");
        assert!(error.to_string().contains("ANTIFREEZE_WARM_UP=two"));
    }
}
