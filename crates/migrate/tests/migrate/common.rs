//! A database of its own for each test, and what happened to it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use antifreeze::{Config, Database};
use antifreeze_migrate::{Around, Event, Migrations, Runner};
use lab::postgres::Postgres;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

/// Longer than anything takes, shorter than anybody waits.
pub const PLENTY: Duration = Duration::from_secs(60);

/// Short enough for a test, long enough for the second connection to look.
pub const LOCK_TIMEOUT: Duration = Duration::from_millis(600);

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

/// The database behind a URL.
pub fn over(url: &str) -> Database {
    let config = Config::from_url(url).expect("a URL");
    Database::new(config).expect("settings")
}

pub fn migrations(files: &[(&str, &str)]) -> Migrations {
    Migrations::embedded(files.iter().copied()).expect("migrations")
}

/// What happened, as it happens.
pub struct Log {
    seen: Arc<Mutex<Vec<Event>>>,
    coming: UnboundedReceiver<Event>,
}

impl Log {
    /// Lets `runner` write into a log.
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
        let waited = tokio::time::timeout(PLENTY, wait).await;
        waited.unwrap_or_else(|_| panic!("{what} took too long"))
    }

    /// All lines so far.
    pub fn text(&self) -> String {
        let seen = self.seen.lock().expect("no panic");
        let lines: Vec<_> = seen.iter().map(Event::to_string).collect();
        lines.join("\n")
    }
}

impl Lab {
    /// Those files, with a short `lock_timeout` and short pauses.
    pub fn runner(&self, files: &[(&str, &str)]) -> Runner {
        let short = Duration::from_millis(100);
        migrations(files)
            .runner(&self.database)
            .lock_timeout(LOCK_TIMEOUT)
            .backoff(short, short)
            .lock_wait(PLENTY)
    }

    /// Runs another tool that alters `partners` while somebody idles in a transaction on it:
    /// he is named, the tool gives way and is run again until he has gone.
    pub async fn gives_way(&self, around: Around, tool: &str) {
        let forgetful = self.idle_in_transaction().await;
        let (sender, mut coming) = unbounded_channel();
        let running = around.on_event(move |event| {
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
                Event::ToolHeedless { .. } => panic!("it waits for longer than it was told"),
                _ => {}
            }
        }
        let rolled_back = forgetful.batch_execute("rollback").await;
        rolled_back.expect("remembered");
        let report = running.await.expect("no panic").expect("the lock is free");
        assert!(report.retries >= 1, "{report:?}");
    }

    /// A session that is not the tested one's, named `application`.
    pub async fn session(&self, application: &str) -> (Client, JoinHandle<()>) {
        let mut config: tokio_postgres::Config = self.server.url.parse().expect("a URL");
        config.application_name(application);
        let (client, connection) = config.connect(NoTls).await.expect("a session");
        let driver = tokio::spawn(async {
            let _ = connection.await;
        });
        (client, driver)
    }

    /// One that idles in a transaction, with a lock that an ALTER TABLE waits for.
    pub async fn idle_in_transaction(&self) -> Client {
        let (client, _) = self.session("forgetful").await;
        let begin = "begin; select count(*) from partners";
        client.batch_execute(begin).await.expect("a transaction");
        client
    }

    /// One that idles in a transaction in which it wrote: CREATE INDEX CONCURRENTLY waits for
    /// it, and not for one that only read.
    pub async fn idle_after_writing(&self) -> Client {
        let (client, _) = self.session("forgetful").await;
        let begin = "begin; insert into partners values (0, 'nobody')";
        client.batch_execute(begin).await.expect("a transaction");
        client
    }

    /// The first field of the first row.
    pub async fn value(&self, sql: &str) -> String {
        let rows = self.server.query(sql).await.expect(sql);
        let first = rows.first().and_then(|row| row.first().cloned());
        first.flatten().unwrap_or_default()
    }

    /// The history: `1 a, 2 b`.
    pub async fn applied(&self) -> String {
        let all = "select coalesce(string_agg(version || ' ' || name, ', ' order by version), '') \
                   from refinery_schema_history";
        self.value(all).await
    }

    /// Nobody of the tested ones is left on the server, and nobody has a lock.
    pub async fn assert_gone(&self) {
        let sessions = "select count(*) from pg_stat_activity where datname = current_database() \
                        and application_name like 'migrate%'";
        self.eventually(sessions, "0").await;
    }

    /// Waits until `sql` says `expected`.
    pub async fn eventually(&self, sql: &str, expected: &str) {
        let until = tokio::time::Instant::now() + PLENTY;
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
