//! What a driver asks for at its start-up, in sessions that others use too.

use std::cell::Cell;
use std::time::Duration;

use antifreeze::{Config, claim, invocation, transaction};
use bytes::BytesMut;
use postgres_protocol::message::frontend;

use crate::assert_clean;
use crate::common::{BoxError, Lab, PLENTY, lab_over_relay, lab_with, sleeps};
use crate::raw::{Message, Raw, SYNC, query};

/// A database whose time zone is this.
async fn lab_at(zone: &str) -> Lab {
    let lab = lab_with(|config| config.max_connections(2)).await;
    let set = format!(
        "do $$ begin execute format('alter database %I set timezone = ''{zone}''', \
         current_database()); end $$"
    );
    lab.server.execute(&set).await.expect("a setting");
    lab
}

/// A driver that is ready.
async fn start(url: &str, parameters: &[(&str, &str)]) -> Raw {
    let mut raw = Raw::start(url, parameters).await;
    raw.ready().await;
    raw
}

/// Returns the rows, and the SQLSTATEs of errors.
async fn ask(raw: &mut Raw, sql: &str) -> String {
    raw.send(&query(sql)).await;
    let mut answers = Vec::new();
    loop {
        let message = raw.next().await.expect("not the end");
        match message.tag {
            b'D' => answers.push(String::from_utf8_lossy(&message.body[6..]).into_owned()),
            b'E' => answers.extend(Message::field(&message, b'C')),
            b'Z' => return answers.join(" "),
            _ => {}
        }
    }
}

/// Asks by a connection of its own, in an invocation that is granted this time.
async fn ask_once(lab: &Lab, granted: Duration, parameter: (&str, &str), sql: &str) -> String {
    let url = lab.database.url().expect("a socket");
    let parameters = Some(parameter).filter(|(name, _)| !name.is_empty());
    let asked = lab.database.invocation(granted, async {
        let mut raw = start(&url, parameters.as_slice()).await;
        Ok::<_, BoxError>(ask(&mut raw, sql).await)
    });
    asked.await.expect("answered")
}

#[tokio::test]
async fn parameter_is_one_in_any_case() {
    let lab = lab_at("Europe/Berlin").await;
    for name in ["timezone", "TimeZone", "TIMEZONE"] {
        let shown = ask_once(&lab, PLENTY, (name, "UTC"), "show timezone").await;
        assert_eq!(shown, "UTC", "{name}");
    }
    let shown = ask_once(&lab, PLENTY, ("", ""), "show timezone").await;
    assert_eq!(shown, "Europe/Berlin");
}

#[tokio::test]
async fn server_timeouts_outlive_a_drivers_own() {
    let lab = lab_with(|config| config.max_connections(1)).await;
    let show = "show idle_session_timeout; show statement_timeout";
    let (short, none) = (Duration::from_secs(7), ("", ""));
    let own = ("idle_session_timeout", "10s");
    assert_eq!(ask_once(&lab, short, own, show).await, "10s 6999ms");
    assert_eq!(ask_once(&lab, short, none, show).await, "15min 6999ms");
    let own = ("statement_timeout", "5s");
    for granted in [short, Duration::from_secs(60)] {
        assert_eq!(ask_once(&lab, granted, own, show).await, "15min 5s");
    }
    assert_eq!(ask_once(&lab, short, none, show).await, "15min 30s");
}

#[tokio::test]
async fn set_local_of_a_driver_holds_until_the_end() {
    let lab = lab_at("UTC").await;
    for handler_first in [false, true] {
        lab.run(async {
            if handler_first {
                transaction().await?.batch_execute("select 1").await?;
            }
            let utc = [("TimeZone", "UTC"), ("DateStyle", "ISO, MDY")];
            let mut driver = start(&invocation()?.transaction_url()?, &utc).await;
            ask(&mut driver, "set local timezone = 'Europe/Berlin'").await;
            let shown = ask(&mut driver, "show timezone").await;
            assert_eq!(shown, "Europe/Berlin", "{handler_first}");
            Ok(())
        })
        .await
        .expect("committed");
    }
}

