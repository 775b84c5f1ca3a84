//! Starts a PgBouncer in front of the server, and checks that its connections are at rest.

use antifreeze::config::Pooler;
use antifreeze::{Config, connection};
use futures_util::future::join_all;
use lab::pgbouncer::{Mode, PgBouncer};
use lab::postgres::Postgres;

use super::Lab;

/// The number of clients that work at a time.
pub const CLIENTS: usize = 8;
/// The number of server connections that PgBouncer has for them.
pub const SERVERS: usize = 2;

pub const MODES: [Mode; 2] = [Mode::Transaction, Mode::Session];

pub struct Pooled {
    pub lab: Lab,
    pub pooler: PgBouncer,
    pub mode: Mode,
}

pub async fn pooled(mode: Mode) -> Pooled {
    pooled_with(mode, SERVERS, |config| config).await
}

pub async fn pooled_with(
    mode: Mode,
    servers: usize,
    change: impl FnOnce(Config) -> Config,
) -> Pooled {
    let postgres = Postgres::shared().await.expect("a server");
    let server = postgres.fresh_database().await.expect("a database");
    server
        .execute("create table t (a int)")
        .await
        .expect("a table");
    let pooler = PgBouncer::builder(postgres)
        .mode(mode)
        .pool_size(servers)
        .start()
        .await
        .expect("a pooler");
    let url = pooler.url(&server.url);
    let lab = Lab::over(server, &url, |config| {
        change(config.pooler(match mode {
            Mode::Transaction => Pooler::Transaction,
            _ => Pooler::Session,
        }))
    });
    Pooled { lab, pooler, mode }
}

impl Pooled {
    /// Lists the states of PgBouncer's connections to the server, but of one that it opens, or
    /// resets by itself behind a client.
    pub async fn servers(&self) -> Vec<String> {
        let rows = self
            .lab
            .server
            .query(
                "select state from pg_stat_activity where datname = current_database() \
                 and backend_type = 'client backend' and application_name <> 'lab' \
                 and state is not null and query <> 'DISCARD ALL'",
            )
            .await
            .expect("activity");
        let states = rows
            .into_iter()
            .map(|row| row[0].clone().unwrap_or_default());
        states.collect()
    }

    /// Fails if a connection of the pooler is in a transaction or at work, if anything is
    /// locked, or if the next invocation does not work.
    pub async fn assert_at_rest(&self, ending: &str) {
        let what = format!("{ending}, {:?}", self.mode);
        let acknowledged = self.lab.is_acknowledged();
        let torn_down = self.lab.torn_down();
        assert!(acknowledged, "{what}: {torn_down:?}");
        let servers = self.servers().await;
        assert!(
            servers.iter().all(|state| state == "idle"),
            "{what}: {servers:?} after {torn_down:?}\n{}",
            self.pooler.log()
        );
        // Its own reset has the client's application_name.
        self.lab
            .eventually("the servers are reset", async |lab| {
                lab.sessions().await.iter().all(|state| state == "idle")
            })
            .await;
        self.lab.assert_at_rest().await;
        // One invocation for each server connection, whichever of them it gets.
        let next = (0..SERVERS).map(|_| {
            self.lab.run(async {
                let connection = connection().await?;
                let row = connection.query_one("select 1 where true", &[]).await?;
                assert_eq!(row.get::<_, i32>(0), 1);
                Ok(())
            })
        });
        for result in join_all(next).await {
            result.unwrap_or_else(|error| panic!("after {what}: {error:?}"));
        }
    }
}

/// How often an ending is tried: on a busy machine the pooler may take longer than the half second
/// that a close waits for it, but not each time.
const TRIES: usize = 3;

/// Runs an ending in both modes. `run` returns how many rows it stored.
pub async fn assert_ends_at_rest(ending: &str, run: impl AsyncFn(&Lab) -> i64) {
    for mode in MODES {
        let mut pooled = pooled(mode).await;
        let mut stored = run(&pooled.lab).await;
        for _ in 1..TRIES {
            if pooled.lab.is_acknowledged() {
                break;
            }
            pooled = self::pooled(mode).await;
            stored = run(&pooled.lab).await;
        }
        pooled.assert_at_rest(ending).await;
        assert_eq!(pooled.lab.rows().await, stored, "{ending}, {mode:?}");
    }
}
