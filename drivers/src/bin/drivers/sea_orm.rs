//! SeaORM on sqlx's pool.

use std::future::pending;
use std::pin::pin;

use futures_util::{FutureExt, StreamExt};
use sea_orm::{
    ActiveValue, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr,
    EntityTrait, SqlxPostgresConnector, Statement, StreamTrait, TransactionTrait,
};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::{
    BEGIN, BoxError, ENDLESS, FAILS, KILL, LOOK, PATIENCE, SAVEPOINTS, SLEEP, ended, seen, sqlx,
    state,
};

mod t {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "t")]
    pub struct Model {
        // The table has none, but an entity must.
        #[sea_orm(primary_key, auto_increment = false)]
        pub a: i32,
    }

    #[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Ends as it is told.
pub async fn end(ending: &str) -> Result<Value, BoxError> {
    let pool = sqlx::pool().await?.clone();
    let database = SqlxPostgresConnector::from_sqlx_postgres_pool(pool);
    match ending {
        "look" => {
            let (one, other) = (database.begin().await?, database.begin().await?);
            let found = [look(&one).await?, look(&other).await?];
            one.commit().await?;
            other.commit().await?;
            return Ok(seen(found));
        }
        "returns" => {
            database
                .transaction::<_, _, DbErr>(|transaction| Box::pin(insert(transaction)))
                .await?;
        }
        "reads" | "reads_twice" => {
            for _ in 0..=i32::from(ending == "reads_twice") {
                assert!(t::Entity::find_by_id(7).one(&database).await?.is_none());
            }
        }
        "transaction_dropped" => insert(&database.begin().await?).await?,
        "early_return" => {
            let transaction = database.begin().await?;
            insert(&transaction).await?;
            let wrong = transaction.execute_unprepared("select no_such_function()");
            wrong.await?;
            transaction.commit().await?;
        }
        "panic" => {
            let transaction = database.begin().await?;
            insert(&transaction).await?;
            panic!("as it was asked to");
        }
        "transaction_forgotten" => {
            let transaction = database.begin().await?;
            insert(&transaction).await?;
            std::mem::forget(transaction);
        }
        "connection_forgotten" => {
            let transaction = Box::leak(Box::new(database.begin().await?));
            insert(transaction).await?;
        }
        "begin_by_hand" => {
            database.execute_unprepared(BEGIN).await?;
        }
        "begin_dropped" => {
            drop(database.begin().now_or_never());
            drop(database.execute_unprepared(BEGIN).now_or_never());
        }
        "savepoints" => {
            let transaction = database.begin().await?;
            transaction.execute_unprepared(SAVEPOINTS).await?;
            let inner = transaction.begin().await?;
            insert(&inner).await?;
            std::mem::forget((transaction, inner));
        }
        "failed_statement" => {
            database.execute_unprepared(BEGIN).await?;
            assert!(database.execute_unprepared(FAILS).await.is_err());
        }
        "commit_of_an_aborted" => {
            let transaction = database.begin().await?;
            insert(&transaction).await?;
            assert!(transaction.execute_unprepared(FAILS).await.is_err());
            transaction.commit().await?;
        }
        "statement_timed_out" => {
            // Connecting is not what takes its time.
            let transaction = database.begin().await?;
            let slow = timeout(PATIENCE, transaction.execute_unprepared(SLEEP)).await;
            assert!(slow.is_err());
        }
        "slow_statement" => {
            let transaction = database.begin().await?;
            insert(&transaction).await?;
            transaction.execute_unprepared(SLEEP).await?;
        }
        "rows_dropped" => {
            let mut rows = database.stream_raw(statement(ENDLESS)).await?;
            pin!(&mut rows).next().await.transpose()?;
        }
        "rows_kept" => {
            let database: &'static DatabaseConnection = Box::leak(Box::new(database));
            let mut rows = Box::pin(database.stream_raw(statement(ENDLESS)).await?);
            rows.next().await.transpose()?;
            std::mem::forget(rows);
        }
        "task_idle" => task(database, None).await?,
        "task_busy" => task(database, Some(SLEEP)).await?,
        "two_connections" => {
            let one = database.begin().await?;
            insert(&one).await?;
            database.execute_unprepared(BEGIN).await?;
        }
        "killed" => assert!(database.execute_unprepared(KILL).await.is_err()),
        ending => {
            database.execute_unprepared(state(ending)?).await?;
        }
    }
    ended()
}

async fn insert(connection: &impl ConnectionTrait) -> Result<(), DbErr> {
    let row = t::ActiveModel {
        a: ActiveValue::Set(1),
    };
    let insert = t::Entity::insert(row).exec_without_returning(connection);
    insert.await.map(|_| ())
}

async fn look(transaction: &DatabaseTransaction) -> Result<[bool; 6], BoxError> {
    let row = transaction.query_one_raw(statement(LOOK)).await?;
    let row = row.ok_or("there is a row")?;
    let mut found = [false; 6];
    for (at, found) in found.iter_mut().enumerate() {
        *found = row.try_get_by_index(at)?;
    }
    Ok(found)
}

/// A task that is inside its transaction, perhaps with a statement, when this returns.
async fn task(database: DatabaseConnection, then: Option<&'static str>) -> Result<(), BoxError> {
    let (begun, beginning) = oneshot::channel();
    tokio::spawn(async move {
        let Ok(transaction) = database.begin().await else {
            return;
        };
        if insert(&transaction).await.is_err() {
            return;
        }
        if let Some(statement) = then {
            let mut busy = transaction.execute_unprepared(statement);
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

fn statement(sql: &str) -> Statement {
    Statement::from_string(DbBackend::Postgres, sql)
}
