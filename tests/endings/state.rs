//! Session state that a handler leaves behind.

use antifreeze::config::Reset;
use antifreeze::connection;
use antifreeze::teardown::Step;

use crate::common::lab_with;
use crate::{NONE, RESET};

#[tokio::test]
async fn session_state_is_reset() {
    let lab = lab_with(|config| config.max_connections(1)).await;
    let clean = async || {
        lab.run(async {
            let connection = connection().await?;
            let row = connection
                .query_one(
                    "select current_setting('work_mem'), \
                     coalesce(current_setting('app.user', true), ''), \
                     (select count(*) from pg_listening_channels()), \
                     (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()), \
                     to_regclass('pg_temp.left_behind')::text",
                    &[],
                )
                .await?;
            assert_ne!(row.get::<_, String>(0), "7MB");
            assert_eq!(row.get::<_, String>(1), "");
            assert_eq!(row.get::<_, i64>(2), 0);
            assert_eq!(row.get::<_, i64>(3), 0);
            assert_eq!(row.get::<_, Option<String>>(4), None);
            Ok(())
        })
        .await
        .expect("nothing is left");
        assert!(lab.outcome().is_clean());
    };
    for statement in [
        "set work_mem = '7MB'",
        "select set_config('app.user', 'mallory', false)",
        "update pg_settings set setting = '7MB' where name = 'work_mem'",
        "update pg_catalog.pg_settings set setting = '7MB' where name = 'work_mem'",
        "listen something",
        "select pg_advisory_lock(1)",
        "create temp table left_behind (a int)",
        "select 1 as a into temp left_behind",
        "do $$ begin perform set_config('app.user', 'mallory', false); end $$",
        "do $$ begin perform pg_advisory_lock(2); end $$",
        "begin; set work_mem = '7MB'; commit",
    ] {
        lab.run(async {
            connection().await?.batch_execute(statement).await?;
            Ok(())
        })
        .await
        .expect(statement);
        assert_eq!(lab.outcome().steps(), RESET, "{statement}");
        lab.assert_at_rest().await;
        clean().await;
    }

    // By the extended protocol, and from a statement prepared earlier.
    for _ in 0..2 {
        lab.run(async {
            let connection = connection().await?;
            let statement = connection
                .prepare_cached("select pg_advisory_lock($1)")
                .await?;
            connection.execute(&statement, &[&3i64]).await?;
            Ok(())
        })
        .await
        .expect("fine");
        assert_eq!(lab.outcome().steps(), RESET);
        clean().await;
    }

    // In a transaction that is open too: one round trip for both.
    lab.run(async {
        let connection = connection().await?;
        connection
            .batch_execute("begin; select pg_advisory_lock(4)")
            .await?;
        Ok(())
    })
    .await
    .expect("fine");
    let torn = lab.torn_down().remove(0);
    assert_eq!(torn.outcome.steps(), [Step::RolledBack, Step::Reset]);
    assert_eq!(torn.round_trips, 1);
    clean().await;

    // What ends with the transaction costs nothing.
    lab.run(async {
        let connection = connection().await?;
        connection
            .batch_execute("begin; set local work_mem = '7MB'; commit")
            .await?;
        connection
            .batch_execute("select pg_advisory_xact_lock(5)")
            .await?;
        Ok(())
    })
    .await
    .expect("fine");
    assert!(lab.outcome().is_clean());
}

#[tokio::test]
async fn state_beyond_a_reset_gets_a_new_client() {
    let lab = lab_with(|config| config.max_connections(1)).await;
    for statement in ["discard all", "deallocate all", "prepare p as select 1"] {
        lab.run(async {
            connection().await?.batch_execute(statement).await?;
            Ok(())
        })
        .await
        .expect(statement);
        assert_eq!(lab.outcome().steps(), RESET, "{statement}");
    }
}

#[tokio::test]
async fn reset_follows_the_configuration() {
    for (reset, expected) in [(Reset::Always, RESET), (Reset::Never, NONE)] {
        let lab = lab_with(|config| config.reset(reset)).await;
        lab.run(async {
            connection()
                .await?
                .batch_execute("set work_mem = '7MB'")
                .await?;
            Ok(())
        })
        .await
        .expect("fine");
        assert_eq!(lab.outcome().steps(), expected);
        lab.run(async {
            let connection = connection().await?;
            let row = connection.query_one("show work_mem", &[]).await?;
            let left = row.get::<_, String>(0) == "7MB";
            assert_eq!(left, reset == Reset::Never);
            Ok(())
        })
        .await
        .expect("fine");
        assert_eq!(lab.outcome().steps(), expected);
    }
}

#[tokio::test]
async fn types_survive_a_reset() {
    let lab = lab_with(|config| config.max_connections(1)).await;
    lab.server
        .execute("create type mood as enum ('well', 'unwell'); create table m (a mood)")
        .await
        .expect("a type");
    for _ in 0..2 {
        lab.run(async {
            let connection = connection().await?;
            connection.query("select a from m", &[]).await?;
            connection.batch_execute("set work_mem = '7MB'").await?;
            Ok(())
        })
        .await
        .expect("fine");
        assert_eq!(lab.outcome().steps(), RESET);
    }
    lab.server
        .execute("create type other as enum ('x'); create table o (a other)")
        .await
        .expect("a type");
    lab.run(async {
        connection().await?.query("select a from o", &[]).await?;
        Ok(())
    })
    .await
    .expect("a type that is new");
}
