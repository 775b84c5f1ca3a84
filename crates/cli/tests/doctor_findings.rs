//! Provokes on a real server what ends in an outage later, and tests that the doctor reports it
//! with a remedy that works.

mod cli;

use cli::doctor::{examine, examine_at, shop};
use cli::{at, cancel, client, pid, run, until};
use lab::pgbouncer::{Mode, PgBouncer};
use lab::postgres::Postgres;

#[tokio::test]
async fn prepared_transactions_are_rolled_back() {
    let server = Postgres::builder()
        .setting("max_prepared_transactions", 5)
        .start()
        .await;
    let server = server.expect("a server");
    let shop = server.create_database("shop").await.expect("a database");
    shop.execute("create table partners (a int)")
        .await
        .expect("a table");
    shop.execute("begin; select from partners; prepare transaction 'it''s'")
        .await
        .expect("prepared");
    let migration = client(&shop.url, "migration").await;
    let waiting = pid(&migration).await;
    let look = client(&shop.url, "look").await;
    let alter = migration.batch_execute("alter table partners add b int");
    let examined = async {
        until(&look, "select count(*) = 1 from pg_locks where not granted").await;
        examine_at(&server, &shop.url)
            .await
            .exits(1)
            .is_golden("prepared_blocks");
        let list = at(&shop.url, &["sessions"]).await.exits(0);
        list.assert_out(" prepared transaction it's of postgres for ");
        list.assert_out("\u{2514} migration");
        cancel(&look, waiting).await;
    };
    let (altered, ()) = futures_util::join!(alter, examined);
    altered.expect_err("it was cancelled");
    let old = ["--transaction", "0s"];
    let url = [("DATABASE_URL", shop.url.as_str())];
    let ran = examine(&server, &url, &old).await.exits(1);
    ran.is_golden("prepared");
    let remedy = "ROLLBACK PREPARED 'it''s'; -- or COMMIT PREPARED, as its coordinator has decided";
    ran.assert_out(&format!("-> {remedy}\n"));
    look.batch_execute(remedy).await.expect("rolled back");
    let ran = examine(&server, &url, &old).await;
    assert!(!ran.out.contains("prepared"), "{}", ran.out);
}

/// A prepared transaction with a lock on the same table is innocent if the modes do not conflict.
#[tokio::test]
async fn prepared_locks_that_conflict_block() {
    let server = Postgres::builder()
        .setting("max_prepared_transactions", 5)
        .start()
        .await
        .expect("a server");
    let shop = server.create_database("shop").await.expect("a database");
    shop.execute("create table partners (a int); insert into partners values (1)")
        .await
        .expect("a table");
    for (statement, gid) in [
        ("select from partners", "reads"),
        ("update partners set a = 2", "writes"),
    ] {
        let prepare = format!("begin; {statement}; prepare transaction '{gid}'");
        shop.execute(&prepare).await.expect("prepared");
    }
    let look = client(&shop.url, "look").await;
    let holder = client(&shop.url, "shop:17").await;
    let waits = client(&shop.url, "shop:18").await;
    let waiting = pid(&waits).await;
    for (held, wanted, blocker) in [
        (
            "row exclusive",
            "lock table partners in share mode; select 1",
            Some("writes"),
        ),
        ("row exclusive", "update partners set a = 3", Some("writes")),
        ("share update exclusive", "vacuum partners", None),
    ] {
        let hold = format!("begin; lock table partners in {held} mode");
        holder.batch_execute(&hold).await.expect("locked");
        let examined = async {
            until(&look, "select count(*) = 1 from pg_locks where not granted").await;
            let list = at(&shop.url, &["sessions", "--json"]).await.exits(0);
            cancel(&look, waiting).await;
            list.json()
        };
        let (locked, list) = futures_util::join!(waits.batch_execute(wanted), examined);
        locked.expect_err("it was cancelled");
        let sessions = list["sessions"].as_array().expect("sessions");
        let waiting = sessions.iter().find(|one| one["application"] == "shop:18");
        let waiting = waiting.expect("the one that waits");
        let gids: Vec<&str> = blocker.into_iter().collect();
        assert_eq!(waiting["blocked_by_prepared"], serde_json::json!(gids));
        let pids = waiting["blocked_by"].as_array().expect("processes");
        // 0 is a prepared transaction.
        let is_prepared = pids.contains(&serde_json::json!(0));
        assert_eq!(is_prepared, blocker.is_some(), "{pids:?}");
        holder.batch_execute("rollback").await.expect("rolled back");
    }
}

