//! What a function for Vercel weighs, and how long it takes from its start until it
//! serves, warm-up on a PostgreSQL of this machine included.
//!
//! ```sh
//! cargo build --release -p api --bins --example unlayered
//! cargo run -p lab --example vercel_start -- target/release/{examples/unlayered,partners,rest}
//! ```

use std::time::{Duration, Instant};

use lab::{postgres::Postgres, vercel::Deployment};

/// How often each is started.
const STARTS: usize = 31;

#[tokio::main]
async fn main() -> lab::Result<()> {
    let executables: Vec<String> = std::env::args().skip(1).collect();
    if executables.is_empty() {
        return Err(lab::Error::new("name the executables to start"));
    }
    let server = Postgres::start().await?;
    println!("| function | bytes | until it serves |\n| --- | --- | --- |");
    for executable in executables {
        let bytes = std::fs::metadata(&executable).map_or(0, |file| file.len());
        let mut took = Vec::new();
        for _ in 0..STARTS {
            took.push(start(&executable, &server.url()).await?);
        }
        took.sort();
        let (median, fastest) = (took[STARTS / 2], took[0]);
        println!("| {executable} | {bytes} | {median:.1?} ({fastest:.1?} at best) |");
    }
    Ok(())
}

async fn start(executable: &str, url: &str) -> lab::Result<Duration> {
    let builder = Deployment::builder(executable).env("DATABASE_URL", url);
    let begin = Instant::now();
    let deployment = builder.start().await?;
    let took = begin.elapsed();
    deployment.terminate().await;
    Ok(took)
}
