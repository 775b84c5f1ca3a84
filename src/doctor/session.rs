//! A session of the doctor's own.

use std::ops::Deref;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::Client;

use crate::config::Path;
use crate::connect::{Manner, Opened};
use crate::database::Database;
use crate::error::Result;

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
}

impl Session {
    /// Connects, once: what can heal is not waited for, as [`Ways`](super::Ways) does.
    ///
    /// # Errors
    ///
    /// Those of connecting, and no others.
    pub async fn open(database: &Database) -> Result<Self> {
        Session::open_in(database, Manner::USUAL).await
    }

    pub(super) async fn open_in(database: &Database, manner: Manner<'_>) -> Result<Self> {
        let Opened {
            client,
            connection,
            path,
            ..
        } = database.pools().connector().open_once(manner).await?;
        let driver = tokio::spawn(async move {
            // Its error is told to whoever waits for an answer.
            let _ = connection.await;
        });
        Ok(Session {
            client,
            driver,
            path,
        })
    }

    /// What lies in between, as the configuration says or the server has shown.
    pub(super) fn path(&self) -> Path {
        self.path
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
