use std::time::Duration;

use crate::config::*;

#[test]
fn every_field_by_serde() {
    let config: Config = serde_json::from_str(
        r#"{
            "url": "postgres://u:p@h/d?sslmode=require&connection_limit=9",
            "direct_url": "postgres://direct",
            "host": "a,b", "port": 6, "user": "me", "password": "secret", "dbname": "shop",
            "sslmode": "disable", "application_name": "app", "options": "-c x.y=1",
            "path": "session-pooler", "endpoint": "pooled", "lifetime": "per-event-loop",
            "reset": "always", "schema": "public", "jit": true,
            "max_connections": 4, "max_idle": 2, "max_age": "1h", "max_idle_time": 1.5,
            "probe_after": "5s", "acquire_timeout": "250ms", "connect_timeout": 3,
            "statement_timeout": "0s",
            "idle_in_transaction_timeout": "1m", "transaction_timeout": 20,
            "idle_session_timeout": "5m", "function_timeout": "10s", "statement_cache": 7,
            "crowded_at": 50, "load_shed": "door", "health_token": "0123456789abcdef"
        }"#,
    )
    .expect("fine");
    let config = config.in_force();
    let server = &config.server;
    assert_eq!(server.get_hosts().len(), 2);
    assert_eq!(server.get_ports(), [6, 6]);
    assert_eq!(server.get_user(), Some("me"));
    assert_eq!(server.get_password(), Some(&b"secret"[..]));
    assert_eq!(server.get_dbname(), Some("shop"));
    assert_eq!(server.get_application_name(), Some("app"));
    assert_eq!(server.get_options(), Some("-c x.y=1"));
    assert_eq!(config.tls.mode, TlsMode::Disable);
    assert!(config.direct.is_some() && config.jit);
    assert_eq!(config.path, Path::SessionPooler);
    assert_eq!(config.endpoint, Endpoint::Pooled);
    assert_eq!(config.lifetime, ConnectionLifetime::PerEventLoop);
    assert_eq!(config.reset, Reset::Always);
    assert_eq!(config.schema.as_deref(), Some("public"));
    assert_eq!((config.max_connections, config.max_idle), (4, Some(2)));
    let milliseconds = Duration::from_millis;
    assert_eq!(config.max_age, milliseconds(3_600_000));
    assert_eq!(config.max_idle_time, Some(milliseconds(1_500)));
    assert_eq!(config.probe_after, milliseconds(5_000));
    assert_eq!(config.acquire_timeout, milliseconds(250));
    assert_eq!(config.connect_timeout, milliseconds(3_000));
    assert_eq!(config.statement_timeout, Duration::ZERO);
    assert_eq!(config.idle_in_transaction_timeout, milliseconds(60_000));
    assert_eq!(config.transaction_timeout, milliseconds(20_000));
    assert_eq!(config.idle_session_timeout, milliseconds(300_000));
    assert_eq!(config.function_timeout, Some(milliseconds(10_000)));
    assert_eq!(config.statement_cache, 7);
    assert_eq!((config.crowded_at, config.load_shed), (50, LoadShed::Door));
    assert_eq!(config.health_token.as_deref(), Some("0123456789abcdef"));
}

#[test]
fn without_a_place_it_is_the_environments() {
    let environment = Environment::of(&[
        ("DATABASE_URL", "postgres://pooler:6432"),
        ("DIRECT_URL", "postgres://db"),
    ]);
    let config = Config::new().max_connections(4).dbname("shop");
    let settings = config.settled(&environment).expect("fine");
    assert_eq!(settings.path, Path::TransactionPooler);
    assert!(settings.direct.is_some());
    assert_eq!(settings.max_connections, 4);
    assert_eq!(settings.server.get_dbname(), Some("shop"));
    let here = Config::new().host("db").password("p");
    let settings = here.settled(&environment).expect("fine");
    assert_eq!(settings.path, Path::Direct);
    assert!(settings.direct.is_none());
}

#[test]
fn what_is_wrong_is_said_without_the_password() {
    for (json, word) in [
        (
            r#"{"url": "postgres://h", "password": 424242}"#,
            "in quotes",
        ),
        (
            r#"{"url": "postgres://h", "password": -424242}"#,
            "in quotes",
        ),
        (
            r#"{"url": "postgres://h", "password": 424242.5}"#,
            "in quotes",
        ),
        (r#"{"url": 424242}"#, "in quotes"),
        (
            r#"{"url": "postgres://h", "health_token": 424242}"#,
            "in quotes",
        ),
        (
            r#"{"url": "postgres://u:424242@h@h"}"#,
            "the URL holds a second `@`",
        ),
        (r#"{"url": "postgres://h", "max_age": "1d"}"#, "a duration"),
        (r#"{"url": "postgres://h", "max_age": []}"#, "a duration"),
        (r#"{"url": "postgres://h", "max_age": -1}"#, "a duration"),
        (
            r#"{"url": "postgres://h", "max_conections": 1}"#,
            "max_conections",
        ),
        (
            r#"{"url": "postgres://h", "path": "s424242"}"#,
            "path is one of direct, transaction-pooler",
        ),
        (
            r#"{"url": "postgres://h", "endpoint": "s424242"}"#,
            "endpoint is one of direct, pooled",
        ),
        (
            r#"{"url": "postgres://h", "lifetime": "s424242"}"#,
            "lifetime is one of per-invocation, per-event-loop",
        ),
        (
            r#"{"url": "postgres://h", "reset": "s424242"}"#,
            "reset is one of detected, always, never",
        ),
        (r#"{"url": "postgres://h", "path": 424242}"#, "in quotes"),
        (r#"{"url": "postgres://h", "sslmode": "x"}"#, "sslmode=x"),
    ] {
        let error = serde_json::from_str::<Config>(json).expect_err(json);
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(word), "{shown}");
        assert!(!shown.contains("424242"), "{shown}");
    }
    let config = Config::new().host("h").password("hunter2");
    assert!(!format!("{config:?}").contains("hunter2"));
}
