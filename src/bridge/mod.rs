//! Serves the pool to any driver, at a private socket inside the process.
//!
//! sqlx, SeaORM, Diesel and libpq take no stream of another library, but each takes a URL. They
//! connect to this socket; behind it a session of the pool is lent to them from their first
//! message until they are at rest, again and again, and taken from them when their invocation
//! ends. No driver has to cooperate, and none is a dependency.
//!
//! - [`listener`] makes the socket and admits this process's user alone;
//! - [`startup`] parses what a driver sends first, and [`message`] what it sends then;
//! - [`local`] serves one connection with the driver as its [`peer`], and [`relay`] lends it a
//!   session;
//! - [`answer`] writes what is answered here, such as the [`settings`] of a driver.

mod answer;
#[cfg(fuzzing)]
pub mod fuzzing;
mod listener;
mod local;
mod message;
mod peer;
mod relay;
mod settings;
mod startup;

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, Weak};

use bytes::Bytes;
use tokio::runtime::Handle;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::invocation::{Attribution, Invocation, Live, WeakInvocation, invocation};
use crate::lock::Mutex;
use crate::observe;
use crate::random;
use listener::Listener;
use relay::Cancel;

/// The parameter that a pooled connection sets to say which invocation uses it.
const CLAIM: &str = "antifreeze.invocation";

/// The user of the process-wide URL.
const EVERY: &str = "antifreeze";

/// The parts of the name of a user that belongs to one invocation.
const INVOCATION: &str = "invocation_";
const TRANSACTION: &str = "transaction_";

/// The most sets of parameters for which the server's reports are cached. Drivers have one or two.
const MOST_REPORTED: usize = 100;

/// The bridge of one database.
pub(crate) struct Bridge {
    engine: Weak<Engine>,
    listener: Listener,
    state: Mutex<State>,
    /// Held while a session is asked what it reports.
    learning: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    /// The invocations that have a URL or a claim, by token.
    tokens: HashMap<String, WeakInvocation>,
    /// What the server reports at the start of a session, by the parameters that a driver asks
    /// for.
    reported: HashMap<Parameters, Bytes>,
    /// The connections that a CancelRequest can name.
    cancels: HashMap<(i32, i32), Arc<Current>>,
    /// It was logged that a connection cannot be attributed to one of several invocations.
    logged: bool,
}

/// Parameters of the session that a driver asks for at its start.
type Parameters = Vec<(String, String)>;

/// What cancels the statement that a local connection executes now.
type Current = Mutex<Option<Cancel>>;

/// The owner of a local connection.
#[derive(Clone)]
enum User {
    /// It is found at each request.
    Every,
    Invocation(WeakInvocation),
    /// All that it sends is part of the transaction of the invocation.
    Transaction(WeakInvocation),
}

impl State {
    /// Remembers what servers report at the start of a session with these parameters.
    fn note_reported(&mut self, parameters: &Parameters, reported: &Bytes) {
        if self.reported.len() >= MOST_REPORTED && !self.reported.contains_key(parameters) {
            self.reported.clear();
        }
        self.reported.insert(parameters.clone(), reported.clone());
    }
}

impl User {
    /// Returns the only invocation that it can be of.
    fn exact(&self) -> Option<&WeakInvocation> {
        match self {
            User::Invocation(one) | User::Transaction(one) => Some(one),
            User::Every => None,
        }
    }
}

impl Bridge {
    /// Returns the bridge of this database, and starts it if there is none.
    pub(crate) fn of(engine: &Arc<Engine>) -> Result<Arc<Bridge>> {
        let mut slot = slot(engine);
        if let Some(bridge) = served(&slot) {
            return Ok(bridge);
        }
        let bridge = Listener::start(!engine.settings().drivers_on_runtime, |listener| Bridge {
            engine: Arc::downgrade(engine),
            listener,
            state: Mutex::default(),
            learning: tokio::sync::Mutex::default(),
        })?;
        *slot = Some(Arc::clone(&bridge));
        Ok(bridge)
    }

    /// Returns the URL for all invocations.
    pub(crate) fn url(&self) -> String {
        self.url_of(EVERY)
    }

    /// Returns the runtime that drives the sessions of other drivers, if there is a bridge.
    pub(crate) fn runtime(engine: &Engine) -> Option<Handle> {
        let bridge = served(&slot(engine));
        bridge.map(|bridge| bridge.listener.runtime().clone())
    }

    fn url_of(&self, user: &str) -> String {
        let engine = self.engine.upgrade();
        let database = engine.as_deref().map(database).unwrap_or_default();
        self.listener.url(user, database)
    }

    /// Returns the token of an invocation.
    fn token(&self, invocation: &Invocation) -> Result<String> {
        let mut state = self.state();
        state.tokens.retain(|_, known| known.upgrade().is_some());
        let mut known = state.tokens.iter();
        if let Some((token, _)) = known.find(|(_, known)| known.is(invocation)) {
            return Ok(token.clone());
        }
        let token = secret()?;
        state.tokens.insert(token.clone(), invocation.downgrade());
        Ok(token)
    }

    fn by_token(&self, token: &str) -> Option<WeakInvocation> {
        self.state().tokens.get(token).cloned()
    }

    /// Returns the owner of a connection, by the user in its startup packet.
    fn user(&self, name: &str) -> Option<User> {
        let of = |token| self.by_token(token);
        match (
            name.strip_prefix(INVOCATION),
            name.strip_prefix(TRANSACTION),
        ) {
            (Some(token), _) => of(token).map(User::Invocation),
            (_, Some(token)) => of(token).map(User::Transaction),
            _ => (name == EVERY).then_some(User::Every),
        }
    }

