//! The newcomer's first command shows what it says.

use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;

/// It builds an example first.
const PLENTY: Duration = Duration::from_secs(900);

/// More than an answer, or an end in good order, takes on a slow machine.
const SOON: Duration = Duration::from_secs(60);

#[tokio::test]
async fn demo_shows_a_difference() {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_lab"));
    demo.arg("demo").kill_on_drop(true);
    let output = timeout(PLENTY, demo.output()).await.expect("it ends");
    let output = output.expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");

    let (_, tables) = text.split_once("With the layer").expect("a table");
    let (with, without) = tables
        .split_once("The same handler without it")
        .expect("another");
    for (path, response) in [
        ("/partners", "201"),
        ("/early", "422"),
        ("/begin", "200"),
        ("/task", "202"),
        ("/panic", "502"),
        ("/slow", "504"),
    ] {
        let row = Row::of(with, path);
        assert!(row.response.starts_with(response), "{path}: {row:?}");
        assert!(["idle", "none"].contains(&row.session), "{path}: {row:?}");
        assert!(row.migration.ends_with(" ms"), "{path}: {row:?}");
    }
    for (path, response) in [("/partners", "201"), ("/begin", "200"), ("/task", "202")] {
        let row = Row::of(without, path);
        assert!(row.response.starts_with(response), "{path}: {row:?}");
    }
    let slow = Row::of(without, "/slow");
    assert!(slow.response.starts_with("none"), "{slow:?}");
    let fine = Row::of(without, "/partners");
    assert_eq!(fine.session, "idle", "{fine:?}");
    for path in ["/begin", "/task"] {
        let row = Row::of(without, path);
        assert_eq!(row.session, "idle in transaction", "{path}: {row:?}");
        assert_eq!(row.migration, "waited, gave up", "{path}: {row:?}");
    }
}

#[tokio::test]
async fn demo_serves_until_it_is_interrupted() {
    let port = free_port();
    let mut demo = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["demo", "--serve", "--port", &port.to_string()])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    let mut output = BufReader::new(demo.stdout.take().expect("a pipe")).lines();
    let ready = async {
        while let Some(line) = output.next_line().await.expect("text") {
            if line.starts_with("Ctrl-C") {
                return;
            }
        }
        panic!("it ended without serving");
    };
    timeout(PLENTY, ready).await.expect("it serves");

    let answer = timeout(SOON, post(port, "/partners")).await;
    let answer = answer.expect("an answer in time");
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert!(answer.ends_with("created\n"), "{answer}");

    let pid = demo.id().expect("it is running") as i32;
    let pid = Pid::from_raw(pid).expect("a process id");
    rustix::process::kill_process(pid, Signal::INT).expect("interrupted");
    let status = timeout(SOON, demo.wait()).await.expect("it ends soon");
    assert!(status.expect("its status").success());
}

/// A port that is free now.
fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}

/// The whole answer, as it came.
async fn post(port: u16, path: &str) -> String {
    let stream = TcpStream::connect(("127.0.0.1", port)).await;
    let mut stream = stream.expect("it listens");
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    let sent = stream.write_all(request.as_bytes()).await;
    sent.expect("it reads");
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer).await;
    read.expect("it answers");
    answer
}

/// What a row of a table shows of a request.
#[derive(Debug)]
struct Row<'a> {
    response: &'a str,
    session: &'a str,
    migration: &'a str,
}

impl<'a> Row<'a> {
    fn of(table: &'a str, path: &str) -> Row<'a> {
        for line in table.lines() {
            let cells: Vec<_> = line.split(['│', '┆']).map(str::trim).collect();
            if let ["", request, _, response, session, migration, ""] = cells[..]
                && request == path
            {
                return Row {
                    response,
                    session,
                    migration,
                };
            }
        }
        panic!("no {path} in\n{table}");
    }
}
