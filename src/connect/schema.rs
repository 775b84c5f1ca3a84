//! Verifies that the server uses the configured schema.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::{Poll, ready};

use futures_util::future::{Either, select};
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::tls::NoTlsStream;

use super::Connector;
use crate::error::{Error, ErrorKind, Result};
use crate::provider::DROPS_OPTIONS;
use crate::wire::Stream;

impl Connector {
    /// Queries, once for a server, whether it has the `search_path` of the configured schema: some
    /// poolers drop the `options` of a startup packet silently, and the rows of another schema
    /// would be read and written. It takes a round trip of the first connection, and none if no
    /// schema is set. What is reported at the start proves nothing: PgBouncer 1.26 reports the
    /// `search_path` that it has dropped.
    ///
    /// The query could be sent with the last message of SCRAM, since it contains nothing of the
    /// user's. Its answer would have to be taken out of what tokio-postgres is given as the
    /// answer to its startup packet: not worth one round trip of one connection of a process.
    pub(super) async fn verify_schema(
        &self,
        client: &tokio_postgres::Client,
        connection: &mut tokio_postgres::Connection<Stream, NoTlsStream>,
    ) -> Result<()> {
        let wanted = self.config.search_path();
        let Some(wanted) = wanted.filter(|_| !self.schema_holds.load(Ordering::Acquire)) else {
            return Ok(());
        };
        // No driver polls the connection yet.
        let ended = poll_fn(|cx| {
            while let Some(Ok(_)) = ready!(connection.poll_message(cx)) {}
            Poll::Ready(())
        });
        let query = pin!(client.simple_query("show search_path"));
        let Either::Left((messages, _)) = select(query, ended).await else {
            let cause = "the server closed the connection when it was asked for its search_path";
            return Err(Error::new(ErrorKind::Closed, cause));
        };
        let holds = messages?.iter().any(|message| match message {
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
