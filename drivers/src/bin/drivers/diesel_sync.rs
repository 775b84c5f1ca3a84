//! Diesel, a connection for each use: in the thread of the handler, or in `spawn_blocking`.

use std::io::BufRead;
use std::sync::mpsc;

use diesel::connection::{SimpleConnection, TransactionManager};
use diesel::pg::PgRowByRowLoadingMode;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Text};
use diesel::{Connection, PgConnection, sql_query};
use serde_json::Value;
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
pub async fn end_blocking(ending: &str) -> Result<Value, BoxError> {
    let ending = ending.to_owned();
    // Said before: the thread belongs to no invocation.
    let urls = Urls::new(&ending)?;
    if ending == "statement_timed_out" {
        let slow = tokio::task::spawn_blocking(move || run("slow_statement", &urls));
        assert!(timeout(PATIENCE, slow).await.is_err());
        return ended();
    }
    tokio::task::spawn_blocking(move || run(&ending, &urls)).await?
}

/// Ends as it is told, in this thread.
pub fn end(ending: &str) -> Result<Value, BoxError> {
    run(ending, &Urls::new(ending)?)
}

struct Urls {
    own: String,
    decided: Option<String>,
}

impl Urls {
    fn new(ending: &str) -> Result<Urls, BoxError> {
        let decided = ending.starts_with("decided").then(source::decided);
        Ok(Urls {
            own: source::own()?,
            decided: decided.transpose()?,
        })
    }
}

fn run(ending: &str, urls: &Urls) -> Result<Value, BoxError> {
    let url = urls.decided.as_ref().unwrap_or(&urls.own);
    let mut connection = PgConnection::establish(url)?;
    match ending {
        "look" => {
            let mut other = PgConnection::establish(url)?;
            return Ok(seen([look(&mut connection)?, look(&mut other)?]));
        }
        "decided_returns" => insert(&mut connection)?,
        "decided_begins" => {
            insert(&mut connection)?;
            // Refused: its COMMIT would not be one.
            connection.transaction(insert)?;
        }
        "decided_fails" => {
            insert(&mut connection)?;
            return Err("a failure".into());
        }
        "returns" => connection.transaction(insert)?,
        "reads" | "reads_twice" => {
            for number in 0..=i32::from(ending == "reads_twice") {
                let read = t::table
                    .select(t::a)
                    .filter(t::a.gt(7 + number))
                    .first::<i32>(&mut connection);
                assert!(read.optional()?.is_none());
            }
        }
        "transaction_dropped" => {
            Manager::begin_transaction(&mut connection)?;
            insert(&mut connection)?;
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
            Manager::begin_transaction(&mut connection)?;
            insert(&mut connection)?;
            std::mem::forget(connection);
        }
        "connection_forgotten" => {
            connection.batch_execute(BEGIN)?;
            std::mem::forget(connection);
        }
        "begin_by_hand" => connection.batch_execute(BEGIN)?,
        "savepoints" => {
            connection.batch_execute(BEGIN)?;
            connection.batch_execute(SAVEPOINTS)?;
            std::mem::forget(connection);
        }
        "failed_statement" => {
            connection.batch_execute(BEGIN)?;
            assert!(connection.batch_execute(FAILS).is_err());
        }
        "commit_of_an_aborted" => {
            Manager::begin_transaction(&mut connection)?;
            insert(&mut connection)?;
            assert!(connection.batch_execute(FAILS).is_err());
            Manager::rollback_transaction(&mut connection)?;
        }
        "slow_statement" => connection.transaction::<_, BoxError, _>(|connection| {
            insert(connection)?;
            Ok(connection.batch_execute(SLEEP)?)
        })?,
        "rows_dropped" => {
            let mut rows = sql_query("select a from many")
                .load_iter::<Row, PgRowByRowLoadingMode>(&mut connection)?;
            rows.next().transpose()?;
        }
        "rows_kept" => {
            let mut rows =
                sql_query(ENDLESS).load_iter::<Row, PgRowByRowLoadingMode>(&mut connection)?;
            rows.next().transpose()?;
            std::mem::forget(rows);
            std::mem::forget(connection);
        }
        "copies" => {
            diesel::copy_from(t::table)
                .from_raw_data(t::table, |copy| {
                    copy.write_all(b"1\n")
                        .map_err(|_| diesel::result::Error::BrokenTransactionManager)
                })
                .execute(&mut connection)?;
            let copied = diesel::copy_to(t::table).load_raw(&mut connection)?;
            assert_eq!(copied.lines().count(), 1);
        }
        "copy_out_kept" => {
            let mut copy = diesel::copy_to(many::table).load_raw(&mut connection)?;
            copy.fill_buf()?;
            std::mem::forget(copy);
            std::mem::forget(connection);
        }
        "task_idle" => task(connection, None)?,
        "task_busy" => task(connection, Some(SLEEP))?,
        "two_connections" => {
            let mut other = PgConnection::establish(url)?;
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
fn task(mut connection: PgConnection, then: Option<&'static str>) -> Result<(), BoxError> {
    let (begun, beginning) = mpsc::channel();
    std::thread::spawn(move || {
        if sql_query("begin").execute(&mut connection).is_err()
            || sql_query(INSERT).execute(&mut connection).is_err()
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
