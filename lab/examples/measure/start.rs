//! What a function's start and its file cost, with antifreeze and without.

use std::time::Duration;

use lab::lambda::{Environment, Function};
use lab::postgres::{Auth, Postgres};
use serde_json::json;

use crate::report::Report;
use crate::statistics::Spread;
use crate::{Options, Result};

/// The same function, four times: an example of the package `functions`, and what is in it.
const FUNCTIONS: [(&str, &str); 4] = [
    ("nothing", "no database"),
    ("bare", "tokio-postgres, no TLS"),
    ("bare_tls", "tokio-postgres, rustls"),
    ("layered", "antifreeze"),
];

/// What the others are compared with.
const BASE: usize = 2;

/// As cargo-lambda builds a release, but for panics, which antifreeze has to see.
const PROFILE: [&str; 3] = [
    "profile.release.strip=\"symbols\"",
    "profile.release.lto=\"thin\"",
    "profile.release.codegen-units=1",
];

pub async fn run(report: &mut Report, options: &Options) -> Result<()> {
    let postgres = Postgres::builder().tls(true).auth(Auth::Scram);
    let postgres = postgres.start().await?;
    report.about(&postgres);
    let database = postgres.create_database("shop").await?;
    database
        .execute("create table partners (name text)")
        .await?;
    let roots = postgres.certificate_authority().ok_or("no authority")?;
    let (url, roots) = (&database.url, roots.display());
    let plain = format!("{url}?sslmode=disable");
    let tls = format!("{url}?sslmode=verify-full&sslrootcert={roots}");

    let mut functions = Vec::new();
    for (example, what) in FUNCTIONS {
        let mut arguments = vec!["--release", "-p", "functions", "--example", example];
        arguments.extend(PROFILE.iter().flat_map(|setting| ["--config", setting]));
        let executable = lab::cargo::build(&arguments).await?;
        let bytes = executable.metadata()?.len();
        let builder = Function::builder(executable).timeout(Duration::from_secs(30));
        let builder = match example {
            "layered" => builder.env("DATABASE_URL", &tls),
            // Its driver knows no roots: they come from a variable of its own.
            "bare_tls" => builder
                .env("DATABASE_URL", format!("{url}?sslmode=require"))
                .env("ROOTS", &roots),
            _ => builder.env("DATABASE_URL", &plain),
        };
        functions.push((what, bytes, builder.start().await?, Vec::new()));
    }
    let starts = match (options.counts, options.quick) {
        (true, _) => 0,
        (false, true) => 3,
        (false, false) => 40,
    };
    for _ in 0..starts {
        for (_, _, function, starts) in &mut functions {
            let environment: Environment = function.cold_start().await?;
            let start = environment.init_duration().unwrap_or_default();
            starts.push(start.as_secs_f64() * 1e3);
            environment.shutdown().await;
        }
    }

    let base = (functions[BASE].1, functions[BASE].3.clone());
    let (mut rows, mut all) = (Vec::new(), Vec::new());
    for (what, bytes, _, starts) in &functions {
        let above: Vec<f64> = starts.iter().zip(&base.1).map(|(a, b)| a - b).collect();
        let (start, above) = (Spread::of(starts), Spread::of(&above));
        let text = |spread: Option<Spread>, sign: bool| match spread {
            Some(it) if sign => format!("{:+.1} ({:+.1} to {:+.1})", it.median, it.low, it.high),
            Some(it) => format!("{:.1}", it.median),
            None => String::new(),
        };
        rows.push(vec![
            what.to_string(),
            text(start, false),
            text(above, true),
            bytes.to_string(),
            format!("{:+}", *bytes as i64 - base.0 as i64),
        ]);
        all.push(json!({
            "function": what,
            "milliseconds": start.map(Spread::json),
            "above_rustls": above.map(Spread::json),
            "bytes": bytes,
        }));
    }
    report.table(
        "start",
        "Start until the first `/next`, the connection open, in ms, and above the third row \
         (quartiles); size of the file, stripped, and above the third row:",
        &["", "ms", "above", "bytes", "above"],
        &rows,
    )?;
    report.note("rustls and antifreeze connect with TLS and SCRAM, the plain one with SCRAM.");
    report.set("start", all.into());
    Ok(())
}
