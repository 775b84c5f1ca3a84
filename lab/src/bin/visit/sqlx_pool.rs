//! sqlx, with its pool.

use lambda_http::{Body, Error, Request, Response, service_fn};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use crate::BoxError;
use crate::failure::answer;
use crate::work::{INSERT, SLEEP, VISIT, Work, seconds};

pub async fn serve() -> Result<(), Error> {
    let options = PgPoolOptions::new().max_connections(1);
    let pool = options.connect_lazy(&crate::url()?)?;
    lambda_http::run(service_fn(move |request| handle(pool.clone(), request))).await
}

/// The pool is that of the function, or one at the private socket.
pub async fn handle(pool: PgPool, request: Request) -> Result<Response<Body>, Error> {
    Ok(answer(work(&pool, Work::of(&request)).await))
}

async fn work(pool: &PgPool, work: Work) -> Result<i64, BoxError> {
    if work == Work::Visit {
        let query = sqlx::query_scalar(VISIT).bind(seconds());
        return Ok(query.fetch_one(pool).await?);
    }
    let mut connection = pool.acquire().await?;
    sqlx::query("begin").execute(&mut *connection).await?;
    sqlx::query(INSERT).execute(&mut *connection).await?;
    if work == Work::Slow {
        sqlx::query(SLEEP).execute(&mut *connection).await?;
        sqlx::query("commit").execute(&mut *connection).await?;
    }
    Ok(1)
}
