//! What the server ends by itself, when a process is stopped in the middle of something and
//! never goes on: each of its timeouts alone, against each state. The table in
//! docs/server-timeouts.md is this test in words.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use lab::lambda::Function;
use lab::postgres::{Database, Installation, Postgres};
use tokio::time::{Instant, sleep};

/// Each timeout, in the order of the columns below.
const VARIABLES: [&str; 4] = [
    "ANTIFREEZE_STATEMENT_TIMEOUT",
    "ANTIFREEZE_IDLE_IN_TRANSACTION_TIMEOUT",
    "ANTIFREEZE_IDLE_SESSION_TIMEOUT",
    "ANTIFREEZE_TRANSACTION_TIMEOUT",
];

/// Long enough to be frozen by then.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Longer than a busy machine takes to do what is due.
const PLENTY: Duration = Duration::from_secs(60);

const ABORTED: &str = "idle in transaction (aborted)";

/// A state that a process is stopped in.
struct State {
    /// How the handler comes to it.
    ending: &'static str,
    /// As `pg_stat_activity` shows it: state and what is waited for.
    seen: [&'static str; 2],
    /// What each timeout alone makes of it; the last needs PostgreSQL 17.
    becomes: [Becomes; 4],
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Becomes {
    /// The session has ended.
    Ended,
    /// The statement was cancelled, and its transaction is aborted and open.
    Aborted,
    /// It is as it was.
    Stays,
}

use Becomes::{Aborted, Ended, Stays};

const STATES: [State; 6] = [
    State {
        ending: "returns",
        seen: ["idle", "ClientRead"],
        becomes: [Stays, Stays, Ended, Stays],
    },
    State {
        ending: "begin_by_hand",
        seen: ["idle in transaction", "ClientRead"],
        becomes: [Stays, Ended, Stays, Ended],
    },
    State {
        ending: "failed_statement",
        seen: [ABORTED, "ClientRead"],
        becomes: [Stays, Ended, Stays, Stays],
    },
    State {
        ending: "slow_statement",
        seen: ["active", "PgSleep"],
        becomes: [Aborted, Stays, Stays, Ended],
    },
    State {
        ending: "copy_in_kept",
        seen: ["active", "ClientRead"],
        becomes: [Stays, Stays, Stays, Stays],
    },
    State {
        ending: "rows_kept",
        seen: ["active", "ClientWrite"],
        becomes: [Stays, Stays, Stays, Stays],
    },
];

/// A process that was stopped, and the server's process behind its connection.
struct Stopped {
    state: &'static State,
    _function: Function,
    database: Database,
    pid: String,
}

impl Stopped {
    async fn new(postgres: &Postgres, state: &'static State, timeout: usize) -> Stopped {
        let database = postgres.fresh_database().await.expect("a database");
        database
            .execute("create table t (a int)")
            .await
            .expect("a table");
        let mut builder = Function::builder(env!("CARGO_BIN_EXE_endings"))
            .timeout(PLENTY)
            .env("DATABASE_URL", &database.url)
            .env("MAX_CONNECTIONS", 1);
        for (at, variable) in VARIABLES.into_iter().enumerate() {
            let time = if at == timeout {
                TIMEOUT
            } else {
                Duration::ZERO
            };
            builder = builder.env(variable, time.as_secs());
        }
        let function = builder.start().await.expect("a function");
        let path = format!("/{}?stay", state.ending);
        let request = Request::get(path).body(Bytes::new()).expect("a request");
        tokio::spawn({
            let function = function.clone();
            async move { function.request(request).await.map(drop) }
        });
        let until = Instant::now() + PLENTY;
        let pid = loop {
            if let Some([pid, state_now, waits]) = look(&database).await {
                let staying = state.ending == "slow_statement" || said(&function, "staying");
                if staying && [state_now.as_str(), waits.as_str()] == state.seen {
                    break pid;
                }
            }
            assert!(Instant::now() < until, "never {:?}", state.seen);
            sleep(Duration::from_millis(20)).await;
        };
        let environment = function.environments().remove(0);
        environment.freeze();
        environment.frozen().await.expect("frozen");
        Stopped {
            state,
            _function: function,
            database,
            pid,
        }
    }

    async fn now(&self) -> Becomes {
        match look(&self.database).await {
            Some([pid, state, waits]) => {
                assert_eq!(pid, self.pid, "it is stopped, and cannot connect again");
                match [state.as_str(), waits.as_str()] {
                    // What it waits for is not shown at every moment.
                    [state, _] if state == self.state.seen[0] => Stays,
                    [ABORTED, _] => Aborted,
                    seen => panic!("{}: {seen:?}", self.state.ending),
                }
            }
            None => Ended,
        }
    }
}

fn said(function: &Function, what: &str) -> bool {
    let environments = function.environments();
    environments
        .iter()
        .any(|environment| environment.log().contains(what))
}

/// The one session of the function's: its process, state, and what it waits for.
async fn look(database: &Database) -> Option<[String; 3]> {
    let rows = database
        .query(
            "select pid, state, wait_event from pg_stat_activity \
             where datname = current_database() and application_name = 'endings'",
        )
        .await
        .expect("activity");
    let mut row = rows.into_iter().next()?.into_iter();
    let mut next = || row.next().flatten().unwrap_or_default();
    Some([next(), next(), next()])
}

async fn each_alone(installation: Installation) {
    let knows_transactions = installation.major() >= 17;
    let server = Postgres::builder().installation(installation);
    let server = server.setting("max_connections", 100).start().await;
    let server = server.expect("a server");
    for (at, variable) in VARIABLES.into_iter().enumerate() {
        let stopped: Vec<_> = STATES
            .iter()
            .map(|state| Stopped::new(&server, state, at))
            .collect();
        let stopped = join_all(stopped).await;
        let last = Instant::now();
        let expected = |stopped: &Stopped| match at {
            3 if !knows_transactions => Stays,
            _ => stopped.state.becomes[at],
        };
        for stopped in &stopped {
            while stopped.now().await != expected(stopped) {
                let late = last.elapsed() > PLENTY;
                assert!(!late, "{variable} leaves {}", stopped.state.ending);
            }
        }
        // What stays has to be given its time.
        sleep((TIMEOUT * 2).saturating_sub(last.elapsed())).await;
        for stopped in &stopped {
            let found = stopped.now().await;
            assert_eq!(
                found,
                expected(stopped),
                "{variable}: {}",
                stopped.state.ending
            );
        }
    }
}

#[tokio::test]
async fn timeouts_end_what_froze_on_the_usual_server() {
    each_alone(Installation::find().expect("a server")).await;
}

#[tokio::test]
async fn timeouts_end_what_froze_on_17() {
    each_alone(Installation::embedded("17").expect("PostgreSQL 17")).await;
}
