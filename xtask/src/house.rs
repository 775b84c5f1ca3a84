//! The rules of the house: each finding is one line with its place and what to do.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use proc_macro2::TokenTree;

use crate::graph::{Graph, circles};
use crate::source::{Source, each, module, read};

/// The floors of `src/`, the lowest first. A module uses its own floor and lower ones, and
/// a floor has no circle. `lib.rs` stands above them all.
const FLOORS: &[&[&str]] = &[
    &["backoff", "clock", "kind", "lock", "random", "tally"],
    &["provider"],
    &["error"],
    &["credentials", "deadline", "observe"],
    &["config"],
    &["net", "tls", "wire"],
    &["connect"],
    &["connection"],
    &["limit"],
    &["pool"],
    &["teardown"],
    &["engine", "session"],
    &["invocation"],
    &["bridge", "health"],
    &["lifecycle"],
    &["database"],
    &["layer", "testing"],
    &["host", "internal"],
];

/// Lines of code in `src/`, without tests, comments and blank lines: to be lowered, never
/// raised.
const SIZE: usize = 21_749;

/// Lines of a file.
const FILE: usize = 500;

/// Characters of the name of a test.
const TEST_NAME: usize = 49;

/// How the name of a test begins that has no subject.
const RIDDLES: &[&str] = &[
    "it", "nor", "one_that", "so", "they", "those", "what", "who", "whoever",
];

/// What is known of providers and poolers stands in `src/provider`.
const PROVIDERS: &[&str] = &[
    "aiven",
    "aurora",
    "dsql",
    "neon",
    "odyssey",
    "pgbouncer",
    "pgcat",
    "rds",
    "supabase",
    "supavisor",
];

/// Where a name is no knowledge of a provider: Prisma's parameter of a URL that is called
/// `pgbouncer`, and the public variant `Pooler::RdsProxy`.
const NAMED: &[(&str, &str)] = &[
    ("config", "pgbouncer"),
    ("config", "rds"),
    ("teardown", "rds"),
];

/// Where there is Rust.
const DIRECTORIES: &[&str] = &[
    "api",
    "crates",
    "drivers",
    "examples",
    "functions",
    "fuzz",
    "lab",
    "prove",
    "src",
    "starters",
    "tests",
    "xtask",
];

