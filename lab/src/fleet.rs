//! Many instances of a function before a small server.
//!
//! Each is a process that is really frozen between its invocations. Meanwhile somebody
//! looks at the server, and another client, which has nothing to do with the function,
//! connects again and again.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::task::JoinSet;
use tokio_postgres::NoTls;

use crate::{
    Error, OrSay, Result,
    lambda::Function,
    postgres::{Database, Postgres},
};

/// The role of the function.
pub const ROLE: &str = "fleet";

/// The role of the other client.
const OTHER: &str = "somebody_else";

/// How often the server is looked at, and how often the other client comes.
const INTERVAL: Duration = Duration::from_millis(25);

/// What a burst of requests came to.
#[derive(Debug, Default)]
pub struct Burst {
    /// Requests that were answered with a 200.
    pub served: usize,
    /// The others, by status and by the kind that the problem document names.
    pub failed: BTreeMap<String, usize>,
    /// From the first request to the last response.
    pub elapsed: Duration,
    /// The request that took longest.
    pub slowest: Duration,
}

/// What was seen of the server meanwhile.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// The most slots that the function had at once.
    pub most: i64,
    /// The most that all clients had, superusers not counted.
    pub most_of_all: i64,
    /// How often the other client was let in.
    pub others: usize,
    /// How often it was refused before.
    pub refused: usize,
    /// The longest that it took to be let in.
    pub longest: Duration,
}

/// A function, its database, and who looks.
pub struct Fleet {
    function: Function,
    seen: Arc<Mutex<Seen>>,
    /// Who looks; they end with this.
    _watchers: JoinSet<()>,
}

impl Fleet {
    /// So many `instances` of a function that connects to `database` by `url`. All are
    /// initialized and frozen.
    ///
    /// # Errors
    /// When there is no such executable, or an instance does not start.
    pub async fn start(
        instances: usize,
        function: &Path,
        database: &Database,
        url: &str,
        deadline: Duration,
    ) -> Result<Fleet> {
        let function = Function::builder(function)
            .env("DATABASE_URL", url)
            .env("ANTIFREEZE_CONNECT_TIMEOUT", "30s")
            .timeout(deadline)
            .start()
            .await?;
        let starts = (0..instances).map(|_| function.cold_start());
        for started in join_all(starts).await {
            started?;
        }
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut watchers = JoinSet::new();
        watchers.spawn(look(database.url.clone(), Arc::clone(&seen)));
        watchers.spawn(come_and_go(database.url_for(OTHER), Arc::clone(&seen)));
        Ok(Fleet {
            function,
            seen,
            _watchers: watchers,
        })
    }

    /// So many requests at once.
    ///
    /// # Errors
    /// When an instance cannot be started.
    pub async fn burst(&self, requests: usize) -> Result<Burst> {
        let begin = Instant::now();
        let requests = (0..requests).map(|_| async {
            let begin = Instant::now();
            let request = http::Request::get("/").body("");
            let request = request.or_say(|| "a request")?;
            let (response, _) = self.function.request(request).await?;
            Ok::<_, Error>((response, begin.elapsed()))
        });
        let mut burst = Burst::default();
        for answered in join_all(requests).await {
            let (response, took) = answered?;
            burst.slowest = burst.slowest.max(took);
            if response.status() == 200 {
                burst.served += 1;
                continue;
            }
            let problem: serde_json::Value =
                serde_json::from_slice(response.body()).unwrap_or_default();
            let kind = problem["kind"].as_str().unwrap_or("no problem document");
            let failed = format!("{} {kind}", response.status().as_u16());
            *burst.failed.entry(failed).or_default() += 1;
        }
        burst.elapsed = begin.elapsed();
        Ok(burst)
    }

    /// How many instances there are.
    pub fn instances(&self) -> usize {
        self.function.environments().len()
    }

    /// What was seen since this was last asked.
    pub fn seen(&self) -> Seen {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet")
            .field("function", &self.function)
            .finish_non_exhaustive()
    }
}

/// A database with the table and the roles that all this needs.
///
/// # Errors
/// When the server refuses.
pub async fn prepare(postgres: &Postgres) -> Result<Database> {
    for role in [ROLE, OTHER] {
        postgres.create_role(role).await?;
    }
    let database = postgres.fresh_database().await?;
    let table =
        format!("create table visits (at timestamptz); grant insert, select on visits to {ROLE}");
    database.execute(&table).await?;
    Ok(database)
}

/// Counts who has the server's slots, as a superuser, over and over.
async fn look(url: String, seen: Arc<Mutex<Seen>>) {
    let count = format!(
        "select count(*) filter (where usename = '{ROLE}'), count(*) \
         from pg_stat_activity a join pg_roles r on r.oid = a.usesysid \
         where backend_type = 'client backend' and not rolsuper"
    );
    loop {
        // The server may be restarted.
        if let Ok((client, connection)) = tokio_postgres::connect(&url, NoTls).await {
            let driver = tokio::spawn(connection);
            while let Ok(row) = client.query_one(&count, &[]).await {
                note(&seen, |seen| {
                    seen.most = seen.most.max(row.get(0));
                    seen.most_of_all = seen.most_of_all.max(row.get(1));
                });
                tokio::time::sleep(INTERVAL).await;
            }
            driver.abort();
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Connects as anybody would, tries again when it is refused, and leaves.
async fn come_and_go(url: String, seen: Arc<Mutex<Seen>>) {
    loop {
        let begin = Instant::now();
        let mut refused = 0;
        loop {
            match tokio_postgres::connect(&url, NoTls).await {
                Ok((client, connection)) => {
                    let driver = tokio::spawn(connection);
                    let _ = client.simple_query("select 1").await;
                    drop(client);
                    let _ = driver.await;
                    break;
                }
                Err(_) => refused += 1,
            }
            note(&seen, |seen| {
                seen.longest = seen.longest.max(begin.elapsed())
            });
            tokio::time::sleep(INTERVAL).await;
        }
        note(&seen, |seen| {
            seen.others += 1;
            seen.refused += refused;
            seen.longest = seen.longest.max(begin.elapsed());
        });
        tokio::time::sleep(INTERVAL).await;
    }
}

fn note(seen: &Mutex<Seen>, change: impl FnOnce(&mut Seen)) {
    change(&mut seen.lock().unwrap_or_else(PoisonError::into_inner));
}
