//! What an invocation finds.

use antifreeze::connection;
use serde_json::{Value, json};

use crate::{BoxError, task};

/// What the next invocation sees of the last one, on both its connections.
///
/// What the last one left running may try first what it wants.
pub async fn look() -> Result<Value, BoxError> {
    task::go_on().await;
    let both = [connection().await?, connection().await?];
    let mut seen = Vec::new();
    for connection in &both {
        let row = connection
            .query_one(
                "select current_setting('work_mem') = '7MB', \
                 coalesce(current_setting('app.user', true), '') <> '', \
                 exists (select from pg_listening_channels()), \
                 exists (select from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()), \
                 to_regclass('pg_temp.left_behind') is not null, \
                 pg_current_xact_id_if_assigned() is not null",
                &[],
            )
            .await?;
        let names = [
            "work_mem",
            "app.user",
            "listening",
            "advisory lock",
            "temp table",
            "transaction",
        ];
        for (at, name) in names.into_iter().enumerate() {
            if row.try_get(at)? {
                seen.push(name);
            }
        }
    }
    Ok(json!({ "seen": seen }))
}
