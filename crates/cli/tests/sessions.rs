//! Tests `antifreeze sessions` on a real server, in a pipe and in a terminal.

mod cli;

use std::process::Command;
use std::time::{Duration, Instant};

use cli::{TIMEOUT, at, client, pid, until};
use lab::postgres::Postgres;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::NoTls;

const STUCK: [&str; 4] = ["sessions", "--idle-in-transaction", "--older-than", "50ms"];

/// Opens a session, and waits until it has been in its transaction for 100 ms.
async fn stuck(url: &str, application: &str, sql: &str) -> tokio_postgres::Client {
    let stuck = client(url, application).await;
    stuck.batch_execute(sql).await.expect("begun");
    let look = client(url, "look").await;
    let old = format!(
        "select count(*) = 1 from pg_stat_activity where application_name = '{application}' \
         and state_change < clock_timestamp() - interval '100 ms'"
    );
    until(&look, &old).await;
    stuck
}

#[tokio::test]
async fn only_selected_sessions_are_ended() {
    let server = Postgres::start().await.expect("a server");
    let url = server.url();
    at(&url, &STUCK).await.exits(0);
    let stuck = stuck(&url, "shop:17", "begin; select 'hunter'").await;
    let idle = client(&url, "shop:18").await;
    idle.batch_execute("select 1").await.expect("done");

    let ran = at(&url, &STUCK).await.exits(1);
    assert!(
        ran.out.contains("shop:17") && ran.out.contains("begin; select 'hunter'"),
        "{}",
        ran.out
    );
    assert!(!ran.out.contains("shop:18"), "{}", ran.out);
    let json = at(&url, &[&STUCK[..], &["--json"]].concat())
        .await
        .exits(1)
        .json();
    assert_eq!(json["sessions"][0]["application"], "shop:17");
    assert_eq!(json["sessions"].as_array().map(Vec::len), Some(1));

    // Without a terminal there is no confirmation, and no session is ended.
    let asked = at(&url, &[&STUCK[..], &["--terminate"]].concat()).await;
    let asked = asked.exits(2);
    asked.assert_err("--yes");
    assert!(!stuck.is_closed());
    let nothing = at(&url, &["sessions", "--terminate", "--yes"])
        .await
        .exits(2);
    nothing.assert_err("requires a filter");

    let ended = at(&url, &[&STUCK[..], &["--terminate", "--yes"]].concat()).await;
    let ended = ended.exits(0);
    ended.assert_out("ended pid ");
    assert!(
        ended
            .out
            .contains("(shop:17 as postgres, idle in transaction"),
        "{}",
        ended.out
    );
    stuck
        .simple_query("select 1")
        .await
        .expect_err("it was ended");
    idle.simple_query("select 1").await.expect("it is open");
}

#[tokio::test]
async fn own_and_replication_sessions_are_kept() {
    let server = Postgres::builder()
        .rule("host replication all 127.0.0.1/32 trust")
        .start()
        .await
        .expect("a server");
    let url = server.url();
    let own = [
        "sessions",
        "--application",
        "antifreeze sessions",
        "--terminate",
        "--yes",
    ];
    let ran = at(&url, &own).await.exits(1);
    let own_session = "it is the session of this command";
    ran.assert_out(own_session);

    // The start-up packet of a walsender (manual, "Streaming Replication Protocol").
    let mut replication = TcpStream::connect(server.address()).await.expect("dialled");
    let parameters = b"user\0postgres\0replication\0true\0application_name\0standby\0\0";
    let length = u32::try_from(parameters.len() + 8).expect("short");
    let packet = [
        &length.to_be_bytes()[..],
        &196_608_u32.to_be_bytes(),
        parameters,
    ]
    .concat();
    replication.write_all(&packet).await.expect("sent");
    assert_eq!(replication.read_u8().await.expect("an answer"), b'R');
    let look = client(&url, "look").await;
    until(
        &look,
        "select count(*) = 1 from pg_stat_activity where application_name = 'standby' \
         and backend_type = 'walsender'",
    )
    .await;
    let arguments = [
        "sessions",
        "--application",
        "standby",
        "--terminate",
        "--yes",
        "--json",
    ];
    let json = at(&url, &arguments).await.exits(1).json();
    let terminated = json["terminated"].as_array().expect("sessions");
    let last = terminated.last().expect("a session");
    assert_eq!(last["ended"], false, "{json}");
    let reason = last["reason"].as_str().expect("a reason");
    assert!(reason.contains("replication"), "{reason}");
    until(
        &look,
        "select count(*) = 1 from pg_stat_activity where application_name = 'standby'",
    )
    .await;
}

