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
    // The 50 ms that a late teardown leaves before its process is killed, or the time of one of
    // its steps, a busy machine may take, but not each time.
    for _ in 1..3 {
        let text = demo().await;
        if WITH.iter().all(|&with| is_at_rest(&text, with)) {
            return shows_a_difference(&text);
        }
        println!("tried again: {text}");
    }
    shows_a_difference(&demo().await);
}

/// What is answered with the layer.
const WITH: [(&str, &str); 6] = [
    ("/partners", "201"),
    ("/early", "422"),
    ("/begin", "200"),
    ("/task", "202"),
    ("/panic", "502"),
    ("/slow", "504"),
];

/// With the layer nothing is left open, and a migration does not wait.
fn is_at_rest(text: &str, (path, response): (&str, &str)) -> bool {
    let [_, with] = row(text, path);
    let at_rest = ["idle", "no session"].map(|state| format!("{response}, {state}"));
    at_rest.contains(&with[0]) && with[1].ends_with(" ms")
}

async fn demo() -> String {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_lab"));
    demo.arg("demo").kill_on_drop(true);
    let output = timeout(PLENTY, demo.output()).await.expect("it ends");
    let output = output.expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    text.into_owned()
}

fn shows_a_difference(text: &str) {
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    for with in WITH {
        assert!(is_at_rest(text, with), "{with:?}: {:?}", row(text, with.0));
    }
    for (path, response) in [("/begin", "200"), ("/task", "202")] {
        let [without, _] = row(text, path);
        let open = format!("{response}, idle in transaction");
        assert_eq!(without, [open, "ALTER TABLE gave up".to_owned()], "{path}");
    }
    let [slow, _] = row(text, "/slow");
    assert!(slow[0].starts_with("killed, "), "{slow:?}");
    let [fine, _] = row(text, "/partners");
    assert_eq!(fine[0], "201, idle");
    let sum = text.lines().find(|line| line.starts_with("without: "));
    let sum = sum.expect("a sum");
    assert!(sum.ends_with("; with: 0 of 6"), "{sum}");
    // At least those two; what a dropped transaction comes to depends on the machine.
    let stopped = sum.split(' ').nth(1).and_then(|count| count.parse().ok());
    assert!(stopped.is_some_and(|count: u32| count >= 2), "{sum}");
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

    // The page, then the functions without and with.
    let [without, with] = [port + 1, port + 2];
    for port in [without, with] {
        let answer = timeout(SOON, send(port, "POST", "/begin")).await;
        let answer = answer.expect("an answer in time");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let page = timeout(SOON, send(port, "GET", "/")).await;
    assert!(page.expect("a page in time").contains("<!doctype html>"));

    // A response leaves before its process is frozen.
    let frozen = async {
        loop {
            let sessions = send(port, "GET", "/sessions").await;
            let (_, body) = sessions.split_once("\r\n\r\n").expect("a body");
            let sessions: serde_json::Value = serde_json::from_str(body).expect("JSON");
            if ["without", "with"].map(|side| sessions[side]["frozen"] == true) == [true; 2] {
                return sessions;
            }
        }
    };
    let sessions = timeout(SOON, frozen).await.expect("both are frozen soon");
    let state = |side: &str| sessions[side]["sessions"][0]["state"].clone();
    assert_eq!(state("without"), "idle in transaction", "{sessions}");
    assert_eq!(state("with"), "idle", "{sessions}");

    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/demo_page.py");
    let mut browser = Command::new(lab::tools::tool("python3"));
    browser.arg(script).arg(format!("http://127.0.0.1:{port}/"));
    if std::env::var_os("LAB_KEEP").is_some() {
        let picture = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/pictures/demo.png");
        browser.arg(picture);
    }
    let clicked = timeout(PLENTY, browser.kill_on_drop(true).output()).await;
    let clicked = clicked.expect("it ends").expect("it starts");
    let text = [clicked.stdout, clicked.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(clicked.status.success(), "{text}");

    let pid = demo.id().expect("it is running") as i32;
    let pid = Pid::from_raw(pid).expect("a process id");
    rustix::process::kill_process(pid, Signal::INT).expect("interrupted");
    let status = timeout(SOON, demo.wait()).await.expect("it ends soon");
    assert!(status.expect("its status").success());
}

/// A port that is free now, as the next two are; none that the kernel gives away meanwhile.
fn free_port() -> u16 {
    let first = 61_000 + (std::process::id() % 1_000) as u16 * 4;
    let mut ports = (first..u16::MAX - 2).chain(61_000..first).step_by(4);
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let port = ports.find(|port| (*port..port + 3).all(free));
    port.expect("three ports")
}

/// The whole answer, as it came.
async fn send(port: u16, method: &str, path: &str) -> String {
    let stream = TcpStream::connect(("127.0.0.1", port)).await;
    let mut stream = stream.expect("it listens");
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    let sent = stream.write_all(request.as_bytes()).await;
    sent.expect("it reads");
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer).await;
    read.expect("it answers");
    answer
}

/// What the table says of a request, without the layer and with it: the session and the
/// migration.
fn row(table: &str, path: &str) -> [[String; 2]; 2] {
    let cells = |line: &str| {
        let cells: Vec<_> = line.split(['│', '┆']).map(str::trim).collect();
        match cells[..] {
            ["", request, without, with, ""] => Some([request, without, with].map(str::to_owned)),
            _ => None,
        }
    };
    let mut lines = table.lines().filter_map(cells);
    let first = lines.find(|[request, ..]| request == path);
    let ([_, without, with], Some([_, below, below_with])) = (first.expect(path), lines.next())
    else {
        panic!("{path} has one line in\n{table}");
    };
    [[without, below], [with, below_with]]
}
