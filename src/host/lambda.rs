//! Shutdown and SnapStart on Lambda.

use std::sync::Arc;

#[cfg(unix)]
use futures_util::future::join_all;
use lambda_runtime::SnapStartResource;
use tokio::sync::OnceCell;

use crate::database::Database;
#[cfg(unix)]
use crate::error::Error;
use crate::error::Result;
use crate::lifecycle::SnapStart;
use crate::lock::Mutex;

/// The databases that are closed at the end of the process.
static DATABASES: Mutex<Vec<Database>> = Mutex::new(Vec::new());

/// Closes every connection when Lambda ends the environment, within the 300 ms that it grants
/// after SIGTERM. Await it before the function starts to serve.
///
/// Lambda sends SIGTERM only to a function with an extension. So this registers an internal one,
/// with [`lambda_runtime::spawn_graceful_shutdown_handler`]; the process exits when the
/// connections are closed. A function that registers its own extension awaits [`Database::close`]
/// there instead. Call it once for each database.
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
/// [`Configuration`](crate::ErrorKind::Configuration) if the extension cannot be registered: it
/// exists already, or the function serves already. Outside Lambda, where `AWS_LAMBDA_RUNTIME_API`
/// is not set, and on Vercel, this does nothing.
pub async fn on_lambda(database: &Database) -> Result<()> {
    static REGISTERED: OnceCell<()> = OnceCell::const_new();
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if !set("AWS_LAMBDA_RUNTIME_API") || set("VERCEL") {
        return Ok(());
    }
    databases().push(database.clone());
    // An emulator on Windows ends its functions without a signal.
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
        // A failure there is a panic.
        let registered = tokio::spawn(lambda_runtime::spawn_graceful_shutdown_handler(hook));
        registered.await.map_err(|_| {
            Error::configuration(
                "the extension that hears of the function's end cannot be registered: call \
                 shutdown::on_lambda or DatabaseLayer::from_env once, before the function starts to \
                 serve; where spawn_graceful_shutdown_handler is in use already, make the layer with \
                 DatabaseLayer::new and await Database::close in that handler",
            )
        })
    };
    REGISTERED.get_or_try_init(register).await.map(|_| ())
}

fn databases() -> std::sync::MutexGuard<'static, Vec<Database>> {
    DATABASES.lock()
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
    Arc::new(SnapStart(Arc::clone(database.engine())))
}
