//! All endings of a driver, one after the other or eight at a time, in one process.

use std::collections::BTreeSet;
use std::time::Duration;

use drivers::{Caller, Driver, Ending, Session, TABLES};
use futures_util::future::join_all;
use lab::lambda::{Answer, FreezeAt, Function, Outcome};
use lab::pgbouncer::PgBouncer;
use lab::postgres::{Auth, Database, Postgres};
use lab::sessions;
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio::time::Instant;

/// How long an invocation may take.
const TIMEOUT: Duration = Duration::from_secs(3);

/// How much later than that the host ends it: the margin is not the subject here.
const OVERTIME: Duration = Duration::from_secs(3);

/// How often endings are tried: a busy machine may take the time of a step of the teardown,
/// 500 ms, or what is left of it at a deadline, but not each time.
pub const TRIES: usize = 3;

/// How long a server may take on a busy machine for what it could not confirm in that time.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The server of all combinations.
pub async fn server() -> &'static Postgres {
    static SERVER: OnceCell<Postgres> = OnceCell::const_new();
    let start = async || {
        let server = Postgres::builder().tls(true).auth(Auth::Scram);
        // Each combination has some, and a machine may run many at once.
        server.setting("max_connections", 400).start().await
    };
    SERVER.get_or_try_init(start).await.expect("a server")
}

pub struct Combination {
    driver: Driver,
    per_invocation: bool,
    /// How many invocations at once.
    several: usize,
    function: Function,
    database: Database,
    pooler: Option<PgBouncer>,
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
        Combination::with(driver, per_invocation, tls, several, false).await
    }

    /// Behind PgBouncer in transaction mode. With fewer servers than connections, invocations that
    /// each take two would wait for each other.
    pub async fn pooled(driver: Driver, several: usize) -> Combination {
        Combination::with(driver, false, false, several, true).await
    }

    async fn with(
        driver: Driver,
        per_invocation: bool,
        tls: bool,
        several: usize,
        pooled: bool,
    ) -> Combination {
        let postgres = server().await;
        let database = postgres.fresh_database().await.expect("a database");
        database.execute(TABLES).await.expect("tables");
        let pooler = match pooled {
            true => Some(
                PgBouncer::builder(postgres)
                    .pool_size(2 * several)
                    .start()
                    .await,
            ),
            false => None,
        };
        let pooler = pooler.transpose().expect("a pooler");
        let url = pooler.as_ref().map(|pooler| pooler.url(&database.url));
        let url = url.unwrap_or_else(|| database.url.clone());
        let url = match postgres.certificate_authority().filter(|_| tls) {
            Some(roots) => format!("{url}?sslmode=verify-full&sslrootcert={}", roots.display()),
            None => format!("{url}?sslmode=disable"),
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
            .overtime(OVERTIME)
            .freeze_at(freeze_at)
            .concurrency(several)
            .env("DRIVER", driver.name())
            .env(
                "ANTIFREEZE_POOLER",
                if pooled { "transaction" } else { "none" },
            )
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
            pooler,
            failures: Vec::new(),
            logged: 0,
        }
    }

    pub async fn run(mut self) {
        // All its connections are there from here on. While they are opened, a busy machine may
        // take the time of a teardown.
        let calls = (0..self.several).map(|_| call(&self.function, "look"));
        join_all(calls).await;
        self.look("the start").await;
        let mut endings: Vec<&Ending> = Ending::of(self.driver).collect();
        endings.retain(|ending| self.pooler.is_none() || !ending.leaves_state());
        for together in endings.chunks(self.several) {
            self.endings(together).await;
        }
        assert!(self.failures.is_empty(), "\n{}\n", self.failures.join("\n"));
    }

    async fn endings(&mut self, together: &[&Ending]) {
        for _ in 1..TRIES {
            let before = self.failures.len();
            self.endings_once(together).await;
            if self.failures.len() == before {
                return;
            }
            let failed = self.failures.split_off(before);
            println!("tried again: {}", failed.join("\n"));
            let begin = Instant::now();
            while self.left().await.is_some() && begin.elapsed() < PATIENCE {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        self.endings_once(together).await;
    }

    async fn endings_once(&mut self, together: &[&Ending]) {
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
                let took = format!("the response took {:?}", outcome.responded);
                self.fail(ending.name, took);
            }
        }
        if let Some(left) = self.left().await {
            self.fail(&name, format!("left behind: {left}"));
        }
        let after = self.pids().await;
        let keeps = together
            .iter()
            .all(|ending| ending.session == Session::Kept);
        let keeps = keeps && !self.per_invocation && self.pooler.is_none();
        if keeps && !before.is_subset(&after) {
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
        if self.pooler.is_some() {
            // The pooler is about to open it.
            left.retain(|session| !session.state.is_empty());
        }
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
