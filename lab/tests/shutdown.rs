//! SIGTERM under each host: during an invocation, between two, and while the process is
//! frozen. Within the host's grace, which is measured, the server knows of no session of
//! ours, and has heard from each that it goes. (On AWS's emulator: `tools/ends.rs`.)

use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use lab::lambda::Function;
use lab::postgres::{Database, Postgres};
use lab::vercel::Deployment;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

const ENDINGS: &str = env!("CARGO_BIN_EXE_endings");

/// Longer than a busy machine takes.
const PLENTY: Duration = Duration::from_secs(30);

/// What the hosts leave from SIGTERM on, at least: Lambda's. A machine that is busy with
/// other things may let a process wait for longer than that, so it is the best of ten
/// that has to keep it; whatever else is said here holds for one that does.
const GRACE: Duration = Duration::from_millis(300);
const TRIES: usize = 10;

/// What a try took that did not keep it.
const LATE: Duration = Duration::MAX;

/// When the process is told to stop.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Moment {
    Between,
    During,
    Frozen,
}

use Moment::{Between, During, Frozen};

/// A server that logs clients that disconnect without Terminate.
struct Server {
    postgres: Postgres,
    database: Database,
}

impl Server {
    async fn start() -> Server {
        let postgres = Postgres::builder().setting("log_min_messages", "debug1");
        let postgres = postgres.start().await.expect("a server");
        let database = postgres.create_database("d").await.expect("a database");
        database
            .execute("create table t (a int)")
            .await
            .expect("a table");
        Server { postgres, database }
    }

    /// States of our sessions.
    async fn sessions(&self) -> Vec<String> {
        let sql = "select state from pg_stat_activity \
                   where datname = current_database() and application_name = 'endings'";
        let rows = self.database.query(sql).await.expect("activity");
        rows.into_iter().flatten().flatten().collect()
    }

    async fn eventually(&self, states: &[&str]) {
        let until = Instant::now() + PLENTY;
        loop {
            let sessions = self.sessions().await;
            if sessions == states {
                return;
            }
            assert!(Instant::now() < until, "{sessions:?} and never {states:?}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// What `ends` the process says, and how long it took from then on until the server
    /// knew of no session.
    async fn rid_of_us<T>(&self, ends: impl Future<Output = T>) -> (T, Duration) {
        let begin = Instant::now();
        let gone = async {
            self.eventually(&[]).await;
            begin.elapsed()
        };
        tokio::join!(ends, gone)
    }

    /// What the log has of sessions of ours that ended without a Terminate.
    fn left_silently(&self) -> Vec<String> {
        let log = self.postgres.log();
        let ours = log.lines().filter(|line| line.contains("endings"));
        let silent = ours.filter(|line| {
            [
                "unexpected EOF",
                "connection to client lost",
                "reset by peer",
            ]
            .iter()
            .any(|words| line.contains(words))
        });
        silent.map(str::to_owned).collect()
    }

    /// The process has ended: none of its sessions exists, and each sent Terminate.
    async fn assert_left_in_good_order(&self, moment: Moment) {
        assert_eq!(self.sessions().await, [""; 0], "{moment:?}");
        assert_eq!(self.left_silently(), [""; 0], "{moment:?}");
        let log = self.postgres.log();
        let cancelled = log.contains("canceling statement due to user request");
        assert_eq!(cancelled, moment == During);
    }
}

/// Tries `once`, which says how long the server had to wait for our end, at each moment.
async fn within_the_grace(moments: &[Moment], once: impl AsyncFn(Moment) -> Duration) {
    for &moment in moments {
        let mut took = Vec::new();
        while took.last().is_none_or(|&took| took > GRACE) {
            assert!(took.len() < TRIES, "{moment:?}: {took:?}");
            took.push(once(moment).await);
        }
    }
}

async fn on_lambda(shape: &str) {
    within_the_grace(&[Between, During, Frozen], async |moment| {
        let server = Server::start().await;
        let function = Function::builder(ENDINGS)
            .timeout(PLENTY)
            .env("DATABASE_URL", &server.database.url)
            .env("MAX_CONNECTIONS", 1)
            .env("SHAPE", shape)
            .env("SHUTDOWN", 1);
        let function = function.start().await.expect("a function");
        let call = async |ending: &'static str| match shape {
            "event" => function.invoke(json!({ "ending": ending })).await,
            _ => {
                let request = Request::get(format!("/{ending}")).body(Bytes::new());
                let outcome = function.request(request.expect("a request")).await;
                outcome.map(|(_, outcome)| outcome)
            }
        };
        let environment = call("returns").await.expect("it runs").environment;
        environment.frozen().await.expect("frozen");
        server.eventually(&["idle"]).await;
        let (exit, took) = match moment {
            // Lambda freezes in between; a process that was thawed a while ago is not.
            Between => {
                environment.thaw();
                server.rid_of_us(environment.shutdown()).await
            }
            Frozen => server.rid_of_us(environment.shutdown()).await,
            During => {
                let ends = async {
                    server.eventually(&["active"]).await;
                    server.rid_of_us(environment.shutdown()).await
                };
                tokio::join!(call("slow_statement"), ends).1
            }
        };
        assert!(exit.terminated, "{moment:?}: {exit:?}");
        if exit.killed || took > GRACE {
            return LATE;
        }
        assert_eq!(exit.status.code(), Some(0), "{moment:?}");
        server.assert_left_in_good_order(moment).await;
        took
    })
    .await;
}

#[tokio::test]
async fn lambda_http_closes_its_connections() {
    on_lambda("lambda_http").await;
}

#[tokio::test]
async fn event_function_closes_its_connections() {
    on_lambda("event").await;
}

#[tokio::test]
async fn vercel_function_closes_its_connections() {
    within_the_grace(&[Between, During, Frozen], async |moment| {
        let server = Server::start().await;
        let deployment = Deployment::builder(ENDINGS)
            .env("DATABASE_URL", &server.database.url)
            .env("MAX_CONNECTIONS", 1)
            .env("SHAPE", "vercel")
            .env("ANTIFREEZE_LINGER", "0")
            .env("SHUTDOWN", 1);
        let deployment = deployment.start().await.expect("a deployment");
        let call = async |ending: &str| {
            let request = Request::get(format!("/{ending}")).body(Bytes::new());
            deployment.request(request.expect("a request")).await
        };
        call("returns").await.expect("it runs");
        deployment.frozen().await.expect("frozen");
        server.eventually(&["idle"]).await;
        let (exit, took) = match moment {
            Between => {
                deployment.thaw();
                server.rid_of_us(deployment.terminate()).await
            }
            Frozen => server.rid_of_us(deployment.terminate()).await,
            During => {
                let ends = async {
                    server.eventually(&["active"]).await;
                    server.rid_of_us(deployment.terminate()).await
                };
                tokio::join!(call("slow_statement"), ends).1
            }
        };
        if exit.killed || took > GRACE {
            return LATE;
        }
        assert_eq!(exit.status.code(), Some(0), "{moment:?}: {exit:?}");
        server.assert_left_in_good_order(moment).await;
        took
    })
    .await;
}

/// What the others are seen not to do, since the log would tell.
#[tokio::test]
async fn functions_without_shutdown_leave_silently() {
    let server = Server::start().await;
    let function = Function::builder(ENDINGS)
        .env("DATABASE_URL", &server.database.url)
        .env("MAX_CONNECTIONS", 1)
        .env("SHAPE", "event");
    let function = function.start().await.expect("a function");
    let outcome = function.invoke(json!({ "ending": "returns" })).await;
    let environment = outcome.expect("it runs").environment;
    environment.frozen().await.expect("frozen");
    server.eventually(&["idle"]).await;
    assert!(environment.shutdown().await.killed);
    server.eventually(&[]).await;
    assert!(
        !server.left_silently().is_empty(),
        "{}",
        server.postgres.log()
    );
}

/// A process that no host runs.
struct Plain {
    child: Child,
    port: u16,
}

impl Plain {
    async fn start(server: &Server) -> Plain {
        let port = lab::free_port().expect("a port");
        let mut child = Command::new(ENDINGS)
            .env("DATABASE_URL", &server.database.url)
            .env("MAX_CONNECTIONS", "1")
            .env("SHAPE", "server")
            .env("PORT", port.to_string())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("a process");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        while lines.next_line().await.expect("output").expect("it runs") != "listening" {}
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Plain { child, port }
    }

    fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    async fn ends(&mut self) -> Option<i32> {
        let ended = timeout(PLENTY, self.child.wait()).await.expect("in time");
        ended.expect("a status").code()
    }
}

async fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port))
        .await
        .expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    answer
}

