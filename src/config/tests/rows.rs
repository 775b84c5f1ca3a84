//! Tries each setting from every source. A setting without a row fails.

use std::time::Duration;

use crate::config::*;
use Origin::{Code, Url, Variable};

const SEVEN: Duration = Duration::from_secs(7);
const URL: &str = "postgres://db.example.com/x";

/// The setting, a value, and what is in force then.
type Row = (&'static str, &'static str, fn(&Settings) -> bool);

const ROWS: &[Row] = &[
    ("pooler", "rds-proxy", |s| s.pooler == Pooler::RdsProxy),
    ("endpoint", "direct", |s| s.endpoint == Endpoint::Direct),
    ("guess_authentication", "off", |s| {
        s.guess_authentication == GuessAuthentication::Off
    }),
    ("lifetime", "per-invocation", |s| {
        s.lifetime == ConnectionLifetime::PerInvocation
    }),
    ("reset", "always", |s| s.reset == Reset::Always),
    ("load_shed", "off", |s| s.load_shed == LoadShed::Off),
    ("high_water_mark", "7", |s| s.high_water_mark == 7),
    ("max_connections", "7", |s| s.max_connections == 7),
    ("max_idle", "7", |s| s.max_idle == Some(7)),
    ("max_age", "7", |s| s.max_age == SEVEN),
    ("max_idle_time", "7", |s| s.max_idle_time == Some(SEVEN)),
    ("linger", "7", |s| s.linger == SEVEN),
    ("test_after_idle", "7", |s| s.test_after_idle == SEVEN),
    ("acquire_timeout", "7", |s| s.acquire_timeout == SEVEN),
    ("connect_timeout", "7", |s| s.connect_timeout == SEVEN),
    ("statement_timeout", "7", |s| s.statement_timeout == SEVEN),
    ("idle_in_transaction_timeout", "7", |s| {
        s.idle_in_transaction_timeout == SEVEN
    }),
    ("idle_session_timeout", "7", |s| {
        s.idle_session_timeout == SEVEN
    }),
    ("transaction_timeout", "7", |s| {
        s.transaction_timeout == SEVEN
    }),
    ("function_timeout", "7", |s| {
        s.function_timeout == Some(SEVEN)
    }),
    ("slow_invocation", "7", |s| s.slow_invocation == SEVEN),
    ("repeated_statements", "7", |s| s.repeated_statements == 7),
    ("log_statements", "true", |s| s.log_statements),
    ("target_session_attrs", "standby", |s| {
        s.target_session_attrs == TargetSessionAttrs::Standby
    }),
    ("schema", "Shop", |s| s.schema.as_deref() == Some("Shop")),
    ("jit", "true", |s| s.jit),
    ("statement_cache", "7", |s| s.statement_cache == 7),
    ("drivers_on_runtime", "true", |s| s.drivers_on_runtime),
    ("reuse_statements", "true", |s| s.reuse_statements),
    ("warm_up", "7", |s| s.warm_up == Some(7)),
    ("health_token", "0123456789abcdef", |s| {
        s.health_token.as_deref() == Some("0123456789abcdef")
    }),
];

fn by_serde(setting: &str, value: &str) -> Config {
    let value = if value.parse::<u64>().is_ok() || value == "true" {
        value.to_owned()
    } else {
        format!("{value:?}")
    };
    let json = format!(r#"{{"url": "{URL}", "{setting}": {value}}}"#);
    serde_json::from_str(&json).expect(setting)
}

#[test]
fn settings_are_read_from_every_source() {
    let plain = Config::from_url(URL).expect("a URL");
    for row in table::rows(&plain.clone().in_force()) {
        let [name, _, parameter, operator, limit, _] = row.each_ref().map(String::as_str);
        let found = ROWS.iter().find(|(tested, ..)| *tested == name);
        let Some((_, value, shows)) = found else {
            panic!("{name} has no row here")
        };
        let check = |config: Config, variables: &[(&str, &str)]| {
            let settings = config.settled(&Environment::of(variables)).expect(name);
            assert!(shows(&settings), "{name} {variables:?} {settings:?}");
            settings.origin(name).expect("an origin")
        };
        assert!(!shows(&plain.clone().in_force()), "{name}: another value");
        assert_eq!(check(by_serde(name, value), &[]), Code);
        if !parameter.is_empty() {
            let url = format!("{URL}?{parameter}={value}");
            assert_eq!(check(Config::from_url(&url).expect(name), &[]), Url);
        }
        for variable in [operator, limit]
            .into_iter()
            .filter(|name| !name.is_empty())
        {
            let Variable(origin) = check(plain.clone(), &[(variable, value)]) else {
                panic!("{variable} is the origin")
            };
            assert_eq!(origin, variable);
        }
    }
}
