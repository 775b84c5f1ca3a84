//! Configures the timeouts by which the server itself ends sessions that no teardown could
//! end: the process was killed, the host or the network is gone.

use std::time::Duration;

use super::options::sets;
use super::{Origin, Settings};
use crate::error::{Error, Result};

/// The server's name of the setting.
pub(super) const STATEMENT: &str = "statement_timeout";

/// The server's name of the setting.
pub(super) const IDLE_IN_TRANSACTION: &str = "idle_in_transaction_session_timeout";

/// The server's name of the setting, from PostgreSQL 14 on.
pub(super) const IDLE_SESSION: &str = "idle_session_timeout";

/// The server's name of the setting, from PostgreSQL 17 on.
pub(super) const TRANSACTION: &str = "transaction_timeout";

/// The interval in milliseconds at which the server checks, while a statement runs, that its client
/// is still connected; without it, the server notices only when it has something to send. From
/// PostgreSQL 14 on, on systems where it is supported.
pub(crate) const CLIENT_CHECK: ServerTimeout = ("client_connection_check_interval", 500);

/// The shortest timeout, however little time a call has.
const LEAST: Duration = Duration::from_secs(1);

/// The resolution of the server's timeouts.
const STEP: Duration = Duration::from_millis(1);

/// A setting of the server and its value in milliseconds.
pub type ServerTimeout = (&'static str, i32);

/// A configured timeout.
struct Timeout {
    name: &'static str,
    value: Duration,
    /// Where it was set; `None` if it is the default.
    origin: Option<Origin>,
}

impl Settings {
    /// Returns how long a call may take, in whole seconds, if its host has `granted` so much;
    /// `u64::MAX` if it is not known. A host grants a little less each time: rounded up, it is the
    /// same.
    pub(crate) fn longest_call(&self, granted: Option<Duration>) -> u64 {
        let known = granted.into_iter().chain(self.function_timeout);
        let whole = |time: Duration| time.as_secs() + u64::from(time.subsec_nanos() > 0);
        known.map(whole).min().unwrap_or(u64::MAX)
    }

    /// Returns the timeouts that the server is sent in a session for calls of at most `longest`
    /// seconds; none where the pooler does not accept them.
    pub(crate) fn server_timeouts(&self, longest: u64) -> Vec<ServerTimeout> {
        if !self.sends_settings() {
            return Vec::new();
        }
        let own = self.server.get_options().unwrap_or_default();
        let ours = |timeout: &Timeout| timeout.origin.is_some() || !sets(own, timeout.name);
        let check = Some(CLIENT_CHECK).filter(|(name, _)| !sets(own, name));
        self.lowered(longest)
            .into_iter()
            .filter(ours)
            .filter_map(|timeout| Some((timeout.name, milliseconds(timeout.value)?)))
            .filter(|&(_, value)| value > 0)
            .chain(check)
            .collect()
    }

    /// Returns those that every version knows: a server rejects a session with an unknown one.
    pub(crate) fn startup_timeouts(&self, longest: u64) -> Vec<ServerTimeout> {
        let mut timeouts = self.server_timeouts(longest);
        timeouts.retain(|(name, _)| since(name) == 0);
        timeouts
    }

    /// Returns the statements for an administrator to run where no settings can be sent. Without
    /// `idle_session_timeout`: behind a pooler it would end the pooler's own connections.
    pub(crate) fn alter_role(&self) -> String {
        let all = self.lowered(self.longest_call(None)).into_iter();
        let lines = all
            .filter(|timeout| timeout.name != IDLE_SESSION && !timeout.value.is_zero())
            .filter_map(|timeout| {
                let (name, value) = (timeout.name, milliseconds(timeout.value)?);
                // The last, so that it can be commented in one line, and fail alone.
                let since = match name {
                    TRANSACTION => " -- PostgreSQL 17 and newer",
                    _ => "",
                };
                Some(format!(
                    "ALTER ROLE CURRENT_USER SET {name} = {value};{since}"
                ))
            });
        lines.collect::<Vec<_>>().join(" ")
    }

    pub(super) fn check_server_timeouts(&self) -> Result<()> {
        for Timeout { name, value, .. } in self.timeouts() {
            if milliseconds(value).is_none() {
                return Err(Error::configuration(format!(
                    "{name} is {value:?}: the server takes at most {} ms",
                    i32::MAX
                )));
            }
        }
        Ok(())
    }

    /// Lists the overrides that set timeouts.
    pub(super) fn overridden_timeouts(&self) -> impl Iterator<Item = &'static str> {
        let all = self.timeouts().into_iter();
        all.filter_map(|timeout| match timeout.origin {
            Some(Origin::Variable(name)) => Some(name),
            _ => None,
        })
    }

    fn timeouts(&self) -> [Timeout; 4] {
        [
            (STATEMENT, self.statement_timeout),
            (IDLE_IN_TRANSACTION, self.idle_in_transaction_timeout),
            (TRANSACTION, self.transaction_timeout),
            (IDLE_SESSION, self.idle_session_timeout),
        ]
        .map(|(name, value)| {
            // Our setting has the same name, or a shorter one.
            let setting = name.replace("in_transaction_session", "in_transaction");
            let origin = self.origin(&setting);
            Timeout {
                name,
                value,
                origin,
            }
        })
    }

    /// Lowers the timeouts to the duration of a call, except that of an idle session: between two
    /// calls more time may pass.
    ///
    /// And makes them shorter than `transaction_timeout`: PostgreSQL 17 does not even start a
    /// longer one ("transaction_timeout", manual, "Client Connection Defaults"), and an
    /// aborted transaction, which `transaction_timeout` leaves alone, would stay for good.
    fn lowered(&self, longest: u64) -> [Timeout; 4] {
        let longest = Duration::from_secs(longest).max(LEAST);
        let transaction = match self.transaction_timeout.min(longest) {
            Duration::ZERO => Duration::MAX,
            timeout => timeout.saturating_sub(STEP).max(STEP),
        };
        self.timeouts().map(|timeout| {
            let most = match timeout.name {
                IDLE_SESSION => Duration::MAX,
                TRANSACTION => longest,
                _ => longest.min(transaction),
            };
            let value = timeout.value.min(most);
            Timeout { value, ..timeout }
        })
    }
}

