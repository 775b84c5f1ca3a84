//! diesel-async, with a connection for each use or a pool.

use std::future::pending;
use std::ops::{Deref, DerefMut};

use diesel::prelude::*;
use diesel::sql_query;
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, bb8, deadpool};
use diesel_async::{
    AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection, TransactionManager,
};
use drivers::Driver;
use futures_util::{FutureExt, StreamExt};
use serde_json::Value;
use tokio::sync::{OnceCell, oneshot};
use tokio::time::timeout;

use crate::diesel_sync::{Found, Row, t};
use crate::{
    BEGIN, BoxError, ENDLESS, FAILS, KILL, LOOK, PATIENCE, SAVEPOINTS, SLEEP, ended, seen, source,
    state,
};

/// More than all endings forget: a connection that is never given back is lost to the pool.
const CONNECTIONS: u32 = 32;

static DEADPOOL: OnceCell<deadpool::Pool<AsyncPgConnection>> = OnceCell::const_new();
static BB8: OnceCell<bb8::Pool<AsyncPgConnection>> = OnceCell::const_new();

type Manager = <AsyncPgConnection as AsyncConnection>::TransactionManager;

/// A connection of any kind.
enum Held {
    Own(Box<AsyncPgConnection>),
    Deadpool(Box<deadpool::Object<AsyncPgConnection>>),
    Bb8(Box<bb8::PooledConnection<'static, AsyncPgConnection>>),
}

impl Deref for Held {
    type Target = AsyncPgConnection;

