//! sqlx, with its pool or a connection for each use.

use std::future::pending;
use std::ops::{Deref, DerefMut};

use drivers::Driver;
use futures_util::{FutureExt, StreamExt};
use serde_json::Value;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgListener, PgPoolOptions};
use sqlx::{Connection, Executor, PgConnection, PgPool, Postgres, Row, raw_sql};
use tokio::sync::{OnceCell, oneshot};
use tokio::time::timeout;

use crate::{
    BEGIN, BoxError, ENDLESS, FAILS, INSERT, KILL, LOOK, PATIENCE, SAVEPOINTS, SLEEP, ended, seen,
    source, state,
};

/// More than all endings forget: a connection that is never given back is lost to the pool.
const CONNECTIONS: u32 = 32;

static POOL: OnceCell<PgPool> = OnceCell::const_new();

/// The pool of the process.
pub async fn pool() -> Result<&'static PgPool, BoxError> {
    let connect = async || {
        let options = if source::is_alone() {
            PgPoolOptions::new()
        } else {
            antifreeze::sqlx_hooks!(PgPoolOptions::new())
        };
        let options = options.max_connections(CONNECTIONS);
        Ok(options.connect_lazy(&source::shared()?)?)
    };
    POOL.get_or_try_init(connect).await
}

/// A connection of either kind.
enum Held {
    Pooled(PoolConnection<Postgres>),
    Own(PgConnection),
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

async fn connection(driver: Driver) -> Result<Held, BoxError> {
    if driver == Driver::SqlxPool {
        return Ok(Held::Pooled(pool().await?.acquire().await?));
    }
    Ok(Held::Own(PgConnection::connect(&source::own()?).await?))
}

/// Ends as it is told.
pub async fn end(driver: Driver, ending: &str) -> Result<Value, BoxError> {
    if ending.starts_with("decided") {
        let mut connection = PgConnection::connect(&source::decided()?).await?;
        connection.execute(INSERT).await?;
        if ending == "decided_begins" {
            // Refused: its COMMIT would not be one.
            connection.begin().await?.commit().await?;
        }
        let fails = ending == "decided_fails";
        return if fails {
            Err("a failure".into())
        } else {
            ended()
        };
    }
    let mut held = connection(driver).await?;
    match ending {
        "look" => {
            let mut other = connection(driver).await?;
            return Ok(seen([look(&mut held).await?, look(&mut other).await?]));
        }
        "returns" => {
            if let Held::Pooled(_) = held {
                let mut transaction = pool().await?.begin().await?;
                transaction.execute(INSERT).await?;
                transaction.commit().await?;
            } else {
                let mut transaction = held.begin().await?;
                transaction.execute(INSERT).await?;
                transaction.commit().await?;
            }
        }
        "reads" | "reads_twice" => {
            for number in 0..=i32::from(ending == "reads_twice") {
                let query = sqlx::query_scalar::<_, i32>("select $1::int").bind(number);
                let read = query.fetch_one(&mut *held).await?;
                assert_eq!(read, number);
            }
        }
        "checked" => {
            let read = sqlx::query!("select a from t where a > $1", 7);
            assert!(read.fetch_optional(&mut *held).await?.is_none());
        }
        "transaction_dropped" => {
            let mut transaction = held.begin().await?;
            transaction.execute(INSERT).await?;
        }
        "early_return" => {
            let mut transaction = held.begin().await?;
            transaction.execute(INSERT).await?;
            transaction.execute("select no_such_function()").await?;
            transaction.commit().await?;
        }
        "panic" => {
            let mut transaction = held.begin().await?;
            transaction.execute(INSERT).await?;
            panic!("as it was asked to");
        }
        "transaction_forgotten" => {
            let mut transaction = held.begin().await?;
            transaction.execute(INSERT).await?;
            std::mem::forget(transaction);
            // A connection that is closed would end its session.
            if let Held::Own(_) = held {
                std::mem::forget(held);
            }
        }
        "connection_forgotten" => {
            raw_sql(BEGIN).execute(&mut *held).await?;
            std::mem::forget(held);
        }
        "begin_by_hand" => {
            raw_sql(BEGIN).execute(&mut *held).await?;
        }
        "begin_dropped" => {
            drop(held.begin().now_or_never());
            drop(raw_sql(BEGIN).execute(&mut *held).now_or_never());
        }
        "savepoints" => {
            raw_sql(BEGIN).execute(&mut *held).await?;
            raw_sql(SAVEPOINTS).execute(&mut *held).await?;
            std::mem::forget(held);
        }
        "failed_statement" => {
            raw_sql(BEGIN).execute(&mut *held).await?;
            let failed = held.execute(FAILS).await;
            assert!(failed.is_err());
        }
        "commit_of_an_aborted" => {
            let mut transaction = held.begin().await?;
            transaction.execute(INSERT).await?;
            assert!(transaction.execute(FAILS).await.is_err());
            transaction.commit().await?;
        }
        "statement_timed_out" => {
            raw_sql(BEGIN).execute(&mut *held).await?;
            let slow = timeout(PATIENCE, held.execute(SLEEP)).await;
            assert!(slow.is_err());
        }
        "slow_statement" => {
            let mut transaction = held.begin().await?;
            transaction.execute(INSERT).await?;
            transaction.execute(SLEEP).await?;
        }
        "rows_dropped" => {
            let mut rows = sqlx::query(ENDLESS).fetch(&mut *held);
            rows.next().await.transpose()?;
        }
        "rows_kept" => {
            let mut rows = sqlx::query(ENDLESS).fetch(&mut *held);
            rows.next().await.transpose()?;
            std::mem::forget(rows);
            std::mem::forget(held);
        }
        "copies" => {
            let mut copy = held.copy_in_raw("copy t from stdin").await?;
            copy.send("1\n".as_bytes()).await?;
            copy.finish().await?;
            let mut copy = held.copy_out_raw("copy t to stdout").await?;
            while copy.next().await.transpose()?.is_some() {}
        }
        "copy_in_dropped" => {
            raw_sql(BEGIN).execute(&mut *held).await?;
            let mut copy = held.copy_in_raw("copy t from stdin").await?;
            copy.send("1\n".as_bytes()).await?;
        }
        "copy_in_kept" => {
            let mut copy = held.copy_in_raw("copy t from stdin").await?;
            copy.send("1\n".as_bytes()).await?;
            std::mem::forget(copy);
            std::mem::forget(held);
        }
        "copy_out_dropped" => {
            let mut copy = held.copy_out_raw("copy many to stdout").await?;
            copy.next().await.transpose()?;
        }
        "copy_out_kept" => {
            let mut copy = held.copy_out_raw("copy many to stdout").await?;
            copy.next().await.transpose()?;
            std::mem::forget(copy);
            std::mem::forget(held);
        }
        "task_idle" => task(held, None).await?,
        "task_busy" => task(held, Some(SLEEP)).await?,
        "two_connections" => {
            let mut other = connection(driver).await?;
            raw_sql(BEGIN).execute(&mut *held).await?;
            raw_sql(BEGIN).execute(&mut *other).await?;
        }
        "listener" => {
            drop(held);
            let mut listener = PgListener::connect_with(pool().await?).await?;
            listener.listen("something").await?;
            std::mem::forget(listener);
        }
        "killed" => assert!(held.execute(KILL).await.is_err()),
        ending => {
            raw_sql(state(ending)?).execute(&mut *held).await?;
        }
    }
    ended()
}

async fn look(connection: &mut PgConnection) -> Result<[bool; 6], BoxError> {
    let row = sqlx::query(LOOK).fetch_one(connection).await?;
    let mut found = [false; 6];
    for (at, found) in found.iter_mut().enumerate() {
        *found = row.try_get(at)?;
    }
    Ok(found)
}

/// A task that is inside its transaction, perhaps with a statement, when this returns.
async fn task(mut held: Held, then: Option<&'static str>) -> Result<(), BoxError> {
    let (begun, beginning) = oneshot::channel();
    tokio::spawn(async move {
        if raw_sql(BEGIN).execute(&mut *held).await.is_err() {
            return;
        }
        if let Some(statement) = then {
            let mut busy = held.execute(statement);
            if futures_util::poll!(&mut busy).is_pending() && begun.send(()).is_ok() {
                let _ = busy.await;
            }
        } else {
            let _ = begun.send(());
        }
        pending::<()>().await;
    });
    Ok(beginning.await?)
}
