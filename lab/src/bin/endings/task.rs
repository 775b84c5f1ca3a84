//! Tasks that keep a lease longer than their invocation lasts.

use std::future::{Future, pending};
use std::pin::{Pin, pin};
use std::sync::{Mutex, MutexGuard, PoisonError};

use antifreeze::Connection;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::BoxError;
use crate::ending::begin;

/// The tasks that wait for the next invocation: how they are told to go on, and how
/// they tell that they have.
static WAITING: Mutex<Waiting> = Mutex::new(Vec::new());

type Waiting = Vec<(oneshot::Sender<()>, oneshot::Receiver<()>)>;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Starts a task that begins a transaction, goes on with a statement, and is still
/// inside it when this returns.
pub async fn keep(
    connection: Connection,
    then: Option<&'static str>,
    start: fn(Task),
) -> Result<(), BoxError> {
    let (begun, beginning) = oneshot::channel();
    let (go, told) = oneshot::channel();
    let (done, gone_on) = oneshot::channel();
    start(Box::pin(async move {
        if begin(&connection).await.is_err() {
            return;
        }
        if let Some(statement) = then {
            let mut busy = pin!(connection.batch_execute(statement));
            // It is on its way now.
            let early = futures_util::poll!(busy.as_mut()).is_ready();
            if early || begun.send(()).is_err() {
                return;
            }
            let _ = busy.await;
        } else if begun.send(()).is_err() {
            return;
        }
        // What it does next comes with the thaw.
        let _ = told.await;
        let _ = connection
            .batch_execute("begin; insert into t values (3)")
            .await;
        let _ = done.send(());
        // It never lets go.
        pending::<()>().await;
    }));
    beginning.await?;
    waiting().push((go, gone_on));
    Ok(())
}

/// On the runtime.
pub fn spawn(task: Task) {
    tokio::spawn(task);
}

/// On one of the threads for blocking work.
pub fn spawn_blocking(task: Task) {
    tokio::task::spawn_blocking(|| Handle::current().block_on(task));
}

/// Lets the tasks of the last invocation go on, and waits until they have done what
/// they wanted.
pub async fn go_on() {
    let waiting = std::mem::take(&mut *waiting());
    for (go, gone_on) in waiting {
        let _ = go.send(());
        let _ = gone_on.await;
    }
}

fn waiting() -> MutexGuard<'static, Waiting> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}
