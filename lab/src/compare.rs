//! What other libraries leave behind: how often a session is stuck when the process
//! that has it is frozen.
//!
//! It runs the function `libraries` (`src/bin/libraries`), a fresh process and a fresh
//! database for each time, and looks at `pg_stat_activity` while the process stands
//! still.

use std::{path::Path, time::Duration};

use serde_json::json;

use crate::{
    Result,
    lambda::{FreezeAt, Function},
    postgres::Postgres,
    process,
};

/// The libraries, as the function knows them.
pub const LIBRARIES: [&str; 4] = ["tokio-postgres", "deadpool", "sqlx", "antifreeze"];

/// The endings, as the function knows them.
pub const ENDINGS: [&str; 6] = [
    "returns",
    "transaction dropped",
    "BEGIN by hand",
    "task in its transaction",
    "result dropped half-way",
    "statement timed out",
];

/// The kinds of tokio runtime.
pub const RUNTIMES: [&str; 2] = ["current_thread", "multi_thread"];

/// How long an `ALTER TABLE` waits for its lock.
const LOCK_TIMEOUT: &str = "100ms";

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
    /// One of [`LIBRARIES`].
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
    /// How often the session was busy or in a transaction while the process was frozen.
    pub stuck: usize,
    /// How often an `ALTER TABLE` did not get its lock within 100 ms meanwhile.
    pub blocked: usize,
}

/// Every case there is, of one moment.
pub fn cases(frozen: Moment) -> impl Iterator<Item = Case> {
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
    LIBRARIES.into_iter().flat_map(each)
}

/// Tries a case so often. `function` is the executable.
///
/// # Errors
/// When the server or the function cannot be started.
pub async fn left_behind(
    postgres: &Postgres,
    function: &Path,
    case: Case,
    runs: usize,
) -> Result<Left> {
    let mut left = Left::default();
    for _ in 0..runs {
        let database = postgres.fresh_database().await?;
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
        if case.frozen == Moment::Returned {
            let environment = function.cold_start().await?;
            let invoked = function.clone();
            tokio::spawn(async move { invoked.invoke(event).await });
            while process::is_frozen(environment.pid()) != Some(true) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        } else {
            let outcome = function.invoke(event).await?;
            outcome.environment.frozen().await?;
        }

        let ours = "from pg_stat_activity where datname = current_database() \
                    and application_name = 'tried'";
        let stuck = format!("select 1 {ours} and state is distinct from 'idle'");
        let stuck = !database.query(&stuck).await?.is_empty();
        let alter = format!("set lock_timeout = '{LOCK_TIMEOUT}'; alter table t add column b int");
        let blocked = database.execute(&alter).await.is_err();
        left.runs += 1;
        left.stuck += usize::from(stuck);
        left.blocked += usize::from(blocked);

        // A backend that sleeps does not notice that its client is gone.
        let end = format!("select pg_terminate_backend(pid) {ours}");
        database.execute(&end).await?;
        drop(function);
    }
    Ok(left)
}
