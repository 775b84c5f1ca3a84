//! What runs there.

use super::facts::Facts;
use super::report::{Check, Step};
use super::text::quoted;

pub(super) fn server(facts: &Facts) -> Check {
    let superuser = match facts.superuser {
        Some(true) => ", a superuser",
        _ => "",
    };
    Check::well(
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
            "it is a standby in recovery: nothing can be written here",
            "name the primary, or several hosts with target_session_attrs=primary; after a \
             failover, look whether DNS still leads to the old one",
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
                "a full disk does that at some providers; else ALTER ROLE {} SET \
                 default_transaction_read_only = off, or the same of the database",
                quoted(&facts.role)
            ),
        );
    }
    Check::well(Step::Writable, "a primary that takes writes")
}

/// Who may not see other sessions must not be told that there are none.
pub(super) fn visibility(facts: &Facts) -> Option<Check> {
    let sees_all = facts.superuser == Some(true) || facts.sees_all == Some(true);
    (!sees_all && facts.hidden() > 0).then(|| {
        Check::note(
            Step::Visibility,
            format!(
                "{} may not see what {} other sessions do: their states and transactions are \
                 missing below",
                facts.role,
                facts.hidden()
            ),
        )
        .remedied(format!(
            "GRANT pg_read_all_stats TO {}, and pg_signal_backend to end sessions",
            quoted(&facts.role)
        ))
    })
}
