//! The driver at the other end of a local connection.

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::wire::Names;

/// A stream of the operating system.
pub(super) type Socket = Box<dyn Stream>;

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

/// A driver, with what it has sent and what it is sent.
pub(super) struct Peer {
    pub(super) socket: Socket,
    /// What it has sent and was not processed.
    pub(super) up: BytesMut,
    /// What it has yet to be sent.
    pub(super) down: BytesMut,
    /// The names of its prepared statements, between two loans.
    pub(super) names: Names,
    /// It has ended the connection.
    pub(super) has_left: bool,
}

/// The driver has ended the connection, or it has to be ended.
pub(super) struct Closed;

impl Peer {
    pub(super) fn new(socket: Socket) -> Self {
        Peer {
            socket,
            up: BytesMut::new(),
            down: BytesMut::new(),
            names: Names::default(),
            has_left: false,
        }
    }

    /// Reads more. The driver's end of file ends the connection.
    pub(super) async fn read(&mut self) -> Result<(), Closed> {
        match self.socket.read_buf(&mut self.up).await {
            Ok(0) | Err(_) => Err(Closed),
            Ok(_) => Ok(()),
        }
    }

    /// Skips so many bytes of what the driver sends.
    pub(super) async fn skip(&mut self, mut length: usize) -> Result<(), Closed> {
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

    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), Closed> {
        self.down.extend_from_slice(bytes);
        self.flush().await
    }

    pub(super) async fn flush(&mut self) -> Result<(), Closed> {
        let sent = self.socket.write_all_buf(&mut self.down).await;
        sent.map_err(|_| Closed)
    }

    /// Ends our side, and reads until the driver has ended its own: it may have to read an error
    /// before it notices.
    pub(super) async fn linger<T>(&mut self) -> Result<T, Closed> {
        self.flush().await?;
        self.socket.shutdown().await.map_err(|_| Closed)?;
        loop {
            self.up.clear();
            self.read().await?;
        }
    }
}
