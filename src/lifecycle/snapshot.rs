//! Closes connections before a Lambda snapshot (SnapStart), and warms up after the restore.

use std::sync::Arc;
use std::time::Duration;

use lambda_runtime::{BoxFuture, Error, SnapStartResource};

use super::close::Close;
use super::warm_up::WarmUp;
use crate::engine::Engine;

/// The time limit for closing before a snapshot, while no request is served.
const BEFORE_SNAPSHOT: Duration = Duration::from_secs(3);

/// Closes connections and discards secrets before the snapshot, and warms up after the restore.
pub(crate) struct SnapStart(pub(crate) Arc<Engine>);

impl SnapStartResource for SnapStart {
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
