//! The local time of a new connection, and the CPU that it costs on either side.

use std::cell::Cell;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::peers::{Connector, Peer, Stage};
use crate::report::Report;
use crate::servers::{Route, Servers, Watch};
use crate::statistics::{Spread, process_cpu};
use crate::{Options, Result};

const ROUTES: [Route; 3] = [Route::Trust, Route::Scram, Route::Tls];

/// What is measured of each connection; the server's processes only where /proc tells.
const MEASURES: [(&str, &str); 4] = [
    ("until_ready", "Time until it is ready"),
    ("until_first_row", "Time until its first row"),
    ("client_cpu", "CPU of the client, first row included"),
    ("server_cpu", "CPU of the server, first row included"),
];

/// The place of the client's CPU in [`MEASURES`], behind the times.
const CLIENT: usize = 2;

/// How long a client has for what it does after a first row that nobody waits for.
const TRAILING: Duration = Duration::from_millis(3);

/// Microseconds, in the order of [`MEASURES`].
type Sample = [f64; MEASURES.len()];

/// A candidate on a route, and its samples, one a round.
struct Candidate {
    route: Route,
    peer: Peer,
    connector: Connector,
    samples: Vec<Sample>,
}

/// All candidates.
struct Samples(Vec<Candidate>);

impl Samples {
    fn of(&self, route: Route, peer: Peer, measure: usize) -> Vec<f64> {
        let mut all = self.0.iter();
        let candidate = all.find(|it| it.route == route && it.peer == peer);
        let samples = candidate.map(|it| it.samples.iter().map(|sample| sample[measure]));
        samples.map(Iterator::collect).unwrap_or_default()
    }

    fn ratio(&self, route: Route, peer: Peer, measure: usize) -> Option<Spread> {
        let bare = self.of(route, Peer::TokioPostgres, measure);
        Spread::of_ratios(&self.of(route, peer, measure), &bare)
    }
}

pub async fn run(report: &mut Report, options: &Options) -> Result<()> {
    let servers = Servers::start_postgres().await?;
    report.about(&servers.postgres);
    let watch = Watch::start(&servers.postgres).await?;
    let mut samples = Samples(Vec::new());
    for route in ROUTES {
        for peer in Peer::ALL {
            let target = servers.target(route).ok_or("no such route")?;
            if let Some(connector) = Connector::new(peer, target)? {
                samples.0.push(Candidate {
                    route,
                    peer,
                    connector,
                    samples: Vec::new(),
                });
            }
        }
    }
    let rounds = if options.quick { 3 } else { 100 };
    // The first round is not counted: what a process learns of a server is known after it.
    for round in 0..=rounds {
        for candidate in &mut samples.0 {
            let sample = sample(&candidate.connector, &watch).await?;
            if round > 0 {
                candidate.samples.push(sample);
            }
        }
        // Forwards and backwards in turn: none always follows the same other.
        samples.0.reverse();
    }
    let header: Vec<&str> = [""].into_iter().chain(ROUTES.map(Route::name)).collect();
    let left_out = if options.counts { CLIENT } else { 0 };
    for (measure, (name, title)) in MEASURES.into_iter().enumerate().skip(left_out) {
        report.table(
            &format!("connect {name}"),
            &format!("{title}; ratio to tokio-postgres (quartiles), after its median:"),
            &header,
            &rows(&samples, measure),
        )?;
    }
    let scram = Peer::ALL.map(|peer| {
        let [scram, trust] = [Route::Scram, Route::Trust].map(|it| samples.of(it, peer, CLIENT));
        (peer.name(), Spread::of_ratios(&scram, &trust))
    });
    let rows = scram.map(|(name, ratio)| vec![name.to_owned(), cell(ratio)]);
    report.table(
        "connect scram",
        "CPU of the client, SCRAM to trust (quartiles):",
        &["", "ratio"],
        &rows,
    )?;
    report.note(&format!(
        "Connections after the first of a process, in {rounds} rounds. The server's CPU is that of \
         the backend and of the postmaster, which forks it."
    ));
    report.set("connect", json(&samples).into());
    Ok(())
}

fn rows(samples: &Samples, measure: usize) -> Vec<Vec<String>> {
    let row = |peer: Peer| {
        let cells = ROUTES.map(|route| match peer {
            Peer::TokioPostgres => Spread::of(&samples.of(route, peer, measure))
                .filter(|spread| spread.median.is_finite())
                .map_or_else(|| "-".to_owned(), |it| format!("{:.0} µs", it.median)),
            _ => cell(samples.ratio(route, peer, measure)),
        });
        [peer.name().to_owned()].into_iter().chain(cells).collect()
    };
    Peer::ALL.map(row).into()
}

/// Without /proc nothing is known of the server.
fn cell(ratio: Option<Spread>) -> String {
    let ratio = ratio.filter(|ratio| ratio.median.is_finite());
    ratio.map_or_else(|| "-".to_owned(), Spread::ratio)
}

fn json(samples: &Samples) -> Vec<Value> {
    let candidates = ROUTES
        .iter()
        .flat_map(|&route| Peer::ALL.map(|peer| (route, peer)));
    let found = candidates.map(|(route, peer)| {
        let mut found = json!({ "route": route.name(), "peer": peer.name() });
        for (measure, (name, _)) in MEASURES.into_iter().enumerate() {
            found[name] = json!({
                "microseconds": Spread::of(&samples.of(route, peer, measure)).map(Spread::json),
                "ratio_to_tokio_postgres": samples.ratio(route, peer, measure).map(Spread::json),
            });
        }
        found
    });
    found.collect()
}

async fn sample(connector: &Connector, watch: &Watch) -> Result<Sample> {
    let [ready, row] = [Cell::new(Duration::ZERO), Cell::new(Duration::ZERO)];
    let (postmaster, cpu, begin) = (watch.postmaster_cpu(), process_cpu(), Instant::now());
    let connection = connector
        .open(|stage| match stage {
            Stage::Ready => ready.set(begin.elapsed()),
            Stage::FirstRow => row.set(begin.elapsed()),
        })
        .await?;
    tokio::time::sleep(TRAILING).await;
    let client = process_cpu().saturating_sub(cpu);
    let backend = watch.backends_cpu().await?;
    let server = match (postmaster, watch.postmaster_cpu(), backend) {
        (Some(before), Some(after), Some(backend)) => micros(backend + (after - before)),
        _ => f64::NAN,
    };
    watch.terminate().await?;
    drop(connection);
    Ok([
        micros(ready.get()),
        micros(row.get()),
        micros(client),
        server,
    ])
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
