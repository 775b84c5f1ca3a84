//! The relay: that it counts exactly, and breaks what it should break.

mod common;

use std::time::{Duration, Instant};

use common::{connect, eventually};
use lab::{
    postgres::{Auth, Database, Postgres},
    relay::{Counts, Cut, Direction, Relay},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

const MOMENT: Duration = Duration::from_millis(50);

/// A relay in front of the shared cluster, and a fresh database's URL through it.
async fn relayed() -> (Relay, Database, String) {
    let postgres = Postgres::shared().await.unwrap();
    let database = postgres.fresh_database().await.unwrap();
    let relay = Relay::start(postgres.address()).await.unwrap();
    let url = relay.url(&database.url);
    (relay, database, url)
}

/// A relay in front of a listener.
async fn plain() -> (Relay, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay = Relay::start(listener.local_addr().unwrap()).await.unwrap();
    (relay, listener)
}

/// Both ends of a connection through a relay.
async fn pair(relay: &Relay, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(relay.address()).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    (client, server)
}

#[tokio::test]
async fn relay_counts_round_trips_exactly() {
    for _ in 0..20 {
        let (relay, _database, url) = relayed().await;
        let mut before = Counts::default();
        let mut step = || {
            let now = relay.counts();
            let step = now.since(before);
            before = now;
            (step.connections, step.round_trips)
        };
        let client = connect(&url).await.unwrap();
        assert_eq!(step(), (1, 1), "connect, trust");
        client.batch_execute("select 1; select 2").await.unwrap();
        assert_eq!(step(), (0, 1), "batch_execute");
        client.query("select $1::int", &[&1]).await.unwrap();
        assert_eq!(step(), (0, 2), "query of a text");
        client.query_typed("select 1", &[]).await.unwrap();
        assert_eq!(step(), (0, 1), "query_typed");
        let statement = client.prepare("select 1").await.unwrap();
        assert_eq!(step(), (0, 1), "prepare");
        client.query(&statement, &[]).await.unwrap();
        assert_eq!(step(), (0, 1), "query of a statement");
        drop(statement);
        eventually(|| relay.counts().closes >= 1).await;
        relay.quiet(MOMENT).await;
        assert_eq!(step(), (0, 0), "a dropped statement");
        let closes = relay.counts().closes;
        assert!(
            (1..=2).contains(&closes),
            "the first may go with what follows: {closes}"
        );
    }
}

#[tokio::test]
async fn relay_counts_scram_and_bytes() {
    let postgres = Postgres::builder().auth(Auth::Scram).start().await.unwrap();
    let relay = Relay::start(postgres.address()).await.unwrap();
    let client = connect(&relay.url(&postgres.url())).await.unwrap();
    assert_eq!(relay.counts().round_trips, 3);
    let before = relay.counts();
    let rows = client
        .query_typed("select repeat('x', 1000000)", &[])
        .await
        .unwrap();
    assert_eq!(rows[0].get::<_, &str>(0).len(), 1_000_000);
    let counts = relay.counts().since(before);
    assert!(
        counts.bytes_down > 1_000_000 && counts.bytes_up < 200,
        "{counts:?}"
    );
    assert_eq!(counts.round_trips, 1);
    drop(client);
    eventually(|| relay.open_connections() == 0).await;
}

#[tokio::test]
async fn relay_delays_without_queueing_up() {
    let (relay, listener) = plain().await;
    // Long enough that what a busy machine takes does not matter.
    relay.delay(Duration::from_secs(1));
    let started = Instant::now();
    let (mut client, mut server) = pair(&relay, &listener).await;
    // Ten writes, apart in time, all on their way at once.
    for byte in 0..10 {
        client.write_all(&[byte]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut bytes = [0; 10];
    server.read_exact(&mut bytes).await.unwrap();
    assert_eq!(bytes, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    // Half a round trip, and a whole one for the handshake.
    let took = started.elapsed();
    assert!((1_500..4_000).contains(&took.as_millis()), "{took:?}");

    let started = Instant::now();
    server.write_all(b"answer").await.unwrap();
    client.read_exact(&mut [0; 6]).await.unwrap();
    let took = started.elapsed();
    assert!((500..2_000).contains(&took.as_millis()), "{took:?}");
}

#[tokio::test]
async fn delays_of_a_millisecond_are_true() {
    let (relay, _database, url) = relayed().await;
    let client = connect(&url).await.unwrap();
    // The quickest, as a busy machine makes the others slower.
    let time = async || {
        let mut quickest = Duration::MAX;
        for _ in 0..100 {
            let started = Instant::now();
            client.batch_execute("").await.unwrap();
            quickest = quickest.min(started.elapsed());
        }
        quickest
    };
    let plain = time().await;
    relay.delay(Duration::from_millis(1));
    let mut delayed = time().await;
    for _ in 1..3 {
        if delayed >= Duration::from_millis(3) {
            delayed = delayed.min(time().await);
        }
    }
    println!("a round trip takes {plain:?}, and with a delay of 1 ms {delayed:?}");
    assert!(delayed >= Duration::from_millis(1) && delayed < Duration::from_millis(3));
}

#[tokio::test]
async fn relay_stalls_and_resumes() {
    let (relay, listener) = plain().await;
    let (mut client, mut server) = pair(&relay, &listener).await;
    relay.stall();
    let before = relay.counts();
    client.write_all(b"up").await.unwrap();
    client.shutdown().await.unwrap();
    server.write_all(b"down").await.unwrap();
    // A new connection is taken, and goes nowhere.
    let mut second = TcpStream::connect(relay.address()).await.unwrap();
    second.write_all(b"second").await.unwrap();
    let mut byte = [0];
    assert!(
        timeout(MOMENT, server.read(&mut byte)).await.is_err(),
        "not even FIN"
    );
    assert!(timeout(MOMENT, client.read(&mut byte)).await.is_err());
    assert!(timeout(MOMENT, listener.accept()).await.is_err());
    assert_eq!(relay.counts().since(before).bytes_up, 0);

    relay.resume();
    let mut text = String::new();
    server.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "up", "and then FIN");
    let mut four = [0; 4];
    client.read_exact(&mut four).await.unwrap();
    assert_eq!(
        &four, b"down",
        "after its own FIN: half-closed is still open"
    );
    let (mut accepted, _) = listener.accept().await.unwrap();
    accepted.read_exact(&mut [0; 6]).await.unwrap();
}

#[tokio::test]
async fn relay_stalls_one_direction() {
    let (relay, listener) = plain().await;
    let (mut client, mut server) = pair(&relay, &listener).await;
    relay.stall_down();
    server.write_all(b"down").await.unwrap();
    client.write_all(b"up").await.unwrap();
    server.read_exact(&mut [0; 2]).await.unwrap();
    assert!(timeout(MOMENT, client.read(&mut [0])).await.is_err());
    relay.resume();
    client.read_exact(&mut [0; 4]).await.unwrap();
    relay.stall_up();
    client.write_all(b"up").await.unwrap();
    server.write_all(b"down").await.unwrap();
    client.read_exact(&mut [0; 4]).await.unwrap();
    assert!(timeout(MOMENT, server.read(&mut [0])).await.is_err());
}

#[tokio::test]
async fn relay_passes_back_pressure_on() {
    let (relay, listener) = plain().await;
    let (client, mut server) = pair(&relay, &listener).await;
    let block = vec![0; 1024 * 1024];
    let endless = async { while server.write_all(&block).await.is_ok() {} };
    assert!(timeout(Duration::from_millis(500), endless).await.is_err());
    let held = relay.counts().bytes_down;
    assert!(
        held < 64 * 1024 * 1024,
        "the server was not made to wait: {held}"
    );
    drop(client);
}

#[tokio::test]
async fn relay_cuts_with_fin_or_reset() {
    let (relay, listener) = plain().await;
    let (mut client, mut server) = pair(&relay, &listener).await;
    relay.cut(Cut::Fin).await;
    assert_eq!(relay.open_connections(), 0);
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(server.read(&mut [0]).await.unwrap(), 0);

    let (mut client, mut server) = pair(&relay, &listener).await;
    relay.stall();
    relay.cut(Cut::Reset).await;
    relay.resume();
    let kind = std::io::ErrorKind::ConnectionReset;
    assert_eq!(client.read(&mut [0]).await.unwrap_err().kind(), kind);
    assert_eq!(server.read(&mut [0]).await.unwrap_err().kind(), kind);

    // Those that come after a cut are not cut.
    let (mut client, mut server) = pair(&relay, &listener).await;
    client.write_all(b"x").await.unwrap();
    server.read_exact(&mut [0]).await.unwrap();
    assert_eq!(relay.counts().connections, 3);
}

#[tokio::test]
async fn relay_refuses_and_takes_again() {
    let (relay, listener) = plain().await;
    let (mut client, mut server) = pair(&relay, &listener).await;
    relay.refuse(true).await.unwrap();
    let refused = TcpStream::connect(relay.address()).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    client.write_all(b"x").await.unwrap();
    server.read_exact(&mut [0]).await.unwrap();
    relay.refuse(false).await.unwrap();
    pair(&relay, &listener).await;
}

#[tokio::test]
async fn relay_records_traffic() {
    let (relay, listener) = plain().await;
    relay.record(true);
    let (mut client, mut server) = pair(&relay, &listener).await;
    client.write_all(b"question").await.unwrap();
    server.read_exact(&mut [0; 8]).await.unwrap();
    server.write_all(b"answer").await.unwrap();
    client.read_exact(&mut [0; 6]).await.unwrap();
    relay.record(false);
    client.write_all(b"more").await.unwrap();
    server.read_exact(&mut [0; 4]).await.unwrap();
    let recordings = relay.recordings();
    assert_eq!(recordings.len(), 1);
    let chunks: Vec<_> = recordings[0]
        .chunks
        .iter()
        .map(|chunk| (chunk.direction, chunk.bytes.as_ref()))
        .collect();
    assert_eq!(
        chunks,
        [
            (Direction::Up, &b"question"[..]),
            (Direction::Down, &b"answer"[..])
        ]
    );
}

#[tokio::test]
async fn relay_resets_clients_without_a_server() {
    let (relay, listener) = plain().await;
    drop(listener);
    // The reset may come before the connect is noticed.
    let reads = async {
        let mut client = TcpStream::connect(relay.address()).await?;
        client.read(&mut [0]).await
    };
    let error = reads.await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn relay_outlives_its_runtime() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let (relay, _database, url) = runtime().block_on(relayed());
    runtime().block_on(async {
        connect(&url)
            .await
            .unwrap()
            .batch_execute("")
            .await
            .unwrap()
    });
    assert_eq!(relay.counts().connections, 1);
}
