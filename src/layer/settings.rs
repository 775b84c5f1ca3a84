//! Configures which calls begin an invocation, and which responses commit its transaction.

use std::sync::{Arc, Once};
use std::time::Duration;

use http::{Response, StatusCode};

use super::arrival;
use crate::database::Database;
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::invocation::{Invocation, Judge};
use crate::observe;

/// The settings that a layer shares with its services.
#[derive(Clone)]
pub(crate) struct LayerSettings {
    pub(crate) database: Database,
    pub(crate) max_duration: Option<Duration>,
    /// On Lambda every call has a deadline, at which the process is killed.
    on_lambda: bool,
    /// Responses say how long the database took.
    pub(super) server_timing: bool,
    pub(super) health_check: Option<Arc<str>>,
    pub(super) commit_when: Option<Arc<dyn Fn(StatusCode) -> bool + Send + Sync>>,
}

/// The decision of an inner layer on a response.
#[derive(Clone)]
struct Judged {
    database: Database,
    commits: bool,
}

impl LayerSettings {
    pub(super) fn new(database: Database) -> Self {
        LayerSettings {
            database,
            max_duration: None,
            on_lambda: arrival::on_lambda(),
            server_timing: false,
            health_check: None,
            commit_when: None,
        }
    }

    /// Begins an invocation that ends at `deadline`, or after the configured duration. Fails if
    /// load shedding rejects it.
    pub(super) fn begin(&self, deadline: Deadline, request_id: &str) -> Result<Invocation> {
        let capped = self.max_duration.map(|most| deadline.capped(most));
        let mut deadline = capped.unwrap_or(deadline);
        if self.on_lambda && deadline.end().is_none() {
            deadline = self.default_deadline(request_id, cfg!(feature = "lambda"))?;
        }
        let engine = Arc::clone(self.database.engine());
        let invocation = Invocation::inside(engine, deadline, request_id);
        if self.server_timing {
            invocation.time_answers();
        }
        invocation.rejected().map_or(Ok(invocation), Err)
    }

    /// Returns the deadline of a request on Lambda that carries none. Without the feature `lambda`
    /// (`deadlines_are_read` is false) no request carries one, so this is an error: Lambda would
    /// kill the handler halfway.
    fn default_deadline(&self, request_id: &str, deadlines_are_read: bool) -> Result<Deadline> {
        static SAID: Once = Once::new();
        if let Some(granted) = self.database.settings().function_timeout {
            return Ok(Deadline::after(granted));
        }
        if !deadlines_are_read {
            return Err(Error::lambda_forgotten().of_request(request_id));
        }
        SAID.call_once(|| observe::without_deadline(request_id));
        Ok(Deadline::none())
    }
}

impl<B> Judge<Response<B>> for LayerSettings {
    /// Returns the decision of an inner layer, or this layer's own.
    fn commits(&self, response: &Response<B>) -> bool {
        let status = response.status();
        let judged = response.extensions().get::<Judged>();
        let judged = judged.filter(|judged| judged.database.is(&self.database));
        match (judged, &self.commit_when) {
            (Some(judged), _) => judged.commits,
            (None, Some(commit_when)) => commit_when(status),
            (None, None) => status.is_success() || status.is_redirection(),
        }
    }

    fn may_stream(&self) -> bool {
        true
    }

    /// Notes the decision on the response: a response that replaces it is another one.
    fn note(&self, response: &mut Response<B>) {
        if self.commit_when.is_some() {
            let commits = self.commits(response);
            let database = self.database.clone();
            let judged = Judged { database, commits };
            response.extensions_mut().insert(judged);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    /// The deadline of a request that carries none.
    fn default_deadline(
        granted: Option<Duration>,
        deadlines_are_read: bool,
    ) -> Result<Option<Duration>> {
        let config = crate::config::Config::from_url("postgres://localhost/none").expect("a URL");
        let config = match granted {
            Some(granted) => config.function_timeout(granted),
            None => config,
        };
        let database = Database::new(config).expect("settings");
        let settings = LayerSettings::new(database);
        Ok(settings
            .default_deadline("abc", deadlines_are_read)?
            .remaining())
    }

    #[tokio::test(start_paused = true)]
    async fn forgotten_feature_is_an_error() {
        let error = default_deadline(None, false).expect_err("it would be killed");
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert_eq!(error.request_id(), Some("abc"));
        for remedy in [
            "feature `lambda`",
            "max_duration",
            "ANTIFREEZE_FUNCTION_TIMEOUT",
        ] {
            assert!(error.to_string().contains(remedy), "{error}");
        }
        let granted = Some(Duration::from_secs(10));
        for deadlines_are_read in [false, true] {
            let deadline = default_deadline(granted, deadlines_are_read);
            assert_eq!(deadline.expect("it is known"), granted);
        }
        assert_eq!(default_deadline(None, true).expect("it is served"), None);
    }
}
