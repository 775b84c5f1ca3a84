//! Tests `antifreeze sessions` on a real server, in a pipe and in a terminal.

mod cli;

use cli::tmux::Tmux;
use cli::{at, cancel, client, pid, stuck, until};
use lab::postgres::Postgres;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const STUCK: [&str; 4] = ["sessions", "--idle-in-transaction", "--older-than", "50ms"];

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
    let _other = client(&url, "other").await;
    let ran = at(&url, &own).await.exits(0);
    ran.assert_out("0 of 1 sessions match");

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
        let waiting = pid(&waits).await;
        let statement = waits.batch_execute(sql);
        let examined = async {
            until(&look, "select count(*) = 1 from pg_locks where not granted").await;
            let ran = at(&app, &["sessions", "--json"]).await.exits(0).json();
            let sessions = ran["sessions"].as_array().expect("sessions");
            let seen = sessions.iter().find(|session| session["pid"] == waiting);
            let seen = seen.expect("the waiting session");
            assert_eq!(seen["blocked_by"], serde_json::json!([by]), "{seen}");
            assert_eq!(seen["lock"], lock, "{seen}");
            let waits_for = seen["waits_for"].as_str().unwrap_or_default();
            assert!(waits_for.starts_with("Lock: "), "{seen}");
            // The tree: the holder, and below it the session that waits.
            let table = at(&app, &["sessions"]).await.exits(0).out;
            let mut lines = table
                .lines()
                .skip_while(|line| !line.contains(&by.to_string()));
            let head = lines.next().unwrap_or_default();
            assert!(
                head.contains("head") && head.contains("blocks 1"),
                "{table}"
            );
            let below = lines.next().unwrap_or_default();
            assert!(below.contains("\u{2514} waits"), "{table}");
            assert!(below.contains(lock), "{table}");
            // Alone it says who holds the lock.
            let alone = at(&app, &["sessions", "--application", "waits"]).await;
            alone.exits(1).assert_out(&format!("{lock}, held by {by}"));
            let doctor = at(&app, &["doctor"]).await.exits(1).out;
            let line = format!("blocks pid {}: ", seen["pid"]);
            assert!(doctor.contains(&line), "{doctor}");
            assert!(doctor.contains(&format!("(waits for {lock})")), "{doctor}");
            cancel(&look, waiting).await;
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
        "1h",
        "--transaction",
        "50ms",
    ];
    let ran = at(&server.url(), &limits).await.exits(1);
    ran.assert_out("\u{fffd}[2J");
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
    let terminal = Tmux::start("ask", (180, 30), &both);
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
