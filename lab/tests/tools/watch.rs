//! `cargo lambda watch`, for work on one's own machine: no freeze, and no deadline either
//! (it sends one of 1970, which is taken for none).

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::artefacts::deployed;
use crate::http::{free, get, listening, post};
use crate::sessions::Sessions;
use crate::tool::CARGO_LAMBDA;

/// The control plane, and a function that the test starts.
struct Watch {
    control: Child,
    function: Child,
    address: SocketAddr,
}

impl Watch {
    async fn start(bootstrap: &Path, url: &str) -> Self {
        let address = free();
        let mut command = CARGO_LAMBDA.command();
        let control = command
            .args([
                "lambda",
                "watch",
                "--only-lambda-apis",
                "--invoke-address",
                "127.0.0.1",
            ])
            .args(["--invoke-port", &address.port().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("it starts");
        listening(address).await;
        let function = Command::new(bootstrap)
            .env(
                "AWS_LAMBDA_RUNTIME_API",
                format!("http://{address}/.rt/http"),
            )
            .env("AWS_LAMBDA_FUNCTION_NAME", "http")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "1")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")
            .env("DATABASE_URL", url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        Watch {
            control,
            function,
            address,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        for process in [&mut self.function, &mut self.control] {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

#[tokio::test]
async fn watched_function_closes_when_told_to_end() {
    let sessions = Sessions::new().await;
    let mut watch = Watch::start(&deployed("ApiFunction"), sessions.url()).await;
    for name in ["acme", "umbrella"] {
        let body = serde_json::json!({ "name": name }).to_string();
        let response = post(watch.address, "/lambda-url/http/partners", body).await;
        assert_eq!(response.status(), 201, "{response:?}");
        assert_eq!(sessions.restless().await, 0);
    }
    let response = get(watch.address, "/lambda-url/http/partners").await;
    assert_eq!(response.body(), r#"{"partners":["umbrella","acme"]}"#);
    assert_eq!((sessions.restless().await, sessions.all().await), (0, 1));

    lab::process::terminate(watch.function.id()).expect("it is there");
    let limit = Instant::now() + Duration::from_secs(10);
    let status = loop {
        if let Some(status) = watch.function.try_wait().expect("a status") {
            break status;
        }
        assert!(Instant::now() < limit, "it does not end");
        std::thread::sleep(Duration::from_millis(5));
    };
    // The hook has run: without it SIGTERM is what ends the process.
    assert_eq!(status.code(), Some(0), "{status}");
    sessions.gone().await;
}
