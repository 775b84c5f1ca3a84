//! Shutdown and SnapStart on Lambda.

use std::sync::{Arc, Mutex, PoisonError};

#[cfg(unix)]
use futures_util::future::join_all;
use lambda_runtime::SnapStartResource;
use tokio::sync::OnceCell;

use crate::database::Database;
#[cfg(unix)]
use crate::error::Error;
use crate::error::Result;
use crate::lifecycle::Snapshot;

/// The databases of this process that are closed at its end.
static DATABASES: Mutex<Vec<Database>> = Mutex::new(Vec::new());

/// Closes every connection when Lambda ends the environment: within 300 ms of SIGTERM, as
/// long as it waits. Await it before the function starts to serve.
///
/// Without an extension Lambda sends no SIGTERM at all. So an internal one is registered,
/// that of [`lambda_runtime::spawn_graceful_shutdown_handler`]; the process exits when the
/// connections are closed. A function that registers its own awaits [`Database::close`] in
/// it instead. For several databases, a line each.
///
/// ```no_run
/// # async fn main_() -> Result<(), antifreeze::Error> {
/// let database = antifreeze::Database::from_env()?;
/// antifreeze::shutdown::on_lambda(&database).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`Configuration`](crate::ErrorKind::Configuration) if the extension cannot be
/// registered: it is there already, or the function has begun to serve. Outside Lambda,
/// where there is no `AWS_LAMBDA_RUNTIME_API`, nothing is done.
pub async fn on_lambda(database: &Database) -> Result<()> {
    static REGISTERED: OnceCell<()> = OnceCell::const_new();
    if std::env::var_os("AWS_LAMBDA_RUNTIME_API").is_none() {
        return Ok(());
    }
    databases().push(database.clone());
    // An emulator on Windows ends its functions without a word.
    #[cfg(not(unix))]
    let register = async || Ok(());
    #[cfg(unix)]
    let register = async || {
        let hook = || async {
            let databases = databases().clone();
            join_all(
                databases
                    .iter()
                    .map(|database| database.close().into_future()),
            )
            .await;
        };
        // It panics where it fails.
        let registered = tokio::spawn(lambda_runtime::spawn_graceful_shutdown_handler(hook));
        registered.await.map_err(|_| {
            Error::configuration(
                "the extension that hears of the function's end cannot be registered: call \
                 shutdown::on_lambda once, before the function starts to serve, and where \
                 spawn_graceful_shutdown_handler is in use already, await Database::close in it",
            )
        })
    };
    REGISTERED.get_or_try_init(register).await.map(|_| ())
}

fn databases() -> std::sync::MutexGuard<'static, Vec<Database>> {
    DATABASES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For SnapStart, to be [registered](lambda_runtime::Runtime::register_snapstart_resource):
/// before the snapshot every connection is closed, and what was fetched or negotiated is
/// forgotten (secrets, tokens, TLS sessions), so that no two environments share it; after
/// the restore connections are opened again, as [`Database::warm_up`] does.
///
/// What the program itself was given stays in the snapshot: the environment, the URL, keys
/// and passwords in code. So does the order of hosts that `load_balance_hosts=random` drew.
///
/// ```no_run
/// # async fn handler(_: lambda_http::Request) -> Result<lambda_http::Response<lambda_http::Body>, lambda_http::Error> { unimplemented!() }
/// # async fn main_() -> Result<(), lambda_http::Error> {
/// let database = antifreeze::Database::from_env()?;
/// database.warm_up().await?;
/// # let service = lambda_http::service_fn(handler);
/// lambda_http::runtime(service)
///     .register_snapstart_resource(antifreeze::shutdown::snapstart(&database))
///     .run()
///     .await
/// # }
/// ```
///
/// # Errors
///
/// The second hook fails if `ANTIFREEZE_WARM_UP` is no number; a database that is down after
/// the restore is no failure.
pub fn snapstart(database: &Database) -> Arc<dyn SnapStartResource> {
    Arc::new(Snapshot(Arc::clone(database.engine())))
}
