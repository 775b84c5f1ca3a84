//! Statements and transactions.

use super::*;

const SCHEMA: &str = "
    create table orders (
        id int primary key,
        parent int references orders,
        amount int not null check (amount > 0),
        note varchar(3)
    );
    insert into orders values (1, null, 1);
    create role golden_guest;
";

/// What a server says to statements.
pub async fn statements(golden: &mut Golden) {
    let postgres = Postgres::shared().await.expect("a server");
    let server = postgres.fresh_database().await.expect("a database");
    server.execute(SCHEMA).await.expect("a schema");
    let database = &database(&server.url);
    for (what, sql) in [
        (
            "a key that is there",
            "insert into orders values (1, null, 1)",
        ),
        (
            "a parent that is not there",
            "insert into orders values (2, 9, 1)",
        ),
        (
            "a value that is missing",
            "insert into orders values (2, null, null)",
        ),
        (
            "a value that does not pass",
            "insert into orders values (2, null, -1)",
        ),
        ("a text that is no number", "select 'hunter2'::int"),
        (
            "a text that is too long",
            "insert into orders values (2, null, 1, 'hunter2')",
        ),
        ("a number that is too large", "select 1e10::int"),
        ("no such day", "select '2026-02-30'::date"),
        ("a division by zero", "select 1/0"),
        (
            "a text with a zero byte",
            "select convert_from('\\x00', 'UTF8')",
        ),
        ("no such table", "select * from hunter2"),
        ("a misspelt word", "selekt 1"),
        (
            "no right to it",
            "set role golden_guest; select * from orders",
        ),
        (
            "read-only",
            "begin read only; insert into orders values (2, null, 1)",
        ),
        (
            "it takes too long",
            "set statement_timeout = '10ms'; select pg_sleep(60)",
        ),
        (
            "a function raises an error of its own",
            "do $$ begin raise 'hunter2'; end $$",
        ),
    ] {
        golden.add(what, &said(database, sql).await);
    }

    let error = failing(database, async {
        let connection = connection().await?;
        Ok(connection.query_one("select 1 where false", &[]).await?)
    })
    .await;
    golden.add("no row where one was expected", &error);
    let error = failing(database, async {
        let connection = connection().await?;
        Ok(connection.execute("select $1::int", &[&"hunter2"]).await?)
    })
    .await;
    golden.add("a parameter of the wrong Rust type", &error);
    let error = failing(database, async {
        let row = connection().await?.query_one("select 'x'", &[]).await?;
        Ok(row.try_get::<_, i32>(0)?)
    })
    .await;
    golden.add("a column read as the wrong Rust type", &error);
    let error = failing(database, async {
        let connection = connection().await?;
        let error = connection.execute("select $1::int", &[]).await;
        Ok(error?)
    })
    .await;
    golden.add("a parameter is missing", &error);

    let error = failing(database, async {
        let connection = connection().await?;
        let token = connection.cancel_token();
        let sleeping = connection.batch_execute("select pg_sleep(60)");
        let cancel = async {
            sleeps(&server).await;
            token.cancel().await
        };
        let (slept, cancelled) = tokio::join!(sleeping, cancel);
        cancelled?;
        Ok(slept?)
    })
    .await;
    golden.add("cancelled", &error);
    let error = failing(database, async {
        let connection = connection().await?;
        let statement = connection.prepare("select 1").await?;
        connection.batch_execute("deallocate all").await?;
        Ok(connection.query(&statement, &[]).await?)
    })
    .await;
    golden.add("a prepared statement that is not there", &error);
    let error = failing(database, async {
        let connection = connection().await?;
        let prepare = "prepare twice as select 1";
        connection.batch_execute(prepare).await?;
        Ok(connection.batch_execute(prepare).await?)
    })
    .await;
    golden.add("a prepared statement that is there already", &error);
    let error = failing(database, async {
        let connection = connection().await?;
        let statement = connection.prepare("select * from orders").await?;
        server
            .execute("alter table orders add column b int")
            .await
            .expect("altered");
        Ok(connection.query(&statement, &[]).await?)
    })
    .await;
    golden.add("the schema has changed", &error);

    let relay = Relay::start(postgres.address()).await.expect("a relay");
    let over_relay = crate::database(&relay.url(&server.url));
    for cut in [Cut::Fin, Cut::Reset] {
        let error = failing(&over_relay, async {
            let connection = connection().await?;
            relay.cut(cut).await;
            Ok(connection.batch_execute("select 1").await?)
        })
        .await;
        golden.add(&format!("the connection is lost ({cut:?})"), &error);
    }

    let (keep, kept) = tokio::sync::oneshot::channel::<Connection>();
    let leak = async {
        let _ = keep.send(connection().await?);
        Ok::<_, Error>(())
    };
    database.invocation(PLENTY, leak).await.expect("fine");
    let kept = kept.await.expect("a connection");
    let late = kept.batch_execute("select 1").await.expect_err("too late");
    golden.add("a task outlives its invocation", &late.into());
}

