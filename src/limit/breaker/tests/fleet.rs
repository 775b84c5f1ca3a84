//! A fleet of processes before a small server.

use std::cell::Cell;

use futures_util::future::join_all;

use super::*;

/// A server with few slots before a fleet of processes, each with a breaker of its own.
#[derive(Default)]
struct FleetServer {
    taken: Cell<usize>,
    refused: Cell<usize>,
}

impl FleetServer {
    const SLOTS: usize = 22;

    /// Takes a slot for so long, if one is free.
    async fn serves(&self, time: Duration) -> bool {
        if self.taken.get() == FleetServer::SLOTS {
            return false;
        }
        self.taken.set(self.taken.get() + 1);
        sleep(time).await;
        self.taken.set(self.taken.get() - 1);
        true
    }

    /// Needs a slot for 60 ms, as one process of the fleet.
    async fn process(&self) {
        let breaker = Breaker::new(Paused::new());
        loop {
            let admission = admit(&breaker, 60 * SECOND).await.expect("time is left");
            if self.serves(Duration::from_millis(60)).await {
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

#[tokio::test(start_paused = true)]
async fn fleet_is_served_soon_and_leaves_room() {
    let (server, over) = (FleetServer::default(), Cell::new(false));
    let begin = Instant::now();
    let fleet = async {
        join_all((0..150).map(|_| server.process())).await;
        over.set(true);
        begin.elapsed()
    };
    let (took, shut_out) = tokio::join!(fleet, server.other_client(&over));
    let refused = server.refused.get();
    println!("served after {took:?}, {refused} refused, others for {shut_out:?}");
    // Each of the 128 that find no slot is refused once, and few are refused again.
    assert!(refused < 200, "{refused}");
    assert!(took < 2 * SECOND, "{took:?}");
    assert!(shut_out < Duration::from_millis(300), "{shut_out:?}");
}
