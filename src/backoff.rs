//! Delays between tries: exponential backoff with full jitter.

use std::time::Duration;

use crate::random;

/// Delays with exponential backoff and full jitter: each is anything between nothing and
/// a ceiling that doubles. Many that failed at once do not come back at once (AWS
/// Architecture Blog, "Exponential Backoff And Jitter").
#[derive(Debug, Clone)]
pub struct Backoff<R = fn() -> f64> {
    ceiling: Duration,
    most: Duration,
    random: R,
}

impl Backoff {
    /// The first delay is `first` at most, each of them `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Backoff::with_random(first, most, random::fraction)
    }
}

impl<R: FnMut() -> f64> Backoff<R> {
    /// The same with another source of numbers from 0 to 1.
    pub fn with_random(first: Duration, most: Duration, random: R) -> Self {
        Backoff {
            ceiling: first.min(most),
            most,
            random,
        }
    }
}

impl<R: FnMut() -> f64> Iterator for Backoff<R> {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let delay = self.ceiling.mul_f64((self.random)().clamp(0.0, 1.0));
        self.ceiling = self.ceiling.saturating_mul(2).min(self.most);
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
