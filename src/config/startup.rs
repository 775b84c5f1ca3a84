//! Builds the options that a session starts with.

use super::endpoint::host_names;
use super::options::{escaped, sets};
use super::{Pooler, Settings};
use crate::error::{Error, Result};
use crate::provider::{Host, Limits};

/// The schema that is on the search path by default.
pub(super) const PUBLIC: &str = "public";

impl Settings {
    /// Returns the `options` of the start-up packet (manual, "Connection Settings") of a session
    /// for calls of at most `longest` seconds: those of the URL and, where they can be sent, the
    /// server timeouts, the schema, and `jit=off`. An option of the URL stays, unless an override
    /// or the code sets it too, which is added behind it: the server takes the last.
    pub(crate) fn startup_options(&self, longest: u64) -> Option<String> {
        let own = self.server.get_options().unwrap_or_default();
        let mut options = String::from(own);
        let mut add = |name: &str, value: &str, wanted: bool| {
            if wanted || !sets(own, name) {
                let space = if options.is_empty() { "" } else { " " };
                options += &format!("{space}-c {name}={}", escaped(value));
            }
        };
        // `check` has rejected a schema that cannot be set.
        if let Some(schema) = self.schema.as_ref().filter(|_| self.pooler.takes_options()) {
            add("search_path", &quoted(schema), true);
        }
        if self.sends_settings() {
            for (name, value) in self.startup_timeouts(longest) {
                add(name, &value.to_string(), true);
            }
            if !self.jit {
                add("jit", "off", false);
            }
        }
        (!options.is_empty()).then_some(options)
    }

    /// Returns whether timeouts and `jit` are sent at all.
    pub(crate) fn sends_settings(&self) -> bool {
        self.pooler.takes_options() && self.limits().settings
    }

    /// Returns the limits of the server, by the first of its hosts that is known.
    pub(crate) fn limits(&self) -> Limits {
        let hosts = host_names(&self.server).map(|host| Host::of(host).limits);
        let mut special = hosts.filter(|limits| *limits != Limits::default());
        special.next().unwrap_or_default()
    }

    /// Checks that the server can be sent the settings.
    pub(super) fn check_startup(&self) -> Result<()> {
        self.check_server_timeouts()?;
        match &self.schema {
            Some(schema) if schema.contains('\0') => {
                Err(Error::configuration("schema contains a zero byte"))
            }
            _ => self.check_schema(self.pooler),
        }
    }

    /// Checks that `pooler` allows for the schema, if one is set.
    pub(crate) fn check_schema(&self, pooler: Pooler) -> Result<()> {
        match self.search_path() {
            Some(_) if !pooler.takes_options() => Err(Error::configuration(format!(
                "schema cannot be set behind a {}: write ALTER ROLE .. SET search_path, or \
                 schema-qualified names, and leave `schema` out",
                pooler.name()
            ))),
            _ => Ok(()),
        }
    }

    /// Returns the `search_path` that the schema requires, if it is not the default one.
    pub(crate) fn search_path(&self) -> Option<String> {
        let schema = self.schema.as_deref().filter(|schema| *schema != PUBLIC);
        schema.map(quoted)
    }
}

/// Quotes the name of a schema or database.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Config, Environment};

    fn options(url: &str, change: impl FnOnce(Config) -> Config) -> String {
        options_in(&[], url, change)
    }

    fn options_in(
        variables: &[(&str, &str)],
        url: &str,
        change: impl FnOnce(Config) -> Config,
    ) -> String {
        let config = change(Config::from_url(url).expect(url));
        let settings = config.settled(&Environment::of(variables)).expect(url);
        settings.startup_options(u64::MAX).unwrap_or_default()
    }

    const OURS: &str = "-c statement_timeout=30000 \
                        -c idle_in_transaction_session_timeout=60000 -c jit=off";

    #[test]
    fn options_depend_on_the_pooler() {
        let plain = "postgres://db.example.com/x";
        assert_eq!(options(plain, |config| config), OURS);
        for pooler in [Pooler::Transaction, Pooler::Session, Pooler::RdsProxy] {
            let sent = options(plain, |config| config.pooler(pooler));
            assert_eq!(sent, "", "{pooler:?}");
        }
        let own = "postgres://db.example.com/x?options=endpoint%3Dep-1";
        assert_eq!(
            options(own, |config| config.pooler(Pooler::RdsProxy)),
            "endpoint=ep-1"
        );
        assert_eq!(
            options("postgres://a.dsql.us-east-1.on.aws/x", |config| config),
            ""
        );
    }

    #[test]
    fn options_of_the_user_stay() {
        let ours = ["statement_timeout=30000", "jit=off"];
        for (own, kept) in [
            ("-c jit_above_cost=1", [true, true]),
            ("-c jit=on", [true, false]),
            ("-cjit=on", [true, false]),
            ("--jit=on --statement-timeout=1", [false, false]),
            ("-c STATEMENT_TIMEOUT=1", [false, true]),
        ] {
            let sent = options("host=db.example.com", |config| config.options(own));
            assert!(sent.starts_with(own), "{sent}");
            let found = ours.map(|setting| sent.contains(&format!("-c {setting}")));
            assert_eq!(found, kept, "{sent}");
        }
    }

    #[test]
    fn operator_wins_over_code_and_code_over_url() {
        let own = "-c statement_timeout=0 -c idle_in_transaction_session_timeout=0";
        let url = &format!("host=db options='{own}'");
        let sent = |change: fn(Config) -> Config| options(url, change);
        assert_eq!(sent(|config| config), format!("{own} -c jit=off"));
        // Even where it is what the default would be.
        let default = sent(|config| config.statement_timeout(Duration::from_secs(30)));
        assert_eq!(
            default,
            format!("{own} -c statement_timeout=30000 -c jit=off")
        );
        let code = sent(|config| config.statement_timeout(Duration::from_secs(7)));
        assert_eq!(code, format!("{own} -c statement_timeout=7000 -c jit=off"));
        let variable = ("ANTIFREEZE_IDLE_IN_TRANSACTION_TIMEOUT", "60s");
        let operator = options_in(&[variable], url, |config| config);
        assert_eq!(
            operator,
            format!("{own} -c idle_in_transaction_session_timeout=60000 -c jit=off")
        );
        let none = sent(|config| config.statement_timeout(Duration::ZERO));
        assert_eq!(none, format!("{own} -c jit=off"));
    }

    #[test]
    fn schema_is_quoted() {
        for (schema, expected) in [
            ("public", "\"public\""),
            ("My Shop", "\"My\\ Shop\""),
            ("a\"b\\", "\"a\"\"b\\\\\""),
        ] {
            let sent = options("host=db", |config| config.schema(schema));
            assert_eq!(sent, format!("-c search_path={expected} {OURS}"));
        }
        // The later one counts.
        let url = "host=db schema=shop options='-c search_path=other'";
        let expected = format!("-c search_path=other -c search_path=\"shop\" {OURS}");
        assert_eq!(options(url, |config| config), expected);
    }
}
