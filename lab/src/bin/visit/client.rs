//! tokio-postgres without the layer: one client, one for each request, and two pools.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, SystemTime};

use bb8_postgres::PostgresConnectionManager;
use deadpool_postgres::{Manager, ManagerConfig, RecyclingMethod};
use lambda_http::{Context, Error, Request, RequestExt, service_fn};
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

use crate::BoxError;
use crate::failure::answer;
use crate::work::Work;

/// The first pause between two connects, and the longest.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What the statement and the response are left of the function's timeout.
const RESERVE: Duration = Duration::from_millis(500);

/// One client for the life of the process.
pub async fn serve_once() -> Result<(), Error> {
    serve((), |(), request| async move {
        let client = CLIENT.get_or_try_init(async || {
            let (client, _) = connect().await?;
            Ok::<_, BoxError>(client)
        });
        Ok(Work::of(&request).with(client.await?).await?)
    })
    .await
}

static CLIENT: OnceCell<Client> = OnceCell::const_new();

/// A connection for each request, closed before the response.
pub async fn serve_connecting(retry: bool) -> Result<(), Error> {
    serve(retry, |retry, request| async move {
        let (client, driver) = match retry {
            true => connect_until(&request.lambda_context()).await?,
            false => connect().await?,
        };
        let done = Work::of(&request).with(&client).await;
        drop(client);
        // It says goodbye to the server.
        let _ = driver.await;
        Ok(done?)
    })
    .await
}

pub async fn serve_deadpool() -> Result<(), Error> {
    let recycling = ManagerConfig {
        recycling_method: RecyclingMethod::Fast,
    };
    let manager = Manager::from_config(crate::url()?.parse()?, NoTls, recycling);
    let pool = deadpool_postgres::Pool::builder(manager).max_size(1);
    serve(pool.build()?, |pool, request| async move {
        let client = pool.get().await?;
        Ok(Work::of(&request).with(&client).await?)
    })
    .await
}

pub async fn serve_bb8() -> Result<(), Error> {
    let manager = PostgresConnectionManager::new_from_stringlike(crate::url()?, NoTls)?;
    let pool = bb8::Pool::builder().max_size(1).build(manager).await?;
    serve(pool, |pool, request| async move {
        let client = pool.get().await?;
        Ok(Work::of(&request).with(&client).await?)
    })
    .await
}

async fn serve<T, F>(shared: T, handler: impl Fn(T, Request) -> F) -> Result<(), Error>
where
    T: Clone,
    F: Future<Output = Result<i64, BoxError>> + Send,
{
    lambda_http::run(service_fn(move |request| {
        let done = handler(shared.clone(), request);
        async { Ok::<_, Error>(answer(done.await)) }
    }))
    .await
}

async fn connect() -> Result<(Client, JoinHandle<()>), BoxError> {
    let (client, connection) = tokio_postgres::connect(&crate::url()?, NoTls).await?;
    let driver = tokio::spawn(async move {
        // The client learns of it, too.
        let _ = connection.await;
    });
    Ok((client, driver))
}

/// Tries again, with full jitter, as long as the function has time.
async fn connect_until(context: &Context) -> Result<(Client, JoinHandle<()>), BoxError> {
    let mut pause = PAUSE;
    loop {
        let error = match connect().await {
            Ok(connected) => return Ok(connected),
            Err(error) => error,
        };
        let jitter = pause.mul_f64(random());
        if context.deadline() < SystemTime::now() + jitter + RESERVE {
            return Err(error);
        }
        tokio::time::sleep(jitter).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Between 0 and 1, other for each process.
fn random() -> f64 {
    RandomState::new().hash_one(()) as f64 / u64::MAX as f64
}
