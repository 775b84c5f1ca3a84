//! The newcomer's first command shows what it says.

use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

/// It builds an example first.
const PLENTY: Duration = Duration::from_secs(900);

#[tokio::test]
async fn the_demo_shows_a_difference() {
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
    for path in ["/partners", "/early", "/begin", "/task", "/panic", "/slow"] {
        let row = row(with, path);
        assert!(row.contains("idle") || row.contains("none"), "{row}");
        assert!(
            !row.contains("in transaction") && !row.contains("active"),
            "{row}"
        );
        assert!(row.trim_end_matches(['│', ' ']).ends_with("ms"), "{row}");
    }
    for path in ["/begin", "/task"] {
        let row = row(without, path);
        assert!(row.contains("idle in transaction"), "{row}");
        assert!(row.contains("gave up"), "{row}");
    }
}

fn row<'a>(table: &'a str, path: &str) -> &'a str {
    let mut rows = table.lines().filter(|line| line.contains(path));
    rows.next()
        .unwrap_or_else(|| panic!("no {path} in\n{table}"))
}
