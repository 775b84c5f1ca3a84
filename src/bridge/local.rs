//! Serves one connection of a driver, from its start-up packet to its end.

use std::sync::{Arc, Weak};

use bytes::{Buf, Bytes, BytesMut};

use super::answer::{self, Severity};
use super::message::{self, Head};
use super::peer::{Closed, Peer, Socket};
use super::relay::{End, Loan, relay};
use super::startup::{self, Packet, Startup};
use super::{Bridge, Current, Parameters, User, database};
use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind, Result};
use crate::invocation::{Invocation, WeakInvocation};
use crate::random;

/// One connection of a driver.
pub(super) struct Local {
    peer: Peer,
    bridge: Weak<Bridge>,
    user: User,
    claimed: Option<WeakInvocation>,
    parameters: Parameters,
    key: (i32, i32),
    current: Arc<Current>,
}

/// Serves a connection. Its errors are told to the driver.
pub(super) async fn serve(bridge: Arc<Bridge>, socket: Socket) {
    let mut local = Local {
        peer: Peer::new(socket),
        bridge: Arc::downgrade(&bridge),
        user: User::Every,
        claimed: None,
        parameters: Vec::new(),
        key: (0, 0),
        current: Arc::default(),
    };
    drop(bridge);
    // The end of the connection has no other consequence.
    let _ = local.run().await;
    if let Some(bridge) = local.bridge.upgrade() {
        bridge.state().cancels.remove(&local.key);
    }
}

impl Local {
    async fn run(&mut self) -> Result<(), Closed> {
        if let Some(startup) = self.startup().await? {
            self.begin(startup).await?;
            while self.request().await? {}
        }
        Ok(())
    }

    /// Reads until there is a start-up packet, and answers those in front of it. `None`: it was
    /// a CancelRequest.
    async fn startup(&mut self) -> Result<Option<Startup>, Closed> {
        loop {
            let (packet, length) = match startup::parse(&self.peer.up) {
                Ok(Some(parsed)) => parsed,
                Ok(None) => {
                    self.peer.read().await?;
                    continue;
                }
                Err(error) => return self.refuse_connection(&error).await,
            };
            self.peer.up.advance(length);
            match packet {
                Packet::Encryption => self.peer.write(b"N").await?,
                Packet::Cancel { process, secret } => {
                    self.cancel((process, secret)).await;
                    return Ok(None);
                }
                Packet::Startup(startup) => return Ok(Some(startup)),
            }
        }
    }

    /// Cancels the statement that the connection with this key executes. As with PostgreSQL, a
    /// request is not answered.
    async fn cancel(&self, key: (i32, i32)) {
        let Some(bridge) = self.bridge.upgrade() else {
            return;
        };
        let current = bridge.state().cancels.get(&key).cloned();
        let token = current.and_then(|current| current.lock().ok()?.clone());
        if let Some(token) = token {
            let _ = token.cancel().await;
        }
    }

    /// Answers the start-up packet.
    async fn begin(&mut self, startup: Startup) -> Result<(), Closed> {
        let reported = match self.admit(startup).await {
            Ok(reported) => reported,
            Err(error) => return self.refuse_connection(&error).await,
        };
        self.key = (random::number() as i32, random::number() as i32);
        if let Some(bridge) = self.bridge.upgrade() {
            let current = Arc::clone(&self.current);
            bridge.state().cancels.insert(self.key, current);
        }
        let mut out = BytesMut::new();
        answer::startup(&reported, self.key, &mut out);
        self.peer.write(&out).await
    }

    /// Checks what the driver asks for, and returns what the server would report.
    async fn admit(&mut self, startup: Startup) -> Result<Bytes> {
        let bridge = self.bridge()?;
        if startup.replication {
            return Err(Error::configuration(
                "replication is not possible through the private socket",
            )
            .with_remedy("connect to the server itself, from a process that keeps running"));
        }
        if let Some(password) = bridge.listener.password().map(str::to_owned) {
            let given = self.password().await?;
            if given != password.as_bytes() {
                return Err(foreign());
            }
        }
        self.user = bridge.user(&startup.user).ok_or_else(foreign)?;
        let engine = bridge.engine()?;
        let ours = database(&engine);
        let other = startup
            .database
            .filter(|name| name != ours && *name != startup.user);
        if let Some(other) = other {
            return Err(Error::new(
                ErrorKind::DatabaseMissing,
                format!(
                    "the driver asks for the database \"{other}\", and this pool is of \"{ours}\""
                ),
            )
            .with_remedy("use the URL as it is; another database needs a `Database` of its own"));
        }
        if startup.minor > 0 || !startup.extensions.is_empty() {
            answer::negotiate(&startup.extensions, &mut self.peer.down);
            self.peer.flush().await.map_err(|Closed| closed())?;
        }
        self.parameters = startup.parameters;
        if let Some(reported) = bridge.state().reported.get(&self.parameters) {
            return Ok(reported.clone());
        }
        // Outside an invocation the session that is opened for it is kept as one that was warmed
        // up.
        let (invocation, ends) = match bridge.invocation(&self.user, None) {
            Ok(invocation) => (invocation, false),
            Err(error) if error.kind() == ErrorKind::NotInInvocation => {
                (Invocation::new(engine, Deadline::none(), ""), true)
            }
            Err(error) => return Err(error),
        };
        let reported = Loan::reported(&invocation, &self.parameters).await;
        if ends {
            invocation.finish(false).await?;
        }
        let reported = reported?;
        let mut state = bridge.state();
        state
            .reported
            .insert(self.parameters.clone(), reported.clone());
        Ok(reported)
    }

