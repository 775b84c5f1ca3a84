//! The round trips of a new connection, and what they cost over a link.
//!
//! A relay counts how often bytes go up and then come down while it makes every round trip
//! 20 ms long, so that whatever is under way at once counts once. TCP's handshake, which the
//! relay's kernel answers, is added: one for each connection.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use antifreeze::Database;
use lab::relay::{Cut, Relay};
use serde_json::{Value, json};

use crate::peers::{Connector, Peer, Stage, config};
use crate::report::Report;
use crate::servers::{Route, Servers, Target};
use crate::statistics::Spread;
use crate::{Options, Result};

const NEAR: Duration = Duration::from_millis(20);
const FAR: Duration = Duration::from_millis(100);

/// What one new connection took.
#[derive(Clone, Copy, Default)]
struct Opened {
    /// Round trips until the caller has the connection.
    ready: u64,
    /// Round trips after that, until the first row.
    row: u64,
    row_after: Duration,
}

impl Opened {
    fn json(self) -> Value {
        json!({ "until_ready": self.ready, "more_until_first_row": self.row })
    }
}

/// What one candidate took over one route.
struct Found {
    first: Opened,
    /// Of another connection of the same process, which may know the server by now.
    later: Opened,
    /// Milliseconds until the first row, by the round trip of the link.
    times: Vec<(Duration, Spread)>,
}

impl Options {
    /// The round trips of the links that times are measured over.
    fn links(&self) -> Vec<Duration> {
        let given = self.link.iter().copied().map(Duration::from_millis);
        match (self.link.is_empty(), self.counts, self.quick) {
            (false, ..) => given.collect(),
            (_, true, _) => Vec::new(),
            (_, false, true) => vec![NEAR],
            (_, false, false) => vec![NEAR, FAR],
        }
    }
}

pub async fn run(report: &mut Report, options: &Options) -> Result<()> {
    let servers = Servers::start().await?;
    report.about(&servers.postgres);
    let (mut counts, mut times, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for route in Route::ALL {
        let Some(target) = servers.target(route) else {
            continue;
        };
        let mut row = vec![route.name().to_owned()];
        let mut time_row = row.clone();
        for peer in Peer::ALL {
            let found = candidate(peer, &target, options).await;
            let found = found.map_err(|error| {
                format!(
                    "{} could not connect ({}): {error}",
                    peer.name(),
                    route.name()
                )
            })?;
            let Some(found) = found else {
                row.push("-".to_owned());
                time_row.push("-".to_owned());
                continue;
            };
            row.push(counted(&found));
            let medians = found.times.iter();
            let medians = medians.map(|(_, spread)| format!("{:.0}", spread.median));
            time_row.push(Vec::from_iter(medians).join(" / "));
            all.push(json!({
                "route": route.name(),
                "peer": peer.name(),
                "first": found.first.json(),
                "later": found.later.json(),
                "milliseconds_until_first_row": found.times.iter().map(|(link, spread)| json!({
                    "link": link.as_millis() as u64, "time": spread.json()
                })).collect::<Vec<_>>(),
            }));
        }
        counts.push(row);
        times.push(time_row);
    }
    let header: Vec<&str> = [""].into_iter().chain(Peer::ALL.map(Peer::name)).collect();
    report.table(
        "trips",
        "Round trips of a new connection until it is ready + more until its first row, \
         TCP's handshake included; `first, later` where a process knows more after the first:",
        &header,
        &counts,
    )?;
    let links = options.links();
    if !links.is_empty() {
        let links = links.iter().map(|link| link.as_millis().to_string());
        let links = Vec::from_iter(links).join(" / ");
        report.table(
            "trips times",
            &format!("Milliseconds until the first row over links of {links} ms there and back:"),
            &header,
            &times,
        )?;
    }
    let mut warm_ups = Vec::new();
    for route in Route::ALL {
        if let Some(target) = servers.target(route) {
            warm_ups.push((route.name(), warm_up(&target).await?));
        }
    }
    let rows = warm_ups
        .iter()
        .map(|(route, trips)| vec![route.to_string(), trips.to_string()]);
    report.table(
        "trips warm_up",
        "Round trips of `warm_up()`, one connection, TCP's handshake included:",
        &["", "antifreeze"],
        &Vec::from_iter(rows),
    )?;
    report.set("trips_of_warm_up", json!(BTreeMap::from_iter(warm_ups)));
    for missing in &servers.missing {
        report.note(&format!("Left out: {missing}."));
    }
    report.set("trips", all.into());
    Ok(())
}

fn counted(found: &Found) -> String {
    let [first, later] = [found.first, found.later].map(|it| format!("{}+{}", it.ready, it.row));
    if first == later {
        first
    } else {
        format!("{first}, {later}")
    }
}

async fn candidate(peer: Peer, target: &Target, options: &Options) -> Result<Option<Found>> {
    // Its own for each, since what is learnt of a server is kept by its address.
    let relay = Relay::start(target.address).await?;
    relay.delay(NEAR);
    let Some(connector) = Connector::new(peer, target.through(&relay))? else {
        return Ok(None);
    };
    let first = open(&connector, &relay).await?;
    let later = open(&connector, &relay).await?;
    let mut times = Vec::new();
    for link in options.links() {
        relay.delay(link);
        let mut samples = Vec::new();
        for _ in 0..if options.quick { 1 } else { 5 } {
            let opened = open(&connector, &relay).await?;
            samples.push(opened.row_after.as_secs_f64() * 1e3);
        }
        times.extend(Spread::of(&samples).map(|spread| (link, spread)));
    }
    Ok(Some(Found {
        first,
        later,
        times,
    }))
}

async fn warm_up(target: &Target) -> Result<u64> {
    let relay = Relay::start(target.address).await?;
    relay.delay(NEAR);
    let database = Database::new(config(&target.through(&relay))?)?;
    database.warm_up().connections(1).required().await?;
    let counts = relay.counts();
    Ok(counts.connections + counts.round_trips)
}

async fn open(connector: &Connector, relay: &Relay) -> Result<Opened> {
    let (before, begin) = (relay.counts(), Instant::now());
    let trips = || {
        let counts = relay.counts().since(before);
        counts.connections + counts.round_trips
    };
    let opened = Cell::new(Opened::default());
    let connection = connector
        .open(|stage| {
            let so_far = opened.get();
            opened.set(match stage {
                Stage::Ready => Opened {
                    ready: trips(),
                    ..so_far
                },
                Stage::FirstRow => Opened {
                    row: trips() - so_far.ready,
                    row_after: begin.elapsed(),
                    ..so_far
                },
            });
        })
        .await?;
    drop(connection);
    relay.cut(Cut::Fin).await;
    Ok(opened.get())
}
