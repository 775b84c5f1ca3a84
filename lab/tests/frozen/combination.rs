//! All endings, one after the other, in one process.

mod deaths;
mod together;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use lab::lambda::FreezeAt;
use lab::pgbouncer::PgBouncer;
use lab::postgres::{Auth, Database, Postgres};
use lab::relay::Relay;
use lab::sessions;
use tokio::time::{Instant, sleep, timeout};

use crate::TIMEOUT;
use crate::endings::{Connection, DEATHS, Ending, POOLED_TOGETHER, Run, TOGETHER, endings};
use crate::host::{Called, Host, Shape};

/// The server's own timeouts, where nothing else can help.
const SERVER_TIMEOUTS: Duration = Duration::from_secs(1);

/// How often an ending is tried: a busy machine may take the time of a step of the teardown,
/// 500 ms, or what is left of it at a deadline, but not each time.
const TRIES: usize = 3;

/// More than all of it takes on a slow machine.
const PLENTY: Duration = Duration::from_secs(600);

/// How long something may take that takes milliseconds on a machine without load.
const PATIENCE: Duration = Duration::from_secs(10);

const LOST: &str = "unexpected EOF on client connection with an open transaction";

/// One shape, one lifetime, with or without TLS: a server of its own, and all endings
/// one after the other in one process.
pub struct Combination {
    shape: Shape,
    per_invocation: bool,
    freeze_at: FreezeAt,
    postgres: Postgres,
    pooler: Option<PgBouncer>,
    database: Database,
    relay: Relay,
    files: tempfile::TempDir,
    variables: Vec<(&'static str, String)>,
    failures: Vec<String>,
    /// What the server has logged of tries that were not the last.
    tried_again: Vec<Range<usize>>,
    /// What is being waited for, for the message of a timeout.
    doing: RefCell<String>,
}

impl Combination {
    pub async fn new(shape: Shape, per_invocation: bool, tls: bool) -> Combination {
        Combination::with(shape, per_invocation, tls, false).await
    }

    /// Behind PgBouncer, in plain text.
    pub async fn pooled(shape: Shape, per_invocation: bool) -> Combination {
        Combination::with(shape, per_invocation, false, true).await
    }

    async fn with(shape: Shape, per_invocation: bool, tls: bool, pooled: bool) -> Combination {
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
                 create table copied (a int); \
                 create table slow_to_commit (a int); \
                 create function slow() returns trigger language plpgsql as \
                 $$ begin perform pg_sleep(600); return null; end $$; \
                 create constraint trigger slow after insert on slow_to_commit \
                 deferrable initially deferred for each row execute function slow()",
            )
            .await
            .expect("tables");
        let pooler = if pooled {
            Some(pooler(&postgres).await)
        } else {
            None
        };
        let address = pooler
            .as_ref()
            .map_or(postgres.address(), PgBouncer::address);
        let relay = Relay::start(address).await.expect("a relay");
        let url = relay.url(&database.url);
        let url = match postgres.certificate_authority() {
            Some(roots) => format!("{url}?sslmode=verify-full&sslrootcert={}", roots.display()),
            None => format!("{url}?sslmode=disable"),
        };
        let administrator = format!("{}?application_name=administrator", database.url);
        let files = tempfile::tempdir().expect("a directory");
        let lifetime = if per_invocation {
            "per_invocation"
        } else {
            "per_event_loop"
        };
        // Both kinds of runtime come up for each shape.
        let runtime = if tls {
            "multi_thread"
        } else {
            "current_thread"
        };
        // So do both moments, and with each lifetime.
        let freeze_at = if per_invocation ^ tls ^ (shape == Shape::Event) {
            FreezeAt::Response
        } else {
            FreezeAt::Next
        };
        let stalled = files.path().join("stalled").display().to_string();
        let path = if pooled { "transaction" } else { "none" };
        let variables = vec![
            ("ANTIFREEZE_POOLER", path.to_owned()),
            ("SHAPE", shape.name().to_owned()),
            ("LIFETIME", lifetime.to_owned()),
            ("RUNTIME", runtime.to_owned()),
            ("DATABASE_URL", url),
            ("ADMINISTRATOR_URL", administrator),
            ("STALLED", stalled),
        ];
        Combination {
            shape,
            per_invocation,
            freeze_at,
            postgres,
            pooler,
            database,
            relay,
            files,
            variables,
            failures: Vec::new(),
            tried_again: Vec::new(),
            doing: RefCell::default(),
        }
    }