/// Uses a low threshold: two thousand million transactions would take days.
#[tokio::test]
async fn old_transaction_ids_are_a_finding() {
    let (server, shop) = shop().await;
    let url = [("DATABASE_URL", shop.url.as_str())];
    let limit = ["--transaction-age", "5000"];
    examine(&server, &url, &limit).await.exits(0);
    let busy = client(&shop.url, "busy").await;
    let use_up = "do $$ begin for i in 1..6000 loop perform pg_current_xact_id(); commit; \
                  end loop; end $$";
    let holder = client(&shop.url, "shop:17").await;
    holder
        .batch_execute("begin isolation level repeatable read; select 1")
        .await
        .expect("begun");
    busy.batch_execute(use_up).await.expect("used up");
    let ran = examine(&server, &url, &limit).await.exits(1);
    ran.is_golden("wraparound_held");
    let end = format!("-> SELECT pg_terminate_backend({});\n", pid(&holder).await);
    ran.assert_out(&end);
    drop(holder);
    until(
        &busy,
        "select count(*) = 0 from pg_stat_activity where application_name = 'shop:17'",
    )
    .await;
    let ran = examine(&server, &url, &limit).await.exits(1);
    ran.is_golden("wraparound");
    // The remedy works, in each database of the server: the oldest is reported.
    for database in ["shop", "postgres", "template1"] {
        let there = client(&server.url_for("postgres", database), "vacuum").await;
        there
            .batch_execute("VACUUM (FREEZE);")
            .await
            .expect("vacuumed");
    }
    let allow = "update pg_database set datallowconn = true where datname = 'template0'";
    busy.batch_execute(allow).await.expect("allowed");
    let there = client(&server.url_for("postgres", "template0"), "vacuum").await;
    there
        .batch_execute("VACUUM (FREEZE);")
        .await
        .expect("vacuumed");
    drop(there);
    let ran = examine(&server, &url, &limit).await;
    assert!(!ran.out.contains("accepts no writes from"), "{}", ran.out);
}

/// A prepared transaction or a slot keeps the oldest rows without a session.
#[tokio::test]
async fn old_transaction_ids_are_held_without_a_session() {
    let server = Postgres::builder()
        .setting("max_prepared_transactions", 5)
        .setting("wal_level", "logical")
        .start()
        .await
        .expect("a server");
    let shop = server.create_database("shop").await.expect("a database");
    let busy = client(&shop.url, "busy").await;
    let url = [("DATABASE_URL", shop.url.as_str())];
    for (hold, holder, remedy, uses_up) in [
        (
            "select pg_create_logical_replication_slot('left_over', 'pgoutput')",
            "replication slot left_over",
            "SELECT pg_drop_replication_slot('left_over');",
            6_000,
        ),
        (
            "begin; create table partners (a int); prepare transaction 'transfer'",
            "prepared transaction transfer",
            "ROLLBACK PREPARED 'transfer'; -- or COMMIT PREPARED, as its coordinator has decided",
            13_000,
        ),
    ] {
        busy.batch_execute(hold).await.expect("held");
        let use_up = format!(
            "do $$ begin for i in 1..{uses_up} loop perform pg_current_xact_id(); commit; \
             end loop; end $$"
        );
        busy.batch_execute(&use_up).await.expect("used up");
        let limit = ["--transaction-age", "5000"];
        let ran = examine(&server, &url, &limit).await.exits(1);
        ran.assert_out(&format!("cannot remove what {holder} may still see"));
        ran.assert_out(&format!("-> {remedy}\n"));
        busy.batch_execute(remedy).await.expect("ended");
    }
}

/// It is no vacuum, and what lets the others go on is its end.
#[tokio::test]
async fn worker_that_blocks_is_named() {
    let server = Postgres::builder()
        .setting("wal_level", "logical")
        .start()
        .await
        .expect("a server");
    let source = server.create_database("source").await.expect("a database");
    let shop = server.create_database("shop").await.expect("a database");
    let table = "create table partners (a int primary key)";
    source
        .execute(&format!(
            "{table}; create publication all_of_it for all tables"
        ))
        .await
        .expect("a publication");
    let published = client(&source.url, "source").await;
    published
        .batch_execute("select pg_create_logical_replication_slot('shop', 'pgoutput')")
        .await
        .expect("a slot");
    shop.execute(table).await.expect("a table");
    let look = client(&shop.url, "look").await;
    let subscribe = format!(
        "create subscription shop connection '{}' publication all_of_it \
         with (create_slot = false, copy_data = false)",
        source.url
    );
    look.batch_execute(&subscribe)
        .await
        .expect("a subscription");
    // The worker has a lock on the table, and waits until it is known whether the row is there.
    let holder = client(&shop.url, "shop:17").await;
    holder
        .batch_execute("begin; insert into partners values (1)")
        .await
        .expect("inserted");
    published
        .batch_execute("insert into partners values (1)")
        .await
        .expect("inserted");
    until(&look, "select count(*) = 1 from pg_locks where not granted").await;
    let migration = client(&shop.url, "migration").await;
    let waiting = pid(&migration).await;
    let alter = migration.batch_execute("alter table partners add b int");
    let examined = async {
        until(&look, "select count(*) = 2 from pg_locks where not granted").await;
        let ran = examine_at(&server, &shop.url).await.exits(1);
        ran.assert_out(" (logical replication ");
        let remedy = "ALTER SUBSCRIPTION shop DISABLE; -- its worker would begin again";
        ran.assert_out(&format!("-> {remedy}\n"));
        look.batch_execute(remedy).await.expect("disabled");
        assert!(!ran.out.contains("autovacuum"), "{}", ran.out);
        cancel(&look, waiting).await;
    };
    let (altered, ()) = futures_util::join!(alter, examined);
    altered.expect_err("it was cancelled");
}

