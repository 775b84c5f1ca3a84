//! A client of a session, and all that belongs to the client alone.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::NoTlsStream;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Config, Connection, Error, NoTls, Statement};

use super::driver::{Driver, OnEnd};
use super::statements::Statements;
use crate::net::SocketView;
use crate::wire::{Diverted, Snapshot, Stream, Wire};

/// The session as one client sees it. When the session is given another client, it has ended for
/// this one: what the server says from then on does not reach it.
pub(crate) struct ClientSession {
    pub(crate) wire: Wire,
    pub(crate) socket: SocketView,
    pub(super) driver: Arc<Driver>,
    client: Arc<Mutex<Client>>,
    statements: Statements,
}

/// The client of a session, locked: it has no other holder.
pub(crate) struct ExclusiveClient {
    client: OwnedMutexGuard<Client>,
    pub(crate) session: Arc<ClientSession>,
}

/// Makes the clients of a session.
pub(super) struct Clients {
    pub(super) wire: Wire,
    pub(super) socket: SocketView,
    pub(super) runtime: Handle,
    pub(super) statement_cache: usize,
    pub(super) on_end: OnEnd,
}

impl Clients {
    /// Spawns the driver of a client. `wire` is the client's own.
    pub(super) fn drive(
        &self,
        wire: Wire,
        client: Client,
        connection: Connection<Stream, NoTlsStream>,
    ) -> Arc<ClientSession> {
        let client = Arc::new(Mutex::new(client));
        let (own, on_end) = (wire.clone(), Arc::clone(&self.on_end));
        let driver = Driver::spawn(&self.runtime, connection, &client, own, on_end);
        Arc::new(ClientSession {
            wire,
            socket: self.socket.clone(),
            driver,
            client,
            statements: Statements::new(self.statement_cache),
        })
    }

    /// Makes a new client for a session that was detached and is at rest.
    pub(super) fn renew(&self) -> Option<Arc<ClientSession>> {
        let (wire, stream) = self.wire.attach()?;
        let mut config = Config::new();
        config.user("resumed");
        config.ssl_mode(SslMode::Disable);
        // The wire has all the answers, so it does not wait.
        let connected = config.connect_raw(stream, NoTls).now_or_never();
        let (client, connection) = connected?.ok()?;
        Some(self.drive(wire, client, connection))
    }
}

impl ClientSession {
    /// Returns the client, if it is not in use. While it is held, only the Close of a dropped
    /// statement can be queued elsewhere.
    pub(super) fn exclusive(self: Arc<Self>) -> Option<ExclusiveClient> {
        let client = Arc::clone(&self.client).try_lock_owned().ok()?;
        let session = self;
        Some(ExclusiveClient { client, session })
    }

    /// Returns the process id of the server's backend.
    pub(crate) fn process(&self) -> i32 {
        self.wire.facts().key.map_or(0, |(process, _)| process)
    }

    /// Diverts the session to another driver, once the answers that are owed have come. `None`:
    /// the connection has ended, or another driver has it.
    pub(crate) async fn divert(&self) -> Option<Diverted> {
        if let Some(diverted) = self.wire.divert() {
            return Some(diverted);
        }
        // Answers come in order.
        let answer = self.wire.question("", true)?;
        self.driver.wake();
        answer.await?;
        self.wire.divert()
    }

    /// [Pumps](ClientSession::pump), unless another thread is driving the connection.
    pub(crate) fn try_pump(&self) -> Option<Snapshot> {
        self.driver.try_pump()
    }

    /// Drives the connection as far as it goes without waiting, and returns its state.
    pub(crate) fn pump(&self) -> Snapshot {
        self.driver.pump()
    }

    /// Waits until no other thread is driving the connection. May be called while no lock is
    /// held that such a thread could need.
    pub(crate) fn wait_for_pump(&self) {
        self.driver.wait_for_poll();
    }

    /// Waits until nothing is under way, or the connection has ended.
    pub(crate) async fn settled(&self) -> Snapshot {
        self.driver.settled().await
    }

    /// Returns whether the connection has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.driver.is_over() || self.wire.is_over()
    }

    /// Returns a cached statement, or prepares it. Once the server has said that a statement
    /// does not fit the schema any more, no earlier one is used.
    pub(crate) async fn prepare(
        &self,
        client: &Client,
        sql: &str,
        types: &[Type],
    ) -> Result<Statement, Error> {
        if self.wire.take_outdated() {
            self.statements.clear();
            // The types that the statements were prepared with may have changed, too.
            client.clear_type_cache();
        }
        self.statements.prepare(client, sql, types).await
    }
}

impl Deref for ExclusiveClient {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for ExclusiveClient {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}
