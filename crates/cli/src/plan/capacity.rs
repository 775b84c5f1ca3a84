//! Compares the connections of a deployment with the server's slots.

use serde::Serialize;

use super::group::Group;
use super::limit::Limit;

/// The percentage of the available slots above which a plan is tight: migrations,
/// administrators and monitoring also connect.
const TIGHT: u64 = 80;

/// The deployment, and the limit of the server.
#[derive(Debug, Clone)]
pub struct Plan {
    pub groups: Vec<Group>,
    /// The percentage of the old deployment that is still running with the new one.
    pub overlap: u64,
    pub pool_size: Option<u64>,
    pub others: u64,
    pub limit: Limit,
}

/// Whether the deployment fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    Ok,
    Tight,
    TooMany,
}

impl Plan {
    /// Returns the connections of all groups.
    pub fn steady(&self) -> u64 {
        self.groups
            .iter()
            .fold(0, |sum, group| sum.saturating_add(group.connections()))
    }

    /// Returns the connections while a new deployment replaces the old one.
    pub fn peak(&self) -> u64 {
        let steady = self.steady();
        steady.saturating_add(steady.saturating_mul(self.overlap).div_ceil(100))
    }

    /// Returns the slots that the deployment needs at most.
    pub fn needed(&self) -> u64 {
        self.pool_size.map_or(self.peak(), |pool| pool)
    }

    /// Returns the slots that are available to the deployment.
    pub fn available(&self) -> u64 {
        let Limit { max, reserved, .. } = self.limit;
        max.saturating_sub(reserved).saturating_sub(self.others)
    }

    /// Describes how the available slots are calculated.
    pub fn describe_limit(&self) -> String {
        let Limit {
            max,
            reserved,
            used,
            source,
        } = &self.limit;
        let others = match self.others {
            0 => String::new(),
            others => format!(", {others} for others"),
        };
        let used = used.map(|used| format!("; {used} in use now"));
        format!(
            "{max} ({source}), {reserved} of them reserved{others}{}",
            used.unwrap_or_default()
        )
    }

    pub fn fit(&self) -> Fit {
        let (needed, available) = (self.needed(), self.available());
        if needed > available {
            Fit::TooMany
        } else if needed.saturating_mul(100) > available.saturating_mul(TIGHT) {
            Fit::Tight
        } else {
            Fit::Ok
        }
    }

    /// Returns the changes with which it would fit.
    pub fn advice(&self) -> Vec<String> {
        if self.fit() == Fit::Ok {
            return Vec::new();
        }
        let room = self.available().saturating_mul(TIGHT) / 100;
        if self.pool_size.is_some() {
            return vec![format!(
                "set the pooler's size to {room} connections at most"
            )];
        }
        let mut advice = Vec::new();
        let largest = self.groups.iter().max_by_key(|group| group.connections());
        if let Some(group) = largest.filter(|group| group.connections() > 0) {
            let rest = self.steady() - group.connections();
            // The connections that this group may have so that all groups fit with the overlap.
            let share = (room.saturating_mul(100) / (100 + self.overlap)).saturating_sub(rest);
            let (name, size) = (&group.name, group.size);
            let fewer = share / group.instances;
            if fewer >= 1 && fewer < size {
                advice.push(format!(
                    "size: {fewer} connections per instance of {name} (ANTIFREEZE_MAX_CONNECTIONS=\
                     {fewer}) instead of {size}"
                ));
            }
            let instances = share / size;
            if instances >= 1 && instances < group.instances {
                advice.push(format!(
                    "concurrency: at most {instances} instances of {name} (reserved concurrency) \
                     instead of {}",
                    group.instances
                ));
            }
            if size > 1 && share >= group.instances && fewer == 0 {
                advice.push(format!("size: 1 connection per instance of {name}"));
            }
        }
        advice.push(format!(
            "pooler: in transaction mode, {} clients share at most {room} connections",
            self.peak()
        ));
        if self.overlap > 0 && self.steady().saturating_mul(100) <= self.available() * TIGHT {
            advice.push(
                "overlap: it fits without the old deployment: shift the traffic gradually, and \
                 close the old connections (ANTIFREEZE_LIFETIME=per-invocation)"
                    .to_owned(),
            );
        }
        advice
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(groups: &[(u64, u64)], overlap: u64, max: u64) -> Plan {
        let groups = groups
            .iter()
            .map(|&(instances, size)| Group::new("g", instances, size));
        Plan {
            groups: groups.collect(),
            overlap,
            pool_size: None,
            others: 0,
            limit: Limit::given(max, 3),
        }
    }

    #[test]
    fn overlapping_deployments_count_twice() {
        let plan = plan(&[(200, 1), (3, 5)], 100, 100);
        assert_eq!(
            (plan.steady(), plan.peak(), plan.available()),
            (215, 430, 97)
        );
        let half = Plan {
            overlap: 50,
            ..plan
        };
        // Half an instance is rounded up.
        assert_eq!(half.peak(), 323);
    }

    #[test]
    fn verdict_is_exact_at_its_limits() {
        // 100 slots: 103 without the 3 reserved.
        for (connections, fit) in [
            (80, Fit::Ok),
            (81, Fit::Tight),
            (100, Fit::Tight),
            (101, Fit::TooMany),
        ] {
            assert_eq!(
                plan(&[(connections, 1)], 0, 103).fit(),
                fit,
                "{connections}"
            );
        }
        assert_eq!(plan(&[(0, 0)], 100, 3).fit(), Fit::Ok);
        assert_eq!(plan(&[(1, 1)], 100, 3).fit(), Fit::TooMany);
        assert_eq!(plan(&[(u64::MAX, 2)], 100, u64::MAX).fit(), Fit::TooMany);
    }

    #[test]
    fn others_and_a_pooler_are_counted() {
        let alone = plan(&[(80, 1)], 0, 103);
        let with_others = Plan {
            others: 1,
            ..alone.clone()
        };
        assert_eq!((alone.fit(), with_others.fit()), (Fit::Ok, Fit::Tight));
        let pooled = Plan {
            pool_size: Some(20),
            ..plan(&[(5000, 1)], 100, 103)
        };
        assert_eq!((pooled.needed(), pooled.fit()), (20, Fit::Ok));
    }

    #[test]
    fn plans_that_follow_the_advice_fit() {
        for (groups, overlap, max) in [
            (&[(200, 1)][..], 100, 100),
            (&[(20, 10), (3, 5)], 100, 203),
            (&[(20, 10)], 0, 103),
            (&[(7, 3), (7, 2), (1, 1)], 33, 40),
        ] {
            let first = plan(groups, overlap, max);
            assert_ne!(first.fit(), Fit::Ok);
            let advice = first.advice();
            let number = |start: &str| -> Option<u64> {
                let line = advice.iter().find_map(|line| line.strip_prefix(start))?;
                line.trim()
                    .trim_start_matches("at most ")
                    .split(' ')
                    .next()?
                    .parse()
                    .ok()
            };
            let mut tried = 0;
            if let Some(size) = number("size:") {
                let mut smaller = first.clone();
                smaller.groups[0].size = size;
                assert_eq!(smaller.fit(), Fit::Ok, "{advice:?}");
                tried += 1;
            }
            if let Some(instances) = number("concurrency:") {
                let mut fewer = first.clone();
                fewer.groups[0].instances = instances;
                assert_eq!(fewer.fit(), Fit::Ok, "{advice:?}");
                tried += 1;
            }
            assert!(tried > 0, "{advice:?}");
        }
        assert!(plan(&[(1, 1)], 0, 100).advice().is_empty());
    }
}
