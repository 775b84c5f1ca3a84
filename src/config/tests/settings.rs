use std::cell::RefCell;
use std::io::Write;
use std::sync::Once;
use std::time::Duration;

use crate::config::endpoint::host_names;
use crate::config::*;
use crate::error::Result;
use ConnectionLifetime::{PerEventLoop, PerInvocation};

const POOLED: (&str, &str) = ("DATABASE_URL", "postgres://pooler.example.com:6432/x");
const DIRECT: (&str, &str) = ("DIRECT_URL", "postgres://u@db.example.com/x");
const OVER: (&str, &str) = ("ANTIFREEZE_ENDPOINT", "direct");

#[test]
fn default_value_given_in_code_wins_over_the_url() {
    let url = (
        "DATABASE_URL",
        "postgres://db/x?options=-c%20statement_timeout%3D0&connection_limit=9",
    );
    let code = |config: Config| {
        config
            .statement_timeout(Duration::from_secs(30))
            .max_connections(3)
            .pooler(Pooler::None)
    };
    let settings = settled(&[url], code).expect("fine");
    let sent = settings.startup_options(u64::MAX).unwrap_or_default();
    assert!(sent.contains("-c statement_timeout=30000"), "{sent}");
    assert_eq!(settings.max_connections, 3);
    assert!(!settings.pooler_is_detected());
}

#[test]
fn setting_knows_its_origin() {
    let variables = [
        (
            "DATABASE_URL",
            "postgres://db/x?connection_limit=9&pool_timeout=2",
        ),
        ("ANTIFREEZE_LOAD_SHED", "off"),
        ("DB_MAX_IDLE_CONNS", "1"),
        ("DB_MAX_OPEN_CONNS", "8"),
    ];
    let code = |config: Config| config.max_connections(3).load_shed(LoadShed::BeforeHandler);
    let settings = settled(&variables, code).expect("fine");
    for (setting, origin) in [
        ("max_connections", Some(Origin::Code)),
        ("acquire_timeout", Some(Origin::Variable("DATABASE_URL"))),
        ("load_shed", Some(Origin::Variable("ANTIFREEZE_LOAD_SHED"))),
        ("max_idle", Some(Origin::Variable("DB_MAX_IDLE_CONNS"))),
        ("max_age", None),
    ] {
        assert_eq!(settings.origin(setting), origin, "{setting}");
    }
    assert_eq!(settings.load_shed, LoadShed::Off);
}

#[test]
fn url_is_parsed_by_from_str() {
    let config: Config = "postgres://db/x?connection_limit=9".parse().expect("fine");
    let settings = config.settled(&Environment::of(&[])).expect("fine");
    assert_eq!(settings.max_connections, 9);
    assert_eq!(settings.origin("max_connections"), Some(Origin::Url));
    let error = "mysql://h".parse::<Config>().expect_err("another server");
    assert!(
        error
            .to_string()
            .contains("does not begin with postgres://")
    );
}

#[test]
fn setting_in_code_may_hold_any_character() {
    let odd = |config: Config| config.user("app:x=1").dbname("a=b");
    let settings = settled(&[POOLED], odd).expect("fine");
    assert_eq!(settings.server.get_user(), Some("app:x=1"));
    assert_eq!(settings.server.get_dbname(), Some("a=b"));
    let template = |config: Config| config.password("${PASSWORD}");
    let error = settled(&[POOLED], template).expect_err("a template");
    assert!(
        error
            .to_string()
            .starts_with("password is still a placeholder")
    );
    let mode = settled(&[POOLED], |config| config.sslmode("maybe"));
    let error = mode.expect_err("no mode").to_string();
    assert!(
        error.starts_with("sslmode=maybe"),
        "no variable is named: {error}"
    );
}

fn settled(variables: &[(&str, &str)], change: impl FnOnce(Config) -> Config) -> Result<Settings> {
    let environment = Environment::of(variables);
    change(Config::from_environment(&environment)?).settled(&environment)
}

fn host(config: &Settings) -> &str {
    host_names(&config.server).next().unwrap_or_default()
}