    pub async fn run(mut self) {
        if timeout(PLENTY, self.everything()).await.is_err() {
            let doing = self.doing.take();
            self.fail(&doing, format!("was not done after {PLENTY:?} in all"));
        }
        let failures = std::mem::take(&mut self.failures);
        assert!(failures.is_empty(), "\n{}\n", failures.join("\n"));
    }

    async fn everything(&mut self) {
        match self.shape {
            Shape::Concurrent if self.pooler.is_some() => {
                let host = self.host().await;
                for several in POOLED_TOGETHER {
                    self.together(&host, several).await;
                }
            }
            _ if self.pooler.is_some() => {
                let host = self.host().await;
                for ending in endings(Run::Pooler) {
                    self.ending(&host, ending).await;
                }
            }
            Shape::Streaming => {
                let host = self.host().await;
                for ending in endings(Run::Streaming).chain(endings(Run::Unread)) {
                    self.ending(&host, ending).await;
                }
            }
            Shape::Concurrent => {
                let host = self.host().await;
                for several in TOGETHER {
                    self.together(&host, several).await;
                }
            }
            _ => self.matrix().await,
        }
        // Some of it may have been logged late.
        let mut log = self.postgres.log();
        for tried_again in self.tried_again.drain(..).rev() {
            log.replace_range(tried_again, "");
        }
        for line in log.lines().filter(|line| line.contains(LOST)) {
            self.fail("in the whole log", line.into());
        }
    }

    async fn host(&self) -> Host {
        let host = Host::start(self.shape, self.freeze_at, &self.variables).await;
        // All its connections are there from here on.
        host.call("look").await;
        host
    }

    async fn matrix(&mut self) {
        let host = self.host().await;
        for ending in endings(Run::Direct) {
            self.ending(&host, ending).await;
        }
        if self.shape == Shape::Axum {
            for ending in endings(Run::Unread) {
                self.ending(&host, ending).await;
            }
        }
        if !self.per_invocation {
            for death in DEATHS {
                for next in ["look", "returns"] {
                    self.death(&host, death, next).await;
                }
            }
        }
        drop(host);
        self.variables.push((
            "SERVER_TIMEOUTS_MS",
            SERVER_TIMEOUTS.as_millis().to_string(),
        ));
        let host = self.host().await;
        for ending in endings(Run::Stalled) {
            self.ending(&host, ending).await;
        }
    }

    async fn ending(&mut self, host: &Host, ending: Ending) {
        let before = self.failures.len();
        for _ in 1..TRIES {
            let logged = self.postgres.log().len();
            self.ending_once(host, ending).await;
            if !self.is_tried_again(before, logged).await {
                return;
            }
        }
        self.ending_once(host, ending).await;
    }

    /// Returns whether an ending has failed, and waits until the server has ended what was left.
    /// Before it there were so many failures, and so much in the server's log.
    async fn is_tried_again(&mut self, before: usize, logged: usize) -> bool {
        if self.failures.len() == before {
            return false;
        }
        let failed = self.failures.split_off(before);
        println!("tried again: {}", failed.join("\n"));
        let begun = Instant::now();
        while self.left().await.is_some() && begun.elapsed() < PATIENCE {
            sleep(Duration::from_millis(10)).await;
        }
        self.tried_again.push(logged..self.postgres.log().len());
        true
    }