#[tokio::test]
async fn failed_transaction_is_left_to_its_driver() {
    let lab = lab_at("UTC").await;
    lab.run(async {
        transaction().await?.batch_execute("select 1").await?;
        let url = invocation()?.transaction_url()?;
        let mut driver = start(&url, &[("search_path", "app")]).await;
        ask(&mut driver, "savepoint a").await;
        for _ in 0..2 {
            assert_eq!(ask(&mut driver, "select 1 / 0").await, "22012");
            assert_eq!(ask(&mut driver, "rollback to savepoint a").await, "");
        }
        assert_eq!(ask(&mut driver, "select 1 / 0").await, "22012");
        let mut late = start(&url, &[("search_path", "late")]).await;
        assert_eq!(ask(&mut late, "select 1").await, "25P02");
        assert_eq!(ask(&mut late, "rollback to savepoint a").await, "");
        assert_eq!(ask(&mut late, "show search_path").await, "late");
        assert_eq!(ask(&mut driver, "show search_path").await, "app");
        Ok(())
    })
    .await
    .expect("committed");
}

/// What it has set is undone with the savepoint in which it came.
#[tokio::test]
async fn savepoint_takes_no_parameters_along() {
    let lab = lab_at("UTC").await;
    lab.run(async {
        let url = invocation()?.transaction_url()?;
        let transaction = transaction().await?;
        let savepoint = transaction.savepoint().await?;
        let mut driver = start(&url, &[("search_path", "app")]).await;
        assert_eq!(ask(&mut driver, "show search_path").await, "app");
        savepoint.rollback().await?;
        assert_eq!(ask(&mut driver, "show search_path").await, "app");
        let savepoint = transaction.savepoint().await?;
        ask(&mut driver, "set local search_path = other").await;
        savepoint.release().await?;
        assert_eq!(ask(&mut driver, "show search_path").await, "other");
        Ok(())
    })
    .await
    .expect("committed");
}

#[tokio::test]
async fn drivers_of_one_transaction_have_their_own() {
    let lab = lab_at("UTC").await;
    lab.run(async {
        let url = invocation()?.transaction_url()?;
        let mut other = start(&url, &[("search_path", "app")]).await;
        let mut plain = start(&url, &[]).await;
        for _ in 0..2 {
            assert_eq!(ask(&mut other, "show search_path").await, "app");
            let shown = ask(&mut plain, "show search_path").await;
            assert_eq!(shown, "\"$user\", public");
        }
        ask(&mut plain, "set local search_path = mine").await;
        assert_eq!(ask(&mut plain, "show search_path").await, "mine");
        // What the savepoint takes back is the parameter of the other.
        let transaction = transaction().await?;
        assert_eq!(ask(&mut other, "show search_path").await, "app");
        let savepoint = transaction.savepoint().await?;
        assert_eq!(ask(&mut plain, "select 1").await, "1");
        savepoint.rollback().await?;
        let shown = ask(&mut plain, "show search_path").await;
        assert_eq!(shown, "\"$user\", public");
        Ok(())
    })
    .await
    .expect("committed");
}

/// By the handler or by a driver, of all or to a savepoint.
#[tokio::test]
async fn rollback_leaves_a_driver_its_parameters() {
    let lab = lab_at("UTC").await;
    for (begin, rollback) in [
        ("select 1", "rollback"),
        ("savepoint a", "rollback to savepoint a"),
        ("select 1", "rollback; select 1"),
        ("select 1", "commit; select 1"),
    ] {
        for by_driver in [false, true] {
            if by_driver && !begin.contains("savepoint") {
                continue;
            }
            lab.run(async {
                let url = invocation()?.transaction_url()?;
                let mut first = start(&url, &[]).await;
                let transaction = transaction().await?;
                transaction.batch_execute(begin).await?;
                let mut driver = start(&url, &[("search_path", "app")]).await;
                assert_eq!(ask(&mut driver, "show search_path").await, "app");
                if by_driver {
                    ask(&mut first, rollback).await;
                } else {
                    transaction.batch_execute(rollback).await?;
                }
                let shown = ask(&mut driver, "show search_path").await;
                assert_eq!(shown, "app", "{rollback} {by_driver}");
                let shown = ask(&mut first, "show search_path").await;
                assert_eq!(shown, "\"$user\", public", "{rollback} {by_driver}");
                Ok(())
            })
            .await
            .expect("committed");
        }
    }
    let shown = ask_once(&lab, PLENTY, ("", ""), "show search_path").await;
    assert_eq!(shown, "\"$user\", public");
}

