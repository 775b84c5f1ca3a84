//! Resolves the endpoint that migrations connect to: one whose sessions keep their locks.

use antifreeze::config::{ConnectionLifetime, DirectEndpoint, Pooler, Settings};
use antifreeze::{ErrorKind, Result, internal};

use internal::error;

/// The endpoint of a role of its own for migrations, past any pooler.
pub(super) const VARIABLE: &str = "MIGRATION_DATABASE_URL";

/// What to do where only a pooler is known.
const REMEDY: &str = "name the server's own endpoint in MIGRATION_DATABASE_URL (or \
                      DATABASE_URL_UNPOOLED, POSTGRES_URL_NON_POOLING, DIRECT_URL), or give it to \
                      the runner";

/// The same where the environment is not read: it configures another database.
const REMEDY_ELSEWHERE: &str = "give the server's own endpoint instead (the command: as --url)";

/// Where the endpoint is given, beside the settings of the database.
#[derive(Default)]
pub(super) struct Sources {
    /// Given to the runner.
    pub(super) runner: Option<DirectEndpoint>,
    /// The value of `MIGRATION_DATABASE_URL`.
    pub(super) variable: Option<String>,
    /// The environment configures another database.
    pub(super) ignores_environment: bool,
}

/// The settings for migrations of the database of `base`: the endpoint of the runner, or of the
/// variable, or [`Config::direct`](antifreeze::Config::direct), or the one that follows from
/// the address of a known provider's pooler, or that of `base` if it is no such pooler.
pub(super) fn settings(base: &Settings, sources: Sources) -> Result<Settings> {
    let mut settings = base.clone();
    settings.direct = None;
    let endpoint = match (sources.runner, sources.variable) {
        (Some(endpoint), _) => Some(endpoint),
        (None, Some(url)) if !sources.ignores_environment => Some(parse(base, &url)?),
        (None, _) => None,
    };
    if let Some(endpoint) = endpoint {
        // An endpoint with its own password does not use the function's credentials.
        if endpoint.server.get_password().is_some() {
            settings.credentials = None;
        }
        settings.use_endpoint(endpoint);
    } else if let (false, Some(endpoint)) = (base.pooler == Pooler::None, &base.direct) {
        settings.use_endpoint(endpoint.clone());
    }
    let remedy = if sources.ignores_environment {
        REMEDY_ELSEWHERE
    } else {
        REMEDY
    };
    bypass_pooler(&mut settings, remedy)?;
    if let Some((cause, remedy)) = internal::refuses_migrations(&settings) {
        return Err(error::misconfigured(cause, remedy));
    }
    settings.lifetime = ConnectionLifetime::PerInvocation;
    Ok(settings)
}

