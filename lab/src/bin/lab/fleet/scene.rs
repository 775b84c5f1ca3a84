//! A candidate's processes before the small server: sends requests, and looks at both sides.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use lab::fleet::ROLE;
use lab::lambda::{Answer, Environment, Function};
use lab::postgres::{Database, Postgres};
use lab::relay::{Counts, Relay};
use lab::{OrSay, Result};

use super::candidates::{Candidate, Program};
use super::cell::{Cell, percentile};
use super::process;
use super::sampler::Sampler;

/// The executables, and where node finds its packages.
pub struct Programs {
    pub rust: PathBuf,
    pub node: PathBuf,
    pub node_modules: Option<PathBuf>,
}

/// What every scene shares.
pub struct Server {
    pub postgres: Postgres,
    pub database: Database,
    pub programs: Programs,
    /// How long an ALTER TABLE is waited for.
    pub patience: Duration,
}

/// How long processes may take until they stand still, after the last response.
const REST: Duration = Duration::from_secs(5);

/// How a request was answered.
pub struct Asked {
    took: Duration,
    failed: Option<String>,
    environment: Environment,
}

pub struct Scene<'a> {
    pub server: &'a Server,
    pub relay: Relay,
    pub function: Function,
    sampler: Sampler,
    environments: Vec<Environment>,
    // Since `begin`.
    asked: Vec<Asked>,
    counts: Counts,
    cpu: BTreeMap<u32, Duration>,
}