    async fn ending_once(&mut self, host: &Host, (ending, _, expected, connection): Ending) {
        self.truncate(ending).await;
        let before = self.pids().await;
        let logged = self.postgres.log().len();
        self.doing(ending, "waiting for the response");
        let (called, came) = tokio::join!(host.call(ending), self.meanwhile(ending));
        let frozen = Instant::now();
        if let Err(missing) = came {
            self.fail(ending, missing);
        }
        if called.got != expected {
            let told = format!("the caller got {:?}: {:?}", called.got, called.body);
            self.fail(ending, told);
        }
        if called.took > TIMEOUT {
            self.fail(ending, format!("the response took {:?}", called.took));
        }
        self.doing(ending, "looking at what was left behind");
        // Only where no answer of the server could be awaited may it end later.
        let patience = match ending {
            // The Terminate was sent before the freeze; a busy server may read it late.
            "dropped_from_outside" => PATIENCE,
            // The server looks twice in a second whether its client is there.
            _ if ending.starts_with("unread") || ending.starts_with("stalled") => PATIENCE,
            _ => Duration::ZERO,
        };
        while let Some(left) = self.left().await {
            if frozen.elapsed() >= patience {
                self.fail(ending, format!("left behind: {left}"));
                break;
            }
            sleep(Duration::from_millis(10)).await;
        }
        let after = self.pids().await;
        let kept = before.is_subset(&after);
        match connection {
            // The pooler keeps its servers as it likes.
            _ if self.per_invocation || self.pooler.is_some() => {}
            Connection::Kept if before.len() < 2 || !kept => {
                self.fail(ending, format!("of {before:?} only {after:?} were kept"));
            }
            Connection::Closed if kept => {
                self.fail(ending, format!("none of {before:?} was closed"));
            }
            Connection::Kept | Connection::Closed | Connection::Either => {}
        }
        let state = sessions::session_state(&self.database).await;
        let state = state.expect("the administrator can ask");
        if !state.is_empty() {
            self.fail(ending, format!("left behind: {state:?}"));
        }
        if let Err(error) = sessions::migrate(&self.database).await {
            self.fail(ending, format!("a migration waited: {error:?}"));
        }
        if self.postgres.log()[logged..].contains(LOST) {
            self.fail(ending, format!("in the log: {LOST}"));
        }

        self.relay.resume();
        let _ = std::fs::remove_file(self.files.path().join("stalled"));
        self.doing(ending, "waiting for the next invocation");
        let next = host.call("look").await;
        self.check_next(ending, &called, &next);
        if let Some(saw) = next.saw() {
            self.fail(ending, format!("the next invocation saw {saw}"));
        }
        if let Some(left) = self.left().await {
            self.fail(ending, format!("left behind by the next one: {left}"));
        }
        let stored = ending.starts_with("returns") || ending == "stream_transaction";
        self.check_rows(ending, stored).await;
    }

    /// The next invocation is in the same process, or it shows nothing.
    fn check_next(&mut self, ending: &str, called: &Called, next: &Called) {
        if next.cold || next.pid != called.pid {
            let processes = format!("process {} after {}", next.pid, called.pid);
            self.fail(ending, format!("the next invocation was in {processes}"));
        }
    }

    async fn check_rows(&mut self, ending: &str, stored: bool) {
        let rows = sessions::rows(&self.database).await.expect("a count");
        if rows != i32::from(stored).to_string() {
            self.fail(ending, format!("{rows} rows were stored"));
        }
    }

    /// Empties the table. A session that keeps it locked is a failure; it is terminated, so that
    /// the following endings can run.
    async fn truncate(&mut self, ending: &str) {
        self.doing(ending, "emptying the table");
        if let Err(error) = sessions::truncate(&self.database).await {
            self.fail(
                ending,
                format!("before it, the table was locked: {error:?}"),
            );
            let ended = sessions::terminate(&self.database).await;
            ended.expect("the administrator can end sessions");
            let emptied = sessions::truncate(&self.database).await;
            emptied.expect("no session is left that locks it");
        }
    }

    /// What happens outside the function while it runs. The error names what did not.
    async fn meanwhile(&self, ending: &str) -> Result<(), String> {
        match ending {
            "waits_for_a_restart" => {
                self.in_transaction().await?;
                self.postgres.restart().await.expect("restarted");
            }
            _ if ending.starts_with("stalled") => {
                self.in_transaction().await?;
                self.relay.stall();
                std::fs::write(self.files.path().join("stalled"), "").expect("a file");
            }
            _ => {}
        }
        Ok(())
    }

    /// Waits until the function is inside its transaction.
    async fn in_transaction(&self) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let sessions = self.sessions().await;
            if sessions
                .iter()
                .any(|one| one.state == "idle in transaction")
            {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("not in its transaction after {PATIENCE:?}"));
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn sessions(&self) -> Vec<sessions::Session> {
        let sessions = sessions::sessions(&self.database).await;
        sessions.expect("the administrator can ask")
    }

    /// The function's sessions that should not exist.
    async fn left(&self) -> Option<String> {
        let mut left = self.sessions().await;
        let none = self.per_invocation && self.pooler.is_none();
        left.retain(|session| none || session.state != "idle");
        (!left.is_empty()).then(|| format!("{left:?}"))
    }

    async fn pids(&self) -> BTreeSet<String> {
        let sessions = self.sessions().await.into_iter();
        sessions.map(|session| session.pid).collect()
    }

    fn fail(&mut self, ending: &str, what: String) {
        self.failures.push(format!("{ending}: {what}"));
    }

    fn doing(&self, ending: &str, what: &str) {
        self.doing.replace(format!("{ending}: {what}"));
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

/// With fewer servers than there are clients at a time.
async fn pooler(postgres: &Postgres) -> PgBouncer {
    let pooler = PgBouncer::builder(postgres).pool_size(2).start();
    pooler.await.expect("a pooler")
}
