//! A warm invocation with one statement: what it takes above the bare statement.

use std::collections::BTreeMap;
use std::process::Command;

use lab::relay::Relay;
use serde_json::{Value, json};
use tokio_postgres::NoTls;

use crate::report::Report;
use crate::servers::{Servers, Watch};
use crate::statistics::Spread;
use crate::subjects::{BARE, BEHIND, FAST, LAYER, Statement, future_sizes};
use crate::worker::{Regime, Task};
use crate::workers::{Batches, Job, Workers, word, works};
use crate::{BoxError, Options, Result};

/// Whose instructions, system calls and allocations are counted.
const COUNTED: [&str; 6] = [BARE, LAYER, FAST, "bb8", "sqlx", BEHIND];

/// Samples of the candidates by their names.
pub type Samples = BTreeMap<String, Vec<f64>>;

pub async fn run(report: &mut Report, options: &Options) -> Result<()> {
    let servers = Servers::start_postgres().await?;
    let postgres = &servers.postgres;
    report.about(postgres);
    postgres.create_role("full").await?;
    postgres
        .execute("alter role full connection limit 0")
        .await?;
    let workers = Workers {
        url: format!("{}?sslmode=disable", postgres.url()),
        full: Some(postgres.url_for("full", "postgres")),
    };
    let postmaster = Watch::start(postgres).await?.postmaster();

    if !options.counts {
        times(report, &workers, postmaster, options.quick)?;
    }
    teardowns(report, &workers, options.quick)?;
    let batches = if options.quick {
        (20, 120)
    } else {
        (100, 1_100)
    };
    let counted = counts(report, &workers, Statement::One, &COUNTED, batches)?;
    report.set("warm_counts", counted);
    sizes(report)?;
    same_text_again(report, &servers).await
}

/// Where the client runs, beside the server.
pub fn places(report: &Report, postmaster: u32) -> Vec<(&'static str, Option<&'static str>)> {
    let taskset = |core| works(&["taskset", "--cpu-list", core]);
    if !taskset("0") || !taskset("1") {
        report.note("Nothing is pinned: that takes taskset and the cores 0 and 1.");
        return vec![("not pinned", None)];
    }
    let pinned = Command::new("taskset")
        .args(["--all-tasks", "--cpu-list", "--pid", "0"])
        .arg(postmaster.to_string())
        .output();
    match pinned {
        Ok(output) if output.status.success() => {
            vec![("same core", Some("0")), ("across cores", Some("1"))]
        }
        _ => vec![("not pinned", None)],
    }
}

/// The time of an invocation by each candidate, as ratios to the bare statement.
fn times(report: &mut Report, workers: &Workers, postmaster: u32, quick: bool) -> Result<()> {
    let (rounds, batch) = if quick { (3, 50) } else { (60, 400) };
    let mut all = Vec::new();
    for (place, core) in places(report, postmaster) {
        let mut regimes = Vec::new();
        for regime in Regime::ALL {
            let job = Job {
                task: Task::Time,
                statement: Statement::One,
                regime,
                names: &[],
                rounds,
                batch,
            };
            let samples = samples(workers, core, job)?;
            all.extend(ratios_json(place, &word(regime), &samples));
            regimes.push((word(regime), samples));
        }
        report.table(
            &format!("warm times {place}"),
            &format!(
                "A warm invocation with one statement, client and server {place}; ratio to the \
                 bare statement (quartiles), after its median:"
            ),
            &["", &regimes[0].0, &regimes[1].0, &regimes[2].0],
            &ratio_rows(&regimes),
        )?;
        report.note(&within(&regimes));
    }
    report.note(&format!(
        "{rounds} rounds of {batch} invocations by each candidate."
    ));
    report.set("warm_times", all.into());
    Ok(())
}

/// Runs a worker that times candidates, on a core.
pub fn samples(workers: &Workers, core: Option<&str>, job: Job<'_>) -> Result<Samples> {
    let prefix: Vec<&str> = match core {
        Some(core) => vec!["taskset", "--cpu-list", core],
        None => Vec::new(),
    };
    Ok(serde_json::from_value(workers.result(&prefix, job)?)?)
}

