use super::*;

fn debug(kind: ErrorKind, source: impl Into<Source>) -> String {
    let error = Error::new(kind, "it failed").with_remedy("repair it");
    format!("{:?}", error.with_source(source))
}

#[test]
fn debug_prints_the_line_and_its_causes() {
    let plain = Error::configuration("no host is given");
    assert_eq!(format!("{plain:?}"), "no host is given");
    let system = io::Error::from_raw_os_error(111);
    assert_eq!(
        debug(ErrorKind::Refused, system),
        "it failed; repair it\nCaused by: Connection refused (os error 111)"
    );
    let tls = io::Error::other(rustls::Error::DecryptError);
    assert_eq!(
        debug(ErrorKind::Tls, tls),
        "it failed; repair it\nCaused by: cannot decrypt peer's message"
    );
    let resolver = io::Error::other("Name or service\nnot known");
    assert_eq!(
        debug(ErrorKind::NameNotResolved, resolver),
        "it failed; repair it\nCaused by: Name or servicenot known"
    );
}

#[test]
fn debug_contains_no_secrets() {
    let nested = Error::new(ErrorKind::Closed, "lost").with_source("hunter2");
    for source in [
        Source::from("hunter2"),
        io::Error::other("hunter2").into(),
        nested.into(),
    ] {
        let shown = debug(ErrorKind::Authentication, source);
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    let said = Error::configuration("it failed");
    assert_eq!(debug(ErrorKind::Closed, said), "it failed; repair it");
}
