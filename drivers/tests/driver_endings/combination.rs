//! All endings of a driver, one after the other or eight at a time, in one process.

use std::collections::BTreeSet;
use std::time::Duration;

use drivers::{Caller, Driver, Ending, Session, TABLES};
use futures_util::future::join_all;
use lab::lambda::{Answer, FreezeAt, Function, Outcome};
use lab::postgres::{Auth, Database, Postgres};
use lab::sessions;
use serde_json::{Value, json};

/// How long an invocation may take.
const TIMEOUT: Duration = Duration::from_secs(2);

pub struct Combination {
    driver: Driver,
    per_invocation: bool,
    /// How many invocations at once.
    several: usize,
    function: Function,
    database: Database,
    /// Kept until the end.
    _postgres: Postgres,
    failures: Vec<String>,
    /// How much of the function's log was shown.
    logged: usize,
}

impl Combination {
    pub async fn new(
        driver: Driver,
        per_invocation: bool,
        tls: bool,
        several: usize,
    ) -> Combination {
        let postgres = Postgres::builder().tls(tls).auth(Auth::Scram).start();
        let postgres = postgres.await.expect("a server");
        let database = postgres.create_database("matrix").await;
        let database = database.expect("a database");
        database.execute(TABLES).await.expect("tables");
        let url = match postgres.certificate_authority() {
            Some(roots) => format!(
                "{}?sslmode=verify-full&sslrootcert={}",
                database.url,
                roots.display()
            ),
            None => format!("{}?sslmode=disable", database.url),
        };
        // Both kinds of runtime and both moments come up for each driver.
        let runtime = if tls {
            "multi_thread"
        } else {
            "current_thread"
        };
        let freeze_at = if per_invocation ^ tls {
            FreezeAt::Response
        } else {
            FreezeAt::Next
        };
        let lifetime = if per_invocation {
            "per_invocation"
        } else {
            "per_event_loop"
        };
        let function = Function::builder(env!("CARGO_BIN_EXE_drivers"))
            .timeout(TIMEOUT)
            .freeze_at(freeze_at)
            .concurrency(several)
            .env("DRIVER", driver.name())
            .env("LIFETIME", lifetime)
            .env("RUNTIME", runtime)
            // Some endings take two.
            .env("MAX_CONNECTIONS", 2 * several)
            .env("DATABASE_URL", url)
            .start()
            .await
            .expect("a function");
        Combination {
            driver,
            per_invocation,
            several,
            function,
            database,
            _postgres: postgres,
            failures: Vec::new(),
            logged: 0,
        }
    }

    pub async fn run(mut self) {
        // All its connections are there from here on.
        self.look("the start").await;
        let endings: Vec<&Ending> = Ending::of(self.driver).collect();
        for together in endings.chunks(self.several) {
            self.endings(together).await;
        }
        assert!(self.failures.is_empty(), "\n{}\n", self.failures.join("\n"));
    }

    async fn endings(&mut self, together: &[&Ending]) {
        let names: Vec<&str> = together.iter().map(|ending| ending.name).collect();
        let name = names.join(", ");
        if let Err(error) = sessions::truncate(&self.database).await {
            self.fail(&name, format!("before it, the table was locked: {error:?}"));
            let ended = sessions::terminate(&self.database).await;
            ended.expect("the administrator can end sessions");
        }
        let before = self.pids().await;
        let calls = names.iter().map(|name| call(&self.function, name));
        for (ending, outcome) in together.iter().zip(join_all(calls).await) {
            if got(&outcome) != Some(ending.caller) {
                let log = self.log(&outcome);
                let told = format!("the caller got {}; the log: {log}", told(&outcome));
                self.fail(ending.name, told);
            }
            if outcome.responded > TIMEOUT {
                self.fail(
                    ending.name,
                    format!("the response took {:?}", outcome.responded),
                );
            }
        }
        if let Some(left) = self.left().await {
            self.fail(&name, format!("left behind: {left}"));
        }
        let after = self.pids().await;
        let keeps = together
            .iter()
            .all(|ending| ending.session == Session::Kept);
        if keeps && !self.per_invocation && !before.is_subset(&after) {
            self.fail(&name, format!("of {before:?} only {after:?} were kept"));
        }
        let state = sessions::session_state(&self.database).await;
        let state = state.expect("the administrator can ask");
        if !state.is_empty() {
            self.fail(&name, format!("left behind: {state:?}"));
        }
        if let Err(error) = sessions::migrate(&self.database).await {
            self.fail(&name, format!("a migration waited: {error:?}"));
        }
        self.look(&name).await;
        let rows = sessions::rows(&self.database).await.expect("a count");
        let stored = together.iter().filter(|ending| ending.stores()).count();
        if rows != stored.to_string() {
            self.fail(&name, format!("{rows} rows were stored, not {stored}"));
        }
    }

    /// The next invocations, as many at once: in the same process, and they see nothing.
    async fn look(&mut self, name: &str) {
        let calls = (0..self.several).map(|_| call(&self.function, "look"));
        for outcome in join_all(calls).await {
            if outcome.cold && name != "the start" {
                self.fail(name, "the next invocation was in another process".into());
            }
            let seen = outcome.json();
            if seen != Some(json!({ "seen": [] })) {
                let log = self.log(&outcome);
                let told = format!("the next invocation saw {}; the log: {log}", told(&outcome));
                self.fail(name, told);
            }
        }
        if let Some(left) = self.left().await {
            self.fail(name, format!("left behind by the next one: {left}"));
        }
    }

    /// The function's sessions that should not exist.
    async fn left(&self) -> Option<String> {
        let mut left = self.sessions().await;
        left.retain(|session| self.per_invocation || session.state != "idle");
        (!left.is_empty()).then(|| format!("{left:?}"))
    }

    async fn pids(&self) -> BTreeSet<String> {
        let sessions = self.sessions().await.into_iter();
        sessions.map(|session| session.pid).collect()
    }

    async fn sessions(&self) -> Vec<sessions::Session> {
        let sessions = sessions::sessions(&self.database).await;
        sessions.expect("the administrator can ask")
    }

    /// What the function has logged since.
    fn log(&mut self, outcome: &Outcome) -> String {
        let log = outcome.environment.log();
        let new = log.get(self.logged..).unwrap_or(&log).trim().to_owned();
        self.logged = log.len();
        new
    }

    fn fail(&mut self, ending: &str, what: String) {
        self.failures.push(format!("{ending}: {what}"));
    }
}

/// What was found until then is not lost when something panics.
impl Drop for Combination {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.failures.is_empty() {
            eprintln!("before that:\n{}", self.failures.join("\n"));
        }
    }
}

/// Calls the function and waits until it is frozen.
async fn call(function: &Function, ending: &str) -> Outcome {
    let event: Value = json!({ "ending": ending });
    let outcome = function.invoke(event).await.expect("it is running");
    if got(&outcome).is_some() {
        outcome.environment.frozen().await.expect("frozen");
    }
    outcome
}

/// `None` if the process was killed.
fn got(outcome: &Outcome) -> Option<Caller> {
    match &outcome.answer {
        Answer::Response(_) => Some(Caller::Success),
        Answer::Error { message, .. } if message.contains("deadline") => Some(Caller::Deadline),
        Answer::Error { .. } => Some(Caller::Failure),
        _ => None,
    }
}

/// The answer, in short.
fn told(outcome: &Outcome) -> String {
    match &outcome.answer {
        Answer::Response(body) => String::from_utf8_lossy(body).into_owned(),
        Answer::Error { message, .. } => format!("the error {message:?}"),
        other => format!("{other:?}"),
    }
}
