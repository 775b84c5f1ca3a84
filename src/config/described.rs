//! Describes where the settings come from, for the doctor.

use super::endpoint::host_names;
use super::source;
use super::variables;
use super::{Endpoint, Environment, Origin, Settings};

/// What is known of a configuration beside its settings.
#[derive(Debug)]
pub struct Described {
    /// The variables that say where the database is, if the environment does.
    pub variables: Vec<&'static str>,
    /// `NAME=value` of the operator's variables.
    pub operators: String,
    /// Variables that begin like an override and are not one.
    pub unknown: Vec<String>,
    /// How the pooler was determined.
    pub pooler: String,
    /// The other of two endpoints, if there is one: `direct` or `pooled`.
    pub twin: Option<&'static str>,
}

impl Settings {
    /// Describes these settings by the environment of the process.
    pub(crate) fn described(&self) -> Described {
        self.described_by(&Environment::of_process())
    }

    fn described_by(&self, environment: &Environment) -> Described {
        let host = host_names(&self.server).next().unwrap_or_default();
        let port = self.server.get_ports().first().copied().unwrap_or(5432);
        let pooler = match self.origin("pooler") {
            Some(Origin::Variable(name)) => format!("{name} says so"),
            _ => self.pooler.why(host, port).to_owned(),
        };
        let twin = match self.endpoint {
            Endpoint::Direct => Some("pooled"),
            Endpoint::Pooled if self.direct.is_some() => Some("direct"),
            Endpoint::Pooled => self.past_pooler().map(|_| "direct"),
        };
        Described {
            variables: source::named_by(environment),
            operators: variables::shown(&self.variables),
            unknown: variables::unknown(environment),
            pooler,
            twin,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(variables: &[(&str, &str)]) -> Described {
        let environment = Environment::of(variables);
        let config = crate::Config::from_environment(&environment).expect("a configuration");
        let config = config.settled(&environment).expect("it makes sense");
        config.described_by(&environment)
    }

    #[test]
    fn description_names_the_source_of_a_setting() {
        let plain = described(&[("DATABASE_URL", "postgres://db.example.com/x")]);
        assert_eq!(plain.variables, ["DATABASE_URL"]);
        assert_eq!(plain.twin, None);
        assert!(plain.pooler.contains("no pooler"), "{}", plain.pooler);
        let pg = described(&[("PGHOST", "h"), ("PGUSER", "u"), ("PGPORT", "6432")]);
        assert_eq!(pg.variables, ["PGHOST", "PGPORT", "PGUSER"]);
        assert_eq!(pg.pooler, "by the port");
        let neon = "postgres://u@ep-a-pooler.eu-central-1.aws.neon.tech/x";
        let neon = described(&[("DATABASE_URL", neon)]);
        assert_eq!(neon.twin, Some("direct"));
        assert_eq!(neon.pooler, "by the name of the host");
        let said = described(&[
            ("DATABASE_URL", "postgres://db.example.com/x"),
            ("ANTIFREEZE_POOLER", "rds-proxy"),
            ("ANTIFREEZE_COLOUR", "blue"),
        ]);
        assert_eq!(said.pooler, "ANTIFREEZE_POOLER says so");
        assert_eq!(said.operators, "ANTIFREEZE_POOLER=rds-proxy");
        assert_eq!(said.unknown, ["ANTIFREEZE_COLOUR"]);
    }
}
