//! Checks the server: version, role, writes, visibility of other sessions.

use super::facts::Facts;
use super::report::{Check, Step};
use super::text::quoted;

pub(super) fn server(facts: &Facts) -> Check {
    let superuser = match facts.superuser {
        Some(true) => ", a superuser",
        _ => "",
    };
    Check::ok(
        Step::Server,
        format!(
            "PostgreSQL {}, role {}{superuser}, database {}",
            facts.version, facts.role, facts.database
        ),
    )
}

pub(super) fn writable(facts: &Facts) -> Check {
    if facts.in_recovery {
        return Check::finding(
            Step::Writable,
            "the server is a standby in recovery and accepts no writes",
            "connect to the primary, or name several hosts with target_session_attrs=primary; \
             after a failover, check whether DNS still points to the old primary",
        );
    }
    if facts.value("default_transaction_read_only") == Some("on") {
        let source = facts.settings.get("default_transaction_read_only");
        let source = source
            .map(|setting| setting.source.as_str())
            .unwrap_or_default();
        return Check::finding(
            Step::Writable,
            format!("transactions are read-only by default (set by: {source})"),
            format!(
                "check the disk: some providers set this when it is full; otherwise run ALTER ROLE \
                 {} SET default_transaction_read_only = off, or ALTER DATABASE with the same \
                 setting",
                quoted(&facts.role)
            ),
        );
    }
    Check::ok(Step::Writable, "the server is a primary and accepts writes")
}

/// Notes that the role may not see other roles' sessions, since later checks miss them.
pub(super) fn visibility(facts: &Facts) -> Option<Check> {
    let sees_all = facts.superuser == Some(true) || facts.sees_all == Some(true);
    (!sees_all && facts.hidden() > 0).then(|| {
        Check::note(
            Step::Visibility,
            format!(
                "role {} may not see the state of {} other sessions: the checks below miss them",
                facts.role,
                facts.hidden()
            ),
        )
        .remedied(format!(
            "GRANT pg_read_all_stats TO {};",
            quoted(&facts.role)
        ))
    })
}
