//! Tests `antifreeze doctor` in terminals of several sizes, while it waits, and interrupted.

mod cli;

use cli::doctor::shop;
use cli::tmux::Tmux;
use cli::{client, command, exit_code, wait_for_line};
use lab::postgres::Postgres;
use tokio::io::AsyncReadExt;
use tokio_postgres::Client;

/// Returns a shell command that runs the doctor, then says how that ended.
fn doctor(variables: &str, more: &str) -> String {
    format!(
        "env -i {variables} '{}' doctor {more}; echo ended with $?; sleep 60",
        env!("CARGO_BIN_EXE_antifreeze")
    )
}

/// What is to be done is broken at blanks and indented; a step has one line.
#[tokio::test]
async fn report_fits_the_terminal() {
    let (_server, shop) = shop().await;
    let url = format!(
        "DATABASE_URL='{}?pgbouncer=true' ANTIFREEZE_COLOUR=blue",
        shop.url
    );
    for (size, expected) in [
        (
            (80, 24),
            "\
2 findings

! path: the server answers itself and no pooler is in between: because of
  pgbouncer=true in the URL, no timeouts are sent and statements are not reused
  -> remove pgbouncer=true in the URL

! configuration: unknown variable ANTIFREEZE_COLOUR: it has no effect
  -> remove it, unless a newer version of antifreeze that you are about to
     deploy knows it; docs/configuration.md lists all variables

",
        ),
        (
            (40, 24),
            "\
2 findings

! path: the server answers itself and no
  pooler is in between: because of
  pgbouncer=true in the URL, no timeouts
  are sent and statements are not reused
  -> remove pgbouncer=true in the URL

! configuration: unknown variable
  ANTIFREEZE_COLOUR: it has no effect
  -> remove it, unless a newer version
     of antifreeze that you are about to
     deploy knows it;
     docs/configuration.md lists all
     variables

",
        ),
    ] {
        // More lines than there are, so that nothing scrolls away.
        let terminal = Tmux::start("doctor", (size.0, 50), &doctor(&url, ""));
        let screen = terminal
            .shows("the end", |screen| screen.contains("ended with 1"))
            .await;
        let (to_do, steps) = screen.split_at(expected.len().min(screen.len()));
        assert_eq!(to_do, expected, "{screen}");
        let mut steps = steps.lines().take_while(|line| !line.starts_with("ended"));
        let is_step = |line: &str| {
            ["\u{2713} ", "\u{b7} ", "! "]
                .iter()
                .any(|it| line.starts_with(it))
        };
        assert!(steps.all(is_step), "{screen}");
    }
}

/// Starts a server with no slot left for `app`.
async fn full() -> (Postgres, String, Vec<Client>) {
    let server = Postgres::builder()
        .setting("max_connections", 8)
        .start()
        .await;
    let server = server.expect("a server");
    server.create_role("app").await.expect("a role");
    let url = server.url_for("app", "postgres");
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(client(&url, "shop:17").await);
    }
    (server, url, held)
}

#[tokio::test]
async fn progress_is_shown_while_the_doctor_waits() {
    let (_server, url, held) = full().await;
    let run = doctor(&format!("DATABASE_URL='{url}'"), "--wait 50s");
    let terminal = Tmux::start("progress", (80, 50), &run);
    let screen = terminal
        .shows("the reason", |s| {
            s.contains("no connection slot is free, retrying for 50s: ")
        })
        .await;
    assert!(!screen.contains("slots  "), "{screen}");
    drop(held);
    let screen = terminal
        .shows("the end", |screen| screen.contains("ended with "))
        .await;
    // The line is erased, and the report begins in its place.
    assert!(!screen.contains("retrying"), "{screen}");
    assert!(
        screen
            .lines()
            .next()
            .is_some_and(|line| line.contains("finding")),
        "{screen}"
    );
}

#[tokio::test]
async fn interrupted_doctor_prints_what_it_found() {
    let (_server, url, _held) = full().await;
    let mut child = command(&[("DATABASE_URL", &url)], &["doctor", "--wait", "50s"])
        .spawn()
        .expect("it starts");
    let errors = child.stderr.take().expect("a pipe");
    wait_for_line(errors, "no connection slot is free").await;
    let pid = child.id().expect("it runs").to_string();
    let kill = std::process::Command::new("kill")
        .args(["-INT", &pid])
        .status();
    assert!(kill.expect("kill").success());
    assert_eq!(exit_code(&mut child).await, 2);
    let mut out = String::new();
    let mut pipe = child.stdout.take().expect("a pipe");
    pipe.read_to_string(&mut out).await.expect("text");
    assert!(out.starts_with("interrupted; 1 finding so far\n"), "{out}");
    assert!(
        out.contains("remaining connection slots are reserved"),
        "{out}"
    );
}
