//! Decides which failures of connecting are retried, and for how long.
//!
//! No statement was executed yet, so connecting may always be retried. A server that is full is
//! not helped by retries.

use std::io;
use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::error::{Error, ErrorKind};

/// The longest first delay.
const FIRST: Duration = Duration::from_millis(50);

/// The longest delay.
const MOST: Duration = Duration::from_secs(1);

/// The longest time limit: longer than any invocation, and without overflow.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// The time within which a connect has to end.
#[derive(Debug, Clone, Copy)]
pub(super) struct TimeLimit {
    pub(super) began: Instant,
    pub(super) until: Instant,
}

impl TimeLimit {
    /// Creates a limit that begins now: at most three quarters of the time that is `left`, so
    /// that the caller can still respond with an error.
    pub(super) fn new(limit: Duration, left: Option<Duration>) -> Self {
        let began = Instant::now();
        let share = left.map(|left| left / 4 * 3);
        let limit = share.map_or(limit, |share| share.min(limit));
        TimeLimit {
            began,
            until: began + limit.min(LONGEST),
        }
    }

    /// Returns the whole limit.
    pub(super) fn whole(&self) -> Duration {
        self.until - self.began
    }

    /// Returns until when to try one of `several` addresses: an equal share, `most` at most.
    pub(super) fn share(&self, several: usize, most: Duration) -> Instant {
        match u32::try_from(several) {
            Ok(several @ 2..) => {
                let now = Instant::now();
                let left = self.until.saturating_duration_since(now);
                now + (left / several).min(most)
            }
            _ => self.until,
        }
    }

    /// Returns until when to retry: for half of the time, in which most servers have restarted,
    /// since a caller that can do without the database needs an answer; for all of it if the
    /// server said that it is starting.
    fn retry_until(&self, error: &Error) -> Instant {
        match error.kind() {
            ErrorKind::ServerStarting => self.until,
            _ => self.began + self.whole() / 2,
        }
    }
}

pub(super) fn backoff() -> Backoff {
    Backoff::new(FIRST, MOST)
}

/// Returns the delay before the next try, or `None` if there is none.
pub(super) fn delay<R: FnMut() -> f64>(
    error: &Error,
    time: &TimeLimit,
    backoff: &mut Backoff<R>,
) -> Option<Duration> {
    let delay = backoff.next().filter(|_| is_transient(error))?;
    (Instant::now() + delay < time.retry_until(error)).then_some(delay)
}

/// Returns whether to try another address of the server: this one did not answer, or it is
/// starting or stopping.
pub(super) fn tries_next_address(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Refused
            | ErrorKind::NameNotResolved
            | ErrorKind::NetworkBlocked
            | ErrorKind::Unreachable
            | ErrorKind::ConnectTimeout
            | ErrorKind::Closed
            | ErrorKind::ServerStarting
            | ErrorKind::ServerStopping
    )
}

/// Returns whether the error may be gone at the next try.
pub(crate) fn is_transient(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Refused
        | ErrorKind::ServerStarting
        | ErrorKind::ServerStopping
        | ErrorKind::Closed => true,
        ErrorKind::Unreachable => cause(error).is_some_and(|cause| {
            matches!(
                cause.kind(),
                io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::UnexpectedEof
            )
        }),
        ErrorKind::NameNotResolved => cause(error).is_some_and(|cause| !is_unknown(cause)),
        _ => false,
    }
}

fn cause(error: &Error) -> Option<&io::Error> {
    std::error::Error::source(error)?.downcast_ref()
}

/// Returns whether there is no such host name: the messages of glibc, musl and macOS for
/// EAI_NONAME, since the standard library keeps nothing else of it.
fn is_unknown(cause: &io::Error) -> bool {
    let text = cause.to_string();
    [
        "not known",
        "Name does not resolve",
        "nodename nor servname",
    ]
    .iter()
    .any(|words| text.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn failed(kind: ErrorKind) -> Error {
        Error::new(kind, "failed")
    }

    fn delay_of(error: &Error, time: &TimeLimit) -> Option<Duration> {
        let mut backoff = Backoff::with_random(FIRST, MOST, || 1.0);
        delay(error, time, &mut backoff)
    }

    #[tokio::test(start_paused = true)]
    async fn only_transient_failures_are_retried() {
        let time = TimeLimit::new(10 * SECOND, None);
        for &kind in ErrorKind::ALL {
            let again = matches!(
                kind,
                ErrorKind::Refused
                    | ErrorKind::ServerStarting
                    | ErrorKind::ServerStopping
                    | ErrorKind::Closed
            );
            let delay = delay_of(&failed(kind), &time);
            assert_eq!(delay, again.then_some(FIRST), "{kind}");
        }
        let caused = |kind, cause: io::Error| {
            let error = failed(kind).with_source(cause);
            delay_of(&error, &time).is_some()
        };
        let reset = io::ErrorKind::ConnectionReset;
        assert!(caused(ErrorKind::Unreachable, reset.into()));
        let no_way = io::ErrorKind::NetworkUnreachable;
        assert!(!caused(ErrorKind::Unreachable, no_way.into()));
        for (text, again) in [
            (
                "failed to lookup address information: Temporary failure in name resolution",
                true,
            ),
            (
                "failed to lookup address information: Name or service not known",
                false,
            ),
        ] {
            let error = io::Error::other(text);
            assert_eq!(caused(ErrorKind::NameNotResolved, error), again, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn retries_end_after_a_share_of_the_time() {
        let time = TimeLimit::new(10 * SECOND, Some(8 * SECOND));
        assert_eq!(time.whole(), 6 * SECOND, "three quarters of what is left");
        let (refused, starting) = (
            failed(ErrorKind::Refused),
            failed(ErrorKind::ServerStarting),
        );
        tokio::time::advance(2 * SECOND).await;
        assert!(delay_of(&refused, &time).is_some());
        tokio::time::advance(SECOND).await;
        assert!(delay_of(&refused, &time).is_none());
        assert!(delay_of(&starting, &time).is_some(), "it has said so");
        tokio::time::advance(3 * SECOND).await;
        assert!(delay_of(&starting, &time).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn retries_without_a_limit_have_time() {
        assert_eq!(TimeLimit::new(Duration::MAX, None).whole(), LONGEST);
    }

    #[tokio::test(start_paused = true)]
    async fn each_host_gets_a_share_of_the_time() {
        let time = TimeLimit::new(4 * SECOND, None);
        let share = |several| time.share(several, 3 * SECOND) - time.began;
        assert_eq!(share(1), 4 * SECOND);
        assert_eq!(share(2), 2 * SECOND);
        assert_eq!(share(4), SECOND);
        let long = TimeLimit::new(60 * SECOND, None);
        assert_eq!(long.share(2, 3 * SECOND) - long.began, 3 * SECOND);
    }
}
