//! Random programs of steps through sqlx, eight at once. After each invocation
//! `pg_stat_activity` shows its sessions at rest, and the rows are those that were committed.

use std::collections::BTreeSet;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use antifreeze::{Config, Database, invocation};
use futures_util::StreamExt;
use futures_util::future::join_all;
use lab::postgres::{self, Postgres};
use lab::sessions;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, Executor, Postgres as Pg, raw_sql};
use tokio::time::{Instant, sleep, timeout};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

const DEADLINE: Duration = Duration::from_secs(60);

/// How long a server may take on a busy machine for a close that it could not confirm in time.
const PATIENCE: Duration = Duration::from_secs(10);

/// Rounds of eight programs.
const ROUNDS: usize = 16;

/// What the server says of a statement in a wrong place: division by zero, in a failed
/// transaction, outside any.
const EXPECTED: [&str; 3] = ["22012", "25P02", "25P01"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Read,
    Insert,
    /// In a transaction of sqlx's: committed, or dropped.
    Transaction(bool),
    /// By SQL.
    Begin,
    Commit,
    Rollback,
    Savepoint,
    Fails,
    State(&'static str),
    /// Finished, or aborted.
    CopyIn(bool),
    CopyOut,
    /// Of a large result a row.
    Row,
    /// Given up after a moment.
    GivenUp,
    Reconnect,
}

/// What becomes of the connection at the end.
#[derive(Debug, Clone, Copy)]
enum End {
    Dropped,
    Forgotten,
    InATask,
    Panics,
}

#[derive(Debug, Clone)]
struct Program {
    pooled: bool,
    steps: Vec<Step>,
    end: End,
}

fn program() -> impl Strategy<Value = Program> {
    let step = prop_oneof![
        3 => Just(Step::Read),
        4 => Just(Step::Insert),
        2 => any::<bool>().prop_map(Step::Transaction),
        3 => Just(Step::Begin),
        2 => Just(Step::Commit),
        1 => Just(Step::Rollback),
        1 => Just(Step::Savepoint),
        1 => Just(Step::Fails),
        1 => prop::sample::select(vec![
            Step::State("set work_mem = '7MB'"),
            Step::State("select pg_advisory_lock_shared(1)"),
            Step::State("create temp table if not exists left_behind (a int)"),
            Step::State("listen something"),
        ]),
        1 => any::<bool>().prop_map(Step::CopyIn),
        1 => Just(Step::CopyOut),
        1 => Just(Step::Row),
        1 => Just(Step::GivenUp),
        1 => Just(Step::Reconnect),
    ];
    let end = prop::sample::select(vec![
        End::Dropped,
        End::Dropped,
        End::Forgotten,
        End::InATask,
        End::Panics,
    ]);
    (any::<bool>(), prop::collection::vec(step, 0..10), end)
        .prop_map(|(pooled, steps, end)| Program { pooled, steps, end })
}

enum Held {
    Pooled(PoolConnection<Pg>),
    Own(PgConnection),
}

impl Held {
    async fn connect(pool: Option<&PgPool>) -> Result<Held, BoxError> {
        Ok(match pool {
            Some(pool) => Held::Pooled(pool.acquire().await?),
            None => Held::Own(PgConnection::connect(&invocation()?.url()?).await?),
        })
    }

    async fn close(self) -> sqlx::Result<()> {
        match self {
            Held::Pooled(connection) => connection.close().await,
            Held::Own(connection) => connection.close().await,
        }
    }
}

impl Deref for Held {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match self {
            Held::Pooled(connection) => connection,
            Held::Own(connection) => connection,
        }
    }
}

impl DerefMut for Held {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match self {
            Held::Pooled(connection) => connection,
            Held::Own(connection) => connection,
        }
    }
}

/// The transaction that SQL has begun.
#[derive(Default)]
struct Open {
    begun: bool,
    failed: bool,
    rows: Vec<i32>,
}

impl Open {
    /// Notes a row that is stored, if the transaction is.
    fn insert(&mut self, row: i32, stored: &mut Vec<i32>) {
        if self.begun { &mut self.rows } else { stored }.push(row);
    }

    /// Notes a statement that fails.
    fn fail(&mut self) {
        self.failed |= self.begun;
    }
}

