//! Where an environment is in its life, without any input or output: what it is
//! told, and what follows from it.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::{Instant, SystemTime},
};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{Answer, FreezeAt};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Until the runtime and every extension ask for their first event.
    Init,
    /// Waiting for its restore, with SnapStart.
    Snapshot,
    Ready,
    /// Shut down, timed out, or ended by itself.
    Over,
}

/// An event on its way to the runtime.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) request_id: String,
    pub(super) payload: Bytes,
    pub(super) deadline: SystemTime,
}

/// An answer, and when it came.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) handed: Instant,
    pub(super) arrived: Instant,
    /// How often everybody had come home by then.
    pub(super) homecomings: u64,
    pub(super) answer: Answer,
}

struct Open {
    handed: Instant,
    answer: oneshot::Sender<Answered>,
}

#[derive(Default)]
struct Extension {
    wants_invoke: bool,
    call: Option<oneshot::Sender<Value>>,
    queue: VecDeque<Value>,
}

impl Extension {
    fn waits(&self) -> bool {
        self.call.as_ref().is_some_and(|call| !call.is_closed())
    }

    fn give(&mut self, event: Value) {
        self.queue.push_back(event);
        if let Some(call) = self.call.take_if(|call| !call.is_closed())
            && let Some(event) = self.queue.pop_front()
            && let Err(event) = call.send(event)
        {
            self.queue.push_front(event);
        }
    }
}

pub(super) struct State {
    pub(super) phase: Phase,
    freeze_at: FreezeAt,
    concurrency: usize,
    /// Invocations that were promised this environment and are not answered.
    claims: usize,
    /// The runtime's calls that wait for an event.
    calls: VecDeque<oneshot::Sender<Event>>,
    /// Events that wait for a call.
    queue: VecDeque<(Event, oneshot::Sender<Answered>)>,
    /// What the runtime is working on, by request id.
    open: HashMap<String, Open>,
    extensions: BTreeMap<String, Extension>,
    /// The runtime's call that waits for its restore.
    restore: Option<oneshot::Sender<()>>,
    /// How often everybody has come to wait.
    homecomings: u64,
}

impl State {
    pub(super) fn new(freeze_at: FreezeAt, concurrency: usize) -> Self {
        Self {
            phase: Phase::Init,
            freeze_at,
            concurrency,
            claims: 0,
            calls: VecDeque::new(),
            queue: VecDeque::new(),
            open: HashMap::new(),
            extensions: BTreeMap::new(),
            restore: None,
            homecomings: 0,
        }
    }

    /// Whether one more invocation may come here.
    pub(super) fn has_room(&self) -> bool {
        self.phase != Phase::Over && self.claims < self.concurrency
    }

    pub(super) fn claim(&mut self) {
        self.claims += 1;
    }

    /// Whether the runtime and every extension wait, with nothing to do; or the
    /// runtime would, were it not frozen before it could ask.
    pub(super) fn is_idle(&self) -> bool {
        let waits = match self.phase {
            Phase::Init | Phase::Over => false,
            Phase::Snapshot => true,
            Phase::Ready => self.freeze_at == FreezeAt::Response || self.everybody_waits(),
        };
        waits && self.queue.is_empty() && self.open.is_empty()
    }

    pub(super) fn homecomings(&self) -> u64 {
        self.homecomings
    }

    fn everybody_waits(&self) -> bool {
        self.open.is_empty()
            && self.calls.iter().filter(|call| !call.is_closed()).count() >= self.concurrency
            && self.extensions_wait()
    }

    fn extensions_wait(&self) -> bool {
        self.extensions.values().all(Extension::waits)
    }

    /// Whether it is time to freeze, for as long as nobody has claimed it.
    pub(super) fn should_freeze(&self) -> bool {
        let quiet = match self.freeze_at {
            FreezeAt::Never => false,
            FreezeAt::Next | FreezeAt::Response => self.is_idle(),
        };
        quiet && self.claims == 0
    }

    /// The runtime asks for the next event.
    pub(super) fn next(&mut self) -> oneshot::Receiver<Event> {
        let (call, event) = oneshot::channel();
        self.calls.push_back(call);
        self.arrive();
        event
    }

