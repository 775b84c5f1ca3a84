//! What goes wrong beside the usual: failed COPYs, failovers, ended runtimes, late requests to
//! cancel.

use std::cell::Cell;
use std::time::Duration;

use antifreeze::teardown::Step;
use antifreeze::{ErrorKind, claim, invocation};
use lab::relay::Relay;
use tokio_postgres::NoTls;

use crate::common::{Lab, PLENTY, kind, lab, lab_over_relay, lab_with, sleeps};
use crate::raw::{Raw, SYNC, query};
use crate::{assert_clean, connect, unclean, value};

/// In a transaction, and in a failed one, as the hooks of a pool may have it.
#[tokio::test]
async fn claim_is_answered_with_the_status() {
    let lab = lab().await;
    let done = lab
        .run(async {
            let invocation = invocation()?;
            for url in [
                lab.database.url()?,
                invocation.url()?,
                invocation.transaction_url()?,
            ] {
                let mut raw = Raw::start(&url, &[]).await;
                raw.ready().await;
                raw.send(&query(&claim())).await;
                assert_eq!(raw.ready().await, ("CZ".to_owned(), 'I'));
                let begins = match url.contains("transaction_") {
                    true => "insert into t values (1)",
                    false => "begin",
                };
                raw.send(&query(begins)).await;
                assert_eq!(raw.ready().await, ("CZ".to_owned(), 'T'));
                raw.send(&query(&claim())).await;
                assert_eq!(raw.ready().await, ("CZ".to_owned(), 'T'));
                raw.send(&query("select 1 / 0")).await;
                assert_eq!(raw.ready().await.1, 'E');
                raw.send(&query(&claim())).await;
                assert_eq!(raw.ready().await, ("CZ".to_owned(), 'E'));
            }
            Ok(())
        })
        .await;
    let kind = done.as_ref().err().and_then(kind);
    assert_eq!(kind, Some(ErrorKind::TransactionFailed), "{done:?}");
    lab.assert_at_rest().await;
}

/// A driver notices that a COPY has failed when it has sent the rest of it.
#[tokio::test]
async fn end_of_a_failed_copy_is_ignored() {
    let lab = lab().await;
    let sessions = "select pid from pg_stat_activity where application_name = 'under test' \
                    and datname = current_database()";
    let mut pids = Vec::new();
    let ends = [
        (&b""[..], &b"f\0\0\0\x06x\0"[..]),
        (b"", b"c\0\0\0\x04"),
        // What was still to be sent comes with the end.
        (b"", b"d\0\0\0\x081\n22c\0\0\0\x04"),
        // The same in the middle of a message.
        (b"d\0\0\0\x081\n", b"22c\0\0\0\x04"),
    ];
    for (begun, end) in ends {
        lab.run(async {
            let mut raw = Raw::start(&invocation()?.url()?, &[]).await;
            raw.ready().await;
            raw.send(&query("begin")).await;
            raw.ready().await;
            raw.send(&query("copy t from stdin")).await;
            while raw.next().await.is_some_and(|message| message.tag != b'G') {}
            let refused = b"d\0\0\0\x15no number at all\n";
            raw.send(&[&refused[..], begun].concat()).await;
            raw.error().await;
            assert_eq!(raw.ready().await, ("Z".to_owned(), 'E'));
            raw.send(end).await;
            raw.send(&query("rollback")).await;
            assert_eq!(raw.ready().await, ("CZ".to_owned(), 'I'));
            raw.send(SYNC).await;
            assert_eq!(raw.ready().await, ("Z".to_owned(), 'I'));
            Ok(())
        })
        .await
        .expect("it returns");
        pids.push(lab.server.query(sessions).await.expect("activity"));
    }
    assert_clean(&lab);
    assert!(pids[0].len() == 1, "{pids:?}");
    assert!(pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
}

/// Another server may have other parameters: a connection is told at its next statement, and a
/// new one at once.
#[tokio::test]
async fn changed_parameters_are_told() {
    let lab = lab().await;
    let url = lab.database.url().expect("a socket");
    let zone = async |raw: &mut Raw| {
        let mut told = String::new();
        loop {
            let message = raw.next().await.expect("not the end");
            if message.tag == b'S' && message.body.starts_with(b"TimeZone\0") {
                told = String::from_utf8_lossy(&message.body[9..]).replace('\0', "");
            }
            if message.tag == b'Z' {
                return told;
            }
        }
    };
    lab.run(async {
        let mut old = Raw::start(&url, &[]).await;
        assert_ne!(zone(&mut old).await, "Asia/Kabul");
        old.send(&query("select 1")).await;
        assert_eq!(zone(&mut old).await, "");
        let other = "do $$ begin execute format('alter database %I set timezone = %L', \
                     current_database(), 'Asia/Kabul'); end $$; \
                     select pg_terminate_backend(pid, 10000) from pg_stat_activity \
                     where datname = current_database() and application_name = 'under test'";
        lab.server.query(other).await?;
        old.send(&query("select 1")).await;
        assert_eq!(zone(&mut old).await, "Asia/Kabul");
        old.send(&query("select 1")).await;
        assert_eq!(zone(&mut old).await, "", "once");
        assert_eq!(zone(&mut Raw::start(&url, &[]).await).await, "Asia/Kabul");
        Ok(())
    })
    .await
    .expect("it returns");
}

/// A socket that the function's runtime serves ends with it, and the next one has a new one.
#[test]
fn ended_runtime_takes_its_socket_along() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build()
    };
    let first = runtime().expect("a runtime");
    let lab = first.block_on(lab_with(|config| config.drivers_on_runtime(true)));
    let before = first.block_on(async { lab.database.url() });
    drop(first);
    let second = runtime().expect("a runtime");
    second.block_on(async {
        lab.run(async {
            let url = lab.database.url()?;
            assert_ne!(url, before?);
            assert_eq!(value(&connect(&url).await?, "select 1").await?, "1");
            Ok(())
        })
        .await
        .expect("answered");
        lab.assert_at_rest().await;
    });
}

