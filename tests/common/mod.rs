//! Makes a database for each test, with a second connection that examines its sessions.
#![allow(dead_code)]

pub mod capture;
pub mod pooled;
#[cfg(feature = "vercel")]
pub mod vercel;

use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use antifreeze::teardown::{Outcome, Teardown};
use antifreeze::{Config, Database, Error};
use lab::postgres::Postgres;
use lab::relay::Relay;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A fresh database on the shared server, and the [`Database`] under test.
pub struct Lab {
    pub server: lab::postgres::Database,
    pub database: Database,
    torn_down: Arc<Mutex<Vec<Teardown>>>,
}

/// A time limit for what should take milliseconds, on a loaded machine.
pub const PLENTY: Duration = Duration::from_secs(20);

/// Makes a database with the table `t (a int)`, with default settings.
pub async fn lab() -> Lab {
    lab_with(|config| config).await
}

/// Makes the same with other settings.
pub async fn lab_with(change: impl FnOnce(Config) -> Config) -> Lab {
    let server = Postgres::shared().await.expect("a server");
    let server = server.fresh_database().await.expect("a database");
    server
        .execute("create table t (a int)")
        .await
        .expect("a table");
    let url = server.url.clone();
    Lab::over(server, &url, change)
}

/// Makes the same, reached through a relay.
pub async fn lab_over_relay(change: impl FnOnce(Config) -> Config) -> (Lab, Relay) {
    let server = lab().await.server;
    let address = Postgres::shared().await.expect("a server").address();
    let relay = Relay::start(address).await.expect("a relay");
    let url = relay.url(&server.url);
    (Lab::over(server, &url, change), relay)
}

