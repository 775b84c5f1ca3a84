//! What happens to a fleet.

use std::time::Duration;

use futures_util::future::try_join_all;
use lab::Result;
use lab::fleet::ROLE;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};

use super::candidates::Candidate;
use super::cell::Cell;
use super::scene::{Scene, Server, ask};

/// What is measured; bursts are two of them, in one go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    Steady,
    /// The first half of the next.
    Burst,
    Bursts,
    Closed,
    Cut,
    Restart,
    Outage,
    Deadline,
    Open,
    Link(u64),
}

pub const ALL: [Scenario; 11] = [
    Scenario::Steady,
    Scenario::Bursts,
    Scenario::Closed,
    Scenario::Cut,
    Scenario::Restart,
    Scenario::Outage,
    Scenario::Deadline,
    Scenario::Open,
    Scenario::Link(1),
    Scenario::Link(20),
    Scenario::Link(100),
];

/// Those of `--quick`.
pub const QUICK: [Scenario; 3] = [Scenario::Burst, Scenario::Closed, Scenario::Open];

/// A function's timeout, where nothing else is said.
const TIMEOUT: Duration = Duration::from_secs(5);

/// That of the function whose deadline passes.
const SHORT: Duration = Duration::from_secs(1);

/// How long the server works on a request of a burst or of the steady traffic; elsewhere less.
const WORK: Duration = Duration::from_millis(50);
const LITTLE_WORK: Duration = Duration::from_millis(5);

/// The instances of all scenarios but the bursts.
const FEW: usize = 4;

/// How long a connection may be idle, in the silent cut, before antifreeze tests it: without
/// that the scenario would have to wait for a minute.
const TEST_AFTER: &str = "500";
const IDLE: Duration = Duration::from_millis(600);

