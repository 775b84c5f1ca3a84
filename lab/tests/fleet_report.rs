//! `lab fleet --quick` runs every candidate, and what it writes holds together.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

const CANDIDATES: [&str; 12] = [
    "antifreeze",
    "antifreeze with warm-up",
    "antifreeze per-invocation",
    "sqlx behind antifreeze",
    "OnceCell<Client>",
    "connect per request",
    "connect with retry",
    "deadpool",
    "bb8",
    "sqlx",
    "serverless-postgres",
    "pg, waiting pool",
];

const SCENARIOS: [&str; 3] = ["burst from cold", "closed sockets", "open transaction"];

const CHARTS: [&str; 4] = [
    "burst-answered",
    "burst-worst",
    "closed-answered",
    "open-alter",
];

/// More than it takes on a slow machine.
const PLENTY: Duration = Duration::from_secs(600);

/// Writes the report, and returns what the command says.
async fn report(json: &Path, html: &Path) -> String {
    let mut fleet = Command::new(env!("CARGO_BIN_EXE_lab"));
    fleet
        .args(["fleet", "--quick", "--function"])
        .arg(env!("CARGO_BIN_EXE_visit"))
        .arg("--json")
        .arg(json)
        .arg("--html")
        .arg(html)
        .kill_on_drop(true);
    let output = timeout(PLENTY, fleet.output()).await.expect("it ends");
    let output = output.expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    println!("{text}");
    text.into_owned()
}

/// With antifreeze every request is answered, and nothing left behind blocks a migration. Returns
/// what differs.
fn differs(found: &Value) -> Vec<&Value> {
    let cells = SCENARIOS.into_iter().flat_map(|scenario| {
        let candidates = CANDIDATES[..4].iter();
        candidates.map(move |candidate| cell(found, scenario, candidate))
    });
    cells
        .filter(|cell| cell["answered"] != cell["sent"] || cell["alter_table_gave_up"] != false)
        .collect()
}

fn read(json: &Path) -> Value {
    let found = fs::read(json).expect("JSON");
    serde_json::from_slice(&found).expect("JSON")
}

#[tokio::test]
async fn fleet_report_holds_together() {
    let directory = tempfile::tempdir().expect("a directory");
    let (json, html) = (
        directory.path().join("fleet.json"),
        directory.path().join("fleet.html"),
    );
    let mut text = report(&json, &html).await;
    // On a busy machine one may come too late, but not each time.
    if !differs(&read(&json)).is_empty() {
        println!("tried again: {:?}", differs(&read(&json)));
        text = report(&json, &html).await;
    }
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }

    let found = fs::read_to_string(&json).expect("JSON");
    let page = fs::read_to_string(&html).expect("a page");
    for written in [&*text, &found, &page] {
        assert!(!written.contains("postgres://"), "the URL of the database");
    }
    let found: Value = serde_json::from_str(&found).expect("JSON");
    assert_eq!(found["left_out"], serde_json::json!([]));
    for scenario in SCENARIOS {
        for candidate in CANDIDATES {
            is_sane(cell(&found, scenario, candidate));
        }
    }
    assert!(differs(&found).is_empty(), "{:?}", differs(&found));
    // What the scenario is for.
    let left = cell(&found, "open transaction", "deadpool");
    assert_eq!(left["alter_table_gave_up"], true, "{left}");

    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fleet_page.py");
    let mut browser = Command::new(lab::tools::tool("python3"));
    browser
        // No cache beside the sources.
        .arg("-B")
        .arg(script)
        .arg(&html)
        .args(CHARTS)
        .kill_on_drop(true);
    let looked = timeout(PLENTY, browser.output()).await.expect("it ends");
    let looked = looked.expect("it starts");
    let errors = String::from_utf8_lossy(&looked.stderr);
    assert!(looked.status.success(), "{errors}");
}

/// The only run of a candidate in a scenario.
fn cell<'a>(found: &'a Value, scenario: &str, candidate: &str) -> &'a Value {
    let cells = found["cells"].as_array().expect("cells");
    let mut those = cells
        .iter()
        .filter(|cell| cell["scenario"] == scenario && cell["candidate"] == candidate);
    match (those.next(), those.next()) {
        (Some(cell), None) => cell,
        _ => panic!("{candidate} has one run in {scenario}"),
    }
}

fn is_sane(cell: &Value) {
    let number = |value: &Value| value.as_f64().expect("a number");
    let failed = cell["failed"].as_object().expect("kinds").values();
    let failed: f64 = failed.map(number).sum();
    let (sent, answered) = (number(&cell["sent"]), number(&cell["answered"]));
    assert!(sent > 0.0 && answered + failed == sent, "{cell}");
    assert_eq!(cell["p50_ms"].is_null(), answered == 0.0, "{cell}");
    // 22 slots for ordinary roles; a frozen process may have been ended meanwhile, and its
    // session not yet.
    assert!(
        (0.0..=22.0).contains(&number(&cell["most_slots"])),
        "{cell}"
    );
}
