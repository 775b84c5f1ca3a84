use crate::config::parameters::Parameters;
use crate::error::Result;

fn checked(text: &str) -> Result<Parameters> {
    let parameters = Parameters::parse(text)?;
    parameters.check()?;
    Ok(parameters)
}

fn refusal(text: &str) -> String {
    match checked(text) {
        Ok(_) => panic!("{text} is taken"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn known_parameters_are_taken() {
    for text in [
        "host=db client_encoding=UTF8 gssencmode=prefer krbsrvname=postgres",
        "sslcompression=1 ssl_min_protocol_version=TLSv1.2 max_protocol_version=latest",
        "replication=false client_encoding='' sslcertmode=allow",
        "postgres://db/x?supa=base-pooler.x&uselibpqcompat=true",
        "postgres://db/x?pgbouncer=true&connection_limit=1&pool_timeout=2&schema=public",
        "  postgres://db  ",
        "",
    ] {
        assert!(checked(text).is_ok(), "{text}");
    }
}

#[test]
fn unsupported_parameters_are_refused_with_a_reason() {
    for (parameter, word) in [
        ("gssencmode=require", "GSSAPI"),
        ("client_encoding=latin1", "UTF8"),
        ("replication=database", "replication"),
        ("ssl_min_protocol_version=TLSv1.3", "TLS 1.2 and 1.3"),
        ("sslcrl=a.crl", "revocation"),
        ("sslpassword=hunter2", "decrypt"),
        ("passfile=/x", "password file"),
        ("service=x", "service file"),
        ("requirepeer=x", "unix socket"),
        ("oauth_issuer=https://x", "OAuth"),
        ("scram_client_key=hunter2", "password"),
        ("requiressl=1", "sslmode=require"),
        ("min_protocol_version=3.2", "3.0"),
    ] {
        let name = parameter.split('=').next().expect("a name");
        for text in [parameter.to_owned(), format!("postgres://db?{parameter}")] {
            let refusal = refusal(&text);
            assert!(refusal.starts_with(name), "{refusal}");
            assert!(refusal.contains(word), "{refusal}");
            assert!(!refusal.contains("hunter2"), "{refusal}");
        }
    }
}

#[test]
fn unknown_parameter_is_named_unless_secret() {
    for (text, word) in [
        (
            "postgres://u:p@db/x?ssl_mode=require",
            "unknown connection parameter ssl_mode",
        ),
        (
            "postgres://u:p@db/x?ssl_mode=require",
            "did you mean sslmode?",
        ),
        (
            "postgres://u:p@db/x?work_mem=1",
            "unknown connection parameter work_mem",
        ),
        ("host=db sslmod=require", "did you mean sslmode?"),
        (
            "password=a hunter2=b",
            "unknown connection parameter (its name",
        ),
        (
            "postgres://db/x?password=a&hunter2=b",
            "unknown connection parameter (its name",
        ),
        (
            "postgres://db/x?%68\u{e4}=b",
            "unknown connection parameter (its name",
        ),
        (
            "PASSWORD=a hunter2=b",
            "unknown connection parameter (its name",
        ),
        ("hunter2==", "unknown connection parameter (its name"),
        ("kX7hunter=", "unknown connection parameter (its name"),
    ] {
        let refusal = refusal(text);
        assert!(refusal.contains(word), "{text}: {refusal}");
        assert!(!refusal.contains("hunter2"), "{refusal}");
    }
}

#[test]
fn foreign_parameters_are_translated() {
    for (parameter, word) in [
        ("currentSchema=shop", "write schema instead"),
        ("currentschema=shop", "write schema instead"),
        (
            "sslaccept=strict",
            "sslaccept=strict is sslmode=verify-full",
        ),
        ("socketTimeout=10", "statement_timeout"),
        ("stringtype=unspecified", "leave it out"),
        ("reWriteBatchedInserts=true", "leave it out"),
        ("connectionTimeoutMillis=5000", "connect_timeout"),
        ("Username=app", "write user instead"),
        (
            "statement_timeout=5000",
            "statement_timeout%3D<milliseconds>",
        ),
        ("someoneElses=x", "leave it out"),
    ] {
        for text in [parameter.to_owned(), format!("postgres://db?{parameter}")] {
            let refusal = refusal(&text);
            assert!(refusal.contains(word), "{refusal}");
            assert!(!refusal.contains("goes into options"), "{refusal}");
        }
    }
}

#[test]
fn weaker_tls_parameter_does_not_win() {
    for text in [
        "postgres://db?sslmode=verify-full&ssl=true",
        "postgres://db?ssl=true&sslmode=require",
        "sslmode=require sslmode=require",
    ] {
        assert!(checked(text).is_ok(), "{text}");
    }
    for text in [
        "postgres://db?sslmode=disable&ssl=true",
        "postgres://db?ssl=true&sslmode=prefer",
        "postgres://db?ssl=true&sslmode=allow",
        "postgres://db?sslmode=verify-full&sslmode=require",
        "sslmode=verify-full sslmode=disable",
    ] {
        let refusal = refusal(text);
        assert!(refusal.contains("keep one of them"), "{text}: {refusal}");
    }
}

#[test]
fn pasted_commands_are_recognised() {
    for (text, word) in [
        ("\"postgres://u:hunter2@db/x\"", "quotes"),
        (
            "psql 'postgres://u:hunter2@db/x'",
            "text before postgres://",
        ),
        (
            "DATABASE_URL=postgres://u:hunter2@db/x",
            "unknown connection parameter DATABASE_URL",
        ),
        ("postgres://u:[YOUR-PASSWORD]@db/x", "placeholder"),
        ("postgres://u:%5BYOUR-PASSWORD%5D@db/x", "placeholder"),
        ("postgres://u:<db_password>@db/x", "placeholder"),
        ("host=db password=YOUR_PASSWORD", "placeholder"),
        (
            "postgres://u:hunter2@${HOST}:${PORT}/x",
            "host is still a placeholder",
        ),
        (
            "postgres://u:hunter2@db:${PORT}/x",
            "port is still a placeholder",
        ),
        ("${DATABASE_URL}", "is still a placeholder"),
        ("[REDACTED]", "is still a placeholder"),
        ("undefined", "is still a placeholder"),
    ] {
        let refusal = refusal(text);
        assert!(refusal.contains(word), "{text}: {refusal}");
        assert!(!refusal.contains("hunter2"), "{refusal}");
    }
    assert!(checked("postgres://u:[x]@db").is_ok());
}

#[test]
fn last_value_wins_and_empty_is_unset() {
    let blanks = Parameters::parse("sslmode='require ' user=' a '").expect("fine");
    assert_eq!(blanks.get("sslmode"), Some("require"));
    assert_eq!(blanks.get("user"), Some(" a "));
    let parameters = Parameters::parse("user=a user=b user='' host=''").expect("fine");
    assert_eq!(parameters.get("user"), Some("b"));
    assert_eq!(parameters.get("host"), None);
}
