//! The matrix: every ending of a handler, in every shape, with both lifetimes, in
//! plain text and under TLS, in a process that is really stopped, seen from a second
//! connection.
//!
//! After each ending, while the process is frozen: no session of ours is in a
//! transaction or busy (and none is there at all with `PerInvocation`), an
//! `ALTER TABLE` gets its lock within 100 ms, the response left within its deadline,
//! the server's log knows of no transaction that lost its client; and the next
//! invocation works and sees nothing of the last one.

mod common;

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use lab::lambda::{Answer, Function};
use lab::postgres::{Auth, Database, Postgres};
use lab::relay::Relay;
use lab::vercel::Deployment;
use serde_json::{Value, json};
use tokio::time::Instant;

/// How long an invocation may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The server's own time-outs, where nothing else can help.
const SERVER_TIMEOUTS: Duration = Duration::from_secs(1);

/// What a caller is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    Well,
    Failed,
    Deadline,
}

const ENDINGS: &[(&str, Says)] = &[
    ("returns", Says::Well),
    ("returns_lazily", Says::Well),
    ("fails_lazily", Says::Failed),
    ("early_return", Says::Failed),
    ("transaction_forgotten", Says::Well),
    ("connection_forgotten", Says::Well),
    ("begin_by_hand", Says::Well),
    ("savepoints", Says::Well),
    ("failed_statement", Says::Well),
    ("commit_of_an_aborted", Says::Well),
    ("panic", Says::Failed),
    ("panic_in_call", Says::Failed),
    ("slow_statement", Says::Deadline),
    ("slow_between_statements", Says::Deadline),
    ("statement_timed_out", Says::Well),
    ("begin_dropped", Says::Well),
    ("copy_in_dropped", Says::Well),
    ("copy_in_kept", Says::Well),
    ("copy_out_dropped", Says::Well),
    ("copy_out_kept", Says::Well),
    ("rows_dropped", Says::Well),
    ("rows_kept", Says::Well),
    ("task_idle", Says::Well),
    ("task_busy", Says::Well),
    ("own_task", Says::Well),
    ("blocking_idle", Says::Well),
    ("blocking_busy", Says::Well),
    ("two_leases", Says::Well),
    ("session_state?listen", Says::Well),
    ("session_state?listen_in_do", Says::Well),
    ("session_state?advisory_lock", Says::Well),
    ("session_state?advisory_lock_in_do", Says::Well),
    ("session_state?set", Says::Well),
    ("session_state?set_in_do", Says::Well),
    ("session_state?set_config", Says::Well),
    ("session_state?set_config_in_do", Says::Well),
    ("session_state?temp_table", Says::Well),
    ("session_state?temp_table_in_do", Says::Well),
    ("session_state?temp_table_by_select", Says::Well),
    ("killed", Says::Well),
    ("killed_during_commit", Says::Well),
    ("waits_for_a_restart", Says::Well),
    ("dropped_from_outside", Says::Failed),
];

/// Those in which the network goes away, and the server's own time-outs have to end
/// what it keeps from us.
const STALLED: &[(&str, Says)] = &[
    ("stalled_in_the_handler", Says::Deadline),
    ("stalled_in_teardown", Says::Well),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    LambdaHttp,
    Event,
    Axum,
    Vercel,
}

impl Shape {
    fn name(self) -> &'static str {
        match self {
            Shape::LambdaHttp => "lambda_http",
            Shape::Event => "event",
            Shape::Axum => "axum",
            Shape::Vercel => "vercel",
        }
    }
}

/// A function on its host.
enum Host {
    Lambda(Function, Shape),
    Vercel(Deployment),
}

/// What a call came to.
struct Called {
    says: Says,
    body: Bytes,
    took: Duration,
}

impl Host {
    async fn start(shape: Shape, variables: &[(&str, String)]) -> Host {
        let executable = env!("CARGO_BIN_EXE_endings");
        if shape == Shape::Vercel {
            let mut builder = Deployment::builder(executable).freeze(true);
            for (name, value) in variables {
                builder = builder.env(*name, value);
            }
            return Host::Vercel(builder.start().await.expect("a deployment"));
        }
        let mut builder = Function::builder(executable).timeout(TIMEOUT);
        for (name, value) in variables {
            builder = builder.env(*name, value);
        }
        Host::Lambda(builder.start().await.expect("a function"), shape)
    }

