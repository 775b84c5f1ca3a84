//! Looks at the function's sessions over and over.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lab::fleet::ROLE;
use tokio::task::AbortHandle;
use tokio_postgres::{Client, Error, NoTls};

const INTERVAL: Duration = Duration::from_millis(20);

/// What was seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// The most sessions at once.
    pub most: i64,
    /// The time that sessions were idle in a transaction, added up.
    pub idle_in_transaction: Duration,
}

/// Samples until it is dropped.
pub struct Sampler {
    seen: Arc<Mutex<Seen>>,
    task: AbortHandle,
}

impl Sampler {
    /// `url` is that of a superuser: some slots are reserved for superusers.
    pub fn start(url: String) -> Sampler {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let task = tokio::spawn(sample(url, Arc::clone(&seen))).abort_handle();
        Sampler { seen, task }
    }

    /// What was seen since this was last asked.
    pub fn take(&self) -> Seen {
        std::mem::take(&mut *lock(&self.seen))
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn sample(url: String, seen: Arc<Mutex<Seen>>) {
    loop {
        // The server may be restarted.
        if let Ok((client, connection)) = tokio_postgres::connect(&url, NoTls).await {
            let driver = tokio::spawn(connection);
            let _ = sample_with(&client, &seen).await;
            driver.abort();
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn sample_with(client: &Client, seen: &Mutex<Seen>) -> Result<(), Error> {
    let count = format!(
        "select count(*), count(*) filter (where state like 'idle in transaction%') \
         from pg_stat_activity where usename = '{ROLE}' and backend_type = 'client backend'"
    );
    let count = client.prepare(&count).await?;
    let mut last = Instant::now();
    loop {
        let row = client.query_one(&count, &[]).await?;
        let (now, stuck): (Instant, i64) = (Instant::now(), row.get(1));
        {
            let mut seen = lock(seen);
            seen.most = seen.most.max(row.get(0));
            seen.idle_in_transaction += (now - last) * stuck as u32;
        }
        last = now;
        tokio::time::sleep(INTERVAL).await;
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
