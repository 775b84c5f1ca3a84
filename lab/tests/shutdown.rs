//! SIGTERM under each host: during an invocation, between two, and while the process is
//! frozen. Within the host's grace the server knows of no session of ours, and has heard
//! from each that it goes.

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

/// When the process is told to stop.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Moment {
    Between,
    During,
    Frozen,
}

use Moment::{Between, During, Frozen};

/// A server that tells of clients who leave without a word.
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

    /// The process has ended: nothing of ours is there, and nobody left without a word.
    async fn assert_left_in_good_order(&self, moment: Moment) {
        assert_eq!(self.sessions().await, [""; 0], "{moment:?}");
        let log = self.postgres.log();
        let silent: Vec<_> = log
            .lines()
            .filter(|line| line.contains("endings") && line.contains("unexpected EOF"))
            .collect();
        assert_eq!(silent, [""; 0], "{moment:?}");
        let cancelled = log.contains("canceling statement due to user request");
        assert_eq!(cancelled, moment == During);
    }
}

async fn on_lambda(shape: &str) {
    for moment in [Between, During, Frozen] {
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
        let exit = match moment {
            // Lambda freezes in between; a process that was thawed a while ago is not.
            Between => {
                environment.thaw();
                environment.shutdown().await
            }
            Frozen => environment.shutdown().await,
            During => {
                let ends = async {
                    server.eventually(&["active"]).await;
                    environment.shutdown().await
                };
                tokio::join!(call("slow_statement"), ends).1
            }
        };
        assert!(exit.terminated && !exit.killed, "{moment:?}: {exit:?}");
        assert_eq!(exit.status.code(), Some(0), "{moment:?}");
        server.assert_left_in_good_order(moment).await;
    }
}

#[tokio::test]
async fn lambda_http() {
    on_lambda("lambda_http").await;
}

#[tokio::test]
async fn events() {
    on_lambda("event").await;
}

#[tokio::test]
async fn vercel() {
    for moment in [Between, During, Frozen] {
        let server = Server::start().await;
        let deployment = Deployment::builder(ENDINGS)
            .env("DATABASE_URL", &server.database.url)
            .env("MAX_CONNECTIONS", 1)
            .env("SHAPE", "vercel")
            .env("SHUTDOWN", 1);
        let deployment = deployment.start().await.expect("a deployment");
        let call = async |ending: &str| {
            let request = Request::get(format!("/{ending}")).body(Bytes::new());
            deployment.request(request.expect("a request")).await
        };
        call("returns").await.expect("it runs");
        deployment.frozen().await.expect("frozen");
        server.eventually(&["idle"]).await;
        let exit = match moment {
            Between => {
                deployment.thaw();
                deployment.terminate().await
            }
            Frozen => deployment.terminate().await,
            During => {
                let ends = async {
                    server.eventually(&["active"]).await;
                    deployment.terminate().await
                };
                tokio::join!(call("slow_statement"), ends).1
            }
        };
        assert!(
            !exit.killed && exit.status.code() == Some(0),
            "{moment:?}: {exit:?}"
        );
        server.assert_left_in_good_order(moment).await;
    }
}

/// A process that no host runs.
struct Plain {
    child: Child,
    port: u16,
}

impl Plain {
    async fn start(server: &Server) -> Plain {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
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
async fn a_plain_server() {
    for moment in [Between, Frozen] {
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
        assert_eq!(plain.ends().await, Some(0));
        server.assert_left_in_good_order(moment).await;
    }
}

#[tokio::test]
async fn a_plain_server_serves_its_last_request_to_the_end() {
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
