//! SIGTERM to the process. All tests of one process would receive it, so this one is alone.

mod common;

use std::process::{self, Command};
use std::time::Duration;

use antifreeze::shutdown;
use antifreeze::teardown::Step;
use common::{PLENTY, lab, two_rows};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// A host's runtime may be through with its last request before the connection of that
/// request is closed.
#[tokio::test]
async fn server_may_end_while_connections_close() {
    let lab = lab().await;
    let (inside, begun) = oneshot::channel();
    let (go_on, told) = oneshot::channel::<()>();
    let work = lab.run(two_rows(inside, told));
    let stop = async {
        begun.await.expect("inside");
        let (end, ended) = oneshot::channel::<()>();
        // So long that it can only end because there is nothing left to wait for.
        let close = lab.database.close().within(Duration::from_secs(3600));
        let mut around = std::pin::pin!(shutdown::around(close, ended));
        let mut terminated = signal(SignalKind::terminate()).expect("a signal");
        assert!(futures_util::poll!(around.as_mut()).is_pending());
        let kill = Command::new("kill").arg(process::id().to_string()).status();
        assert!(kill.expect("kill").success());
        terminated.recv().await;
        // It closes now, and waits for the invocation.
        assert!(futures_util::poll!(around.as_mut()).is_pending());
        let _ = end.send(());
        assert!(futures_util::poll!(around.as_mut()).is_pending());
        let _ = go_on.send(());
        timeout(PLENTY, around).await.expect("an end")
    };
    let (worked, served) = tokio::join!(work, stop);
    worked.expect("committed");
    served.expect("served");
    assert_eq!(lab.rows().await, 2);
    assert!(lab.sessions().await.is_empty());
    assert_eq!(lab.outcome().steps(), [Step::Closed { acknowledged: true }]);
}
