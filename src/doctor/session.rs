//! A session of the doctor's own.

use std::ops::Deref;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::Client;

use crate::config::Path;
use crate::connect::{Manner, Opened, pool_mode};
use crate::database::Database;
use crate::error::{Error, Result};

/// How long the server may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// A connection outside any invocation, for a tool that has one session and keeps it:
/// behind it is the way to the server that invocations take, and none of the promise.
#[must_use = "a session that is dropped is closed"]
#[derive(Debug)]
pub struct Session {
    client: Client,
    driver: JoinHandle<()>,
    path: Path,
    /// What a pooler in between says of itself.
    told: Option<Path>,
}

impl Session {
    /// Connects, once, as an invocation does: what can heal is not waited for, as
    /// [`Ways`](super::Ways) does. Behind a pooler it waits for a server, too, for no longer
    /// than `connect_timeout`.
    ///
    /// # Errors
    ///
    /// Those of connecting, and no others;
    /// [`TooManyConnections`](crate::ErrorKind::TooManyConnections) if the pooler has no
    /// server to give.
    pub async fn open(database: &Database) -> Result<Self> {
        Session::open_queued(database, database.settings().connect_timeout).await
    }

    /// As [`open`](Session::open), with so long for the pooler to give a server.
    pub(super) async fn open_queued(database: &Database, limit: Duration) -> Result<Self> {
        let connector = database.pools().connector();
        let opened = connector.open(None, true, Manner::USUAL).await?;
        Session::of(opened, limit).await
    }

    /// As [`open`](Session::open), in another manner, and with what a pooler refuses told and
    /// not left out.
    pub(super) async fn open_in(database: &Database, manner: Manner<'_>) -> Result<Self> {
        let connector = database.pools().connector();
        let opened = connector.open_once(manner).await?;
        Session::of(opened, database.settings().connect_timeout).await
    }

    async fn of(opened: Opened, limit: Duration) -> Result<Self> {
        let Opened {
            client,
            connection,
            path,
            ..
        } = opened;
        let told = pool_mode(|name| connection.parameter(name));
        let driver = tokio::spawn(async move {
            // Its error is told to whoever waits for an answer.
            let _ = connection.await;
        });
        let session = Session {
            client,
            driver,
            path,
            told,
        };
        // A pooler lets in whom it has no server for, until something is asked.
        if path != Path::Direct {
            let asked = timeout(limit, session.simple_query("")).await;
            asked.map_err(|_| Error::no_server(limit))??;
        }
        Ok(session)
    }

    /// What lies in between, as the configuration says or the server has shown.
    pub(super) fn path(&self) -> Path {
        self.path
    }

    /// What a pooler in between says of itself, if it says anything.
    pub(super) fn told(&self) -> Option<Path> {
        self.told
    }

    /// Says goodbye, and waits for 2 s at most until it is said.
    pub async fn close(self) {
        let Session { client, driver, .. } = self;
        drop(client);
        let _ = timeout(GOODBYE, driver).await;
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}
