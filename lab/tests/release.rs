//! What the pages say of versions is what the manifests say.

use std::{
    collections::{HashMap, HashSet},
    fs,
};

mod common;

use common::checkout;

/// The dependencies of the published crates, and the versions that they ask for.
fn dependencies() -> HashMap<String, String> {
    let metadata = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version=1"])
        .current_dir(checkout::root())
        .output()
        .expect("cargo");
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    let is_ours = |name: &serde_json::Value| text(name).starts_with("antifreeze");
    let ours = packages.iter().filter(|package| is_ours(&package["name"]));
    let dependencies = ours.flat_map(|package| package["dependencies"].as_array().expect("a list"));
    dependencies
        .filter(|dependency| dependency["kind"].is_null() && !is_ours(&dependency["name"]))
        .map(|dependency| {
            let version = text(&dependency["req"]);
            let version = version.trim_start_matches('^').to_owned();
            (text(&dependency["name"]), version)
        })
        .collect()
}

fn page(path: &str) -> String {
    fs::read_to_string(checkout::root().join(path)).expect("a page")
}

#[test]
fn public_crates_match_the_manifest() {
    let dependencies = dependencies();
    let page = page("docs/compatibility.md");
    let mut rows = 0;
    for line in page.lines().filter(|line| line.starts_with("| ")) {
        let columns: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, crates, major, ..] = columns[..] else {
            panic!("{line}")
        };
        for name in crates.split(" (").next().expect("a name").split(", ") {
            if let ("crate", "version") | ("---", "---") = (name, major) {
                continue;
            }
            let version = dependencies.get(name);
            let version = version.unwrap_or_else(|| panic!("{name} is no dependency"));
            let same = version == major || version.starts_with(&format!("{major}."));
            assert!(same, "{name}: {major} on the page, {version} in Cargo.toml");
            rows += 1;
        }
    }
    assert!(rows > 5, "{rows}");
    let words = |letter: char| !(letter.is_ascii_alphanumeric() || "_-".contains(letter));
    let words: HashSet<&str> = page.split(words).collect();
    for name in dependencies.keys() {
        assert!(words.contains(&**name), "{name}: does it show, or not?");
    }
}

#[test]
fn oldest_rust_is_the_same_everywhere() {
    let manifest = page("Cargo.toml");
    let version = manifest
        .split_once("rust-version = \"")
        .expect("a version")
        .1;
    let version = version.split('"').next().expect("a version");
    for path in [
        "README.md",
        "docs/compatibility.md",
        "starters/lambda/README.md",
    ] {
        let page = page(path);
        assert!(page.contains(&format!("{version} ")), "{version} in {path}");
    }
}

/// What a starter asks for is what is about to be published.
#[test]
fn starters_ask_for_this_version() {
    let version = page("Cargo.toml");
    let version = version.split_once("\nversion = \"").expect("a version").1;
    let (minor, _) = version
        .split_once('"')
        .expect("a version")
        .0
        .rsplit_once('.')
        .expect("three numbers");
    for starter in ["lambda", "lambda-sqlx", "vercel"] {
        let manifest = page(&format!("starters/{starter}/Cargo.toml"));
        let wanted = format!("antifreeze = {{ version = \"{minor}\"");
        assert!(
            manifest.contains(&wanted),
            "{starter} does not ask for {minor}"
        );
    }
}
