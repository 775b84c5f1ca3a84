//! Random numbers from the operating system.

use ring::rand::{SecureRandom, SystemRandom};

/// A number from 0 to 1, from the system. Nothing is kept in this process: what was made of
/// one snapshot (SnapStart) would otherwise go on with the same numbers everywhere, and all
/// would come back at the same moment.
pub fn fraction() -> f64 {
    match drawn() {
        Some(number) => f64::from((number >> 32) as u32) / f64::from(u32::MAX),
        // Without the system's there is none better.
        None => 0.5,
    }
}

/// Any number, to tell what is ours from what is another's.
pub fn number() -> u64 {
    drawn().unwrap_or_default()
}

fn drawn() -> Option<u64> {
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
