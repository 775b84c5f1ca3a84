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
    let mut transport = connector.redial(target).await?;
    let mut message = bytes::BytesMut::with_capacity(16);
    postgres_protocol::message::frontend::cancel_request(process, secret, &mut message);
    let exchange = async {
        transport.write_all(&message).await?;
        transport.flush().await?;
        let mut answer = [0; 64];
        while transport.read(&mut answer).await? > 0 {}
        io::Result::Ok(())
    };
    match exchange.await {
        Ok(()) => Ok(()),
        // The server closes without an alert, which is an error in TLS. A reset is not an
        // answer: a middlebox may have sent it.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
        Err(error) => {
            let message = "the CancelRequest could not be sent";
            Err(Error::new(ErrorKind::Unreachable, message).with_source(error))
        }
    }
}
