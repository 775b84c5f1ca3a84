//! Waiting for a moment, to a tenth of a millisecond.
//!
//! tokio's timer counts in whole milliseconds, as much as a round trip within a
//! data centre takes. A thread that waits on a condition variable is more precise.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use tokio::sync::oneshot;

/// The thread ends with this value.
pub(super) struct Clock {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    alarms: Mutex<Alarms>,
    changed: Condvar,
}

#[derive(Default)]
struct Alarms {
    /// By moment, and by number where moments are the same.
    set: BTreeMap<(Instant, u64), oneshot::Sender<()>>,
    next: u64,
    over: bool,
}

impl Clock {
    pub(super) fn start() -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let thread = shared.clone();
        thread::Builder::new()
            .name("lab-clock".to_owned())
            .spawn(move || thread.run())?;
        Ok(Self { shared })
    }

    /// Waits until `moment`, or a little longer.
    pub(super) async fn until(&self, moment: Instant) {
        if moment <= Instant::now() {
            return;
        }
        let (ring, rung) = oneshot::channel();
        {
            let mut alarms = self.shared.alarms();
            let number = alarms.next;
            alarms.next += 1;
            alarms.set.insert((moment, number), ring);
        }
        self.shared.changed.notify_one();
        let _ = rung.await;
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.shared.alarms().over = true;
        self.shared.changed.notify_one();
    }
}

impl Shared {
    fn alarms(&self) -> MutexGuard<'_, Alarms> {
        self.alarms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut alarms = self.alarms();
        while !alarms.over {
            let now = Instant::now();
            let next = alarms.set.first_key_value().map(|((moment, _), _)| *moment);
            alarms = match next {
                None => self
                    .changed
                    .wait(alarms)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(moment) if moment > now => {
                    let wait = self.changed.wait_timeout(alarms, moment - now);
                    wait.unwrap_or_else(PoisonError::into_inner).0
                }
                Some(_) => {
                    if let Some((_, ring)) = alarms.set.pop_first() {
                        let _ = ring.send(());
                    }
                    alarms
                }
            };
        }
    }
}