/// A request that arrives when its statement has ended: what uses the invocation's transaction
/// next, be it another connection or the handler itself, waits for it.
#[tokio::test]
async fn late_cancel_spares_the_next_in_the_transaction() {
    let (lab, relay) = lab_over_relay(|config| config).await;
    let holder = connect(&lab.server.url).await.expect("a connection");
    for by_handler in [false, true] {
        let lock = holder.batch_execute("select pg_advisory_lock(7)").await;
        lock.expect("it is free");
        let runs = async |lab: &Lab| lab.sessions().await.contains(&"active".into());
        let ran = async |lab: &Lab| !runs(lab).await;
        lab.run(async {
            let url = invocation()?.transaction_url()?;
            let (one, other) = (connect(&url).await?, connect(&url).await?);
            let transaction = antifreeze::transaction().await?;
            one.batch_execute("select 1").await?;
            let token = one.cancel_token();
            let statements = async {
                one.batch_execute("select pg_advisory_xact_lock(7)").await?;
                let next = if by_handler { &*transaction } else { &other };
                next.batch_execute("select pg_sleep(0.5)").await
            };
            let cancelling = async {
                lab.eventually("it runs", runs).await;
                relay.stall_up();
                let before = relay.open_connections();
                let cancelling = tokio::spawn(async move { token.cancel_query(NoTls).await });
                let dials = async |_: &Lab| relay.open_connections() > before;
                lab.eventually("the request is sent", dials).await;
                let unlock = holder.batch_execute("select pg_advisory_unlock(7)").await;
                unlock.expect("it was locked");
                lab.eventually("the statement has ended", ran).await;
                // The request and, if it is not held back, the statement wait at the relay.
                tokio::time::sleep(Duration::from_millis(100)).await;
                relay.resume();
                cancelling.await
            };
            let (ran, cancelled) = tokio::join!(statements, cancelling);
            ran?;
            cancelled??;
            Ok(())
        })
        .await
        .expect("nothing was cancelled");
        lab.assert_at_rest().await;
    }
}

