//! Follows a page exactly: runs its commands in their order, writes its files, and compares the
//! output with what the page says.
//!
//! | a block in | is |
//! | --- | --- |
//! | `sh` | run; a server continues until the next one starts, as in its own terminal |
//! | `sh`, beginning with `# with an account` | skipped: it needs an account at AWS or Vercel |
//! | `text` | the output of the last command |
//! | another language | a file, named at the end of the line before it; appended to `Cargo.toml` |
//!
//! Four things differ. Ports are free ones, since others may be in use. SAM builds for this
//! machine, so that the result can be run, and without link-time optimization, which takes
//! cargo-lambda a minute for each program. Dependencies are those of this checkout's lock file,
//! which are downloaded already.

use std::{
    env, fs,
    net::TcpStream,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use lab::tools;
use rustix::process::{Pid, Signal, kill_process_group};

use super::{checkout, elsewhere};

const WITH_AN_ACCOUNT: &str = "# with an account";

/// What needs no account, and so may not be left out.
const WITHOUT: [&str; 6] = ["cargo ", "cp ", "mkdir ", "psql ", "sam build", "localhost"];

/// What serves, its usual port, and how it is told another.
const SERVERS: [(&str, u16); 2] = [("cargo run", 3000), ("cargo lambda watch", 9000)];

/// Building takes its time.
const PLENTY: Duration = Duration::from_secs(1800);

pub struct Reader {
    /// Where the commands have led.
    pub folder: PathBuf,
    url: String,
    serving: Option<Serving>,
    said: Option<String>,
    /// What was done: commands, answers looked at, files written, and blocks left out.
    pub commands: usize,
    pub answers: usize,
    pub files: usize,
    pub left_out: usize,
}

/// A block, and the line before it.
struct Block {
    before: String,
    language: String,
    text: String,
}

impl Reader {
    /// With the URL of a database, as each page wants it.
    pub fn new(folder: &Path, url: &str) -> Self {
        let reader = Reader {
            folder: folder.to_owned(),
            url: url.to_owned(),
            serving: None,
            said: None,
            commands: 0,
            answers: 0,
            files: 0,
            left_out: 0,
        };
        reader.lock();
        reader
    }

    pub fn follow(&mut self, page: &str) {
        for block in blocks(page) {
            match block.language.as_str() {
                "sh" if block.text.starts_with(WITH_AN_ACCOUNT) => {
                    let done = WITHOUT
                        .iter()
                        .find(|&&command| block.text.contains(command));
                    assert_eq!(done, None, "needs no account: {}", block.text);
                    self.left_out += 1;
                }
                "sh" => self.run(&block.text),
                "text" => {
                    let said = self.said.take().expect("a command before it");
                    assert_eq!(said.trim(), block.text.trim());
                    self.answers += 1;
                }
                _ => self.write(&block),
            }
        }
        self.serving = None;
    }

    fn run(&mut self, text: &str) {
        self.commands += 1;
        let server = SERVERS.iter().find(|(server, _)| text.starts_with(server));
        if let Some(&(server, usual)) = server {
            // One terminal for all servers.
            self.serving = None;
            let port = lab::free_port().expect("a port");
            let text = match server {
                "cargo run" => format!("VERCEL_DEV_PORT={port} {text}"),
                _ => format!("{} --invoke-port {port}", text.trim()),
            };
            self.serving = Some(Serving::start(self.shell(&text), usual, port));
            return;
        }
        let mut text = text.to_owned();
        if let Some(serving) = &self.serving {
            text = text.replace(&serving.usual.to_string(), &serving.port.to_string());
        }
        let here = match env::consts::ARCH {
            "aarch64" => "arm64",
            other => other,
        };
        let sam = format!("sam build --parameter-overrides Architecture={here}");
        self.without_lto(&text);
        let text = text.replace("sam build", &sam);
        // Where the block leads is where the next one begins.
        let end = tempfile::NamedTempFile::new().expect("a file");
        let whole = format!("{text}\npwd >{:?}", end.path());
        let output = self
            .shell(&whole)
            .stderr(Stdio::inherit())
            .output()
            .expect("a shell");
        assert!(output.status.success(), "{text}: {output:?}");
        self.said = Some(String::from_utf8(output.stdout).expect("text"));
        let end = fs::read_to_string(end.path()).expect("a folder");
        self.folder = PathBuf::from(end.trim());
        self.lock();
    }

    fn write(&mut self, block: &Block) {
        let name = block.before.trim_end_matches(':').strip_suffix('`');
        let name = name.and_then(|before| before.rsplit('`').next());
        let name = name.unwrap_or_else(|| panic!("{:?} names no file", block.before));
        let path = self.folder.join(name);
        let text = match name {
            "Cargo.toml" => fs::read_to_string(&path).expect("readable") + "\n" + &block.text,
            _ => block.text.clone(),
        };
        fs::write(path, text).expect("written");
        self.files += 1;
    }

    /// A project is locked to what this checkout is.
    fn lock(&self) {
        let (manifest, lock) = (
            self.folder.join("Cargo.toml"),
            self.folder.join("Cargo.lock"),
        );
        // `cargo add` takes away what is not needed yet; what serves would be built anew.
        if manifest.exists() && self.serving.is_none() {
            fs::copy(checkout::root().join("Cargo.lock"), lock).expect("copied");
        }
    }

    /// What SAM is about to build is linked as it is.
    fn without_lto(&self, text: &str) {
        if text.contains("sam build") {
            let path = self.folder.join("Cargo.toml");
            let manifest = fs::read_to_string(&path).expect("a manifest");
            let profile = "[profile.release]\n";
            assert!(manifest.contains(profile), "{manifest}");
            let quick = format!("{profile}lto = \"off\"\ncodegen-units = 16\n");
            fs::write(path, manifest.replace(profile, &quick)).expect("written");
        }
    }

    fn shell(&self, text: &str) -> Command {
        let path = env::join_paths(tools::folders()).expect("a PATH");
        let mut shell = Command::new("bash");
        elsewhere(&mut shell)
            .args(["-euc", text])
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .env("PATH", path)
            // What this checkout needs is here, and no newer version is asked for.
            .env("CARGO_NET_OFFLINE", "true")
            .env("SAM_CLI_TELEMETRY", "0")
            .env("ANTIFREEZE", checkout::root())
            .env("DATABASE_URL", &self.url);
        shell
    }
}

/// The part of a page from one heading to another.
pub fn part<'a>(page: &'a str, from: &str, to: &str) -> &'a str {
    let heading = |name: &str| format!("\n## {name}\n");
    let begin = page.find(&heading(from)).expect(from);
    let end = page.find(&heading(to)).expect(to);
    &page[begin..end]
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut before = "";
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let text = line.trim_start();
        let Some(language) = text.strip_prefix("```") else {
            if !text.is_empty() {
                before = text;
            }
            continue;
        };
        let margin = line.len() - text.len();
        let inside = lines.by_ref().take_while(|line| line.trim() != "```");
        let inside = inside.map(|line| line.get(margin..).unwrap_or_default().to_owned() + "\n");
        blocks.push(Block {
            before: before.to_owned(),
            language: language.to_owned(),
            text: inside.collect(),
        });
    }
    blocks
}

/// What runs in the other terminal.
struct Serving {
    process: std::process::Child,
    usual: u16,
    port: u16,
}

impl Serving {
    fn start(mut command: Command, usual: u16, port: u16) -> Self {
        let process = command.process_group(0).spawn().expect("a shell");
        let mut serving = Serving {
            process,
            usual,
            port,
        };
        let limit = Instant::now() + PLENTY;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = serving.process.try_wait().expect("waited for");
            assert!(ended.is_none(), "{command:?}: {ended:?}");
            assert!(Instant::now() < limit, "no server listens on {port}");
            std::thread::sleep(Duration::from_millis(100));
        }
        serving
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Not SIGINT, which background processes ignore.
        let group = Pid::from_raw(self.process.id().cast_signed());
        let signal = |signal| group.map(|group| kill_process_group(group, signal));
        let _ = signal(Signal::TERM);
        let limit = Instant::now() + Duration::from_secs(10);
        while let (Ok(None), true) = (self.process.try_wait(), Instant::now() < limit) {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = signal(Signal::KILL);
        let _ = self.process.wait();
    }
}
