use super::*;

fn response<'a>(code: &'a str, message: &'a str) -> ErrorResponse<'a> {
    ErrorResponse {
        code,
        message,
        ..ErrorResponse::default()
    }
}

#[test]
fn sqlstate_and_message_determine_the_kind() {
    use ErrorKind as Kind;
    for (code, message, kind) in [
        (
            "53300",
            "sorry, too many clients already",
            Kind::TooManyConnections,
        ),
        (
            "57P03",
            "the database system is starting up",
            Kind::ServerStarting,
        ),
        (
            "57P03",
            "the database system is in recovery mode",
            Kind::ServerStarting,
        ),
        (
            "57P03",
            "the database system is shutting down",
            Kind::ServerStopping,
        ),
        (
            "57P01",
            "terminating connection due to administrator command",
            Kind::ServerStopping,
        ),
        (
            "26000",
            "prepared statement \"s0\" does not exist",
            Kind::StatementMissing,
        ),
        (
            "42P05",
            "prepared statement \"s0\" already exists",
            Kind::StatementMissing,
        ),
        (
            "0A000",
            "cached plan must not change result type",
            Kind::StatementOutdated,
        ),
        ("0A000", "cannot do that", Kind::Database),
        (
            "XX000",
            "cache lookup failed for type 16400",
            Kind::StatementOutdated,
        ),
        ("XX000", "something else", Kind::Database),
        (
            "25006",
            "cannot execute INSERT in a read-only transaction",
            Kind::ReadOnly,
        ),
        ("23505", "", Kind::UniqueViolation),
        ("23503", "", Kind::ConstraintViolation),
        ("23000", "", Kind::ConstraintViolation),
        (
            "22P02",
            "invalid input syntax for type uuid: \"x\"",
            Kind::DataException,
        ),
        ("22023", "", Kind::DataException),
        ("40001", "", Kind::SerializationFailure),
        ("40P01", "", Kind::SerializationFailure),
        ("OC000", "", Kind::SerializationFailure),
        ("OC001", "", Kind::SerializationFailure),
        ("55P03", "", Kind::LockTimeout),
        (
            "57014",
            "canceling statement due to statement timeout",
            Kind::StatementTimeout,
        ),
        (
            "57014",
            "canceling statement due to user request",
            Kind::Cancelled,
        ),
        ("25P02", "", Kind::TransactionFailed),
        ("25P03", "", Kind::TransactionFailed),
        ("25P04", "", Kind::TransactionFailed),
        ("57P05", "", Kind::Closed),
        (
            "42501",
            "permission denied for table t",
            Kind::PermissionDenied,
        ),
        ("42P01", "relation \"t\" does not exist", Kind::Database),
        (
            "P0001",
            "raised by a function: no such user",
            Kind::Database,
        ),
    ] {
        assert_eq!(
            response(code, message).meaning().kind,
            kind,
            "{code} {message}"
        );
    }
}

#[test]
fn server_messages_are_not_shown() {
    for code in [
        "23505", "22P02", "53300", "57P03", "08P01", "XX000", "28P01", "42601",
    ] {
        let meaning = response(code, "hunter2 tenant").meaning();
        assert!(!meaning.cause.contains("hunter2"), "{meaning:?}");
    }
}

#[test]
fn startup_errors_determine_the_kind() {
    use ErrorKind as Kind;
    for (code, message, kind) in [
        (
            "3D000",
            "database \"x\" does not exist",
            Kind::DatabaseMissing,
        ),
        ("28000", "role \"x\" does not exist", Kind::RoleMissing),
        (
            "28P01",
            "password authentication failed for user \"x\"",
            Kind::Authentication,
        ),
        (
            "28000",
            "connection requires a valid client certificate",
            Kind::Authentication,
        ),
        (
            "28000",
            "no pg_hba.conf entry for host \"::1\", user \"x\", database \"x\", no encryption",
            Kind::Tls,
        ),
        (
            "28000",
            "no pg_hba.conf entry for host \"::1\", user \"x\", database \"x\", SSL encryption",
            Kind::Authentication,
        ),
    ] {
        assert_eq!(
            response(code, message).meaning().kind,
            kind,
            "{code} {message}"
        );
    }
}

#[test]
fn settings_rejected_at_startup_are_named() {
    let start = ErrorResponse {
        at_start: true,
        ..response("42704", "unrecognized configuration parameter \"a.b\"")
    };
    assert_eq!(start.meaning().kind, ErrorKind::ParameterRefused);
    assert!(start.meaning().cause.contains("a.b"));
    let options = ErrorResponse {
        at_start: true,
        ..response(
            "42601",
            "invalid command-line argument for server process: x",
        )
    };
    assert_eq!(options.meaning().kind, ErrorKind::ParameterRefused);
    assert!(options.meaning().cause.contains("`options`"));
    assert_eq!(response("42601", "").meaning().kind, ErrorKind::Database);
    let later = response("42704", "unrecognized configuration parameter \"a.b\"");
    assert_eq!(later.meaning().kind, ErrorKind::Database);
}

#[test]
fn only_real_parameters_are_named() {
    let refused = |message| response("08P01", message).meaning().cause;
    assert!(refused("unsupported startup parameter: search_path").contains("search_path"));
    let odd = refused("unsupported startup parameter: a b\nc");
    assert_eq!(odd, "PgBouncer rejects a parameter at startup");
}

/// A server may send any text as the code.
#[test]
fn text_that_is_no_sqlstate_is_not_shown() {
    let meaning = response("42601", "").meaning();
    assert!(meaning.cause_with("53300").contains("53300"));
    for code in ["53300\u{1b}]0;x", "5330", "53\n00", ""] {
        assert_eq!(meaning.cause_with(code), meaning.cause);
    }
}