/// Parses the endpoint of the variable, which has to be one of the same database.
fn parse(base: &Settings, url: &str) -> Result<DirectEndpoint> {
    let mut endpoint = DirectEndpoint::from_url(url).map_err(|error| {
        let message = format!("{VARIABLE} cannot be used: {error}");
        error::because(ErrorKind::Configuration, message, error)
    })?;
    // The default database has the name of the role.
    let ours = base.server.get_dbname().or(base.server.get_user());
    // One variable, and perhaps several databases in one process: the wrong one must not
    // be migrated.
    match (endpoint.server.get_dbname(), ours) {
        (Some(theirs), Some(ours)) if theirs != ours => Err(error::configuration(format!(
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

/// Changes to an endpoint without a pooler that takes sessions apart, if one is implied.
fn bypass_pooler(settings: &mut Settings, remedy: &'static str) -> Result<()> {
    match settings.pooler {
        Pooler::None | Pooler::Session => return Ok(()),
        Pooler::RdsProxy => {
            return Err(error::misconfigured(
                "migrations need a session of their own, and only RDS Proxy is known",
                remedy,
            ));
        }
        _ => {}
    }
    let implied = settings.implied_direct();
    let Some(endpoint) = implied.or_else(|| settings.implied_session()) else {
        return Err(error::misconfigured(
            "migrations need a session that keeps its locks, and only a transaction pooler is \
             known",
            remedy,
        ));
    };
    settings.use_endpoint(endpoint);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use antifreeze::credentials::{Login, from_fn};
    use antifreeze::{Config, Database};
    use tokio_postgres::config::Host;

    use super::*;

    const NEON: &str = "postgres://u:p@ep-a-pooler.x.aws.neon.tech/shop?sslmode=require";
    const SUPABASE: &str = "postgres://postgres.abc:p@aws-0-x.pooler.supabase.com:6543/shop";
    const POOLED: &str = "postgres://u:p@pooler.example.com:6432/shop";

    fn plain(url: &str) -> Settings {
        let database = Database::new(Config::from_url(url).expect(url));
        database.expect("settings").settings().clone()
    }

    fn settled(url: &str, given: Option<&str>, variable: Option<&str>) -> Result<Settings> {
        let given = given.map(|url| DirectEndpoint::from_url(url).expect(url));
        let sources = Sources {
            runner: given,
            variable: variable.map(str::to_owned),
            ignores_environment: false,
        };
        settings(&plain(url), sources)
    }

    fn place(config: &Settings) -> (String, u16, Pooler) {
        let [Host::Tcp(host)] = config.server.get_hosts() else {
            panic!("one host: {config:?}");
        };
        (host.clone(), config.server.get_ports()[0], config.pooler)
    }

    #[test]
    fn migration_endpoint_is_chosen_in_order() {
        let named = Some("postgres://owner:s@named.example.com/shop");
        let given = Some("postgres://given.example.com/shop");
        let session = Pooler::Session;
        for (url, given, variable, expected) in [
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
                None,
                ("ep-a.x.aws.neon.tech", 5432, Pooler::None),
            ),
            (
                SUPABASE,
                None,
                None,
                ("aws-0-x.pooler.supabase.com", 5432, session),
            ),
            (
                "postgres://u:p@db.abc.supabase.co:6543/shop",
                None,
                None,
                ("db.abc.supabase.co", 5432, Pooler::None),
            ),
            (
                "postgres://u@aws-0-x.pooler.supabase.com/shop",
                None,
                None,
                ("aws-0-x.pooler.supabase.com", 5432, session),
            ),
            (
                "postgres://db.example.com:5433/shop",
                None,
                None,
                ("db.example.com", 5433, Pooler::None),
            ),
            // A variable may name a pooled host, too.
            (
                "postgres://db.example.com/shop",
                None,
                Some(NEON),
                ("ep-a.x.aws.neon.tech", 5432, Pooler::None),
            ),
        ] {
            let config = settled(url, given, variable).expect(url);
            let (host, port, pooler) = place(&config);
            assert_eq!((host.as_str(), port, pooler), expected, "{url}");
            assert_eq!(config.server.get_dbname(), Some("shop"));
        }
        let supabase = settled(SUPABASE, None, None).expect("derived").server;
        assert_eq!(supabase.get_user(), Some("postgres.abc"));
        assert_eq!(supabase.get_password(), Some(&b"p"[..]));
    }

    #[test]
    fn configured_direct_endpoint_is_used() {
        let mut base = plain(POOLED);
        let direct = DirectEndpoint::from_url("postgres://direct.example.com/shop");
        base.direct = Some(direct.expect("a URL"));
        let config = settings(&base, Sources::default()).expect("known");
        assert_eq!(place(&config).0, "direct.example.com");
    }

    #[test]
    fn pooler_without_a_direct_endpoint_is_refused() {
        let proxy = "postgres://p.proxy-abc.eu-central-1.rds.amazonaws.com/shop";
        for (url, word) in [
            (POOLED, "only a transaction pooler"),
            (proxy, "only RDS Proxy"),
        ] {
            let error = settled(url, None, None).expect_err(url).to_string();
            assert!(error.contains(word) && error.contains(VARIABLE), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
        // Nor is one that is given.
        let error = settled(POOLED, Some(POOLED), None).expect_err("a pooler");
        assert!(error.to_string().contains("only a transaction pooler"));
    }

    #[test]
    fn variable_of_another_database_is_refused() {
        let other = "postgres://u:secret@named.example.com/other";
        let error = settled(POOLED, None, Some(other)).expect_err("another");
        let error = error.to_string();
        assert!(
            error.contains("\"other\"") && error.contains("\"shop\""),
            "{error}"
        );
        assert!(!error.contains("secret"), "{error}");
        let wrong = "postgres://u:secret@h/shop?sslmode=maybe";
        let error = settled(POOLED, None, Some(wrong)).expect_err("misspelt");
        assert!(error.to_string().starts_with(VARIABLE), "{error}");
    }

    #[test]
    fn variable_without_a_database_gets_ours() {
        let named = |url, variable| settled(url, None, Some(variable));
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
        let elsewhere = || Sources {
            variable: Some("postgres://named.example.com/shop".to_owned()),
            ignores_environment: true,
            ..Sources::default()
        };
        let config = settings(&plain(NEON), elsewhere()).expect("derived");
        assert_eq!(place(&config).0, "ep-a.x.aws.neon.tech");
        let error = settings(&plain(POOLED), elsewhere()).expect_err("a pooler");
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
        for (url, given, variable) in [
            (dsql, None, None),
            (plain, Some(dsql), None),
            (plain, None, Some(dsql)),
        ] {
            let error = settled(url, given, variable).expect_err(url).to_string();
            assert!(
                error.contains("Aurora DSQL") && error.contains("run your migration tool directly"),
                "{error}"
            );
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn endpoint_with_a_password_drops_credentials() {
        let config = |url: &str| {
            let mut base = plain(POOLED);
            base.credentials = Some(Arc::new(from_fn(|_| async { Ok(Login::password("x")) })));
            let sources = Sources {
                variable: Some(String::from(url)),
                ..Sources::default()
            };
            settings(&base, sources)
                .expect("fine")
                .credentials
                .is_some()
        };
        assert!(!config("postgres://owner:s@h/shop"));
        assert!(config("postgres://owner@h/shop"));
    }
}
