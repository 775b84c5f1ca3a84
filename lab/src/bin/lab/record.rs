//! Recordings of real traffic, for the tests of the wire.

use std::path::Path;
use std::pin::pin;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use lab::postgres::Postgres;
use lab::relay::{Direction, Recording, Relay};
use lab::{OrSay, Result};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, NoTls};

type Refused = tokio_postgres::Error;

/// What is recorded, a file each.
const CONVERSATIONS: [&str; 9] = [
    "simple",
    "extended",
    "pipelined",
    "errors",
    "copy_in",
    "copy_out",
    "portals",
    "notify",
    "dropped",
];

pub async fn run(recordings: &Path, seeds: &Path) -> Result<()> {
    let postgres = Postgres::start().await?;
    for directory in [recordings, seeds] {
        std::fs::create_dir_all(directory)
            .or_say(|| format!("cannot make {}", directory.display()))?;
    }
    for name in CONVERSATIONS {
        let database = postgres.fresh_database().await?;
        database
            .execute("create table t (a int); create type mood as enum ('well'); create table m (a mood)")
            .await?;
        let relay = Relay::start(postgres.address()).await?;
        relay.record(true);
        let url = format!("{}?sslmode=disable", relay.url(&database.url));
        converse(name, &url)
            .await
            .or_say(|| format!("the conversation {name} failed"))?;
        for recording in relay.recordings() {
            let file = recordings.join(format!("{name}.traffic"));
            write(&file, &written(&recording))?;
            write(&seeds.join(name), &seed(&recording))?;
            println!("{}: {} pieces", file.display(), recording.chunks.len());
        }
    }
    Ok(())
}

/// A piece after the other: `^` for up or `v` for down, its length as four bytes, the
/// bytes.
fn written(recording: &Recording) -> Vec<u8> {
    let mut file = Vec::new();
    for chunk in &recording.chunks {
        file.push(match chunk.direction {
            Direction::Up => b'^',
            Direction::Down => b'v',
        });
        file.extend((chunk.bytes.len() as u32).to_be_bytes());
        file.extend(&chunk.bytes);
    }
    file
}

/// As the fuzz target reads it: how it is cut, then pieces of up to 127 bytes behind a
/// byte that says which way they go and how long they are.
fn seed(recording: &Recording) -> Vec<u8> {
    let mut file = vec![0];
    for chunk in &recording.chunks {
        for piece in chunk.bytes.chunks(127) {
            let down = u8::from(chunk.direction == Direction::Down);
            file.push((piece.len() as u8) << 1 | down);
            file.extend(piece);
        }
    }
    file
}

fn write(file: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(file, bytes).or_say(|| format!("cannot write {}", file.display()))
}

async fn converse(name: &str, url: &str) -> Result<(), Refused> {
    let (mut client, connection) = tokio_postgres::connect(url, NoTls).await?;
    let connection = tokio::spawn(connection);
    match name {
        "simple" => {
            client
                .batch_execute("begin; insert into t values (1); select * from t; commit")
                .await?;
            client.simple_query("select 1; select 2; ").await?;
            client.batch_execute("").await?;
            client.batch_execute("begin").await?;
        }
        "extended" => {
            let statement = client.prepare("select $1::int").await?;
            client.query(&statement, &[&1i32]).await?;
            client
                .query_typed("select $1", &[(&1i32, Type::INT4)])
                .await?;
            client.query("select a from m", &[]).await?;
            client
                .execute("insert into t select generate_series(1, 100)", &[])
                .await?;
            client
                .query("select repeat('x', 1000), * from t", &[])
                .await?;
            client.check_connection().await?;
        }
        "pipelined" => pipelined(&client).await?,
        "errors" => {
            let _ = client.batch_execute("select 1 / 0").await;
            let _ = client.query("nonsense", &[]).await;
            client.batch_execute("begin").await?;
            let _ = client.query("select 1 / 0", &[]).await;
            let _ = client.query("select 1", &[]).await;
            client
                .batch_execute("do $$ begin raise notice 'n'; end $$; rollback")
                .await
                .ok();
            client.batch_execute("rollback").await?;
        }
        "copy_in" => {
            let mut sink = pin!(client.copy_in("copy t from stdin").await?);
            sink.send(Bytes::from(b"1\n".repeat(3000))).await?;
            sink.finish().await?;
            let sink = client.copy_in::<_, Bytes>("copy t from stdin").await?;
            drop(sink);
            let mut sink = pin!(client.copy_in("copy t from stdin").await?);
            sink.send(Bytes::from_static(b"none\n")).await?;
            let _ = sink.finish().await;
            client.batch_execute("select 1").await?;
        }
        "copy_out" => {
            let copy = "copy (select repeat('x', n) from generate_series(1, 200) n) to stdout";
            let mut stream = pin!(client.copy_out(copy).await?);
            while let Some(chunk) = stream.next().await {
                chunk?;
            }
            let failing = "copy (select 1 / (3 - n) from generate_series(1, 9) n) to stdout";
            let mut stream = pin!(client.copy_out(failing).await?);
            while let Some(Ok(_)) = stream.next().await {}
            drop(client.copy_out(copy).await?);
            client.batch_execute("select 1").await?;
        }
        "portals" => {
            let transaction = client.transaction().await?;
            let portal = transaction
                .bind("select generate_series(1, 10)", &[])
                .await?;
            transaction.query_portal(&portal, 4).await?;
            transaction.query_portal(&portal, 0).await?;
            transaction.commit().await?;
        }
        "notify" => {
            client
                .batch_execute("listen a; notify a, 'b'; set timezone = 'UTC'")
                .await?
        }
        _ => {
            let _ = futures_util::poll!(pin!(client.batch_execute("begin")));
            let _ = futures_util::poll!(pin!(client.query("select 1", &[])));
            drop(client.transaction().await?);
            client.batch_execute("select 1").await?;
        }
    }
    drop(client);
    let _ = connection.await;
    Ok(())
}

async fn pipelined(client: &Client) -> Result<(), Refused> {
    let (first, failing, third, last) = futures_util::join!(
        client.batch_execute("begin"),
        client.query_typed("select 1 / 0", &[]),
        client.batch_execute("select 1"),
        client.batch_execute("rollback"),
    );
    first?;
    let _ = (failing, third);
    last
}
