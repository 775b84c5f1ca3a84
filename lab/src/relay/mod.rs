//! A TCP relay that counts, delays, stalls, breaks and records.
//!
//! It stands in front of any server, on a thread of its own: a test that blocks its
//! runtime, or ends it, does not disturb it.
//!
//! ```no_run
//! use lab::{postgres::Postgres, relay::{Cut, Relay}};
//!
//! # async fn example() -> lab::Result<()> {
//! let postgres = Postgres::start().await?;
//! let relay = Relay::start(postgres.address()).await?;
//! let url = relay.url(&postgres.url());
//! let before = relay.counts();
//! // ... connect to `url` and run a query ...
//! println!("{} round trips", relay.counts().since(before).round_trips);
//!
//! relay.delay(std::time::Duration::from_millis(5)); // every round trip takes 5 ms more
//! relay.stall();                                    // a black hole
//! relay.resume();
//! relay.cut(Cut::Reset).await;                      // every connection ends
//! relay.refuse(true).await?;                        // "connection refused"
//! # Ok(())
//! # }
//! ```

mod clock;
mod connection;
mod control;
mod counts;
pub(crate) mod url;

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use self::{clock::Clock, connection::Connection, control::Control};
pub use self::{
    control::Cut,
    counts::{Counts, Direction},
};
use crate::{Error, Result, background::Background, error::OrSay, net};

/// A relay; it ends, and closes its connections, when it is dropped.
pub struct Relay {
    address: SocketAddr,
    control: Arc<Control>,
    refuse: mpsc::UnboundedSender<Refuse>,
    _background: Background,
}

/// Whether to listen, and where to tell that it is so.
type Refuse = (bool, oneshot::Sender<io::Result<()>>);

/// What went over one connection, in the order in which the relay read it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Recording {
    /// The connection's number, in the order of their opening.
    pub connection: u64,
    /// The bytes, in the pieces that came out of the sockets.
    pub chunks: Vec<Chunk>,
}

/// Some of a connection's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Chunk {
    /// Which way they went.
    pub direction: Direction,
    /// The bytes.
    pub bytes: Bytes,
}

