//! A checkout that is dropped at any of its await points leaves nothing behind: no permit, no
//! prober's place, no session on the server.

use std::pin::pin;
use std::time::Duration;

use antifreeze::connection;
use futures_util::future::{Either, select};

use super::common::{BoxError, PLENTY, poll_at_most};
use super::{Limited, ROLE, limited};

/// While the server is full.
#[tokio::test]
async fn abandoned_wait_for_a_full_server_loses_no_permit() {
    let (_postgres, lab) = limited(0, |config| config.max_connections(1)).await;
    let little = Duration::from_millis(500);
    let mut ended = 0;
    for polls in 0..40 {
        let asking = async { connection().await.map(drop).map_err(BoxError::from) };
        let given_up = poll_at_most(polls, lab.database.invocation(little, asking)).await;
        ended += usize::from(given_up.is_some_and(|asked| asked.is_err()));
    }
    // On its way to the server at least; how often it is woken there is the machine's doing.
    assert!(ended < 38, "it has await points: {ended}");
    lab.limit(1).await;
    let visited = lab.visit().await;
    visited.expect("the only permit is free, and the breaker admits the caller");
}

/// A slot comes free while a caller waits for it. The caller gives up on the way to the server,
/// with the connection leased, and while it is brought to rest.
#[tokio::test]
async fn abandoned_wait_for_a_slot_loses_no_permit() {
    const ALL: usize = 3;
    let (postgres, lab) = limited(0, |config| config.max_connections(ALL)).await;
    let end = format!(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = '{ROLE}'"
    );
    let (mut polls, mut served, mut given_up) = (0, 0, 0);
    while served < 3 {
        {
            let mut waiter = Box::pin(lab.visit());
            let refused = pin!(lab.eventually("it was refused", async |lab| {
                lab.database.retry_after().is_some()
            }));
            if let Either::Left(_) = select(waiter.as_mut(), refused).await {
                panic!("there is no slot");
            }
            lab.limit(10).await;
            match poll_at_most(polls, waiter).await {
                Some(visited) => {
                    visited.expect("it waited");
                    served += 1;
                }
                None => given_up += 1,
            }
        }
        lab.eventually("at most the one is kept", async |lab| {
            lab.sessions().await.len() <= 1
        })
        .await;
        // So that the next has to wait.
        lab.limit(0).await;
        postgres.execute(&end).await.expect("they end");
        polls += 1;
    }
    println!("given up {given_up} times");
    assert!(given_up > 2, "it has await points: {given_up}");
    lab.limit(10).await;
    let all = lab.database.invocation(PLENTY, async {
        let first = connection().await?;
        let second = connection().await?;
        let third = connection().await?;
        assert_eq!(lab.sessions().await.len(), ALL, "and no other session");
        drop((first, second, third));
        Ok::<_, BoxError>(())
    });
    all.await.expect("no permit was lost");
}
