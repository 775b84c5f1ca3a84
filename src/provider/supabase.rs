//! Recognises Supabase and Supavisor, its pooler.

use super::known_error::{
    CHECK_POOL, CHECK_SERVER, FEWER_CLIENTS, NO_MORE_CLIENTS, NO_SERVER, POOL_IN_USE, known_errors,
};
use super::{Authority, Detected, Host, Pooler, Provider};

pub(super) const PROVIDER: Provider = Provider {
    host,
    pooler,
    known_errors: known_errors! {
        ["MaxClientsInSessionMode"] | ["EMAXCONNSESSION"] => TooManyConnections,
            "the session pooler has no free server connection: each client holds one (pool_size)",
            "use the transaction pooler (port 6543 on Supabase; with another port set \
             ANTIFREEZE_POOLER=transaction), or ANTIFREEZE_LIFETIME=per-invocation";
        ["EMAXCONN"] | ["Max client connections reached"] => TooManyConnections,
            NO_MORE_CLIENTS, FEWER_CLIENTS;
        ["ECHECKOUTTIMEOUT"] | ["unable to check out"] => TooManyConnections, POOL_IN_USE, CHECK_POOL;
        ["tenant", "not found"] => TenantNotFound,
            "the pooler does not know the tenant or user",
            "copy the URL from the dashboard again: behind Supabase's pooler the user is \
             `postgres.<project>`, and the host that of the project's region";
        ["EDBHANDLEREXITED"] | ["DbHandler exited"] => Unreachable, NO_SERVER, CHECK_SERVER;
    },
};

/// The authorities that are shipped; see `roots/README.md`.
const ROOTS: &str = include_str!("roots/supabase.pem");

/// The port for transaction mode; 5432 is for session mode ("Connect to your database").
const TRANSACTIONS: u16 = 6543;

const DIRECT_HOST: &str = "use the pooler's URL (..pooler.supabase.com) from the Supabase dashboard: the direct host has \
     an IPv6 address only, unless the project has the IPv4 add-on";

/// Recognises `db.REFERENCE.supabase.co`, and the pooler's `aws-0-REGION.pooler.supabase.com`.
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

/// "Postgres SSL enforcement": Supabase has an authority of its own.
/// <https://supabase.com/docs/guides/platform/ssl-enforcement>
const OWN: Authority = Authority::Provider {
    shipped: Some(ROOTS),
    otherwise: "download the certificate in the Supabase dashboard (database settings, SSL \
                configuration) and set sslrootcert to it",
};

fn pooler(labels: &[&str], port: u16) -> Option<Detected> {
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

/// Reads the size that a full pooler reports: "limited to pool_size: 15".
pub(crate) fn pool_size(message: &str) -> Option<u32> {
    let (_, after) = message.split_once("limited to pool_size")?;
    let size = after.trim_start_matches([':', ' ', '=']);
    size.split(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}