#[tokio::test]
async fn missing_permissions_are_reported() {
    let server = Postgres::start().await.expect("a server");
    server.create_role("app").await.expect("a role");
    let _stuck = stuck(&server.url(), "shop:17", "begin").await;
    let url = server.url_for("app", "postgres");
    let ran = at(
        &url,
        &["sessions", "--application", "shop", "--terminate", "--yes"],
    )
    .await;
    let ran = ran.exits(1);
    ran.assert_out("GRANT pg_read_all_stats");
    server
        .execute("grant pg_read_all_stats to app")
        .await
        .expect("granted");
    let ran = at(
        &url,
        &["sessions", "--application", "shop", "--terminate", "--yes"],
    )
    .await;
    let ran = ran.exits(1);
    ran.assert_out("GRANT pg_signal_backend");
}

/// Uses the role of a function, as the documentation has it, which may not see the state of
/// other roles' sessions.
#[tokio::test]
async fn every_role_sees_locks_and_blockers() {
    let server = Postgres::start().await.expect("a server");
    server.create_role("app").await.expect("a role");
    let table = "create table partners (a int); insert into partners values (1)";
    server.execute(table).await.expect("a table");
    let url = server.url();
    let head = client(&url, "head").await;
    head.batch_execute("begin; update partners set a = 2; lock table partners in share mode")
        .await
        .expect("locked");
    let look = client(&url, "look").await;
    let app = server.url_for("app", "postgres");
    let by = pid(&head).await;
    for (sql, lock) in [
        (
            "alter table partners add b int",
            "AccessExclusiveLock on partners",
        ),
        ("select from partners for update", "a row of partners"),
    ] {
        let waits = client(&url, "waits").await;
        let waiting = waits.cancel_token();
        let statement = waits.batch_execute(sql);
        let examined = async {
            until(&look, "select count(*) = 1 from pg_locks where not granted").await;
            let ran = at(&app, &["sessions", "--json"]).await.exits(0).json();
            let sessions = ran["sessions"].as_array().expect("sessions");
            let seen = sessions
                .iter()
                .find(|session| session["application"] == "waits");
            let seen = seen.expect("the waiting session");
            assert_eq!(seen["blocked_by"], serde_json::json!([by]), "{seen}");
            assert_eq!(seen["lock"], lock, "{seen}");
            let waits_for = seen["waits_for"].as_str().unwrap_or_default();
            assert!(waits_for.starts_with("Lock: "), "{seen}");
            let table = at(&app, &["sessions"]).await.exits(0).out;
            let line = format!("{lock}, held by {by}");
            assert!(table.contains(&line), "{table}");
            let doctor = at(&app, &["doctor"]).await.exits(1).out;
            let line = format!("blocks pid {}: ", seen["pid"]);
            assert!(doctor.contains(&line), "{doctor}");
            assert!(doctor.contains(&format!("(waits for {lock})")), "{doctor}");
            waiting.cancel_query(NoTls).await.expect("cancelled");
        };
        let (ended, ()) = futures_util::join!(statement, examined);
        ended.expect_err("it was cancelled");
    }
    head.batch_execute("rollback").await.expect("rolled back");
    let doctor = at(&app, &["doctor"]).await.out;
    assert!(doctor.contains("no session waits for a lock\n"), "{doctor}");
}

#[tokio::test]
async fn control_characters_are_replaced() {
    let server = Postgres::start().await.expect("a server");
    let evil = "begin; select '\u{1b}[2J\u{1b}]0;owned\u{7}\u{202e}'";
    let _stuck = stuck(&server.url(), "shop:17", evil).await;
    // `run` fails on control characters.
    let ran = at(&server.url(), &STUCK).await.exits(1);
    ran.assert_out("\u{fffd}[2J");
    assert!(!ran.out.contains('\u{202e}'), "{}", ran.out);
    let limits = [
        "doctor",
        "--idle-in-transaction",
        "50ms",
        "--transaction",
        "50ms",
    ];
    let ran = at(&server.url(), &limits).await.exits(1);
    ran.assert_out("\u{fffd}[2J");
}

/// A terminal for the command.
struct Tmux {
    socket: String,
}