#[test]
fn operator_wins_over_every_other_source() {
    let url = (
        "DATABASE_URL",
        "postgres://db.example.com/x?connection_limit=5&connect_timeout=4&pool_timeout=3",
    );
    let go = ("DB_MAX_OPEN_CONNS", "7");
    let plain = ("DATABASE_URL", "postgres://db.example.com/x");
    let lambda = ("AWS_LAMBDA_FUNCTION_NAME", "f");
    let over = ("ANTIFREEZE_MAX_CONNECTIONS", "9");
    let code = |config: Config| config.max_connections(8);
    let size = |variables: &[(&str, &str)], change: fn(Config) -> Config| {
        settled(variables, change).expect("fine").max_connections
    };
    assert_eq!(size(&[plain], |config| config), 3);
    assert_eq!(size(&[plain, lambda], |config| config), 1);
    assert_eq!(size(&[plain, lambda, go], |config| config), 7);
    assert_eq!(size(&[url, lambda, go], |config| config), 5);
    assert_eq!(size(&[url, lambda, go], code), 8);
    assert_eq!(size(&[url, lambda, go, over], code), 9);
    let config = settled(&[url], |config| config).expect("fine");
    assert_eq!(config.connect_timeout, Duration::from_secs(4));
    assert_eq!(config.acquire_timeout, Duration::from_secs(3));
}

#[test]
fn dsql_limits_the_age_of_connections() {
    let host = "postgres://admin@abc.dsql.us-east-1.on.aws/postgres";
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    for (wanted, got) in [(30, 30), (90, 50)] {
        let change = |config: Config| config.max_age(minutes(wanted));
        let config = settled(&[("DATABASE_URL", host)], change).expect("fine");
        assert_eq!(config.max_age, minutes(got));
    }
}

#[test]
fn endpoint_variable_switches_the_endpoint() {
    let neon = (
        "DATABASE_URL",
        "postgres://u:p@ep-a-pooler.x.aws.neon.tech/x?sslmode=require",
    );
    let named = |config: Config| config.application_name("shop");
    for (variables, expected, pooler) in [
        (
            &[POOLED, DIRECT][..],
            "pooler.example.com",
            Pooler::Transaction,
        ),
        (&[POOLED, DIRECT, OVER], "db.example.com", Pooler::None),
        (
            &[DIRECT, ("DATABASE_URL", "postgres://a"), OVER],
            "db.example.com",
            Pooler::None,
        ),
        (&[("DATABASE_URL", "postgres://a"), OVER], "a", Pooler::None),
        (&[neon], "ep-a-pooler.x.aws.neon.tech", Pooler::Transaction),
        (&[neon, OVER], "ep-a.x.aws.neon.tech", Pooler::None),
    ] {
        let config = settled(variables, named).expect("fine");
        assert_eq!((host(&config), config.pooler), (expected, pooler));
        assert_eq!(config.server.get_application_name(), Some("shop"));
        assert_eq!(config.lifetime, PerEventLoop);
    }
    let direct = settled(&[neon, OVER], |config| config)
        .expect("fine")
        .server;
    assert_eq!(direct.get_password(), Some(&b"p"[..]));
    assert_eq!(direct.get_user(), Some("u"));

    let code = |config: Config| config.endpoint(Endpoint::Direct);
    assert_eq!(
        host(&settled(&[POOLED, DIRECT], code).expect("fine")),
        "db.example.com"
    );
    let back = [POOLED, DIRECT, ("ANTIFREEZE_ENDPOINT", "pooled")];
    assert_eq!(
        host(&settled(&back, code).expect("fine")),
        "pooler.example.com"
    );
    let error = settled(&[POOLED, OVER], |config| config)
        .expect_err("unknown")
        .to_string();
    assert!(error.contains("DATABASE_URL_UNPOOLED"), "{error}");
}

