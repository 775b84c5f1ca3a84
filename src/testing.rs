//! Gives each test a database of its own, and checks that a handler leaves nothing open.

use std::ops::Deref;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::sleep;

use crate::config::Config;
use crate::config::startup::quoted;
use crate::database::Database;
use crate::error::Result;
use crate::lock::Mutex;
use crate::random;
use crate::session::Session;
use crate::teardown::Teardown;

/// The number of attempts to copy a template that another test is copying.
const ATTEMPTS: u32 = 100;

/// The time between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// The time to close the session that has dropped the database.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs a test on a database of its own: a copy of the one that `url` names, which is dropped at
/// the end, also if the test panics. Tests can run side by side.
///
/// ```no_run
/// use antifreeze::{Database, DatabaseLayer};
/// use antifreeze::testing::with_database;
/// use tower::{Layer, ServiceExt};
///
/// # async fn create_partner(_: http::Request<()>) -> Result<http::Response<http_body_util::Empty<bytes::Bytes>>, antifreeze::Error> { unimplemented!() }
/// # async fn test() {
/// // The template has the schema: made once, by the migrations.
/// let template = "postgres://postgres@localhost/shop_template?sslmode=disable";
/// with_database(template, async |database| {
///     let service = tower::service_fn(create_partner);
///     let service = DatabaseLayer::new(Database::clone(database)).layer(service);
///     let response = service.oneshot(http::Request::new(())).await.unwrap();
///     assert_eq!(response.status(), 200);
///     database.assert_nothing_left_open();
/// })
/// .await
/// .unwrap();
/// # }
/// ```
///
/// The role needs the right to create databases, and to connect to the database `postgres`. No
/// session may be open in the template (`template1` is one that is empty). A process that is
/// killed, and a test that is dropped before its end, leave their database behind: its name begins
/// with `antifreeze_test_`.
///
/// # Errors
///
/// The settings are not valid, or the database cannot be created or dropped.
///
/// # Panics
///
/// If the test panics, once the database is dropped.
pub async fn with_database<T>(url: &str, test: impl AsyncFnOnce(&TestDatabase) -> T) -> Result<T> {
    let config = Config::from_url(url)?;
    let template = Database::new(config.clone())?;
    let template = template.engine().peer().database.clone();
    let name = format!("antifreeze_test_{:016x}", random::number());
    // Copying a large template takes its time.
    let server = config.clone().dbname("postgres");
    let server = Database::new(server.statement_timeout(Duration::ZERO))?;
    let session = server.session().await?;
    let created = create(&session, &name, &template).await;
    session.close(CLOSE_TIMEOUT).await;
    created?;
    let done = match TestDatabase::new(config.dbname(&name)) {
        Ok(database) => {
            let done = AssertUnwindSafe(test(&database)).catch_unwind().await;
            database.close().await;
            Ok(done)
        }
        Err(error) => Err(error),
    };
    let dropped = drop_database(&server, &name).await;
    match done? {
        Ok(output) => dropped.map(|()| output),
        Err(panic) => resume_unwind(panic),
    }
}

async fn drop_database(server: &Database, name: &str) -> Result<()> {
    // The test may have sessions of its own.
    let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quoted(name));
    // Another session: the test may have taken longer than one may be idle.
    let session = server.session().await?;
    let dropped = session.batch_execute(&drop).await;
    session.close(CLOSE_TIMEOUT).await;
    Ok(dropped?)
}

async fn create(server: &Session, name: &str, template: &str) -> Result<()> {
    let create = format!(
        "CREATE DATABASE {} TEMPLATE {}",
        quoted(name),
        quoted(template)
    );
    for attempt in 1.. {
        match server.batch_execute(&create).await {
            Ok(()) => break,
            // `object_in_use`: another test copies the template.
            Err(error)
                if attempt < ATTEMPTS
                    && error.code().is_some_and(|code| code.code() == "55006") =>
            {
                sleep(PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The database of a test: see [`with_database`]. It derefs to [`Database`].
#[derive(Debug)]
pub struct TestDatabase {
    database: Database,
    torn_down: Arc<Mutex<Vec<Teardown>>>,
}

impl TestDatabase {
    fn new(config: Config) -> Result<Self> {
        let torn_down = Arc::<Mutex<Vec<Teardown>>>::default();
        let seen = Arc::clone(&torn_down);
        let database = Database::new(config)?;
        let database = database.on_teardown(move |teardown| seen.lock().push(teardown.clone()));
        Ok(TestDatabase {
            database,
            torn_down,
        })
    }

    /// Fails the test if, since the last call, an invocation has left a transaction open, a
    /// statement that had to be cancelled, session state, or a connection in use by a task;
    /// names the calls that checked these connections out.
    ///
    /// Teardown has removed it all: this is about the handler. A dropped transaction of
    /// tokio-postgres, which is rolled back, leaves nothing open, nor does the invocation's
    /// [transaction](crate::transaction()) if the response decided against it.
    ///
    /// # Panics
    ///
    /// If something was left open.
    #[track_caller]
    pub fn assert_nothing_left_open(&self) {
        let torn_down = std::mem::take(&mut *self.torn_down.lock());
        let left = torn_down.iter().filter_map(|teardown| {
            let place = teardown.left_open_at.as_deref()?;
            Some(format!("\n  checked out at {place}: {}", teardown.outcome))
        });
        let left: String = left.collect();
        assert!(
            left.is_empty(),
            "connections were left open or in use, and teardown had to act:{left}"
        );
    }
}

impl Deref for TestDatabase {
    type Target = Database;

    fn deref(&self) -> &Database {
        &self.database
    }
}
