//! A deployment of one function with a database of its own, seen from a second
//! connection.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use lab::{
    postgres::{Database, Postgres},
    vercel::{Deployment, Outcome},
};

use crate::{build, common};

/// `maxDuration` in vercel.json.
pub const MAX_DURATION: Duration = Duration::from_secs(10);

pub struct Shop {
    pub deployment: Deployment,
    pub database: Database,
}

impl Shop {
    pub async fn open(function: &'static str) -> Shop {
        Shop::with_schema(function, include_str!("../../../api/schema.sql")).await
    }

    pub async fn with_schema(function: &'static str, schema: &str) -> Shop {
        let executable = tokio::task::spawn_blocking(move || build::output().executable(function));
        let executable = executable.await.expect("it is built");
        let server = Postgres::shared().await.expect("a server");
        let database = server.fresh_database().await.expect("a database");
        database.execute(schema).await.expect("a schema");
        let deployment = Deployment::builder(executable)
            .env("DATABASE_URL", &database.url)
            // Suspended at once, with its connections.
            .env("ANTIFREEZE_LINGER", "0")
            // The function ends its own 10 s before; the host is patient here.
            .max_duration(MAX_DURATION * 2)
            .start()
            .await
            .expect("a deployment");
        Shop {
            deployment,
            database,
        }
    }

    /// Asks for something, and waits until the process is frozen.
    pub async fn ask(&self, method: &str, path: &str, body: &str) -> Response<Bytes> {
        let outcome = self.request(method, path, body).await;
        assert!(outcome.ended.is_some(), "{outcome:?}");
        self.deployment.frozen().await.expect("frozen");
        outcome.response.expect("a response")
    }

    pub async fn request(&self, method: &str, path: &str, body: &str) -> Outcome {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .body(Bytes::from(body.to_owned()))
            .expect("a request");
        self.deployment.request(request).await.expect("sent")
    }

    /// A session that keeps others from writing into the table until it ends.
    pub async fn locked(&self) -> tokio_postgres::Client {
        let url = format!("{}?application_name=administrator", self.database.url);
        let client = common::connect(&url).await.expect("a connection");
        let lock = "begin; lock table partners in exclusive mode";
        client.batch_execute(lock).await.expect("a lock");
        client
    }

    /// Waits until so many sessions of the function wait for a lock.
    pub async fn waiting(&self, sessions: usize) {
        for _ in 0..1000 {
            let waiting = self.states().await;
            let waiting = waiting.iter().filter(|state| *state == "waits for a lock");
            if waiting.count() == sessions {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no {sessions} sessions wait: {:?}", self.states().await);
    }

    /// What the function's sessions do.
    pub async fn states(&self) -> Vec<String> {
        let rows = self.database.query(
            "select case when wait_event_type = 'Lock' then 'waits for a lock' else state end \
             from pg_stat_activity \
             where datname = current_database() and backend_type = 'client backend' \
             and pid <> pg_backend_pid() and application_name not in ('lab', 'administrator')",
        );
        let rows = rows.await.expect("rows");
        rows.into_iter().flatten().flatten().collect()
    }

    /// Nothing is open, busy, or waited for.
    #[track_caller]
    pub fn nothing_is_left(&self) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let states = self.states().await;
            let idle = states.iter().all(|state| state == "idle");
            assert!(idle, "{states:?} at {caller}");
        }
    }

    pub async fn partners(&self) -> String {
        let rows = self.database.query("select count(*) from partners").await;
        rows.expect("rows")[0][0].clone().expect("a number")
    }
}
