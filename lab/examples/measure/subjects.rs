//! One invocation with one statement on a warm connection, by each candidate.

use std::future::Future;
use std::io::{Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use antifreeze::config::LoadShed;
use antifreeze::{Config, Database, DatabaseLayer, connection};
use bb8_postgres::PostgresConnectionManager;
use bytes::Bytes;
use clap::ValueEnum;
use deadpool_postgres::{Manager, ManagerConfig, RecyclingMethod};
use http::{Request, Response};
use http_body_util::Empty;
use sqlx::Row as _;
use sqlx::postgres::PgPoolOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::{Client, NoTls};
use tower::{Layer, Service, ServiceExt};

use crate::{BoxError, Result};

/// The bare client: every figure is compared with it.
pub const BARE: &str = "bare statement";
pub const LAYER: &str = "antifreeze";
pub const FAST: &str = "deadpool Fast";
/// sqlx's pool at the private socket, inside the layer.
pub const BEHIND: &str = "sqlx behind antifreeze";
const NOTHING: &str = "no statement";

/// What is asked of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Statement {
    /// One row of one integer.
    One,
    /// 250 rows of 20 texts of 200 bytes: a megabyte.
    Wide,
    /// 10,000 rows of one integer.
    Many,
}

impl Statement {
    pub fn text(self) -> &'static str {
        match self {
            Self::One => "select 1",
            Self::Wide => "table wide",
            Self::Many => "table many",
        }
    }

    /// Makes the tables that are read.
    pub fn tables() -> String {
        let columns: Vec<String> = (1..=20).map(|n| format!("repeat('x', 200) c{n}")).collect();
        format!(
            "create table wide as select {} from generate_series(1, 250); \
             create table many as select n from generate_series(1, 10000) n; \
             grant select on wide, many to public",
            columns.join(", ")
        )
    }
}

type Batch = Pin<Box<dyn Future<Output = Result<Duration>> + Send>>;

/// A candidate, ready for batches of invocations.
pub struct Subject {
    pub name: &'static str,
    batch: Box<dyn Fn(u32, Gap) -> Batch>,
}

/// What is between two invocations.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Gap {
    None,
    /// A round trip over loopback, as a runtime asks its host for the next event: whatever woke
    /// for the last invocation sleeps again.
    NextEvent,
}

/// Answers each byte with a byte.
struct Host(TcpStream);

impl Host {
    fn start() -> Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let ours = std::net::TcpStream::connect(listener.local_addr()?)?;
        let (mut theirs, _) = listener.accept()?;
        for socket in [&ours, &theirs] {
            socket.set_nodelay(true)?;
        }
        ours.set_nonblocking(true)?;
        std::thread::spawn(move || {
            let mut byte = [0];
            while theirs.read_exact(&mut byte).is_ok() && theirs.write_all(&byte).is_ok() {}
        });
        Ok(Host(TcpStream::from_std(ours)?))
    }

    async fn next(&mut self) -> Result<()> {
        self.0.write_u8(0).await?;
        self.0.read_u8().await?;
        Ok(())
    }
}

