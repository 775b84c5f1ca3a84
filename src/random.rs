//! Randomness that no two processes share.

use ring::rand::{SecureRandom, SystemRandom};

/// A number from 0 to 1, from the system. Nothing is kept in this process: what was made of
/// one snapshot (SnapStart) would otherwise go on with the same numbers everywhere, and all
/// would come back at the same moment.
pub(crate) fn fraction() -> f64 {
    let mut bytes = [0; 4];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        // Without the system's there is none better.
        Err(_) => 0.5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_spread_from_0_to_1() {
        let drawn: Vec<_> = (0..1_000).map(|_| fraction()).collect();
        assert!(drawn.iter().all(|drawn| (0.0..=1.0).contains(drawn)));
        assert!(drawn.iter().any(|&drawn| drawn < 0.1) && drawn.iter().any(|&drawn| drawn > 0.9));
    }
}
