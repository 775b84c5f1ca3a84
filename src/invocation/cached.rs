//! Cached statements: prepared once, and again after the schema has changed.

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Row, Statement};

use super::connection::Connection;
use super::transaction::Transaction;
use crate::error::{Error, ErrorKind};
use crate::wire::TransactionStatus;

type Result<T> = std::result::Result<T, tokio_postgres::Error>;

/// Executes a cached statement, and once more if the schema had left it behind. No function
/// that takes an `AsyncFn`: its future could not be told to be `Send` for every handler.
macro_rules! healed {
    ($connection:ident.$method:ident($sql:ident, $params:ident)) => {{
        let (statement, outside) = $connection.cached($sql).await?;
        match $connection.$method(&statement, $params).await {
            Err(error) => {
                let statement = $connection.anew($sql, outside, error).await?;
                $connection.$method(&statement, $params).await
            }
            done => done,
        }
    }};
}

/// The cached statements of a type that has a connection.
macro_rules! cached_statements {
    ($type:ty, $connection:ident) => {
        /// Cached statements, prepared and executed in one call.
        ///
        /// A statement that is prepared knows its columns and types. When the schema changes
        /// under it, the server refuses it (`cached plan must not change result type`, a type
        /// that was dropped) before anything is executed. These methods then prepare it anew
        /// and execute it once more, outside a transaction; inside one the transaction has
        /// failed already, and the error is returned. Executed by hand, such a statement
        /// fails once, and `prepare_cached` prepares it anew the next time.
        impl $type {
            /// Prepares a statement, or finds it prepared already: a statement that is
            /// repeated, in this invocation or a later one on the same connection, costs one
            /// round trip. At most `statement_cache` of them are kept, and none once the
            /// server has said that the schema has changed under one. `query_cached` and its
            /// like prepare and execute in one.
            ///
            /// # Errors
            ///
            /// Those of [`Client::prepare`](tokio_postgres::Client::prepare).
            pub async fn prepare_cached(&self, sql: &str) -> Result<Statement> {
                self.prepare_typed_cached(sql, &[]).await
            }

            /// Like `prepare_cached`, with the types of the first parameters given.
            ///
            /// # Errors
            ///
            /// Those of [`Client::prepare_typed`](tokio_postgres::Client::prepare_typed).
            pub async fn prepare_typed_cached(
                &self,
                sql: &str,
                types: &[Type],
            ) -> Result<Statement> {
                let connection = self.$connection();
                connection.session().prepare(connection, sql, types).await
            }

            /// Like [`Client::query`](tokio_postgres::Client::query), with a cached
            /// statement.
            ///
            /// # Errors
            ///
            /// Those of tokio-postgres.
            pub async fn query_cached(
                &self,
                sql: &str,
                params: &[&(dyn ToSql + Sync)],
            ) -> Result<Vec<Row>> {
                let connection = self.$connection();
                healed!(connection.query(sql, params))
            }

            /// Like [`Client::query_one`](tokio_postgres::Client::query_one), with a cached
            /// statement.
            ///
            /// # Errors
            ///
            /// Those of tokio-postgres; there is not exactly one row.
            pub async fn query_one_cached(
                &self,
                sql: &str,
                params: &[&(dyn ToSql + Sync)],
            ) -> Result<Row> {
                let connection = self.$connection();
                healed!(connection.query_one(sql, params))
            }

            /// Like [`Client::query_opt`](tokio_postgres::Client::query_opt), with a cached
            /// statement.
            ///
            /// # Errors
            ///
            /// Those of tokio-postgres; there are several rows.
            pub async fn query_opt_cached(
                &self,
                sql: &str,
                params: &[&(dyn ToSql + Sync)],
            ) -> Result<Option<Row>> {
                let connection = self.$connection();
                healed!(connection.query_opt(sql, params))
            }

            /// Like [`Client::execute`](tokio_postgres::Client::execute), with a cached
            /// statement.
            ///
            /// # Errors
            ///
            /// Those of tokio-postgres.
            pub async fn execute_cached(
                &self,
                sql: &str,
                params: &[&(dyn ToSql + Sync)],
            ) -> Result<u64> {
                let connection = self.$connection();
                healed!(connection.execute(sql, params))
            }
        }
    };
}

cached_statements!(Connection, itself);
cached_statements!(Transaction, connection);

impl Connection {
    fn itself(&self) -> &Connection {
        self
    }

    /// The statement, and whether what it is to do stands outside any transaction.
    async fn cached(&self, sql: &str) -> Result<(Statement, bool)> {
        let statement = self.prepare_cached(sql).await?;
        let outside = self.transaction_status() == Some(TransactionStatus::Idle);
        Ok((statement, outside))
    }

    /// Prepares the statement again, if `error` says that it was outdated and the error has no
    /// other effect.
    async fn anew(
        &self,
        sql: &str,
        outside: bool,
        error: tokio_postgres::Error,
    ) -> Result<Statement> {
        // What is called by the statement may say the same, when half is done.
        let unexecuted = self.session().wire.facts().before_execution;
        if !outside || !unexecuted || !is_outdated(&error) {
            return Err(error);
        }
        // A transaction that began with this statement has failed.
        let settled = self.session().settled().await;
        if settled.is_over() || settled.status != Some(TransactionStatus::Idle) {
            return Err(error);
        }
        // The wire has seen the error too, and the cache was cleared.
        self.prepare_cached(sql).await
    }
}

/// Returns whether the error says that a statement does not fit the schema any more.
fn is_outdated(error: &tokio_postgres::Error) -> bool {
    let code = error.code().map(|code| code.code());
    code == Some("26000") || Error::kind_of(error) == ErrorKind::StatementOutdated
}
