//! What went through, and how often it went there and back.

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// What a relay has counted since its start. Bytes and round trips count when they
/// arrive at the relay, before it forwards them: who has seen an answer finds it
/// counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Connections that clients have opened.
    pub connections: u64,
    /// How often, on any connection, bytes went up and then bytes came down: what a
    /// client that waits for each answer pays for. TCP's own handshake is not seen.
    pub round_trips: u64,
    /// Round trips that nobody waits for, not among the others: PostgreSQL's Close
    /// and Sync by themselves, as tokio-postgres sends them when a statement is
    /// dropped. Under TLS they cannot be told, and count as round trips.
    pub closes: u64,
    /// Bytes from clients.
    pub bytes_up: u64,
    /// Bytes from the server.
    pub bytes_down: u64,
}

impl Counts {
    /// What was added since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            connections: self.connections - earlier.connections,
            round_trips: self.round_trips - earlier.round_trips,
            closes: self.closes - earlier.closes,
            bytes_up: self.bytes_up - earlier.bytes_up,
            bytes_down: self.bytes_down - earlier.bytes_down,
        }
    }
}

/// What a connection's client is waiting for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Awaits {
    #[default]
    Nothing,
    /// The answer to Close: it comes, but nobody waits.
    Close,
    Answer,
}

impl Counts {
    /// Takes note of bytes on one connection.
    pub(super) fn saw(&mut self, direction: Direction, bytes: &[u8], awaits: &mut Awaits) {
        match direction {
            Direction::Up => {
                self.bytes_up += bytes.len() as u64;
                *awaits = match *awaits {
                    Awaits::Nothing | Awaits::Close if only_closes(bytes) => Awaits::Close,
                    _ => Awaits::Answer,
                };
            }
            Direction::Down => {
                self.bytes_down += bytes.len() as u64;
                match std::mem::take(awaits) {
                    Awaits::Nothing => {}
                    Awaits::Close => self.closes += 1,
                    Awaits::Answer => self.round_trips += 1,
                }
            }
        }
    }
}

/// Whether this is nothing but Close messages with their Syncs.
/// <https://www.postgresql.org/docs/current/protocol-message-formats.html>
fn only_closes(mut bytes: &[u8]) -> bool {
    const SYNC: &[u8] = b"S\0\0\0\x04";
    if !bytes.starts_with(b"C") {
        return false;
    }
    loop {
        bytes = match bytes {
            [] => return true,
            [b'C', a, b, c, d, ..] => {
                let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
                match bytes.get(length.saturating_add(1)..) {
                    Some(rest) => rest,
                    None => return false,
                }
            }
            other => match other.strip_prefix(SYNC) {
                Some(rest) => rest,
                None => return false,
            },
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(script: &[(Direction, &[u8])]) -> (u64, u64) {
        let (mut counts, mut awaits) = (Counts::default(), Awaits::default());
        for (direction, bytes) in script {
            counts.saw(*direction, bytes, &mut awaits);
        }
        (counts.round_trips, counts.closes)
    }

    const CLOSE: &[u8] = b"C\0\0\0\x08Ss1\0S\0\0\0\x04";

    #[test]
    fn round_trips_are_changes_of_direction() {
        use Direction::{Down, Up};
        assert_eq!(count(&[(Down, b"hello")]), (0, 0));
        assert_eq!(
            count(&[(Up, b"a"), (Up, b"b"), (Down, b"a"), (Down, b"b")]),
            (1, 0)
        );
        assert_eq!(
            count(&[(Up, b"a"), (Down, b"a"), (Up, b"b"), (Down, b"b")]),
            (2, 0)
        );
        assert_eq!(count(&[(Up, b"bye")]), (0, 0));
    }

    #[test]
    fn closes_are_counted_apart() {
        use Direction::{Down, Up};
        assert_eq!(count(&[(Up, CLOSE), (Down, b"3")]), (0, 1));
        assert_eq!(
            count(&[(Up, CLOSE), (Up, b"Q"), (Down, b"3"), (Down, b"T")]),
            (1, 0)
        );
        assert_eq!(
            count(&[(Up, CLOSE), (Down, b"3"), (Up, b"Q"), (Down, b"T")]),
            (1, 1)
        );
        assert_eq!(
            count(&[(Up, &[CLOSE, b"Q"].concat()), (Down, b"3T")]),
            (1, 0)
        );
        assert!(!only_closes(&CLOSE[..7]) && !only_closes(b"") && only_closes(&CLOSE.repeat(2)));
    }
}