#[test]
fn lifetime_follows_the_pooler_unless_chosen() {
    let session = (
        "DIRECT_URL",
        "postgres://u@aws-0-x.pooler.supabase.com:5432/x",
    );
    let lifetime = |variables: &[(&str, &str)], chosen: Option<ConnectionLifetime>| {
        let settings = settled(variables, |config| match chosen {
            Some(chosen) => config.lifetime(chosen),
            None => config,
        });
        settings.expect("fine").lifetime
    };
    assert_eq!(lifetime(&[POOLED, session, OVER], None), PerInvocation);
    let chosen = Some(PerInvocation);
    assert_eq!(lifetime(&[POOLED, DIRECT, OVER], chosen), PerInvocation);
    // What the URL's path calls for anyway, and said all the same.
    let chosen = Some(PerEventLoop);
    assert_eq!(lifetime(&[POOLED, session, OVER], chosen), PerEventLoop);
    let overrides = [
        POOLED,
        session,
        OVER,
        ("ANTIFREEZE_LIFETIME", "per-event-loop"),
    ];
    assert_eq!(lifetime(&overrides, None), PerEventLoop);
}

#[test]
fn contradicting_settings_are_refused() {
    for (change, word) in [
        (
            (|config| config.max_connections(0)) as fn(Config) -> Config,
            "max_connections is 0",
        ),
        (
            |config| config.connect_timeout(Duration::ZERO),
            "connect_timeout is zero",
        ),
        (
            |config| config.statement_timeout(Duration::MAX),
            "statement_timeout is",
        ),
        (|config| config.schema("x"), "behind a transaction"),
        (
            |config| config.health_token(String::new()),
            "shorter than 16",
        ),
        (
            |config| config.health_token("hunter2-hunter2"),
            "shorter than 16",
        ),
        (
            |config| config.health_token("hunter2 hunter2 hunter2"),
            "contains a space",
        ),
    ] {
        let error = settled(&[POOLED], change).expect_err(word).to_string();
        assert!(
            error.contains(word) && !error.contains("hunter2"),
            "{error}"
        );
    }
    let public = |config: Config| config.schema("public");
    assert!(settled(&[POOLED], public).is_ok());
}

#[test]
fn direct_url_sets_schema_and_attributes() {
    let pooled = (
        "DATABASE_URL",
        "postgres://h:6432/x?schema=public&target_session_attrs=primary",
    );
    let plain = ("DATABASE_URL", "postgres://h/x?schema=shop");
    let said = (
        "DIRECT_URL",
        "postgres://d/x?schema=mine&target_session_attrs=standby",
    );
    let public = ("DIRECT_URL", "postgres://d/x?schema=public");
    let (primary, standby) = (TargetSessionAttrs::Primary, TargetSessionAttrs::Standby);
    for (url, direct, schema, attributes) in [
        (pooled, DIRECT, None, primary),
        (pooled, said, Some("mine"), standby),
        (pooled, public, Some("public"), primary),
        (plain, DIRECT, Some("shop"), TargetSessionAttrs::Any),
    ] {
        let config = settled(&[url, direct, OVER], |config| config).expect("fine");
        assert_eq!(config.schema.as_deref(), schema, "{}", direct.1);
        assert_eq!(config.target_session_attrs, attributes, "{}", direct.1);
    }
    let neon = (
        "DATABASE_URL",
        "postgres://ep-a-pooler.x.aws.neon.tech/x?schema=public",
    );
    let bound = |config: Config| config.channel_binding("require");
    let config = settled(&[neon, OVER], bound).expect("fine");
    assert_eq!(config.schema, None);
    assert_eq!(config.tls.channel_binding, ChannelBinding::Require);
}

#[test]
fn remote_server_is_verified_by_default() {
    let mode = |url| {
        let elsewhere = |config: Config| config.host("db.example.com");
        let config = settled(&[("DATABASE_URL", url)], elsewhere);
        config.expect("fine").tls.mode
    };
    assert_eq!(mode("postgres://localhost"), TlsMode::VerifyFull);
    assert_eq!(mode("postgres://localhost?sslmode=prefer"), TlsMode::Prefer);
}