/// A row for each candidate, a column for each set of samples.
pub fn ratio_rows(columns: &[(impl AsRef<str>, Samples)]) -> Vec<Vec<String>> {
    let mut names: Vec<&String> = columns.iter().flat_map(|(_, all)| all.keys()).collect();
    names.sort_by_key(|name| (*name != BARE, *name != LAYER, name.as_str()));
    names.dedup();
    let row = |name: &String| {
        let cells = columns.iter().map(|(_, samples)| {
            let of = &samples[name];
            let text = if name == BARE {
                Spread::of(of).map(|spread| format!("{:.1} µs", spread.median / 1e3))
            } else {
                Spread::of_ratios(of, &samples[BARE]).map(Spread::ratio)
            };
            text.unwrap_or_default()
        });
        [name.clone()].into_iter().chain(cells).collect()
    };
    names.into_iter().map(row).collect()
}

/// The layer beside deadpool's fast recycling.
fn within(regimes: &[(String, Samples)]) -> String {
    let ratios = regimes.iter().filter_map(|(regime, samples)| {
        let ratio = Spread::of_ratios(samples.get(LAYER)?, samples.get(FAST)?)?;
        Some(format!("{regime} {}", ratio.ratio()))
    });
    format!("{LAYER} to {FAST}: {}.", Vec::from_iter(ratios).join(", "))
}

/// The same as JSON.
pub fn ratios_json(place: &str, column: &str, samples: &Samples) -> Vec<Value> {
    let each = samples.iter().map(|(name, of)| {
        json!({
            "candidate": name,
            "place": place,
            "column": column,
            "nanoseconds": Spread::of(of).map(Spread::json),
            "ratio_to_bare": Spread::of_ratios(of, &samples[BARE]).map(Spread::json),
            "ratio_to_deadpool_fast":
                samples.get(FAST).and_then(|fast| Spread::of_ratios(of, fast)).map(Spread::json),
        })
    });
    each.collect()
}

/// The share of clean teardowns that do not find the connection at rest at once.
fn teardowns(report: &mut Report, workers: &Workers, quick: bool) -> Result<()> {
    let batch = if quick { 200 } else { 10_000 };
    let (mut rows, mut all) = (Vec::new(), Vec::new());
    for regime in Regime::ALL {
        let job = Job {
            task: Task::Teardowns,
            statement: Statement::One,
            regime,
            names: &[],
            rounds: 1,
            batch,
        };
        let counted = workers.result(&[], job)?;
        rows.push(vec![
            word(regime),
            format!("{} of {}", counted["waited"], counted["teardowns"]),
        ]);
        all.push(json!({ "regime": word(regime), "counted": counted }));
    }
    report.table(
        "warm teardowns",
        "Clean teardowns that had to wait for the connection:",
        &["", "waited"],
        &rows,
    )?;
    report.set("warm_teardowns", all.into());
    Ok(())
}