#[tokio::test]
async fn driver_waits_for_the_handlers_statement() {
    let lab = lab_at("UTC").await;
    lab.run(async {
        let transaction = transaction().await?;
        let mut driver = start(&invocation()?.transaction_url()?, &[]).await;
        transaction.batch_execute("select 1").await?;
        let asks = Cell::new(false);
        let slow = async {
            // Some more once it is asked for.
            let mut more = 3;
            while more > 0 {
                more -= usize::from(asks.get());
                transaction.batch_execute("select pg_sleep(0.1)").await?;
            }
            Ok::<_, tokio_postgres::Error>(())
        };
        let asked = async {
            sleeps(&lab.server).await;
            asks.set(true);
            ask(&mut driver, "select 7").await
        };
        let (slept, asked) = tokio::join!(slow, asked);
        slept?;
        assert_eq!(asked, "7");
        Ok(())
    })
    .await
    .expect("committed");
}

#[tokio::test]
async fn unread_rows_are_told_to_a_driver() {
    let lab = lab_with(|config| config.acquire_timeout(Duration::from_secs(1))).await;
    lab.run(async {
        let transaction = transaction().await?;
        let mut driver = start(&invocation()?.transaction_url()?, &[]).await;
        let many = "select repeat('x', 1000) from generate_series(1, 500)";
        let rows = transaction.query_raw::<_, i32, _>(many, []).await?;
        assert_eq!(ask(&mut driver, "select 1").await, "25001");
        drop(rows);
        assert_eq!(ask(&mut driver, "select 1").await, "1");
        Ok(())
    })
    .await
    .expect("committed");
}

#[tokio::test]
async fn failed_commit_leaves_a_driver_its_parameters() {
    let lab = lab_at("UTC").await;
    let table = "create table d (a int unique deferrable initially deferred)";
    lab.server.execute(table).await.expect("a table");
    lab.run(async {
        let transaction = transaction().await?;
        transaction
            .batch_execute("insert into d values (1), (1)")
            .await?;
        let url = invocation()?.transaction_url()?;
        let mut driver = start(&url, &[("search_path", "app")]).await;
        assert_eq!(ask(&mut driver, "show search_path").await, "app");
        transaction
            .batch_execute("commit")
            .await
            .expect_err("twice");
        transaction.batch_execute("select 1").await?;
        assert_eq!(ask(&mut driver, "show search_path").await, "app");
        Ok(())
    })
    .await
    .expect("committed");
}

/// Asks, unless the connection was ended.
async fn try_ask(raw: &mut Raw, sql: &str) -> Option<String> {
    let mut shown = None;
    if raw.try_send(&query(sql)).await {
        while let Some(message) = raw.next().await.filter(|message| message.tag != b'Z') {
            if message.tag == b'D' {
                shown = Some(String::from_utf8_lossy(&message.body[6..]).into_owned());
            }
        }
    }
    shown
}

/// As a handler sets the time zone of a tenant on a connection of the process's pool.
#[tokio::test]
async fn later_set_ends_with_its_invocation() {
    let lab = lab_at("UTC").await;
    let url = lab.database.url().expect("a socket");
    for claims in [false, true] {
        let mut driver = start(&url, &[]).await;
        lab.run(async {
            let first = if claims {
                claim()
            } else {
                "select 1".to_owned()
            };
            ask(&mut driver, &first).await;
            ask(&mut driver, "SET TIME ZONE 'Asia/Tokyo'").await;
            assert_eq!(ask(&mut driver, "show timezone").await, "Asia/Tokyo");
            Ok(())
        })
        .await
        .expect("answered");
        let next = lab.run(async {
            let kept = try_ask(&mut driver, "show timezone").await;
            assert!(kept.as_deref().unwrap_or("UTC") == "UTC", "{claims}");
            Ok(())
        });
        next.await.expect("the next invocation");
        let shown = ask_once(&lab, PLENTY, ("", ""), "show timezone").await;
        assert_eq!(shown, "UTC", "{claims}");
    }
}

