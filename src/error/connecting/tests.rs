use super::*;

fn at(host: &str) -> DialledTarget<'_> {
    DialledTarget {
        target: &"db (1.2.3.4:5432)",
        host,
        loopback: false,
        only_ipv6: false,
        inside: None,
    }
}

#[test]
fn dial_errors_determine_the_kind() {
    for (failed, kind) in [
        (io::ErrorKind::ConnectionRefused, ErrorKind::Refused),
        (io::ErrorKind::NotFound, ErrorKind::Refused),
        (io::ErrorKind::TimedOut, ErrorKind::NetworkBlocked),
        (io::ErrorKind::NetworkUnreachable, ErrorKind::Unreachable),
        (io::ErrorKind::ConnectionReset, ErrorKind::Unreachable),
    ] {
        let error = Error::not_connected(at("db"), failed.into());
        assert_eq!(error.kind(), kind, "{error}");
    }
}

#[test]
fn localhost_in_a_container_is_explained() {
    let refused = |loopback, inside| {
        let at = DialledTarget {
            loopback,
            inside,
            ..at("localhost")
        };
        Error::not_connected(at, io::ErrorKind::ConnectionRefused.into()).to_string()
    };
    assert!(refused(true, Some("Lambda")).contains("inside Lambda, localhost is Lambda itself"));
    assert!(!refused(true, None).contains("inside"));
    assert!(!refused(false, Some("Lambda")).contains("inside"));
}

#[test]
fn ipv6_only_host_has_a_remedy() {
    let only = |host| DialledTarget {
        only_ipv6: true,
        ..at(host)
    };
    let unreachable = |host| {
        Error::not_connected(only(host), io::ErrorKind::NetworkUnreachable.into()).to_string()
    };
    assert!(unreachable("db.abc.supabase.co").contains("pooler.supabase.com"));
    assert!(unreachable("db.example.com").contains("IPv6 addresses only"));
    let long = Duration::from_secs(3);
    let silent = Error::connecting_took(Phase::Connect, long, Some(only("db.a.supabase.co")));
    assert!(silent.to_string().contains("pooler.supabase.com"));
    let unknown = Error::not_resolved("db.abc.supabase.co", io::Error::other("unknown"));
    assert_eq!(unknown.kind(), ErrorKind::NameNotResolved);
    assert!(unknown.to_string().contains("pooler.supabase.com"));
}

#[test]
fn silence_is_blocked_after_a_second() {
    let took = |phase, after| Error::connecting_took(phase, after, Some(at("db")));
    let (short, long) = (Duration::from_millis(300), Duration::from_secs(3));
    for (phase, after, kind) in [
        (Phase::Connect, short, ErrorKind::ConnectTimeout),
        (Phase::Connect, long, ErrorKind::NetworkBlocked),
        (Phase::AskTls, long, ErrorKind::ConnectTimeout),
        (Phase::Tls, long, ErrorKind::ConnectTimeout),
        (Phase::Authenticate, long, ErrorKind::ConnectTimeout),
    ] {
        let error = took(phase, after);
        assert_eq!(error.kind(), kind, "{error}");
    }
    assert!(
        took(Phase::Tls, long)
            .to_string()
            .contains("the TLS handshake")
    );
}

#[test]
fn near_misses_of_names_are_suggested() {
    let goal = LoginTarget {
        target: &"db",
        user: Some("App"),
        database: Some("shop"),
        provided: false,
    };
    let near = |kind| near_miss(kind, goal);
    assert!(near(ErrorKind::RoleMissing).is_some_and(|near| near.contains("try app")));
    assert_eq!(near(ErrorKind::DatabaseMissing), None);
    assert_eq!(near(ErrorKind::Authentication), None);
    for user in ["app\n", "App\r", "app "] {
        let goal = LoginTarget {
            user: Some(user),
            ..goal
        };
        let near = near_miss(ErrorKind::RoleMissing, goal).expect("a remedy");
        assert!(near.contains("a space or a line break"), "{near}");
    }
}