    /// Calls the function and waits until it is frozen.
    async fn call(&self, ending: &str) -> Called {
        let request = Request::get(format!("/{ending}")).body(Bytes::new());
        let request = request.expect("a request");
        match self {
            Host::Vercel(deployment) => {
                let outcome = deployment.request(request).await.expect("it is running");
                deployment.frozen().await.expect("frozen");
                assert!(deployment.is_frozen());
                let (status, body) = match outcome.response {
                    Ok(response) => (response.status().as_u16(), response.into_body()),
                    Err(error) => (0, Bytes::from(error.to_string())),
                };
                assert!(status > 0, "a response, always: {body:?}");
                let took = outcome.responded.max(outcome.ended.expect("its end"));
                Called::new(status, body, took)
            }
            Host::Lambda(function, Shape::Event) => {
                let (ending, told) = ending.split_once('?').unwrap_or((ending, ""));
                let event = json!({ "ending": ending, "told": told });
                let outcome = function.invoke(event).await.expect("it is running");
                let (status, body) = match outcome.answer {
                    Answer::Response(body) => (200, body),
                    Answer::Error { message, .. } if message.contains("deadline") => {
                        (504, message.into())
                    }
                    Answer::Error { message, .. } => (500, message.into()),
                    other => panic!("{ending}: {other:?}\n{}", outcome.environment.log()),
                };
                outcome.environment.frozen().await.expect("frozen");
                Called::new(status, body, outcome.responded)
            }
            Host::Lambda(function, _) => {
                let (response, outcome) = function.request(request).await.expect("it is running");
                let answered = matches!(outcome.answer, Answer::Response(_) | Answer::Error { .. });
                assert!(
                    answered,
                    "{:?}\n{}",
                    outcome.answer,
                    outcome.environment.log()
                );
                outcome.environment.frozen().await.expect("frozen");
                assert!(outcome.environment.is_frozen());
                let status = response.status().as_u16();
                Called::new(status, response.into_body(), outcome.responded)
            }
        }
    }
}

impl Called {
    fn new(status: u16, body: Bytes, took: Duration) -> Called {
        let says = match status {
            200 => Says::Well,
            504 => Says::Deadline,
            _ => Says::Failed,
        };
        Called { says, body, took }
    }
}

/// One shape, one lifetime, with or without TLS: a server of its own, and all endings
/// one after the other in one process.
struct Combination {
    shape: Shape,
    per_invocation: bool,
    postgres: Postgres,
    database: Database,
    relay: Relay,
    files: tempfile::TempDir,
    variables: Vec<(&'static str, String)>,
    failures: Vec<String>,
}

impl Combination {
    async fn new(shape: Shape, per_invocation: bool, tls: bool) -> Combination {
        let postgres = Postgres::builder()
            .tls(tls)
            .auth(Auth::Scram)
            .start()
            .await
            .expect("a server");
        let database = postgres
            .create_database("matrix")
            .await
            .expect("a database");
        database
            .execute(
                "create table t (a int); \
                 create table slow_to_commit (a int); \
                 create function slow() returns trigger language plpgsql as \
                 $$ begin perform pg_sleep(600); return null; end $$; \
                 create constraint trigger slow after insert on slow_to_commit \
                 deferrable initially deferred for each row execute function slow()",
            )
            .await
            .expect("tables");
        let relay = Relay::start(postgres.address()).await.expect("a relay");
        let url = relay.url(&database.url);
        let url = match postgres.certificate_authority() {
            Some(roots) => format!("{url}?sslmode=verify-full&sslrootcert={}", roots.display()),
            None => format!("{url}?sslmode=disable"),
        };
        let files = tempfile::tempdir().expect("a directory");
        let lifetime = match per_invocation {
            true => "per_invocation",
            false => "per_event_loop",
        };
        // Both kinds of runtime come up for each shape.
        let runtime = match tls {
            true => "multi_thread",
            false => "current_thread",
        };
        let stalled = files.path().join("stalled").display().to_string();
        let variables = vec![
            ("SHAPE", shape.name().to_owned()),
            ("LIFETIME", lifetime.to_owned()),
            ("RUNTIME", runtime.to_owned()),
            ("DATABASE_URL", url),
            ("ADMINISTRATOR_URL", database.url.clone()),
            ("STALLED", stalled),
            ("MAX_DURATION_MS", TIMEOUT.as_millis().to_string()),
        ];
        Combination {
            shape,
            per_invocation,
            postgres,
            database,
            relay,
            files,
            variables,
            failures: Vec::new(),
        }
    }

    async fn run(mut self) {
        let host = Host::start(self.shape, &self.variables).await;
        for &(ending, says) in ENDINGS {
            self.ending(&host, ending, says).await;
        }
        drop(host);
        self.variables.push((
            "SERVER_TIMEOUTS_MS",
            SERVER_TIMEOUTS.as_millis().to_string(),
        ));
        let host = Host::start(self.shape, &self.variables).await;
        for &(ending, says) in STALLED {
            self.ending(&host, ending, says).await;
        }
        assert!(self.failures.is_empty(), "\n{}\n", self.failures.join("\n"));
    }

