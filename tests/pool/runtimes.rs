//! Several tokio runtimes in one process.

use super::*;

fn runtimes() -> [Runtime; 2] {
    [
        Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime"),
        Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime"),
    ]
}

#[test]
fn each_runtime_has_its_own_connections() {
    let [first, second] = runtimes();
    let lab = first.block_on(lab_with(|config| config.max_connections(1)));
    let of_first = first.block_on(process_id(&lab));
    let of_second = second.block_on(process_id(&lab));
    assert_ne!(of_first, of_second);
    for _ in 0..3 {
        assert_eq!(first.block_on(process_id(&lab)), of_first);
        assert_eq!(second.block_on(process_id(&lab)), of_second);
    }
    // One goes, with the connection that it kept; the other does not notice.
    drop(first);
    second.block_on(lab.eventually("its session is gone", async |lab| {
        lab.sessions().await.len() == 1
    }));
    assert_eq!(second.block_on(process_id(&lab)), of_second);
}

#[test]
fn runtime_dropped_during_a_lease_loses_no_slot() {
    for lifetime in [
        ConnectionLifetime::PerEventLoop,
        ConnectionLifetime::PerInvocation,
    ] {
        let [first, second] = runtimes();
        let lab = first.block_on(lab_with(|config| {
            config.max_connections(1).lifetime(lifetime)
        }));
        let lab = Arc::new(lab);
        let (has, having) = oneshot::channel();
        let leased = Arc::clone(&lab);
        first.spawn(async move {
            leased
                .run(async {
                    let connection = connection().await?;
                    connection
                        .batch_execute("begin; insert into t values (1)")
                        .await?;
                    let _ = has.send(());
                    std::future::pending::<()>().await;
                    Ok(())
                })
                .await
        });
        first.block_on(having).expect("leased");
        drop(first);
        second.block_on(async {
            lab.eventually("its session is gone", async |lab| {
                lab.sessions().await.is_empty()
            })
            .await;
            lab.assert_at_rest().await;
            process_id(&lab).await;
            assert_eq!(lab.rows().await, 0);
        });
    }
}

#[test]
fn connection_that_outlives_its_runtime_fails() {
    let [first, second] = runtimes();
    let lab = second.block_on(lab());
    let connection = first.block_on(async {
        let (give, given) = oneshot::channel();
        let invocation = lab.run(async {
            let _ = give.send(connection().await?);
            std::future::pending::<()>().await;
            Ok(())
        });
        let mut invocation = Box::pin(invocation);
        let connection = tokio::select! {
            _ = &mut invocation => unreachable!("it is pending"),
            connection = given => connection.expect("given"),
        };
        // Neither finished nor dropped: the runtime goes first.
        std::mem::forget(invocation);
        connection
    });
    drop(first);
    second.block_on(async {
        let error = timeout(PLENTY, connection.query("select 1", &[])).await;
        assert!(error.expect("it does not hang").is_err());
        lab.eventually("its session is gone", async |lab| {
            lab.sessions().await.is_empty()
        })
        .await;
    });
}

#[tokio::test]
async fn lease_works_on_another_runtime() {
    let lab = lab().await;
    lab.run(async {
        let connection = connection().await?;
        let elsewhere = tokio::task::spawn_blocking(move || {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let row = runtime.block_on(connection.query_one("select 7", &[]))?;
            Ok::<i32, BoxError>(row.get(0))
        });
        assert_eq!(elsewhere.await??, 7);
        Ok(())
    })
    .await
    .expect("fine");
}
