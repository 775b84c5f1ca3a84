//! The starters, by their READMEs: each is copied to an empty folder, every command that
//! its README has for this machine is run, and what it says will come is what comes.
//!
//! Two things are not to the letter. The crate is this checkout and not what crates.io
//! has, which may be older or nothing yet: a `[patch]` says so, and the versions of
//! everything else are those that the checkout is locked to. And the port is a free one,
//! since who knows what else runs here.

mod common;

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use common::{checkout, elsewhere};
use lab::{
    postgres::{Database, Postgres},
    tools,
    vercel::Deployment,
};
use rustix::process::{Pid, Signal, kill_process_group};

/// Building takes its time.
const PLENTY: Duration = Duration::from_secs(1800);

#[tokio::test(flavor = "multi_thread")]
async fn vercel() {
    let starter = Starter::copied("vercel").await;
    starter.follow("cargo run", 3000, |port| {
        format!("VERCEL_DEV_PORT={port} cargo run")
    });

    // What `vercel deploy` has done on Vercel's side, without the account that `vercel
    // link` asks for.
    let link = r#"{"projectId":"prj_x","orgId":"team_x","settings":{"framework":null}}"#;
    fs::create_dir_all(starter.folder.join(".vercel")).expect("a folder");
    fs::write(starter.folder.join(".vercel/project.json"), link).expect("written");
    let mut vercel = Command::new(tools::tool("vercel"));
    elsewhere(&mut vercel)
        .args(["build", "--standalone", "--yes", "--global-config"])
        .arg(checkout::scratch("vercel-settings"))
        .current_dir(&starter.folder)
        .env("VERCEL_TELEMETRY_DISABLED", "1")
        .env("VERCEL_BUILD_IMAGE", "1");
    tools::run(&mut vercel);
    let output = starter.folder.join(".vercel/output");
    let pages = fs::read_dir(output.join("static")).expect("pages");
    assert_eq!(pages.count(), 1, "no source among the pages");
    let function = output.join("functions/api/partners.func");
    let config = fs::read_to_string(function.join(".vc-config.json")).expect("readable");
    assert!(config.contains("\"maxDuration\": 10"), "{config}");
    let deployment = Deployment::builder(function.join("executable"))
        .env("DATABASE_URL", &starter.database.url)
        .start()
        .await
        .expect("a deployment");
    let request = http::Request::get("/api/partners").body("");
    let outcome = deployment.request(request.expect("a request")).await;
    let response = outcome.expect("sent").response.expect("a response");
    assert_eq!(response.body(), r#"{"partners":1}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn lambda() {
    let starter = Starter::copied("lambda").await;
    let watch = "cargo lambda watch";
    starter.follow(watch, 9000, |port| format!("{watch} --invoke-port {port}"));
}

struct Starter {
    folder: PathBuf,
    database: Database,
}

/// A block of the README.
struct Block {
    language: String,
    text: String,
}

impl Starter {
    async fn copied(name: &str) -> Starter {
        let folder = checkout::scratch("starters").join(name);
        let origin = checkout::root().join("starters").join(name);
        let lock = checkout::root().join("Cargo.lock");
        checkout::copy(&origin, &folder, &|path| path == Path::new("target"));
        fs::copy(lock, folder.join("Cargo.lock")).expect("copied");
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).expect("readable");
        let path = checkout::root().display();
        let patch = format!("\n[patch.crates-io]\nantifreeze = {{ path = \"{path}\" }}\n");
        fs::write(folder.join("Cargo.toml"), manifest + &patch).expect("written");
        let server = Postgres::shared().await.expect("a server");
        let database = server.fresh_database().await.expect("a database");
        Starter { folder, database }
    }

    /// What the README has until it comes to deploying.
    fn blocks(&self) -> Vec<Block> {
        let text = fs::read_to_string(self.folder.join("README.md")).expect("a README");
        let (here, _) = text.split_once("\n## Deploy it\n").expect("two parts");
        let mut parts = here.split("\n```");
        parts.next();
        let mut blocks = Vec::new();
        while let (Some(block), Some(_)) = (parts.next(), parts.next()) {
            let (language, text) = block.split_once('\n').expect("a language");
            blocks.push(Block {
                language: language.to_owned(),
                text: text.to_owned(),
            });
        }
        blocks
    }

    /// Runs all its commands. The one that `serves` goes on while the rest is run, as it
    /// would in a terminal of its own; `at` another port than its usual `port`.
    fn follow(&self, serves: &str, port: u16, at: impl Fn(u16) -> String) {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let free = free.expect("a port").port();
        let mut serving = None;
        let mut said = None;
        let (mut commands, mut answers) = (0, 0);
        for block in self.blocks() {
            match block.language.as_str() {
                "sh" if block.text == serves => {
                    serving = Some(Serving::start(self.shell(&at(free)), free));
                }
                "sh" => {
                    let text = block.text.replace(&port.to_string(), &free.to_string());
                    let output = self
                        .shell(&text)
                        .stderr(Stdio::inherit())
                        .output()
                        .expect("a shell");
                    assert!(output.status.success(), "{text}: {output:?}");
                    said = Some(String::from_utf8(output.stdout).expect("text"));
                    commands += 1;
                }
                "text" => {
                    let said = said.take().expect("a command before it");
                    assert_eq!(said.trim(), block.text.trim());
                    answers += 1;
                }
                other => panic!("a block of {other}"),
            }
        }
        assert!(serving.is_some(), "nothing was served with `{serves}`");
        assert!(commands >= 3 && answers >= 2, "{commands}, {answers}");
    }

    fn shell(&self, text: &str) -> Command {
        let tool = tools::tool("cargo-lambda");
        let path = std::env::var("PATH").expect("a PATH");
        let path = format!("{path}:{}", tool.parent().expect("a folder").display());
        let mut shell = Command::new("bash");
        elsewhere(&mut shell)
            .args(["-euc", text])
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .env("PATH", path)
            .env("DATABASE_URL", &self.database.url);
        shell
    }
}

/// What runs in the other terminal.
struct Serving(std::process::Child);

impl Serving {
    fn start(mut command: Command, port: u16) -> Serving {
        use std::os::unix::process::CommandExt;
        let serving = command.process_group(0).spawn().expect("a shell");
        let mut serving = Serving(serving);
        let limit = Instant::now() + PLENTY;
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = serving.0.try_wait().expect("waited for");
            assert!(ended.is_none(), "{command:?}: {ended:?}");
            assert!(Instant::now() < limit, "nobody listens on {port}");
            std::thread::sleep(Duration::from_millis(100));
        }
        serving
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Not Control-C's signal: whoever is started in the background ignores that.
        let group = Pid::from_raw(self.0.id().cast_signed());
        let signal = |signal| group.map(|group| kill_process_group(group, signal));
        let _ = signal(Signal::TERM);
        let limit = Instant::now() + Duration::from_secs(10);
        while let (Ok(None), true) = (self.0.try_wait(), Instant::now() < limit) {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = signal(Signal::KILL);
        let _ = self.0.wait();
    }
}
