//! Groups of processes that connect to the server.

use serde::Serialize;

/// A group of processes with the same number of connections each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    pub name: String,
    pub instances: u64,
    pub size: u64,
}

impl Group {
    pub fn new(name: &str, instances: u64, size: u64) -> Self {
        Group {
            name: name.to_owned(),
            instances,
            size,
        }
    }

    /// Parses `worker=3x5`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('=').and_then(|(name, counts)| {
            let (instances, size) = counts.split_once(['x', '*'])?;
            let count = |text: &str| text.trim().parse().ok();
            Some(Group::new(name.trim(), count(instances)?, count(size)?))
        });
        let named = parsed.filter(|group| !group.name.is_empty());
        named.ok_or_else(|| {
            "invalid group: expected NAME=INSTANCESxSIZE, for example worker=3x5".to_owned()
        })
    }

    pub fn connections(&self) -> u64 {
        self.instances.saturating_mul(self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_parsed() {
        assert_eq!(Group::parse("a b = 3 x 5"), Ok(Group::new("a b", 3, 5)));
        assert_eq!(Group::parse("w=3*5"), Ok(Group::new("w", 3, 5)));
        for wrong in ["", "w", "w=3", "=3x5", "w=-3x5", "w=3x", "w=3x5x7"] {
            Group::parse(wrong).expect_err(wrong);
        }
    }
}
