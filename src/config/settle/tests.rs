use std::time::Duration;

use super::*;
use crate::ConnectionLifetime::{self, PerEventLoop, PerInvocation};
use crate::{LoadShed, TlsMode};
use std::io::Write;
use std::sync::{Arc, Mutex};

const POOLED: (&str, &str) = ("DATABASE_URL", "postgres://pooler.example.com:6432/x");
const DIRECT: (&str, &str) = ("DIRECT_URL", "postgres://u@db.example.com/x");
const OVER: (&str, &str) = ("ANTIFREEZE_ENDPOINT", "direct");

fn settled(variables: &[(&str, &str)], change: impl FnOnce(&mut Config)) -> Result<Config> {
    let environment = Environment::of(variables);
    let mut config = Config::from_environment(&environment)?;
    change(&mut config);
    config.settled(&environment)
}

fn host(config: &Config) -> &str {
    host_names(&config.server).next().unwrap_or_default()
}

#[test]
fn the_operator_wins_over_the_code_the_url_and_the_defaults() {
    let url = (
        "DATABASE_URL",
        "postgres://db.example.com/x?connection_limit=5&connect_timeout=4&pool_timeout=3",
    );
    let go = ("DB_MAX_OPEN_CONNS", "7");
    let plain = ("DATABASE_URL", "postgres://db.example.com/x");
    let lambda = ("AWS_LAMBDA_FUNCTION_NAME", "f");
    let over = ("ANTIFREEZE_MAX_CONNECTIONS", "9");
    let code = |config: &mut Config| config.max_connections = 8;
    let size = |variables: &[(&str, &str)], change: fn(&mut Config)| {
        settled(variables, change).expect("fine").max_connections
    };
    assert_eq!(size(&[plain], |_| {}), 3);
    assert_eq!(size(&[plain, lambda], |_| {}), 1);
    assert_eq!(size(&[plain, lambda, go], |_| {}), 7);
    assert_eq!(size(&[url, lambda, go], |_| {}), 5);
    assert_eq!(size(&[url, lambda, go], code), 8);
    assert_eq!(size(&[url, lambda, go, over], code), 9);
    let config = settled(&[url], |_| {}).expect("fine");
    assert_eq!(config.connect_timeout, Duration::from_secs(4));
    assert_eq!(config.acquire_timeout, Duration::from_secs(3));
}

#[test]
fn dsql_ends_connections_by_itself() {
    let host = "postgres://admin@abc.dsql.us-east-1.on.aws/postgres";
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    for (wanted, got) in [(30, 30), (90, 50)] {
        let change = |config: &mut Config| config.max_age = minutes(wanted);
        let config = settled(&[("DATABASE_URL", host)], change).expect("fine");
        assert_eq!(config.max_age, minutes(got));
    }
}

#[test]
fn every_lever_moves_its_setting() {
    let seconds = Duration::from_secs;
    let config = settled(
        &[
            POOLED,
            ("ANTIFREEZE_LIFETIME", "per-invocation"),
            ("ANTIFREEZE_PATH", "rds-proxy"),
            ("ANTIFREEZE_LOAD_SHED", "off"),
            ("ANTIFREEZE_CONNECT_TIMEOUT", "3s"),
            ("ANTIFREEZE_STATEMENT_TIMEOUT", "0"),
            ("ANTIFREEZE_ACQUIRE_TIMEOUT", "250ms"),
            ("ANTIFREEZE_IDLE_IN_TRANSACTION_TIMEOUT", "5"),
            ("ANTIFREEZE_TRANSACTION_TIMEOUT", "6"),
            ("ANTIFREEZE_IDLE_SESSION_TIMEOUT", "7m"),
            ("ANTIFREEZE_FUNCTION_TIMEOUT", "8"),
        ],
        |_| {},
    )
    .expect("fine");
    assert_eq!(config.lifetime, PerInvocation);
    assert_eq!(config.path, Path::RdsProxy);
    assert_eq!(config.load_shed, LoadShed::Off);
    assert_eq!(config.connect_timeout, seconds(3));
    assert_eq!(config.statement_timeout, Duration::ZERO);
    assert_eq!(config.acquire_timeout, Duration::from_millis(250));
    assert_eq!(config.idle_in_transaction_timeout, seconds(5));
    assert_eq!(config.transaction_timeout, seconds(6));
    assert_eq!(config.idle_session_timeout, seconds(7 * 60));
    assert_eq!(config.function_timeout, Some(seconds(8)));
}

