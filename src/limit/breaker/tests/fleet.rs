//! A fleet of processes before a small server.

use std::cell::Cell;

use futures_util::future::join_all;
use tokio::sync::Semaphore;

use super::*;

/// A server with few slots before a fleet of processes, each with a breaker of its own.
struct FleetServer {
    taken: Cell<usize>,
    refused: Cell<usize>,
    /// Two cores, which starting and ending sessions takes time of.
    cores: Semaphore,
}

impl FleetServer {
    const SLOTS: usize = 22;

    /// Creates one of whose slots so many are kept by processes that are frozen.
    fn new(kept: usize) -> Self {
        FleetServer {
            taken: Cell::new(kept),
            refused: Cell::default(),
            cores: Semaphore::new(2),
        }
    }

    async fn computes(&self, milliseconds: u64) {
        let _core = self.cores.acquire().await.expect("it is open");
        sleep(Duration::from_millis(milliseconds)).await;
    }

    /// Takes a slot for so long, if one is free.
    async fn serves(&self, time: Duration) -> bool {
        self.computes(3).await;
        if self.taken.get() == FleetServer::SLOTS {
            return false;
        }
        self.taken.set(self.taken.get() + 1);
        self.computes(5).await;
        sleep(time).await;
        self.computes(2).await;
        self.taken.set(self.taken.get() - 1);
        true
    }

    /// Needs a slot for 50 ms, as one process of the fleet.
    async fn process(&self) {
        let breaker = Breaker::new(Paused::new(), Meters::default());
        loop {
            let admission = admit(&breaker, 60 * SECOND).await.expect("time is left");
            if self.serves(Duration::from_millis(50)).await {
                return admission.succeeded();
            }
            self.refused.set(self.refused.get() + 1);
            admission.failed(&full());
        }
    }

    /// Connects every 25 ms as another client, and returns how long it was refused at most.
    async fn other_client(&self, over: &Cell<bool>) -> Duration {
        let mut longest = Duration::ZERO;
        let mut refused = None;
        while !over.get() {
            if self.serves(Duration::from_millis(1)).await {
                refused = None;
            } else {
                let since: &mut Instant = refused.get_or_insert_with(Instant::now);
                longest = longest.max(since.elapsed());
            }
            sleep(Duration::from_millis(25)).await;
        }
        longest
    }
}

/// Serves a burst; returns how long it took, and how long the other client was refused.
async fn burst(server: &FleetServer) -> (Duration, Duration) {
    let (begin, over) = (Instant::now(), Cell::new(false));
    let fleet = async {
        let processes = 150 - server.taken.get();
        join_all((0..processes).map(|_| server.process())).await;
        over.set(true);
        begin.elapsed()
    };
    tokio::join!(fleet, server.other_client(&over))
}

#[tokio::test(start_paused = true)]
async fn fleet_is_served_soon_and_leaves_room() {
    const BURSTS: u32 = 20;
    let (mut all, mut refused) = (Duration::ZERO, 0);
    for at in 0..BURSTS {
        // A quarter of the slots are kept, in every other.
        let server = FleetServer::new(if at % 2 == 0 { 0 } else { 5 });
        let (took, shut_out) = burst(&server).await;
        assert!(shut_out < Duration::from_millis(300), "{shut_out:?}");
        all += took;
        refused += server.refused.get();
    }
    let (took, refused) = (all / BURSTS, refused / BURSTS as usize);
    println!("served after {took:?}, {refused} refused");
    // Each of the 128 that find no slot is refused once, and few are refused again.
    assert!(refused < 155, "{refused}");
    assert!(took < Duration::from_millis(1_400), "{took:?}");
}
