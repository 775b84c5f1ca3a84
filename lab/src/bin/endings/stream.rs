//! Bodies that read from the database after the head of the response has left.

use std::future::pending;
use std::iter::empty;

use antifreeze::{Connection, connection, invocation, transaction};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::unfold;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;

use crate::BoxError;
use crate::ending::{ENDLESS, begin};

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
    if ending == "transaction" {
        return transaction_refused();
    }
    let ending = ending.to_owned();
    let connection = connection().await?;
    begin(&connection).await?;
    match ending.as_str() {
        "rows" => return rows(connection).await,
        "busy" => return busy(connection).await,
        "cancels" => {
            // By a token whose connection the layer is about to bring to rest.
            let token = connection.cancel_token();
            drop(connection);
            invocation()?.spawn(async move { token.cancel().await });
            return Ok(invocation()?
                .stream(whole("cancelled".into()))
                .boxed_unsync());
        }
        _ => {}
    }
    let rows = unfold((connection, 0), move |(connection, at)| {
        let ending = ending.clone();
        async move {
            let frame = next(&connection, &ending, at).await?;
            Some((frame, (connection, at + 1)))
        }
    });
    Ok(invocation()?.stream(StreamBody::new(rows)).boxed_unsync())
}

/// A body that asks for the transaction of the invocation, which is decided by then, and
/// stores a row by itself once it is refused.
fn transaction_refused() -> Result<Body, BoxError> {
    let refused = async {
        let error = transaction().await.err().ok_or("it was not refused")?;
        let connection = connection().await?;
        connection.execute("insert into t values (1)", &[]).await?;
        Ok(Frame::data(error.to_string().into()))
    };
    let refused = futures_util::stream::once(refused);
    Ok(invocation()?
        .stream(StreamBody::new(refused))
        .boxed_unsync())
}

/// All rows of one statement, of which the server has begun to send the first.
async fn rows(connection: Connection) -> Result<Body, BoxError> {
    let mut rows = Box::pin(connection.query_raw(ENDLESS, empty::<i32>()).await?);
    rows.next().await.transpose()?;
    let rows = unfold((connection, rows), async |(connection, mut rows)| {
        let row = rows.next().await?;
        let frame = row.map(|row| Frame::data(Bytes::from(row.get::<_, String>(0))));
        Some((frame.map_err(Into::into), (connection, rows)))
    });
    Ok(invocation()?.stream(StreamBody::new(rows)).boxed_unsync())
}

/// A body that waits for a statement, which is under way already.
async fn busy(connection: Connection) -> Result<Body, BoxError> {
    let mut busy = Box::pin(async move {
        connection.batch_execute("select pg_sleep(600)").await?;
        Ok(Frame::data(Bytes::new()))
    });
    let early = futures_util::poll!(busy.as_mut()).is_ready();
    assert!(!early, "it takes longer");
    let busy = futures_util::stream::once(busy);
    Ok(invocation()?.stream(StreamBody::new(busy)).boxed_unsync())
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
            let rows = connection.query_raw(ENDLESS, empty::<i32>()).await.ok()?;
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
