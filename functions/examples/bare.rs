//! A function on tokio-postgres alone, without TLS; the lab's `measure start` compares.

use std::sync::Arc;

use lambda_http::{Body, Error, Request, Response, service_fn};
use tokio_postgres::NoTls;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_http::tracing::init_default_subscriber();
    let url = std::env::var("DATABASE_URL")?;
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    tokio::spawn(connection);
    let client = Arc::new(client);
    lambda_http::run(service_fn(|_: Request| count(Arc::clone(&client)))).await
}

async fn count(client: Arc<tokio_postgres::Client>) -> Result<Response<Body>, Error> {
    let row = client
        .query_one("select count(*) from partners", &[])
        .await?;
    Ok(Response::new(row.get::<_, i64>(0).to_string().into()))
}