impl Tmux {
    fn start(name: &str, command: &str) -> Tmux {
        let tmux = Tmux {
            socket: format!("antifreeze-{name}-{}", std::process::id()),
        };
        tmux.run(&[
            "new-session",
            "-d",
            "-x",
            "180",
            "-y",
            "30",
            "-s",
            "t",
            command,
        ]);
        tmux
    }

    fn run(&self, arguments: &[&str]) -> Option<String> {
        let output = Command::new("tmux")
            .args(["-L", &self.socket, "-f", "/dev/null"])
            .args(arguments)
            .output()
            .expect("tmux: apt-get install tmux");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then_some(text)
    }

    fn screen(&self) -> Option<String> {
        self.run(&["capture-pane", "-p", "-t", "t"])
    }

    /// Waits until the screen is as `wanted`.
    async fn shows(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + TIMEOUT;
        loop {
            let screen = self.screen().unwrap_or_default();
            if wanted(&screen) {
                return screen;
            }
            assert!(Instant::now() < end, "never: {what}\n{screen}");
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = self.run(&["kill-server"]);
    }
}

#[tokio::test]
async fn watching_ends_when_the_pipe_is_closed() {
    let server = Postgres::shared().await.expect("a server");
    for more in [&[][..], &["--json"]] {
        let arguments = [&["sessions", "--watch", "--every", "50ms"], more].concat();
        let url = server.url();
        let mut child = cli::command(&[("DATABASE_URL", url.as_str())], &arguments)
            .spawn()
            .expect("it starts");
        let mut out = child.stdout.take().expect("a pipe");
        let mut first = [0; 16];
        let read = out.read(&mut first);
        assert!(read.await.expect("readable") > 0);
        drop(out);
        let status = tokio::time::timeout(TIMEOUT, child.wait()).await;
        assert_eq!(status.expect("it ends").expect("a status").code(), Some(0));
    }
}

#[tokio::test]
async fn watching_redraws_and_reconnects() {
    let server = Postgres::start().await.expect("a server");
    let url = server.url();
    let terminal = Tmux::start(
        "watch",
        &format!(
            "env DATABASE_URL='{url}' '{}' sessions --watch --every 50ms; echo ended with $?; sleep 60",
            env!("CARGO_BIN_EXE_antifreeze")
        ),
    );
    let alone = terminal
        .shows("its own session", |screen| screen.contains("(this)"))
        .await;
    assert!(alone.starts_with("1 of 1 sessions, every 50ms"), "{alone}");
    let stuck = client(&url, "shop:17").await;
    stuck.batch_execute("begin").await.expect("begun");
    let both = terminal
        .shows("the other session", |s| {
            s.contains("shop:17") && s.contains("idle in")
        })
        .await;
    // The screen is redrawn, not appended to.
    assert_eq!(both.matches("PID").count(), 1, "{both}");
    drop(stuck);
    terminal
        .shows("the session has ended", |screen| {
            !screen.contains("shop:17")
        })
        .await;
    // The command reconnects after a restart of the server.
    server.restart().await.expect("restarted");
    let _again = client(&url, "shop:18").await;
    terminal
        .shows("reconnected", |screen| screen.contains("shop:18"))
        .await;
    terminal.run(&["send-keys", "-t", "t", "C-c"]);
    terminal
        .shows("the end", |screen| screen.contains("ended with 0"))
        .await;
}

#[tokio::test]
async fn ending_sessions_requires_confirmation() {
    let server = Postgres::start().await.expect("a server");
    let url = server.url();
    let stuck = stuck(&url, "shop:17", "begin").await;
    let end = format!(
        "env DATABASE_URL='{url}' '{}' sessions --idle-in-transaction --terminate",
        env!("CARGO_BIN_EXE_antifreeze")
    );
    let both = format!("{end}; echo first $?; {end}; echo second $?; sleep 60");
    let terminal = Tmux::start("ask", &both);
    let answer = |key: &str| terminal.run(&["send-keys", "-t", "t", key, "Enter"]);
    terminal
        .shows("the question", |s| s.contains("end this session?"))
        .await;
    // An empty answer means no.
    answer("");
    terminal
        .shows("the refusal", |s| s.contains("no session was ended"))
        .await;
    terminal
        .shows("the second question", |s| {
            s.contains("first 1") && s.matches("end this session?").count() == 2
        })
        .await;
    assert!(!stuck.is_closed());
    answer("y");
    terminal
        .shows("the ended session", |s| {
            s.contains("ended pid") && s.contains("second 0")
        })
        .await;
    stuck
        .simple_query("select 1")
        .await
        .expect_err("it was ended");
}
