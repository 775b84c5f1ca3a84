//! Connections against slots.

use serde::Serialize;

use super::group::Group;
use super::limit::Limit;

/// Above this share of the room it is tight: migrations, people and monitoring connect, too.
const TIGHT: u64 = 80;

/// Who connects, and where to.
#[derive(Debug, Clone)]
pub struct Plan {
    pub groups: Vec<Group>,
    /// Percent of the old deployment that are there with the new one.
    pub overlap: u64,
    pub pool_size: Option<u64>,
    pub others: u64,
    pub limit: Limit,
}

/// Whether there is room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    Well,
    Tight,
    TooMany,
}

impl Plan {
    /// All groups, once.
    pub fn steady(&self) -> u64 {
        self.groups
            .iter()
            .fold(0, |sum, group| sum.saturating_add(group.connections()))
    }

    /// While a deployment takes the place of another.
    pub fn peak(&self) -> u64 {
        let steady = self.steady();
        steady.saturating_add(steady.saturating_mul(self.overlap).div_ceil(100))
    }

    /// Slots that they take at most.
    pub fn needed(&self) -> u64 {
        self.pool_size.map_or(self.peak(), |pool| pool)
    }

    /// Slots that are there for them.
    pub fn open(&self) -> u64 {
        let Limit { max, reserved, .. } = self.limit;
        max.saturating_sub(reserved).saturating_sub(self.others)
    }

    /// How the room comes about.
    pub fn room(&self) -> String {
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
        let used = used.map(|used| format!("; {used} in use at this moment"));
        format!(
            "{max} ({source}), {reserved} of them reserved{others}{}",
            used.unwrap_or_default()
        )
    }

    pub fn fit(&self) -> Fit {
        let (needed, open) = (self.needed(), self.open());
        if needed > open {
            Fit::TooMany
        } else if needed.saturating_mul(100) > open.saturating_mul(TIGHT) {
            Fit::Tight
        } else {
            Fit::Well
        }
    }

    /// What to change, so that it fits well.
    pub fn advice(&self) -> Vec<String> {
        if self.fit() == Fit::Well {
            return Vec::new();
        }
        let room = self.open().saturating_mul(TIGHT) / 100;
        if self.pool_size.is_some() {
            return vec![format!("give the pooler {room} connections at most")];
        }
        let mut advice = Vec::new();
        let largest = self.groups.iter().max_by_key(|group| group.connections());
        if let Some(group) = largest.filter(|group| group.connections() > 0) {
            let rest = self.steady() - group.connections();
            // What the group may have, so that all of them, with the overlap, find room.
            let share = (room.saturating_mul(100) / (100 + self.overlap)).saturating_sub(rest);
            let (name, size) = (&group.name, group.size);
            let fewer = share / group.instances;
            if fewer >= 1 && fewer < size {
                advice.push(format!(
                    "size: {fewer} connections for each of {name} (ANTIFREEZE_MAX_CONNECTIONS=\
                     {fewer}) instead of {size}"
                ));
            }
            let instances = share / size;
            if instances >= 1 && instances < group.instances {
                advice.push(format!(
                    "concurrency: {instances} instances of {name} at most (reserved concurrency) \
                     instead of {}",
                    group.instances
                ));
            }
            if size > 1 && share >= group.instances && fewer == 0 {
                advice.push(format!("size: 1 connection for each of {name}"));
            }
        }
        advice.push(format!(
            "pooler: one in transaction mode takes {} clients and needs {room} connections at most",
            self.peak()
        ));
        if self.overlap > 0 && self.steady().saturating_mul(100) <= self.open() * TIGHT {
            advice.push(
                "overlap: without the old deployment it fits: shift the traffic step by step, and \
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
    fn deployment_counts_twice() {
        let plan = plan(&[(200, 1), (3, 5)], 100, 100);
        assert_eq!((plan.steady(), plan.peak(), plan.open()), (215, 430, 97));
        let half = Plan {
            overlap: 50,
            ..plan
        };
        // Half an instance is one.
        assert_eq!(half.peak(), 323);
    }

    #[test]
    fn verdict_is_exact_at_its_edges() {
        // 100 slots: 103 but 3.
        for (connections, fit) in [
            (80, Fit::Well),
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
        assert_eq!(plan(&[(0, 0)], 100, 3).fit(), Fit::Well);
        assert_eq!(plan(&[(1, 1)], 100, 3).fit(), Fit::TooMany);
        assert_eq!(plan(&[(u64::MAX, 2)], 100, u64::MAX).fit(), Fit::TooMany);
    }

    #[test]
    fn other_clients_and_a_pooler_count() {
        let alone = plan(&[(80, 1)], 0, 103);
        let beside = Plan {
            others: 1,
            ..alone.clone()
        };
        assert_eq!((alone.fit(), beside.fit()), (Fit::Well, Fit::Tight));
        let pooled = Plan {
            pool_size: Some(20),
            ..plan(&[(5000, 1)], 100, 103)
        };
        assert_eq!((pooled.needed(), pooled.fit()), (20, Fit::Well));
    }

    #[test]
    fn advice_makes_the_plan_fit() {
        for (groups, overlap, max) in [
            (&[(200, 1)][..], 100, 100),
            (&[(20, 10), (3, 5)], 100, 203),
            (&[(20, 10)], 0, 103),
            (&[(7, 3), (7, 2), (1, 1)], 33, 40),
        ] {
            let first = plan(groups, overlap, max);
            assert_ne!(first.fit(), Fit::Well);
            let advice = first.advice();
            let number = |start: &str| -> Option<u64> {
                let line = advice.iter().find_map(|line| line.strip_prefix(start))?;
                line.trim().split(' ').next()?.parse().ok()
            };
            let mut tried = 0;
            if let Some(size) = number("size:") {
                let mut smaller = first.clone();
                smaller.groups[0].size = size;
                assert_eq!(smaller.fit(), Fit::Well, "{advice:?}");
                tried += 1;
            }
            if let Some(instances) = number("concurrency:") {
                let mut fewer = first.clone();
                fewer.groups[0].instances = instances;
                assert_eq!(fewer.fit(), Fit::Well, "{advice:?}");
                tried += 1;
            }
            assert!(tried > 0, "{advice:?}");
        }
        assert!(plan(&[(1, 1)], 0, 100).advice().is_empty());
    }
}
