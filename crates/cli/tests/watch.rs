//! Tests the lists of `antifreeze sessions` in terminals of several sizes, and `--watch`.

mod cli;

use cli::tmux::Tmux;
use cli::{TIMEOUT, at, client, stuck, until};
use lab::postgres::Postgres;
use tokio::io::AsyncReadExt;

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
    let terminal = Tmux::start("watch", (80, 24), &watch(&url, ""));
    let alone = terminal
        .shows("the server without other sessions", |screen| {
            screen.contains("0 of 100 slots")
        })
        .await;
    // Its own session is hidden.
    assert!(alone.starts_with("0 sessions, 0 of 100 slots"), "{alone}");
    assert!(!alone.contains("antifreeze"), "{alone}");
    let stuck = client(&url, "shop:17").await;
    stuck.batch_execute("begin").await.expect("begun");
    let both = terminal
        .shows("the other session", |s| {
            s.contains("shop:17") && s.contains("idle in tx")
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
    terminal.press(&["C-c"]);
    terminal
        .shows("the end", |screen| screen.contains("ended with 0"))
        .await;
}

/// Returns a shell command that watches, then says how that ended.
fn watch(url: &str, more: &str) -> String {
    format!(
        "env DATABASE_URL='{url}' '{}' sessions --watch --every 50ms {more}; \
         echo ended with $?; sleep 60",
        env!("CARGO_BIN_EXE_antifreeze")
    )
}

/// 300 sessions in a small and in a tiny terminal: grouped, in one line each, and as a list
/// that never wraps.
#[tokio::test]
async fn many_sessions_fit_the_terminal() {
    let server = Postgres::builder()
        .setting("max_connections", 330)
        .start()
        .await;
    let server = server.expect("a server");
    let url = server.url();
    let name = |index: usize| match index {
        0..180 => "shop:17".to_owned(),
        _ => format!("worker-with-a-very-long-name-{index}"),
    };
    let mut held = Vec::new();
    for index in 0..298 {
        held.push(client(&url, &name(index)).await);
    }
    server
        .execute("create table partners (a int)")
        .await
        .expect("a table");
    let head = stuck(&url, "head", "begin; select from partners").await;
    let waits = client(&url, "waits").await;
    tokio::spawn(async move { waits.batch_execute("alter table partners add b int").await });
    let look = client(&url, "look").await;
    until(&look, "select count(*) = 1 from pg_locks where not granted").await;
    until(
        &look,
        "select count(*) = 1 from pg_stat_activity where application_name in ('look', 'lab')",
    )
    .await;
    for size in [(80, 24), (40, 12)] {
        let lines = usize::from(size.1);
        let terminal = Tmux::start("many", size, &watch(&url, ""));
        // The last line is written last.
        let position = format!("1-{} of 122", lines - 4);
        let screen = terminal
            .shows("all sessions", |screen| screen.contains(&position))
            .await;
        let shown: Vec<&str> = screen.lines().collect();
        assert_eq!(shown.len(), lines, "{screen}");
        assert!(shown[0].starts_with("301 sessions, 30"), "{screen}");
        assert!(shown[1].starts_with("1 blocking, 1 waiting, "), "{screen}");
        assert!(shown[3].contains(" head "), "{screen}");
        assert!(shown[4].contains(" \u{2514} waits "), "{screen}");
        let lock = size.0 < 80 || shown[4].contains(" AccessExclusiveLock on pa");
        assert!(lock, "{screen}");
        assert!(screen.contains("shop:17 x180 idle, oldest "), "{screen}");
        // Each key is seen in what it does before the next.
        terminal.press(&["End"]);
        terminal
            .shows("the last row", |screen| screen.contains("-122 of 122"))
            .await;
        terminal.press(&["/"]);
        terminal
            .shows("the filter", |screen| screen.contains("filter: _"))
            .await;
        terminal.press(&["h", "e", "a", "d", "Enter"]);
        terminal
            .shows("one session", |s| {
                s.contains("1 of 301 sessions") && s.contains(" head ")
            })
            .await;
        terminal.press(&["k"]);
        terminal
            .shows("the question", |screen| screen.contains("[y/N]"))
            .await;
        assert!(!head.is_closed());
        terminal.press(&["n"]);
        terminal
            .shows("the refusal", |screen| {
                screen.contains("no session was ended")
            })
            .await;
        terminal.press(&["q"]);
        terminal
            .shows("the end", |screen| screen.contains("ended with 0"))
            .await;
        assert!(!head.is_closed());
    }
}

#[tokio::test]
async fn lists_never_wrap_in_a_terminal() {
    let server = Postgres::start().await.expect("a server");
    let url = server.url();
    let long = format!("begin; select '{}'", "x".repeat(300));
    let _stuck = stuck(&url, "shop:17", &long).await;
    let idle = client(&url, &"n".repeat(60)).await;
    until(
        &idle,
        "select count(*) = 0 from pg_stat_activity where application_name in ('look', 'lab')",
    )
    .await;
    for size in [(80, 24), (40, 12)] {
        let list = format!(
            "env DATABASE_URL='{url}' '{}' sessions; echo end; sleep 60",
            env!("CARGO_BIN_EXE_antifreeze")
        );
        let terminal = Tmux::start("list", size, &list);
        let screen = terminal
            .shows("the list", |screen| screen.contains("end\n"))
            .await;
        let lines: Vec<&str> = screen.lines().take_while(|line| *line != "end").collect();
        // Two lines of counts, a blank one, the title, and two sessions.
        assert_eq!(lines.len(), 6, "{screen}");
        assert!(lines[3].contains("PID APPLIC"), "{screen}");
        assert!(lines[4].contains("shop:17"), "{screen}");
    }
    // In a pipe nothing is cut.
    let ran = at(&url, &["sessions"]).await.exits(0);
    ran.assert_out(&long);
    ran.assert_out(&"n".repeat(60));
}

#[tokio::test]
async fn watching_ends_only_the_same_session() {
    let server = Postgres::start().await.expect("a server");
    let url = server.url();
    let first = stuck(&url, "shop:17", "begin").await;
    let terminal = Tmux::start("end", (80, 24), &watch(&url, "--application shop:17"));
    let ask = async || {
        terminal
            .shows("the session", |s| s.contains("idle in tx"))
            .await;
        terminal.press(&["k"]);
        terminal
            .shows("the question", |screen| screen.contains("[y/N]"))
            .await;
    };
    ask().await;
    terminal.press(&["y"]);
    terminal
        .shows("the end of the session", |s| s.contains("ended pid "))
        .await;
    first
        .simple_query("select 1")
        .await
        .expect_err("it was ended");

    // One that ends by itself while the question is open: no other session is ended for it.
    let second = stuck(&url, "shop:17", "begin").await;
    ask().await;
    drop(second);
    let third = stuck(&url, "shop:17", "begin").await;
    terminal.press(&["y"]);
    terminal
        .shows("that it has ended", |s| s.contains("did not end pid "))
        .await;
    third.simple_query("select 1").await.expect("it is open");
}
