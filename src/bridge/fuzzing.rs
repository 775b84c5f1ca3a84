//! The entry of the fuzz target.

use std::sync::{Arc, OnceLock};

use futures_util::future::join3;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex, split};
use tokio::runtime::{Builder, Runtime};

use super::Bridge;
use super::local::serve;
use crate::config::Config;
use crate::database::Database;

/// Serves a driver that sends these bytes, some at a time, outside any invocation, at a server that
/// cannot be reached. Returns what it was answered.
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
    let (driver, socket) = duplex(chunk);
    let (mut reads, mut writes) = split(driver);
    let mut answers = Vec::new();
    runtime.block_on(async {
        let sends = async {
            // It may have been refused before.
            let _ = writes.write_all(bytes).await;
            let _ = writes.shutdown().await;
        };
        let serves = serve(Arc::clone(bridge), Box::new(socket));
        let _ = join3(serves, sends, reads.read_to_end(&mut answers)).await;
    });
    answers
}
