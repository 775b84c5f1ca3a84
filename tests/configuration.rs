//! Settings at work on a real server.

mod common;

use antifreeze::config::TargetSessionAttrs;
use antifreeze::{Config, Database, ErrorKind};
use common::{BoxError, PLENTY, lab, lab_with};

/// What the server says of a setting.
async fn setting(name: &str) -> Result<String, BoxError> {
    let connection = antifreeze::connection().await?;
    let row = connection
        .query_one("select current_setting($1)", &[&name])
        .await?;
    Ok(row.get(0))
}

#[tokio::test]
async fn direct_path_sends_server_timeouts() {
    let lab = lab_with(|config| config.schema("My \"Shop\\").application_name("shop:17")).await;
    for (name, expected) in [
        ("statement_timeout", "30s"),
        ("idle_in_transaction_session_timeout", "1min"),
        ("jit", "off"),
        ("search_path", "\"My \"\"Shop\\\""),
        ("application_name", "shop:17"),
    ] {
        // Timeouts are no longer than a call may take.
        let hour = std::time::Duration::from_secs(3_600);
        let found = lab.database.invocation(hour, setting(name)).await;
        assert_eq!(found.expect(name), expected, "{name}");
    }
}

#[tokio::test]
async fn users_own_settings_are_kept() {
    let lab = lab_with(|config| config.options("-c jit=on --statement-timeout=7s").jit(true)).await;
    for (name, expected) in [("jit", "on"), ("statement_timeout", "7s")] {
        let found = lab.run(setting(name)).await.expect(name);
        assert_eq!(found, expected, "{name}");
    }
}

#[tokio::test]
async fn required_session_state_is_checked_at_connect() {
    let lab = lab().await;
    for (wish, options, fits) in [
        (TargetSessionAttrs::Primary, "", true),
        (TargetSessionAttrs::ReadWrite, "", true),
        (TargetSessionAttrs::Standby, "", false),
        (TargetSessionAttrs::ReadOnly, "", false),
        (
            TargetSessionAttrs::ReadOnly,
            "-c default_transaction_read_only=on",
            true,
        ),
        (
            TargetSessionAttrs::ReadWrite,
            "-c default_transaction_read_only=on",
            false,
        ),
    ] {
        let config = Config::from_url(&lab.server.url)
            .expect("a URL")
            .target_session_attrs(wish)
            .options(options);
        let database = Database::new(config).expect("settings");
        let tried = database
            .invocation(PLENTY, async {
                drop(antifreeze::connection().await?);
                Ok::<_, antifreeze::Error>(())
            })
            .await;
        assert_eq!(tried.is_ok(), fits, "{wish:?} {options}: {tried:?}");
        if let Err(error) = tried {
            assert_eq!(error.kind(), ErrorKind::Unreachable);
            assert!(
                error.to_string().contains("target_session_attrs="),
                "{error}"
            );
        }
    }
}

/// The server's process before and after `statement` was run on a kept session.
async fn processes_around(wish: TargetSessionAttrs, statement: &str) -> [i32; 2] {
    let lab = lab().await;
    let config = Config::from_url(&lab.server.url)
        .expect("a URL")
        .target_session_attrs(wish)
        .reset(antifreeze::config::Reset::Never);
    let database = Database::new(config).expect("settings");
    let mut processes = [0; 2];
    for process in &mut processes {
        *process = database
            .invocation(PLENTY, async {
                let connection = antifreeze::connection().await?;
                let row = connection.query_one("select pg_backend_pid()", &[]).await?;
                let _ = connection.batch_execute(statement).await;
                Ok::<i32, antifreeze::Error>(row.get(0))
            })
            .await
            .expect("an invocation");
    }
    processes
}

#[tokio::test]
async fn required_session_state_is_checked_on_reuse() {
    use TargetSessionAttrs::{Any, Primary, ReadWrite};
    let reported = "set default_transaction_read_only = on";
    let refused = "begin read only; create table never (); commit";
    for (wish, statement, kept) in [
        (Any, reported, true),
        (Primary, reported, true),
        (ReadWrite, reported, false),
        (Any, refused, true),
        (Primary, refused, false),
        (ReadWrite, refused, false),
    ] {
        let [before, after] = processes_around(wish, statement).await;
        assert_eq!(before == after, kept, "{wish:?} {statement}");
    }
}

#[tokio::test]
async fn keywords_and_urls_reach_the_same_server() {
    let lab = lab().await;
    let server = &lab.database.settings().server;
    let port = server.get_ports()[0];
    let user = server.get_user().expect("a user");
    let dbname = server.get_dbname().expect("a database");
    let secret = server.get_password().unwrap_or_default();
    let password = String::from_utf8_lossy(secret).replace('\'', "\\'");
    let keywords = format!(
        "host = 127.0.0.1 port={port} user='{user}' password='{password}' dbname = '{dbname}'"
    );
    for config in [
        Config::from_url(&keywords).expect("keywords"),
        Config::from_url(&lab.server.url)
            .expect("a URL")
            .application_name("x"),
        Config::new()
            .host("127.0.0.1")
            .port(port)
            .user(user)
            .password(String::from_utf8_lossy(secret))
            .dbname(dbname),
    ] {
        let database = Database::new(config).expect("settings");
        let found: Result<String, BoxError> = database
            .invocation(PLENTY, async {
                let connection = antifreeze::connection().await?;
                let row = connection
                    .query_one("select current_database()::text", &[])
                    .await?;
                Ok(row.get(0))
            })
            .await;
        assert_eq!(found.expect("a name"), dbname);
    }
}