/// A session that is opened for a driver that belongs to none of several invocations is not left
/// when the last of them has ended.
#[tokio::test]
async fn session_for_a_startup_ends_with_the_last() {
    let (lab, relay) = lab_over_relay(|config| config).await;
    let url = lab.database.url().expect("a socket");
    relay.stall_down();
    let (begun, begin) = tokio::sync::oneshot::channel();
    let (done, end) = tokio::sync::oneshot::channel();
    let one = lab.run(async {
        let _ = begun.send(());
        Ok(end.await?)
    });
    let other = lab.run(async {
        begin.await?;
        let starting = tokio::spawn(async move {
            let mut raw = Raw::start(&url, &[]).await;
            raw.next().await.map(|message| message.tag)
        });
        let dials = async |_: &Lab| relay.open_connections() > 0;
        lab.eventually("it connects", dials).await;
        let _ = done.send(starting);
        Ok(())
    });
    let (starting, other) = tokio::join!(one, other);
    let starting = starting.and_then(|starting| other.map(|()| starting));
    let starting = starting.expect("both return");
    relay.resume();
    let answered = tokio::time::timeout(PLENTY, starting).await;
    // The invocations were none of the driver's: it gets another session.
    assert_eq!(answered.expect("in time").expect("no panic"), Some(b'R'));
    let one_rests = async |lab: &Lab| lab.sessions().await == ["idle"];
    lab.eventually("one is kept, and the other is gone", one_rests)
        .await;
}

/// The same driver's transaction is still rolled back by its own URL.
#[tokio::test]
async fn foreign_claim_leaves_an_own_url_alone() {
    let lab = lab().await;
    lab.run(async {
        let client = connect(&invocation()?.url()?).await?;
        client
            .batch_execute("begin; insert into t values (1)")
            .await?;
        client
            .batch_execute("set antifreeze.invocation = ''")
            .await?;
        client.batch_execute("insert into t values (2)").await?;
        Ok(())
    })
    .await
    .expect("it returns");
    assert_eq!(unclean(&lab), [Step::RolledBack]);
    assert_eq!(lab.rows().await, 0);
}

/// Waits until a CancelRequest has been sent since the connections were counted.
async fn is_cancelled(lab: &Lab, relay: &Relay, before: &Cell<Option<u64>>) {
    lab.eventually("it is being cancelled", async |_| {
        let before = before.get();
        before.is_some_and(|before| relay.counts().connections > before)
    })
    .await;
}

/// Waits until the session has ended, while its runtime is blocked.
fn ends_without_its_runtime(lab: &Lab) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(lab.eventually("the session has ended", async |lab| {
                lab.sessions().await.is_empty()
            }));
        });
    });
}

/// The invocation is dropped while it brings to rest what a driver has left, and the process is
/// frozen before any task has run.
#[tokio::test]
async fn session_that_a_driver_left_needs_no_task_to_end() {
    let (lab, relay) = lab_over_relay(|config| config.drivers_on_runtime(true)).await;
    let before = Cell::new(None);
    let running = lab.run(async {
        let mut raw = Raw::start(&invocation()?.url()?, &[]).await;
        raw.ready().await;
        raw.send(&query("begin; select pg_sleep(60)")).await;
        sleeps(&lab.server).await;
        before.set(Some(relay.counts().connections));
        relay.delay(Duration::from_millis(500));
        drop(raw);
        std::future::pending::<()>().await;
        Ok(())
    });
    let cancels = is_cancelled(&lab, &relay, &before);
    tokio::select! {
        _ = running => unreachable!("it is pending"),
        () = cancels => {}
    }
    ends_without_its_runtime(&lab);
}

/// The same, of a session that may belong to any of several invocations: the last of them ends it.
#[tokio::test]
async fn common_session_needs_no_task_to_end() {
    let (lab, relay) = lab_over_relay(|config| config.drivers_on_runtime(true)).await;
    let (before, kept) = (Cell::new(None), Cell::new(None));
    let [leaves, left] = [(); 2].map(|()| tokio::sync::Notify::new());
    let other = async {
        let waits = lab.run(async {
            leaves.notified().await;
            Ok(())
        });
        waits.await.expect("it ends");
        left.notify_one();
        std::future::pending::<()>().await
    };
    let last = lab.run(async {
        let mut raw = Raw::start(&lab.database.url()?, &[]).await;
        raw.ready().await;
        raw.send(&query("begin; select pg_sleep(60)")).await;
        sleeps(&lab.server).await;
        kept.set(Some(raw));
        leaves.notify_one();
        left.notified().await;
        before.set(Some(relay.counts().connections));
        relay.delay(Duration::from_millis(500));
        Ok(())
    });
    let cancels = is_cancelled(&lab, &relay, &before);
    tokio::select! {
        _ = async { tokio::join!(other, last) } => unreachable!("it is pending"),
        () = cancels => {}
    }
    ends_without_its_runtime(&lab);
}