/// Runs a program, which inserts from `row` on. Returns the rows that are stored.
async fn run(pool: &PgPool, program: &Program, mut row: i32) -> Result<Vec<i32>, BoxError> {
    let pool = program.pooled.then_some(pool);
    let mut held = Held::connect(pool).await?;
    let look = "select current_setting('work_mem') <> '7MB' \
                and not exists (select from pg_listening_channels()) \
                and to_regclass('pg_temp.left_behind') is null \
                and pg_current_xact_id_if_assigned() is null";
    let clean: bool = sqlx::query_scalar(look).fetch_one(&mut *held).await?;
    assert!(clean, "it sees what another has left");
    let (mut open, mut stored) = (Open::default(), Vec::new());
    for step in &program.steps {
        row += 1;
        let insert = format!("insert into t values ({row})");
        let done = match step {
            Step::Read => {
                let read = sqlx::query_scalar::<_, i32>("select $1").bind(row);
                let read = read.fetch_one(&mut *held).await;
                read.map(|read| assert_eq!(read, row))
            }
            Step::Insert => {
                let done = held.execute(AssertSqlSafe(insert)).await;
                done.map(|_| open.insert(row, &mut stored))
            }
            // Begun by a BEGIN in SQL text, which sqlx does not count.
            Step::Transaction(_) if open.begun => Ok(()),
            Step::Transaction(commits) => {
                let mut transaction = held.begin().await?;
                transaction.execute(AssertSqlSafe(insert)).await?;
                if *commits {
                    transaction.commit().await?;
                    stored.push(row);
                }
                Ok(())
            }
            Step::Begin => {
                let done = held.execute(raw_sql("begin")).await;
                done.map(|_| open.begun = true)
            }
            Step::Commit => {
                let done = held.execute(raw_sql("commit")).await;
                let open = std::mem::take(&mut open);
                done.map(|_| stored.extend(open.rows.iter().filter(|_| !open.failed)))
            }
            Step::Rollback => {
                open = Open::default();
                held.execute(raw_sql("rollback")).await.map(|_| ())
            }
            Step::Savepoint => held.execute(raw_sql("savepoint a")).await.map(|_| ()),
            Step::Fails => held.execute("select 1 / 0").await.map(|_| ()),
            Step::State(sql) => held.execute(raw_sql(*sql)).await.map(|_| ()),
            Step::CopyIn(finishes) => match held.copy_in_raw("copy t from stdin").await {
                Ok(mut copy) => {
                    copy.send(format!("{row}\n").into_bytes()).await?;
                    if *finishes {
                        copy.finish().await?;
                        open.insert(row, &mut stored);
                    } else {
                        // Dropped, it would fail the next statement, with sqlx alone, too.
                        copy.abort("no").await?;
                        open.fail();
                    }
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Step::CopyOut => match held.copy_out_raw("copy many to stdout").await {
                Ok(mut copy) => copy.next().await.transpose().map(|_| ()),
                Err(error) => Err(error),
            },
            Step::Row => {
                let mut rows = sqlx::query("select a from many").fetch(&mut *held);
                rows.next().await.transpose().map(|_| ())
            }
            Step::GivenUp => {
                let slow = held.execute("select pg_sleep(0.02)");
                let slow = timeout(Duration::from_millis(2), slow).await;
                slow.unwrap_or_else(|_| Ok(Default::default())).map(|_| ())
            }
            Step::Reconnect => {
                open = Open::default();
                held.close().await?;
                held = Held::connect(pool).await?;
                Ok(())
            }
        };
        let failed = done.is_err();
        if let Err(error) = done {
            let code = error.as_database_error().and_then(|error| error.code());
            let expected = code.is_some_and(|code| EXPECTED.contains(&&*code));
            if !expected {
                return Err(format!("{step:?}: {error:?}").into());
            }
            open.fail();
        }
        // With such a connection sqlx cannot go on, alone neither: it takes what is left of the
        // copy for the next answer.
        if *step == Step::CopyOut || (failed && matches!(step, Step::CopyIn(_))) {
            open = Open::default();
            let _ = held.close().await;
            held = Held::connect(pool).await?;
        }
    }
    match program.end {
        End::Dropped => drop(held),
        End::Forgotten => std::mem::forget(held),
        End::InATask => {
            tokio::spawn(async move {
                let _held = held;
                std::future::pending::<()>().await;
            });
        }
        // Its connection is dropped while the thread panics.
        End::Panics => {
            let panics = std::panic::AssertUnwindSafe(async move {
                let _held = held;
                std::panic::resume_unwind(Box::new("as it was asked to"));
            });
            let caught = futures_util::FutureExt::catch_unwind(panics).await;
            caught.expect_err("it panics");
        }
    }
    Ok(stored)
}

struct Lab {
    server: postgres::Database,
    names: Vec<String>,
    databases: Vec<Database>,
    pools: Vec<PgPool>,
    /// Whether the server has not confirmed a close of this round in time.
    is_late: Arc<AtomicBool>,
}

impl Lab {
    /// Makes so many pools.
    async fn new(pools: usize, connections: usize) -> Lab {
        let postgres = Postgres::shared().await.expect("a server");
        let server = postgres.fresh_database().await.expect("a database");
        server.execute(drivers::TABLES).await.expect("tables");
        let names: Vec<_> = (0..pools).map(|at| format!("program {at}")).collect();
        let is_late = Arc::new(AtomicBool::new(false));
        let databases = names.iter().map(|name| {
            let config: Config = server.url.parse().expect("a URL");
            let config = config.max_connections(connections).application_name(name);
            let database = Database::new(config).expect("a database");
            let is_late = Arc::clone(&is_late);
            database.on_teardown(move |teardown| {
                let late = teardown.outcome.closed() == Some(false);
                is_late.fetch_or(late, Ordering::Relaxed);
            })
        });
        let databases: Vec<_> = databases.collect();
        let pools = databases.iter().map(|database| {
            let url = database.url().expect("a socket");
            // A connection that is forgotten is lost to sqlx's pool.
            let options = PgPoolOptions::new().max_connections(1000);
            let pool = antifreeze::sqlx_hooks!(options).connect_lazy(&url);
            pool.expect("a pool")
        });
        let pools = pools.collect();
        Lab {
            server,
            names,
            databases,
            pools,
            is_late,
        }
    }

    /// Returns what is left behind, at once or, if the server has not confirmed a close, when it
    /// has had time to.
    async fn left<T>(&self, look: impl AsyncFn() -> Vec<T>) -> Vec<T> {
        let begin = Instant::now();
        loop {
            let left = look().await;
            let waits = self.is_late.load(Ordering::Relaxed) && begin.elapsed() < PATIENCE;
            if left.is_empty() || !waits {
                return left;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Fails if a session of this pool is not at rest.
    async fn assert_at_rest(&self, at: usize, program: &Program) {
        let left = format!(
            "select state, query from pg_stat_activity where datname = current_database() \
             and application_name = '{}' and state <> 'idle' \
             union all select mode, locktype from pg_locks join pg_stat_activity using (pid) \
             where datname = current_database() and application_name = '{0}' \
             and locktype in ('advisory', 'relation', 'transactionid')",
            self.names[at]
        );
        let look = async || self.server.query(&left).await.expect("an answer");
        let left = self.left(look).await;
        assert!(left.is_empty(), "{program:?}: {left:?}");
    }

    /// Runs random programs, eight at a time, and calls `after` behind each.
    async fn run(&self, after: impl AsyncFn(usize, &Program)) {
        let mut runner = TestRunner::deterministic();
        let programs = program();
        for round in 0..ROUNDS {
            let eight = (0..8).map(|at| {
                let program = programs.new_tree(&mut runner).expect("a program").current();
                let pool = at % self.databases.len();
                let row = i32::try_from(at).expect("small") * 1000;
                let after = &after;
                async move {
                    let work = run(&self.pools[pool], &program, row);
                    let stored = self.databases[pool].invocation(DEADLINE, work).await;
                    let stored = stored.unwrap_or_else(|error| panic!("{program:?}: {error}"));
                    after(pool, &program).await;
                    (program, stored)
                }
            });
            let done = join_all(eight.collect::<Vec<_>>()).await;
            for (pool, (program, _)) in done.iter().enumerate().take(self.databases.len()) {
                self.assert_at_rest(pool, program).await;
            }
            let look = async || {
                let state = sessions::session_state(&self.server).await;
                state.expect("an answer")
            };
            assert_eq!(self.left(look).await, [""; 0], "round {round}: {done:?}");
            self.is_late.store(false, Ordering::Relaxed);
            let stored: BTreeSet<_> = done.iter().flat_map(|(_, rows)| rows).copied().collect();
            let rows = self.server.query("select a from t").await.expect("rows");
            let rows = rows.into_iter().flatten().flatten();
            let rows: BTreeSet<_> = rows.map(|row| row.parse().expect("a number")).collect();
            assert_eq!(rows, stored, "round {round}: {done:?}");
            sessions::truncate(&self.server).await.expect("no lock");
        }
    }
}

/// Each with a pool of its own: what it has left is seen as soon as it has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_leave_nothing_behind_each() {
    let lab = Lab::new(8, 2).await;
    lab.run(async |pool, program| lab.assert_at_rest(pool, program).await)
        .await;
}

/// In one pool, by its hooks and by URLs of the invocations.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_in_one_pool_leave_nothing_behind() {
    let lab = Lab::new(1, 8).await;
    lab.run(async |_, _| {}).await;
}
