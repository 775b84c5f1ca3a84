//! The connection limits of providers' plans, from their documentation (November 2026).

use super::limit::Limit;

/// `max_connections` by compute size; 7 are reserved for Neon itself (Neon, "Connection
/// pooling").
const NEON: [(&str, u64); 10] = [
    ("0.25", 104),
    ("0.5", 209),
    ("1", 419),
    ("2", 839),
    ("3", 1258),
    ("4", 1678),
    ("5", 2098),
    ("6", 2517),
    ("7", 2937),
    ("8", 3357),
];

/// `max_connections` from 9 CU on.
const NEON_MAX: u64 = 4000;

/// The recommended number of direct connections by size (Supabase, "Compute and disk").
const SUPABASE: [(&str, u64); 11] = [
    ("nano", 60),
    ("micro", 60),
    ("small", 90),
    ("medium", 120),
    ("large", 160),
    ("xl", 240),
    ("2xl", 380),
    ("4xl", 480),
    ("8xl", 490),
    ("12xl", 500),
    ("16xl", 500),
];

/// The memory per connection: the limit is LEAST(memory / this, 5000) (RDS user guide,
/// "Quotas and constraints").
const RDS_MEMORY: u64 = 9_531_392;
const RDS_MAX: u64 = 5000;

/// PostgreSQL's default of `superuser_reserved_connections`.
const RESERVED: u64 = 3;

/// The limit of a provider's plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    source: &'static str,
    max: u64,
    reserved: u64,
}

impl Provider {
    /// Parses `neon:1`, `rds:8GiB`, `supabase:small`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, plan) = text.split_once(':').unwrap_or((text, ""));
        let limit = |table: &[(&str, u64)]| {
            let known = table.iter().find(|(name, _)| *name == plan);
            known.map(|(_, max)| *max)
        };
        let names = |table: &[(&str, u64)]| {
            let names: Vec<_> = table.iter().map(|(name, _)| *name).collect();
            names.join(", ")
        };
        let provider = |source, max, reserved| Provider {
            source,
            max,
            reserved,
        };
        match name {
            "neon" => {
                let large = plan.parse().is_ok_and(|size: u64| size > 8);
                let max = limit(&NEON).or(large.then_some(NEON_MAX));
                let max = max.ok_or_else(|| {
                    format!(
                        "invalid compute size: expected neon:CU with {} or more",
                        names(&NEON)
                    )
                })?;
                Ok(provider("Neon's documentation", max, 7))
            }
            "supabase" => {
                let max = limit(&SUPABASE).ok_or_else(|| {
                    let names = names(&SUPABASE);
                    format!("invalid compute size: expected supabase:SIZE with one of {names}")
                })?;
                Ok(provider("Supabase's documentation", max, RESERVED))
            }
            "rds" | "aurora" => {
                let bytes = memory(plan).ok_or_else(|| {
                    format!("invalid memory size: expected {name}:MEMORY, for example {name}:8GiB")
                })?;
                let max = (bytes / RDS_MEMORY).min(RDS_MAX);
                Ok(provider(
                    "formula of the RDS user guide, an upper bound",
                    max,
                    RESERVED,
                ))
            }
            _ => Err(
                "unknown provider: expected neon:CU, rds:MEMORY or supabase:SIZE; for other \
                 providers, pass the limit as --limit"
                    .to_owned(),
            ),
        }
    }

    pub fn limit(&self) -> Limit {
        Limit {
            max: self.max,
            reserved: self.reserved,
            used: None,
            source: self.source.to_owned(),
        }
    }
}

/// Parses `8GiB`, `512MiB`.
fn memory(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match &lower[digits.len()..] {
        "gib" | "gb" | "g" => 1 << 30,
        "mib" | "mb" | "m" => 1 << 20,
        _ => return None,
    };
    digits.trim().parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_of_providers_have_limits() {
        for (text, max, reserved) in [
            ("neon:0.25", 104, 7),
            ("neon:8", 3357, 7),
            ("neon:9", 4000, 7),
            ("neon:56", 4000, 7),
            ("supabase:micro", 60, 3),
            ("rds:1GiB", 112, 3),
            ("rds:8GiB", 901, 3),
            ("aurora:512GiB", 5000, 3),
        ] {
            let limit = Provider::parse(text).expect(text).limit();
            assert_eq!((limit.max, limit.reserved), (max, reserved), "{text}");
        }
        for wrong in [
            "",
            "neon",
            "neon:",
            "neon:0",
            "rds:8",
            "rds:-1GiB",
            "aiven:hobbyist",
        ] {
            Provider::parse(wrong).expect_err(wrong);
        }
    }
}
