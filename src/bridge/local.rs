//! Serves one connection of a driver, from its startup packet to its end.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::time::{Instant, timeout_at};

use super::answer::{self, Severity};
use super::message::{self, Head};
use super::peer::{Closed, Peer, Socket};
use super::relay::{Loan, LoanEnd, Notice, relay};
use super::settings::{Portals, Setting};
use super::startup::{self, Packet, Startup, holds};
use super::{Bridge, Current, Parameters, User, database, drawn};
use crate::error::{Error, ErrorKind, Result};
use crate::invocation::{Live, WeakInvocation};
use crate::wire::message::write_start;

/// The longest time limit: longer than any invocation, and without overflow.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// One connection of a driver.
pub(super) struct Local {
    peer: Peer,
    bridge: Weak<Bridge>,
    user: User,
    claimed: Option<WeakInvocation>,
    parameters: Parameters,
    /// Since its first statement or claim, a setting is part of what the invocation does.
    is_used: bool,
    /// The ParameterStatus messages that the driver has, and the process of the session that they
    /// are from.
    last_reported: (Bytes, Option<i32>),
    portals: Portals,
    key: (i32, i32),
    current: Arc<Current>,
}

/// Serves a connection. Errors are sent to the driver.
pub(super) async fn serve(bridge: Arc<Bridge>, socket: Socket) {
    let mut local = Local {
        peer: Peer::new(socket),
        bridge: Arc::downgrade(&bridge),
        user: User::Every,
        claimed: None,
        parameters: Vec::new(),
        is_used: false,
        last_reported: (Bytes::new(), None),
        portals: Portals::default(),
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

    /// Reads until there is a startup packet, and answers those in front of it. `None`: it was
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
        let token = current.and_then(|current| current.lock().clone());
        if let Some(token) = token {
            let _ = token.send().await;
        }
    }

    /// Answers the startup packet.
    async fn begin(&mut self, startup: Startup) -> Result<(), Closed> {
        let reported = match self.admit(startup).await {
            Ok(reported) => reported,
            Err(error) => return self.refuse_connection(&error).await,
        };
        if let Some(bridge) = self.bridge.upgrade() {
            let current = Arc::clone(&self.current);
            bridge.state().cancels.insert(self.key, current);
        }
        let mut out = BytesMut::new();
        write_start(&reported, Some(self.key), &mut out);
        self.last_reported = (reported, None);
        self.peer.write(&out).await
    }

    /// Checks what the driver asks for, and returns what the server would report.
    async fn admit(&mut self, startup: Startup) -> Result<Bytes> {
        let bridge = self.bridge()?;
        let key = drawn()?;
        self.key = ((key >> 32) as i32, key as i32);
        if startup.replication {
            return Err(Error::configuration(
                "replication is not possible through the private socket",
            )
            .with_remedy("connect to the server itself, from a process that keeps running"));
        }
        if let Some(password) = bridge.listener.password().map(str::to_owned) {
            let given = self.password().await?;
            if !is_equal(&given, password.as_bytes()) {
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
        self.reported().await
    }

    /// Returns what the server reports at the start of a session with the driver's parameters.
    async fn reported(&self) -> Result<Bytes> {
        let bridge = self.bridge()?;
        if let Some(reported) = bridge.state().reported.get(&self.parameters) {
            return Ok(reported.clone());
        }
        // One at a time: the others find what the first has learnt.
        let _learning = bridge.learning.lock().await;
        if let Some(reported) = bridge.state().reported.get(&self.parameters) {
            return Ok(reported.clone());
        }
        let is_anyones = self.user.exact().is_none() && self.claimed.is_none();
        let limit = bridge.engine()?.settings().connect_timeout;
        let until = Instant::now() + limit.min(LONGEST);
        let reported = loop {
            let invocation = bridge.learner(&self.user, self.claimed.as_ref())?;
            let engine = Arc::clone(invocation.engine());
            let reported = timeout_at(until, Loan::reported(&invocation, &self.parameters)).await;
            drop(invocation);
            Live::of(&engine).end_common(None).await;
            match reported.map_err(|_| unreported())? {
                // It belonged to an invocation that has ended meanwhile; to the driver that is
                // none of its own.
                Err(error) if is_anyones && error.kind() == ErrorKind::InvocationEnded => {}
                reported => break reported?,
            }
        };
        let mut state = bridge.state();
        state.note_reported(&self.parameters, &reported);
        Ok(reported)
    }

    /// Makes a setting of the driver's part of what it asked for at its startup.
    async fn set(&mut self, setting: Setting) -> Result<()> {
        let (name, value) = setting;
        let before = self.parameters.clone();
        self.parameters.retain(|set| set.0 != name);
        if !holds(&name, &value) {
            self.parameters.push((name.clone(), value));
            self.parameters.sort();
        }
        let reported = self.reported().await;
        let reported = reported.inspect_err(|_| self.parameters = before)?;
        answer::reported(&name, &reported, &mut self.peer.down);
        self.last_reported = (reported, None);
        Ok(())
    }

    /// Asks for the password and reads it.
    async fn password(&mut self) -> Result<Bytes> {
        let sent = self.peer.write(answer::PASSWORD).await;
        sent.map_err(|Closed| closed())?;
        loop {
            if let Some(head) = Head::read(&self.peer.up)? {
                if head.tag != b'p' || !(6..=1_000).contains(&head.length) {
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
        self.is_used = true;
        self.portals.clear();
        self.set_current(&loan);
        let guards = self.is_in_transaction();
        let (bridge, user, claimed) = (&self.bridge, &self.user, &mut self.claimed);
        let claim = |token: &str| {
            *claimed = claimant(bridge, token);
            user.exact().or(claimed.as_ref()).cloned()
        };
        let end = relay(&mut self.peer, loan, guards, claim).await;
        *self.current.lock() = None;
        match end {
            LoanEnd::AtRest => {
                self.peer.flush().await?;
                Ok(!self.peer.has_left)
            }
            LoanEnd::Declined(error) => {
                self.refuse_request(&error).await?;
                Ok(true)
            }
            LoanEnd::Closed => Ok(false),
            LoanEnd::TakenBack(notice) => self.taken_back(notice).await,
            LoanEnd::Refused(error) => self.refuse_connection(&error).await,
        }
    }

    fn set_current(&self, loan: &Loan) {
        *self.current.lock() = Some(loan.cancel_token());
    }

    /// Waits for the head of the next message.
    async fn head(&mut self) -> Result<Head, Closed> {
        loop {
            match Head::read(&self.peer.up) {
                Ok(Some(head)) => return Ok(head),
                Ok(None) => self.peer.read().await?,
                Err(error) => return self.refuse_connection(&error).await,
            }
        }
    }

    /// Waits for a message that needs a session, and answers those that do not. Returns false if
    /// the driver ends the connection.
    async fn next(&mut self) -> Result<bool, Closed> {
        loop {
            let head = self.head().await?;
            match head.tag {
                b'X' => return Ok(false),
                // No session is lent, so none is lost: the next statement gets one that lives.
                b'S' if !self.is_in_transaction() => {
                    self.portals.clear();
                    self.peer.skip(head.length).await?;
                    self.peer.write(answer::READY).await?;
                }
                // A Flush with nothing before it, and what a driver still sends of a COPY that
                // has failed, which a server ignores, too.
                b'H' | b'd' | b'c' | b'f' => self.peer.skip(head.length).await?,
                b'Q' | b'P' | b'B' | b'D' | b'E' | b'C' if head.is_short() => {
                    while self.peer.up.len() < head.length {
                        self.peer.read().await?;
                    }
                    if !self.answer(head).await? {
                        return Ok(true);
                    }
                }
                _ => return Ok(true),
            }
        }
    }

    /// Answers a message that needs no session. Returns false if it needs one.
    async fn answer(&mut self, head: Head) -> Result<bool, Closed> {
        // In the invocation's transaction they are the server's to answer.
        if self.is_in_transaction() {
            return Ok(false);
        }
        let message = &self.peer.up[..head.length];
        if let Some(token) = message::claim(message) {
            self.claimed = claimant(&self.bridge, token);
            self.is_used = true;
            self.peer.up.advance(head.length);
            self.peer.write(answer::SET_AND_READY).await?;
            return Ok(true);
        }
        let in_force = self.is_used.then_some(&*self.parameters);
        let Some(answer) = self.portals.answer(message, &mut self.peer.names, in_force) else {
            return Ok(false);
        };
        if let Some(setting) = answer.setting {
            if let Err(error) = self.set(setting).await {
                self.refuse_request(&error).await?;
                return Ok(true);
            }
        }
        self.peer.up.advance(head.length);
        self.peer.write(answer.bytes).await?;
        Ok(true)
    }

    /// Returns whether all that the driver sends is part of the invocation's transaction, whose
    /// status only the server knows.
    fn is_in_transaction(&self) -> bool {
        matches!(self.user, User::Transaction(_))
    }

    /// Leases a session for the invocation that uses this connection.
    async fn loan(&mut self) -> Result<Loan> {
        let invocation = self
            .bridge()?
            .invocation(&self.user, self.claimed.as_ref())?;
        if let User::Transaction(_) = self.user {
            return Loan::of_transaction(&invocation, &self.parameters).await;
        }
        let loan = Loan::of_connection(&invocation, &self.parameters).await?;
        self.report_changes(&loan);
        Ok(loan)
    }

    /// Sends the driver those parameters that this session's server reports differently from the
    /// last one, as another server does after a failover.
    fn report_changes(&mut self, loan: &Loan) {
        let process = loan.process();
        if self.last_reported.1 == process {
            return;
        }
        let reports = loan.reports();
        if reports != self.last_reported.0 {
            answer::changed(&self.last_reported.0, &reports, &mut self.peer.down);
            if let Some(bridge) = self.bridge.upgrade() {
                bridge.state().note_reported(&self.parameters, &reports);
            }
        }
        self.last_reported = (reports, process);
    }

    /// Answers a request with an error, and skips the rest of it.
    async fn refuse_request(&mut self, error: &Error) -> Result<(), Closed> {
        answer::error(Severity::Error, error, &mut self.peer.down);
        self.peer.flush().await?;
        loop {
            let head = self.head().await?;
            self.peer.skip(head.length).await?;
            match head.tag {
                b'X' => return Err(Closed),
                b'Q' | b'F' | b'S' => return self.peer.write(answer::READY).await,
                _ => {}
            }
        }
    }

    /// Ends the connection with an error.
    async fn refuse_connection<T>(&mut self, error: &Error) -> Result<T, Closed> {
        answer::error(Severity::Fatal, error, &mut self.peer.down);
        self.peer.linger().await
    }

    /// Ends the connection after its session was taken back.
    async fn taken_back(&mut self, notice: Notice) -> Result<bool, Closed> {
        self.peer.flush().await?;
        match notice {
            Notice::AtOnce => {}
            Notice::AtNextMessage => self.peer.read().await?,
            Notice::None => return Ok(false),
        }
        self.refuse_connection(&Error::invocation_ended()).await
    }

    fn bridge(&self) -> Result<Arc<Bridge>> {
        self.bridge.upgrade().ok_or_else(Error::invocation_ended)
    }
}

/// Finds the invocation that claims a connection. One that has ended claims it, too.
fn claimant(bridge: &Weak<Bridge>, token: &str) -> Option<WeakInvocation> {
    let known = || bridge.upgrade()?.by_token(token);
    (!token.is_empty()).then(|| known().unwrap_or_else(WeakInvocation::ended))
}

/// Compares in constant time: how long it takes reveals nothing.
fn is_equal(given: &[u8], secret: &[u8]) -> bool {
    let differ = |differ, (a, b): (&u8, &u8)| differ | (a ^ b);
    given.len() == secret.len() && given.iter().zip(secret).fold(0, differ) == 0
}

/// The URL belongs to an invocation that has ended, or to another process.
fn foreign() -> Error {
    Error::new(
        ErrorKind::InvocationEnded,
        "the user or the password of this URL is not known to the private socket",
    )
    .with_remedy(
        "take the URL from `Database::url` or, in each invocation anew, from `Invocation::url`",
    )
}

fn unreported() -> Error {
    Error::caused(
        ErrorKind::ConnectTimeout,
        "no session has answered what the driver's startup asks for in time",
    )
}

fn closed() -> Error {
    Error::caused(ErrorKind::Closed, "the driver has closed its connection")
}