impl Scenario {
    /// The names of what it measures.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Scenario::Steady => &["steady"],
            Scenario::Burst => &["burst from cold"],
            Scenario::Bursts => &["burst from cold", "burst of frozen"],
            Scenario::Closed => &["closed sockets"],
            Scenario::Cut => &["silent cut"],
            Scenario::Restart => &["restart"],
            Scenario::Outage => &["outage"],
            Scenario::Deadline => &["deadline"],
            Scenario::Open => &["open transaction"],
            Scenario::Link(1) => &["cold, 1 ms"],
            Scenario::Link(20) => &["cold, 20 ms"],
            Scenario::Link(_) => &["cold, 100 ms"],
        }
    }

    /// What happens, for the report.
    pub fn about(self) -> String {
        match self {
            Scenario::Steady => "Six warm instances; three requests at once, every 250 ms, 14 times; \
                                 the server works 50 ms on each."
                .to_owned(),
            Scenario::Burst => "One request to each of many instances at once, all of them new. The \
                                server works 50 ms on each; the function's timeout is 5 s."
                .to_owned(),
            Scenario::Bursts => "One request to each of many instances at once, all of them new; then, \
                                 when all are frozen, the same again. The server works 50 ms on each; \
                                 the function's timeout is 5 s."
                .to_owned(),
            Scenario::Closed => "Four warm instances; pg_terminate_backend ends their sessions while \
                                 they are frozen; two bursts of four requests."
                .to_owned(),
            Scenario::Cut => format!(
                "Four warm instances; while they are frozen the network forgets their connections \
                 without a word to either side, as NAT does with idle ones; two bursts of four \
                 requests. antifreeze tests a connection that was idle for a minute; here, so that \
                 nobody has to wait, for {TEST_AFTER} ms. The others have their defaults. The \
                 function's timeout is 5 s."
            ),
            Scenario::Restart => "Four warm instances; the server restarts while they are frozen; two \
                                  bursts of four requests."
                .to_owned(),
            Scenario::Outage => "Four warm instances; the server stops; four requests, three times, \
                                 300 ms apart, to which connections are refused; the server starts; the same \
                                 again. Connects that were refused are not counted."
                .to_owned(),
            Scenario::Deadline => "Two instances with a timeout of 1 s run a statement of 30 s in a \
                                   transaction. None can answer with a result; what counts is what \
                                   stays on the server."
                .to_owned(),
            Scenario::Open => "Four instances answer after a BEGIN and an INSERT in SQL, without \
                               COMMIT, and are frozen."
                .to_owned(),
            Scenario::Link(milliseconds) => format!(
                "A request to a new instance, one at a time, over a link of {milliseconds} ms there and \
                 back, three times. From the start of the process to the response."
            ),
        }
    }

    /// Runs it, and says what was measured under each of its names.
    pub async fn run(
        self,
        server: &Server,
        candidate: &Candidate,
        instances: usize,
    ) -> Result<Vec<Cell>> {
        let (timeout, work) = match self {
            Scenario::Deadline => (SHORT, LITTLE_WORK),
            Scenario::Steady | Scenario::Burst | Scenario::Bursts => (TIMEOUT, WORK),
            _ => (TIMEOUT, LITTLE_WORK),
        };
        let variables: &[_] = match self {
            Scenario::Cut => &[("PROBE_AFTER_MS", TEST_AFTER)],
            _ => &[],
        };
        let mut scene = Scene::start(server, candidate, timeout, work, variables).await?;
        let mut cells = Vec::new();
        if self == Scenario::Bursts {
            scene.burst(instances, "/").await?;
            cells.push(scene.measured().await?);
            scene.begin();
        }
        self.happen(&mut scene, instances).await?;
        cells.push(scene.measured().await?);
        scene.end().await?;
        for (cell, name) in cells.iter_mut().zip(self.names()) {
            cell.scenario = name;
            cell.candidate = candidate.name;
        }
        Ok(cells)
    }

    async fn happen(self, scene: &mut Scene<'_>, instances: usize) -> Result<()> {
        match self {
            Scenario::Steady => {
                scene.warm(6).await?;
                steady(scene).await
            }
            Scenario::Burst | Scenario::Bursts => scene.burst(instances, "/").await,
            Scenario::Closed => {
                scene.warm(FEW).await?;
                let end = format!(
                    "select pg_terminate_backend(pid, 10000) from pg_stat_activity \
                     where usename = '{ROLE}'"
                );
                scene.server.postgres.execute(&end).await?;
                twice(scene).await
            }
            Scenario::Cut => {
                scene.warm(FEW).await?;
                scene.relay.forget();
                sleep(IDLE).await;
                twice(scene).await
            }
            Scenario::Restart => {
                scene.warm(FEW).await?;
                scene.server.postgres.restart().await?;
                twice(scene).await
            }
            Scenario::Outage => {
                scene.warm(FEW).await?;
                outage(scene).await
            }
            Scenario::Deadline => scene.burst(2, "/slow").await,
            Scenario::Open => scene.burst(FEW, "/leave").await,
            Scenario::Link(milliseconds) => {
                scene.relay.delay(Duration::from_millis(milliseconds));
                for _ in 0..3 {
                    scene.burst(1, "/").await?;
                    scene.function.shutdown().await;
                }
                Ok(())
            }
        }
    }
}

/// Four requests at once, and when all stand still again, four more.
async fn twice(scene: &mut Scene<'_>) -> Result<()> {
    scene.burst(FEW, "/").await?;
    scene.rest().await;
    scene.burst(FEW, "/").await
}

async fn steady(scene: &mut Scene<'_>) -> Result<()> {
    let mut asks = JoinSet::new();
    let mut ticks = interval(Duration::from_millis(250));
    for _ in 0..14 {
        ticks.tick().await;
        for _ in 0..3 {
            asks.spawn(ask(scene.function.clone(), "/"));
        }
    }
    let asked: Result<Vec<_>> = asks.join_all().await.into_iter().collect();
    scene.note(asked?);
    Ok(())
}

async fn outage(scene: &mut Scene<'_>) -> Result<()> {
    let mut asks = JoinSet::new();
    let mut ask_thrice = async |function: &lab::lambda::Function| {
        for _ in 0..3 {
            let function = function.clone();
            asks.spawn(
                async move { try_join_all((0..FEW).map(|_| ask(function.clone(), "/"))).await },
            );
            sleep(Duration::from_millis(300)).await;
        }
    };
    scene.server.postgres.halt().await?;
    // As the host of a server does that is down: libraries tell "refused" from "reset".
    scene.relay.refuse(true).await?;
    ask_thrice(&scene.function).await;
    scene.server.postgres.restart().await?;
    scene.relay.refuse(false).await?;
    ask_thrice(&scene.function).await;
    for asked in asks.join_all().await {
        scene.note(asked?);
    }
    Ok(())
}