/// Instructions, system calls and allocations of an invocation.
pub fn counts(
    report: &Report,
    workers: &Workers,
    statement: Statement,
    names: &[&str],
    batches: Batches,
) -> Result<Value> {
    let valgrind = works(&["valgrind", "--tool=none"]);
    let strace = works(&["strace", "-o", "/dev/null"]);
    for (there, tool, what) in [
        (valgrind, "valgrind", "instructions"),
        (strace, "strace", "system calls"),
    ] {
        if !there {
            report.note(&format!(
                "No {what}: {tool} is not installed, or not allowed."
            ));
        }
    }
    let (mut rows, mut all) = (Vec::new(), Vec::new());
    let mut bare = f64::NAN;
    for &name in names {
        let candidate = (name, statement);
        let instructions = match valgrind {
            true => Some(workers.instructions(candidate, batches)?),
            false => None,
        };
        let calls = match strace {
            true => Some(workers.system_calls(candidate, batches)?),
            false => None,
        };
        let mut found = workers.own(candidate, 4 * batches.1)?;
        let work = instructions.or(found["cpu_microseconds"].as_f64());
        if name == BARE {
            bare = work.unwrap_or(f64::NAN);
        }
        let total: Option<f64> = calls.as_ref().map(|calls| calls.values().sum());
        rows.push(vec![
            name.to_owned(),
            shown(work, 0),
            shown(work.map(|work| work - bare), 0),
            shown(work.map(|work| work / bare), 2),
            shown(total, 1),
            shown(found["allocations"].as_f64(), 1),
        ]);
        found["candidate"] = name.into();
        found["instructions"] = instructions.into();
        found["system_calls"] = json!(calls);
        found["system_calls_in_all"] = total.into();
        all.push(found);
    }
    let work = if valgrind { "instructions" } else { "CPU µs" };
    report.table(
        &format!("counts {}", word(statement)),
        &format!(
            "What one invocation takes with `{}`, current-thread:",
            statement.text()
        ),
        &[
            "",
            work,
            "above bare",
            "ratio",
            "system calls",
            "allocations",
        ],
        &rows,
    )?;
    Ok(all.into())
}

fn shown(figure: Option<f64>, digits: usize) -> String {
    figure
        .filter(|figure| figure.is_finite())
        .map_or_else(|| "-".to_owned(), |figure| format!("{figure:.digits$}"))
}

fn sizes(report: &mut Report) -> Result<()> {
    let sizes = future_sizes()?;
    let rows = sizes.map(|(name, bytes)| vec![name.to_owned(), bytes.to_string()]);
    report.table("warm futures", "Sizes of futures:", &["", "bytes"], &rows)?;
    report.set("warm_futures", json!(BTreeMap::from(sizes)));
    Ok(())
}

/// Round trips of a text that the connection has had before, each by the call that its
/// documentation shows first.
async fn same_text_again(report: &mut Report, servers: &Servers) -> Result<()> {
    const TEXT: &str = "select 1";
    let relay = Relay::start(servers.postgres.address()).await?;
    let url = relay.url(&servers.postgres.url());
    let trips = || relay.counts().round_trips;
    let mut found = Vec::new();

    let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    tokio::spawn(connection);
    client.query(TEXT, &[]).await?;
    let before = trips();
    client.query(TEXT, &[]).await?;
    found.push(("tokio-postgres, query", trips() - before));

    let manager = deadpool_postgres::Manager::new(url.parse()?, NoTls);
    let pool = deadpool_postgres::Pool::builder(manager).build()?;
    let client = pool.get().await?;
    for _ in 0..2 {
        let before = trips();
        let statement = client.prepare_cached(TEXT).await?;
        client.query(&statement, &[]).await?;
        found.retain(|(name, _)| *name != "deadpool, prepare_cached");
        found.push(("deadpool, prepare_cached", trips() - before));
    }

    let pool = sqlx::PgPool::connect(&url).await?;
    let mut connection = pool.acquire().await?;
    sqlx::query(TEXT).fetch_one(&mut *connection).await?;
    let before = trips();
    sqlx::query(TEXT).fetch_one(&mut *connection).await?;
    found.push(("sqlx, query", trips() - before));

    let database = antifreeze::Database::from_url(&url)?;
    let work = async {
        let client = antifreeze::connection().await?;
        client.query(TEXT, &[]).await?;
        let before = trips();
        client.query(TEXT, &[]).await?;
        Ok::<_, BoxError>(trips() - before)
    };
    let again = database.invocation(std::time::Duration::from_secs(10), work);
    found.push(("antifreeze, query", again.await?));

    let rows = found
        .iter()
        .map(|(name, trips)| vec![name.to_string(), trips.to_string()]);
    report.table(
        "warm same text",
        "Round trips of the same text again:",
        &["", "round trips"],
        &Vec::from_iter(rows),
    )?;
    report.set("warm_same_text", json!(BTreeMap::from_iter(found)));
    Ok(())
}