/// Returns the major version of PostgreSQL that introduced a setting; 0 if each one knows it.
pub(crate) fn since(name: &str) -> u32 {
    match name {
        STATEMENT | IDLE_IN_TRANSACTION => 0,
        TRANSACTION => 17,
        _ => 14,
    }
}

/// Returns the statements that set these. A new session executes SET without loading catalogs.
pub(crate) fn set_statements(timeouts: &[ServerTimeout]) -> String {
    let set = timeouts
        .iter()
        .map(|(name, value)| format!("SET {name} = {value}"));
    set.collect::<Vec<_>>().join("; ")
}

/// Converts to milliseconds, rounded up: 0 would mean no timeout. `None` if it is more than the
/// server accepts.
fn milliseconds(time: Duration) -> Option<i32> {
    i32::try_from(time.as_nanos().div_ceil(1_000_000)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Pooler};

    const UNKNOWN: u64 = u64::MAX;

    fn config(change: impl FnOnce(Config) -> Config) -> Settings {
        let config = Config::from_url("postgres://db.example.com/x").expect("a URL");
        change(config).in_force()
    }

    /// Statement, idle in transaction, transaction, idle session.
    fn values(longest: u64, change: impl FnOnce(Config) -> Config) -> [Option<i32>; 4] {
        let all = config(change).server_timeouts(longest);
        [STATEMENT, IDLE_IN_TRANSACTION, TRANSACTION, IDLE_SESSION].map(|name| {
            let found = all.iter().find(|(found, _)| *found == name);
            found.map(|(_, value)| *value)
        })
    }

    #[test]
    fn startup_packet_has_what_each_version_knows() {
        let started = config(|config| config).startup_timeouts(3);
        assert_eq!(started, [(STATEMENT, 2_999), (IDLE_IN_TRANSACTION, 2_999)]);
        let statements = set_statements(&[(TRANSACTION, 3_000), (IDLE_SESSION, 1)]);
        assert_eq!(
            statements,
            "SET transaction_timeout = 3000; SET idle_session_timeout = 1"
        );
    }

    #[test]
    fn timeouts_are_lowered_to_the_call() {
        let all = |values: [i32; 4]| values.map(Some);
        let plain = |longest| values(longest, |config| config);
        assert_eq!(plain(UNKNOWN), all([30_000, 60_000, 900_000, 900_000]));
        assert_eq!(plain(45), all([30_000, 44_999, 45_000, 900_000]));
        assert_eq!(plain(3), all([2_999, 2_999, 3_000, 900_000]));
        assert_eq!(plain(0), all([999, 999, 1_000, 900_000]));
        let short = |config: Config| config.transaction_timeout(Duration::from_secs(10));
        assert_eq!(values(UNKNOWN, short), all([9_999, 9_999, 10_000, 900_000]));
    }

    #[test]
    fn zero_sends_nothing_and_lowers_nothing() {
        let none = |config: Config| config.transaction_timeout(Duration::ZERO);
        let kept = [Some(30_000), Some(60_000), None, Some(900_000)];
        assert_eq!(values(UNKNOWN, none), kept);
        let off = |config: Config| {
            config
                .statement_timeout(Duration::ZERO)
                .idle_session_timeout(Duration::ZERO)
        };
        assert_eq!(values(5, off), [None, Some(4_999), Some(5_000), None]);
    }

    #[test]
    fn options_of_the_user_stay() {
        let own =
            |config: Config| config.options("-c idle_session_timeout=0 -c transaction_timeout=0");
        let kept = [Some(30_000), Some(60_000), None, None];
        assert_eq!(values(UNKNOWN, own), kept);
        let code = |config| own(config).transaction_timeout(Duration::from_secs(70));
        assert_eq!(values(UNKNOWN, code)[2], Some(70_000));
    }

    #[test]
    fn pooler_is_sent_no_timeouts() {
        for pooler in [Pooler::Transaction, Pooler::Session, Pooler::RdsProxy] {
            assert_eq!(
                values(3, |config| config.pooler(pooler)),
                [None; 4],
                "{pooler:?}"
            );
        }
    }

    #[test]
    fn alter_role_leaves_idle_sessions_alone() {
        let line = config(|config| config.pooler(Pooler::Transaction)).alter_role();
        assert_eq!(
            line,
            "ALTER ROLE CURRENT_USER SET statement_timeout = 30000; \
             ALTER ROLE CURRENT_USER SET idle_in_transaction_session_timeout = 60000; \
             ALTER ROLE CURRENT_USER SET transaction_timeout = 900000; -- PostgreSQL 17 and newer"
        );
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn server_takes_the_alter_role_statements() {
        use lab::postgres::{Installation, Postgres};
        let line = config(|config| config.pooler(Pooler::Transaction)).alter_role();
        let installation = Installation::embedded("17").expect("PostgreSQL 17");
        let server = Postgres::builder().installation(installation).start();
        let server = server.await.expect("a server");
        server.execute(&line).await.expect("statements");
        let settings = "select unnest(setconfig) from pg_db_role_setting order by 1";
        let set = server.query(settings).await.expect("settings");
        let expected = [
            "idle_in_transaction_session_timeout=60000",
            "statement_timeout=30000",
            "transaction_timeout=900000",
        ];
        let set: Vec<_> = set.iter().filter_map(|row| row[0].as_deref()).collect();
        assert_eq!(set, expected);
    }

    #[test]
    fn shorter_of_granted_and_configured_time_counts() {
        let plain = config(|config| config);
        let seconds = Duration::from_secs_f64;
        assert_eq!(plain.longest_call(None), UNKNOWN);
        assert_eq!(plain.longest_call(Some(seconds(2.987))), 3);
        let known = config(|config| config.function_timeout(seconds(10.0)));
        assert_eq!(known.longest_call(None), 10);
        assert_eq!(known.longest_call(Some(seconds(300.0))), 10);
        assert_eq!(known.longest_call(Some(seconds(2.0))), 2);
    }

    #[test]
    fn milliseconds_are_rounded_up() {
        assert_eq!(milliseconds(Duration::ZERO), Some(0));
        assert_eq!(milliseconds(Duration::from_nanos(1)), Some(1));
        assert_eq!(milliseconds(Duration::MAX), None);
    }
}
