//! `antifreeze sessions` on a real server, in a pipe and in a terminal.

mod cli;

use std::process::Command;
use std::time::{Duration, Instant};

use cli::{PLENTY, at, client, pid, until};
use lab::postgres::Postgres;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::NoTls;

const STUCK: [&str; 4] = ["sessions", "--idle-in-transaction", "--older-than", "50ms"];

/// A session that sits in a transaction for long enough.
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
async fn only_chosen_sessions_are_ended() {
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

    // Nobody answers, nobody is ended.
    let asked = at(&url, &[&STUCK[..], &["--terminate"]].concat()).await;
    let asked = asked.exits(2);
    assert!(asked.err.contains("--yes"), "{}", asked.err);
    assert!(!stuck.is_closed());
    let nothing = at(&url, &["sessions", "--terminate", "--yes"])
        .await
        .exits(2);
    assert!(nothing.err.contains("a choice"), "{}", nothing.err);

    let ended = at(&url, &[&STUCK[..], &["--terminate", "--yes"]].concat()).await;
    let ended = ended.exits(0);
    assert!(ended.out.contains("ended pid "), "{}", ended.out);
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
    idle.simple_query("select 1").await.expect("it lives");
}

#[tokio::test]
async fn itself_and_replication_are_never_ended() {
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
    assert!(ran.out.contains("it is this command"), "{}", ran.out);

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
    let it = [
        "sessions",
        "--application",
        "standby",
        "--terminate",
        "--yes",
        "--json",
    ];
    let json = at(&url, &it).await.exits(1).json();
    let fate = json["terminated"].as_array().and_then(|fates| fates.last());
    assert_eq!(fate.expect("one")["ended"], false, "{json}");
    let why = fate.expect("one")["why"].as_str().expect("a reason");
    assert!(why.contains("replication"), "{why}");
    until(
        &look,
        "select count(*) = 1 from pg_stat_activity where application_name = 'standby'",
    )
    .await;
}

#[tokio::test]
async fn role_without_rights_is_told() {
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
    assert!(ran.out.contains("GRANT pg_read_all_stats"), "{}", ran.out);
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
    assert!(ran.out.contains("GRANT pg_signal_backend"), "{}", ran.out);
}

/// The role of a function, as our pages have it: it may not see into others' sessions.
#[tokio::test]
async fn any_role_sees_lock_waits() {
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
            let seen = sessions.iter().find(|one| one["application"] == "waits");
            let seen = seen.expect("who waits");
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
    assert!(doctor.contains("nobody waits for a lock\n"), "{doctor}");
}

#[tokio::test]
async fn server_text_cannot_control_the_terminal() {
    let server = Postgres::start().await.expect("a server");
    let evil = "begin; select '\u{1b}[2J\u{1b}]0;owned\u{7}\u{202e}'";
    let _stuck = stuck(&server.url(), "shop:17", evil).await;
    // `run` looks for control characters.
    let ran = at(&server.url(), &STUCK).await.exits(1);
    assert!(ran.out.contains("\u{fffd}[2J"), "{}", ran.out);
    assert!(!ran.out.contains('\u{202e}'), "{}", ran.out);
    let limits = [
        "doctor",
        "--idle-in-transaction",
        "50ms",
        "--transaction",
        "50ms",
    ];
    let ran = at(&server.url(), &limits).await.exits(1);
    assert!(ran.out.contains("\u{fffd}[2J"), "{}", ran.out);
}

/// A terminal of our own.
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

    async fn shows(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + PLENTY;
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
async fn watch_ends_with_its_reader() {
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
        let status = tokio::time::timeout(PLENTY, child.wait()).await;
        assert_eq!(status.expect("it ends").expect("a status").code(), Some(0));
    }
}

#[tokio::test]
async fn watch_redraws_a_terminal() {
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
        .shows("itself", |screen| screen.contains("(this)"))
        .await;
    assert!(alone.starts_with("1 of 1 sessions, every 50ms"), "{alone}");
    let stuck = client(&url, "shop:17").await;
    stuck.batch_execute("begin").await.expect("begun");
    let both = terminal
        .shows("the other", |s| {
            s.contains("shop:17") && s.contains("idle in")
        })
        .await;
    // One screen, not one below the other.
    assert_eq!(both.matches("PID").count(), 1, "{both}");
    drop(stuck);
    terminal
        .shows("it goes", |screen| !screen.contains("shop:17"))
        .await;
    // The server goes and comes back.
    server.restart().await.expect("restarted");
    let _again = client(&url, "shop:18").await;
    terminal
        .shows("connected again", |screen| screen.contains("shop:18"))
        .await;
    terminal.run(&["send-keys", "-t", "t", "C-c"]);
    terminal
        .shows("it ends", |screen| screen.contains("ended with 0"))
        .await;
}

#[tokio::test]
async fn confirmation_comes_before_termination() {
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
    // Nothing is not yes.
    answer("");
    terminal
        .shows("that it did nothing", |s| s.contains("nothing was ended"))
        .await;
    terminal
        .shows("the second question", |s| {
            s.contains("first 1") && s.matches("end this session?").count() == 2
        })
        .await;
    assert!(!stuck.is_closed());
    answer("y");
    terminal
        .shows("that it is done", |s| {
            s.contains("ended pid") && s.contains("second 0")
        })
        .await;
    stuck
        .simple_query("select 1")
        .await
        .expect_err("it was ended");
}
