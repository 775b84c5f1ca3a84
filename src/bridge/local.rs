//! Serves one connection of a driver, from its start-up packet to its end.

use std::sync::{Arc, Weak};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::answer::{self, Severity};
use super::message::{self, Head};
use super::relay::{End, Loan};
use super::startup::{self, Packet, Startup};
use super::{Bridge, Current, Parameters, User, database};
use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind, Result};
use crate::invocation::{Invocation, WeakInvocation};
use crate::random;

/// A stream of the operating system.
pub(super) type Socket = Box<dyn Stream>;

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

/// One connection of a driver.
pub(super) struct Local {
    pub(super) socket: Socket,
    /// What the driver has sent and was not processed.
    pub(super) up: BytesMut,
    /// What the driver has yet to be sent.
    pub(super) down: BytesMut,
    bridge: Weak<Bridge>,
    pub(super) user: User,
    claimed: Option<WeakInvocation>,
    parameters: Parameters,
    key: (i32, i32),
    current: Arc<Current>,
}

/// The driver has ended the connection, or it has to be ended.
struct Closed;

/// Serves a connection. Its errors are told to the driver.
pub(super) async fn serve(bridge: Arc<Bridge>, socket: Socket) {
    let mut local = Local {
        socket,
        up: BytesMut::new(),
        down: BytesMut::new(),
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
            let (packet, length) = match startup::parse(&self.up) {
                Ok(Some(parsed)) => parsed,
                Ok(None) => {
                    self.read().await?;
                    continue;
                }
                Err(error) => return self.refuse_connection(&error).await,
            };
            self.up.advance(length);
            match packet {
                Packet::Encryption => self.write(b"N").await?,
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
        self.write(&out).await
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
            answer::negotiate(&startup.extensions, &mut self.down);
            self.flush().await.map_err(|Closed| closed())?;
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
        let sent = self.write(answer::PASSWORD).await;
        sent.map_err(|Closed| closed())?;
        loop {
            if let Some(head) = Head::read(&self.up)? {
                if head.tag != b'p' || head.length > 1_000 {
                    return Err(foreign());
                }
                if self.up.len() >= head.length {
                    let message = self.up.split_to(head.length).freeze();
                    return Ok(message.slice(5..head.length - 1));
                }
            }
            self.read().await.map_err(|Closed| closed())?;
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
        let end = self.relay(loan).await;
        if let Ok(mut current) = self.current.lock() {
            *current = None;
        }
        match end {
            End::AtRest => {
                self.flush().await?;
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
            let head = match Head::read(&self.up) {
                Ok(Some(head)) => head,
                Ok(None) => {
                    self.read().await?;
                    continue;
                }
                Err(error) => return self.refuse_connection(&error).await,
            };
            match head.tag {
                b'X' => return Ok(false),
                // No session is lent, so none is lost: the next statement gets one that lives.
                b'S' => {
                    self.skip(head.length).await?;
                    self.write(answer::READY).await?;
                }
                // A Flush with nothing before it, and what a driver still sends of a COPY that
                // has failed, which a server ignores, too.
                b'H' | b'd' | b'c' | b'f' => self.skip(head.length).await?,
                _ if head.may_claim() => {
                    while self.up.len() < head.length {
                        self.read().await?;
                    }
                    let Some(token) = message::claim(&self.up[..head.length]) else {
                        return Ok(true);
                    };
                    self.claimed = self
                        .bridge
                        .upgrade()
                        .and_then(|bridge| bridge.by_token(token));
                    self.up.advance(head.length);
                    self.write(answer::SET).await?;
                }
                _ => return Ok(true),
            }
        }
    }

    /// Returns whether the invocation with this token has the session already, and notes its claim.
    pub(super) fn may_claim(&mut self, token: &str, has: &WeakInvocation) -> bool {
        let claims = self
            .bridge
            .upgrade()
            .and_then(|bridge| bridge.by_token(token));
        let same = claims.as_ref().is_some_and(|claims| claims.is_same(has));
        self.claimed = claims;
        same
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
        answer::error(Severity::Error, error, &mut self.down);
        self.flush().await?;
        loop {
            match Head::read(&self.up) {
                Ok(Some(head)) => {
                    self.skip(head.length).await?;
                    match head.tag {
                        b'X' => return Err(Closed),
                        b'S' => return self.write(answer::READY).await,
                        _ if head.is_whole_request() => return self.write(answer::READY).await,
                        _ => {}
                    }
                }
                Ok(None) => self.read().await?,
                Err(error) => return self.refuse_connection(&error).await,
            }
        }
    }

    /// Ends the connection with an error.
    async fn refuse_connection<T>(&mut self, error: &Error) -> Result<T, Closed> {
        answer::error(Severity::Fatal, error, &mut self.down);
        self.flush().await?;
        self.linger().await
    }

    /// Ends the connection after its session was taken back. An idle driver finds it closed, as
    /// pools that do not test their connections notice. One that is in a transaction, or waits
    /// for an answer, is told at its next message.
    async fn taken_back(&mut self, whole: bool, idle: bool) -> Result<(), Closed> {
        self.flush().await?;
        if !whole || idle {
            return Ok(());
        }
        if self.up.is_empty() {
            self.read().await?;
        }
        self.refuse_connection(&Error::invocation_ended()).await
    }

    /// Ends our side, and reads until the driver has ended its own: it may have to read an error
    /// before it notices.
    async fn linger<T>(&mut self) -> Result<T, Closed> {
        self.socket.shutdown().await.map_err(|_| Closed)?;
        loop {
            self.up.clear();
            self.read().await?;
        }
    }

    /// Reads more from the driver. Its end of file ends the connection.
    async fn read(&mut self) -> Result<(), Closed> {
        match self.socket.read_buf(&mut self.up).await {
            Ok(0) | Err(_) => Err(Closed),
            Ok(_) => Ok(()),
        }
    }

    /// Skips so many bytes of what the driver sends.
    async fn skip(&mut self, mut length: usize) -> Result<(), Closed> {
        loop {
            let now = length.min(self.up.len());
            self.up.advance(now);
            length -= now;
            if length == 0 {
                return Ok(());
            }
            self.read().await?;
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Closed> {
        self.down.extend_from_slice(bytes);
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), Closed> {
        let sent = self.socket.write_all_buf(&mut self.down).await;
        sent.map_err(|_| Closed)
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
