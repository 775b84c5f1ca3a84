//! What the name of a host of Amazon RDS tells.

/// A host of Amazon RDS or Aurora.
#[derive(Debug, PartialEq, Eq)]
pub struct Rds<'a> {
    /// As AWS names it.
    pub region: &'a str,
    /// It is in China, where other authorities sign.
    pub china: bool,
    /// RDS Proxy: `name.proxy-id.region..`, and further endpoints of one with another
    /// label in front (Amazon's documents, "Connecting to a database through RDS Proxy").
    pub proxy: bool,
}

impl<'a> Rds<'a> {
    /// `name.id.REGION.rds.amazonaws.com`; in China `name.id.rds.REGION.amazonaws.com.cn`
    /// (Amazon's documents, "Endpoints and ARNs for AWS in China"), and so that nothing
    /// hangs on the order, the other way round as well. `host` is in lower case, without a
    /// dot at its end: read from there, since only that is Amazon's.
    pub fn of(host: &'a str) -> Option<Self> {
        let labels: Vec<&str> = host.rsplit('.').collect();
        let (region, china, rest) = match labels.as_slice() {
            ["com", "amazonaws", "rds", region, rest @ ..] => (region, false, rest),
            ["cn", "com", "amazonaws", "rds", region, rest @ ..]
            | ["cn", "com", "amazonaws", region, "rds", rest @ ..] => (region, true, rest),
            _ => return None,
        };
        let (id, names) = rest.split_first()?;
        Some(Rds {
            region,
            china,
            proxy: id.starts_with("proxy-") && !names.is_empty(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_name_tells() {
        for (host, expected) in [
            (
                "d.abc.eu-west-1.rds.amazonaws.com",
                Some(("eu-west-1", false, false)),
            ),
            (
                "abc.eu-west-1.rds.amazonaws.com",
                Some(("eu-west-1", false, false)),
            ),
            (
                "d.abc.rds.cn-north-1.amazonaws.com.cn",
                Some(("cn-north-1", true, false)),
            ),
            (
                "d.abc.cn-north-1.rds.amazonaws.com.cn",
                Some(("cn-north-1", true, false)),
            ),
            (
                "p.proxy-a.eu-west-1.rds.amazonaws.com",
                Some(("eu-west-1", false, true)),
            ),
            (
                "e.endpoint.proxy-a.eu-west-1.rds.amazonaws.com",
                Some(("eu-west-1", false, true)),
            ),
            (
                "p.proxy-a.rds.cn-north-1.amazonaws.com.cn",
                Some(("cn-north-1", true, true)),
            ),
            (
                "proxy-a.abc.eu-west-1.rds.amazonaws.com",
                Some(("eu-west-1", false, false)),
            ),
            ("eu-west-1.rds.amazonaws.com", None),
            ("rds.amazonaws.com", None),
            ("d.abc.eu-west-1.rds.amazonaws.com.example.com", None),
            ("d.abc.eu-west-1.notrds.amazonaws.com", None),
            ("", None),
        ] {
            let found = Rds::of(host).map(|rds| (rds.region, rds.china, rds.proxy));
            assert_eq!(found, expected, "{host}");
        }
    }
}
