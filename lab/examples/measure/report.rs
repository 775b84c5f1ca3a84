//! What was measured: tables of 80 columns for people, and JSON.

use std::fs;
use std::path::Path;
use std::thread::available_parallelism;

use comfy_table::{CellAlignment, Table, presets};
use lab::figures;
use lab::postgres::Postgres;
use serde_json::{Map, Value, json};

use crate::Result;

/// The columns of a terminal.
const WIDTH: usize = 80;

pub struct Report {
    found: Map<String, Value>,
    /// The server that is measured.
    postgres: String,
    /// The page that holds the tables.
    page: &'static str,
    /// Whether `LAB_KEEP=1` writes the tables into the page.
    keeps: bool,
}

impl Report {
    pub fn new(page: &'static str, quick: bool) -> Self {
        let machine = json!({
            "cores": cores(),
            "load_before": load(),
            "quick": quick,
            "release": !cfg!(debug_assertions),
            "system": system(),
        });
        if cfg!(debug_assertions) {
            println!("A debug build: only the round trips mean something. Use --release.");
        }
        Self {
            found: Map::from_iter([("machine".to_owned(), machine)]),
            postgres: String::new(),
            page,
            keeps: figures::is_kept() && !quick && !cfg!(debug_assertions),
        }
    }

    /// Names the server of the tables that follow.
    pub fn about(&mut self, postgres: &Postgres) {
        self.postgres = format!("PostgreSQL {}", postgres.installation().version());
        self.found["machine"]["postgres"] = self.postgres.as_str().into();
        println!("\n{}", self.circumstances());
    }

    /// What must be known of every time.
    fn circumstances(&self) -> String {
        let (cores, load, postgres) = (cores(), load(), &self.postgres);
        format!("{cores} cores, {postgres}, load {load:.1}")
    }

    /// What was found under a name.
    pub fn set(&mut self, name: &str, value: Value) {
        self.found.insert(name.to_owned(), value);
    }

    /// Prints a table; the first column is text, the others are figures. `name` is that of
    /// its place in the page.
    pub fn table(
        &self,
        name: &str,
        title: &str,
        header: &[&str],
        rows: &[Vec<String>],
    ) -> Result<()> {
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
        if self.keeps {
            let text = format!("{title}\n\n{table}\n\n{}.", self.circumstances());
            figures::keep_block(self.page, name, &text)?;
        }
        Ok(())
    }

    /// Puts a row into the table of another page.
    pub fn row(&self, page: &str, about: &str, found: &[String]) -> Result<()> {
        if self.keeps {
            let found: Vec<&str> = found.iter().map(String::as_str).collect();
            figures::keep(page, about, &found)?;
        }
        Ok(())
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
        self.found["machine"]["load_after"] = load().into();
        println!("\n{} at the end", self.circumstances());
        let Some(file) = file else { return Ok(()) };
        let text = serde_json::to_string_pretty(&Value::Object(self.found))?;
        fs::write(file, text + "\n")
            .map_err(|error| format!("could not write {}: {error}", file.display()).into())
    }
}

fn cores() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// The load of the last minute: what else ran.
fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = text.split(' ').next().and_then(|load| load.parse().ok());
    load.unwrap_or(f64::NAN)
}

fn system() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{} {}", std::env::consts::OS, release.trim())
        .trim()
        .to_owned()
}
