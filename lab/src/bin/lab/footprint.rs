//! What a function's start and its file cost, with antifreeze and without.

use std::path::Path;
use std::time::Duration;

use comfy_table::{Table, presets};
use lab::lambda::Function;
use lab::postgres::Postgres;
use lab::{OrSay, Result};

use crate::build::build;

/// What is compared: the same function, three times.
const EXAMPLES: [(&str, &str); 3] = [
    ("nothing", "no database"),
    ("bare", "tokio-postgres, no TLS"),
    ("layered", "antifreeze, TLS compiled in"),
];

/// As cargo-lambda builds a release, but for panics, which antifreeze has to see.
const PROFILE: [&str; 3] = [
    "profile.release.strip=\"symbols\"",
    "profile.release.lto=\"thin\"",
    "profile.release.codegen-units=1",
];

/// Builds the examples and starts each so many times, in turn, on a throwaway server.
///
/// # Errors
/// When something cannot be built or started.
pub async fn run(runs: usize) -> Result<()> {
    let database = Postgres::shared().await?.fresh_database().await?;
    database
        .execute("create table partners (name text)")
        .await?;
    let mut functions = Vec::new();
    for (example, what) in EXAMPLES {
        let mut arguments = vec!["--release", "-p", "functions", "--example", example];
        arguments.extend(PROFILE.iter().flat_map(|setting| ["--config", setting]));
        let executable = build(&arguments).await?;
        let bytes = size(&executable)?;
        let builder = Function::builder(executable).env("DATABASE_URL", &database.url);
        functions.push((what, bytes, builder.start().await?, Vec::new()));
    }
    for _ in 0..runs {
        for (_, _, function, starts) in &mut functions {
            let environment = function.cold_start().await?;
            starts.extend(environment.init_duration());
            environment.shutdown().await;
        }
    }
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header([
        "",
        "bytes",
        "start to first /next, median",
        "fastest",
        "slowest",
    ]);
    for (what, bytes, _, mut starts) in functions {
        starts.sort();
        let time = |at: Option<&Duration>| at.map_or("-".into(), |time| format!("{time:.1?}"));
        let row = [
            what.to_owned(),
            bytes.to_string(),
            time(starts.get(starts.len() / 2)),
            time(starts.first()),
            time(starts.last()),
        ];
        table.add_row(row);
    }
    println!("{table}");
    Ok(())
}

fn size(executable: &Path) -> Result<u64> {
    let metadata = executable.metadata();
    let metadata = metadata.or_say(|| format!("cannot read {}", executable.display()))?;
    Ok(metadata.len())
}
