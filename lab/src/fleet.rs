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
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::task::JoinSet;
use tokio_postgres::{NoTls, error::SqlState};

use crate::{
    Error, OrSay, Result,
    lambda::Function,
    postgres::{Database, Postgres},
};

/// The role of the function.
pub const ROLE: &str = "fleet";

/// The role of the other client.
const OTHER: &str = "somebody_else";

/// What the server has to put in front of what it logs, for [`refused`] to be able to read it.
pub const LOG_LINE_PREFIX: &str = "%m [%p] %u %e ";

/// How many instances are started at once: Lambda's limit of ten seconds holds for each.
const STARTING: usize = 32;

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
    /// How often the other client was let in.
    pub others: usize,
    /// How often it was refused for want of a slot.
    pub refused: usize,
    /// The most such refusals in a row.
    pub in_a_row: usize,
    /// The longest between the first of them and the connect that was let in.
    pub shut_out: Duration,
    /// The longest that it took to be let in by a server that was there, connecting included:
    /// on a busy machine that takes its time by itself.
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
            .timeout(deadline)
            .start()
            .await?;
        let starts = stream::iter((0..instances).map(|_| function.cold_start()));
        starts
            .buffer_unordered(STARTING)
            .try_for_each(|_| async { Ok(()) })
            .await?;
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

/// How many connects the server has refused for want of a slot: those of the function, and
/// everybody else's. It must have logged with [`LOG_LINE_PREFIX`].
pub fn refused(log: &str) -> (usize, usize) {
    let who = |line: &str| {
        let (_, rest) = line.split_once("] ")?;
        let mut words = rest.split_whitespace();
        let (user, code) = (words.next()?, words.next()?);
        (code == "53300").then(|| user == ROLE)
    };
    let (ours, others): (Vec<_>, Vec<_>) = log.lines().filter_map(who).partition(|ours| *ours);
    (ours.len(), others.len())
}

/// The row of the table in docs/limits.md about `bursts`: what was `seen` meanwhile, how many of
/// the `slots` were `kept` afterwards, and what [`refused`] has found.
pub fn row(
    bursts: &[Burst],
    seen: &Seen,
    slots: i64,
    kept: usize,
    (ours, others): (usize, usize),
) -> [String; 9] {
    let served: usize = bursts.iter().map(|burst| burst.served).sum();
    let failed = bursts.iter().flat_map(|burst| burst.failed.values());
    let requests = served + failed.sum::<usize>();
    let slowest = bursts.iter().map(|burst| burst.slowest).max();
    [
        format!("{served} of {requests}"),
        format!("{:.1} s", slowest.unwrap_or_default().as_secs_f64()),
        format!("{} of {slots}", seen.most),
        format!("{kept}"),
        format!("{ours}"),
        format!("{}", seen.others),
        format!("{others}"),
        format!("{} ms", seen.shut_out.as_millis()),
        format!("{} ms", seen.longest.as_millis()),
    ]
}

/// Counts the function's slots, as a superuser, over and over.
async fn look(url: String, seen: Arc<Mutex<Seen>>) {
    let count = format!(
        "select count(*) from pg_stat_activity \
         where usename = '{ROLE}' and backend_type = 'client backend'"
    );
    loop {
        // The server may be restarted.
        if let Ok((client, connection)) = tokio_postgres::connect(&url, NoTls).await {
            let driver = tokio::spawn(connection);
            while let Ok(row) = client.query_one(&count, &[]).await {
                note(&seen, |seen| seen.most = seen.most.max(row.get(0)));
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
        let mut begin = Instant::now();
        let mut in_a_row = 0;
        let mut first_refused = None;
        loop {
            let shut_out = first_refused.map_or(Duration::ZERO, |at: Instant| at.elapsed());
            let connected = tokio_postgres::connect(&url, NoTls).await;
            note(&seen, |seen| seen.shut_out = seen.shut_out.max(shut_out));
            match connected {
                Ok((client, connection)) => {
                    note(&seen, |seen| {
                        seen.others += 1;
                        seen.longest = seen.longest.max(begin.elapsed());
                    });
                    let driver = tokio::spawn(connection);
                    drop(client);
                    let _ = driver.await;
                    break;
                }
                Err(error) if error.code() == Some(&SqlState::TOO_MANY_CONNECTIONS) => {
                    in_a_row += 1;
                    first_refused.get_or_insert_with(Instant::now);
                    note(&seen, |seen| {
                        seen.refused += 1;
                        seen.in_a_row = seen.in_a_row.max(in_a_row);
                        seen.longest = seen.longest.max(begin.elapsed());
                    });
                }
                // It is away, and that is no matter of slots.
                Err(_) => {
                    begin = Instant::now();
                    first_refused = None;
                }
            }
            tokio::time::sleep(INTERVAL).await;
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

fn note(seen: &Mutex<Seen>, change: impl FnOnce(&mut Seen)) {
    change(&mut seen.lock().unwrap_or_else(PoisonError::into_inner));
}
