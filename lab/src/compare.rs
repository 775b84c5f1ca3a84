//! What other libraries leave behind: how often a session is stuck when the process
//! that has it is frozen.
//!
//! It runs the functions `libraries` (`src/bin/libraries`) and, for Diesel, `compared`
//! (`drivers/src/bin/compared`), a fresh process and a fresh database for each time, and
//! looks at `pg_stat_activity` while the process stands still.

use std::{path::Path, time::Duration};

use serde_json::json;
use tokio::time::timeout;

use crate::{
    Error, Result,
    lambda::{Answer, FreezeAt, Function},
    postgres::{Database, Postgres},
    process,
};

/// The libraries, as the function knows them.
pub const LIBRARIES: [&str; 5] = [
    "tokio-postgres",
    "deadpool",
    "sqlx",
    "antifreeze",
    "sqlx behind antifreeze",
];

/// Those of the function `compared`, which takes longer to build.
pub const DIESEL: [&str; 2] = ["Diesel", "Diesel behind antifreeze"];

/// The endings, as the function knows them; those that libraries differ in come first.
pub const ENDINGS: [&str; 10] = [
    "statement timed out",
    "task in its transaction",
    "advisory lock",
    "BEGIN as SQL",
    "BEGIN as SQL, then a failure",
    "transaction leaked",
    "result not read to its end",
    "panic in a transaction",
    "transaction dropped",
    "returns",
];

/// The kinds of tokio runtime.
pub const RUNTIMES: [&str; 2] = ["current_thread", "multi_thread"];

/// How long an `ALTER TABLE` waits for its lock.
const LOCK_TIMEOUT: &str = "100ms";

/// How long one run may take, with the start of its process.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the function prints when its handler has given an answer.
const ENDED: &str = "returned: an answer";

/// What it prints when the handler has failed, or panicked.
const FAILED: &str = "returned: an error";

/// When the process is frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// When the handler has returned: nothing of the runtime has run since.
    Returned,
    /// When the response has left.
    Response,
    /// When the runtime waits for the next event: as Lambda does it.
    Next,
}

/// What is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// One of [`LIBRARIES`] or of [`DIESEL`].
    pub library: &'static str,
    /// One of [`ENDINGS`].
    pub ending: &'static str,
    /// One of [`RUNTIMES`].
    pub runtime: &'static str,
    /// When the process is frozen.
    pub frozen: Moment,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// How often it was tried.
    pub runs: usize,
    /// How often the session was busy, in a transaction, or had an advisory lock, while
    /// the process was frozen.
    pub stuck: usize,
    /// How often an `ALTER TABLE` did not get its lock within 100 ms meanwhile.
    pub blocked: usize,
}

/// Every case there is with these libraries, of one moment.
pub fn cases(libraries: &[&'static str], frozen: Moment) -> impl Iterator<Item = Case> {
    let each = move |library| {
        ENDINGS.into_iter().flat_map(move |ending| {
            RUNTIMES.into_iter().map(move |runtime| Case {
                library,
                ending,
                runtime,
                frozen,
            })
        })
    };
    libraries.iter().copied().flat_map(each)
}

/// Tries a case so often. `function` is the executable.
///
/// # Errors
/// When the server or the function cannot be started, and when the function does not
/// come as far as its ending: what it leaves behind would say nothing.
pub async fn left_behind(
    postgres: &Postgres,
    function: &Path,
    case: Case,
    runs: usize,
) -> Result<Left> {
    let mut left = Left::default();
    for _ in 0..runs {
        let database = postgres.fresh_database().await?;
        let tried = timeout(PATIENCE, run(&database, function, case)).await;
        // Every database takes memory until it is dropped.
        database.discard().await?;
        let (stuck, blocked) = tried.unwrap_or_else(|_| {
            Err(Error::new(format!(
                "{case:?} was not done within {PATIENCE:?}"
            )))
        })?;
        left.runs += 1;
        left.stuck += usize::from(stuck);
        left.blocked += usize::from(blocked);
    }
    Ok(left)
}

/// Whether the session was stuck, and whether it blocked a migration.
async fn run(database: &Database, function: &Path, case: Case) -> Result<(bool, bool)> {
    database.execute("create table t (a int)").await?;
    let url = format!("{}?application_name=tried", database.url);
    let builder = Function::builder(function)
        .env("LIBRARY", case.library)
        .env("RUNTIME", case.runtime)
        .env("DATABASE_URL", url)
        .timeout(Duration::from_secs(10));
    let builder = match case.frozen {
        Moment::Returned => builder.env("STOP", "yes").freeze_at(FreezeAt::Never),
        Moment::Response => builder.freeze_at(FreezeAt::Response),
        Moment::Next => builder.freeze_at(FreezeAt::Next),
    };
    let function = builder.start().await?;
    let event = json!({ "ending": case.ending });
    // Its last word before it ends as it was told to: before that, it failed.
    let reached = format!("reached: {}", case.ending);
    if case.frozen == Moment::Returned {
        let environment = function.cold_start().await?;
        let invoked = function.clone();
        tokio::spawn(async move { invoked.invoke(event).await });
        environment.logged(&reached).await?;
        environment.logged(answer_of(case.ending)).await?;
        stopped(environment.pid()).await?;
    } else {
        let outcome = function.invoke(event).await?;
        let environment = outcome.environment;
        let answered = match outcome.answer {
            Answer::Response(_) => ENDED,
            Answer::Error { .. } => FAILED,
            _ => "",
        };
        if answered != answer_of(case.ending) {
            return Err(Error::new(format!(
                "{case:?} came to {:?}; its log: {}",
                outcome.answer,
                environment.log().trim()
            )));
        }
        environment.logged(&reached).await?;
        environment.frozen().await?;
    }

    let stuck = "select 1 from pg_stat_activity \
                 where datname = current_database() and application_name = 'tried' \
                 and state is distinct from 'idle' \
                 union all select 1 from pg_locks where locktype = 'advisory' and database = \
                 (select oid from pg_database where datname = current_database())";
    let before = !database.query(stuck).await?.is_empty();
    let alter = format!("set lock_timeout = '{LOCK_TIMEOUT}'; alter table t add column b int");
    let blocked = database.execute(&alter).await.is_err();
    // The server may have read only now what was sent before the process was frozen.
    let stuck = before || !database.query(stuck).await?.is_empty();
    Ok((stuck, blocked))
}

/// Waits until a process has stopped itself.
async fn stopped(pid: u32) -> Result<()> {
    loop {
        match process::is_frozen(pid) {
            Some(true) => return Ok(()),
            Some(false) => tokio::time::sleep(Duration::from_millis(2)).await,
            None => return Err(Error::new(format!("process {pid} ended before it stopped"))),
        }
    }
}

/// What the function says of its handler's answer.
fn answer_of(ending: &str) -> &'static str {
    match ending {
        "transaction dropped" | "statement timed out" | "panic in a transaction" => FAILED,
        _ => ENDED,
    }
}
