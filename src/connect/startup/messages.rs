//! Reads and writes the messages of authentication.

use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::Failure;

/// The length of tag and length.
const HEADER: usize = 5;

/// The longest message: libpq accepts 30,000 bytes of an error at startup, 2,000 of others.
const MOST: usize = 32 * 1024;

/// The most notices that precede the end of authentication, in bytes.
const MOST_NOTICES: usize = 64 * 1024;

/// A message of the server.
#[derive(Debug)]
pub(in crate::connect) struct Message {
    pub(super) tag: u8,
    /// The whole message, header included.
    pub(super) bytes: Bytes,
}

impl Message {
    pub(super) fn body(&self) -> &[u8] {
        &self.bytes[HEADER..]
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
    pub(super) async fn exchange(&mut self, bytes: &[u8]) -> Result<Message, Failure> {
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
    pub(super) async fn receive(&mut self) -> Result<Message, Failure> {
        loop {
            while let Some(message) = self.parse()? {
                if message.tag != b'N' {
                    return Ok(message);
                }
                self.notices.extend_from_slice(&message.bytes);
                if self.notices.len() > MOST_NOTICES {
                    return Err(Failure::Unclear);
                }
            }
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

    fn parse(&mut self) -> Result<Option<Message>, Failure> {
        let Some(&tag) = self.received.first() else {
            return Ok(None);
        };
        if !b"REN".contains(&tag) {
            return Err(Failure::Unclear);
        }
        let mut length = &self.received[1..];
        if length.len() < 4 {
            return Ok(None);
        }
        let length = length.get_u32() as usize;
        if !(4..=MOST).contains(&length) {
            return Err(Failure::Unclear);
        }
        if self.received.len() <= length {
            return Ok(None);
        }
        let bytes = self.received.split_to(length + 1).freeze();
        Ok(Some(Message { tag, bytes }))
    }
}