impl Lab {
    /// Connects to `server` by `url`, which may lead through a relay or a pooler.
    pub fn over(
        server: lab::postgres::Database,
        url: &str,
        change: impl FnOnce(Config) -> Config,
    ) -> Lab {
        // On a busy machine a step takes longer than the half second that it has.
        antifreeze::internal::be_patient(2_000);
        let mut config = Config::from_url(url)
            .expect("a URL")
            .application_name("under test");
        config = change(config);
        let torn_down = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&torn_down);
        let database = Database::new(config)
            .expect("settings")
            .on_teardown(move |teardown| seen.lock().expect("no panic").push(teardown.clone()));
        Lab {
            server,
            database,
            torn_down,
        }
    }

    /// Runs `work` as an invocation with plenty of time.
    pub async fn run<T>(
        &self,
        work: impl Future<Output = Result<T, BoxError>>,
    ) -> Result<T, BoxError> {
        self.database.invocation(PLENTY, work).await
    }

    /// Takes the teardowns since the last call.
    pub fn torn_down(&self) -> Vec<Teardown> {
        std::mem::take(&mut *self.torn_down.lock().expect("no panic"))
    }

    /// Tells whether the server has confirmed each close since the last call of `torn_down`.
    pub fn is_acknowledged(&self) -> bool {
        let torn_down = self.torn_down.lock().expect("no panic");
        torn_down
            .iter()
            .all(|one| one.outcome.closed() != Some(false))
    }

    /// Tells whether there was a teardown since the last call of `torn_down`.
    pub fn has_torn_down(&self) -> bool {
        !self.torn_down.lock().expect("no panic").is_empty()
    }

    /// Tells whether the last session that was given back was kept.
    pub fn is_kept(&self) -> bool {
        let torn_down = self.torn_down.lock().expect("no panic");
        torn_down.last().is_some_and(|one| one.kept)
    }

    /// Opens a session that is kept, and takes its teardown. On a busy machine the slots, which
    /// are read behind its first statement, may be told later than that is waited for, and it is
    /// closed.
    pub async fn warm_kept(&self) {
        for _ in 0..3 {
            let work = async {
                let connection = antifreeze::connection().await?;
                Ok(connection.batch_execute("select 1").await?)
            };
            self.run(work).await.expect("warm");
            let is_kept = self.is_kept();
            self.torn_down();
            if is_kept {
                return;
            }
        }
        panic!("it is never kept");
    }

    /// Takes the outcome of the only teardown since the last call.
    pub fn outcome(&self) -> Outcome {
        let mut all = self.torn_down();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0).outcome
    }

    /// Waits until so many sessions under test are idle: the server may still be at work on what
    /// was sent behind its start-up.
    pub async fn idle(&self, count: usize) {
        let idle = vec!["idle".to_owned(); count];
        self.eventually("they are idle", async |lab| lab.sessions().await == idle)
            .await;
    }

    /// Lists the states of the sessions under test, as `pg_stat_activity` has them. One that is
    /// only starting has none.
    pub async fn sessions(&self) -> Vec<String> {
        let rows = self
            .server
            .query(
                "select state from pg_stat_activity where datname = current_database() \
                 and application_name = 'under test' and state is not null order by pid",
            )
            .await
            .expect("activity");
        let states = rows
            .into_iter()
            .map(|row| row[0].clone().unwrap_or_default());
        states.collect()
    }

    /// Fails if a session under test is in a transaction or busy, or holds a lock that a
    /// migration would wait for.
    pub async fn assert_at_rest(&self) {
        let sessions = self.sessions().await;
        assert!(
            sessions.iter().all(|state| state == "idle"),
            "not at rest: {sessions:?}"
        );
        self.server
            .execute(
                "set lock_timeout = '100ms'; alter table t add column b int; \
                 alter table t drop column b",
            )
            .await
            .expect("nothing is locked");
    }

    /// Takes the teardowns, once there is one, and checks that all is at rest. What the server
    /// could not confirm in the time that was left before a deadline it may end later.
    pub async fn ends_at_rest(&self) -> Vec<Teardown> {
        self.eventually("it is torn down", async |lab| lab.has_torn_down())
            .await;
        if !self.is_acknowledged() {
            self.eventually("all sessions are idle, or gone", async |lab| {
                lab.sessions().await.iter().all(|state| state == "idle")
            })
            .await;
        }
        self.assert_at_rest().await;
        self.torn_down()
    }

    /// Counts the rows of `t`.
    pub async fn rows(&self) -> i64 {
        let rows = self
            .server
            .query("select count(*) from t")
            .await
            .expect("a table");
        let count = rows[0][0].as_deref().expect("a count");
        count.parse().expect("a number")
    }

    /// Waits until `condition` holds, for at most [`PLENTY`].
    pub async fn eventually(&self, what: &str, condition: impl AsyncFn(&Lab) -> bool) {
        let until = tokio::time::Instant::now() + PLENTY;
        while !condition(self).await {
            assert!(tokio::time::Instant::now() < until, "never: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Waits until a statement is in `pg_sleep`: `active` it may also be with what was asked before.
pub async fn sleeps(server: &lab::postgres::Database) {
    let sleeping = "select 1 from pg_stat_activity \
                    where datname = current_database() and wait_event = 'PgSleep'";
    let until = tokio::time::Instant::now() + PLENTY;
    while server.query(sleeping).await.expect("activity").is_empty() {
        assert!(tokio::time::Instant::now() < until, "nothing sleeps");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Inserts two rows in one transaction. Between them it sends `inside`, and waits for `told`.
pub async fn two_rows(
    inside: oneshot::Sender<()>,
    told: oneshot::Receiver<()>,
) -> Result<(), BoxError> {
    let transaction = antifreeze::transaction().await?;
    transaction.execute("insert into t values (1)", &[]).await?;
    let _ = inside.send(());
    let _ = told.await;
    transaction.execute("insert into t values (2)", &[]).await?;
    Ok(())
}

/// Leases a connection and gives it back.
pub async fn lease_and_return() -> Result<(), BoxError> {
    drop(antifreeze::connection().await?);
    Ok(())
}

/// The kind of a boxed error, if it is ours.
pub fn kind(error: &BoxError) -> Option<antifreeze::ErrorKind> {
    error.downcast_ref::<Error>().map(Error::kind)
}

/// Polls `future` at most `polls` times, then drops it.
pub async fn poll_at_most<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    let mut left = polls;
    std::future::poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Listens with a full backlog, so that a connect gets no answer, as behind a firewall that drops
/// all packets.
pub async fn black_hole() -> (std::net::SocketAddr, Vec<tokio::task::JoinHandle<()>>) {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket
        .bind("127.0.0.1:0".parse().expect("an address"))
        .expect("a port");
    let listener = socket.listen(1).expect("listening");
    let address = listener.local_addr().expect("an address");
    let mut held: Vec<_> = (0..4)
        .map(|_| {
            tokio::spawn(async move {
                let _stream = tokio::net::TcpStream::connect(address).await;
                std::future::pending::<()>().await;
            })
        })
        .collect();
    held.push(tokio::spawn(async move {
        let _listener = listener;
        std::future::pending::<()>().await;
    }));
    tokio::time::sleep(Duration::from_millis(50)).await;
    (address, held)
}

/// Starts a server that refuses every start-up packet with this SQLSTATE and message.
pub async fn refusing_server(code: &'static str, message: &'static str) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                loop {
                    let length = stream.read_u32().await?;
                    let mut body = vec![0; length.saturating_sub(4) as usize];
                    stream.read_exact(&mut body).await?;
                    // SSLRequest (manual, "SSL Session Encryption").
                    if body.starts_with(&[4, 210, 22, 47]) {
                        stream.write_all(b"N").await?;
                        continue;
                    }
                    let fields = format!("SFATAL\0VFATAL\0C{code}\0M{message}\0\0");
                    let length = u32::try_from(fields.len() + 4).expect("short");
                    stream.write_u8(b'E').await?;
                    stream.write_u32(length).await?;
                    stream.write_all(fields.as_bytes()).await?;
                    return stream.shutdown().await;
                }
            });
        }
    });
    address
}
