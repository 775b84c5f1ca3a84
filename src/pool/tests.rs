//! Runs random steps on a pool, in random order: nothing leaks.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use lab::postgres::{Database, Postgres};
use proptest::prelude::*;
use tokio::runtime;
use tokio::time::{Instant, sleep};

use super::Lease;
use super::pools::{Pool, Pools};
use crate::clock::{Clock, Manual};
use crate::config::Config;
use crate::connect::Connector;
use crate::connection::ExclusiveClient;
use crate::tally::Tally;

const CONNECTIONS: usize = 2;

/// Longer than anything takes.
const PLENTY: Duration = Duration::from_secs(20);

#[derive(Debug, Clone)]
enum Step {
    /// Leases a connection, or stops waiting after a number of polls.
    Lease(Option<usize>),
    /// Leases two at once; the second stops waiting after a number of polls.
    Contend(usize),
    /// Gives one back, or closes it if there is no place for it.
    Return(prop::sample::Index),
    /// Loses one, as a panic in a teardown would.
    Lose(prop::sample::Index),
    /// Ends all sessions on the server.
    Restart,
    Advance(Duration),
    /// Notes a reading with this many of ten slots in use.
    Read(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = any::<prop::sample::Index>;
    let step = prop_oneof![
        4 => prop::option::of(0usize..12).prop_map(Step::Lease),
        2 => (0usize..12).prop_map(Step::Contend),
        4 => index().prop_map(Step::Return),
        1 => index().prop_map(Step::Lose),
        1 => Just(Step::Restart),
        2 => (0u64..4_000).prop_map(|seconds| Step::Advance(Duration::from_secs(seconds))),
        2 => (0i64..11).prop_map(Step::Read),
    ];
    prop::collection::vec(step, 1..20)
}

struct World<'a> {
    server: &'a Database,
    /// The `application_name` of its sessions.
    name: String,
    pools: Pools,
    clock: Arc<Manual>,
    leased: Vec<(Arc<Lease>, ExclusiveClient)>,
}

/// Polls `future` at most `polls` times, then drops it.
async fn at_most<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

impl World<'_> {
    fn new(server: &Database, case: usize) -> World<'_> {
        let name = format!("case {case}");
        let config = Config::from_url(&server.url)
            .expect("a URL")
            .max_connections(CONNECTIONS)
            .acquire_timeout(Duration::from_millis(20))
            .application_name(&name);
        let clock = Manual::new();
        let pools = Pools::new(Arc::new(Connector::new(config.in_force())), clock.clone());
        World {
            server,
            name,
            pools,
            clock,
            leased: Vec::new(),
        }
    }

    fn pool(&self) -> Arc<Pool> {
        self.pools.here()
    }

    async fn step(&mut self, step: &Step) {
        let checkout = async || {
            if let Some(leased) = self.pools.here().try_checkout(None) {
                return Ok(leased);
            }
            let permit = self.pools.here().permit(Some(PLENTY)).await?;
            permit.checkout(Some(PLENTY), None, &Tally::default()).await
        };
        match step {
            Step::Lease(polls) => {
                let polls = polls.unwrap_or(usize::MAX);
                if let Some(Ok(lease)) = at_most(polls, checkout()).await {
                    self.leased.push(lease);
                }
            }
            Step::Contend(polls) => {
                let (first, second) = tokio::join!(checkout(), at_most(*polls, checkout()));
                let both = [first.ok(), second.and_then(Result::ok)];
                self.leased.extend(both.into_iter().flatten());
            }
            Step::Return(index) if !self.leased.is_empty() => {
                let (lease, client) = self.leased.swap_remove(index.index(self.leased.len()));
                lease.session().settled().await;
                match lease.reserve() {
                    Some(reservation) => lease.keep(client, reservation),
                    None => drop(lease.session().closed(PLENTY).await),
                }
            }
            Step::Lose(index) if !self.leased.is_empty() => {
                let (lease, _) = self.leased.swap_remove(index.index(self.leased.len()));
                let _reservation = lease.reserve();
                lease.session().terminate();
            }
            Step::Restart => {
                let end = format!(
                    "select pg_terminate_backend(pid) from pg_stat_activity \
                     where application_name = '{}'",
                    self.name
                );
                self.server.execute(&end).await.expect("ended");
                self.sessions_are(0).await;
            }
            Step::Advance(time) => self.clock.advance(*time),
            Step::Read(used) => {
                let figures = [10, *used, -1, *used, -1, *used];
                let reading = crate::limit::Reading::new(self.clock.now(), figures);
                self.pools.limits.room.note(reading);
            }
            Step::Return(_) | Step::Lose(_) => {}
        }
    }

    /// Waits until the server has `expected` sessions of this case.
    async fn sessions_are(&self, expected: usize) {
        let count = format!(
            "select count(*) from pg_stat_activity where application_name = '{}'",
            self.name
        );
        let end = Instant::now() + PLENTY;
        loop {
            let rows = self.server.query(&count).await.expect("a count");
            if rows[0][0].as_deref() == Some(&*expected.to_string()) {
                return;
            }
            assert!(Instant::now() < end, "{rows:?} instead of {expected}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn check(&self, after: &Step) {
        let pool = self.pool();
        let idle = pool.idle();
        let leased = self.leased.len();
        assert_eq!(pool.in_use(), leased, "{after:?}");
        assert_eq!(pool.checked_out().len(), leased, "{after:?}");
        assert_eq!((pool.reserved(), pool.waiting.count()), (0, 0), "{after:?}");
        assert!(idle + leased <= 2 * CONNECTIONS, "{after:?}");
        assert!(idle <= CONNECTIONS, "{after:?}");
    }

    /// Checks at the end that the server has exactly the pool's sessions, and that all permits
    /// are free.
    async fn settle(mut self) {
        self.leased.clear();
        for session in self.pools.take_idle() {
            session.terminate();
        }
        self.sessions_are(0).await;
        for _ in 0..CONNECTIONS {
            self.step(&Step::Lease(None)).await;
        }
        assert_eq!(self.leased.len(), CONNECTIONS);
        self.sessions_are(CONNECTIONS).await;
    }
}

fn runtime() -> runtime::Runtime {
    let mut runtime = runtime::Builder::new_current_thread();
    runtime.enable_all().build().expect("a runtime")
}

#[test]
fn pool_loses_no_connection_and_no_permit() {
    let server = runtime().block_on(async {
        let server = Postgres::shared().await.expect("a server");
        server.fresh_database().await.expect("a database")
    });
    let case = AtomicUsize::new(0);
    let config = ProptestConfig {
        cases: 32,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(steps in steps())| {
        runtime().block_on(async {
            let mut world = World::new(&server, case.fetch_add(1, Ordering::Relaxed));
            for step in &steps {
                world.step(step).await;
                world.check(step);
            }
            world.settle().await;
        });
    });
}
