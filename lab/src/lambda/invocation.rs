//! What an environment does with an invocation, from its claim to its outcome.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    sync::oneshot,
    time::{sleep, sleep_until, timeout},
};

use super::{
    Answer, Environment, FreezeAt, Outcome, Payload,
    environment::Inner,
    state::{Answered, Event, Phase},
};
use crate::{Exit, net::random};

/// Lambda's own limit for the init phase.
const INIT_LIMIT: Duration = Duration::from_secs(10);

impl Inner {
    /// Claims a place for an invocation, if there is room; with `idle`, only where
    /// it can start at once.
    pub(super) fn claim(&self, idle: bool) -> bool {
        let mut state = self.state();
        let claim = state.has_room() && (!idle || state.is_idle());
        if claim {
            state.claim();
        }
        claim
    }

    /// Waits for the end of the init phase; otherwise says how it failed.
    pub(super) async fn initialized(&self) -> Result<(), Answer> {
        let mut progress = self.progress.subscribe();
        let done = progress.wait_for(|(phase, _)| *phase != Phase::Init);
        match timeout(INIT_LIMIT, done).await {
            Ok(Ok(progress)) if progress.0 != Phase::Over => return Ok(()),
            Ok(_) => {}
            Err(_) => {
                self.init_failed(Answer::Error {
                    error_type: "Sandbox.Timedout".to_owned(),
                    message: format!("the init phase took longer than {INIT_LIMIT:?}"),
                });
                self.program.kill();
            }
        }
        let status = self.program.ended().await;
        Err(self
            .init_error
            .get()
            .cloned()
            .unwrap_or(Answer::Crashed(status)))
    }

    /// Runs an invocation that has claimed its place. `None` if the environment
    /// ended before it took the event: another one may.
    pub(super) async fn invoke(
        self: &Arc<Self>,
        payload: Payload,
        limit: Duration,
        cold: bool,
    ) -> Option<Outcome> {
        let request_id = request_id();
        let outcome = |started: Instant, ended: Instant, answer| Outcome {
            answer,
            environment: Environment {
                inner: self.clone(),
            },
            request_id: request_id.clone(),
            started,
            responded: ended - started,
            cold,
        };
        let began = Instant::now();
        if let Err(failure) = self.initialized().await {
            return cold.then(|| outcome(began, Instant::now(), failure));
        }
        let (sender, mut answer) = oneshot::channel();
        let event = Event {
            request_id: request_id.clone(),
            payload: payload.0,
            deadline: SystemTime::now() + limit,
        };
        let limit = limit + self.builder.overtime;
        let started = Instant::now();
        self.change(|state| {
            self.program.thaw();
            state.enqueue(event, sender);
        });
        let mut answered = tokio::select! {
            biased;
            Ok(answered) = &mut answer => Some(answered),
            _ = self.program.ended() => None,
            () = sleep(limit) => None,
        };
        // Whatever is decided now is decided in the lock, where answers come in.
        let (waiting, over) = self.change(|state| {
            answered = answered.take().or_else(|| answer.try_recv().ok());
            let over = state.phase == Phase::Over || self.program.has_ended();
            if answered.is_none() {
                state.phase = Phase::Over;
            }
            (state.withdraw(&request_id), over)
        });
        if let Some(answered) = answered {
            self.expect_home(&answered, started + limit);
            return Some(outcome(answered.handed, answered.arrived, answered.answer));
        }
        if over && waiting && !cold {
            return None;
        }
        self.program.kill();
        let status = self.program.ended().await;
        let answer = match self.init_error.get() {
            Some(failure) => failure.clone(),
            None if over => Answer::Crashed(status),
            None => Answer::TimedOut,
        };
        Some(outcome(started, Instant::now(), answer))
    }

    /// The timeout is for extensions, and for the way back to the next event, as
    /// well: who does not come home in time is killed, though it has answered.
    fn expect_home(self: &Arc<Self>, answered: &Answered, deadline: Instant) {
        if self.builder.concurrency > 1 || self.builder.freeze_at == FreezeAt::Response {
            return;
        }
        let homecomings = answered.homecomings;
        let environment = self.clone();
        self.runtime.spawn(async move {
            let mut progress = environment.progress.subscribe();
            let home =
                progress.wait_for(|(phase, count)| *phase == Phase::Over || *count > homecomings);
            tokio::select! {
                _ = home => {}
                () = sleep_until(deadline.into()) => {
                    environment.change(|state| state.phase = Phase::Over);
                    environment.program.kill();
                }
            }
        });
    }

    pub(super) async fn shut_down(&self) -> Exit {
        let extensions = self.change(|state| {
            state.phase = Phase::Over;
            state.has_extensions()
        });
        let grace = extensions.then_some(self.builder.grace);
        self.program.stop(grace).await
    }
}

/// In the shape of a UUID.
fn request_id() -> String {
    let (high, low) = (random(), random());
    format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        (low >> 48) & 0xfff,
        low & 0xffff_ffff_ffff
    )
}