    fn deref(&self) -> &AsyncPgConnection {
        match self {
            Held::Own(connection) => connection,
            Held::Deadpool(connection) => connection,
            Held::Bb8(connection) => connection,
        }
    }
}

impl DerefMut for Held {
    fn deref_mut(&mut self) -> &mut AsyncPgConnection {
        match self {
            Held::Own(connection) => connection,
            Held::Deadpool(connection) => connection,
            Held::Bb8(connection) => connection,
        }
    }
}

async fn connection(driver: Driver) -> Result<Held, BoxError> {
    let mut held = pooled(driver).await?;
    if driver != Driver::DieselAsync && !source::is_alone() {
        // Given back with something open, it may be closed behind the pool's test.
        while held.batch_execute(&antifreeze::claim()).await.is_err() {
            held = pooled(driver).await?;
        }
    }
    Ok(held)
}

async fn pooled(driver: Driver) -> Result<Held, BoxError> {
    let manager = || Ok::<_, BoxError>(AsyncDieselConnectionManager::new(source::shared()?));
    Ok(match driver {
        Driver::DieselDeadpool => {
            let build = async || {
                let pool = deadpool::Pool::builder(manager()?);
                Ok::<_, BoxError>(pool.max_size(CONNECTIONS as usize).build()?)
            };
            let pool = DEADPOOL.get_or_try_init(build).await?;
            Held::Deadpool(Box::new(pool.get().await?))
        }
        Driver::DieselBb8 => {
            let build = async || {
                let pool = bb8::Pool::builder().max_size(CONNECTIONS);
                Ok::<_, BoxError>(pool.build(manager()?).await?)
            };
            Held::Bb8(Box::new(BB8.get_or_try_init(build).await?.get().await?))
        }
        _ => Held::Own(Box::new(
            AsyncPgConnection::establish(&source::own()?).await?,
        )),
    })
}

/// Ends as it is told.
pub async fn end(driver: Driver, ending: &str) -> Result<Value, BoxError> {
    if ending.starts_with("decided") {
        let mut connection = AsyncPgConnection::establish(&source::decided()?).await?;
        insert(&mut connection).await?;
        if ending == "decided_begins" {
            // Refused: its COMMIT would not be one.
            Manager::begin_transaction(&mut connection).await?;
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
            held.transaction::<_, BoxError, _>(async |connection| Ok(insert(connection).await?))
                .await?;
        }
        "reads" | "reads_twice" => {
            for number in 0..=i32::from(ending == "reads_twice") {
                let read = t::table.select(t::a).filter(t::a.gt(7 + number));
                let read = read.first::<i32>(&mut *held).await;
                assert!(read.optional()?.is_none());
            }
        }
        "transaction_dropped" => {
            Manager::begin_transaction(&mut *held).await?;
            insert(&mut held).await?;
        }
        "early_return" => {
            held.transaction::<_, BoxError, _>(async |connection| {
                insert(connection).await?;
                Ok(connection
                    .batch_execute("select no_such_function()")
                    .await?)
            })
            .await?;
        }
        "panic" => {
            held.transaction::<(), BoxError, _>(async |connection| {
                insert(connection).await?;
                panic!("as it was asked to");
            })
            .await?;
        }
        "transaction_forgotten" => {
            Manager::begin_transaction(&mut *held).await?;
            insert(&mut held).await?;
            std::mem::forget(held);
        }
        "connection_forgotten" => {
            held.batch_execute(BEGIN).await?;
            std::mem::forget(held);
        }
        "begin_by_hand" => held.batch_execute(BEGIN).await?,
        "begin_dropped" => {
            drop(Manager::begin_transaction(&mut *held).now_or_never());
            drop(held.batch_execute(BEGIN).now_or_never());
        }
        "savepoints" => {
            held.batch_execute(BEGIN).await?;
            held.batch_execute(SAVEPOINTS).await?;
            std::mem::forget(held);
        }
        "failed_statement" => {
            held.batch_execute(BEGIN).await?;
            assert!(held.batch_execute(FAILS).await.is_err());
        }
        "commit_of_an_aborted" => {
            Manager::begin_transaction(&mut *held).await?;
            insert(&mut held).await?;
            assert!(held.batch_execute(FAILS).await.is_err());
            Manager::rollback_transaction(&mut *held).await?;
        }
        "statement_timed_out" => {
            let slow = timeout(PATIENCE, held.batch_execute(SLEEP)).await;
            assert!(slow.is_err());
        }
        "slow_statement" => {
            held.transaction::<_, BoxError, _>(async |connection| {
                insert(connection).await?;
                Ok(connection.batch_execute(SLEEP).await?)
            })
            .await?;
        }
        "rows_dropped" => {
            let mut rows = sql_query(ENDLESS).load_stream::<Row>(&mut *held).await?;
            rows.next().await.transpose()?;
        }
        "rows_kept" => {
            let mut rows = sql_query(ENDLESS).load_stream::<Row>(&mut *held).await?;
            rows.next().await.transpose()?;
            std::mem::forget(rows);
            std::mem::forget(held);
        }
        "task_idle" => task(held, None).await?,
        "task_busy" => task(held, Some(SLEEP)).await?,
        "two_connections" => {
            let mut other = connection(driver).await?;
            held.batch_execute(BEGIN).await?;
            other.batch_execute(BEGIN).await?;
        }
        "killed" => assert!(held.batch_execute(KILL).await.is_err()),
        ending => held.batch_execute(state(ending)?).await?,
    }
    ended()
}

async fn insert(connection: &mut AsyncPgConnection) -> QueryResult<()> {
    let insert = diesel::insert_into(t::table).values(t::a.eq(1));
    insert.execute(connection).await.map(|_| ())
}

async fn look(connection: &mut AsyncPgConnection) -> QueryResult<[bool; 6]> {
    let found = sql_query(LOOK).get_result::<Found>(connection).await;
    found.map(Into::into)
}

/// A task that is inside its transaction, perhaps with a statement, when this returns.
async fn task(mut held: Held, then: Option<&'static str>) -> Result<(), BoxError> {
    let (begun, beginning) = oneshot::channel();
    tokio::spawn(async move {
        if held.batch_execute(BEGIN).await.is_err() {
            return;
        }
        if let Some(statement) = then {
            let mut busy = Box::pin(held.batch_execute(statement));
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