/// Transactions that meet, and that end badly.
pub async fn transactions(golden: &mut Golden) {
    let postgres = Postgres::shared().await.expect("a server");
    let server = postgres.fresh_database().await.expect("a database");
    let schema = "create table t (a int unique deferrable initially deferred); \
                  insert into t values (1)";
    server.execute(schema).await.expect("a schema");
    let database = &database_with(&server.url, |config| {
        config.acquire_timeout(Duration::from_millis(50))
    });
    const ADD: &str = "update t set a = a + 1";

    let error = failing(database, async {
        let (one, other) = (connection().await?, connection().await?);
        one.batch_execute("begin isolation level repeatable read; select * from t")
            .await?;
        other.batch_execute(ADD).await?;
        Ok(one.batch_execute(ADD).await?)
    })
    .await;
    golden.add("a serialization failure", &error);
    let error = said(database, "do $$ begin raise sqlstate '40P01'; end $$").await;
    golden.add("a deadlock", &error);
    let error = failing(database, async {
        let (one, other) = (connection().await?, connection().await?);
        one.batch_execute("begin; lock table t").await?;
        other.batch_execute("set lock_timeout = '10ms'").await?;
        Ok(other.batch_execute(ADD).await?)
    })
    .await;
    golden.add("a lock that others have", &error);
    let error = failing(database, async {
        let connection = connection().await?;
        let _ = connection.batch_execute("begin; select 1/0").await;
        Ok(connection.batch_execute("select 1").await?)
    })
    .await;
    golden.add("a statement behind one that failed", &error);
    let error = failing(database, async {
        let transaction = transaction().await?;
        let _ = transaction.batch_execute("select 1/0").await;
        Ok(())
    })
    .await;
    golden.add("an error was swallowed before the commit", &error);
    let error = failing(database, async {
        let transaction = transaction().await?;
        transaction
            .batch_execute("insert into t select a from t")
            .await?;
        Ok(())
    })
    .await;
    golden.add("a deferred constraint at the commit", &error);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let error = failing(database, async {
        let transaction = transaction().await?;
        transaction.batch_execute(ADD).await?;
        tokio::spawn(async move {
            let _ = stopped.await;
            drop(transaction);
        });
        Ok(())
    })
    .await;
    golden.add("a task still has the transaction", &error);
    drop(stop);
    let error = failing(database, async {
        let transaction = transaction().await?;
        transaction.batch_execute(ADD).await?;
        let task = antifreeze::invocation()?.spawn(async move {
            let _transaction = transaction;
            panic!("as it was asked to")
        });
        assert!(task.await.is_err());
        Ok(())
    })
    .await;
    golden.add("a task panicked with the transaction", &error);
    let error = failing(database, async {
        let transaction = transaction().await?;
        let _open = transaction.savepoint().await?;
        let second = transaction.savepoint().await;
        second.map(drop)
    })
    .await;
    golden.add("a second savepoint is asked for beside an open one", &error);

    for (what, begin) in [
        (
            "a transaction that waited for others",
            "set idle_in_transaction_session_timeout = '20ms'; begin",
        ),
        ("a session that waited", "set idle_session_timeout = '20ms'"),
    ] {
        let error = failing(database, async {
            let connection = connection().await?;
            connection.batch_execute(begin).await?;
            let sessions = format!(
                "select from pg_stat_activity where pid = {}",
                connection.process_id()
            );
            while !server.query(&sessions).await.expect("rows").is_empty() {
                sleep(Duration::from_millis(5)).await;
            }
            Ok(connection.batch_execute("select 1").await?)
        })
        .await;
        golden.add(what, &error);
    }

    let relay = Relay::start(postgres.address()).await.expect("a relay");
    let over_relay = crate::database(&relay.url(&server.url));
    let lost = failing(&over_relay, async {
        retry_transaction(async |transaction| {
            transaction
                .execute("insert into t values (-1)", &[])
                .await?;
            relay.quiet(Duration::from_millis(20)).await;
            relay.stall_down();
            Ok::<_, Error>(())
        })
        .await
    });
    let cut = async {
        let count = "select count(*) from t where a = -1";
        let committed = async || {
            let rows = server.query(count).await.expect("rows");
            rows[0][0].as_deref() == Some("1")
        };
        while !committed().await {
            sleep(Duration::from_millis(5)).await;
        }
        relay.cut(Cut::Reset).await;
        relay.resume();
    };
    let (error, ()) = tokio::join!(lost, cut);
    golden.add("the connection is lost during COMMIT", &error);
}
