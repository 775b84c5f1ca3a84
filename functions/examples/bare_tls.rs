//! A function on tokio-postgres and rustls; the lab's `measure start` compares.

use std::sync::Arc;

use lambda_http::{Body, Error, Request, Response, service_fn};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres_rustls::MakeRustlsConnect;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_http::tracing::init_default_subscriber();
    let url = std::env::var("DATABASE_URL")?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(std::env::var("ROOTS")?)? {
        roots.add(certificate?)?;
    }
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (client, connection) =
        tokio_postgres::connect(&url, MakeRustlsConnect::new(config)).await?;
    tokio::spawn(connection);
    let client = Arc::new(client);
    lambda_http::run(service_fn(move |_: Request| count(Arc::clone(&client)))).await
}

async fn count(client: Arc<tokio_postgres::Client>) -> Result<Response<Body>, Error> {
    let row = client
        .query_one("select count(*) from partners", &[])
        .await?;
    Ok(Response::new(row.get::<_, i64>(0).to_string().into()))
}
