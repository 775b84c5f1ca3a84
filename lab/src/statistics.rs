//! Medians and their spread, and the CPU time that they are of.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

/// The middle of some samples, and the middle half of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle.
    pub median: f64,
    /// The lower quartile.
    pub low: f64,
    /// The upper quartile.
    pub high: f64,
}

impl Spread {
    /// `None` without samples.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let last = sorted.len().checked_sub(1)?;
            let place = share * last as f64;
            let (below, above) = (sorted[place as usize], sorted[place.ceil() as usize]);
            Some(below + (above - below) * place.fract())
        };
        Some(Self {
            median: at(0.5)?,
            low: at(0.25)?,
            high: at(0.75)?,
        })
    }

    /// Of the ratios of samples that were taken in the same round.
    pub fn of_ratios(samples: &[f64], base: &[f64]) -> Option<Self> {
        let ratios: Vec<f64> = samples.iter().zip(base).map(|(a, b)| a / b).collect();
        Self::of(&ratios)
    }

    /// Both, as JSON.
    pub fn json(self) -> Value {
        json!({ "median": self.median, "quartiles": [self.low, self.high] })
    }

    /// `1.05 (1.02-1.09)`.
    pub fn ratio(self) -> String {
        format!("{:.2} ({:.2}-{:.2})", self.median, self.low, self.high)
    }
}

/// What this process has spent so far, all its threads together.
pub fn process_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