#[test]
fn one_setting_switches_the_endpoint() {
    let neon = (
        "DATABASE_URL",
        "postgres://u:p@ep-a-pooler.x.aws.neon.tech/x?sslmode=require",
    );
    let named = |config: &mut Config| {
        config.server.application_name("shop");
    };
    for (variables, expected, path) in [
        (
            &[POOLED, DIRECT][..],
            "pooler.example.com",
            Path::TransactionPooler,
        ),
        (&[POOLED, DIRECT, OVER], "db.example.com", Path::Direct),
        (
            &[DIRECT, ("DATABASE_URL", "postgres://a"), OVER],
            "db.example.com",
            Path::Direct,
        ),
        (&[("DATABASE_URL", "postgres://a"), OVER], "a", Path::Direct),
        (
            &[neon],
            "ep-a-pooler.x.aws.neon.tech",
            Path::TransactionPooler,
        ),
        (&[neon, OVER], "ep-a.x.aws.neon.tech", Path::Direct),
    ] {
        let config = settled(variables, named).expect("fine");
        assert_eq!((host(&config), config.path), (expected, path));
        assert_eq!(config.server.get_application_name(), Some("shop"));
        assert_eq!(config.lifetime, PerEventLoop);
    }
    let direct = settled(&[neon, OVER], |_| {}).expect("fine").server;
    assert_eq!(direct.get_password(), Some(&b"p"[..]));
    assert_eq!(direct.get_user(), Some("u"));

    let code = |config: &mut Config| config.endpoint = Endpoint::Direct;
    assert_eq!(
        host(&settled(&[POOLED, DIRECT], code).expect("fine")),
        "db.example.com"
    );
    let back = [POOLED, DIRECT, ("ANTIFREEZE_ENDPOINT", "pooled")];
    assert_eq!(
        host(&settled(&back, code).expect("fine")),
        "pooler.example.com"
    );
    let error = settled(&[POOLED, OVER], |_| {})
        .expect_err("unknown")
        .to_string();
    assert!(error.contains("DATABASE_URL_UNPOOLED"), "{error}");
}

#[test]
fn the_lifetime_follows_the_path_unless_it_was_chosen() {
    let session = (
        "DIRECT_URL",
        "postgres://u@aws-0-x.pooler.supabase.com:5432/x",
    );
    let lifetime = |variables: &[(&str, &str)], chosen: Option<ConnectionLifetime>| {
        let config = settled(variables, |config| {
            if let Some(chosen) = chosen {
                config.lifetime = chosen;
            }
        });
        config.expect("fine").lifetime
    };
    assert_eq!(lifetime(&[POOLED, session, OVER], None), PerInvocation);
    // What the path calls for anyway, and said all the same.
    let environment = Environment::of(&[POOLED, DIRECT, OVER]);
    let said = |builder: crate::config::ConfigBuilder| {
        let config = builder.build_in(&environment).expect("fine");
        config.settled(&environment).expect("fine").lifetime
    };
    let from_pooler = || {
        Config::builder()
            .url(session.1)
            .direct_url("postgres://u@db/x")
    };
    assert_eq!(said(from_pooler()), PerEventLoop);
    assert_eq!(said(from_pooler().lifetime(PerInvocation)), PerInvocation);
    let chosen = Some(PerInvocation);
    assert_eq!(lifetime(&[POOLED, DIRECT, OVER], chosen), PerInvocation);
    let levers = [
        POOLED,
        session,
        OVER,
        ("ANTIFREEZE_LIFETIME", "per-event-loop"),
    ];
    assert_eq!(lifetime(&levers, None), PerEventLoop);
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (change, word) in [
        (
            (|config| config.max_connections = 0) as fn(&mut Config),
            "max_connections is 0",
        ),
        (
            |config| config.connect_timeout = Duration::ZERO,
            "connect_timeout is zero",
        ),
        (
            |config| config.statement_timeout = Duration::MAX,
            "statement_timeout is",
        ),
        (
            |config| config.schema = Some("x".into()),
            "behind a transaction-pooler",
        ),
        (
            |config| config.server = tokio_postgres::Config::new(),
            "no host is given",
        ),
        (
            |config| config.health_token = Some(String::new()),
            "shorter than 16",
        ),
        (
            |config| config.health_token = Some("hunter2-hunter2".into()),
            "shorter than 16",
        ),
        (
            |config| config.health_token = Some("hunter2 hunter2 hunter2".into()),
            "holds a space",
        ),
    ] {
        let error = settled(&[POOLED], change).expect_err(word).to_string();
        assert!(
            error.contains(word) && !error.contains("hunter2"),
            "{error}"
        );
    }
    let public = |config: &mut Config| config.schema = Some("public".into());
    assert!(settled(&[POOLED], public).is_ok());
}

