//! Reads and writes the messages of authentication.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use postgres_protocol::message::backend::{Header, Message};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::Failure;

/// The longest message: libpq accepts 30,000 bytes of an error at startup, 2,000 of others.
const MOST: usize = 32 * 1024;

/// The room for what the server sends at once: more than an exchange and the parameters of a
/// session, so that each is one read.
const ROOM: usize = 4 * 1024;

/// The most notices that precede the end of authentication, in bytes.
const MOST_NOTICES: usize = 64 * 1024;

/// A message of the server.
pub(super) struct Received {
    pub(super) message: Message,
    /// All of it, header included.
    pub(super) bytes: Bytes,
}

impl Received {
    /// Expects AuthenticationOk.
    pub(super) fn expect_ok(self) -> Result<(), Failure> {
        match self.message {
            Message::AuthenticationOk => Ok(()),
            _ => Err(self.unexpected()),
        }
    }

    /// Returns why this message ends the start, which is not the one that was expected.
    pub(super) fn unexpected(self) -> Failure {
        match self.message {
            Message::ErrorResponse(_) => Failure::Final(self.bytes),
            _ => Failure::Violation,
        }
    }
}

/// The connection while the server authenticates the client.
pub(super) struct Messages<'a, T> {
    transport: &'a mut T,
    /// What was received and is not read yet.
    pub(super) received: BytesMut,
    /// The notices of the server.
    pub(super) notices: BytesMut,
    sent: Option<Instant>,
    /// The shortest time in which an answer came.
    pub(super) shortest: Option<Duration>,
}

impl<'a, T: AsyncRead + AsyncWrite + Unpin> Messages<'a, T> {
    pub(super) fn new(transport: &'a mut T) -> Self {
        Messages {
            transport,
            received: BytesMut::new(),
            notices: BytesMut::new(),
            sent: None,
            shortest: None,
        }
    }

    /// Sends messages and reads the answer.
    pub(super) async fn exchange(&mut self, bytes: &[u8]) -> Result<Received, Failure> {
        let sent = async {
            self.transport.write_all(bytes).await?;
            self.transport.flush().await
        };
        sent.await.map_err(Failure::Io)?;
        self.sent = Some(Instant::now());
        self.receive().await
    }

    /// Reads the next message: of authentication (`R`), or an error (`E`). Servers of other
    /// protocols are recognised by the first byte.
    pub(super) async fn receive(&mut self) -> Result<Received, Failure> {
        loop {
            while let Some(received) = self.parse()? {
                if !matches!(received.message, Message::NoticeResponse(_)) {
                    return Ok(received);
                }
                self.notices.extend_from_slice(&received.bytes);
                if self.notices.len() > MOST_NOTICES {
                    return Err(Failure::Unclear);
                }
            }
            self.received.reserve(ROOM);
            let read = self.transport.read_buf(&mut self.received).await;
            if let Some(sent) = self.sent.take() {
                let took = sent.elapsed();
                self.shortest = Some(self.shortest.map_or(took, |shortest| shortest.min(took)));
            }
            match read {
                Ok(0) => return Err(Failure::Closed),
                Ok(_) => {}
                Err(error) => return Err(Failure::Io(error)),
            }
        }
    }

    fn parse(&mut self) -> Result<Option<Received>, Failure> {
        let Some(&tag) = self.received.first() else {
            return Ok(None);
        };
        if !b"REN".contains(&tag) {
            return Err(Failure::Unclear);
        }
        let header = Header::parse(&self.received).map_err(|_| Failure::Unclear)?;
        let Some(length) = header.map(|header| header.len() as usize + 1) else {
            return Ok(None);
        };
        if length > MOST {
            return Err(Failure::Unclear);
        }
        if self.received.len() < length {
            return Ok(None);
        }
        let bytes = self.received.split_to(length).freeze();
        let message = Message::parse(&mut BytesMut::from(&bytes[..]));
        let message = message.ok().flatten().ok_or(Failure::Unclear)?;
        Ok(Some(Received { message, bytes }))
    }
}
