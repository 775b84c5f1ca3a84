//! Supabase, and Supavisor, its pooler.

use super::refusal::{
    CLIENTS, FEWER_CLIENTS, LET_IT_IN, NO_SERVER, POOL_IN_USE, SHORTER, refusals,
};
use super::{Authority, Host, Pooler, Provider, Told};

pub(super) const PROVIDER: Provider = Provider {
    host,
    pooler,
    refusals: refusals! {
        ["MaxClientsInSessionMode"] | ["EMAXCONNSESSION"] => TooManyConnections,
            "the session pooler has no server connection left (pool_size), one for each client",
            "use the transaction pooler (port 6543 on Supabase; ANTIFREEZE_POOLER=transaction \
             if the port does not say so), or connections per invocation \
             (ANTIFREEZE_LIFETIME=per-invocation)";
        ["EMAXCONN"] | ["Max client connections reached"]
            => TooManyConnections, CLIENTS, FEWER_CLIENTS;
        ["ECHECKOUTTIMEOUT"] | ["unable to check out"] => TooManyConnections, POOL_IN_USE, SHORTER;
        ["tenant", "not found"] => TenantNotFound,
            "the pooler does not know the tenant or user",
            "behind Supabase's pooler the user is `postgres.<project>`, and the host that of the \
             project's own region: copy the URL from the dashboard again";
        ["EDBHANDLEREXITED"] | ["DbHandler exited"] => Unreachable, NO_SERVER, LET_IT_IN;
    },
};

/// Its authorities; see `roots/README.md`.
const ROOTS: &str = include_str!("roots/supabase.pem");

/// The port for transaction mode; 5432 is for session mode ("Connect to your database").
const TRANSACTIONS: u16 = 6543;

const DIRECT_HOST: &str = "Supabase's direct host has an IPv6 address only, unless IPv4 is bought: take the URL of the \
     pooler (..pooler.supabase.com) from the dashboard";

/// `db.REFERENCE.supabase.co`, and the pooler's `aws-0-REGION.pooler.supabase.com`.
fn host(labels: &[&str]) -> Option<Host> {
    let (session, authority) = match labels {
        ["co", "supabase", _, ..] => (Some(Pooler::None), OWN),
        ["com", "supabase", "pooler", _, ..] => (Some(Pooler::Session), OWN),
        ["com", "supabase", _, ..] => (None, Authority::Unknown),
        _ => return None,
    };
    let direct = matches!(labels, ["co", "supabase", .., "db"]);
    Some(Host {
        certain: true,
        session,
        authority,
        unreachable: direct.then_some(DIRECT_HOST),
        ..Host::default()
    })
}

/// "Postgres SSL enforcement": an authority of its own.
/// <https://supabase.com/docs/guides/platform/ssl-enforcement>
const OWN: Authority = Authority::Own {
    shipped: Some(ROOTS),
    otherwise: "Supabase has authorities of its own, and this one is not shipped; \
                download its certificate in the dashboard (database settings, SSL configuration) \
                and set sslrootcert to it",
};

fn pooler(labels: &[&str], port: u16) -> Option<Told> {
    match (labels, port) {
        (["com", "supabase", "pooler", _, ..], _) => {
            let pooler = match port {
                TRANSACTIONS => Pooler::Transaction,
                _ => Pooler::Session,
            };
            Some((pooler, "by the name of the host and the port"))
        }
        (["co", "supabase", _, ..], TRANSACTIONS) => Some((Pooler::Transaction, "by the port")),
        _ => None,
    }
}

/// The size that a full pooler names: "limited to pool_size: 15".
pub(crate) fn pool_size(message: &str) -> Option<u32> {
    let (_, after) = message.split_once("limited to pool_size")?;
    let digits = after.trim_start_matches([':', ' ', '=']);
    let end = digits.find(|c: char| !c.is_ascii_digit());
    digits[..end.unwrap_or(digits.len())].parse().ok()
}
