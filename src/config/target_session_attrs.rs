//! Checks which of several hosts is accepted (`target_session_attrs`).

use serde::Deserialize;

/// `target_session_attrs`: which of several hosts is accepted. PostgreSQL 14 and newer report what
/// they are while the session starts, so checking costs no round trip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum TargetSessionAttrs {
    /// Any server.
    #[default]
    Any,
    /// A primary whose transactions are read-write by default.
    ReadWrite,
    /// A standby, or a server whose transactions are read-only by default.
    ReadOnly,
    /// A primary.
    Primary,
    /// A standby.
    Standby,
}

/// The parameters that the server reported last (ParameterStatus). `None`: nothing, or a value that
/// is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ReportedParameters {
    /// `standard_conforming_strings`.
    pub(crate) conforming: Option<bool>,
    /// `in_hot_standby`, which PostgreSQL reports from 14 on.
    pub(crate) in_hot_standby: Option<bool>,
    /// `default_transaction_read_only`, which PostgreSQL reports from 14 on.
    pub(crate) read_only: Option<bool>,
}

impl TargetSessionAttrs {
    /// Checks a session by what its server `reported` last. The error says why it is not accepted.
    pub(crate) fn check(self, reported: ReportedParameters) -> Result<(), &'static str> {
        if self == TargetSessionAttrs::Any {
            return Ok(());
        }
        let reported = (reported.in_hot_standby, reported.read_only);
        let (Some(standby), Some(read_only)) = reported else {
            return Err(
                "does not report what target_session_attrs asks for: PostgreSQL does from 14 on, \
                 poolers may not",
            );
        };
        let (fits, why) = match self {
            TargetSessionAttrs::Any => (true, ""),
            TargetSessionAttrs::ReadWrite => (
                !standby && !read_only,
                "is read-only, and target_session_attrs=read-write",
            ),
            TargetSessionAttrs::ReadOnly => (
                standby || read_only,
                "takes writes, and target_session_attrs=read-only",
            ),
            TargetSessionAttrs::Primary => {
                (!standby, "is a standby, and target_session_attrs=primary")
            }
            TargetSessionAttrs::Standby => (
                standby,
                "is not a standby, and target_session_attrs=standby",
            ),
        };
        if fits { Ok(()) } else { Err(why) }
    }

    /// Returns whether the server has to accept writes: one that rejects them (25006) is not used.
    pub(crate) fn wants_writes(self) -> bool {
        matches!(
            self,
            TargetSessionAttrs::ReadWrite | TargetSessionAttrs::Primary
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reported_state_decides() {
        // Standby, read-only by default; then which wishes it fulfils.
        for (standby, read_only, fits) in [
            (false, false, ["any", "read-write", "primary"].as_slice()),
            (false, true, &["any", "read-only", "primary"]),
            (true, false, &["any", "read-only", "standby"]),
            (true, true, &["any", "read-only", "standby"]),
        ] {
            for wish in ["any", "read-write", "read-only", "primary", "standby"] {
                let parsed: TargetSessionAttrs = wish.parse().expect(wish);
                let checked = parsed.check(ReportedParameters {
                    in_hot_standby: Some(standby),
                    read_only: Some(read_only),
                    ..ReportedParameters::default()
                });
                let found = checked.is_ok();
                assert_eq!(found, fits.contains(&wish), "{standby} {read_only} {wish}");
                if let Err(why) = checked {
                    assert!(why.ends_with(&format!("={wish}")), "{why}");
                }
            }
        }
    }

    #[test]
    fn server_that_reports_nothing_is_refused() {
        assert_eq!(
            TargetSessionAttrs::Any.check(ReportedParameters::default()),
            Ok(())
        );
        let refused = TargetSessionAttrs::Primary.check(ReportedParameters::default());
        assert!(refused.expect_err("unknown").contains("from 14 on"));
    }

    #[test]
    fn unsupported_attribute_is_refused() {
        for (text, word) in [
            ("prefer-standby", "is not supported"),
            ("x", "expected one of"),
        ] {
            let error = text.parse::<TargetSessionAttrs>().expect_err(text);
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
