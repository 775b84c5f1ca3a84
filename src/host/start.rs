//! A layer from the environment, with what its host allows before it serves.

use crate::database::Database;
use crate::error::Result;
use crate::layer::DatabaseLayer;

impl DatabaseLayer {
    /// Creates a layer from the environment and prepares it to serve: `DATABASE_URL` and the
    /// other variables of [`Config::from_env`](crate::Config::from_env), then the end of the
    /// process where the host has a hook for it, then [warm-up](Database::warm_up). Await it
    /// once, before the function starts to serve.
    ///
    /// ```no_run
    /// # #[cfg(feature = "lambda")] mod function {
    /// # use lambda_http::{Body, Error, Request, Response};
    /// # async fn answer(_: Request) -> Result<Response<Body>, Error> { unimplemented!() }
    /// # async fn main_() -> Result<(), Error> {
    /// let layer = antifreeze::DatabaseLayer::from_env().await?;
    /// lambda_http::run(tower::ServiceBuilder::new().layer(layer).service_fn(answer)).await
    /// # }
    /// # }
    /// ```
    ///
    /// | host | warm-up | end of the process |
    /// | --- | --- | --- |
    /// | Lambda, with the feature `lambda` | in the init phase | [`shutdown::on_lambda`](crate::shutdown): every connection is closed |
    /// | Lambda, without the feature | in the init phase | nothing; the server's timeouts end the sessions |
    /// | Vercel | before the first request | not included, since only [`shutdown::around`](crate::shutdown::around) the runtime can wait for it: pass it [`layer.database()`](DatabaseLayer::database) |
    /// | a server | before it listens | not included: [`shutdown::signal`](crate::shutdown::signal) |
    ///
    /// The warm-up takes 3 s at most. For another driver, whose [URL](Database::url) is asked
    /// for before the warm-up, a configuration in code, a required warm-up, SnapStart or a
    /// second database, make a [`Database`] and use [`DatabaseLayer::new`].
    ///
    /// # Errors
    ///
    /// Those of [`Database::from_env`]; on Lambda those of
    /// [`shutdown::on_lambda`](crate::shutdown). A database that cannot be reached is no error:
    /// the log has it, and requests are answered with a 503 until it can. `ANTIFREEZE_WARM_UP=0`
    /// opens no connection.
    pub async fn from_env() -> Result<Self> {
        let database = Database::from_env()?;
        #[cfg(feature = "lambda")]
        super::lambda::on_lambda(&database).await?;
        database.warm_up().await?;
        Ok(DatabaseLayer::new(database))
    }
}