impl<'a> Scene<'a> {
    pub async fn start(
        server: &'a Server,
        candidate: &Candidate,
        timeout: Duration,
        work: Duration,
        variables: &[(&str, &str)],
    ) -> Result<Scene<'a>> {
        let relay = Relay::start(server.postgres.address()).await?;
        let programs = &server.programs;
        let mut builder = match candidate.program {
            Program::Rust => Function::builder(&programs.rust),
            Program::Node => {
                let modules = programs.node_modules.clone().unwrap_or_default();
                Function::builder(&programs.node).env("NODE_PATH", modules.display())
            }
        };
        for (name, value) in candidate.variables.iter().chain(variables) {
            builder = builder.env(*name, value);
        }
        // Half of the candidates cannot do TLS as configured; the others would ask for it first.
        let url = format!(
            "{}?sslmode=disable",
            relay.url(&server.database.url_for(ROLE))
        );
        let function = builder
            .env("DATABASE_URL", url)
            .env("WORK_MS", work.as_millis())
            .timeout(timeout)
            .start()
            .await?;
        let sampler = Sampler::start(server.database.url.clone());
        Ok(Scene {
            server,
            relay,
            function,
            sampler,
            environments: Vec::new(),
            asked: Vec::new(),
            counts: Counts::default(),
            cpu: BTreeMap::new(),
        })
    }

    /// As many instances, each of which has answered a request and is frozen. What they cost is
    /// not counted.
    pub async fn warm(&mut self, instances: usize) -> Result<()> {
        self.burst(instances, "/").await?;
        self.rest().await;
        self.begin();
        Ok(())
    }

    /// Counts from here.
    pub fn begin(&mut self) {
        self.asked.clear();
        self.counts = self.relay.counts();
        self.cpu = process::cpu_of(&self.environments);
        self.sampler.take();
    }

    /// So many requests at once.
    pub async fn burst(&mut self, requests: usize, path: &str) -> Result<()> {
        let asks = (0..requests).map(|_| ask(self.function.clone(), path));
        let asked = try_join_all(asks).await?;
        self.note(asked);
        Ok(())
    }

    /// Takes note of requests that were sent otherwise.
    pub fn note(&mut self, asked: Vec<Asked>) {
        for asked in asked {
            let pid = asked.environment.pid();
            if self.environments.iter().all(|known| known.pid() != pid) {
                self.environments.push(asked.environment.clone());
            }
            self.asked.push(asked);
        }
    }

    /// Waits until every process is frozen, or has ended.
    pub async fn rest(&self) {
        let stands = |environment: Environment| async move {
            let _ = tokio::time::timeout(REST, environment.frozen()).await;
        };
        let all = self.function.environments().into_iter().map(stands);
        futures_util::future::join_all(all).await;
    }

    /// What was measured since [`begin`](Scene::begin).
    pub async fn measured(&mut self) -> Result<Cell> {
        self.rest().await;
        let counts = self.relay.counts().since(self.counts);
        let seen = self.sampler.take();
        let busy_sessions = self.busy_sessions().await?;
        let (alter, gave_up) = self.alter_table().await;
        let mut cell = Cell {
            sent: self.asked.len(),
            worst: 0.0,
            alter: alter.as_secs_f64() * 1e3,
            alter_gave_up: gave_up,
            busy_sessions,
            most_slots: seen.most as f64,
            idle_in_transaction_s: seen.idle_in_transaction.as_secs_f64(),
            round_trips: counts.round_trips as f64,
            connects: counts.connections as f64,
            ..Cell::default()
        };
        let mut times = Vec::new();
        for asked in &self.asked {
            let took = asked.took.as_secs_f64() * 1e3;
            cell.worst = cell.worst.max(took);
            match &asked.failed {
                None => times.push(took),
                Some(kind) => *cell.failed.entry(kind.clone()).or_default() += 1,
            }
        }
        times.sort_by(f64::total_cmp);
        cell.answered = times.len();
        cell.p50 = percentile(&times, 0.5);
        cell.p99 = percentile(&times, 0.99);

        let all_live = self.environments.iter().all(Environment::is_alive);
        let spent = process::cpu_of(&self.environments);
        let spent = spent.into_iter().map(|(pid, spent)| {
            let before = self.cpu.get(&pid).copied().unwrap_or_default();
            spent.saturating_sub(before).as_secs_f64() * 1e3
        });
        let spent: f64 = spent.sum();
        cell.cpu = (all_live && cell.sent > 0).then(|| spent / cell.sent as f64);
        let mut memory: Vec<f64> = self
            .environments
            .iter()
            .filter_map(process::memory)
            .collect();
        memory.sort_by(f64::total_cmp);
        cell.memory = percentile(&memory, 0.5);
        let starts = self
            .environments
            .iter()
            .filter_map(Environment::init_duration);
        let mut starts: Vec<f64> = starts.map(|start| start.as_secs_f64() * 1e3).collect();
        starts.sort_by(f64::total_cmp);
        cell.start = percentile(&starts, 0.5);
        Ok(cell)
    }

    /// Ends the processes, and what they have left on the server.
    pub async fn end(self) -> Result<()> {
        drop(self.function);
        drop(self.environments);
        drop(self.asked);
        let end = format!(
            "select pg_terminate_backend(pid, 10000) from pg_stat_activity where usename = '{ROLE}'"
        );
        while !self.server.postgres.query(&end).await?.is_empty() {}
        Ok(())
    }

    async fn busy_sessions(&self) -> Result<f64> {
        let busy =
            format!("select 1 from pg_stat_activity where usename = '{ROLE}' and state <> 'idle'");
        Ok(self.server.database.query(&busy).await?.len() as f64)
    }

    /// Changes nothing, but takes the lock that every ALTER TABLE of a column takes.
    async fn alter_table(&self) -> (Duration, bool) {
        let patience = self.server.patience;
        let begin = Instant::now();
        let alter = format!(
            "set lock_timeout = {}; alter table visits alter column at type timestamptz",
            patience.as_millis()
        );
        let done = self.server.database.execute(&alter).await;
        match done {
            Ok(()) => (begin.elapsed(), false),
            Err(_) => (patience, true),
        }
    }
}

/// Sends one request.
pub async fn ask(function: Function, path: &str) -> Result<Asked> {
    let begin = Instant::now();
    let request = http::Request::get(path).body("");
    let request = request.or_say(|| "no such request")?;
    let (response, outcome) = function.request(request).await?;
    let took = begin.elapsed();
    let failed = match &outcome.answer {
        Answer::TimedOut => Some("killed at the timeout".to_owned()),
        Answer::Crashed(_) => Some("process ended".to_owned()),
        Answer::Error { error_type, .. } => Some(error_type.clone()),
        _ if response.status() == 200 => None,
        _ => {
            let problem: serde_json::Value =
                serde_json::from_slice(response.body()).unwrap_or_default();
            let kind = problem["kind"].as_str().unwrap_or("no kind");
            Some(format!("{} {kind}", response.status().as_u16()))
        }
    };
    Ok(Asked {
        took,
        failed,
        environment: outcome.environment,
    })
}
