//! What was measured: tables of 80 columns for people, and JSON.

use std::fs;
use std::path::Path;
use std::thread::available_parallelism;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Map, Value, json};

use crate::Result;

/// The columns of a terminal.
const WIDTH: usize = 80;

pub struct Report(Map<String, Value>);

impl Report {
    pub fn new(quick: bool) -> Self {
        let machine = json!({
            "cores": available_parallelism().map_or(0, usize::from),
            "load_before": load(),
            "quick": quick,
            "release": !cfg!(debug_assertions),
            "system": system(),
        });
        println!(
            "{} cores, load {} at the beginning",
            machine["cores"], machine["load_before"]
        );
        if cfg!(debug_assertions) {
            println!("A debug build: only the round trips mean something. Use --release.");
        }
        Self(Map::from_iter([("machine".to_owned(), machine)]))
    }

    /// What was found under a name.
    pub fn set(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }

    /// Prints a table; the first column is text, the others are figures.
    pub fn table(&self, title: &str, header: &[&str], rows: &[Vec<String>]) {
        let mut table = Table::new();
        table.load_preset(presets::ASCII_MARKDOWN);
        table.set_header(header);
        table.add_rows(rows);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        println!();
        self.note(title);
        println!("\n{table}");
    }

    /// Prints what was left out, or what must be known of a table, in lines.
    pub fn note(&self, text: &str) {
        let mut line = String::new();
        for word in text.split_whitespace() {
            if !line.is_empty() && line.chars().count() + word.chars().count() >= WIDTH {
                println!("{line}");
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        println!("{line}");
    }

    /// Writes the JSON.
    pub fn finish(mut self, file: Option<&Path>) -> Result<()> {
        self.0["machine"]["load_after"] = load();
        println!("\nload {} at the end", self.0["machine"]["load_after"]);
        let Some(file) = file else { return Ok(()) };
        let text = serde_json::to_string_pretty(&Value::Object(self.0))?;
        fs::write(file, text + "\n")
            .map_err(|error| format!("could not write {}: {error}", file.display()).into())
    }
}

/// The load of the last minute: what else ran.
fn load() -> Value {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Option<f64> = text.split(' ').next().and_then(|load| load.parse().ok());
    load.into()
}

fn system() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{} {}", std::env::consts::OS, release.trim())
        .trim()
        .to_owned()
}
