//! The shell of a session: its client, and all that belongs to the client alone.

use std::sync::Arc;

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::{Client, Config, Connection};

use super::driver::{Driver, OnEnd};
use super::statements::Statements;
use crate::connect::PassThrough;
use crate::wire::{Stream, Wire};

/// A client with its driver and its statements. A session gets another one if its client is not
/// given back.
pub(super) struct Shell {
    pub(super) client: Arc<Mutex<Client>>,
    pub(super) driver: Arc<Driver>,
    pub(super) statements: Statements,
}

/// What every shell of a session is made from.
pub(super) struct Maker {
    pub(super) wire: Wire,
    pub(super) runtime: Handle,
    pub(super) statement_cache: usize,
    pub(super) on_end: OnEnd,
}

impl Maker {
    /// Makes a shell from a client and its connection, and spawns the driver.
    pub(super) fn make(
        &self,
        client: Client,
        connection: Connection<Stream, Stream>,
        generation: u64,
    ) -> Arc<Shell> {
        let client = Arc::new(Mutex::new(client));
        let wire = (self.wire.clone(), generation);
        let on_end = Arc::clone(&self.on_end);
        Arc::new(Shell {
            driver: Driver::spawn(&self.runtime, connection, &client, wire, on_end),
            statements: Statements::new(self.statement_cache),
            client,
        })
    }

    /// Makes a new shell for a session that was detached and is at rest.
    pub(super) fn renew(&self) -> Option<Arc<Shell>> {
        let (stream, generation) = self.wire.attach()?;
        let mut config = Config::new();
        config.user("resumed");
        config.ssl_mode(SslMode::Require);
        config.ssl_negotiation(SslNegotiation::Direct);
        // The wire has all the answers, so it does not wait.
        let connected = config.connect_raw(stream, PassThrough).now_or_never();
        let (client, connection) = connected?.ok()?;
        Some(self.make(client, connection, generation))
    }
}
