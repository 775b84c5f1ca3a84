//! Metrics on Lambda without an agent: CloudWatch reads them from the log, in the embedded metric
//! format (EMF).

use antifreeze::{Database, DatabaseLayer};
use lambda_http::{Body, Error, Request, Response};
use metrics_cloudwatch_embedded::{Builder, Collector};
use tower::{Service, ServiceBuilder};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_http::tracing::init_default_subscriber();
    // Before the first connection: what is measured is asked for once.
    let metrics = Builder::new().cloudwatch_namespace("antifreeze").init()?;
    let database = Database::from_env()?;
    database.warm_up().await?;
    lambda_http::run(service(database, metrics)).await
}

/// Writes what each invocation has recorded, one line for each set of labels, in front of its
/// response: behind it the process is frozen.
pub fn service(
    database: Database,
    metrics: &'static Collector,
) -> impl Service<
    Request,
    Response = Response<antifreeze::layer::Body<Body>>,
    Error = Error,
    Future: Send,
> + Clone
+ Send {
    let handler = move |_: Request| async move {
        antifreeze::invocation()?.after(async move {
            if let Err(error) = metrics.flush(std::io::stdout()) {
                eprintln!("metrics were not written: {error}");
            }
        });
        handler().await
    };
    ServiceBuilder::new()
        .layer(DatabaseLayer::new(database))
        .service_fn(handler)
}

async fn handler() -> Result<Response<Body>, Error> {
    let connection = antifreeze::connection().await?;
    let row = connection
        .query_one("select count(*) from partners", &[])
        .await?;
    let count: i64 = row.get(0);
    Ok(Response::new(count.to_string().into()))
}
