//! Behind a real PgBouncer, in transaction and in session mode: the promise, named
//! statements, types that the user defined.
//!
//! Debian 12 has PgBouncer 1.18, which knows nothing of prepared statements. Another is
//! tested with `LAB_PGBOUNCER=path cargo test --test pgbouncer`; `.ci/pgbouncer` makes one.

#[path = "../common/mod.rs"]
mod common;
mod endings;
#[allow(dead_code)]
#[path = "../bridge/raw.rs"]
mod raw;
mod settings;
mod statements;

use antifreeze::config::Pooler;
use antifreeze::teardown::Step;
use antifreeze::{Config, connection, transaction};
use bytes::{BufMut, BytesMut};
use common::pooled::{CLIENTS, MODES, Pooled, SERVERS, assert_ends_at_rest, pooled, pooled_with};
use common::{BoxError, Lab, PLENTY, sleeps};
use futures_util::StreamExt;
use futures_util::future::{join_all, try_join_all};
use lab::pgbouncer::{Mode, PgBouncer};
use lab::postgres::Postgres;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Barrier;
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, IsNull, Kind, ToSql, Type, to_sql_checked};