#[tokio::test]
async fn plain_server_closes_its_connections() {
    within_the_grace(&[Between, Frozen], async |moment| {
        let server = Server::start().await;
        let mut plain = Plain::start(&server).await;
        assert!(get(plain.port, "/returns").await.contains("ended"));
        server.eventually(&["idle"]).await;
        let pid = plain.pid();
        if moment == Frozen {
            lab::process::freeze(pid).expect("frozen");
        }
        lab::process::terminate(pid).expect("told");
        if moment == Frozen {
            lab::process::thaw(pid).expect("thawed");
        }
        let (code, took) = server.rid_of_us(plain.ends()).await;
        if took > GRACE {
            return LATE;
        }
        assert_eq!(code, Some(0));
        server.assert_left_in_good_order(moment).await;
        took
    })
    .await;
}

#[tokio::test]
async fn plain_server_finishes_its_last_request() {
    let server = Server::start().await;
    let mut plain = Plain::start(&server).await;
    let held = "begin; lock table t in access exclusive mode";
    let (holder, connection) = tokio_postgres::connect(&server.database.url, tokio_postgres::NoTls)
        .await
        .expect("a connection");
    tokio::spawn(connection);
    holder.batch_execute(held).await.expect("locked");
    let (port, pid) = (plain.port, plain.pid());
    let stops = async {
        // It waits for the lock.
        server.eventually(&["active"]).await;
        lab::process::terminate(pid).expect("told");
        // It takes no more connections now, and the one it has goes on.
        while TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(server.sessions().await, ["active"]);
        holder.batch_execute("rollback").await.expect("let go");
    };
    let (answer, ()) = tokio::join!(get(port, "/returns"), stops);
    assert!(
        answer.contains("200 OK") && answer.contains("ended"),
        "{answer}"
    );
    assert_eq!(plain.ends().await, Some(0));
    server.assert_left_in_good_order(Between).await;
    let rows = server.database.query("select count(*)::text from t").await;
    assert_eq!(rows.expect("rows")[0][0].as_deref(), Some("1"));
}