    async fn ending(&mut self, host: &Host, ending: &str, expected: Says) {
        self.database
            .execute("truncate t")
            .await
            .expect("nothing is locked");
        let logged = self.postgres.log().len();
        let (called, ()) = tokio::join!(host.call(ending), self.meanwhile(ending));
        let frozen = Instant::now();
        if called.says != expected {
            self.fail(
                ending,
                format!("the caller was told {:?}: {:?}", called.says, called.body),
            );
        }
        if called.took > TIMEOUT {
            self.fail(ending, format!("the response took {:?}", called.took));
        }
        // Only what nobody could tell the server may take its time.
        let patience = match ending {
            "dropped_from_outside" => Duration::from_millis(500),
            _ if ending.starts_with("stalled") => 3 * SERVER_TIMEOUTS,
            _ => Duration::ZERO,
        };
        while let Some(left) = self.left().await {
            if frozen.elapsed() >= patience {
                self.fail(ending, format!("left behind: {left}"));
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let alter = "set lock_timeout = '100ms'; alter table t add column b int; \
                     alter table t drop column b";
        if let Err(error) = self.database.execute(alter).await {
            self.fail(ending, format!("a migration waited: {error:?}"));
        }
        let log = self.postgres.log();
        if log[logged..].contains("unexpected EOF on client connection with an open transaction") {
            self.fail(
                ending,
                "the server lost a client with an open transaction".into(),
            );
        }

        self.relay.resume();
        let _ = std::fs::remove_file(self.files.path().join("stalled"));
        let next = host.call("look").await;
        let nothing = json!({ "seen": [] });
        let seen: Value = serde_json::from_slice(&next.body).unwrap_or_default();
        if next.says != Says::Well || (seen != nothing && seen["answer"] != nothing) {
            self.fail(ending, format!("the next invocation saw {:?}", next.body));
        }
        if let Some(left) = self.left().await {
            self.fail(ending, format!("left behind by the next one: {left}"));
        }
        let rows = self
            .database
            .query("select count(*) from t")
            .await
            .expect("a count");
        let stored = i32::from(ending.starts_with("returns")).to_string();
        if rows[0][0].as_deref() != Some(stored.as_str()) {
            self.fail(ending, format!("{:?} rows were stored", rows[0][0]));
        }
    }

    /// What happens outside the function while it runs.
    async fn meanwhile(&self, ending: &str) {
        match ending {
            "waits_for_a_restart" => {
                self.in_transaction().await;
                self.postgres.restart().await.expect("restarted");
            }
            _ if ending.starts_with("stalled") => {
                self.in_transaction().await;
                self.relay.stall();
                std::fs::write(self.files.path().join("stalled"), "").expect("a file");
            }
            _ => {}
        }
    }

    /// Waits until the function is inside its transaction.
    async fn in_transaction(&self) {
        while self
            .left()
            .await
            .is_none_or(|left| !left.contains("idle in transaction"))
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Sessions of ours that should not be there.
    async fn left(&self) -> Option<String> {
        let unwanted = match self.per_invocation {
            true => "true",
            false => "state is distinct from 'idle'",
        };
        let rows = self
            .database
            .query(&format!(
                "select pid, state, query from pg_stat_activity \
                 where application_name = 'endings' and {unwanted}"
            ))
            .await
            .expect("activity");
        (!rows.is_empty()).then(|| format!("{rows:?}"))
    }

    fn fail(&mut self, ending: &str, what: String) {
        self.failures.push(format!("{ending}: {what}"));
    }
}

macro_rules! combinations {
    ($($name:ident: $shape:ident, $per_invocation:literal, $tls:literal;)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                Combination::new(Shape::$shape, $per_invocation, $tls).await.run().await;
            }
        )*
    };
}

combinations! {
    lambda_http_per_event_loop_plain: LambdaHttp, false, false;
    lambda_http_per_event_loop_tls: LambdaHttp, false, true;
    lambda_http_per_invocation_plain: LambdaHttp, true, false;
    lambda_http_per_invocation_tls: LambdaHttp, true, true;
    event_per_event_loop_plain: Event, false, false;
    event_per_event_loop_tls: Event, false, true;
    event_per_invocation_plain: Event, true, false;
    event_per_invocation_tls: Event, true, true;
    axum_per_event_loop_plain: Axum, false, false;
    axum_per_event_loop_tls: Axum, false, true;
    axum_per_invocation_plain: Axum, true, false;
    axum_per_invocation_tls: Axum, true, true;
    vercel_per_event_loop_plain: Vercel, false, false;
    vercel_per_event_loop_tls: Vercel, false, true;
    vercel_per_invocation_plain: Vercel, true, false;
    vercel_per_invocation_tls: Vercel, true, true;
}
