//! Settings of a session, and a pooler that was not declared.

use super::statements::{TYPES, all_at_once, names_are_taken};
use super::*;

/// A pooler that is not configured is detected by its refusal of our settings or, where it
/// ignores them, by its messages at start-up.
#[tokio::test]
async fn undeclared_pooler_is_found() {
    for ignores in [false, true] {
        let postgres = Postgres::shared().await.expect("a server");
        let server = postgres.fresh_database().await.expect("a database");
        let schema = format!("create table t (a int); {TYPES}");
        server.execute(&schema).await.expect("a schema");
        let pooler = PgBouncer::builder(postgres).pool_size(SERVERS);
        let pooler = if ignores {
            pooler.setting("ignore_startup_parameters", "options")
        } else {
            pooler
        };
        let pooler = pooler.start().await.expect("a pooler");
        let url = pooler.url(&server.url);
        let lab = loop {
            let server = server.clone();
            let lab = Lab::over(server, &url, |config| config.max_connections(CLIENTS));
            let known = lab.database.settings().pooler;
            assert_eq!(known, Pooler::None, "nothing tells");
            let process = lab.run(async { Ok(connection().await?.process_id()) });
            let process = process.await.expect("a session");
            // PgBouncer 1.18 sends a random number, which in one of a thousand sessions may be
            // that of a process. What the first one shows holds for the others.
            if !ignores || !(1..=1 << 22).contains(&process) {
                break lab;
            }
        };
        let mode = Mode::Transaction;
        let pooled = Pooled { lab, pooler, mode };
        names_are_taken(&pooled).await;
        for result in all_at_once(&pooled).await {
            result.unwrap_or_else(|error| panic!("ignores {ignores}: {error:?}"));
        }
        pooled.assert_at_rest("named statements").await;
        pooled.lab.torn_down();
        // Session state is not reset on a server that another client may have by then.
        pooled
            .lab
            .run(async {
                let connection = connection().await?;
                connection.batch_execute("set lock_timeout = 0").await?;
                // Nor is one told what it would keep for others.
                let told = "select current_setting('idle_session_timeout')";
                let told: String = connection.query_one(told, &[]).await?.get(0);
                assert_eq!(told, "0", "ignores {ignores}");
                Ok(())
            })
            .await
            .expect("fine");
        let outcome = pooled.lab.outcome();
        assert!(!outcome.steps().contains(&Step::Reset), "{outcome:?}");
    }
}

/// A path that was chosen in code is believed, and a setting that is needed is not dropped
/// for a pooler.
#[tokio::test]
async fn needed_settings_are_not_dropped() {
    let postgres = Postgres::shared().await.expect("a server");
    let server = postgres.fresh_database().await.expect("a database");
    let pooler = PgBouncer::builder(postgres)
        .start()
        .await
        .expect("a pooler");
    let url = pooler.url(&server.url);
    let chosen: fn(Config) -> Config = |config| config.pooler(Pooler::None);
    let schema: fn(Config) -> Config = |config| config.schema("public");
    for change in [chosen, schema] {
        let mut config = Config::from_url(&url).expect("a URL");
        config = change(config);
        let database = antifreeze::Database::new(config).expect("settings");
        let work = async { connection().await.map(drop).map_err(BoxError::from) };
        let error = database
            .invocation(PLENTY, work)
            .await
            .expect_err("refused");
        let kind = common::kind(&error);
        assert_eq!(kind, Some(antifreeze::ErrorKind::ParameterRefused));
    }
}

/// A pooler that drops the schema in silence, whether it is found or not: the rows of another
/// schema would be read.
#[tokio::test]
async fn dropped_schema_is_refused() {
    let postgres = Postgres::shared().await.expect("a server");
    let server = postgres.fresh_database().await.expect("a database");
    let pooler = PgBouncer::builder(postgres)
        .setting("ignore_startup_parameters", "options")
        .start()
        .await
        .expect("a pooler");
    let url = pooler.url(&server.url);
    let url = format!(
        "{url}{}schema=shop",
        if url.contains('?') { '&' } else { '?' }
    );
    for said_direct in [false, true] {
        let mut config = Config::from_url(&url).expect("a URL");
        if said_direct {
            config = config.pooler(Pooler::None);
        }
        let database = antifreeze::Database::new(config).expect("settings");
        let work = async { connection().await.map(drop).map_err(BoxError::from) };
        let error = database.invocation(PLENTY, work).await;
        let error = error.expect_err("refused");
        let kind = common::kind(&error);
        assert_eq!(kind, Some(antifreeze::ErrorKind::Configuration), "{error}");
        let said = error.to_string();
        assert!(said.contains("ALTER ROLE .. SET search_path"), "{said}");
    }
}
