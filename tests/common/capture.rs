//! Captures the events of a test.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};

use tracing::field::{Field, Visit};
use tracing::subscriber::DefaultGuard;
use tracing::{Dispatch, Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// An event: its message and its other fields, as text.
#[derive(Debug, Clone)]
pub struct Seen {
    pub level: Level,
    pub message: String,
    pub fields: BTreeMap<&'static str, String>,
}

impl Visit for Seen {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let value = format!("{value:?}");
        match field.name() {
            "message" => self.message = value,
            name => drop(self.fields.insert(name, value)),
        }
    }
}

#[derive(Clone, Default)]
pub struct Capture(Arc<Mutex<Vec<Seen>>>);

impl<S: Subscriber> Layer<S> for Capture {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut seen = Seen {
            level: *event.metadata().level(),
            message: String::new(),
            fields: BTreeMap::new(),
        };
        event.record(&mut seen);
        self.0.lock().expect("no panic").push(seen);
    }
}

impl Capture {
    /// Listens on this thread, on which the whole of a test runs.
    pub fn start() -> (Self, DefaultGuard) {
        // While there is one subscriber in the process, tracing asks that of the thread that comes
        // first to an event, and remembers if it has none. With several it asks all of them.
        static OTHERS: OnceLock<[Dispatch; 2]> = OnceLock::new();
        OTHERS.get_or_init(|| [(); 2].map(|()| Dispatch::new(tracing_subscriber::registry())));
        let capture = Capture::default();
        let subscriber = tracing_subscriber::registry().with(capture.clone());
        (capture, tracing::subscriber::set_default(subscriber))
    }

    /// All since this was last asked.
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.0.lock().expect("no panic"))
    }

    /// Those with this message.
    pub fn of(&self, message: &str) -> Vec<Seen> {
        let mut all = self.take();
        all.retain(|seen| seen.message == message);
        all
    }
}

impl Capture {
    /// The lines at `info` and above since this was last asked: what a log costs.
    pub fn lines(&self) -> Vec<Seen> {
        let mut all = self.take();
        all.retain(|seen| seen.level <= Level::INFO);
        all
    }
}
