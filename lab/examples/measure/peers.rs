//! A new connection by each library, configured as its own documentation shows it.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use antifreeze::config::Pooler;
use antifreeze::{Config, Database, connection};
use bb8_postgres::PostgresConnectionManager;
use deadpool_postgres::{Manager, ManagerConfig, RecyclingMethod};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use sqlx::postgres::PgPoolOptions;
use tokio_postgres::Client;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::servers::{Route, Target};
use crate::{BoxError, Result};

/// The statement of a first row. One round trip for tokio-postgres as `query_typed`.
const STATEMENT: &str = "select 1";

/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Antifreeze,
    TokioPostgres,
    Deadpool,
    Bb8,
    Sqlx,
}

impl Peer {
    pub const ALL: [Self; 5] = [
        Self::Antifreeze,
        Self::TokioPostgres,
        Self::Deadpool,
        Self::Bb8,
        Self::Sqlx,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Antifreeze => "antifreeze",
            Self::TokioPostgres => "tokio-postgres",
            Self::Deadpool => "deadpool",
            Self::Bb8 => "bb8",
            Self::Sqlx => "sqlx",
        }
    }
}

/// How far a new connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The caller has it.
    Ready,
    /// The caller has the row of its first statement.
    FirstRow,
}

/// A library with its settings, which opens connections one after the other.
pub struct Connector {
    peer: Peer,
    target: Target,
    tls: MakeRustlsConnect,
    /// One for the process, as its documentation wants it: it may know of earlier connections.
    database: Option<Database>,
}

/// Keeps a connection open. Dropping it closes the connection, but for antifreeze's, which
/// its `Database` keeps.
pub type Open = Box<dyn std::any::Any>;

impl Connector {
    /// `None` if the library cannot connect so.
    pub fn new(peer: Peer, target: Target) -> Result<Option<Self>> {
        if peer == Peer::Sqlx && target.route == Route::DirectTls {
            return Ok(None);
        }
        let database = match peer {
            Peer::Antifreeze => Some(Database::new(config(&target)?)?),
            _ => None,
        };
        Ok(Some(Self {
            peer,
            tls: tls(&target)?,
            target,
            database,
        }))
    }

    /// Opens a connection and reads a row; tells `mark` how far it is.
    pub async fn open(&self, mark: impl FnMut(Stage)) -> Result<Open> {
        let mark = RefCell::new(mark);
        let mark = |stage| (mark.borrow_mut())(stage);
        let url = self.url();
        match self.peer {
            Peer::Antifreeze => {
                let database = self.database.as_ref().ok_or("no database")?;
                let work = async {
                    let client = connection().await?;
                    mark(Stage::Ready);
                    first_row(&client).await?;
                    mark(Stage::FirstRow);
                    Ok::<_, BoxError>(())
                };
                database.invocation(DEADLINE, work).await?;
                Ok(Box::new(()))
            }
            Peer::TokioPostgres => {
                let connected = tokio_postgres::connect(&url, self.tls.clone());
                let (client, connection) = connected.await?;
                tokio::spawn(connection);
                mark(Stage::Ready);
                first_row(&client).await?;
                mark(Stage::FirstRow);
                Ok(Box::new(client))
            }
            Peer::Deadpool => {
                let recycling = ManagerConfig {
                    recycling_method: RecyclingMethod::Fast,
                };
                let manager = Manager::from_config(url.parse()?, self.tls.clone(), recycling);
                let pool = deadpool_postgres::Pool::builder(manager).build()?;
                let client = pool.get().await?;
                mark(Stage::Ready);
                first_row(&client).await?;
                mark(Stage::FirstRow);
                Ok(Box::new((client, pool)))
            }
            Peer::Bb8 => {
                let manager =
                    PostgresConnectionManager::new_from_stringlike(url, self.tls.clone())?;
                let pool = bb8::Pool::builder().build(manager).await?;
                let client = pool.get_owned().await?;
                mark(Stage::Ready);
                first_row(&client).await?;
                mark(Stage::FirstRow);
                Ok(Box::new((client, pool)))
            }
            Peer::Sqlx => {
                let pool = PgPoolOptions::new().max_connections(5).connect(&url);
                let pool = pool.await?;
                mark(Stage::Ready);
                // A named statement would stay on a server that others get, too.
                let kept = self.target.route != Route::Pooler;
                let query = sqlx::query_scalar::<_, i32>(STATEMENT).persistent(kept);
                query.fetch_one(&pool).await?;
                mark(Stage::FirstRow);
                Ok(Box::new(pool))
            }
        }
    }

    fn url(&self) -> String {
        let url = self.target.url();
        let roots = self.target.roots.as_ref().map(|roots| roots.display());
        match (self.peer, roots) {
            (_, None) => url,
            (Peer::Sqlx, Some(roots)) => url + &format!("&sslmode=verify-full&sslrootcert={roots}"),
            // The connector verifies the host.
            (_, Some(_)) if self.target.route == Route::DirectTls => {
                url + "&sslmode=require&sslnegotiation=direct"
            }
            (_, Some(_)) => url + "&sslmode=require",
        }
    }
}

async fn first_row(client: &Client) -> Result<i32, tokio_postgres::Error> {
    client.query_typed_one(STATEMENT, &[]).await?.try_get(0)
}

/// antifreeze's own settings for a target.
pub fn config(target: &Target) -> Result<Config> {
    let mut url = target.url();
    if let Some(roots) = &target.roots {
        url += &format!("&sslmode=verify-full&sslrootcert={}", roots.display());
    }
    if target.route == Route::DirectTls {
        url += "&sslnegotiation=direct";
    }
    let config = Config::from_url(&url)?;
    Ok(match target.route {
        Route::Pooler => config.pooler(Pooler::Transaction),
        _ => config,
    })
}

fn tls(target: &Target) -> Result<MakeRustlsConnect> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = &target.roots {
        for certificate in CertificateDer::pem_file_iter(file)? {
            roots.add(certificate?)?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    if target.route == Route::DirectTls {
        // PostgreSQL's manual, "Protocol Flow", SSL Session Encryption.
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(MakeRustlsConnect::new(config))
}
