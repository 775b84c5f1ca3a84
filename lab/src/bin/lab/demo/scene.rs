//! A function with a database of its own, and what another session sees of it.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use lab::lambda::{Answer, Function};
use lab::postgres::{Database, Postgres};
use lab::{OrSay, Result};
use serde_json::{Value, json};

/// The function's timeout.
const TIMEOUT: Duration = Duration::from_millis(1_500);

/// The function's sessions, by their `application_name`.
const OURS: &str = "datname = current_database() and application_name = 'function'";

pub struct Scene {
    pub database: Database,
    pub function: Function,
}

impl Scene {
    /// A table as small as the one over which a site went down, and a function that uses it.
    pub async fn start(
        postgres: &Postgres,
        example: &Path,
        layer: bool,
        echo: bool,
    ) -> Result<Scene> {
        let database = postgres.fresh_database().await?;
        database
            .execute(
                "create table partners (id int generated always as identity, name text); \
                 insert into partners (name) select 'partner ' || n from generate_series(1, 250) n",
            )
            .await?;
        let url = format!("{}?application_name=function", database.url);
        let mut builder = Function::builder(example)
            .name("partners")
            .env("DATABASE_URL", url)
            .timeout(TIMEOUT)
            .echo(echo);
        if !layer {
            builder = builder.env("WITHOUT_LAYER", "1");
        }
        let function = builder.start().await?;
        Ok(Scene { database, function })
    }

    /// Sends a request, waits until the process is frozen, and says how it was answered.
    pub async fn ask(&self, path: &str) -> Result<String> {
        let request = Request::post(path).body(Bytes::new());
        let request = request.or_say(|| "no such request")?;
        let (response, outcome) = self.function.request(request).await?;
        if outcome.environment.is_alive() {
            outcome.environment.frozen().await?;
        }
        Ok(match outcome.answer {
            Answer::TimedOut => "killed".to_owned(),
            _ => response.status().as_u16().to_string(),
        })
    }

    /// The states of the function's sessions; `none` if there is no session.
    pub async fn session(&self) -> Result<String> {
        let states = format!("select coalesce(state, 'none') from pg_stat_activity where {OURS}");
        let states = self.database.query(&states).await?;
        let states: Vec<_> = states.into_iter().flatten().flatten().collect();
        Ok(match &states[..] {
            [] => "none".to_owned(),
            states => states.join(", "),
        })
    }

    /// Runs the migration and says how long it took, or nothing if it gave up after so long.
    pub async fn alter_table(&self, lock_timeout: Duration) -> Result<Option<Duration>> {
        let begin = Instant::now();
        let done = self
            .database
            .execute(&format!(
                "set application_name = 'migration'; set lock_timeout = {}; \
                 alter table partners add check (id > 0)",
                lock_timeout.as_millis()
            ))
            .await;
        Ok(done.is_ok().then(|| begin.elapsed()))
    }

    /// The function's sessions, and the migration if it waits, as the page shows them.
    pub async fn sessions(&self) -> Result<Value> {
        let sessions = "select pid, application_name, coalesce(state, 'none'), \
             to_char(extract(epoch from clock_timestamp() - state_change), 'FM9990.0'), \
             regexp_replace(query, '^set .*; *', ''), array_to_string(pg_blocking_pids(pid), ', ') \
             from pg_stat_activity where datname = current_database() \
             and application_name in ('function', 'migration') order by backend_start";
        let sessions = self.database.query(sessions).await?;
        let names = ["pid", "who", "state", "seconds", "query", "waits_for"];
        let rows = sessions.into_iter().map(|row| {
            let fields = names.into_iter().map(str::to_owned);
            Value::Object(fields.zip(row.into_iter().map(Value::from)).collect())
        });
        let frozen = self.function.environments().iter().any(|e| e.is_frozen());
        Ok(json!({ "sessions": rows.collect::<Vec<_>>(), "frozen": frozen }))
    }

    /// Ends the processes and what they have left on the server.
    pub async fn clear(&self) -> Result<()> {
        self.function.shutdown().await;
        let end =
            format!("select pg_terminate_backend(pid, 5000) from pg_stat_activity where {OURS}");
        self.database.execute(&end).await
    }

    pub async fn discard(self) -> Result<()> {
        drop(self.function);
        self.database.discard().await
    }
}
