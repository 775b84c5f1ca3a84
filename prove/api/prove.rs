//! The function, on Lambda or on Vercel: docs/prove.md deploys it.

use vercel_runtime::Error;

#[tokio::main]
async fn main() -> Result<(), Error> {
    prove::serve().await
}