#[test]
fn the_direct_url_says_what_a_session_is_like() {
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
        let config = settled(&[url, direct, OVER], |_| {}).expect("fine");
        assert_eq!(config.schema.as_deref(), schema, "{}", direct.1);
        assert_eq!(config.target_session_attrs, attributes, "{}", direct.1);
    }
    let neon = (
        "DATABASE_URL",
        "postgres://ep-a-pooler.x.aws.neon.tech/x?schema=public",
    );
    let bound = |config: &mut Config| {
        let binding = tokio_postgres::config::ChannelBinding::Require;
        config.server.channel_binding(binding);
    };
    let config = settled(&[neon, OVER], bound).expect("fine");
    assert_eq!(config.schema, None);
    assert_eq!(
        config.server.get_channel_binding(),
        tokio_postgres::config::ChannelBinding::Require
    );
}

#[test]
fn a_server_elsewhere_is_verified_unless_the_url_said_otherwise() {
    let mode = |url| {
        let config = settled(&[("DATABASE_URL", url)], |config| {
            let elsewhere = "host=db.example.com".parse();
            config.server = elsewhere.expect("a host");
        });
        config.expect("fine").tls.mode
    };
    assert_eq!(mode("postgres://localhost"), TlsMode::VerifyFull);
    assert_eq!(mode("postgres://localhost?sslmode=prefer"), TlsMode::Prefer);
}

#[test]
fn the_operators_time_out_wins_over_the_urls() {
    let url = (
        "DATABASE_URL",
        "postgres://db/x?options=-c%20statement_timeout%3D0",
    );
    let lever = ("ANTIFREEZE_STATEMENT_TIMEOUT", "30s");
    let sent = |variables: &[(&str, &str)]| {
        let config = settled(variables, |_| {}).expect("fine");
        config.startup_options().unwrap_or_default()
    };
    assert!(!sent(&[url]).contains("statement_timeout=30000"));
    let sent = sent(&[url, lever]);
    let (theirs, ours) = (
        sent.find("statement_timeout=0"),
        sent.find("statement_timeout=30000"),
    );
    assert!(theirs < ours && theirs.is_some(), "{sent}");
}

#[test]
fn a_lever_that_moves_nothing_is_warned_of() {
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
        let log = logged(|| drop(settled(variables, |_| {}).expect("fine")));
        let found = log.contains("a variable has no effect");
        assert_eq!(found, warned, "{variables:?}: {log}");
    }
}

/// What `act` logs.
fn logged(act: impl FnOnce()) -> String {
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no panic").extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::INFO)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, act);
    let log = log.0.lock().expect("no panic").clone();
    String::from_utf8(log).expect("text")
}

#[test]
fn the_operators_token_wins_and_is_shown_nowhere() {
    let token = ("ANTIFREEZE_HEALTH_TOKEN", "hunter2-of-the-operator\n");
    let log = logged(|| {
        let code = |config: &mut Config| config.health_token = Some("hunter2-of-the-code".into());
        let config = settled(&[POOLED, token], code).expect("fine");
        assert_eq!(
            config.health_token.as_deref(),
            Some("hunter2-of-the-operator")
        );
        assert_eq!(
            config.levers(),
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
fn what_is_in_force_is_logged_and_no_password() {
    let log = logged(|| {
        let url = ("DATABASE_URL", "postgres://u:hunter2@db.example.com/x");
        settled(&[url], |_| {}).expect("fine");
        let levers = [
            url,
            ("ANTIFREEZE_MAX_CONNECTIONS", "2"),
            ("ANTIFREEZE_COLOUR", "hunter2"),
        ];
        settled(&levers, |_| {}).expect("fine");
    });
    let lines: Vec<_> = log.lines().collect();
    assert_eq!(lines.len(), 2, "nothing is said of no levers: {log}");
    assert!(lines[0].contains("WARN") && lines[0].contains("ANTIFREEZE_COLOUR"));
    assert!(lines[1].contains("ANTIFREEZE_MAX_CONNECTIONS=2"), "{log}");
    assert!(!log.contains("hunter2"), "{log}");
}
