//! tokio-postgres without the layer.

use std::env;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio_postgres::{Client, Config, Transaction};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::ending::{BoxError, Connection};

/// The clients of this process, which it never closes.
static CLIENTS: Mutex<Vec<Arc<Mutex<Client>>>> = Mutex::const_new(Vec::new());

/// Connects. The process keeps the client, as one that opens its client at the start does; each
/// request has another, since the last may have left its own in any state.
pub async fn connection() -> Result<OwnedMutexGuard<Client>, BoxError> {
    // tokio-postgres knows three modes of TLS; the roots are the public ones.
    let url = env::var("DATABASE_URL")
        .map_err(|_| "DATABASE_URL is not set: without the layer, no other variable is read")?
        .replace("sslmode=verify-full", "sslmode=require")
        .replace("sslmode=verify-ca", "sslmode=require");
    let mut config: Config = url.parse()?;
    if config.get_application_name().is_none() {
        config.application_name("antifreeze-prove-without");
    }
    let roots = RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let tls = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (client, connection) = config.connect(MakeRustlsConnect::new(tls)).await?;
    tokio::spawn(connection);
    let client = Arc::new(Mutex::new(client));
    CLIENTS.lock().await.push(Arc::clone(&client));
    Ok(client.lock_owned().await)
}

impl Connection for OwnedMutexGuard<Client> {
    async fn transaction(&mut self) -> Result<Transaction<'_>, tokio_postgres::Error> {
        Client::transaction(self).await
    }
}