pub fn run(root: &Path) -> ExitCode {
    match check(root) {
        Ok(findings) if findings.is_empty() => ExitCode::SUCCESS,
        Ok(findings) => {
            for finding in &findings {
                println!("{finding}");
            }
            eprintln!("{} findings", findings.len());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn check(root: &Path) -> Result<Vec<String>, String> {
    let mut findings = Vec::new();
    for directory in DIRECTORIES {
        if !root.join(directory).is_dir() {
            continue;
        }
        let sources = read(root, directory)?;
        for source in &sources {
            findings.extend(long_file(source));
            findings.extend(test_names(source));
        }
        if *directory == "src" {
            let sources = without_tests(sources);
            findings.extend(size(&sources, SIZE));
            findings.extend(sources.iter().flat_map(providers));
            let graph = Graph::new(&sources);
            findings.extend(floors(&graph, FLOORS));
            findings.extend(folders(&graph));
        }
    }
    Ok(findings)
}

/// The files that are compiled outside tests.
fn without_tests(mut sources: Vec<Source>) -> Vec<Source> {
    let mut tests = BTreeSet::new();
    for source in &sources {
        for name in source.test_modules() {
            let mut path = module(&source.path);
            path.push(name);
            tests.insert(path);
        }
    }
    sources.retain(|source| {
        let path = module(&source.path);
        !tests.iter().any(|test| path.starts_with(test))
    });
    sources
}

fn size(sources: &[Source], most: usize) -> Option<String> {
    let lines: usize = sources.iter().map(Source::lines).sum();
    println!("src: {lines} lines of code");
    (lines > most).then(|| {
        format!("src:1: {lines} lines of code, at most {most}: shorten it, or move what is not the layer to crates/")
    })
}

fn long_file(source: &Source) -> Option<String> {
    let lines = source.text.lines().count();
    (lines > FILE).then(|| {
        let path = source.path.display();
        format!("{path}:{lines}: {lines} lines, at most {FILE}: split it by subject")
    })
}

fn test_names(source: &Source) -> Vec<String> {
    let mut findings = Vec::new();
    for (name, line) in source.tests() {
        let path = source.path.display();
        if name.len() > TEST_NAME {
            let length = name.len();
            findings.push(format!(
                "{path}:{line}: test name of {length} characters, at most {TEST_NAME}: shorten `{name}`"
            ));
        }
        let begins = |word: &&&str| {
            name.strip_prefix(**word)
                .is_some_and(|rest| rest.starts_with('_'))
        };
        if let Some(word) = RIDDLES.iter().find(begins) {
            findings.push(format!(
                "{path}:{line}: test name that begins with `{word}`: name the subject of `{name}`"
            ));
        }
    }
    findings
}

/// The names of providers outside `src/provider`, in identifiers and texts.
fn providers(source: &Source) -> Vec<String> {
    let path = module(&source.path);
    let module = path.first().map_or("", String::as_str);
    if module == "provider" {
        return Vec::new();
    }
    let mut found = BTreeSet::new();
    each(&source.code(), &mut |token| {
        if let TokenTree::Ident(_) | TokenTree::Literal(_) = &token {
            let words = words(&token.to_string());
            let pairs = words.windows(2).map(|pair| pair.concat());
            for word in words.iter().cloned().chain(pairs) {
                if PROVIDERS.contains(&word.as_str()) && !NAMED.contains(&(module, word.as_str())) {
                    found.insert((token.span().start().line, word));
                }
            }
        }
    });
    let path = source.path.display();
    let line = |(line, word)| format!("{path}:{line}: names `{word}`: move it to src/provider/");
    found.into_iter().map(line).collect()
}

/// The words of an identifier or a text, in small letters: `RdsProxy` has two.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_small = false;
    for char in text.chars() {
        if !char.is_ascii_alphanumeric() || (char.is_ascii_uppercase() && was_small) {
            words.push(String::new());
        }
        if let (true, Some(word)) = (char.is_ascii_alphanumeric(), words.last_mut()) {
            word.push(char.to_ascii_lowercase());
        }
        was_small = char.is_ascii_lowercase();
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Uses of a higher floor, circles between modules, and modules without a floor.
fn floors(graph: &Graph, floors: &[&[&str]]) -> Vec<String> {
    let floor = |name: &str| floors.iter().position(|floor| floor.contains(&name));
    let mut findings = Vec::new();
    for name in graph.children(&[]) {
        if floor(&name).is_none() {
            findings.push(format!(
                "src/{name}:1: module `{name}` has no floor: add it to FLOORS in xtask/src/house.rs"
            ));
        }
    }
    let mut upward = BTreeSet::new();
    for one in &graph.uses {
        let (Some(from), Some(to)) = (one.from.first(), one.to.first()) else {
            continue;
        };
        if let (Some(below), Some(above)) = (floor(from), floor(to))
            && below < above
        {
            upward.insert(format!(
                "{}:{}: `{from}` (floor {below}) uses `{to}` (floor {above}): move what they share down",
                one.path.display(),
                one.line
            ));
        }
    }
    findings.extend(upward);
    findings.extend(circles_below(graph, &[]));
    findings
}

/// Circles between the files of a folder. That a file and its `mod.rs` use each other is no
/// circle: they are one module.
fn folders(graph: &Graph) -> Vec<String> {
    let parents = graph
        .parents()
        .into_iter()
        .filter(|parent| !parent.is_empty());
    parents
        .flat_map(|parent| circles_below(graph, &parent))
        .collect()
}

fn circles_below(graph: &Graph, parent: &[String]) -> Vec<String> {
    let between = graph.between(parent);
    let edges = between.keys().cloned().collect();
    let line = |circle: Vec<String>| {
        let first = between[&(circle[0].clone(), circle[1].clone())];
        format!(
            "{}:{}: circle {}: move what they share into a module below both",
            first.path.display(),
            first.line,
            circle.join(" -> ")
        )
    };
    circles(&edges).into_iter().map(line).collect()
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source::parse(path.into(), text.into()).expect("Rust")
    }

    #[test]
    fn too_many_lines_are_a_finding() {
        let files = [
            source("src/a.rs", "fn a() {\n}\n"),
            source("src/b.rs", "fn b() {}\n"),
        ];
        assert_eq!(size(&files, 3), None);
        let finding = size(&files, 2).expect("a finding");
        assert!(
            finding.starts_with("src:1: 3 lines of code, at most 2"),
            "{finding}"
        );
    }

    #[test]
    fn a_long_file_is_a_finding() {
        let text = "\n".repeat(FILE);
        assert_eq!(long_file(&source("src/a.rs", &text)), None);
        let finding = long_file(&source("src/a.rs", &(text + "\n")));
        assert!(finding.is_some_and(|finding| finding.starts_with("src/a.rs:501: ")));
    }

    #[test]
    fn long_and_riddling_test_names_are_findings() {
        let text = format!(
            "#[test]\nfn {}() {{}}\n#[test]\nfn what_is() {{}}\n#[test]\nfn whole_is_kept() {{}}\n",
            "a".repeat(TEST_NAME + 1)
        );
        let findings = test_names(&source("src/a.rs", &text));
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert!(findings[0].starts_with("src/a.rs:2: "), "{findings:?}");
        assert!(findings[1].contains("begins with `what`"), "{findings:?}");
    }

    #[test]
    fn provider_names_are_findings_in_code_alone() {
        let code = "struct RdsProxy;\nconst A: &str = \"a PgBouncer\";\nlet records = towards;";
        let findings = providers(&source("src/a.rs", code));
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert!(findings[1].starts_with("src/a.rs:2: names `pgbouncer`"));
        for text in [
            "/// Neon.\nfn a() {} // rds",
            "#[cfg(test)]\nmod tests { fn neon() {} }",
        ] {
            assert!(providers(&source("src/a.rs", text)).is_empty(), "{text}");
        }
        assert!(providers(&source("src/provider/neon.rs", "fn neon() {}")).is_empty());
    }

    #[test]
    fn upward_uses_and_strange_modules_are_findings() {
        let files = [
            source("src/lib.rs", "mod a; mod b; mod c;"),
            source("src/a.rs", "use crate::b::X;"),
            source("src/b.rs", ""),
            source("src/c.rs", ""),
        ];
        let findings = floors(&Graph::new(&files), &[&["a"], &["b"]]);
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert!(findings[0].starts_with("src/c:1: module `c` has no floor"));
        assert!(findings[1].starts_with("src/a.rs:1: `a` (floor 0) uses `b` (floor 1)"));
        assert!(floors(&Graph::new(&files[..3]), &[&["b"], &["a"]]).is_empty());
    }

    #[test]
    fn circles_are_findings_on_each_level() {
        let files = [
            source("src/a/mod.rs", "mod b; mod c; use c::X; use crate::d::Y;"),
            source("src/a/b.rs", "use super::X;"),
            source("src/a/c.rs", "\nuse super::b::f;"),
            source("src/d.rs", "use crate::a::f;"),
        ];
        let graph = Graph::new(&files);
        let findings = floors(&graph, &[&["a", "d"]]);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].contains("circle a -> d -> a"), "{findings:?}");
        let findings = folders(&graph);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].starts_with("src/a/b.rs:1: circle b -> c -> b"));
    }

    #[test]
    fn a_file_of_tests_is_not_the_library() {
        let files = vec![
            source("src/a.rs", "#[cfg(test)] mod tests;\nmod b;"),
            source("src/a/tests.rs", ""),
            source("src/a/tests/more.rs", ""),
            source("src/a/b.rs", ""),
        ];
        let left: Vec<_> = without_tests(files)
            .iter()
            .map(|file| module(&file.path))
            .collect();
        assert_eq!(left, [vec!["a"], vec!["a", "b"]]);
    }
}
