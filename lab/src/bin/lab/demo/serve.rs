//! Both functions, until Ctrl-C: each on a port of its own, and a page that shows them side by
//! side with the server's sessions.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Path as Segment, State};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use http::StatusCode;
use lab::postgres::Postgres;
use lab::{OrSay, Result};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::REQUESTS;
use super::scene::Scene;

/// Without libraries, so that it works without a network.
const PAGE: &str = include_str!("page.html");

/// How long the migration of the page waits, unless the function is started anew before.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// The function with the layer, and the same without.
struct Sides {
    without: Side,
    with: Side,
}

struct Side {
    name: &'static str,
    scene: Scene,
    migration: Mutex<Option<Migration>>,
}

/// The last `ALTER TABLE`.
#[derive(Clone, Copy)]
struct Migration {
    begun: Instant,
    end: Option<(Duration, bool)>,
}

pub async fn run(postgres: &Postgres, example: &Path, port: u16) -> Result<()> {
    let start = async |name, layer| {
        let scene = Scene::start(postgres, example, layer, true).await?;
        scene.function.cold_start().await?;
        Result::Ok(Side {
            name,
            scene,
            migration: Mutex::default(),
        })
    };
    let sides = Arc::new(Sides {
        without: start("without", false).await?,
        with: start("with", true).await?,
    });
    let (without, with) = (port.saturating_add(1), port.saturating_add(2));
    let page = axum::Router::new()
        .route("/", get(async || Html(PAGE)))
        .route("/requests", get(requests))
        .route("/sessions", get(sessions))
        .route("/ask/{path}", post(ask))
        .route("/alter", post(alter))
        .route("/clear", post(clear))
        .with_state(Arc::clone(&sides));
    let (page_listener, without_listener, with_listener) = (
        listen(port).await?,
        listen(without).await?,
        listen(with).await?,
    );

    println!(
        "In a browser:            http://127.0.0.1:{port}\n\
         The function without:    http://127.0.0.1:{without}\n\
         The function with:       http://127.0.0.1:{with}\n\n\
         Both are stopped after each answer, as on Lambda:\n"
    );
    for (path, does) in REQUESTS {
        println!("  curl -X POST http://127.0.0.1:{with}{path:<10}  # {does}");
    }
    println!(
        "\nThe databases:\n  without  psql '{}'\n  with     psql '{}'\n\nCtrl-C ends all.\n",
        sides.without.scene.database.url, sides.with.scene.database.url
    );
    let serve = async |listener, router: axum::Router| {
        axum::serve(listener, router)
            .await
            .or_say(|| "could not serve")
    };
    tokio::select! {
        served = serve(page_listener, page) => served?,
        served = sides.without.scene.function.serve(without_listener) => served?,
        served = sides.with.scene.function.serve(with_listener) => served?,
        _ = tokio::signal::ctrl_c() => {}
    }
    for side in sides.both() {
        side.scene.function.shutdown().await;
    }
    Ok(())
}

async fn listen(port: u16) -> Result<TcpListener> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await;
    listener.or_say(|| format!("cannot listen on port {port}: choose another with --port"))
}

async fn requests() -> Response {
    let requests = REQUESTS.map(|(path, does)| json!({ "path": path, "does": does }));
    body(&json!(requests))
}

async fn sessions(State(sides): State<Arc<Sides>>) -> Response {
    answer(together(sides.without.state(), sides.with.state()).await)
}

async fn ask(State(sides): State<Arc<Sides>>, Segment(path): Segment<String>) -> Response {
    let path = format!("/{path}");
    if REQUESTS.iter().all(|(known, _)| *known != path) {
        return (StatusCode::NOT_FOUND, "no such request\n").into_response();
    }
    answer(together(sides.without.ask(&path), sides.with.ask(&path)).await)
}

async fn alter(State(sides): State<Arc<Sides>>) -> Response {
    for with in [false, true] {
        let sides = Arc::clone(&sides);
        tokio::spawn(async move { sides.side(with).alter().await });
    }
    body(&json!({}))
}

/// Both begin anew.
async fn clear(State(sides): State<Arc<Sides>>) -> Response {
    answer(together(sides.without.clear(), sides.with.clear()).await)
}

async fn together(
    without: impl Future<Output = Result<Value>>,
    with: impl Future<Output = Result<Value>>,
) -> Result<Value> {
    let (without, with) = tokio::try_join!(without, with)?;
    Ok(json!({ "without": without, "with": with }))
}

fn body(value: &Value) -> Response {
    let json = [(http::header::CONTENT_TYPE, "application/json")];
    (json, value.to_string()).into_response()
}

fn answer(value: Result<Value>) -> Response {
    match value {
        Ok(value) => body(&value),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

impl Sides {
    fn side(&self, with: bool) -> &Side {
        if with { &self.with } else { &self.without }
    }

    fn both(&self) -> [&Side; 2] {
        [&self.without, &self.with]
    }
}

impl Side {
    fn migration(&self) -> std::sync::MutexGuard<'_, Option<Migration>> {
        self.migration
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, path: &str) -> Result<Value> {
        let begin = Instant::now();
        let answer = self.scene.ask(path).await?;
        let took = begin.elapsed().as_millis();
        let session = self.scene.session().await?;
        println!(
            "{:<8} {path:<10} {answer}, {took} ms; frozen with: {session}",
            self.name
        );
        Ok(json!({ "answer": answer, "milliseconds": took }))
    }

    async fn state(&self) -> Result<Value> {
        let mut state = self.scene.sessions().await?;
        let migration = *self.migration();
        state["migration"] = match migration {
            None => Value::Null,
            Some(Migration { begun, end: None }) => {
                json!({ "state": "waiting", "milliseconds": begun.elapsed().as_millis() })
            }
            Some(Migration {
                end: Some((took, done)),
                ..
            }) => {
                let state = if done { "done" } else { "gave up" };
                json!({ "state": state, "milliseconds": took.as_secs_f64() * 1e3 })
            }
        };
        Ok(state)
    }

    /// Runs the migration, unless one is under way.
    async fn alter(&self) {
        let begun = Instant::now();
        {
            let mut migration = self.migration();
            if migration.is_some_and(|migration| migration.end.is_none()) {
                return;
            }
            *migration = Some(Migration { begun, end: None });
        }
        let done = self.scene.alter_table(LOCK_TIMEOUT).await;
        let done = matches!(done, Ok(Some(_)));
        let took = begun.elapsed();
        println!(
            "{:<8} ALTER TABLE {} after {} ms",
            self.name,
            if done { "done" } else { "gave up" },
            took.as_millis()
        );
        let end = Some((took, done));
        *self.migration() = Some(Migration { begun, end });
    }

    async fn clear(&self) -> Result<Value> {
        self.scene.clear().await?;
        self.scene.function.cold_start().await?;
        let mut migration = self.migration();
        if migration.is_some_and(|migration| migration.end.is_some()) {
            *migration = None;
        }
        Ok(json!({}))
    }
}
