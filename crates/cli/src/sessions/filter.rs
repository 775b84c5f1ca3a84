//! Selects sessions by the command's options.

use std::time::Duration;

use antifreeze_doctor::ServerSession;
use clap::Args;

use crate::target::time;

/// The options that select sessions. A session must match all that are given.
#[derive(Args, Default)]
pub struct Filter {
    /// Select sessions that are idle in a transaction
    #[arg(long)]
    pub idle_in_transaction: bool,
    /// Select sessions that have been in their state for longer than this
    #[arg(long, value_parser = time, value_name = "TIME")]
    pub older_than: Option<Duration>,
    /// Select sessions with this application_name, also if a version follows it after a colon
    /// or an @
    #[arg(long, value_name = "NAME")]
    pub application: Option<String>,
    /// Select the session with this process ID; may be given several times
    #[arg(long)]
    pub pid: Vec<i32>,
}

impl Filter {
    pub fn is_empty(&self) -> bool {
        !self.idle_in_transaction
            && self.older_than.is_none()
            && self.application.is_none()
            && self.pid.is_empty()
    }

    pub fn apply<'a>(&self, all: &'a [ServerSession]) -> Vec<&'a ServerSession> {
        all.iter().filter(|session| self.matches(session)).collect()
    }

    fn matches(&self, session: &ServerSession) -> bool {
        let older = |than: Duration| {
            let since = session.state_seconds;
            since.is_some_and(|since| since > than.as_secs_f64())
        };
        let is_named = |name: &String| {
            let application = session.application.as_deref().unwrap_or_default();
            let rest = application.strip_prefix(name.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '@']))
        };
        (!self.idle_in_transaction || session.is_idle_in_transaction())
            && self.older_than.is_none_or(older)
            && self.application.as_ref().is_none_or(is_named)
            && (self.pid.is_empty() || self.pid.contains(&session.pid))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::session;
    use super::*;

    #[test]
    fn sessions_must_match_all_options() {
        let stuck = session(7, "shop:17", "idle in transaction (aborted)", 90.0);
        let minute = Some(Duration::from_secs(60));
        let matches = |filter: Filter| filter.matches(&stuck);
        assert!(matches(Filter::default()));
        let both = |application: &str| Filter {
            idle_in_transaction: true,
            older_than: minute,
            application: Some(application.to_owned()),
            pid: vec![7, 8],
        };
        assert!(matches(both("shop")));
        assert!(matches(both("shop:17")));
        assert!(!matches(both("sho")));
        let wrong = |pid| Filter {
            pid,
            ..both("shop")
        };
        assert!(!matches(wrong(vec![8])));
        for other in [
            session(7, "shop", "idle", 90.0),
            session(7, "shop", "idle in transaction", 9.0),
        ] {
            assert!(!both("shop").matches(&other));
        }
    }
}