    /// Finds the invocation that uses a connection now.
    fn invocation(&self, user: &User, claimed: Option<&WeakInvocation>) -> Result<Invocation> {
        if let Some(exact) = user.exact().or(claimed) {
            return exact.upgrade().ok_or_else(Error::invocation_ended);
        }
        let engine = self.engine()?;
        match Live::of(&engine).attribution(&engine) {
            Attribution::None => Err(Error::not_in_invocation()),
            Attribution::One(invocation) => Ok(invocation),
            Attribution::Several(common) => {
                if !std::mem::replace(&mut self.state().logged, true) {
                    observe::unclaimed();
                }
                Ok(common)
            }
        }
    }

    /// Returns the invocation whose session is asked what it reports. If none is under way, the
    /// common one is used, and its session is pooled as if it had been warmed up.
    fn learner(&self, user: &User, claimed: Option<&WeakInvocation>) -> Result<Invocation> {
        let engine = self.engine()?;
        if let (User::Every, None) = (user, claimed) {
            return Ok(match Live::of(&engine).attribution(&engine) {
                Attribution::One(one) | Attribution::Several(one) => one,
                Attribution::None => Live::of(&engine).common(&engine),
            });
        }
        self.invocation(user, claimed)
    }

    fn engine(&self) -> Result<Arc<Engine>> {
        self.engine.upgrade().ok_or_else(Error::invocation_ended)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// Returns the place of the bridge in its engine.
fn slot(engine: &Engine) -> MutexGuard<'_, Option<Arc<Bridge>>> {
    type Slot = Mutex<Option<Arc<Bridge>>>;
    let slot = engine.bridge.get_or_init(|| Box::<Slot>::default());
    let slot: &Slot = slot.downcast_ref().expect("nothing else is put there");
    slot.lock()
}

/// Returns the bridge, unless the runtime that served it has ended.
fn served(slot: &Option<Arc<Bridge>>) -> Option<Arc<Bridge>> {
    let bridge = slot.as_ref().filter(|bridge| bridge.listener.is_served());
    bridge.cloned()
}

fn database(engine: &Engine) -> &str {
    let server = &engine.settings().server;
    server
        .get_dbname()
        .or(server.get_user())
        .unwrap_or_default()
}

/// A random number of 128 bits, in hexadecimal digits.
fn secret() -> Result<String> {
    Ok(format!("{:016x}{:016x}", drawn()?, drawn()?))
}

/// Draws a random number, which nothing else can guess.
fn drawn() -> Result<u64> {
    random::drawn().ok_or_else(|| {
        Error::configuration("the system has no random numbers to protect the private socket with")
            .with_remedy("let the process call getrandom, or read /dev/urandom")
    })
}

impl Invocation {
    /// Returns the URL of this invocation's connections for any other driver: exact, whatever
    /// runs at the same time. It is of no use to other processes, and ends with the invocation.
    ///
    /// ```no_run
    /// # fn establish(_: &str) {}
    /// # fn handler() -> Result<(), antifreeze::Error> {
    /// // diesel::PgConnection::establish, sqlx's PgConnection::connect, ..
    /// let connection = establish(&antifreeze::invocation()?.url()?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The private socket could not be made.
    pub fn url(&self) -> Result<String> {
        let bridge = Bridge::of(self.engine())?;
        Ok(bridge.url_of(&format!("{INVOCATION}{}", bridge.token(self)?)))
    }

    /// Returns a URL whose statements are all part of this invocation's
    /// [transaction](Invocation::transaction): BEGIN travels with the first one, and the response
    /// decides between COMMIT and ROLLBACK.
    ///
    /// A transaction of the driver's own is refused there: its COMMIT would store nothing. Use
    /// [`url`](Invocation::url) for that, or savepoints.
    ///
    /// # Errors
    ///
    /// The private socket could not be made.
    pub fn transaction_url(&self) -> Result<String> {
        let bridge = Bridge::of(self.engine())?;
        Ok(bridge.url_of(&format!("{TRANSACTION}{}", bridge.token(self)?)))
    }
}

/// Adds the hooks to sqlx's `PoolOptions` by which each connection that the pool hands out says
/// which invocation uses it. SeaORM takes such a pool with `SqlxPostgresConnector`.
///
/// ```ignore
/// let pool = antifreeze::sqlx_hooks!(PgPoolOptions::new()).connect_lazy(&database.url()?)?;
/// ```
///
/// It uses the crate `sqlx` of the function. Only needed where several invocations run at the
/// same time; see [`claim`].
#[macro_export]
macro_rules! sqlx_hooks {
    ($options:expr) => {
        $options
            .after_connect(|connection, _| {
                ::std::boxed::Box::pin(async move {
                    let claim = ::sqlx::raw_sql(::sqlx::AssertSqlSafe($crate::claim()));
                    claim.execute(connection).await.map(|_| ())
                })
            })
            .before_acquire(|connection, _| {
                ::std::boxed::Box::pin(async move {
                    let claim = ::sqlx::raw_sql(::sqlx::AssertSqlSafe($crate::claim()));
                    claim.execute(connection).await.map(|_| true)
                })
            })
    };
}

/// Returns the statement by which a pooled connection of another driver says that the current
/// invocation uses it; outside any invocation, that none does. It is answered in this process.
///
/// Only needed where several invocations share a pool and run at the same time. Execute it by the
/// simple query protocol, whenever the pool hands a connection out.
pub fn claim() -> String {
    let token = invocation().and_then(|invocation| {
        let bridge = Bridge::of(invocation.engine())?;
        bridge.token(&invocation)
    });
    format!("SET {CLAIM} = '{}'", token.unwrap_or_default())
}
