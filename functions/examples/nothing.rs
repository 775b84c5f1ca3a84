//! A function that uses no database; the lab's `measure start` compares.

use lambda_http::{Body, Error, Request, Response, service_fn};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_http::tracing::init_default_subscriber();
    lambda_http::run(service_fn(count)).await
}

async fn count(_: Request) -> Result<Response<Body>, Error> {
    Ok(Response::new("0".into()))
}
