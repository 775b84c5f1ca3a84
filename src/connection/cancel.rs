//! Sends CancelRequest (manual, "Canceling Requests in Progress").

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::connect::{Connector, Target};
use crate::error::{Error, ErrorKind, Result};

/// Sends the request over a connection of its own and waits until the server has
/// closed that: only then has it passed the signal on, and cannot cancel a later
/// statement. Our own side stays open until then: behind PgBouncer a half-closed one
/// loses the request.
pub(super) async fn request(
    connector: &Connector,
    target: &Target,
    (process, secret): (i32, i32),
) -> Result<()> {
    let lost = |error: io::Error| {
        Error::new(
            ErrorKind::Unreachable,
            "the CancelRequest could not be sent",
        )
        .with_source(error)
    };
    let mut transport = connector.redial(target).await?;
    let mut message = bytes::BytesMut::with_capacity(16);
    postgres_protocol::message::frontend::cancel_request(process, secret, &mut message);
    transport.write_all(&message).await.map_err(lost)?;
    transport.flush().await.map_err(lost)?;
    let mut answer = [0; 64];
    loop {
        match transport.read(&mut answer).await {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            // The server closes without an alert, which is an error in TLS. A reset is not an
            // answer: a middlebox may have sent it.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(lost(error)),
        }
    }
}
