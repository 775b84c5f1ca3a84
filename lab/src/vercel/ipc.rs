//! The side channel of a Vercel function: JSON messages over a unix socket, each
//! ended by a zero byte.

use std::{collections::HashMap, sync::Mutex, time::Instant};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{oneshot, watch},
};

use crate::program::Program;

/// What the process has said.
#[derive(Default)]
pub(super) struct Messages {
    /// The port it serves on, from `server-started`.
    pub(super) port: watch::Sender<Option<u16>>,
    /// Who waits for the `end` of which request.
    ends: Mutex<HashMap<u64, oneshot::Sender<Instant>>>,
}

impl Messages {
    pub(super) fn expect_end(&self, request: u64) -> oneshot::Receiver<Instant> {
        let (sender, end) = oneshot::channel();
        self.ends().insert(request, sender);
        end
    }

    pub(super) fn forget(&self, request: u64) {
        self.ends().remove(&request);
    }

    fn ends(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Instant>>> {
        self.ends
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Reads messages for as long as the process lives, and what it wrote last.
    pub(super) async fn read(&self, listener: UnixListener, program: &Program) {
        loop {
            let accepted = tokio::select! {
                biased;
                accepted = listener.accept() => accepted,
                _ = program.ended() => return,
            };
            let Ok((stream, _)) = accepted else { return };
            self.read_stream(stream, program).await;
        }
    }

    async fn read_stream(&self, stream: UnixStream, program: &Program) {
        let mut stream = BufReader::new(stream);
        let mut message = Vec::new();
        while stream
            .read_until(0, &mut message)
            .await
            .is_ok_and(|length| length > 0)
        {
            if message.pop_if(|last| *last == 0).is_some() {
                match serde_json::from_slice(&message) {
                    Ok(message) => self.take(&message, program),
                    Err(_) => program.write_log(b"a message that is not JSON\n"),
                }
            }
            message.clear();
        }
    }

    fn take(&self, message: &Value, program: &Program) {
        let payload = &message["payload"];
        match message["type"].as_str() {
            Some("server-started") => {
                let port = payload["httpPort"]
                    .as_u64()
                    .and_then(|port| port.try_into().ok());
                self.port.send_replace(port);
            }
            Some("end") => {
                let request = payload["context"]["requestId"].as_u64();
                if let Some(sender) = request.and_then(|request| self.ends().remove(&request)) {
                    let _ = sender.send(Instant::now());
                }
            }
            Some("log") => {
                let text = payload["message"].as_str().unwrap_or_default();
                let mut text = BASE64_STANDARD.decode(text).unwrap_or_default();
                text.push(b'\n');
                program.write_log(&text);
            }
            // Metrics, and what may come.
            _ => {}
        }
    }
}
