//! A function for Vercel with nothing in it: what the others are measured against.

use vercel_runtime::{Error, Request, run, service_fn};

#[tokio::main]
async fn main() -> Result<(), Error> {
    run(service_fn(answer)).await
}

async fn answer(_: Request) -> Result<String, Error> {
    Ok("hello".to_owned())
}
