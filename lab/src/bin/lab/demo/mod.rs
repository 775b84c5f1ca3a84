//! The demonstration: what a frozen function leaves in the database.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};
use http::Request;
use lab::cargo::build;
use lab::lambda::{Answer, Function};
use lab::postgres::{Database, Postgres};
use lab::{OrSay, Result};
use tokio::net::TcpListener;

use crate::step::Step;

/// The function's timeout.
const TIMEOUT: Duration = Duration::from_millis(1_500);

/// How long the migration is willing to wait.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// What is asked of the function, and what its handler does then.
const REQUESTS: [(&str, &str); 6] = [
    ("/partners", "does everything right"),
    ("/early", "returns early, its transaction open"),
    ("/begin", "forgets its own BEGIN"),
    ("/task", "leaves a task inside its transaction"),
    ("/panic", "panics inside a transaction"),
    ("/slow", "is slower than the timeout of 1.5 s"),
];

/// What was seen of one request.
struct Seen {
    response: String,
    session: String,
    migration: Option<Duration>,
}

pub async fn run(serve: Option<u16>) -> Result<()> {
    let example = {
        let _step = Step::new("building examples/lambda_http.rs");
        build(&[
            "-p",
            "antifreeze",
            "--example",
            "lambda_http",
            "--features",
            "lambda",
        ])
        .await?
    };
    let postgres = {
        let _step = Step::new("starting PostgreSQL");
        Postgres::start().await?
    };
    if let Some(port) = serve {
        return leave_running(&postgres, &example, port).await;
    }

    let mut rows = Vec::new();
    {
        let _step = Step::new("asking, freezing, looking");
        for (path, does) in REQUESTS {
            let with = request(&postgres, &example, path, true).await?;
            let without = request(&postgres, &example, path, false).await?;
            rows.push((path, does, with, without));
        }
    }
    println!(
        "PostgreSQL {}; a table of 250 rows. After each request the function's process was\n\
         stopped, as Lambda does it, and meanwhile another session looked at the server and\n\
         ran an ALTER TABLE with a lock_timeout of {LOCK_TIMEOUT:?}.\n",
        postgres.installation().version()
    );
    for (layer, title) in [
        (true, "With the layer"),
        (false, "The same handler without it"),
    ] {
        let mut table = Table::new();
        table
            .load_preset(presets::UTF8_FULL_CONDENSED)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_header([
                "request",
                "the handler",
                "response",
                "our session, frozen",
                "ALTER TABLE",
            ]);
        for (path, does, with, without) in &rows {
            let seen = if layer { with } else { without };
            let at_rest = ["idle", "none"].contains(&seen.session.as_str());
            table.add_row([
                Cell::new(path),
                Cell::new(does),
                Cell::new(&seen.response),
                judged(&seen.session, at_rest),
                match seen.migration {
                    Some(took) => judged(&format!("{:.1} ms", took.as_secs_f64() * 1e3), true),
                    None => judged("waited, gave up", false),
                },
            ]);
        }
        println!("{title}\n{table}\n");
    }
    println!("Leave it running and ask it yourself: cargo run -p lab -- demo --serve");
    Ok(())
}

fn judged(text: &str, good: bool) -> Cell {
    let cell = Cell::new(text);
    if good {
        cell.fg(Color::Green)
    } else {
        cell.fg(Color::Red).add_attribute(Attribute::Bold)
    }
}

/// A table as small as the one over which a site went down.
async fn database(postgres: &Postgres) -> Result<Database> {
    let database = postgres.fresh_database().await?;
    database
        .execute(
            "create table partners (id int generated always as identity, name text); \
             insert into partners (name) select 'partner ' || n from generate_series(1, 250) n",
        )
        .await?;
    Ok(database)
}

fn function(example: &Path, database: &Database, layer: bool) -> lab::lambda::Builder {
    let url = format!("{}?application_name=function", database.url);
    let builder = Function::builder(example)
        .name("partners")
        .env("DATABASE_URL", url)
        .timeout(TIMEOUT);
    if layer {
        builder
    } else {
        builder.env("WITHOUT_LAYER", "1")
    }
}

/// Asks a fresh function, waits until it is frozen, and looks.
async fn request(postgres: &Postgres, example: &Path, path: &str, layer: bool) -> Result<Seen> {
    let database = database(postgres).await?;
    let function = function(example, &database, layer).start().await?;
    let request = Request::post(path).body(Bytes::new());
    let request = request.or_say(|| "no such request")?;
    let (response, outcome) = function.request(request).await?;
    let response = match outcome.answer {
        Answer::TimedOut => "none: killed by its timeout".to_owned(),
        Answer::Error { message, .. } => {
            format!("{}, {message}", response.status().as_u16())
        }
        _ => response.status().to_string(),
    };
    if outcome.environment.is_alive() {
        outcome.environment.frozen().await?;
    }

    let sessions = database
        .query(
            "select coalesce(state, 'none') from pg_stat_activity \
             where datname = current_database() and application_name = 'function'",
        )
        .await?;
    let states: Vec<_> = sessions.into_iter().flatten().flatten().collect();
    let session = if states.is_empty() {
        "none".to_owned()
    } else {
        states.join(", ")
    };
    let begin = Instant::now();
    let migration = database
        .execute(&format!(
            "set lock_timeout = {}; alter table partners add constraint u unique (id)",
            LOCK_TIMEOUT.as_millis()
        ))
        .await;
    let migration = migration.is_ok().then(|| begin.elapsed());
    drop(function);
    database.discard().await?;
    Ok(Seen {
        response,
        session,
        migration,
    })
}

async fn leave_running(postgres: &Postgres, example: &Path, port: u16) -> Result<()> {
    let database = database(postgres).await?;
    let function = function(example, &database, true)
        .echo(true)
        .start()
        .await?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await;
    let listener =
        listener.or_say(|| format!("cannot listen on port {port}: choose another with --port"))?;
    println!("The function, frozen after each answer:\n");
    for (path, does) in REQUESTS {
        println!("  curl -i -X POST http://127.0.0.1:{port}{path:<10}  # {does}");
    }
    println!(
        "\nIts database: psql '{}'\nCtrl-C ends both.\n",
        database.url
    );
    tokio::select! {
        served = function.serve(listener) => served?,
        _ = tokio::signal::ctrl_c() => {}
    }
    function.shutdown().await;
    Ok(())
}
