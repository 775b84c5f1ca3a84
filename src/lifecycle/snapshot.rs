//! Closes connections before a Lambda snapshot (SnapStart), and warms up after the restore.

use std::sync::Arc;
use std::time::Duration;

use lambda_runtime::{BoxFuture, Error, SnapStartResource};

use super::close::Close;
use super::warm_up::WarmUp;
use crate::engine::Engine;

/// How long closing may take before a snapshot. No request is served meanwhile.
const BEFORE_SNAPSHOT: Duration = Duration::from_secs(3);

/// Closes and forgets before the snapshot, and warms up after the restore.
pub(crate) struct Snapshot(pub(crate) Arc<Engine>);

impl SnapStartResource for Snapshot {
    fn before_snapshot(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async {
            let close = Close::new(Arc::clone(&self.0));
            close.within(BEFORE_SNAPSHOT).await;
            self.0.pools().connector.forget();
            Ok(())
        })
    }

    fn after_restore(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async {
            self.0.pools().reopen();
            WarmUp::new(Arc::clone(&self.0)).await?;
            Ok(())
        })
    }
}
