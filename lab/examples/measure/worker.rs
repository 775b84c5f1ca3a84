//! One process of a measurement, so that it can be pinned to a core, traced and simulated.
//!
//! It prints its result as one line of JSON.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use antifreeze::{Database, connection};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use crate::statistics::process_cpu;
use crate::subjects::{Gap, Statement, subjects};
use crate::{ALLOCATOR, BoxError, Result};

/// What a worker does.
#[derive(Args)]
pub struct Work {
    #[arg(value_enum)]
    task: Task,
    #[arg(long)]
    url: String,
    /// The URL of a role that may not connect
    #[arg(long)]
    full: Option<String>,
    #[arg(long, value_enum, default_value = "one")]
    statement: Statement,
    #[arg(long, value_enum, default_value = "current-thread")]
    regime: Regime,
    /// A candidate; without any, all
    #[arg(long)]
    only: Vec<String>,
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// Invocations one after the other
    #[arg(long)]
    batch: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Task {
    /// Nanoseconds of an invocation, for each candidate in each round
    Time,
    /// Runs a batch of one candidate, for tools that watch from outside
    Run,
    /// The same, and counts allocations and CPU time
    Count,
    /// How many clean teardowns had to wait for the connection
    Teardowns,
}

/// Where the handler runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Regime {
    CurrentThread,
    /// On a worker of a multi-thread runtime
    Worker,
    /// On the thread that calls `block_on` of a multi-thread runtime
    BlockOn,
}

impl Regime {
    pub const ALL: [Self; 3] = [Self::CurrentThread, Self::Worker, Self::BlockOn];

    fn runtime(self) -> Result<Runtime> {
        let mut builder = match self {
            Self::CurrentThread => Builder::new_current_thread(),
            _ => Builder::new_multi_thread(),
        };
        // As many as the smallest Lambda has cores, wherever this is pinned to.
        Ok(builder.worker_threads(2).enable_all().build()?)
    }

    fn run<T: Send + 'static>(
        self,
        runtime: &Runtime,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        match self {
            Self::Worker => runtime.block_on(async { tokio::spawn(work).await? }),
            _ => runtime.block_on(work),
        }
    }
}

pub fn run(work: &Work) -> Result<()> {
    let runtime = work.regime.runtime()?;
    let result = match work.task {
        Task::Time => time(work, &runtime)?,
        Task::Run => batch(work, &runtime, || json!(null))?.1,
        Task::Count => count(work, &runtime)?,
        Task::Teardowns => teardowns(work, &runtime)?,
    };
    println!("{result}");
    Ok(())
}

/// Every candidate has its turn in every round.
fn time(work: &Work, runtime: &Runtime) -> Result<Value> {
    let full = work.full.as_deref();
    let subjects = subjects(&work.url, full, work.statement, &work.only);
    let mut subjects = runtime.block_on(subjects)?;
    let mut samples = BTreeMap::<&str, Vec<f64>>::new();
    for round in 0..=work.rounds {
        for subject in &subjects {
            let took = work
                .regime
                .run(runtime, subject.run(work.batch, Gap::NextEvent))?;
            // In the first round connections are opened and caches filled.
            if round > 0 {
                let nanoseconds = took.as_nanos() as f64 / f64::from(work.batch);
                samples.entry(subject.name).or_default().push(nanoseconds);
            }
        }
        // Forwards and backwards in turn: none always follows the same other.
        subjects.reverse();
    }
    Ok(json!(samples))
}

/// Runs a batch of one candidate between two looks, once it is warm.
fn batch<T>(work: &Work, runtime: &Runtime, look: impl Fn() -> T) -> Result<(T, T)> {
    let subjects = subjects(&work.url, None, work.statement, &work.only);
    let subjects = runtime.block_on(subjects)?;
    let [subject] = subjects.as_slice() else {
        return Err("a batch is of one candidate: name it with --only".into());
    };
    let warm = if work.statement == Statement::One {
        20
    } else {
        2
    };
    work.regime.run(runtime, subject.run(warm, Gap::None))?;
    let before = look();
    work.regime
        .run(runtime, subject.run(work.batch, Gap::None))?;
    Ok((before, look()))
}

fn count(work: &Work, runtime: &Runtime) -> Result<Value> {
    let look = || (ALLOCATOR.stats(), process_cpu());
    let ((before, cpu_before), (after, cpu_after)) = batch(work, runtime, look)?;
    let (change, cpu) = (after - before, cpu_after - cpu_before);
    let each = |count: f64| count / f64::from(work.batch);
    Ok(json!({
        "allocations": each((change.allocations + change.reallocations) as f64),
        "allocated_bytes": each(change.bytes_allocated as f64),
        "cpu_microseconds": each(cpu.as_secs_f64() * 1e6),
    }))
}

/// A teardown that finds the connection at rest takes no time; any other waits.
fn teardowns(work: &Work, runtime: &Runtime) -> Result<Value> {
    let (all, waited) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let database = Database::from_url(&work.url)?.on_teardown({
        let (all, waited) = (Arc::clone(&all), Arc::clone(&waited));
        move |teardown| {
            all.fetch_add(1, Ordering::Relaxed);
            waited.fetch_add(u64::from(!teardown.elapsed.is_zero()), Ordering::Relaxed);
        }
    });
    let batch = work.batch;
    work.regime.run(runtime, async move {
        for _ in 0..batch {
            let one = async {
                let client = connection().await?;
                client.query_typed_one(Statement::One.text(), &[]).await?;
                Ok::<_, BoxError>(())
            };
            database.invocation(Duration::from_secs(10), one).await?;
        }
        Ok(())
    })?;
    Ok(json!({
        "teardowns": all.load(Ordering::Relaxed),
        "waited": waited.load(Ordering::Relaxed),
    }))
}
