//! Resolves the endpoint for migrations: a session that keeps its locks.

use super::endpoint::{host_names, with_hosts};
use super::{ConnectionLifetime, DirectEndpoint, Environment, Pooler, Settings};
use crate::error::{Error, Result};
use crate::provider::{Host, NOT_FOR_MIGRATIONS};

/// A role of its own for migrations, past any pooler.
const VARIABLE: &str = "MIGRATION_DATABASE_URL";

/// What to do where only a pooler is known.
const REMEDY: &str = "name the server's own endpoint in MIGRATION_DATABASE_URL (or \
                      DATABASE_URL_UNPOOLED, POSTGRES_URL_NON_POOLING, DIRECT_URL), or give it to \
                      the runner";

/// The same where the environment is not read: it configures another database.
const REMEDY_ELSEWHERE: &str = "give the server's own endpoint instead (the command: as --url)";

impl Settings {
    /// The settings for a session that keeps its locks: `given`, or what
    /// `MIGRATION_DATABASE_URL` of `environment` names, or [`Config::direct`], or what
    /// follows from the address of a known provider's pooler, or this one if it is no such
    /// pooler. Without an environment no variable is asked.
    pub(crate) fn for_migrations(
        &self,
        given: Option<DirectEndpoint>,
        environment: Option<&Environment>,
    ) -> Result<Settings> {
        let mut config = self.clone();
        config.direct = None;
        let variable = environment.and_then(|environment| environment.get(VARIABLE));
        let named = match (&given, variable) {
            (None, Some(url)) => Some(self.named(&url)?),
            _ => None,
        };
        if let Some(endpoint) = given.or(named) {
            // An endpoint with its own password does not use the function's credentials.
            if endpoint.server.get_password().is_some() {
                config.credentials = None;
            }
            config.take(endpoint);
        } else if config.pooler != Pooler::None {
            if let Some(endpoint) = self.direct.clone() {
                config.take(endpoint);
            }
        }
        let remedy = match environment {
            Some(_) => REMEDY,
            None => REMEDY_ELSEWHERE,
        };
        config.leave_poolers(remedy)?;
        if let Some((cause, remedy)) = config.limits().migrations {
            return Err(Error::configuration(cause).with_remedy(remedy));
        }
        config.lifetime = ConnectionLifetime::PerInvocation;
        Ok(config)
    }

    fn named(&self, url: &str) -> Result<DirectEndpoint> {
        let mut endpoint = DirectEndpoint::from_url(url).map_err(|error| {
            Error::configuration(format!("{VARIABLE} cannot be used: {error}")).with_source(error)
        })?;
        // The default database has the name of the role.
        let ours = self.server.get_dbname().or(self.server.get_user());
        // One variable, and perhaps several databases in one process: the wrong one must not
        // be migrated.
        match (endpoint.server.get_dbname(), ours) {
            (Some(theirs), Some(ours)) if theirs != ours => Err(Error::configuration(format!(
                "{VARIABLE} names the database {theirs:?}, and {ours:?} is to be migrated: correct \
                 one of them, or give the endpoint to the runner"
            ))),
            // The default of this endpoint would be the name of its own role.
            (None, Some(ours)) => {
                endpoint.server.dbname(ours);
                Ok(endpoint)
            }
            _ => Ok(endpoint),
        }
    }

    fn leave_poolers(&mut self, remedy: &'static str) -> Result<()> {
        match self.pooler {
            Pooler::None | Pooler::Session => return Ok(()),
            Pooler::Transaction => {}
            Pooler::RdsProxy => {
                return Err(Error::configuration(NOT_FOR_MIGRATIONS).with_remedy(remedy));
            }
        }
        let known = self.past_pooler().or_else(|| self.other_port());
        let Some(endpoint) = known else {
            return Err(Error::configuration(
                "migrations need a session that keeps its locks, and only a transaction pooler is \
                 known",
            )
            .with_remedy(remedy));
        };
        self.take(endpoint);
        Ok(())
    }

