//! Diesel, with a connection for each use, in the thread of the handler or in `spawn_blocking`;
//! or with r2d2.

use std::io::BufRead;
use std::ops::DerefMut;
use std::sync::{LazyLock, mpsc};

use diesel::connection::{SimpleConnection, TransactionManager};
use diesel::pg::PgRowByRowLoadingMode;
use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, Pool};
use diesel::sql_types::{Bool, Text};
use diesel::{Connection, PgConnection, sql_query};
use drivers::Driver;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::{
    BEGIN, BoxError, ENDLESS, FAILS, INSERT, KILL, LOOK, PATIENCE, SAVEPOINTS, SLEEP, ended, seen,
    source, state,
};

diesel::table! {
    t (a) { a -> Integer, }
}

diesel::table! {
    many (a) { a -> Text, }
}

#[derive(QueryableByName)]
pub struct Found {
    #[diesel(sql_type = Bool)]
    a: bool,
    #[diesel(sql_type = Bool)]
    b: bool,
    #[diesel(sql_type = Bool)]
    c: bool,
    #[diesel(sql_type = Bool)]
    d: bool,
    #[diesel(sql_type = Bool)]
    e: bool,
    #[diesel(sql_type = Bool)]
    f: bool,
}

impl From<Found> for [bool; 6] {
    fn from(row: Found) -> [bool; 6] {
        [row.a, row.b, row.c, row.d, row.e, row.f]
    }
}

#[derive(QueryableByName)]
pub struct Row {
    #[diesel(sql_type = Text)]
    #[allow(dead_code, reason = "it is read, and not looked at")]
    a: String,
}

type Manager = <PgConnection as Connection>::TransactionManager;

/// Ends as it is told, on a thread for blocking work.
pub async fn end_blocking(driver: Driver, ending: &str) -> Result<Value, BoxError> {
    let ending = ending.to_owned();
    // Said before: the thread belongs to no invocation.
    let source = Source::new(driver, &ending)?;
    if ending == "statement_timed_out" {
        let (begun, begins) = oneshot::channel();
        let slow = tokio::task::spawn_blocking(move || {
            let connection = &mut *source.connect()?;
            connection.transaction::<_, BoxError, _>(|connection| {
                insert(connection)?;
                let _ = begun.send(());
                Ok(connection.batch_execute(SLEEP)?)
            })
        });
        // Connecting is not what takes its time.
        begins.await?;
        assert!(timeout(PATIENCE, slow).await.is_err());
        return ended();
    }
    tokio::task::spawn_blocking(move || run(&ending, &source)).await?
}

/// Ends as it is told, in this thread.
pub fn end(driver: Driver, ending: &str) -> Result<Value, BoxError> {
    run(ending, &Source::new(driver, ending)?)
}

/// More than all endings forget: a connection that is never given back is lost to the pool.
const CONNECTIONS: u32 = 32;

static POOL: LazyLock<Pool<ConnectionManager<PgConnection>>> = LazyLock::new(|| {
    let url = source::shared().expect("a URL");
    let pool = Pool::builder().max_size(CONNECTIONS).min_idle(Some(0));
    pool.build_unchecked(ConnectionManager::new(url))
});

type Held = Box<dyn DerefMut<Target = PgConnection> + Send>;

enum Source {
    Url(String),
    /// With the claim of its connections.
    Pool(Option<String>),
}

impl Source {
    fn new(driver: Driver, ending: &str) -> Result<Source, BoxError> {
        if driver == Driver::DieselR2d2 {
            let claim = (!source::is_alone()).then(antifreeze::claim);
            return Ok(Source::Pool(claim));
        }
        let url = match ending.starts_with("decided") {
            true => source::decided(),
            false => source::own(),
        };
        url.map(Source::Url)
    }

    fn connect(&self) -> Result<Held, BoxError> {
        match self {
            Source::Url(url) => Ok(Box::new(Box::new(PgConnection::establish(url)?))),
            Source::Pool(claim) => {
                let mut connection = POOL.get()?;
                if let Some(claim) = claim {
                    // Given back with something open, it may be closed behind the pool's test.
                    while connection.batch_execute(claim).is_err() {
                        connection = POOL.get()?;
                    }
                }
                Ok(Box::new(connection))
            }
        }
    }
}

