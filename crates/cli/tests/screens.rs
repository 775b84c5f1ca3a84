//! Tests the screens of an outage in a terminal of 80 columns. `UPDATE_DOCS=1` writes them as
//! the pictures of docs/command.md.

mod cli;

use std::path::Path;

use cli::tmux::Tmux;
use cli::{client, until};
use lab::postgres::Postgres;

/// Writes a picture, if asked to.
fn picture(name: &str, screen: &str) {
    if std::env::var("UPDATE_DOCS").is_ok_and(|update| update == "1") {
        let svg = anstyle_svg::Term::new().render_svg(screen.trim_end());
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/pictures");
        std::fs::write(docs.join(name), svg).expect("written");
    }
}

#[tokio::test]
async fn outage_is_seen_in_one_screen() {
    let server = Postgres::start().await.expect("a server");
    let shop = server.create_database("shop").await.expect("a database");
    shop.execute("create table partners (id int, name text)")
        .await
        .expect("a table");
    server.create_role("app").await.expect("a role");
    let app = server.url_for("app", "shop");
    let grant = "grant select on partners to app; grant pg_read_all_stats to app";
    shop.execute(grant).await.expect("granted");
    // The outage of docs/outage.md: a transaction that was left open, a migration, readers.
    let stuck = client(&app, "shop:17").await;
    let read = "begin; select id, name from partners";
    stuck.batch_execute(read).await.expect("begun");
    let look = client(&shop.url, "look").await;
    let waiting = |count: u32| format!("select count(*) = {count} from pg_locks where not granted");
    let mut held = Vec::new();
    let migration = client(&shop.url, "migration").await;
    held.push(tokio::spawn(async move {
        let alter = "alter table partners add constraint partners_name unique (name)";
        migration.batch_execute(alter).await
    }));
    until(&look, &waiting(1)).await;
    for _ in 0..8 {
        let reader = client(&app, "shop:18").await;
        held.push(tokio::spawn(async move {
            reader.batch_execute("select id, name from partners").await
        }));
    }
    let mut idle = Vec::new();
    for _ in 0..30 {
        idle.push(client(&app, "shop:17").await);
    }
    until(&look, &waiting(9)).await;
    drop(look);
    let watcher = client(&app, "reports").await;
    let gone =
        "select count(*) = 0 from pg_stat_activity where application_name in ('look', 'lab')";
    until(&watcher, gone).await;

    let command = |arguments: &str| {
        let url = format!("DATABASE_URL='{app}'");
        let binary = env!("CARGO_BIN_EXE_antifreeze");
        format!("clear; env {url} '{binary}' {arguments}; printf '\\n$ '; sleep 60")
    };
    let terminal = Tmux::start("sessions", (80, 18), &command("sessions --watch"));
    let screen = terminal
        .shows("the queue", |screen| {
            screen.contains("blocks 9: ") && screen.contains("q quit")
        })
        .await;
    for expected in [
        "1 blocking, 9 waiting, 1 idle in transaction, 31 idle",
        "\u{2514} migration waiting ",
        "\u{2514} shop:18 x8 waiting for AccessShareLock on partners, oldest ",
        "shop:17 x30 idle, oldest ",
    ] {
        assert!(screen.contains(expected), "{expected}: {screen}");
    }
    picture("sessions.svg", &terminal.colours());

    let limits = "doctor --idle-in-transaction 100ms";
    let terminal = Tmux::start("doctor", (80, 40), &command(limits));
    let screen = terminal
        .shows("the end", |screen| screen.contains("\n$"))
        .await;
    assert!(screen.contains("; 8 more wait behind"), "{screen}");
    assert!(
        screen.contains("  -> SELECT pg_terminate_backend("),
        "{screen}"
    );
    picture("doctor.svg", &terminal.colours());
    stuck.batch_execute("rollback").await.expect("rolled back");
    for waiting in held {
        waiting.await.expect("it ends").expect("it continues");
    }
}
