//! The entry of the fuzz target.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};

use super::Bridge;
use super::local::serve;
use crate::config::Config;
use crate::database::Database;

/// A driver that sends these bytes, some at a time, and then ends the connection.
struct Driver {
    bytes: Vec<u8>,
    chunk: usize,
    answers: Arc<Mutex<Vec<u8>>>,
}

/// Serves a driver outside any invocation, at a server that cannot be reached. Returns what it
/// was answered.
pub fn answers(bytes: &[u8], chunk: usize) -> Vec<u8> {
    static SERVED: OnceLock<(Runtime, Database, Arc<Bridge>)> = OnceLock::new();
    let (runtime, _, bridge) = SERVED.get_or_init(|| {
        let url = "postgres://app@127.0.0.1:1/shop?sslmode=disable&connect_timeout=1";
        let config = Config::from_url(url).expect("a URL");
        let database = Database::new(config).expect("settings");
        let bridge = Bridge::of(database.engine()).expect("a socket");
        bridge
            .state()
            .reported
            .insert(Vec::new(), bytes::Bytes::new());
        let runtime = Builder::new_current_thread().enable_all().build();
        (runtime.expect("a runtime"), database, bridge)
    });
    let answers = Arc::default();
    let driver = Driver {
        bytes: bytes.to_vec(),
        chunk,
        answers: Arc::clone(&answers),
    };
    runtime.block_on(serve(Arc::clone(bridge), Box::new(driver)));
    let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::take(&mut *answers)
}

impl AsyncRead for Driver {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let now = self.chunk.min(self.bytes.len()).min(buf.remaining());
        let now: Vec<_> = self.bytes.drain(..now).collect();
        buf.put_slice(&now);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Driver {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