    /// The session pooler on another port of the pooler's host, as some providers have it.
    fn other_port(&self) -> Option<DirectEndpoint> {
        let pooler = host_names(&self.server)
            .map(|host| Host::of(host).session)
            .collect::<Option<Vec<Pooler>>>()?
            .pop()?;
        let hosts = host_names(&self.server).map(str::to_owned);
        let mut server = with_hosts(&self.server, hosts, |_| 5432);
        for &address in self.server.get_hostaddrs() {
            server.hostaddr(address);
        }
        Some(DirectEndpoint {
            server,
            tls: self.tls.clone(),
            pooler,
            schema: None,
            target_session_attrs: self.target_session_attrs,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Config;

    const NEON: &str = "postgres://u:p@ep-a-pooler.x.aws.neon.tech/shop?sslmode=require";
    const SUPABASE: &str = "postgres://postgres.abc:p@aws-0-x.pooler.supabase.com:6543/shop";
    const POOLED: &str = "postgres://u:p@pooler.example.com:6432/shop";

    fn plain(url: &str) -> Settings {
        Config::from_url(url).expect(url).in_force()
    }

    fn settled(url: &str, given: Option<&str>, variables: &[(&str, &str)]) -> Result<Settings> {
        let config = plain(url);
        let given = given.map(|url| DirectEndpoint::from_url(url).expect(url));
        config.for_migrations(given, Some(&Environment::of(variables)))
    }

    fn place(config: &Settings) -> (String, u16, Pooler) {
        let host = host_names(&config.server).next().unwrap_or_default();
        (host.to_owned(), config.server.get_ports()[0], config.pooler)
    }

    #[test]
    fn migration_endpoint_is_chosen_in_order() {
        let named = &[(VARIABLE, "postgres://owner:s@named.example.com/shop")][..];
        let given = Some("postgres://given.example.com/shop");
        let session = Pooler::Session;
        for (url, given, variables, expected) in [
            (
                POOLED,
                given,
                named,
                ("given.example.com", 5432, Pooler::None),
            ),
            (
                POOLED,
                None,
                named,
                ("named.example.com", 5432, Pooler::None),
            ),
            (
                NEON,
                None,
                &[],
                ("ep-a.x.aws.neon.tech", 5432, Pooler::None),
            ),
            (
                SUPABASE,
                None,
                &[],
                ("aws-0-x.pooler.supabase.com", 5432, session),
            ),
            (
                "postgres://u:p@db.abc.supabase.co:6543/shop",
                None,
                &[],
                ("db.abc.supabase.co", 5432, Pooler::None),
            ),
            (
                "postgres://u@aws-0-x.pooler.supabase.com/shop",
                None,
                &[],
                ("aws-0-x.pooler.supabase.com", 5432, session),
            ),
            (
                "postgres://db.example.com:5433/shop",
                None,
                &[],
                ("db.example.com", 5433, Pooler::None),
            ),
            // A variable may name a pooled host, too.
            (
                "postgres://db.example.com/shop",
                None,
                &[(VARIABLE, NEON)],
                ("ep-a.x.aws.neon.tech", 5432, Pooler::None),
            ),
        ] {
            let config = settled(url, given, variables).expect(url);
            let (host, port, pooler) = place(&config);
            assert_eq!((host.as_str(), port, pooler), expected, "{url}");
            assert_eq!(config.server.get_dbname(), Some("shop"));
        }
        let supabase = settled(SUPABASE, None, &[]).expect("derived").server;
        assert_eq!(supabase.get_user(), Some("postgres.abc"));
        assert_eq!(supabase.get_password(), Some(&b"p"[..]));
    }

    #[test]
    fn direct_endpoint_of_the_environment_is_used() {
        let direct = ("DIRECT_URL", "postgres://direct.example.com/shop");
        let environment = Environment::of(&[("DATABASE_URL", POOLED), direct]);
        let config = Config::from_environment(&environment).expect("fine");
        let config = config.settled(&environment).expect("fine");
        let config = config
            .for_migrations(None, Some(&environment))
            .expect("known");
        assert_eq!(place(&config).0, "direct.example.com");
    }

    #[test]
    fn pooler_without_a_direct_endpoint_is_refused() {
        let proxy = "postgres://p.proxy-abc.eu-central-1.rds.amazonaws.com/shop";
        for (url, word) in [
            (POOLED, "only a transaction pooler"),
            (proxy, "only RDS Proxy"),
        ] {
            let error = settled(url, None, &[]).expect_err(url).to_string();
            assert!(error.contains(word) && error.contains(VARIABLE), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
        // Nor is one that somebody names.
        let error = settled(POOLED, Some(POOLED), &[]).expect_err("a pooler");
        assert!(error.to_string().contains("only a transaction pooler"));
    }

    #[test]
    fn variable_of_another_database_is_refused() {
        let other = (VARIABLE, "postgres://u:secret@named.example.com/other");
        let error = settled(POOLED, None, &[other]).expect_err("another");
        let error = error.to_string();
        assert!(
            error.contains("\"other\"") && error.contains("\"shop\""),
            "{error}"
        );
        assert!(!error.contains("secret"), "{error}");
        let wrong = (VARIABLE, "postgres://u:secret@h/shop?sslmode=maybe");
        let error = settled(POOLED, None, &[wrong]).expect_err("misspelt");
        assert!(error.to_string().starts_with(VARIABLE), "{error}");
    }

    #[test]
    fn variable_without_a_database_gets_ours() {
        let named = |url, variable| settled(url, None, &[(VARIABLE, variable)]);
        for (url, variable) in [
            (POOLED, "postgres://owner:s@named.example.com"),
            (POOLED, "postgres://owner:s@named.example.com/"),
            (POOLED, "postgres://owner:s@named.example.com/shop"),
            // Ours is called as its user, if it has no name.
            ("postgres://shop@h", "postgres://owner:s@named.example.com"),
            (
                "postgres://shop@h",
                "postgres://owner:s@named.example.com/shop",
            ),
        ] {
            let config = named(url, variable).expect(variable);
            assert_eq!(config.server.get_dbname(), Some("shop"), "{variable}");
            assert_eq!(config.server.get_user(), Some("owner"), "{variable}");
        }
        let other = "postgres://owner:s@named.example.com/owner";
        for url in [POOLED, "postgres://shop@h"] {
            let error = named(url, other).expect_err("another").to_string();
            assert!(error.contains("\"owner\""), "{error}");
        }
    }

    #[test]
    fn no_environment_reads_no_variable() {
        let config = plain(NEON);
        let config = config.for_migrations(None, None).expect("derived");
        assert_eq!(place(&config).0, "ep-a.x.aws.neon.tech");
        let config = plain(POOLED);
        let error = config.for_migrations(None, None).expect_err("a pooler");
        let error = error.to_string();
        assert!(
            error.contains("--url") && !error.contains(VARIABLE),
            "{error}"
        );
    }

    #[test]
    fn dsql_is_refused() {
        let dsql = "postgres://app@abc123.dsql.eu-central-1.on.aws/postgres";
        let plain = "postgres://db.example.com/postgres";
        for (url, given, variables) in [
            (dsql, None, &[][..]),
            (plain, Some(dsql), &[]),
            (plain, None, &[(VARIABLE, dsql)]),
        ] {
            let error = settled(url, given, variables).expect_err(url).to_string();
            assert!(
                error.contains("Aurora DSQL") && error.contains("run your migration tool directly"),
                "{error}"
            );
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn endpoint_with_a_password_drops_credentials() {
        let config = |url| {
            let mut config = plain(POOLED);
            config.credentials = Some(Arc::new(crate::credentials::from_fn(|_| async {
                Ok(crate::credentials::Login::password("x"))
            })));
            let environment = Environment::of(&[(VARIABLE, url)]);
            let config = config.for_migrations(None, Some(&environment));
            config.expect("fine").credentials.is_some()
        };
        assert!(!config("postgres://owner:s@h/shop"));
        assert!(config("postgres://owner@h/shop"));
    }
}
