//! Follows `docs/lambda.md` and the README of the starter (`common/reader.rs`), and runs what SAM
//! has built on the way; steps that need an account are skipped.
//!
//! Building takes minutes, so the project with all functions is built once for all tests of this
//! binary.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ::http::Request;
use lab::lambda::Function;
use lab::postgres::{Database, Postgres};
use lab::tools::run;

use crate::artefacts::{built_by, deployed};
use crate::common::checkout;
use crate::common::reader::{Reader, part};
use crate::tool::{CFN_LINT, SAM};

fn page() -> String {
    fs::read_to_string(checkout::root().join("docs/lambda.md")).expect("a page")
}

/// A database that needs no runtime of ours.
fn database() -> Database {
    let made = std::thread::spawn(|| {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let server = Postgres::shared().await.expect("a server");
            server.fresh_database().await.expect("a database")
        })
    });
    made.join().expect("a database")
}

/// The project that the page's third step leads to, built.
pub fn all_functions() -> &'static Path {
    static PROJECT: OnceLock<PathBuf> = OnceLock::new();
    PROJECT.get_or_init(|| {
        let folder = checkout::outside("page-of-lambda/shop");
        let mut reader = Reader::new(&folder, &database().url);
        reader.follow(part(
            &page(),
            "3. More functions",
            "What each function may do",
        ));
        let (commands, answers, files) = (reader.commands, reader.answers, reader.files);
        assert_eq!((commands, answers, files, reader.left_out), (6, 1, 2, 2));
        reader.folder
    })
}

/// What the tools say of the template in a folder: nothing.
fn is_clean(folder: &Path) {
    let validate = ["validate", "--lint", "--region", "eu-central-1"];
    run(SAM.command().args(validate).current_dir(folder));
    let found = run(CFN_LINT.command().arg("template.yaml").current_dir(folder));
    assert_eq!(found.trim(), "");
}

/// Runs what is built on the lab's Lambda, which freezes.
async fn answers(bootstrap: &Path, path: &str, url: &str) -> String {
    let function = Function::builder(bootstrap).env("DATABASE_URL", url);
    let function = function.start().await.expect("a function");
    let request = Request::get(path).body("").expect("a request");
    let (response, outcome) = function.request(request).await.expect("it runs");
    outcome.environment.frozen().await.expect("frozen");
    assert_eq!(response.status(), 200, "{response:?}");
    String::from_utf8(response.body().to_vec()).expect("text")
}

/// What the starters' templates have switched off is valid, too.
#[test]
fn starter_templates_are_valid_as_a_whole() {
    for starter in ["lambda", "lambda-sqlx"] {
        let folder = checkout::outside(&format!("template-of-{starter}"));
        let template = checkout::root().join("starters").join(starter);
        let template = fs::read_to_string(template.join("template.yaml")).expect("a template");
        let on = |line: &str| match line.split_once('#') {
            Some((margin, part)) if margin.trim().is_empty() && !part.starts_with(' ') => {
                format!("{margin}{part}\n")
            }
            _ => format!("{line}\n"),
        };
        let whole: String = template.lines().map(on).collect();
        for part in [
            "VpcConfig",
            "ReservedConcurrentExecutions",
            "RetentionInDays",
            "Alarm",
        ] {
            let is_on = |text: &str| {
                text.lines()
                    .any(|line| !line.contains('#') && line.contains(part))
            };
            assert!(is_on(&whole) && !is_on(&template), "{part} in {starter}");
        }
        fs::write(folder.join("template.yaml"), whole).expect("written");
        is_clean(&folder);
    }
}

/// The first two steps, which begin with a copy of the starter.
#[tokio::test(flavor = "multi_thread")]
async fn starter_is_built_and_answers() {
    let folder = checkout::outside("page-of-starter");
    let database = database();
    let url = database.url.clone();
    let follows = move || {
        let mut reader = Reader::new(&folder, &url);
        reader.follow(part(&page(), "1. A function", "2. To AWS"));
        assert_eq!((reader.commands, reader.answers), (3, 1));
        reader.follow(part(&page(), "2. To AWS", "3. More functions"));
        assert_eq!((reader.commands, reader.left_out), (4, 2));
        is_clean(&reader.folder);
        reader.folder
    };
    let project = tokio::task::spawn_blocking(follows).await.expect("done");
    let answer = answers(&built_by(&project, "Shop"), "/", &database.url).await;
    assert_eq!(answer, r#"{"partners":1}"#);
}

/// It says the same, in its own README.
#[test]
fn starter_readme_builds_the_same() {
    let readme = include_str!("../../../starters/lambda/README.md");
    let page = page();
    let readme = part(readme, "Deploy it", "Change it");
    let page = part(&page, "2. To AWS", "3. More functions");
    let commands = |text: &str| -> Vec<String> {
        let blocks = text.split("```sh\n").skip(1);
        let blocks = blocks.map(|block| block.split("```").next().unwrap_or_default());
        blocks.map(str::to_owned).collect()
    };
    assert_eq!(commands(readme), commands(page));
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_are_built_and_the_api_answers() {
    let database = database();
    database
        .execute(include_str!("../../../functions/schema.sql"))
        .await
        .expect("tables");
    let bootstrap = tokio::task::spawn_blocking(|| deployed("ApiFunction"));
    let bootstrap = bootstrap.await.expect("built");
    let answer = answers(&bootstrap, "/partners", &database.url).await;
    assert_eq!(answer, r#"{"partners":[]}"#);
}
