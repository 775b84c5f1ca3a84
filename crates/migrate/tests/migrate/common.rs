//! The database and the event log of a test.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use antifreeze::{Config, Database};
use antifreeze_migrate::{Event, Migrations, Runner, ToolRunner};
use lab::postgres::Postgres;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

/// The timeout of anything that a test waits for.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// Short enough for a test, long enough for the checks of the second connection.
pub const LOCK_TIMEOUT: Duration = Duration::from_millis(600);

/// A timeout within which the runner sees that a statement waits, on a busy machine too: it
/// looks several times meanwhile.
pub const SEEN: Duration = Duration::from_secs(2);

pub struct Lab {
    pub server: lab::postgres::Database,
    pub database: Database,
}

/// A fresh database with the table `partners (id int, name text)`.
pub async fn lab() -> Lab {
    let server = Postgres::shared().await.expect("a server");
    let server = server.fresh_database().await.expect("a database");
    let table = "create table partners (id int, name text); \
                 insert into partners select n, 'partner ' || n from generate_series(1, 250) n";
    server.execute(table).await.expect("a table");
    let database = over(&server.url);
    Lab { server, database }
}

/// Returns the database of a URL.
pub fn over(url: &str) -> Database {
    let config = Config::from_url(url).expect("a URL");
    Database::new(config).expect("settings")
}

pub fn migrations(files: &[(&str, &str)]) -> Migrations {
    Migrations::embedded(files.iter().copied()).expect("migrations")
}

/// The events of a run, as they happen.
pub struct Log {
    seen: Arc<Mutex<Vec<Event>>>,
    coming: UnboundedReceiver<Event>,
}

impl Log {
    /// Collects the events of `runner` in a log.
    pub fn of(runner: Runner) -> (Runner, Log) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (sender, coming) = unbounded_channel();
        let writer = Arc::clone(&seen);
        let runner = runner.on_event(move |event| {
            writer.lock().expect("no panic").push(event.clone());
            let _ = sender.send(event.clone());
        });
        (runner, Log { seen, coming })
    }

    /// Waits for an event.
    pub async fn until(&mut self, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
        let wait = async {
            loop {
                let event = self.coming.recv().await;
                let event = event.unwrap_or_else(|| panic!("{what} never came: {}", self.text()));
                if wanted(&event) {
                    return event;
                }
            }
        };
        let waited = tokio::time::timeout(TIMEOUT, wait).await;
        waited.unwrap_or_else(|_| panic!("{what} took too long"))
    }

    /// Returns all lines so far.
    pub fn text(&self) -> String {
        let seen = self.seen.lock().expect("no panic");
        let lines: Vec<_> = seen.iter().map(Event::to_string).collect();
        lines.join("\n")
    }
}

impl Lab {
    /// Returns a runner of these files, with a short `lock_timeout` and short delays.
    pub fn runner(&self, files: &[(&str, &str)]) -> Runner {
        let short = Duration::from_millis(100);
        migrations(files)
            .runner(&self.database)
            .lock_timeout(LOCK_TIMEOUT)
            .backoff(short, short)
            .lock_wait(TIMEOUT)
    }

    /// Runs a tool that alters `partners` while a session is idle in a transaction on it: the
    /// session is named, and the tool is retried until it has ended.
    pub async fn is_retried(&self, runner: ToolRunner, tool: &str) {
        let forgetful = self.idle_in_transaction().await;
        let (sender, mut coming) = unbounded_channel();
        let running = runner.on_event(move |event| {
            let _ = sender.send(event.clone());
        });
        let running = tokio::spawn(running.run());
        let mut named = false;
        loop {
            match coming.recv().await.expect("it runs") {
                Event::Blocked(blocked) => {
                    assert_eq!(blocked.relation.as_deref(), Some("partners"));
                    let mut by = blocked.by.iter();
                    named |= by.any(|by| by.application.as_deref() == Some("forgetful"));
                }
                Event::Retrying { migration, .. } if named => {
                    assert_eq!(migration, tool);
                    break;
                }
                Event::ToolIgnoresOptions { .. } => panic!("the tool ignores PGOPTIONS"),
                _ => {}
            }
        }
        let rolled_back = forgetful.batch_execute("rollback").await;
        rolled_back.expect("remembered");
        let report = running.await.expect("no panic").expect("the lock is free");
        assert!(report.retries >= 1, "{report:?}");
    }

    /// Opens another session, named `application`.
    pub async fn session(&self, application: &str) -> (Client, JoinHandle<()>) {
        let mut config: tokio_postgres::Config = self.server.url.parse().expect("a URL");
        config.application_name(application);
        let (client, connection) = config.connect(NoTls).await.expect("a session");
        let driver = tokio::spawn(async {
            let _ = connection.await;
        });
        (client, driver)
    }

    /// Opens a session that is idle in a transaction and blocks ALTER TABLE.
    pub async fn idle_in_transaction(&self) -> Client {
        let (client, _) = self.session("forgetful").await;
        let begin = "begin; select count(*) from partners";
        client.batch_execute(begin).await.expect("a transaction");
        client
    }

    /// Opens a session that is idle in a transaction after a write: CREATE INDEX CONCURRENTLY
    /// waits for it, but not for one that has only read.
    pub async fn idle_after_writing(&self) -> Client {
        let (client, _) = self.session("forgetful").await;
        let begin = "begin; insert into partners values (0, 'nobody')";
        client.batch_execute(begin).await.expect("a transaction");
        client
    }

    /// Returns the first field of the first row.
    pub async fn value(&self, sql: &str) -> String {
        let rows = self.server.query(sql).await.expect(sql);
        let first = rows.first().and_then(|row| row.first().cloned());
        first.flatten().unwrap_or_default()
    }

    /// Returns the history: `1 a, 2 b`.
    pub async fn applied(&self) -> String {
        let all = "select coalesce(string_agg(version || ' ' || name, ', ' order by version), '') \
                   from refinery_schema_history";
        self.value(all).await
    }

    /// Waits until no session of a runner is left on the server.
    pub async fn assert_gone(&self) {
        let sessions = "select count(*) from pg_stat_activity where datname = current_database() \
                        and application_name like 'migrate%'";
        self.eventually(sessions, "0").await;
    }

    /// Waits until `sql` returns `expected`.
    pub async fn eventually(&self, sql: &str, expected: &str) {
        let until = tokio::time::Instant::now() + TIMEOUT;
        loop {
            let said = self.value(sql).await;
            if said == expected {
                return;
            }
            assert!(
                tokio::time::Instant::now() < until,
                "{sql}: {said} for ever"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