    /// The runtime waits for its restore, which the first invocation brings.
    pub(super) fn restore_next(&mut self) -> oneshot::Receiver<()> {
        let (call, restore) = oneshot::channel();
        self.phase = Phase::Snapshot;
        self.restore = Some(call);
        restore
    }

    pub(super) fn enqueue(&mut self, event: Event, answer: oneshot::Sender<Answered>) {
        self.queue.push_back((event, answer));
        if let Some(restore) = self.restore.take() {
            self.phase = Phase::Init;
            let _ = restore.send(());
        }
        self.deliver();
    }

    /// Takes back an event that no call has taken yet; false if it is too late.
    pub(super) fn withdraw(&mut self, request_id: &str) -> bool {
        let before = self.queue.len();
        self.queue
            .retain(|(event, _)| event.request_id != request_id);
        self.queue.len() < before
    }

    /// The function answers; false if nobody asked, or waits any more.
    pub(super) fn answer(&mut self, request_id: &str, answer: Answer) -> bool {
        let Some(open) = self.open.remove(request_id) else {
            return false;
        };
        self.claims -= 1;
        let answered = Answered {
            handed: open.handed,
            arrived: Instant::now(),
            homecomings: self.homecomings,
            answer,
        };
        open.answer.send(answered).is_ok()
    }

    pub(super) fn register(&mut self, identifier: String, events: &[&str]) {
        let extension = Extension {
            wants_invoke: events.contains(&"INVOKE"),
            ..Extension::default()
        };
        self.extensions.insert(identifier, extension);
    }

    /// An extension asks for the next event; `None` if it never registered.
    pub(super) fn extension_next(&mut self, identifier: &str) -> Option<oneshot::Receiver<Value>> {
        let extension = self.extensions.get_mut(identifier)?;
        let (call, event) = oneshot::channel();
        extension.call = Some(call);
        if let Some(waiting) = extension.queue.pop_front() {
            extension.give(waiting);
        }
        self.arrive();
        Some(event)
    }

    pub(super) fn has_extensions(&self) -> bool {
        !self.extensions.is_empty()
    }

    /// Nothing more will come: whoever waits learns it as their channels close.
    /// The queue stays, for its owners to take back.
    pub(super) fn end(&mut self) {
        self.phase = Phase::Over;
        self.calls.clear();
        self.open.clear();
        self.extensions.clear();
        self.restore = None;
    }

    fn arrive(&mut self) {
        if self.phase == Phase::Init && !self.calls.is_empty() && self.extensions_wait() {
            self.phase = Phase::Ready;
        }
        if self.everybody_waits() {
            self.homecomings += 1;
        }
        self.deliver();
    }

    /// Hands over what can be. An environment that serves one invocation at a time
    /// gets none before its extensions are done with the last.
    fn deliver(&mut self) {
        while self.phase == Phase::Ready
            && (self.concurrency > 1 || self.extensions_wait())
            && let Some(call) = self.next_call()
        {
            let Some((event, answer)) = self.queue.pop_front() else {
                self.calls.push_front(call);
                return;
            };
            let request_id = event.request_id.clone();
            let notice = json!({
                "eventType": "INVOKE",
                "deadlineMs": milliseconds(event.deadline),
                "requestId": request_id,
                "invokedFunctionArn": ARN,
                "tracing": { "type": "X-Amzn-Trace-Id", "value": TRACE },
            });
            match call.send(event) {
                Ok(()) => {
                    let handed = Instant::now();
                    self.open.insert(request_id, Open { handed, answer });
                    let extensions = self.extensions.values_mut();
                    for extension in extensions.filter(|extension| extension.wants_invoke) {
                        extension.give(notice.clone());
                    }
                }
                Err(event) => self.queue.push_front((event, answer)),
            }
        }
    }

    /// The oldest call whose caller is still there.
    fn next_call(&mut self) -> Option<oneshot::Sender<Event>> {
        while let Some(call) = self.calls.pop_front() {
            if !call.is_closed() {
                return Some(call);
            }
        }
        None
    }
}

/// There is no account and no region behind it.
pub(super) const ARN: &str = "arn:aws:lambda:us-east-1:123456789012:function:lab";

/// A trace that is not sampled.
pub(super) const TRACE: &str =
    "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=0";

/// As Lambda writes moments: milliseconds since 1970.
pub(super) fn milliseconds(moment: SystemTime) -> u64 {
    moment
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}
