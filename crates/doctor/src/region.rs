//! Compares the regions of the function and the database.

use std::time::Duration;

use antifreeze::config::Settings;
use tokio_postgres::config::Host;

use super::report::{Check, Step};
use super::text::milliseconds;

/// The round-trip time above which the database is in another region. Between two
/// availability zones of one region it is 1 ms to 2 ms.
const FAR: Duration = Duration::from_millis(10);

/// Vercel's regions with the AWS region of each (its documents, "Vercel CDN regions").
const VERCEL: [(&str, &str); 20] = [
    ("arn1", "eu-north-1"),
    ("bom1", "ap-south-1"),
    ("cdg1", "eu-west-3"),
    ("cle1", "us-east-2"),
    ("cpt1", "af-south-1"),
    ("dub1", "eu-west-1"),
    ("dxb1", "me-central-1"),
    ("fra1", "eu-central-1"),
    ("gru1", "sa-east-1"),
    ("hkg1", "ap-east-1"),
    ("hnd1", "ap-northeast-1"),
    ("iad1", "us-east-1"),
    ("icn1", "ap-northeast-2"),
    ("kix1", "ap-northeast-3"),
    ("lhr1", "eu-west-2"),
    ("pdx1", "us-west-2"),
    ("sfo1", "us-west-1"),
    ("sin1", "ap-southeast-1"),
    ("syd1", "ap-southeast-2"),
    ("yul1", "ca-central-1"),
];

/// Compares the regions; returns nothing if neither is known.
pub(super) fn region(config: &Settings, round_trip: Duration) -> Option<Check> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let here = function_region(variable);
    let host = config
        .server
        .get_hosts()
        .iter()
        .find_map(|host| match host {
            Host::Tcp(name) => Some(name.as_str()),
            #[cfg(unix)]
            Host::Unix(_) => None,
        });
    let there = host.and_then(database_region);
    compare(here.as_deref(), there.as_deref(), round_trip)
}

fn compare(here: Option<&str>, there: Option<&str>, round_trip: Duration) -> Option<Check> {
    let took = milliseconds(round_trip);
    Some(match (here, there) {
        (Some(here), Some(there)) if here == there => {
            Check::ok(Step::Region, format!("both are in {here}"))
        }
        (Some(here), Some(there)) => Check::finding(
            Step::Region,
            format!(
                "the function is in {here}, the database in {there}: {took} for each round trip"
            ),
            format!("move the function to {there}: each statement waits for a round trip"),
        ),
        (Some(here), None) if round_trip > FAR => Check::finding(
            Step::Region,
            format!("the function is in {here}, the database {took} away"),
            "move both to the same region: each statement waits for a round trip",
        ),
        (Some(here), None) => Check::note(
            Step::Region,
            format!(
                "the function is in {here}; the database's host name contains no region, but the \
                 round trip is short"
            ),
        ),
        (None, Some(there)) => Check::note(
            Step::Region,
            format!(
                "the database is in {there}; the region of this process is unknown (neither \
                 AWS_REGION nor VERCEL_REGION is set)"
            ),
        ),
        (None, None) => return None,
    })
}

/// Reads the function's region from the variables that Lambda and Vercel set.
fn function_region(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let vercel = variable("VERCEL_REGION").and_then(|name| {
        let known = VERCEL.iter().find(|(id, _)| *id == name);
        known.map(|(_, region)| (*region).to_owned())
    });
    vercel.or_else(|| variable("AWS_REGION"))
}

/// Returns the AWS region in the database's host name, as RDS, Aurora, DSQL, Neon and
/// Supabase's pooler have it.
fn database_region(host: &str) -> Option<String> {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let known = [
        ".amazonaws.com",
        ".on.aws",
        ".neon.tech",
        ".pooler.supabase.com",
    ];
    if !known.iter().any(|suffix| host.ends_with(suffix)) {
        return None;
    }
    let labels = host.split('.').map(|label| {
        let numbered = label
            .strip_prefix("aws-")
            .and_then(|rest| rest.split_once('-'));
        // aws-0-eu-central-1
        match numbered {
            Some((number, rest)) if number.bytes().all(|b| b.is_ascii_digit()) => rest,
            _ => label,
        }
    });
    labels
        .into_iter()
        .find(|label| is_region(label))
        .map(str::to_owned)
}

/// Returns whether `label` is an AWS region: `eu-central-1`, `us-gov-east-1`.
fn is_region(label: &str) -> bool {
    let parts: Vec<&str> = label.split('-').collect();
    let word = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase());
    match parts.as_slice() {
        [area, middle @ .., number] if !middle.is_empty() => {
            area.len() == 2
                && middle.iter().all(word)
                && number.len() == 1
                && number.bytes().all(|b| b.is_ascii_digit())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn host_names_contain_the_database_region() {
        for (host, expected) in [
            ("d.abc.eu-central-1.rds.amazonaws.com", Some("eu-central-1")),
            ("x.dsql.us-east-1.on.aws", Some("us-east-1")),
            ("ep-a-1-pooler.us-east-2.aws.neon.tech", Some("us-east-2")),
            ("aws-0-eu-west-1.pooler.supabase.com", Some("eu-west-1")),
            ("db.abc.supabase.co", None),
            ("db.eu-west-1.example.com", None),
            ("localhost", None),
        ] {
            assert_eq!(database_region(host).as_deref(), expected, "{host}");
        }
    }

    #[test]
    fn variables_contain_the_function_region() {
        let of = |set: &'static [(&str, &str)]| {
            function_region(move |name| {
                let found = set.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(
            of(&[("VERCEL_REGION", "fra1")]).as_deref(),
            Some("eu-central-1")
        );
        assert_eq!(
            of(&[("AWS_REGION", "us-east-1")]).as_deref(),
            Some("us-east-1")
        );
        // Vercel's runtime sets both.
        let both = of(&[("VERCEL_REGION", "iad1"), ("AWS_REGION", "us-east-2")]);
        assert_eq!(both.as_deref(), Some("us-east-1"));
        assert_eq!(of(&[("VERCEL_REGION", "dev1")]), None);
    }

    #[test]
    fn different_regions_are_a_finding() {
        let near = Duration::from_millis(1);
        let status = |here, there, time| compare(here, there, time).expect("a check").status;
        assert_eq!(status(Some("a"), Some("a"), near), Status::Ok);
        assert_eq!(status(Some("a"), Some("b"), near), Status::Finding);
        assert_eq!(status(Some("a"), None, near), Status::Note);
        let far = Duration::from_millis(80);
        assert_eq!(status(Some("a"), None, far), Status::Finding);
        assert_eq!(status(None, Some("b"), far), Status::Note);
        assert_eq!(compare(None, None, far), None);
    }
}
