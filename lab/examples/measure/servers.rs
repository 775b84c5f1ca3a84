//! The servers that are connected to, and what they have spent.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::pgbouncer::PgBouncer;
use lab::postgres::{Auth, Installation, Postgres};
use lab::relay::Relay;
use tokio_postgres::{Client, NoTls};

use crate::Result;

/// The `application_name` of what is measured.
pub const APPLICATION: &str = "measured";

/// A way of connecting to a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    Trust,
    Scram,
    Tls,
    DirectTls,
    Pooler,
}

impl Route {
    pub const ALL: [Self; 5] = [
        Self::Trust,
        Self::Scram,
        Self::Tls,
        Self::DirectTls,
        Self::Pooler,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Trust => "plain, trust",
            Self::Scram => "plain, SCRAM",
            Self::Tls => "TLS, SCRAM",
            Self::DirectTls => "direct TLS, SCRAM",
            Self::Pooler => "PgBouncer, SCRAM",
        }
    }
}

/// Where a candidate connects to.
#[derive(Clone, Debug)]
pub struct Target {
    pub route: Route,
    pub address: SocketAddr,
    /// The file with the authority that signed the server's certificate.
    pub roots: Option<PathBuf>,
}

impl Target {
    /// The same through a relay.
    pub fn through(&self, relay: &Relay) -> Self {
        Self {
            address: relay.address(),
            ..self.clone()
        }
    }

    /// The URL without anything about TLS, but for a route without it.
    pub fn url(&self) -> String {
        let user = match self.route {
            Route::Trust => "trusted",
            _ => "scrammed",
        };
        let (password, address) = (Postgres::PASSWORD, self.address);
        let begin = format!(
            "postgres://{user}:{password}@{address}/postgres?application_name={APPLICATION}"
        );
        match self.roots {
            Some(_) => begin,
            None => begin + "&sslmode=disable",
        }
    }
}

/// A PostgreSQL for all routes but direct TLS, which needs version 17, and PgBouncer.
pub struct Servers {
    pub postgres: Postgres,
    direct: Option<Postgres>,
    pooler: Option<PgBouncer>,
    /// What is not on this machine, and why.
    pub missing: Vec<String>,
}

impl Servers {
    /// All of them. One that this machine does not have is left out.
    pub async fn start() -> Result<Self> {
        let mut servers = Self::start_postgres().await?;
        if servers.postgres.installation().major() < 17 {
            match Installation::embedded("17") {
                Ok(installation) => {
                    servers.direct = Some(with_roles(Some(installation)).await?);
                }
                Err(error) => servers.missing.push(format!("direct TLS: {error}")),
            }
        }
        let pooler = PgBouncer::builder(&servers.postgres)
            .auth(Auth::Scram)
            .user("scrammed", Postgres::PASSWORD)
            // PgBouncer refuses what it does not know unless it is told to ignore it.
            .setting("ignore_startup_parameters", "extra_float_digits,options");
        match pooler.start().await {
            Ok(pooler) => servers.pooler = Some(pooler),
            Err(error) => servers.missing.push(format!("PgBouncer: {error}")),
        }
        Ok(servers)
    }

    /// PostgreSQL alone.
    pub async fn start_postgres() -> Result<Self> {
        Ok(Self {
            postgres: with_roles(None).await?,
            direct: None,
            pooler: None,
            missing: Vec::new(),
        })
    }

    pub fn target(&self, route: Route) -> Option<Target> {
        let postgres = match (route, &self.direct) {
            (Route::DirectTls, Some(direct)) => direct,
            (Route::DirectTls, None) if self.postgres.installation().major() < 17 => return None,
            _ => &self.postgres,
        };
        let address = match route {
            Route::Pooler => self.pooler.as_ref()?.address(),
            _ => postgres.address(),
        };
        let roots = match route {
            Route::Tls | Route::DirectTls => postgres.certificate_authority(),
            _ => None,
        };
        Some(Target {
            route,
            address,
            roots: roots.map(Path::to_owned),
        })
    }
}

async fn with_roles(installation: Option<Installation>) -> Result<Postgres> {
    let mut builder = Postgres::builder()
        .tls(true)
        .setting("autovacuum", "off")
        .rule("host all trusted all trust")
        .rule("host all scrammed all scram-sha-256");
    if let Some(installation) = installation {
        builder = builder.installation(installation);
    }
    let postgres = builder.start().await?;
    postgres.create_role("trusted").await?;
    postgres.create_role("scrammed").await?;
    Ok(postgres)
}

/// Watches a server from a connection of its own.
pub struct Watch {
    client: Client,
    postmaster: u32,
}

/// How long a backend must spend nothing to count as idle.
const IDLE: Duration = Duration::from_millis(3);

impl Watch {
    pub async fn start(postgres: &Postgres) -> Result<Self> {
        let (client, connection) = tokio_postgres::connect(&postgres.url(), NoTls).await?;
        tokio::spawn(connection);
        let row = client.query_one("select pg_backend_pid()", &[]).await?;
        let postmaster = parent(row.get::<_, i32>(0) as u32).ok_or("/proc has no server")?;
        Ok(Self { client, postmaster })
    }

    /// The process of the server that makes the others.
    pub fn postmaster(&self) -> u32 {
        self.postmaster
    }

    /// What the postmaster has spent so far.
    pub fn postmaster_cpu(&self) -> Option<Duration> {
        cpu(self.postmaster)
    }

    /// What the backends of the measured application have spent, once they are idle.
    pub async fn backends_cpu(&self) -> Result<Option<Duration>> {
        let measured = "select pid from pg_stat_activity where application_name = $1";
        let mut sum = Duration::ZERO;
        for row in self.client.query(measured, &[&APPLICATION]).await? {
            let pid = row.get::<_, i32>(0) as u32;
            let mut spent = cpu(pid);
            loop {
                tokio::time::sleep(IDLE).await;
                let now = cpu(pid);
                if now == spent {
                    break;
                }
                spent = now;
            }
            let Some(spent) = spent else { return Ok(None) };
            sum += spent;
        }
        Ok(Some(sum))
    }

    /// Ends the sessions of the measured application, and waits until they are gone.
    pub async fn terminate(&self) -> Result<()> {
        let terminate = "select pg_terminate_backend(pid, 5000) from pg_stat_activity \
                         where application_name = $1";
        self.client.query(terminate, &[&APPLICATION]).await?;
        Ok(())
    }
}

/// The CPU time of a process with one thread, to the nanosecond.
fn cpu(pid: u32) -> Option<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    let nanoseconds = text.split(' ').next()?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}

/// Of `proc_pid_stat(5)`: the parent stands behind the state.
fn parent(pid: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}
