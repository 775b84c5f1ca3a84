//! AWS's own Runtime Interface Emulator: a real deadline, a real timeout, no freeze.

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ::http::{Request, StatusCode};
use bytes::Bytes;
use lab::lambda::http::event;
use serde_json::{Value, json};

use crate::artefacts::deployed;
use crate::http::{free, listening, post, send};
use crate::sessions::Sessions;
use crate::tool;

/// What Lambda calls `Timeout`, in seconds.
pub const TIMEOUT: u32 = 5;

const INVOCATIONS: &str = "/2015-03-31/functions/function/invocations";

pub struct Emulator {
    process: Child,
    address: SocketAddr,
    log: tempfile::NamedTempFile,
}

impl Emulator {
    pub async fn start(bootstrap: &Path, url: &str) -> Self {
        let (address, api) = (free(), free());
        let log = tempfile::NamedTempFile::new().expect("a file");
        let output = || -> File { log.reopen().expect("the file") };
        let mut append = Command::new(tool::emulator());
        let process = append
            .args(["--runtime-interface-emulator-address", &address.to_string()])
            .args(["--runtime-api-address", &api.to_string()])
            .arg(bootstrap)
            .env("AWS_LAMBDA_FUNCTION_TIMEOUT", TIMEOUT.to_string())
            .env("AWS_LAMBDA_FUNCTION_NAME", "http")
            .env("DATABASE_URL", url)
            .stdin(Stdio::null())
            .stdout(output())
            .stderr(output())
            .process_group(0)
            .spawn()
            .expect("it starts");
        // The function is started by the first request, and takes it that the other one is there.
        listening(address).await;
        listening(api).await;
        Emulator {
            process,
            address,
            log,
        }
    }

    /// The function's answer, or what the emulator says in its place.
    pub async fn invoke(&self, event: &Value) -> Bytes {
        post(self.address, INVOCATIONS, event.to_string())
            .await
            .into_body()
    }

    /// Sends a request whose answer may never come.
    pub fn send(&self, request: &Request<Bytes>) {
        let body = event(request).to_string().into();
        let request = Request::post(INVOCATIONS).body(body).expect("a request");
        tokio::spawn(send(self.address, request));
    }

    pub async fn request(&self, request: &Request<Bytes>) -> Value {
        let answer = self.invoke(&event(request)).await;
        serde_json::from_slice(&answer).unwrap_or_else(|_| panic!("{answer:?}: {}", self.log()))
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log.path()).expect("the log")
    }

    /// Sends SIGTERM, as a container runtime does: it forwards it to the function.
    pub fn terminate(&self) {
        lab::process::terminate(self.process.id()).expect("it is there");
    }

    /// Waits until it has ended.
    pub async fn ended(&mut self) {
        let limit = Instant::now() + Duration::from_secs(10);
        while self.process.try_wait().expect("a status").is_none() {
            assert!(Instant::now() < limit, "it does not end: {}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // Its group is the function, too.
        if let Some(group) = rustix::process::Pid::from_raw(self.process.id() as i32) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.process.wait();
    }
}

pub fn creating(name: &str) -> Request<Bytes> {
    let body = json!({ "name": name }).to_string();
    let request = Request::post("/partners").header("content-type", "application/json");
    request.body(body.into()).expect("a request")
}

#[tokio::test]
async fn emulated_function_leaves_nothing_open() {
    let sessions = Sessions::new().await;
    let emulator = Emulator::start(&deployed("ApiFunction"), sessions.url()).await;
    for name in ["acme", "umbrella"] {
        let answer = emulator.request(&creating(name)).await;
        assert_eq!(answer["statusCode"], 201, "{answer}");
        assert_eq!(sessions.restless().await, 0);
    }
    let list = Request::get("/partners")
        .body(Bytes::new())
        .expect("a request");
    let answer = emulator.request(&list).await;
    assert_eq!(answer["body"], r#"{"partners":["umbrella","acme"]}"#);
    assert_eq!((sessions.restless().await, sessions.all().await), (0, 1));
}

/// The answer is ours: the emulator's would be "Task timed out", and the process gone.
#[tokio::test]
async fn emulated_function_meets_its_deadline() {
    // A busy machine may take the 50 ms that a late teardown leaves, but not each time.
    assert!(meets_its_deadline().await || meets_its_deadline().await || meets_its_deadline().await);
}

async fn meets_its_deadline() -> bool {
    let sessions = Sessions::new().await;
    let emulator = Emulator::start(&deployed("ApiFunction"), sessions.url()).await;
    let answer = emulator.request(&creating("before")).await;
    assert_eq!(answer["statusCode"], 201, "{answer}");

    let locker = sessions.lock().await;
    let answer = emulator.request(&creating("late")).await;
    if answer["statusCode"] != StatusCode::GATEWAY_TIMEOUT.as_u16() {
        println!("late: {answer}");
        return false;
    }
    let problem: Value =
        serde_json::from_str(answer["body"].as_str().expect("text")).expect("JSON");
    assert_eq!(problem["kind"], "deadline", "{problem}");
    let restless = sessions.restless().await;
    if restless != 0 {
        println!("{restless} are not at rest");
        return false;
    }

    drop(locker);
    let answer = emulator.request(&creating("after")).await;
    assert_eq!(answer["statusCode"], 201, "{answer}");
    assert_eq!(sessions.partners().await, 2);
    assert!(!emulator.log().contains("timed out"), "{}", emulator.log());
    assert_eq!((sessions.restless().await, sessions.all().await), (0, 1));
    true
}