#[test]
fn operator_timeout_wins_over_the_url() {
    let url = (
        "DATABASE_URL",
        "postgres://db/x?options=-c%20statement_timeout%3D0",
    );
    let timeout = ("ANTIFREEZE_STATEMENT_TIMEOUT", "30s");
    let sent = |variables: &[(&str, &str)]| {
        let config = settled(variables, |config| config).expect("fine");
        config.startup_options(u64::MAX).unwrap_or_default()
    };
    assert!(!sent(&[url]).contains("statement_timeout=30000"));
    let sent = sent(&[url, timeout]);
    let (theirs, ours) = (
        sent.find("statement_timeout=0"),
        sent.find("statement_timeout=30000"),
    );
    assert!(theirs < ours && theirs.is_some(), "{sent}");
}

#[test]
fn override_without_effect_is_a_warning() {
    let timeout = ("ANTIFREEZE_STATEMENT_TIMEOUT", "30s");
    let plain = ("DATABASE_URL", "postgres://db.example.com/x");
    let dsql = ("DATABASE_URL", "postgres://a.dsql.us-east-1.on.aws/x");
    for (variables, warned) in [
        (&[POOLED, timeout][..], true),
        (&[dsql, timeout], true),
        (&[plain, timeout], false),
        (&[POOLED, DIRECT, OVER, timeout], false),
        (&[POOLED], false),
        (&[plain, OVER], true),
        (&[plain, DIRECT, OVER], false),
        (&[plain, ("ANTIFREEZE_ENDPOINT", "pooled")], false),
    ] {
        let log = logged(|| drop(settled(variables, |config| config).expect("fine")));
        let found = log.contains("an environment variable has no effect");
        assert_eq!(found, warned, "{variables:?}: {log}");
    }
}

/// Returns what `act` logs.
///
/// One subscriber for the whole process: tracing keeps for each event whether anything listens,
/// and a subscriber of one thread may come too late for an event that another thread met first.
fn logged(act: impl FnOnce()) -> String {
    thread_local! {
        static LOG: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    static SUBSCRIBER: Once = Once::new();

    struct Log;

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            LOG.with_borrow_mut(|log| log.extend(bytes));
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    SUBSCRIBER.call_once(|| {
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing::Level::INFO)
            .with_writer(|| Log)
            .init();
    });
    LOG.take();
    act();
    String::from_utf8(LOG.take()).expect("text")
}

#[test]
fn operator_token_wins_and_is_not_shown() {
    let token = ("ANTIFREEZE_HEALTH_TOKEN", "hunter2-of-the-operator\n");
    let log = logged(|| {
        let code = |config: Config| config.health_token("hunter2-of-the-code");
        let config = settled(&[POOLED, token], code).expect("fine");
        assert_eq!(
            config.health_token.as_deref(),
            Some("hunter2-of-the-operator")
        );
        assert_eq!(
            config.variables,
            [("ANTIFREEZE_HEALTH_TOKEN", "..".to_owned())]
        );
        let shown = format!("{config:?}");
        assert!(shown.contains("health_token: Some(\"..\")"), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    });
    assert!(log.contains("ANTIFREEZE_HEALTH_TOKEN=.."), "{log}");
    assert!(!log.contains("hunter2"), "{log}");
}

#[test]
fn settings_in_force_are_logged_without_password() {
    let log = logged(|| {
        let url = ("DATABASE_URL", "postgres://u:hunter2@db.example.com/x");
        settled(&[url], |config| config).expect("fine");
        let overrides = [
            url,
            ("ANTIFREEZE_MAX_CONNECTIONS", "2"),
            ("ANTIFREEZE_COLOUR", "hunter2"),
        ];
        settled(&overrides, |config| config).expect("fine");
    });
    let lines: Vec<_> = log.lines().collect();
    assert_eq!(lines.len(), 2, "nothing is logged without overrides: {log}");
    assert!(lines[0].contains("WARN") && lines[0].contains("ANTIFREEZE_COLOUR"));
    assert!(lines[1].contains("ANTIFREEZE_MAX_CONNECTIONS=2"), "{log}");
    assert!(!log.contains("hunter2"), "{log}");
}