/// A vacuum that prevents a wraparound does not give way to the lock of a migration.
#[tokio::test]
async fn autovacuum_that_blocks_is_named() {
    let server = Postgres::builder()
        .setting("autovacuum", "on")
        .setting("autovacuum_freeze_max_age", 100_000)
        .setting("autovacuum_naptime", 1)
        .start()
        .await
        .expect("a server");
    let shop = server.create_database("shop").await.expect("a database");
    shop.execute(
        "create table partners (a text) with (autovacuum_enabled = off, \
         autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1); \
         insert into partners select repeat('x', 1000) from generate_series(1, 5000)",
    )
    .await
    .expect("a table");
    let busy = client(&shop.url, "busy").await;
    let use_up = "do $$ begin for i in 1..101000 loop perform pg_current_xact_id(); commit; \
                  end loop; end $$";
    busy.batch_execute(use_up).await.expect("used up");
    let at_work = "select count(*) = 1 from pg_stat_activity \
                   where query like 'autovacuum: VACUUM%public.partners (to prevent wraparound)'";
    until(&busy, at_work).await;
    let migration = client(&shop.url, "migration").await;
    let waiting = pid(&migration).await;
    let alter = migration.batch_execute("alter table partners add b int");
    let examined = async {
        let waits = "select count(*) > 0 from pg_locks \
                     where not granted and relation = 'partners'::regclass";
        until(&busy, waits).await;
        let mut ran = examine_at(&server, &shop.url).await.exits(1);
        // Other tables may be vacuumed as well, or not.
        let findings = ran.out.split("\n\n").nth(1).unwrap_or_default();
        ran.out = findings.replace("VACUUM ANALYZE ", "VACUUM ") + "\n";
        ran.is_golden("autovacuum");
        let cancel = format!("SELECT pg_cancel_backend({waiting});");
        ran.assert_out(&cancel);
        busy.batch_execute(&cancel).await.expect("cancelled");
    };
    let (altered, ()) = futures_util::join!(alter, examined);
    altered.expect_err("it was cancelled");
}

#[tokio::test]
async fn invalid_indexes_can_be_dropped() {
    let (server, shop) = shop().await;
    shop.execute("create schema \"old Data\"; create table \"old Data\".partners (a int); insert into \"old Data\".partners values (1), (1)")
        .await
        .expect("a table");
    let look = client(&shop.url, "look").await;
    let create = "create unique index concurrently twice on \"old Data\".partners (a)";
    look.batch_execute(create)
        .await
        .expect_err("it is not unique");
    let ran = examine_at(&server, &shop.url).await.exits(1);
    ran.is_golden("indexes");
    let remedy = "DROP INDEX CONCURRENTLY \"old Data\".twice;";
    ran.assert_out(remedy);
    look.batch_execute(remedy).await.expect("dropped");
    examine_at(&server, &shop.url).await.exits(0);
}

#[tokio::test]
async fn sequences_near_their_end_are_findings() {
    let (server, shop) = shop().await;
    shop.execute(
        "create table partners (id serial); create table orders (id int); \
         create sequence orders_id as bigint owned by orders.id; create sequence small as int; \
         create table items (id bigint generated always as identity (maxvalue 1000)); \
         create sequence round as smallint cycle; create sequence unused as smallint",
    )
    .await
    .expect("tables");
    examine_at(&server, &shop.url).await.exits(0);
    shop.execute(
        "select setval('partners_id_seq', 2147483000), setval('orders_id', 2000000000), \
         setval('small', 2147483646), setval('items_id_seq', 999), setval('round', 32000)",
    )
    .await
    .expect("set");
    let ran = examine_at(&server, &shop.url).await.exits(1);
    ran.is_golden("sequences");
    shop.execute("ALTER SEQUENCE public.small AS bigint MAXVALUE 9223372036854775807;")
        .await
        .expect("the remedy works");
    let ran = examine_at(&server, &shop.url).await.exits(1);
    assert!(!ran.out.contains("public.small"), "{}", ran.out);
}