/// As drivers do, and hooks of pools, which may repeat it.
#[tokio::test]
async fn set_at_connect_holds_in_each_invocation() {
    let lab = lab_at("UTC").await;
    let url = lab.database.url().expect("a socket");
    let mut driver = start(&url, &[]).await;
    ask(&mut driver, "SET TIME ZONE 'Asia/Tokyo'").await;
    for _ in 0..3 {
        lab.run(async {
            ask(&mut driver, "SET TIME ZONE 'Asia/Tokyo'").await;
            ask(&mut driver, "SET client_encoding = 'UTF8'").await;
            ask(&mut driver, "SET extra_float_digits = 3").await;
            assert_eq!(ask(&mut driver, "show timezone").await, "Asia/Tokyo");
            Ok(())
        })
        .await
        .expect("answered");
    }
    assert_clean(&lab);
}

/// The bridge has answered its Parse, and the server executes it.
#[tokio::test]
async fn set_prepared_at_connect_can_be_used_later() {
    let lab = lab_at("UTC").await;
    lab.run(async {
        let mut driver = start(&lab.database.url()?, &[]).await;
        let zones = ["Asia/Tokyo", "Asia/Kabul"];
        for (name, zone) in ["a", "b"].into_iter().zip(zones) {
            let mut parse = BytesMut::new();
            frontend::parse(name, &format!("SET TIME ZONE '{zone}'"), [], &mut parse)?;
            driver.send(&[&parse, SYNC].concat()).await;
            assert_eq!(driver.ready().await.0, "1Z");
        }
        let execute = |name: &str| {
            let bind = format!("B\0\0\0\x0d\0{name}\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0");
            [bind.as_bytes(), SYNC].concat()
        };
        driver.send(&execute("a")).await;
        driver.ready().await;
        for (name, zone) in [("", zones[0]), ("a", zones[0]), ("b", zones[1])] {
            if !name.is_empty() {
                driver.send(&execute(name)).await;
                let tags = driver.ready().await.0.replace('S', "");
                assert_eq!(tags, "2CZ", "{name}");
            }
            assert_eq!(ask(&mut driver, "show timezone").await, zone, "{name}");
        }
        Ok(())
    })
    .await
    .expect("answered");
}

/// The handler's future is dropped while the server changes the parameters.
#[tokio::test]
async fn dropped_change_of_parameters_is_made_good() {
    let one = |config: Config| config.max_connections(1).drivers_on_runtime(true);
    let (lab, relay) = lab_over_relay(one).await;
    lab.run(async {
        let wants = [("search_path", "app"), ("TimeZone", "Asia/Tokyo")];
        let mut driver = start(&invocation()?.url()?, &wants).await;
        let show = "show search_path; show timezone";
        assert_eq!(ask(&mut driver, show).await, "app Asia/Tokyo");
        relay.quiet(Duration::from_millis(50)).await;
        let before = relay.counts();
        relay.stall_down();
        tokio::select! {
            _ = antifreeze::connection() => panic!("the server has not answered"),
            () = lab.eventually("it is sent", async |_| relay.counts().since(before).bytes_up > 0) => {}
        }
        relay.resume();
        assert_eq!(ask(&mut driver, show).await, "app Asia/Tokyo");
        Ok(())
    })
    .await
    .expect("answered");
}

/// The start of a driver takes too long while the server changes the parameters.
#[tokio::test]
async fn driver_inherits_nothing_of_a_start_in_vain() {
    let one = |config: Config| {
        config
            .max_connections(1)
            .connect_timeout(Duration::from_secs(4))
    };
    let (lab, relay) = lab_over_relay(one).await;
    lab.run(async {
        let url = invocation()?.url()?;
        let mut plain = start(&url, &[]).await;
        let show = "show search_path";
        let shown = ask(&mut plain, show).await;
        relay.quiet(Duration::from_millis(50)).await;
        relay.stall_down();
        let mut other = Raw::start(&url, &[("search_path", "app")]).await;
        assert_eq!(other.error().await.field(b'C').as_deref(), Some("08001"));
        relay.resume();
        assert_eq!(ask(&mut plain, show).await, shown);
        Ok(())
    })
    .await
    .expect("answered");
}
