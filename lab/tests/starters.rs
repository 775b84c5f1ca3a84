//! The starters, by their READMEs, and the page of Vercel: what they have for this machine
//! is done to the letter, and what they say will come is what comes. What they build for a
//! deployment with SAM is in `tools/pages.rs`, since that takes a while.
//!
//! The crate is this checkout and not what crates.io has, which may be older or nothing
//! yet: in the starters a `[patch]` says so, the pages say it themselves.

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use common::{
    checkout, elsewhere,
    reader::{Reader, part},
};
use lab::{
    postgres::{Database, Postgres},
    tools,
    vercel::Deployment,
};

/// Several projects have a `partners`, and build it in the same folder.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test(flavor = "multi_thread")]
async fn vercel_starter_is_built_and_answers() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let (folder, database) = (checkout::starter("vercel"), database().await);
    let readme = fs::read_to_string(folder.join("README.md")).expect("a README");
    let mut reader = Reader::new(&folder, &database.url);
    reader.follow(part(&readme, "Run it here", "Change it"));
    let (commands, answers) = (reader.commands, reader.answers);
    assert_eq!((commands, answers, reader.left_out), (5, 2, 1));
    is_built_and_answers(&folder, &database, r#"{"partners":1}"#).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lambda_starter_is_built_and_answers() {
    let (folder, database) = (checkout::starter("lambda"), database().await);
    let readme = fs::read_to_string(folder.join("README.md")).expect("a README");
    let mut reader = Reader::new(&folder, &database.url);
    reader.follow(part(&readme, "Run it here", "Deploy it"));
    let (commands, answers) = (reader.commands, reader.answers);
    assert_eq!((commands, answers, reader.left_out), (5, 2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlx_starter_is_built_and_answers() {
    let (folder, database) = (checkout::starter("lambda-sqlx"), database().await);
    let readme = fs::read_to_string(folder.join("README.md")).expect("a README");
    let mut reader = Reader::new(&folder, &database.url);
    reader.follow(part(&readme, "Run it here", "Deploy it"));
    let (commands, answers) = (reader.commands, reader.answers);
    assert_eq!((commands, answers, reader.left_out), (5, 2, 0));
}

/// It is built like the other one, which is built for Vercel too.
#[tokio::test(flavor = "multi_thread")]
async fn vercel_sqlx_starter_is_built_and_answers() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let (folder, database) = (checkout::starter("vercel-sqlx"), database().await);
    let readme = fs::read_to_string(folder.join("README.md")).expect("a README");
    let mut reader = Reader::new(&folder, &database.url);
    reader.follow(part(&readme, "Run it here", "Deploy it"));
    let (commands, answers) = (reader.commands, reader.answers);
    assert_eq!((commands, answers, reader.left_out), (5, 2, 0));
}

/// From nothing, as `docs/vercel.md` has it.
#[tokio::test(flavor = "multi_thread")]
async fn vercel_page_can_be_followed() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let (folder, database) = (checkout::outside("page-of-vercel"), database().await);
    let page = fs::read_to_string(checkout::root().join("docs/vercel.md")).expect("a page");
    let mut reader = Reader::new(&folder, &database.url);
    reader.follow(part(&page, "From nothing", "Deploy"));
    reader.follow(part(&page, "Deploy", "Secrets"));
    let (commands, answers, files) = (reader.commands, reader.answers, reader.files);
    assert_eq!((commands, answers, files, reader.left_out), (5, 1, 4, 2));
    is_built_and_answers(&reader.folder, &database, "1").await;
}

async fn database() -> Database {
    let server = Postgres::shared().await.expect("a server");
    server.fresh_database().await.expect("a database")
}

/// What `vercel deploy` has done on Vercel's side, without the account that `vercel link`
/// asks for.
async fn is_built_and_answers(folder: &Path, database: &Database, answer: &str) {
    let link = r#"{"projectId":"prj_x","orgId":"team_x","settings":{"framework":null}}"#;
    fs::create_dir_all(folder.join(".vercel")).expect("a folder");
    fs::write(folder.join(".vercel/project.json"), link).expect("written");
    let mut vercel = Command::new(tools::tool("vercel"));
    elsewhere(&mut vercel)
        .args(["build", "--standalone", "--yes", "--global-config"])
        .arg(checkout::scratch("vercel-settings"))
        .current_dir(folder)
        .env("VERCEL_TELEMETRY_DISABLED", "1")
        .env("VERCEL_BUILD_IMAGE", "1");
    tools::run(&mut vercel);
    let output: PathBuf = folder.join(".vercel/output");
    let pages = fs::read_dir(output.join("static")).expect("pages");
    assert_eq!(pages.count(), 1, "no source among the pages");
    let function = output.join("functions/api/partners.func");
    let config = fs::read_to_string(function.join(".vc-config.json")).expect("readable");
    assert!(config.contains("\"maxDuration\": 10"), "{config}");
    let deployment = Deployment::builder(function.join("executable"))
        .env("DATABASE_URL", &database.url)
        .start()
        .await
        .expect("a deployment");
    let request = http::Request::get("/api/partners").body("");
    let outcome = deployment.request(request.expect("a request")).await;
    let response = outcome.expect("sent").response.expect("a response");
    assert_eq!(response.body(), answer);
    if answer.starts_with('{') {
        assert_eq!(response.headers()["content-type"], "application/json");
    }
}
