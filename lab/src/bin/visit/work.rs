//! What a request does, with any client of tokio-postgres.

use std::time::Duration;

use lambda_http::Request;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::milliseconds;

pub const VISIT: &str = "with stored as (insert into visits values (now()) returning at) \
                         select count(at) from stored, pg_sleep($1)";
pub const INSERT: &str = "insert into visits values (now())";
pub const SLEEP: &str = "select pg_sleep(30)";

/// What is asked of the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    Visit,
    /// A statement that is slower than the function's timeout, in a transaction.
    Slow,
    /// A transaction that is begun and not ended.
    Leave,
}

impl Work {
    pub fn of(request: &Request) -> Work {
        match request.uri().path() {
            "/slow" => Work::Slow,
            "/leave" => Work::Leave,
            _ => Work::Visit,
        }
    }

    /// Does it, with the fewest round trips that the client knows.
    pub async fn with(self, client: &Client) -> Result<i64, tokio_postgres::Error> {
        if self == Work::Visit {
            let row = client
                .query_typed_one(VISIT, &[(&seconds(), Type::FLOAT8)])
                .await?;
            return row.try_get(0);
        }
        client.batch_execute("begin").await?;
        client.execute_typed(INSERT, &[]).await?;
        if self == Work::Slow {
            client.query_typed(SLEEP, &[]).await?;
            client.batch_execute("commit").await?;
        }
        Ok(1)
    }
}

/// How long the server works on a visit.
pub fn seconds() -> f64 {
    let work = milliseconds("WORK_MS").unwrap_or(Duration::from_millis(50));
    work.as_secs_f64()
}