/// The server locks a sequence to read it.
#[tokio::test]
async fn locked_sequences_lose_no_other_check() {
    let (server, shop) = shop().await;
    shop.execute("create sequence small as int")
        .await
        .expect("a sequence");
    let altering = client(&shop.url, "migration").await;
    altering
        .batch_execute("begin; alter sequence small restart")
        .await
        .expect("altered");
    let ran = examine_at(&server, &shop.url).await.exits(0);
    ran.assert_out("sequences      not tested: a lock could not be obtained in time");
    ran.assert_out("the oldest transaction is ");
    ran.assert_out("all are valid");
}

#[tokio::test]
async fn replication_slots_that_hold_wal_are_findings() {
    let (server, shop) = shop().await;
    let look = client(&shop.url, "look").await;
    look.batch_execute("select pg_create_physical_replication_slot('left over', true)")
        .await
        .expect_err("a blank is not permitted");
    look.batch_execute("select pg_create_physical_replication_slot('left_over', true)")
        .await
        .expect("a slot");
    let url = [("DATABASE_URL", shop.url.as_str())];
    let limit = ["--retained-wal", "1"];
    examine(&server, &url, &limit).await.exits(0);
    look.batch_execute(
        "create table partners (a text); \
         insert into partners select repeat('x', 1000) from generate_series(1, 3000)",
    )
    .await
    .expect("written");
    let ran = examine(&server, &url, &limit).await.exits(1);
    ran.is_golden("replication");
    let remedy = "SELECT pg_drop_replication_slot('left_over');";
    ran.assert_out(remedy);
    look.batch_execute(remedy).await.expect("dropped");
    examine(&server, &url, &limit).await.exits(0);
}

#[tokio::test]
async fn held_servers_of_a_pooler_are_counted() {
    let (server, shop) = shop().await;
    let pooler = PgBouncer::builder(&server)
        .mode(Mode::Session)
        .pool_size(1)
        .setting("stats_users", "postgres")
        .start()
        .await
        .expect("a pooler");
    let url = pooler.url(&shop.url) + "?connect_timeout=2";
    let held = client(&url, "shop:17").await;
    held.batch_execute("select 1").await.expect("a server");
    let waits = client(&url, "shop:18").await;
    let waiting = waits.batch_execute("select 1");
    let console = url.replace("/shop?", "/pgbouncer?");
    let examined = async {
        let console = client(&console, "look").await;
        let end = std::time::Instant::now() + cli::TIMEOUT;
        loop {
            let pools = console.simple_query("show pools").await.expect("pools");
            let waits = pools.iter().any(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get("cl_waiting") == Some("1"),
                _ => false,
            });
            if waits {
                break;
            }
            assert!(std::time::Instant::now() < end, "no client waits");
        }
        let variables = [
            ("DATABASE_URL", url.as_str()),
            ("ANTIFREEZE_POOLER", "session"),
        ];
        let ran = run(&variables, &["doctor", "--wait", "0s"]).await.exits(2);
        ran.is_golden("pooler_held");
        drop(held);
    };
    let (served, ()) = futures_util::join!(waiting, examined);
    served.expect("a server in the end");
}

/// A URL of a pooler that was moved to the server itself.
#[tokio::test]
async fn left_over_pooler_parameters_are_findings() {
    let (server, shop) = shop().await;
    let url = shop.url.clone() + "?pgbouncer=true";
    let ran = examine_at(&server, &url).await.exits(1);
    ran.is_golden("pooler_missing");
    let variables = [
        ("DATABASE_URL", shop.url.as_str()),
        ("ANTIFREEZE_POOLER", "transaction"),
    ];
    let ran = examine(&server, &variables, &[]).await.exits(1);
    ran.assert_out("-> remove ANTIFREEZE_POOLER\n");
}

/// Whatever other sessions run: their passwords are not shown.
#[tokio::test]
async fn passwords_in_statements_are_not_shown() {
    let (server, shop) = shop().await;
    let url = shop.url.as_str();
    for statement in [
        "begin; create role shopper password 'hunter2'",
        "begin; select 'postgres://app:hunter2@db.example.com/shop'",
    ] {
        let stuck = cli::stuck(url, "shop:17", statement).await;
        let limits = ["--idle-in-transaction", "1h", "--transaction", "50ms"];
        // `run` fails on the password.
        let ran = examine(&server, &[("DATABASE_URL", url)], &limits)
            .await
            .exits(1);
        ran.assert_out("***");
        let json = [&limits[..], &["--json"]].concat();
        examine(&server, &[("DATABASE_URL", url)], &json)
            .await
            .exits(1);
        for arguments in [&["sessions"][..], &["sessions", "--json"]] {
            at(url, arguments).await.exits(0).assert_out("***");
        }
        drop(stuck);
    }
}
