//! Without any host: an invocation in `main`, and a tower service called by hand.

use std::time::Duration;

use antifreeze::{Database, DatabaseLayer, Error};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Service, ServiceBuilder, ServiceExt};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let database = Database::from_env()?;

    // A job: whatever it leaves behind is brought to rest before the next line.
    let now: String = database
        .invocation(Duration::from_secs(5), async {
            let connection = antifreeze::connection().await?;
            let row = connection.query_one("select now()::text", &[]).await?;
            Ok::<_, Error>(row.get(0))
        })
        .await?;
    println!("the server's clock says {now}");

    // A service: every call is an invocation.
    let mut service = ServiceBuilder::new()
        .layer(DatabaseLayer::new(database).max_duration(Duration::from_secs(5)))
        .service_fn(version);
    let response = service.ready().await?.call(Request::new(())).await?;
    let body = response.into_body().collect().await?.to_bytes();
    println!("{}", String::from_utf8_lossy(&body));
    Ok(())
}

async fn version(_: Request<()>) -> Result<Response<Full<Bytes>>, Error> {
    let connection = antifreeze::connection().await?;
    let row = connection.query_one("select version()", &[]).await?;
    Ok(Response::new(Full::from(row.get::<_, String>(0))))
}
