use std::time::Duration;

use crate::config::*;

#[test]
fn server_and_durations_are_deserialized() {
    let config: Config = serde_json::from_str(
        r#"{
            "url": "postgres://u:p@h/d?sslmode=require&connection_limit=9",
            "direct_url": "postgres://direct",
            "host": "a,b", "port": 6, "user": "me", "password": "secret", "dbname": "shop",
            "sslmode": "disable", "application_name": "app", "options": "-c x.y=1",
            "max_age": "1h", "max_idle_time": 1.5, "acquire_timeout": "250ms"
        }"#,
    )
    .expect("fine");
    let settings = config.in_force();
    let server = &settings.server;
    assert_eq!(server.get_hosts().len(), 2);
    assert_eq!(server.get_ports(), [6, 6]);
    assert_eq!(server.get_user(), Some("me"));
    assert_eq!(server.get_password(), Some(&b"secret"[..]));
    assert_eq!(server.get_dbname(), Some("shop"));
    assert_eq!(server.get_application_name(), Some("app"));
    assert_eq!(server.get_options(), Some("-c x.y=1"));
    assert_eq!(settings.tls.mode, TlsMode::Disable);
    assert!(settings.direct.is_some());
    let milliseconds = Duration::from_millis;
    assert_eq!(settings.max_age, milliseconds(3_600_000));
    assert_eq!(settings.max_idle_time, Some(milliseconds(1_500)));
    assert_eq!(settings.acquire_timeout, milliseconds(250));
}

#[test]
fn missing_host_comes_from_the_environment() {
    let environment = Environment::of(&[
        ("DATABASE_URL", "postgres://pooler:6432"),
        ("DIRECT_URL", "postgres://db"),
    ]);
    let config = Config::new().max_connections(4).dbname("shop");
    let settings = config.settled(&environment).expect("fine");
    assert_eq!(settings.pooler, Pooler::Transaction);
    assert!(settings.direct.is_some());
    assert_eq!(settings.max_connections, 4);
    assert_eq!(settings.server.get_dbname(), Some("shop"));
    let wrong = ("DATABASE_URL", "postgres://pooler?connection_limit=x");
    let late = Config::new().settled(&Environment::of(&[wrong]));
    let error = late.expect_err("no number").to_string();
    assert!(
        error.starts_with("DATABASE_URL: connection_limit"),
        "{error}"
    );
    let here = Config::new().host("db").password("p");
    let settings = here.settled(&environment).expect("fine");
    assert_eq!(settings.pooler, Pooler::None);
    assert!(settings.direct.is_none());
}

#[test]
fn errors_hide_the_password() {
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
            "the URL contains a second `@`",
        ),
        (r#"{"url": "postgres://h", "max_age": "1d"}"#, "a duration"),
        (r#"{"url": "postgres://h", "max_age": []}"#, "a duration"),
        (r#"{"url": "postgres://h", "max_age": -1}"#, "a duration"),
        (
            r#"{"url": "postgres://h", "max_conections": 1}"#,
            "max_conections",
        ),
        (
            r#"{"url": "postgres://h", "pooler": "s424242"}"#,
            "pooler is one of none, transaction",
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
        (r#"{"url": "postgres://h", "pooler": 424242}"#, "in quotes"),
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
