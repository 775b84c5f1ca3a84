//! Bodies that read from the database after the head of the response has left.

use std::future::pending;
use std::iter::empty;

use antifreeze::{Connection, connection, invocation};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::unfold;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;

use crate::BoxError;
use crate::ending::begin;

pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// How many rows a body reads before it ends as it was told to.
const ROWS: usize = 100;

/// A body of one piece.
pub fn whole(text: String) -> Body {
    Full::from(text)
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A body that reads rows inside a transaction that nobody ends, one at a time.
pub async fn stream(ending: &str) -> Result<Body, BoxError> {
    let ending = ending.to_owned();
    let connection = connection().await?;
    begin(&connection).await?;
    let rows = unfold((connection, 0), move |(connection, at)| {
        let ending = ending.clone();
        async move {
            let frame = next(&connection, &ending, at).await?;
            Some((frame, (connection, at + 1)))
        }
    });
    Ok(invocation()?.stream(StreamBody::new(rows).boxed_unsync()))
}

async fn next(
    connection: &Connection,
    ending: &str,
    at: usize,
) -> Option<Result<Frame<Bytes>, BoxError>> {
    match ending {
        "returns" if at == ROWS => return None,
        "fails" if at == ROWS => return Some(Err("a failure".into())),
        "panics" if at == ROWS => panic!("as it was asked to"),
        "is_too_slow" if at == ROWS => pending().await,
        "half_read" if at == ROWS => {
            let endless = "select repeat('x', 1000) from pg_class a, pg_class b, pg_class c";
            let rows = connection.query_raw(endless, empty::<i32>()).await.ok()?;
            let mut rows = Box::pin(rows);
            rows.next().await;
            return None;
        }
        _ => {}
    }
    let row = connection.query_one("select 'row '::text", &[]).await;
    let text = row.map(|row| Bytes::from(row.get::<_, String>(0)));
    Some(text.map(Frame::data).map_err(Into::into))
}
