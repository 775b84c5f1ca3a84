//! A database, and its sessions as the server sees them.

use std::time::{Duration, Instant};

use lab::postgres::{Database, Postgres};
use tokio::time::sleep;

pub struct Sessions {
    database: Database,
    /// The server, unless it is the shared one.
    server: Option<Postgres>,
}

impl Sessions {
    /// With the tables of the functions.
    pub async fn new() -> Self {
        let server = Postgres::shared().await.expect("a server");
        Self::on(server).await
    }

    /// On a separate server, which logs clients that disconnect without Terminate.
    pub async fn watched() -> Self {
        let server = Postgres::builder().setting("log_min_messages", "debug1");
        let server = server.start().await.expect("a server");
        let sessions = Self::on(&server).await;
        Sessions {
            server: Some(server),
            ..sessions
        }
    }

    async fn on(server: &Postgres) -> Self {
        let database = server.fresh_database().await.expect("a database");
        let schema = include_str!("../../../functions/schema.sql");
        database.execute(schema).await.expect("the tables");
        // One of the examples stores the same name again and again.
        let again = "alter table partners drop constraint partners_pkey";
        database.execute(again).await.expect("the table");
        Sessions {
            database,
            server: None,
        }
    }

    /// The log of the separate server.
    pub fn log(&self) -> String {
        self.server.as_ref().map(Postgres::log).unwrap_or_default()
    }

    pub fn url(&self) -> &str {
        &self.database.url
    }

    /// Counts those that run a statement or are in a transaction.
    pub async fn restless(&self) -> usize {
        self.count("state <> 'idle'").await
    }

    pub async fn all(&self) -> usize {
        self.count("true").await
    }

    pub async fn partners(&self) -> usize {
        let rows = self.database.query("select 1 from partners").await;
        rows.expect("partners").len()
    }

    /// Waits until the server has seen the last of them go.
    pub async fn gone(&self) {
        let limit = Instant::now() + Duration::from_secs(10);
        while self.all().await > 0 {
            assert!(Instant::now() < limit, "a client is still connected");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until one of them does something.
    pub async fn busy(&self) {
        let limit = Instant::now() + Duration::from_secs(10);
        while self.restless().await == 0 {
            assert!(Instant::now() < limit, "no session is busy");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Locks the table partners until the client is dropped.
    pub async fn lock(&self) -> tokio_postgres::Client {
        let connected = tokio_postgres::connect(self.url(), tokio_postgres::NoTls).await;
        let (client, connection) = connected.expect("a connection");
        tokio::spawn(connection);
        let lock = "set application_name = 'locking'; \
            begin; lock table partners in access exclusive mode";
        client.batch_execute(lock).await.expect("the lock");
        client
    }

    /// Counts sessions over TCP: this query uses the unix socket, and its last session may still
    /// be ending.
    async fn count(&self, condition: &str) -> usize {
        let query = format!(
            "select pid from pg_stat_activity where datname = current_database() \
             and client_addr is not null and application_name <> 'locking' \
             and {condition}"
        );
        self.database.query(&query).await.expect("sessions").len()
    }
}
