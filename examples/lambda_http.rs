//! An HTTP function on Lambda that creates partners, and goes wrong on demand.
//!
//! `cargo run -p lab -- demo` serves it on a throwaway PostgreSQL, freezes it after
//! each request and shows what the server sees of it meanwhile. With
//! `WITHOUT_LAYER=1` the same handler runs on a bare tokio-postgres client, for
//! comparison: that is what the trait below is for. A function of your own needs
//! neither; see the README.

use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use lambda_http::{Body, Error, Request, Response, service_fn};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio_postgres::{Client, NoTls, Transaction};
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), Error> {
    lambda_http::tracing::init_default_subscriber(); // JSON, if the function logs it
    if std::env::var_os("WITHOUT_LAYER").is_some() {
        return without_layer().await;
    }
    let service = ServiceBuilder::new()
        .layer(antifreeze::DatabaseLayer::from_env().await?)
        .service_fn(async |request: Request| {
            let connection = antifreeze::connection().await?;
            handle(request, connection).await
        });
    lambda_http::run(service).await
}

/// As tokio-postgres's documentation shows it: one client for the process, its
/// connection on a task of its own.
async fn without_layer() -> Result<(), Error> {
    let url = std::env::var("DATABASE_URL")?;
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    tokio::spawn(connection);
    let client = Arc::new(Mutex::new(client));
    let service = service_fn(move |request: Request| {
        let client = Arc::clone(&client);
        async move { handle(request, client.lock_owned().await).await }
    });
    lambda_http::run(service).await
}

/// What the handler needs of a connection.
trait Connection: Deref<Target = Client> + Send + 'static {
    fn transaction(
        &mut self,
    ) -> impl Future<Output = Result<Transaction<'_>, tokio_postgres::Error>> + Send;
}

impl Connection for antifreeze::Connection {
    async fn transaction(&mut self) -> Result<Transaction<'_>, tokio_postgres::Error> {
        self.transaction().await
    }
}

impl Connection for OwnedMutexGuard<Client> {
    async fn transaction(&mut self) -> Result<Transaction<'_>, tokio_postgres::Error> {
        Client::transaction(self).await
    }
}

const INSERT: &str = "insert into partners (name) values ('from a function')";

async fn handle(
    request: Request,
    mut connection: impl Connection,
) -> Result<Response<Body>, Error> {
    match request.uri().path() {
        // Well done.
        "/partners" => {
            let transaction = connection.transaction().await?;
            transaction.execute(INSERT, &[]).await?;
            transaction.commit().await?;
            reply(201, "created")
        }
        // The transaction is still open when this returns.
        "/early" => {
            let transaction = connection.transaction().await?;
            transaction.execute(INSERT, &[]).await?;
            match transaction.execute("select no_such_function()", &[]).await {
                Ok(_) => reply(200, "not reached"),
                Err(_) => reply(422, "refused"),
            }
        }
        // By hand, and nobody ends it.
        "/begin" => {
            connection.batch_execute("begin").await?;
            connection.batch_execute(INSERT).await?;
            reply(200, "fine, it seems")
        }
        // A task goes on inside its transaction after the response.
        "/task" => {
            let (begun, beginning) = tokio::sync::oneshot::channel();
            tokio::spawn(async move {
                let _ = connection.batch_execute("begin").await;
                let _ = connection.batch_execute(INSERT).await;
                let _ = begun.send(());
                tokio::time::sleep(Duration::from_secs(600)).await;
                let _ = connection.batch_execute("commit").await;
            });
            beginning.await?;
            reply(202, "accepted")
        }
        "/panic" => {
            let transaction = connection.transaction().await?;
            transaction.execute(INSERT, &[]).await?;
            panic!("something that cannot be");
        }
        // Slower than the function's timeout.
        "/slow" => {
            let transaction = connection.transaction().await?;
            transaction.execute(INSERT, &[]).await?;
            transaction.execute("select pg_sleep(600)", &[]).await?;
            reply(200, "not reached")
        }
        _ => reply(404, "try /partners, /early, /begin, /task, /panic or /slow"),
    }
}

fn reply(status: u16, text: &str) -> Result<Response<Body>, Error> {
    let response = Response::builder().status(status);
    Ok(response
        .header("content-type", "text/plain")
        .body(format!("{text}\n").into())?)
}
