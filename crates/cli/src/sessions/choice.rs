//! Which sessions are meant.

use std::time::Duration;

use antifreeze_doctor::ServerSession;
use clap::Args;

use crate::reach::time;

/// All that is given has to hold.
#[derive(Args, Default)]
pub struct Choice {
    /// Those that have a transaction open and do nothing
    #[arg(long)]
    pub idle_in_transaction: bool,
    /// Those that are in their state for longer
    #[arg(long, value_parser = time, value_name = "TIME")]
    pub older_than: Option<Duration>,
    /// Those with this application_name, or with it and a version behind a colon or an @
    #[arg(long, value_name = "NAME")]
    pub application: Option<String>,
    /// This one; may be given several times
    #[arg(long)]
    pub pid: Vec<i32>,
}

impl Choice {
    pub fn is_everybody(&self) -> bool {
        !self.idle_in_transaction
            && self.older_than.is_none()
            && self.application.is_none()
            && self.pid.is_empty()
    }

    pub fn of<'a>(&self, all: &'a [ServerSession]) -> Vec<&'a ServerSession> {
        all.iter().filter(|session| self.takes(session)).collect()
    }

    fn takes(&self, session: &ServerSession) -> bool {
        let older = |than: Duration| {
            let since = session.state_seconds;
            since.is_some_and(|since| since > than.as_secs_f64())
        };
        let is_called = |name: &String| {
            let called = session.application.as_deref().unwrap_or_default();
            let rest = called.strip_prefix(name.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '@']))
        };
        (!self.idle_in_transaction || session.is_idle_in_transaction())
            && self.older_than.is_none_or(older)
            && self.application.as_ref().is_none_or(is_called)
            && (self.pid.is_empty() || self.pid.contains(&session.pid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(state: &str, seconds: f64, application: &str) -> ServerSession {
        let document = serde_json::json!({
            "pid": 7, "role": null, "database": null, "application": application,
            "client": null, "kind": "client backend", "state": state,
            "state_seconds": seconds, "transaction_seconds": null, "waits_for": null,
            "blocked_by": [], "lock": null, "query": null, "began": null, "changed": null, "is_self": false,
        });
        serde_json::from_value(document).expect("a session")
    }

    #[test]
    fn all_conditions_have_to_hold() {
        let stuck = session("idle in transaction (aborted)", 90.0, "shop:17");
        let minute = Some(Duration::from_secs(60));
        let takes = |choice: Choice| choice.takes(&stuck);
        assert!(takes(Choice::default()));
        let both = |application: &str| Choice {
            idle_in_transaction: true,
            older_than: minute,
            application: Some(application.to_owned()),
            pid: vec![7, 8],
        };
        assert!(takes(both("shop")));
        assert!(takes(both("shop:17")));
        assert!(!takes(both("sho")));
        let wrong = |pid| Choice {
            pid,
            ..both("shop")
        };
        assert!(!takes(wrong(vec![8])));
        for other in [
            session("idle", 90.0, "shop"),
            session("idle in transaction", 9.0, "shop"),
        ] {
            assert!(!both("shop").takes(&other));
        }
    }
}