impl Relay {
    /// Starts a relay to `target` on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When `target` cannot be resolved, or nothing more can be started.
    pub async fn start(target: impl ToSocketAddrs + fmt::Debug) -> Result<Self> {
        let resolved = target
            .to_socket_addrs()
            .map(Vec::from_iter)
            .unwrap_or_default();
        if resolved.is_empty() {
            return Err(Error::new(format!(
                "{target:?} is not an address to relay to"
            )));
        }
        let listener = net::listen()?;
        let address = listener
            .local_addr()
            .or_say(|| "a listener without an address")?;
        let background = Background::start("lab-relay")?;
        let control = Arc::new(Control::default());
        let (refuse, orders) = mpsc::unbounded_channel();
        let clock = Clock::start().or_say(|| "could not start a thread")?;
        let shared = Arc::new(Shared {
            control: control.clone(),
            clock,
            target: resolved,
        });
        background.spawn(accept(address, listener, orders, shared));
        Ok(Self {
            address,
            control,
            refuse,
            _background: background,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same database through the relay: a URL, or a libpq string of keywords,
    /// with the host and the port replaced.
    pub fn url(&self, database: &str) -> String {
        url::replace_address(database, self.address)
    }

    /// What has been counted since the start.
    pub fn counts(&self) -> Counts {
        self.control.state().counts
    }

    /// How many connections are open.
    pub fn open_connections(&self) -> usize {
        self.control.state().open.len()
    }

    /// Waits until nothing has moved for that long, and nothing is being delayed.
    pub async fn quiet(&self, time: Duration) {
        loop {
            let before = self.counts();
            tokio::time::sleep(time).await;
            let state = self.control.state();
            if state.counts == before && state.held == 0 {
                return;
            }
        }
    }

    /// Makes every round trip take that much longer, half of it each way. Bytes
    /// stay in order and do not wait for each other. TCP's handshake is in it: the
    /// first bytes of a connection are late by another round trip.
    pub fn delay(&self, round_trip: Duration) {
        self.control.change(|state| state.delay = round_trip / 2);
    }

    /// Becomes a black hole: sockets stay open, nothing moves in either direction,
    /// neither a goodbye nor an error. New connections are taken and go nowhere.
    pub fn stall(&self) {
        self.stalls(Some(true), Some(true));
    }

    /// Like [`stall`](Relay::stall), for what clients send.
    pub fn stall_up(&self) {
        self.stalls(Some(true), None);
    }

    /// Like [`stall`](Relay::stall), for what the server sends.
    pub fn stall_down(&self) {
        self.stalls(None, Some(true));
    }

    /// Loses every connection there is, as connection tracking does that has forgotten
    /// them: they stay open and nothing moves on them any more. New ones work.
    pub fn forget(&self) {
        self.control.forget();
    }

    /// Ends every stall; what waited goes on.
    pub fn resume(&self) {
        self.stalls(Some(false), Some(false));
    }

    fn stalls(&self, up: Option<bool>, down: Option<bool>) {
        self.control.change(|state| {
            state.stalled_up = up.unwrap_or(state.stalled_up);
            state.stalled_down = down.unwrap_or(state.stalled_down);
        });
    }

    /// Ends every connection there is, on both sides, and waits until that is done.
    /// New ones are welcome.
    pub async fn cut(&self, how: Cut) {
        self.control.cut_all(how).await;
    }

    /// Whether new connections are refused, as by a server that is down; those that
    /// there are stay.
    ///
    /// # Errors
    /// When something else has taken the port meanwhile.
    pub async fn refuse(&self, refuse: bool) -> Result<()> {
        let (done, answer) = oneshot::channel();
        let sent = self.refuse.send((refuse, done)).is_ok();
        match answer.await {
            Ok(result) if sent => {
                result.or_say(|| format!("could not listen on {} again", self.address))
            }
            _ => Err(Error::new("the relay has ended")),
        }
    }

    /// Whether to keep what goes through, from now on.
    pub fn record(&self, record: bool) {
        self.control.change(|state| state.record = record);
    }

    /// What was recorded, in the order of the connections.
    pub fn recordings(&self) -> Vec<Recording> {
        self.control.state().recordings.values().cloned().collect()
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Relay")
            .field("address", &self.address)
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

/// What all connections share.
struct Shared {
    control: Arc<Control>,
    clock: Clock,
    target: Vec<SocketAddr>,
}

/// Takes connections, for as long as there is a listener, and orders to have none.
async fn accept(
    address: SocketAddr,
    listener: TcpListener,
    mut orders: mpsc::UnboundedReceiver<Refuse>,
    shared: Arc<Shared>,
) {
    let mut listener = listen(listener).ok();
    loop {
        let next = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            order = orders.recv() => match order {
                None => return,
                Some((true, done)) => {
                    listener = None;
                    let _ = done.send(Ok(()));
                }
                Some((false, done)) => {
                    let result = match listener {
                        Some(_) => Ok(()),
                        None => TcpListener::bind(address).and_then(listen).map(|fresh| {
                            listener = Some(fresh);
                        }),
                    };
                    let _ = done.send(result);
                }
            },
            accepted = next => {
                if let Ok((client, _)) = accepted {
                    let number = shared.control.open();
                    tokio::spawn(serve(shared.clone(), number, client));
                }
            }
        }
    }
}

fn listen(listener: TcpListener) -> io::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

async fn serve(shared: Arc<Shared>, number: u64, client: tokio::net::TcpStream) {
    let connection = Connection::new(&shared.control, &shared.clock, number);
    connection.run(client, &shared.target).await;
    // The sockets are closed by now: whoever waits for that may know.
    connection.forget();
}
