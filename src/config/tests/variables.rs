//! Variables that hold settings.

use std::time::Duration;

use crate::config::overrides::{in_force, unknown};
use crate::config::table::OVERRIDES;
use crate::config::{Config, Environment, Origin, Settings, spelling};
use crate::error::{Error, Result};

fn settled(environment: &Environment) -> Result<Settings> {
    Config::from_url("postgres://db.example.com/x")?.settled(environment)
}

fn refused(environment: &Environment) -> Error {
    settled(environment).expect_err("it is refused")
}

#[test]
fn invalid_value_is_named_with_the_expected_ones() {
    for (name, value, wanted) in [
        (
            "ANTIFREEZE_MAX_CONNECTIONS",
            "0",
            "a number of connections, 1 or more",
        ),
        (
            "ANTIFREEZE_MAX_CONNECTIONS",
            "few",
            "a number of connections, 1 or more",
        ),
        (
            "ANTIFREEZE_LIFETIME",
            "forever",
            "expected one of per-invocation, per-event-loop",
        ),
        (
            "ANTIFREEZE_ENDPOINT",
            "unpooled",
            "expected one of direct, pooled",
        ),
        (
            "ANTIFREEZE_POOLER",
            "pgbouncer",
            "expected one of none, transaction",
        ),
        ("ANTIFREEZE_CONNECT_TIMEOUT", "soon", "a duration"),
        ("ANTIFREEZE_CONNECT_TIMEOUT", "0s", "zero"),
        ("ANTIFREEZE_STATEMENT_TIMEOUT", "-1s", "a duration"),
        ("ANTIFREEZE_ACQUIRE_TIMEOUT", "5 s", "a duration"),
        ("ANTIFREEZE_IDLE_IN_TRANSACTION_TIMEOUT", "1d", "a duration"),
        (
            "ANTIFREEZE_ENDPOINT",
            "postgres://app:hunter2@h",
            "expected one of direct",
        ),
        (
            "ANTIFREEZE_CONNECT_TIMEOUT",
            "postgres://app:hunter2@h",
            "a duration",
        ),
        ("ANTIFREEZE_WARM_UP", "postgres://app:hunter2@h", "a number"),
        ("ANTIFREEZE_HEALTH_TOKEN", "", "set but empty"),
        ("ANTIFREEZE_HEALTH_TOKEN", " \n", "set but empty"),
    ] {
        let environment = Environment::of(&[(name, value)]);
        let error = refused(&environment).to_string();
        assert!(error.starts_with(name), "{error}");
        assert!(error.contains(wanted), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn misspelt_variable_is_an_error() {
    for (name, meant) in [
        ("ANTIFREEZE_LIFETME", "ANTIFREEZE_LIFETIME"),
        ("ANTIFREEZE_MAX_CONECTIONS", "ANTIFREEZE_MAX_CONNECTIONS"),
        ("ANTIFREEZE_POOLRE", "ANTIFREEZE_POOLER"),
        ("ANTIFREEZE_pooler", "ANTIFREEZE_POOLER"),
        ("ANTIFREEZE_LIFET\nIME", "ANTIFREEZE_LIFETIME"),
        ("ANTIFREEZE_LIFETIME ", "ANTIFREEZE_LIFETIME"),
    ] {
        let environment = Environment::of(&[(name, "hunter2")]);
        let error = refused(&environment).to_string();
        let plain = name.bytes().all(|byte| byte.is_ascii_graphic());
        let named = if plain {
            name.to_owned()
        } else {
            format!("{name:?}")
        };
        let expected = format!("unknown variable {named}: did you mean {meant}?");
        assert_eq!(error, expected);
        assert!(!error.starts_with(&format!("{meant} ")), "{error}");
    }
    let stranger = Environment::of(&[("ANTIFREEZE_COLOUR", "blue")]);
    assert!(settled(&stranger).is_ok());
    // A version that does not know the one yet must not take it for the other.
    for name in OVERRIDES {
        let others = OVERRIDES.iter().copied().filter(|other| other != name);
        assert_eq!(spelling::nearest(name, others), None);
    }
}

#[test]
fn unknown_variables_are_found() {
    let environment = Environment::of(&[
        ("ANTIFREEZE_LIFETIME", "per-invocation"),
        ("ANTIFREEZE_COLOUR", "blue"),
        ("ANTIFREEZE_WARM_UP", "2"),
        ("ANTIFREEZE_HEALTH_TOKEN", "hunter2-hunter2-hunter2"),
        ("OTHER", "x"),
    ]);
    assert_eq!(unknown(&environment), ["ANTIFREEZE_COLOUR"]);
    assert_eq!(
        in_force(&environment),
        [
            ("ANTIFREEZE_LIFETIME", "per-invocation".to_owned()),
            ("ANTIFREEZE_WARM_UP", "2".to_owned()),
            ("ANTIFREEZE_HEALTH_TOKEN", "..".to_owned()),
        ]
    );
}

#[test]
fn limits_are_read_as_go_reads_them() {
    let limits = |variables: &[(&str, &str)]| {
        let settings = settled(&Environment::of(variables)).expect("fine");
        let Settings {
            max_connections,
            max_idle,
            max_age,
            max_idle_time,
            ..
        } = settings;
        (max_connections, max_idle, max_age, max_idle_time)
    };
    let seconds = Duration::from_secs;
    let given = limits(&[
        ("DB_MAX_OPEN_CONNS", "4"),
        ("DB_MAX_IDLE_CONNS", "0"),
        ("DB_MAX_LIFETIME", "1h30m"),
        ("DB_MAX_IDLE_TIME", "90s"),
    ]);
    assert_eq!(given, (4, Some(0), seconds(5400), Some(seconds(90))));
    let never = limits(&[("DB_MAX_LIFETIME", "0s"), ("DB_MAX_IDLE_TIME", "0s")]);
    assert_eq!(never, (3, None, Duration::MAX, None));
    let none = limits(&[("DB_MAX_OPEN_CONNS", "")]);
    assert_eq!(none, (3, None, seconds(1800), None));
}

#[test]
fn invalid_limit_is_named() {
    for (name, value, wanted) in [
        ("DB_MAX_OPEN_CONNS", "0", "1 or more"),
        ("DB_MAX_OPEN_CONNS", "many", "a number of connections"),
        ("DB_MAX_IDLE_CONNS", "-1", "0 or more"),
        ("DB_MAX_LIFETIME", "1d", "a duration"),
        ("DB_MAX_IDLE_TIME", "-5s", "a duration"),
    ] {
        let error = refused(&Environment::of(&[(name, value)])).to_string();
        assert!(
            error.contains(&format!("{name}={value} is not ")),
            "{error}"
        );
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn origins_name_the_variables_of_the_address() {
    let environment = Environment::of(&[("PGHOST", "h"), ("PGUSER", "u"), ("PGPORT", "6432")]);
    let config = Config::from_environment(&environment).expect("a configuration");
    let settings = config.settled(&environment).expect("settings");
    let found: Vec<_> = settings.origins().collect();
    let expected = [("host", "PGHOST"), ("port", "PGPORT"), ("user", "PGUSER")]
        .map(|(name, variable)| (name, Origin::Variable(variable)));
    assert_eq!(found, expected);
}
