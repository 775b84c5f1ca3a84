//! Wakes of handlers that are held back while a connection is polled.
//!
//! A poll passes answers on while it has the connection locked. Woken at once, a handler on another
//! thread would drop its connection before the lock is free, and wait for it: two switches between
//! threads more. So its wakes are passed on when the poll is over.

use std::cell::{Cell, RefCell};
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Wake, Waker};

use crate::lock::Mutex;
use tokio::runtime::{Handle, RuntimeFlavor};

thread_local! {
    static POLLS: Cell<Polls> = const { Cell::new(Polls::Not) };
    static HELD: RefCell<Vec<Arc<Late>>> = const { RefCell::new(Vec::new()) };
}

/// Whether this thread is polling a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Polls {
    Not,
    UnderWay,
    /// Wakes are held back.
    Holding,
}

/// A poll of a connection on this thread, from before it is locked until after.
pub(super) struct Polling {
    is_outermost: bool,
}

impl Polling {
    pub(super) fn begin() -> Self {
        let is_outermost = POLLS.get() == Polls::Not;
        if is_outermost {
            POLLS.set(Polls::UnderWay);
        }
        Polling { is_outermost }
    }

    /// Returns whether this thread is polling a connection.
    pub(super) fn is_under_way() -> bool {
        POLLS.get() != Polls::Not
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        if self.is_outermost && POLLS.replace(Polls::Not) == Polls::Holding {
            let next = || HELD.try_with(|held| held.borrow_mut().pop());
            while let Ok(Some(late)) = next() {
                late.wake_now();
            }
        }
    }
}

/// The waker of a handler whose wakes are held back.
pub(crate) struct LateWaker {
    late: Arc<Late>,
    waker: Waker,
}

struct Late(Mutex<Waker>);

impl LateWaker {
    /// `None` where another thread cannot poll the handler's connections.
    pub(crate) fn where_useful() -> Option<Self> {
        let flavor = Handle::try_current().ok()?.runtime_flavor();
        if flavor == RuntimeFlavor::CurrentThread {
            return None;
        }
        let late = Arc::new(Late(Mutex::new(Waker::noop().clone())));
        let waker = Waker::from(Arc::clone(&late));
        Some(LateWaker { late, waker })
    }

    /// Returns the context with which a handler is polled that `cx` is to wake.
    pub(crate) fn context(&self, cx: &Context<'_>) -> Context<'_> {
        self.late.lock().clone_from(cx.waker());
        Context::from_waker(&self.waker)
    }
}

impl Late {
    fn lock(&self) -> MutexGuard<'_, Waker> {
        self.0.lock()
    }

    fn wake_now(&self) {
        // Not under the lock: what it wakes may be polled at once.
        let waker = self.lock().clone();
        waker.wake();
    }
}

impl Wake for Late {
    fn wake(self: Arc<Self>) {
        let hold = || HELD.try_with(|held| held.borrow_mut().push(Arc::clone(&self)));
        if !Polling::is_under_way() || hold().is_err() {
            return self.wake_now();
        }
        POLLS.set(Polls::Holding);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Counts(AtomicUsize);

    impl Wake for Counts {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_wake_waits_for_the_outermost_poll() {
        let counts = Arc::new(Counts::default());
        let woken = || counts.0.load(Ordering::SeqCst);
        let task = Waker::from(Arc::clone(&counts));
        let late = LateWaker::where_useful().expect("two threads");
        let waker = late.context(&Context::from_waker(&task)).waker().clone();
        waker.wake_by_ref();
        assert_eq!(woken(), 1, "nothing is polled here");
        let outer = Polling::begin();
        let inner = Polling::begin();
        waker.wake_by_ref();
        drop(inner);
        assert_eq!(woken(), 1);
        // The poll of another thread holds nothing back here.
        let elsewhere = waker.clone();
        std::thread::spawn(move || elsewhere.wake()).join().unwrap();
        assert_eq!(woken(), 2);
        drop(outer);
        assert_eq!(woken(), 3);
        assert!(!Polling::is_under_way());
    }

    #[tokio::test]
    async fn one_thread_needs_none() {
        assert!(LateWaker::where_useful().is_none());
    }
}
