//! The user's own cancel tokens.

use super::*;

#[tokio::test]
async fn cancel_token_cancels_its_statement() {
    let lab = lab().await;
    let token = lab
        .run(async {
            let connection = connection().await?;
            let token = connection.cancel_token();
            let slow = connection.batch_execute("select pg_sleep(60)");
            let (slow, cancelled) = futures_util::join!(slow, async {
                sleeps(&lab.server).await;
                token.cancel().await
            });
            cancelled?;
            let error = slow.expect_err("cancelled");
            assert_eq!(error.code().map(|code| code.code()), Some("57014"));
            Ok(token)
        })
        .await
        .expect("fine");
    // Once given back, the connection can no longer be cancelled.
    lab.run(async {
        let connection = connection().await?;
        let statement = connection.batch_execute("select pg_sleep(0.1)");
        let (statement, cancelled) = futures_util::join!(statement, token.cancel());
        cancelled?;
        statement?;
        Ok(())
    })
    .await
    .expect("unharmed");
}

/// A cancel request whose future was dropped may arrive at any time: it must not hit the
/// statement of the next lease.
#[tokio::test]
async fn abandoned_cancel_closes_the_connection() {
    let lab = lab().await;
    for polls in 1.. {
        let done = lab
            .run(async {
                let connection = connection().await?;
                let token = connection.cancel_token();
                Ok(poll_at_most(polls, token.cancel()).await.is_some())
            })
            .await
            .expect("fine");
        if done {
            assert!(polls > 1 && lab.outcome().is_clean());
            break;
        }
        assert!(lab.outcome().closed().is_some(), "{polls}");
        let gone = async |lab: &Lab| lab.sessions().await.is_empty();
        lab.eventually("its session is gone", gone).await;
    }
}

/// Within one invocation too, a connection that was given back belongs to the next lease.
#[tokio::test]
async fn stale_token_spares_the_next_lease() {
    let lab = lab_with(|config| config.max_connections(1)).await;
    lab.run(async {
        let first = connection().await?;
        first.batch_execute("begin").await?;
        let (token, session) = (first.cancel_token(), first.process_id());
        drop(first);
        let second = connection().await?;
        assert_eq!(second.process_id(), session, "brought to rest in between");
        let (slept, cancelled) = tokio::join!(
            second.query_one("select 1, pg_sleep(0.2)", &[]),
            token.cancel()
        );
        assert!(cancelled.is_ok() && slept.is_ok(), "{slept:?}");
        Ok(())
    })
    .await
    .expect("fine");
}
