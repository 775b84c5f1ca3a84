//! Where the report goes: the terminal, JSON, a page, pictures.

use std::fs;
use std::path::Path;
use std::thread::available_parallelism;

use lab::{OrSay, Result};
use serde_json::{Value, json};

use super::candidates::Candidate;
use super::cell::Cell;
use super::chart::CHARTS;
use super::scenarios::Scenario;
use super::summary::{Row, ahead, answers, rows};
use super::{page, table};

/// What it was measured on.
pub struct Machine {
    pub cores: usize,
    pub load_before: f64,
    pub load_after: f64,
    pub system: String,
    pub postgres: String,
    pub quick: bool,
}

/// All that was found.
pub struct Report<'a> {
    pub machine: Machine,
    pub runs: usize,
    pub instances: usize,
    /// The bytes of the function in Rust and of the script.
    pub sizes: [u64; 2],
    pub candidates: Vec<&'a Candidate>,
    pub scenarios: Vec<Scenario>,
    pub cells: Vec<Cell>,
    pub left_out: Vec<String>,
}

/// A scenario as it is shown.
pub struct Section<'a> {
    pub about: String,
    pub name: &'static str,
    pub rows: Vec<Row<'a>>,
}

impl Machine {
    pub fn before(quick: bool) -> Self {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cores: available_parallelism().map_or(1, usize::from),
            load_before: load(),
            load_after: f64::NAN,
            system: format!("{} {}", std::env::consts::OS, release.trim()),
            postgres: String::new(),
            quick,
        }
    }

    pub fn finish(&mut self) {
        self.load_after = load();
    }
}

impl<'a> Report<'a> {
    /// Prints the tables, and writes what was asked for.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, json: Option<&Path>, html: Option<&Path>, save: bool) -> Result<()> {
        self.print();
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks");
        let saved = |name: &str| save.then(|| docs.join(name));
        if save {
            fs::create_dir_all(&docs).or_say(|| format!("cannot make {}", docs.display()))?;
            for (file, svg) in self.charts()? {
                write(&docs.join(format!("fleet-{file}.svg")), &svg)?;
            }
        }
        let files = |asked: Option<&Path>, name: &str| {
            let asked = asked.map(Path::to_owned);
            asked.into_iter().chain(saved(name)).collect::<Vec<_>>()
        };
        for file in files(json, "fleet.json") {
            write(&file, &format!("{:#}\n", self.json()))?;
        }
        for file in files(html, "fleet.html") {
            write(&file, &page::html(self)?)?;
        }
        Ok(())
    }

    pub fn sections(&self) -> Vec<Section<'a>> {
        let mut sections = Vec::new();
        for scenario in &self.scenarios {
            for name in scenario.names() {
                sections.push(Section {
                    about: scenario.about(),
                    name,
                    rows: rows(&self.cells, &self.candidates, name),
                });
            }
        }
        sections
    }

    /// The charts of what was measured, with the names of their files.
    pub fn charts(&self) -> Result<Vec<(&'static str, String)>> {
        let mut charts = Vec::new();
        for section in self.sections() {
            for chart in CHARTS.iter().filter(|it| it.scenario == section.name) {
                charts.push((chart.file, chart.svg(&section.rows)?));
            }
        }
        Ok(charts)
    }

    /// How it was measured, in a sentence.
    pub fn circumstances(&self) -> String {
        let machine = &self.machine;
        let runs = match self.runs {
            1 => "one run".to_owned(),
            runs => format!("medians of {runs} runs"),
        };
        let build = match cfg!(debug_assertions) {
            true => "a debug build, whose times mean nothing",
            false => "a release build",
        };
        format!(
            "{} instances in a burst, PostgreSQL {} with 25 slots, {}, {} cores, load {:.1} before, \
             {build}.",
            self.instances, machine.postgres, runs, machine.cores, machine.load_before
        )
    }

    /// What the files of the functions weigh.
    pub fn sizes(&self) -> String {
        let (rust, node) = (self.sizes[0] as f64 / 1e6, self.sizes[1] as f64 / 1e3);
        format!(
            "All candidates in Rust are one file of {rust:.1} MB; those in Node are a script of \
             {node:.0} kB, beside node and its packages."
        )
    }

    fn print(&self) {
        println!("{}\n", table::wrapped(&self.circumstances()));
        let sections = self.sections();
        for section in &sections {
            println!("{}", table::of(&section.rows));
            println!("{}\n", table::wrapped(&answers(&section.rows)));
        }
        println!(
            "{}\n",
            table::wrapped(
                "p50 and p99 in ms of what was answered, start included where the process is new; \
                 ALTER: an ALTER TABLE right after, in ms (> if it gave up); slots: the most that were \
                 used; trips and conn.: round trips and connects to the server, all together; CPU: ms \
                 of the processes for each request, - where one has ended."
            )
        );
        println!("Where peers are ahead of antifreeze in all runs, answer as much, and block no");
        println!("migration:");
        for sentence in ahead_of_antifreeze(&sections) {
            println!("{}", table::wrapped(&sentence));
        }
        println!();
        println!("{}", table::wrapped(&self.sizes()));
        for left_out in &self.left_out {
            println!("{}", table::wrapped(&format!("Left out: {left_out}.")));
        }
    }

    fn json(&self) -> Value {
        let machine = &self.machine;
        let sections = self.sections();
        let candidates = self.candidates.iter().map(
            |it| json!({ "name": it.name, "configuration": it.configuration, "page": it.page }),
        );
        let scenarios = sections
            .iter()
            .map(|section| json!({ "name": section.name, "what": section.about }));
        let summary = sections.iter().flat_map(|section| &section.rows);
        json!({
            "machine": {
                "cores": machine.cores,
                "load_before": machine.load_before,
                "load_after": machine.load_after,
                "system": machine.system,
                "postgres": machine.postgres,
                "release": !cfg!(debug_assertions),
                "quick": machine.quick,
            },
            "runs": self.runs,
            "instances": self.instances,
            "bytes_of_functions": { "rust": self.sizes[0], "node": self.sizes[1] },
            "candidates": Vec::from_iter(candidates),
            "scenarios": Vec::from_iter(scenarios),
            "summary": Vec::from_iter(summary.map(Row::json)),
            "ahead_of_antifreeze": ahead_of_antifreeze(&sections),
            "left_out": self.left_out,
            "cells": Vec::from_iter(self.cells.iter().map(Cell::json)),
        })
    }
}

/// A sentence for each scenario in which a peer is ahead.
pub fn ahead_of_antifreeze(sections: &[Section<'_>]) -> Vec<String> {
    let ahead = sections
        .iter()
        .filter_map(|section| Some(format!("{}: {}", section.name, ahead(&section.rows)?)));
    match ahead.collect::<Vec<_>>() {
        none if none.is_empty() => vec!["In no scenario.".to_owned()],
        some => some,
    }
}

pub fn size(file: &Path) -> u64 {
    file.metadata().map_or(0, |file| file.len())
}

/// The load of the last minute: what else ran.
fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = text.split(' ').next().and_then(|load| load.parse().ok());
    load.unwrap_or(f64::NAN)
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).or_say(|| format!("cannot write {}", file.display()))
}
