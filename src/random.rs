//! Draws random numbers from the operating system.

use ring::rand::{SecureRandom, SystemRandom};

/// Draws a number from 0 to 1. No generator is kept in this process: all processes restored from
/// one snapshot (SnapStart) would continue with the same numbers, and retry at the same time.
pub fn fraction() -> f64 {
    // If the system has no random numbers, the mean has to do.
    drawn().map_or(0.5, |number| {
        f64::from((number >> 32) as u32) / f64::from(u32::MAX)
    })
}

/// Draws any number; zero if the system has none.
pub fn number() -> u64 {
    drawn().unwrap_or_default()
}

/// Draws any number. `None` if the system has none.
pub(crate) fn drawn() -> Option<u64> {
    let mut bytes = [0; 8];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.ok().map(|()| u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_numbers_spread_from_0_to_1() {
        let drawn: Vec<_> = (0..1_000).map(|_| fraction()).collect();
        assert!(drawn.iter().all(|drawn| (0.0..=1.0).contains(drawn)));
        assert!(drawn.iter().any(|&drawn| drawn < 0.1) && drawn.iter().any(|&drawn| drawn > 0.9));
    }
}
