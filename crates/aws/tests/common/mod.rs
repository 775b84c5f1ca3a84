//! A database, and the invocations that log in to it.

use std::future::Future;
use std::time::Duration;

use antifreeze::{Config, Database, Error, ErrorKind};

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A time limit for what should take milliseconds, on a loaded machine.
pub const PLENTY: Duration = Duration::from_secs(20);

/// What a test works with.
pub struct Lab {
    pub database: Database,
    pub server: lab::postgres::Database,
}

impl Lab {
    pub fn over(
        server: lab::postgres::Database,
        url: &str,
        change: impl FnOnce(Config) -> Config,
    ) -> Lab {
        let config = change(Config::from_url(url).expect("a URL"));
        Lab {
            database: Database::new(config).expect("settings"),
            server,
        }
    }

    /// Runs `work` as an invocation with plenty of time.
    pub async fn run<T>(
        &self,
        work: impl Future<Output = Result<T, BoxError>>,
    ) -> Result<T, BoxError> {
        self.database.invocation(PLENTY, work).await
    }
}

pub async fn lease_and_return() -> Result<(), BoxError> {
    drop(antifreeze::connection().await?);
    Ok(())
}

/// The kind of the error behind a boxed one.
pub fn kind(error: &BoxError) -> Option<ErrorKind> {
    error.downcast_ref::<Error>().map(Error::kind)
}
