//! One connection through the relay: a socket to the client, one to the server,
//! and for each direction a reader, a queue that makes bytes late, and a writer.

use std::{
    io,
    net::SocketAddr,
    sync::Mutex,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustix::net::{Shutdown, shutdown};
use tokio::{
    net::TcpStream,
    sync::{Semaphore, mpsc},
    time::timeout,
};

use super::{
    Cut, Direction,
    clock::Clock,
    control::{Control, State},
    counts::Awaits,
};

/// At most this much is on its way in one direction. Without a limit the relay
/// would take a large result from the server that its client never reads.
const IN_FLIGHT: usize = 1024 * 1024;

/// How long a cut waits for a connection that is just being made.
const CONNECT: Duration = Duration::from_secs(1);

/// What is read at once.
const CHUNK: usize = 64 * 1024;

/// A queue's item is due at a moment; the last one has no bytes.
type Item = (Instant, Option<Bytes>);

pub(super) struct Connection<'a> {
    control: &'a Control,
    clock: &'a Clock,
    number: u64,
    awaits: Mutex<Awaits>,
    /// Chunks in the queues, to be taken off the books when the connection ends early.
    held: Mutex<usize>,
    accepted: Instant,
}

impl<'a> Connection<'a> {
    pub(super) fn new(control: &'a Control, clock: &'a Clock, number: u64) -> Self {
        Self {
            control,
            clock,
            number,
            awaits: Mutex::default(),
            held: Mutex::default(),
            accepted: Instant::now(),
        }
    }

    /// Relays until both sides have closed, one has failed, or it is cut.
    pub(super) async fn run(&self, client: TcpStream, target: &[SocketAddr]) {
        let cut = self.control.cut(self.number);
        tokio::pin!(cut);
        // Into a black hole no connection is made either.
        tokio::select! {
            biased;
            how = &mut cut => return self.end(how, &[&client]).await,
            () = self.control.flowing(self.number, Direction::Up) => {}
        }
        let connect = TcpStream::connect(target);
        tokio::pin!(connect);
        let server = tokio::select! {
            biased;
            how = &mut cut => {
                // The kernel may have connected already: then both ends are told.
                return match timeout(CONNECT, connect).await {
                    Ok(Ok(server)) => self.end(how, &[&client, &server]).await,
                    _ => self.end(how, &[&client]).await,
                };
            }
            server = &mut connect => server,
        };
        let Ok(server) = server else {
            return self.end(Cut::Reset, &[&client]).await;
        };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        tokio::select! {
            biased;
            how = &mut cut => self.end(how, &[&client, &server]).await,
            result = self.relay(&client, &server) => {
                if result.is_err() {
                    self.end(Cut::Reset, &[&client, &server]).await;
                }
            }
        }
    }

    async fn relay(&self, client: &TcpStream, server: &TcpStream) -> io::Result<()> {
        let up = self.pump(Direction::Up, client, server);
        let down = self.pump(Direction::Down, server, client);
        tokio::try_join!(up, down).map(drop)
    }

    async fn pump(&self, direction: Direction, from: &TcpStream, to: &TcpStream) -> io::Result<()> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let credit = Semaphore::new(IN_FLIGHT);
        let read = self.read(direction, from, sender, &credit);
        let write = self.write(direction, to, receiver, &credit);
        tokio::try_join!(read, write).map(drop)
    }

    async fn read(
        &self,
        direction: Direction,
        from: &TcpStream,
        queue: mpsc::UnboundedSender<Item>,
        credit: &Semaphore,
    ) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK];
        // The kernel has answered the client's handshake without any delay: what
        // the client sends first pays for that.
        let mut handshake = direction == Direction::Up;
        loop {
            let (due, bytes) = self
                .when_flowing(
                    direction,
                    || from.readable(),
                    |state| {
                        let length = from.try_read(&mut buffer)?;
                        let bytes = Bytes::copy_from_slice(&buffer[..length]);
                        if length > 0 {
                            let mut awaits = lock(&self.awaits);
                            state.saw(self.number, direction, &bytes, &mut awaits);
                            *lock(&self.held) += 1;
                        }
                        Ok((state.delay, bytes))
                    },
                )
                .await
                .map(|(delay, bytes)| {
                    let base = Instant::now();
                    let base = if handshake {
                        base.max(self.accepted + 2 * delay)
                    } else {
                        base
                    };
                    (base + delay, bytes)
                })?;
            handshake = false;
            if bytes.is_empty() {
                let _ = queue.send((due, None));
                return Ok(());
            }
            // Full: what waits here is late already.
            if let Ok(permit) = credit.acquire_many(bytes.len() as u32).await {
                permit.forget();
            }
            let _ = queue.send((due, Some(bytes)));
        }
    }

    async fn write(
        &self,
        direction: Direction,
        to: &TcpStream,
        mut queue: mpsc::UnboundedReceiver<Item>,
        credit: &Semaphore,
    ) -> io::Result<()> {
        while let Some((due, bytes)) = queue.recv().await {
            self.clock.until(due).await;
            let Some(mut bytes) = bytes else {
                self.control.flowing(self.number, direction).await;
                let _ = shutdown(to, Shutdown::Write);
                return Ok(());
            };
            let length = bytes.len();
            while !bytes.is_empty() {
                let written = self
                    .when_flowing(direction, || to.writable(), |_| to.try_write(&bytes))
                    .await?;
                let _ = bytes.split_to(written);
            }
            credit.add_permits(length);
            self.control.state().held -= 1;
            *lock(&self.held) -= 1;
        }
        Ok(())
    }

    /// Does `work` on a socket once it is `ready`, inside the lock and only while
    /// bytes may go this way.
    async fn when_flowing<T, R>(
        &self,
        direction: Direction,
        ready: impl Fn() -> R,
        mut work: impl FnMut(&mut State) -> io::Result<T>,
    ) -> io::Result<T>
    where
        R: Future<Output = io::Result<()>>,
    {
        loop {
            self.control.flowing(self.number, direction).await;
            tokio::select! {
                biased;
                () = self.control.stalled(self.number, direction) => continue,
                result = ready() => result?,
            }
            let mut state = self.control.state();
            if state.stalled(self.number, direction) {
                continue;
            }
            match work(&mut state) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    /// Closes the sockets; whoever asked for the cut learns of it before the last
    /// bytes have been drained.
    async fn end(&self, how: Cut, sockets: &[&TcpStream]) {
        for socket in sockets {
            match how {
                Cut::Reset => {
                    let _ = socket.set_zero_linger();
                }
                Cut::Fin => {
                    let _ = shutdown(socket, Shutdown::Write);
                }
            }
        }
        if how == Cut::Reset {
            return;
        }
        self.forget();
        // Closing a socket with unread bytes would reset it.
        let drain = async {
            for socket in sockets {
                let mut buffer = vec![0; CHUNK];
                while socket.readable().await.is_ok() {
                    match socket.try_read(&mut buffer) {
                        Ok(0) => break,
                        Err(error) if error.kind() != io::ErrorKind::WouldBlock => break,
                        _ => {}
                    }
                }
            }
        };
        let _ = timeout(Duration::from_secs(10), drain).await;
    }

    /// Takes the connection off the books.
    pub(super) fn forget(&self) {
        self.control
            .close(self.number, std::mem::take(&mut *lock(&self.held)));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
