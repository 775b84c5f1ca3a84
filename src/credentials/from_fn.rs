//! Makes a credentials provider from a closure.

use std::fmt;
use std::future::Future;

use super::{Attempt, BoxError, Credentials, Login, LoginFuture};

/// Makes a provider that calls `function` at every connect.
///
/// The function gets an [`Attempt`] and returns a future, whose output is not cached.
///
/// ```
/// use antifreeze::credentials::{self, Login};
///
/// # async fn vault(_: &str) -> Result<String, std::io::Error> { Ok(String::new()) }
/// let config = antifreeze::Config::from_url("postgres://db.example.com/shop")?;
/// let config = config.credentials(credentials::from_fn(|attempt| async move {
///     let password = vault(&attempt.host).await?;
///     Ok(Login::password(password).of_user("app"))
/// }));
/// # Ok::<(), antifreeze::Error>(())
/// ```
pub fn from_fn<F, Fut>(function: F) -> FromFn<F>
where
    F: Fn(Attempt) -> Fut + Send + Sync,
    Fut: Future<Output = Result<Login, BoxError>> + Send + 'static,
{
    FromFn { function }
}

/// The provider that [`from_fn`] makes.
#[derive(Clone, Copy)]
pub struct FromFn<F> {
    function: F,
}

impl<F, Fut> Credentials for FromFn<F>
where
    F: Fn(Attempt) -> Fut + Send + Sync,
    Fut: Future<Output = Result<Login, BoxError>> + Send + 'static,
{
    fn login<'a>(&'a self, attempt: &'a Attempt) -> LoginFuture<'a> {
        Box::pin((self.function)(attempt.clone()))
    }
}

impl<F> fmt::Debug for FromFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromFn").finish_non_exhaustive()
    }
}
