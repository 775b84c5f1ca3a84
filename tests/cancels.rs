//! A CancelRequest cancels the statement that it is meant for, or none.

mod common;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use antifreeze::teardown::Step;
use antifreeze::{DatabaseLayer, connection, invocation, transaction};
use bytes::Bytes;
use common::{BoxError, Lab, PLENTY, lab, lab_over_relay, lease_and_return};
use futures_util::FutureExt;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use lab::postgres::Postgres;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;
use tower::{Layer, ServiceExt};

/// Tells that it was dropped.
struct Tells(Option<oneshot::Sender<()>>);

impl Drop for Tells {
    fn drop(&mut self) {
        let _ = self.0.take().map(|told| told.send(()));
    }
}

/// The handler has left its connection in a transaction, and a task of the invocation
/// cancels it while the layer rolls it back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_token_misses_the_next_invocation() {
    for _ in 0..3 {
        let (lab, relay) = lab_over_relay(|config| config.max_connections(1)).await;
        lab.run(lease_and_return()).await.expect("a connection");
        relay.delay(Duration::from_millis(60));
        let service = DatabaseLayer::new(lab.database.clone()).layer(tower::service_fn(
            async |_: Request<()>| {
                let connection = connection().await?;
                connection
                    .batch_execute("begin; insert into t values (1)")
                    .await?;
                let token = connection.cancel_token();
                drop(connection);
                let (tells, returned) = oneshot::channel();
                let _tells = Tells(Some(tells));
                let invocation = invocation()?;
                invocation.spawn(async move {
                    let _ = returned.await;
                    let _ = token.cancel().await;
                });
                let body = futures_util::stream::once(async { Ok(Frame::data(Bytes::new())) });
                let body: StreamBody<_> = StreamBody::new(body);
                Ok::<_, BoxError>(Response::new(invocation.stream(infallible(body))))
            },
        ));
        let response = service.oneshot(Request::new(())).await.expect("a head");
        lab.run(async {
            let connection = connection().await?;
            Ok(connection.batch_execute("select pg_sleep(0.6)").await?)
        })
        .await
        .expect("it is not cancelled");
        response.into_body().collect().await.expect("a body");
    }
}

/// No cancel hastens the answer to a Close, which is all that the server owes.
#[tokio::test]
async fn nothing_is_cancelled_for_a_late_close() {
    let (lab, relay) = lab_over_relay(|config| config.max_connections(1)).await;
    let task = lab.run(async {
        let connection = connection().await?;
        let statement = connection.prepare("select 1").await?;
        let (has, having) = oneshot::channel();
        let task = tokio::spawn(async move {
            let _connection = connection;
            let _ = has.send(());
            std::future::pending::<()>().await;
        });
        having.await?;
        relay.delay(Duration::from_millis(60));
        drop(statement);
        Ok(task)
    });
    task.await.expect("fine").abort();
    let outcome = lab.outcome();
    assert!(!outcome.steps().contains(&Step::Cancelled), "{outcome:?}");
    assert_eq!(outcome.closed(), None, "{outcome:?}");
}

fn infallible<B: http_body::Body<Data = Bytes, Error = Infallible>>(body: B) -> B {
    body
}

/// Forwards everything, but a CancelRequest only when it is told to: as an overloaded
/// server takes it from its backlog.
async fn holds_cancels(server: std::net::SocketAddr) -> (std::net::SocketAddr, Arc<Notify>) {
    const CANCEL: [u8; 8] = [0, 0, 0, 16, 4, 210, 22, 46];
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let go = Arc::new(Notify::new());
    let told = Arc::clone(&go);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let told = Arc::clone(&told);
            tokio::spawn(async move {
                let mut first = [0; 8];
                client.read_exact(&mut first).await?;
                let cancels = first == CANCEL;
                let mut rest = [0; 8];
                if cancels {
                    client.read_exact(&mut rest).await?;
                    told.notified().await;
                }
                let mut server = TcpStream::connect(server).await?;
                server.write_all(&first).await?;
                if cancels {
                    server.write_all(&rest).await?;
                    server.read_to_end(&mut Vec::new()).await?;
                    told.notify_one();
                } else {
                    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
                }
                Ok::<_, std::io::Error>(())
            });
        }
    });
    (address, go)
}

/// What is committed may have been cancelled in vain, and late.
#[tokio::test]
async fn unheard_cancel_before_commit_closes() {
    // A busy machine may lose the time in which it is cancelled, but not each time.
    let mut tries = Vec::new();
    let (lab, go) = loop {
        match committed_unheard().await {
            Ok(closed) => break closed,
            Err(other) => tries.push(other),
        }
        assert!(tries.len() < 3, "{tries:?}");
    };
    lab.run(async {
        let connection = connection().await?;
        let mut slow = Box::pin(connection.batch_execute("select pg_sleep(2)"));
        assert!((&mut slow).now_or_never().is_none());
        lab.eventually("it is under way", async |lab| {
            lab.sessions().await.contains(&"active".into())
        })
        .await;
        go.notify_one();
        Ok(timeout(PLENTY, slow).await??)
    })
    .await
    .expect("it is not cancelled");
}

/// Commits behind a statement whose cancel is on its way, which closes the connection. Fails with
/// what became of it otherwise.
async fn committed_unheard() -> Result<(Lab, Arc<Notify>), String> {
    let server = lab().await.server;
    let address = Postgres::shared().await.expect("a server").address();
    let (proxy, go) = holds_cancels(address).await;
    let (port, through) = (address.port().to_string(), proxy.port().to_string());
    let url = format!(
        "{}?sslmode=disable",
        server.url.replacen(&port, &through, 1)
    );
    let lab = Lab::over(server, &url, |config| config.max_connections(1));
    let committed = lab.run(async {
        let transaction = transaction().await?;
        transaction.execute("insert into t values (1)", &[]).await?;
        // Longer than the grace, shorter than the cancel is waited for.
        let slow = transaction.batch_execute("select pg_sleep(0.6)");
        assert!(timeout(Duration::from_millis(10), slow).await.is_err());
        Ok(())
    });
    committed.await.map_err(|error| error.to_string())?;
    assert_eq!(lab.rows().await, 1);
    let torn_down = lab.torn_down();
    let kept: Vec<_> = torn_down.iter().map(|one| one.kept).collect();
    match kept[..] {
        [false] => Ok((lab, go)),
        _ => Err(format!("{torn_down:?}")),
    }
}
