//! Kept connections that end while the process is frozen.

use lab::sessions;

use std::time::Duration;

use lab::relay::Cut;

use super::{Combination, TRIES};
use crate::endings::{Caller, Death};
use crate::host::Host;

impl Combination {
    /// The kept connections end while the process is frozen: the next invocation detects it
    /// before it uses one.
    pub(super) async fn death(&mut self, host: &Host, death: Death, next: &str) {
        let before = self.failures.len();
        for _ in 1..TRIES {
            let logged = self.postgres.log().len();
            self.death_once(host, death, next).await;
            if !self.is_tried_again(before, logged).await {
                return;
            }
        }
        self.death_once(host, death, next).await;
    }

    async fn death_once(&mut self, host: &Host, death: Death, next: &str) {
        let name = format!("{death:?}, then {next}");
        self.truncate(&name).await;
        self.doing(&name, "waiting for an ordinary response");
        // It leases both connections.
        let called = host.call("look").await;
        let before = self.pids().await;
        if before.len() != 2 {
            self.fail(&name, format!("{before:?} were kept"));
        }
        self.doing(&name, "waiting for the connections to end");
        let told = self.relay.counts().bytes_down;
        match death {
            Death::Terminated => sessions::terminate(&self.database).await.expect("ended"),
            Death::Restart => self.postgres.restart().await.expect("restarted"),
            Death::Fin => self.relay.cut(Cut::Fin).await,
            Death::Reset => self.relay.cut(Cut::Reset).await,
        }
        // The end has to arrive at the socket of the frozen process.
        let server_tells = matches!(death, Death::Terminated | Death::Restart);
        while server_tells && self.relay.counts().bytes_down == told {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.relay.quiet(Duration::from_millis(200)).await;
        self.doing(&name, "waiting for the next invocation");
        let answer = host.call(next).await;
        self.check_next(&name, &called, &answer);
        if answer.got != Caller::Success || (next == "look" && answer.saw().is_some()) {
            let told = format!("the caller got {:?}: {:?}", answer.got, answer.body);
            self.fail(&name, told);
        }
        if let Some(left) = self.left().await {
            self.fail(&name, format!("left behind: {left}"));
        }
        self.check_rows(&name, next == "returns").await;
    }
}
