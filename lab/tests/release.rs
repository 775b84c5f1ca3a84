//! What the pages say of versions is what the manifests say, and their links lead somewhere.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::Path,
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

/// The drivers behind the private socket are named with the versions that are tested.
#[test]
fn driver_versions_match_the_manifest() {
    let (page, manifest) = (page("docs/compatibility.md"), page("drivers/Cargo.toml"));
    for driver in ["sqlx", "sea-orm", "diesel", "diesel-async"] {
        let wanted = format!("\n{driver} = {{ version = \"");
        let version = manifest.split_once(&wanted).expect(driver).1;
        let version = version.split('"').next().expect("a version");
        assert!(page.contains(&format!("{driver} {version}")), "{driver}");
    }
}

/// The README has the rows that `lab compare` prints.
#[test]
fn compared_endings_are_those_of_the_command() {
    let readme = page("README.md");
    let table = readme.split_once("<!-- compared -->").expect("a table").1;
    let rows = table.lines().skip_while(|line| !line.starts_with("| ---"));
    let rows = rows.skip(1).take_while(|line| line.starts_with("| "));
    let endings: Vec<&str> = rows
        .filter_map(|row| row.split('|').nth(1))
        .map(str::trim)
        .collect();
    assert_eq!(endings, lab::compare::ENDINGS);
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
    for starter in ["lambda", "lambda-sqlx", "vercel", "vercel-sqlx"] {
        let manifest = page(&format!("starters/{starter}/Cargo.toml"));
        let wanted = format!("antifreeze = {{ version = \"{minor}\"");
        assert!(
            manifest.contains(&wanted),
            "{starter} does not ask for {minor}"
        );
    }
}

/// The pages of the guide on docs.rs.
const GUIDE: [&str; 4] = [
    "docs/guide.md",
    "docs/lambda.md",
    "docs/other-drivers.md",
    "docs/vercel.md",
];

/// A page without its blocks of code.
fn prose(page: &str) -> String {
    let mut code = false;
    let lines = page.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    });
    lines.map(|line| line.to_owned() + "\n").collect()
}

/// The targets of a page's links: those in the text, and those of its definitions by label.
fn links(prose: &str) -> (Vec<&str>, Vec<(&str, &str)>) {
    let inline = prose.split("](").skip(1);
    let inline = inline.filter_map(|rest| Some(rest.split_once(')')?.0));
    let defined = prose.lines().filter_map(|line| {
        let (label, target) = line.strip_prefix('[')?.split_once("]: ")?;
        Some((label, target))
    });
    (inline.collect(), defined.collect())
}

/// The anchors of a page's headings, as GitHub and rustdoc make them.
fn anchors(prose: &str) -> Vec<String> {
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| -> String {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
        heading.chars().filter(kept).collect()
    };
    headings
        .map(|heading| anchor(heading).replace(' ', "-"))
        .collect()
}

fn pages(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let pages = paths.filter(|path| path.extension().is_some_and(|kind| kind == "md"));
    let relative = |path: &Path| {
        path.strip_prefix(checkout::root())
            .expect("inside")
            .to_owned()
    };
    pages
        .map(|path| relative(&path).to_str().expect("UTF-8").to_owned())
        .collect()
}

#[test]
fn links_of_the_pages_lead_somewhere() {
    let root = checkout::root();
    let folders = ["", "docs", "docs/providers"];
    let pages: Vec<String> = folders
        .iter()
        .flat_map(|folder| pages(&root.join(folder)))
        .collect();
    let mut checked = 0;
    for path in &pages {
        let text = prose(&page(path));
        let (inline, defined) = links(&text);
        let targets = defined.iter().map(|(_, target)| *target).chain(inline);
        for target in targets.filter(|target| !target.contains("://")) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let of = Path::new(path);
            let file = match file {
                "" => root.join(of),
                file => root.join(of).parent().expect("a folder").join(file),
            };
            assert!(file.exists(), "{path}: {target}");
            if !anchor.is_empty() {
                let text = prose(&fs::read_to_string(&file).expect("a page"));
                let found = anchors(&text).iter().any(|found| found == anchor);
                assert!(found, "{path}: {target}");
            }
            checked += 1;
        }
    }
    assert!(checked > 100, "{checked}");
}

/// On docs.rs a relative link leads nowhere: `links!` in `docs/guide.rs` has another target for
/// each, and rustdoc refuses what it does not find of the crate's own.
#[test]
fn guide_on_docs_rs_has_every_link() {
    let module = page("docs/guide.rs");
    for path in GUIDE {
        let text = prose(&page(path));
        let (inline, defined) = links(&text);
        for target in inline {
            let works = target.contains("://") || target.starts_with('#');
            assert!(works, "{path}: define a label for {target}");
        }
        for (label, target) in defined {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = match file.strip_prefix("../") {
                Some(file) => file.to_owned(),
                None => format!("docs/{file}"),
            };
            let anchor = if anchor.is_empty() {
                String::new()
            } else {
                format!("#{anchor}")
            };
            let outside = format!("\"{label}\": \"{file}{anchor}\",");
            let inside = format!("\"[{label}]: crate::guide::");
            let wanted = if GUIDE.contains(&&*file) {
                inside
            } else {
                outside
            };
            let found = module.contains(&wanted);
            assert!(found, "{path}: {label} leads to {file}{anchor}");
        }
    }
}