fn run(ending: &str, source: &Source) -> Result<Value, BoxError> {
    let mut held = source.connect()?;
    let connection: &mut PgConnection = &mut held;
    match ending {
        "look" => {
            let mut other = source.connect()?;
            return Ok(seen([look(connection)?, look(&mut other)?]));
        }
        "decided_returns" => insert(connection)?,
        "decided_begins" => {
            insert(connection)?;
            // Refused: its COMMIT would not be one.
            connection.transaction(insert)?;
        }
        "decided_fails" => {
            insert(connection)?;
            return Err("a failure".into());
        }
        "returns" => connection.transaction(insert)?,
        "reads" | "reads_twice" => {
            for number in 0..=i32::from(ending == "reads_twice") {
                let read = t::table
                    .select(t::a)
                    .filter(t::a.gt(7 + number))
                    .first::<i32>(connection);
                assert!(read.optional()?.is_none());
            }
        }
        "transaction_dropped" => {
            Manager::begin_transaction(connection)?;
            insert(connection)?;
        }
        "early_return" => connection.transaction::<_, BoxError, _>(|connection| {
            insert(connection)?;
            Ok(connection.batch_execute("select no_such_function()")?)
        })?,
        "panic" => connection.transaction::<_, BoxError, _>(|connection| {
            insert(connection)?;
            panic!("as it was asked to");
        })?,
        "transaction_forgotten" => {
            Manager::begin_transaction(connection)?;
            insert(connection)?;
            std::mem::forget(held);
        }
        "connection_forgotten" => {
            connection.batch_execute(BEGIN)?;
            std::mem::forget(held);
        }
        "begin_by_hand" => connection.batch_execute(BEGIN)?,
        "savepoints" => {
            connection.batch_execute(BEGIN)?;
            connection.batch_execute(SAVEPOINTS)?;
            std::mem::forget(held);
        }
        "failed_statement" => {
            connection.batch_execute(BEGIN)?;
            assert!(connection.batch_execute(FAILS).is_err());
        }
        "commit_of_an_aborted" => {
            Manager::begin_transaction(connection)?;
            insert(connection)?;
            assert!(connection.batch_execute(FAILS).is_err());
            Manager::rollback_transaction(connection)?;
        }
        "slow_statement" => connection.transaction::<_, BoxError, _>(|connection| {
            insert(connection)?;
            Ok(connection.batch_execute(SLEEP)?)
        })?,
        "rows_dropped" => {
            let mut rows = sql_query("select a from many")
                .load_iter::<Row, PgRowByRowLoadingMode>(connection)?;
            rows.next().transpose()?;
        }
        "rows_kept" => {
            let mut rows =
                sql_query(ENDLESS).load_iter::<Row, PgRowByRowLoadingMode>(connection)?;
            rows.next().transpose()?;
            std::mem::forget(rows);
            std::mem::forget(held);
        }
        "copies" => {
            diesel::copy_from(t::table)
                .from_raw_data(t::table, |copy| {
                    copy.write_all(b"1\n")
                        .map_err(|_| diesel::result::Error::BrokenTransactionManager)
                })
                .execute(connection)?;
            let copied = diesel::copy_to(t::table).load_raw(connection)?;
            // Others may have stored theirs meanwhile.
            assert!(copied.lines().count() >= 1);
        }
        "copy_out_kept" => {
            let mut copy = diesel::copy_to(many::table).load_raw(connection)?;
            copy.fill_buf()?;
            std::mem::forget(copy);
            std::mem::forget(held);
        }
        "task_idle" => task(held, None)?,
        "task_busy" => task(held, Some(SLEEP))?,
        "two_connections" => {
            let mut other = source.connect()?;
            connection.batch_execute(BEGIN)?;
            other.batch_execute(BEGIN)?;
        }
        "killed" => assert!(connection.batch_execute(KILL).is_err()),
        ending => connection.batch_execute(state(ending)?)?,
    }
    ended()
}

fn insert(connection: &mut PgConnection) -> QueryResult<()> {
    let insert = diesel::insert_into(t::table).values(t::a.eq(1));
    insert.execute(connection).map(|_| ())
}

fn look(connection: &mut PgConnection) -> QueryResult<[bool; 6]> {
    sql_query(LOOK)
        .get_result::<Found>(connection)
        .map(Into::into)
}

/// A thread that is inside its transaction, perhaps with a statement, when this returns.
fn task(mut held: Held, then: Option<&'static str>) -> Result<(), BoxError> {
    let (begun, beginning) = mpsc::channel();
    std::thread::spawn(move || {
        let connection: &mut PgConnection = &mut held;
        if sql_query("begin").execute(connection).is_err()
            || sql_query(INSERT).execute(connection).is_err()
        {
            return;
        }
        let _ = begun.send(());
        if let Some(statement) = then {
            let _ = connection.batch_execute(statement);
        }
        loop {
            std::thread::park();
        }
    });
    Ok(beginning.recv()?)
}