impl Subject {
    /// Calls `service` as a runtime of Lambda does: one service for all requests. Nothing is boxed
    /// for each invocation: that would hide, or add, what futures cost.
    fn new<S>(name: &'static str, service: S) -> Self
    where
        S: Service<Request<()>, Response: Send, Error = BoxError, Future: Send>,
        S: Clone + Send + 'static,
    {
        let batch = move |times, gap| -> Batch {
            let mut service = service.clone();
            Box::pin(async move {
                let mut host = (gap == Gap::NextEvent).then(Host::start).transpose()?;
                let mut took = Duration::ZERO;
                for _ in 0..times {
                    if let Some(host) = &mut host {
                        host.next().await?;
                    }
                    let begin = Instant::now();
                    drop(service.ready().await?.call(request()).await?);
                    took += begin.elapsed();
                }
                Ok(took)
            })
        };
        Self {
            name,
            batch: Box::new(batch),
        }
    }

    /// Runs so many invocations, one after the other, and says how long they took.
    pub fn run(&self, times: u32, gap: Gap) -> Batch {
        (self.batch)(times, gap)
    }
}

/// What a runtime adds to each request.
#[derive(Clone)]
struct HostContext(#[allow(dead_code)] u64);

fn request() -> Request<()> {
    let mut request = Request::new(());
    request.extensions_mut().insert(HostContext(0));
    request
}

fn response() -> Response<Empty<Bytes>> {
    Response::new(Empty::new())
}

async fn read(client: &Client, statement: Statement) -> Result<()> {
    let rows = client.query_typed(statement.text(), &[]).await?;
    // Each row is looked at, none is converted.
    std::hint::black_box(rows.iter().map(tokio_postgres::Row::len).sum::<usize>());
    Ok(())
}

async fn read_by_sqlx(pool: &sqlx::PgPool, statement: Statement) -> Result<()> {
    let rows = sqlx::query(statement.text()).fetch_all(pool).await?;
    std::hint::black_box(rows.iter().map(|row| row.len()).sum::<usize>());
    Ok(())
}

/// The layer around a handler with one statement of sqlx.
fn behind(database: Database, statement: Statement) -> Result<Subject> {
    let options = PgPoolOptions::new().max_connections(1);
    let pool = options.connect_lazy(&database.url()?)?;
    let handler = tower::service_fn(move |_: Request<()>| {
        let pool = pool.clone();
        async move {
            read_by_sqlx(&pool, statement).await?;
            Ok::<_, BoxError>(response())
        }
    });
    let service = DatabaseLayer::new(database).layer(handler);
    Ok(Subject::new(BEHIND, service))
}

/// The layer around a handler with one statement.
fn service(
    database: Database,
    statement: Statement,
) -> impl Service<Request<()>, Response: Send, Error = BoxError, Future: Send> + Clone + Send {
    DatabaseLayer::new(database).layer(tower::service_fn(move |_: Request<()>| async move {
        read(&*connection().await?, statement).await?;
        Ok::<_, BoxError>(response())
    }))
}

/// The sizes of futures in bytes.
pub fn future_sizes() -> Result<[(&'static str, usize); 5]> {
    let database = Database::from_url("postgres://user@localhost/database")?;
    let invocation = database.invocation(Duration::from_secs(1), async {
        read(&*connection().await?, Statement::One).await
    });
    let empty = empty_service(database.clone()).call(Request::new(()));
    let call = service(database.clone(), Statement::One).call(Request::new(()));
    let alone =
        size_of_output(|client: Arc<Client>| async move { read(&client, Statement::One).await });
    Ok([
        ("the layer's call without a statement", size_of_val(&empty)),
        ("the layer's call with a statement", size_of_val(&call)),
        (
            "Database::invocation with a statement",
            size_of_val(&invocation),
        ),
        ("connection()", size_of_val(&connection())),
        ("the statement alone", alone),
    ])
}

/// The size of what a function returns, which is not called.
fn size_of_output<A, F>(_: impl Fn(A) -> F) -> usize {
    size_of::<F>()
}

/// The candidates of these names, or all: only what they take is connected.
/// With the URL of a role that may not connect, also those that are turned away.
pub async fn subjects(
    url: &str,
    full: Option<&str>,
    statement: Statement,
    names: &[String],
) -> Result<Vec<Subject>> {
    let wanted = |name: &str| names.is_empty() || names.iter().any(|wanted| wanted == name);
    let mut subjects = Vec::new();
    if wanted(BARE) {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        tokio::spawn(connection);
        let client = Arc::new(client);
        subjects.push(handler(BARE, move || {
            let client = client.clone();
            async move { read(&client, statement).await }
        }));
    }
    if wanted(LAYER) {
        let service = service(Database::from_url(url)?, statement);
        subjects.push(Subject::new(LAYER, service));
    }
    for (name, recycling_method) in [
        (FAST, RecyclingMethod::Fast),
        ("deadpool Verified", RecyclingMethod::Verified),
    ] {
        if wanted(name) {
            subjects.push(deadpool(name, url, recycling_method, statement)?);
        }
    }
    for (name, checked) in [("bb8 unchecked", false), ("bb8", true)] {
        if wanted(name) {
            let manager = PostgresConnectionManager::new(url.parse()?, NoTls);
            let builder = bb8::Pool::builder().max_size(1).test_on_check_out(checked);
            let pool = builder.build(manager).await?;
            subjects.push(handler(name, move || {
                let pool = pool.clone();
                async move { read(&*pool.get_owned().await?, statement).await }
            }));
        }
    }
    if wanted("sqlx") {
        let pool = PgPoolOptions::new().max_connections(1).connect(url).await?;
        subjects.push(handler("sqlx", move || {
            let pool = pool.clone();
            async move { read_by_sqlx(&pool, statement).await }
        }));
    }
    if wanted(BEHIND) {
        subjects.push(behind(Database::from_url(url)?, statement)?);
    }
    if let (Some(full), Statement::One) = (full, statement) {
        if wanted(NOTHING) {
            let service = empty_service(Database::from_url(url)?);
            subjects.push(Subject::new(NOTHING, service));
        }
        for (name, load_shed) in [
            ("refused, first use", LoadShed::FirstUse),
            ("refused, no handler", LoadShed::BeforeHandler),
        ] {
            if wanted(name) {
                subjects.push(turned_away(name, full, load_shed).await?);
            }
        }
    }
    Ok(subjects)
}

fn deadpool(
    name: &'static str,
    url: &str,
    recycling_method: RecyclingMethod,
    statement: Statement,
) -> Result<Subject> {
    let manager = Manager::from_config(url.parse()?, NoTls, ManagerConfig { recycling_method });
    let pool = deadpool_postgres::Pool::builder(manager)
        .max_size(1)
        .build()?;
    Ok(handler(name, move || {
        let pool = pool.clone();
        async move { read(&*pool.get().await?, statement).await }
    }))
}

/// A handler without the layer.
fn handler<F>(name: &'static str, read: impl Fn() -> F + Clone + Send + 'static) -> Subject
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let service = tower::service_fn(move |_: Request<()>| {
        let read = read();
        async move {
            read.await?;
            Ok::<_, BoxError>(response())
        }
    });
    Subject::new(name, service)
}

/// The layer around a handler without a statement.
fn empty_service(
    database: Database,
) -> impl Service<Request<()>, Response: Send, Error = BoxError, Future: Send> + Clone + Send {
    DatabaseLayer::new(database).layer(tower::service_fn(async |_: Request<()>| {
        Ok::<_, BoxError>(response())
    }))
}

/// The server has refused, and there is no time for the next try.
async fn turned_away(name: &'static str, full: &str, load_shed: LoadShed) -> Result<Subject> {
    let database = Database::new(Config::from_url(full)?.load_shed(load_shed))?;
    let refused = database.invocation(Duration::from_millis(100), async {
        connection().await.map(drop)
    });
    if refused.await.is_ok() {
        return Err("the server has a connection for a role that may have none".into());
    }
    let layer = DatabaseLayer::new(database).max_duration(Duration::ZERO);
    let service = layer.layer(tower::service_fn(async |_: Request<()>| {
        Ok::<_, BoxError>(match connection().await {
            Ok(_) => response(),
            Err(error) => Response::<Bytes>::from(&error).map(|_| Empty::new()),
        })
    }));
    let service =
        service.map_result(
            |answer: Result<Response<_>>| match answer?.status().as_u16() {
                503 => Ok(()),
                status => Err(BoxError::from(format!("expected 503, got {status}"))),
            },
        );
    Ok(Subject::new(name, service))
}
