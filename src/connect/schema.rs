//! Verifies that the server uses the configured schema.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use futures_util::future::{Either, select};
use tokio_postgres::SimpleQueryMessage;

use super::Connector;
use crate::error::{Error, ErrorKind, Result};
use crate::provider::DROPS_OPTIONS;
use crate::wire::Stream;

impl Connector {
    /// Asks a server, once, whether it has the `search_path` of the configured schema: some
    /// poolers drop the `options` of a start-up packet in silence, and the rows of another
    /// schema would be read and written. It takes a round trip of the first connection, and
    /// nothing where no schema is set.
    pub(super) async fn prove_schema(
        &self,
        client: &tokio_postgres::Client,
        connection: &mut tokio_postgres::Connection<Stream, Stream>,
    ) -> Result<()> {
        let Some(wanted) = self.config.search_path() else {
            return Ok(());
        };
        if self.schema_holds.load(Ordering::Acquire) {
            return Ok(());
        }
        // It is not driven yet.
        let driven = poll_fn(|cx| poll_to_the_end(connection, cx));
        let asked = pin!(client.simple_query("show search_path"));
        let said = match select(asked, driven).await {
            Either::Left((said, _)) => said?,
            Either::Right(_) => {
                let hung_up = "the server hung up when it was asked for its search_path";
                return Err(Error::new(ErrorKind::Closed, hung_up));
            }
        };
        let holds = said.iter().any(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0) == Some(wanted.as_str()),
            _ => false,
        });
        if !holds {
            let (cause, remedy) = DROPS_OPTIONS;
            return Err(Error::configuration(cause).with_remedy(remedy));
        }
        self.schema_holds.store(true, Ordering::Release);
        Ok(())
    }
}

/// Drives a connection: ready when it has ended.
fn poll_to_the_end(
    connection: &mut tokio_postgres::Connection<Stream, Stream>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    while let Some(Ok(_)) = ready!(connection.poll_message(cx)) {}
    Poll::Ready(())
}
