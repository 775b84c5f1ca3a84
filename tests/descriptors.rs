//! File descriptors of closed connections. Tests of one process would count those of each other,
//! so this one is alone.

mod common;

use antifreeze::connection;
use common::{lab, lease_and_return};

const FORGOTTEN: usize = 50;

fn descriptors() -> usize {
    let open = std::fs::read_dir("/proc/self/fd").expect("Linux");
    open.count()
}

#[tokio::test]
async fn forgotten_connections_keep_no_descriptor() {
    let lab = lab().await;
    lab.run(lease_and_return()).await.expect("a connection");
    let before = descriptors();
    for _ in 0..FORGOTTEN {
        lab.run(async {
            std::mem::forget(connection().await?);
            Ok(())
        })
        .await
        .expect("fine");
    }
    let after = descriptors();
    assert!(after < before + FORGOTTEN / 5, "{before}, then {after}");
}