    /// Asks for the password and reads it.
    async fn password(&mut self) -> Result<Bytes> {
        let sent = self.peer.write(answer::PASSWORD).await;
        sent.map_err(|Closed| closed())?;
        loop {
            if let Some(head) = Head::read(&self.peer.up)? {
                if head.tag != b'p' || head.length > 1_000 {
                    return Err(foreign());
                }
                if self.peer.up.len() >= head.length {
                    let message = self.peer.up.split_to(head.length).freeze();
                    return Ok(message.slice(5..head.length - 1));
                }
            }
            self.peer.read().await.map_err(|Closed| closed())?;
        }
    }

    /// Serves what the driver asks for next, from its first message until the session is at rest.
    /// Returns false at the end of the connection.
    async fn request(&mut self) -> Result<bool, Closed> {
        if !self.next().await? {
            return Ok(false);
        }
        let loan = match self.loan().await {
            Ok(loan) => loan,
            Err(error) => {
                self.refuse_request(&error).await?;
                return Ok(true);
            }
        };
        self.set_current(&loan);
        let guards = matches!(self.user, User::Transaction(_));
        let (bridge, claimed) = (&self.bridge, &mut self.claimed);
        let claim = |token: &str| {
            *claimed = bridge.upgrade().and_then(|bridge| bridge.by_token(token));
            claimed.clone()
        };
        let end = relay(&mut self.peer, loan, guards, claim).await;
        if let Ok(mut current) = self.current.lock() {
            *current = None;
        }
        match end {
            End::AtRest => {
                self.peer.flush().await?;
                Ok(true)
            }
            End::Closed => Ok(false),
            End::TakenBack { whole, idle } => {
                self.taken_back(whole, idle).await?;
                Ok(false)
            }
            End::Refused(error) => self.refuse_connection(&error).await,
        }
    }

    fn set_current(&self, loan: &Loan) {
        if let Ok(mut current) = self.current.lock() {
            *current = loan.cancel_token();
        }
    }

    /// Waits for a message that needs a session, and answers those that do not. Returns false if
    /// the driver ends the connection.
    async fn next(&mut self) -> Result<bool, Closed> {
        loop {
            let head = match Head::read(&self.peer.up) {
                Ok(Some(head)) => head,
                Ok(None) => {
                    self.peer.read().await?;
                    continue;
                }
                Err(error) => return self.refuse_connection(&error).await,
            };
            match head.tag {
                b'X' => return Ok(false),
                // No session is lent, so none is lost: the next statement gets one that lives.
                b'S' => {
                    self.peer.skip(head.length).await?;
                    self.peer.write(answer::READY).await?;
                }
                // A Flush with nothing before it, and what a driver still sends of a COPY that
                // has failed, which a server ignores, too.
                b'H' | b'd' | b'c' | b'f' => self.peer.skip(head.length).await?,
                _ if head.may_claim() => {
                    while self.peer.up.len() < head.length {
                        self.peer.read().await?;
                    }
                    let Some(token) = message::claim(&self.peer.up[..head.length]) else {
                        return Ok(true);
                    };
                    self.claimed = self
                        .bridge
                        .upgrade()
                        .and_then(|bridge| bridge.by_token(token));
                    self.peer.up.advance(head.length);
                    self.peer.write(answer::SET).await?;
                }
                _ => return Ok(true),
            }
        }
    }

    /// Leases a session for the invocation that uses this connection.
    async fn loan(&mut self) -> Result<Loan> {
        let invocation = self
            .bridge()?
            .invocation(&self.user, self.claimed.as_ref())?;
        match self.user {
            User::Transaction(_) => Loan::of_transaction(&invocation, &self.parameters).await,
            _ => Loan::of_connection(&invocation, &self.parameters).await,
        }
    }

    /// Answers a request with an error, and skips the rest of it.
    async fn refuse_request(&mut self, error: &Error) -> Result<(), Closed> {
        answer::error(Severity::Error, error, &mut self.peer.down);
        self.peer.flush().await?;
        loop {
            match Head::read(&self.peer.up) {
                Ok(Some(head)) => {
                    self.peer.skip(head.length).await?;
                    match head.tag {
                        b'X' => return Err(Closed),
                        b'S' => return self.peer.write(answer::READY).await,
                        _ if head.is_whole_request() => {
                            return self.peer.write(answer::READY).await;
                        }
                        _ => {}
                    }
                }
                Ok(None) => self.peer.read().await?,
                Err(error) => return self.refuse_connection(&error).await,
            }
        }
    }

    /// Ends the connection with an error.
    async fn refuse_connection<T>(&mut self, error: &Error) -> Result<T, Closed> {
        answer::error(Severity::Fatal, error, &mut self.peer.down);
        self.peer.linger().await
    }

    /// Ends the connection after its session was taken back. An idle driver finds it closed, as
    /// pools that do not test their connections notice. One that is in a transaction, or waits
    /// for an answer, is told at its next message.
    async fn taken_back(&mut self, whole: bool, idle: bool) -> Result<(), Closed> {
        self.peer.flush().await?;
        if !whole || idle {
            return Ok(());
        }
        if self.peer.up.is_empty() {
            self.peer.read().await?;
        }
        self.refuse_connection(&Error::invocation_ended()).await
    }

    fn bridge(&self) -> Result<Arc<Bridge>> {
        self.bridge.upgrade().ok_or_else(Error::invocation_ended)
    }
}

/// The URL is that of an invocation that has ended, or it is none of this process.
fn foreign() -> Error {
    Error::new(
        ErrorKind::InvocationEnded,
        "the user or the password of this URL is not known to the private socket",
    )
    .with_remedy(
        "take the URL from `Database::url` or, in each invocation anew, from `Invocation::url`",
    )
}

fn closed() -> Error {
    Error::caused(ErrorKind::Closed, "the driver has closed its connection")
}
