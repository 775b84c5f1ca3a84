//! Delays retries: exponential backoff with full jitter.

use std::time::Duration;

use crate::random;

/// An iterator of delays with exponential backoff and full jitter: each is a random time between
/// zero and a ceiling that doubles. Clients that failed together do not retry together (AWS
/// Architecture Blog, "Exponential Backoff And Jitter").
#[derive(Debug, Clone)]
pub struct Backoff<R = fn() -> f64> {
    ceiling: Duration,
    max: Duration,
    random: R,
}

impl Backoff {
    /// Makes delays of which the first is `first` at most, and each `max` at most.
    pub fn new(first: Duration, max: Duration) -> Self {
        Backoff::with_random(first, max, random::fraction)
    }
}

impl<R: FnMut() -> f64> Backoff<R> {
    /// Makes the same delays with another source of numbers from 0 to 1.
    pub fn with_random(first: Duration, max: Duration, random: R) -> Self {
        Backoff {
            ceiling: first.min(max),
            max,
            random,
        }
    }
}

impl<R: FnMut() -> f64> Iterator for Backoff<R> {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let delay = self.ceiling.mul_f64((self.random)().clamp(0.0, 1.0));
        self.ceiling = self.ceiling.saturating_mul(2).min(self.max);
        Some(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn milliseconds(random: impl FnMut() -> f64) -> Vec<u128> {
        let (first, most) = (Duration::from_millis(50), Duration::from_millis(300));
        let backoff = Backoff::with_random(first, most, random);
        backoff.take(5).map(|delay| delay.as_millis()).collect()
    }

    #[test]
    fn ceiling_doubles_up_to_the_maximum() {
        assert_eq!(milliseconds(|| 1.0), [50, 100, 200, 300, 300]);
        assert_eq!(milliseconds(|| 0.5), [25, 50, 100, 150, 150]);
        assert_eq!(milliseconds(|| 0.0), [0; 5]);
    }

    #[test]
    fn jitter_differs_between_calls() {
        let delays = |_| Backoff::new(Duration::from_secs(1), Duration::MAX).next();
        let first = delays(0);
        assert!((1..50).any(|at| delays(at) != first), "always {first:?}");
    }
}
