use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_cert::Certificate;
use x509_cert::der::Decode;

use super::*;
use crate::kind::ErrorKind;

fn shipped(host: &str) -> Option<&'static str> {
    match Host::of(host).authority {
        Authority::Provider { shipped, .. } => shipped,
        _ => None,
    }
}

#[test]
fn address_determines_the_pooler() {
    use Pooler::{RdsProxy, Session, Transaction};
    let rds = "eu-central-1.rds.amazonaws.com";
    let china = "cn-north-1.rds.amazonaws.com.cn";
    for (host, port, expected) in [
        ("db.example.com", 5432, None),
        ("db.example.com", 6432, Some(Transaction)),
        ("db.example.com", 6543, None),
        ("db-pooler.example.com", 5432, None),
        ("/run/postgresql", 6432, Some(Transaction)),
        ("ep-a-pooler.x.aws.neon.tech", 5432, Some(Transaction)),
        ("EP-A-POOLER.x.aws.NEON.tech.", 5432, Some(Transaction)),
        ("ep-a.x.aws.neon.tech", 5432, None),
        ("ep.x-pooler.neon.tech", 5432, None),
        ("a.pooler.supabase.com", 5432, Some(Session)),
        ("a.pooler.supabase.com", 6432, Some(Session)),
        ("a.pooler.supabase.com", 6543, Some(Transaction)),
        ("db.abc.supabase.co", 5432, None),
        ("db.abc.supabase.co", 6543, Some(Transaction)),
        (&format!("p.proxy-a.{rds}"), 5432, Some(RdsProxy)),
        (&format!("p.proxy-a.{rds}"), 6432, Some(RdsProxy)),
        (&format!("ro.endpoint.proxy-a.{rds}"), 5432, Some(RdsProxy)),
        (&format!("p.proxy-a.{china}"), 5432, Some(RdsProxy)),
        (
            "p.proxy-a.rds.cn-north-1.amazonaws.com.cn",
            5432,
            Some(RdsProxy),
        ),
        (&format!("proxy-a.abc.{rds}"), 5432, None),
        (&format!("proxy-a.{rds}"), 5432, None),
        (&format!("db.abc.{rds}"), 5432, None),
        (&format!("db.abc.{rds}"), 6432, Some(Transaction)),
        ("p.proxy-abc.example.com", 5432, None),
        ("xpooler.supabase.com.evil.example", 5432, None),
    ] {
        let detected = detect(host, port).map(|(pooler, _)| pooler);
        assert_eq!(detected, expected, "{host}:{port}");
    }
}

#[test]
fn name_determines_the_region() {
    for (host, expected) in [
        ("d.abc.eu-west-1.rds.amazonaws.com", Some("eu-west-1")),
        ("abc.eu-west-1.rds.amazonaws.com", Some("eu-west-1")),
        ("d.abc.rds.cn-north-1.amazonaws.com.cn", Some("cn-north-1")),
        ("d.abc.cn-north-1.rds.amazonaws.com.cn", Some("cn-north-1")),
        ("p.proxy-a.eu-west-1.rds.amazonaws.com", Some("eu-west-1")),
        ("abc.dsql.us-east-1.on.aws", Some("us-east-1")),
        ("eu-west-1.rds.amazonaws.com", None),
        ("rds.amazonaws.com", None),
        ("d.abc.eu-west-1.rds.amazonaws.com.example.com", None),
        ("d.abc.eu-west-1.notrds.amazonaws.com", None),
        ("", None),
    ] {
        assert_eq!(Host::of(host).region.as_deref(), expected, "{host}");
    }
}

#[test]
fn pooled_host_has_a_direct_one() {
    for (host, expected) in [
        ("ep-a-pooler.x.aws.neon.tech", Some("ep-a.x.aws.neon.tech")),
        ("ep-a.x.aws.neon.tech", None),
        ("a-pooler.example.com", None),
    ] {
        assert_eq!(Host::of(host).direct.as_deref(), expected, "{host}");
    }
}

#[test]
fn dsql_has_its_own_limits() {
    let own = |host| Host::of(host).limits != Limits::default();
    assert!(own("abc.dsql.us-east-1.on.aws"));
    assert!(own("abc.dsql-fnh4.us-east-1.on.aws"));
    assert!(!own("abc.lambda-url.us-east-1.on.aws"));
    assert!(!own("dsql.example.com"));
}

#[test]
fn host_suffix_determines_the_authority() {
    for host in [
        "ep-a-1.eu-central-1.aws.neon.tech",
        "ep-a-1-pooler.us-east-2.aws.NEON.tech.",
        "abc.dsql.us-east-1.on.aws",
        "p.proxy-abc.us-east-1.rds.amazonaws.com",
        "e.endpoint.proxy-abc.us-east-1.rds.amazonaws.com",
    ] {
        assert_eq!(Host::of(host).authority, Authority::Public, "{host}");
    }
    for host in ["db.abc.supabase.co", "aws-0-eu-west-1.pooler.SUPABASE.com."] {
        assert!(shipped(host).is_some(), "{host}");
    }
    for host in [
        "d.abc.xx-west-1.rds.amazonaws.com",
        "d.abc.rds.cn-north-1.amazonaws.com.cn",
        "p.proxy-abc.rds.cn-north-1.amazonaws.com.cn",
        "a-b.a.aivencloud.com",
    ] {
        let own = matches!(
            Host::of(host).authority,
            Authority::Provider { shipped: None, .. }
        );
        assert!(own, "{host}");
    }
    for host in [
        "neon.tech",
        "neon.tech.example.com",
        "notneon.tech",
        "abc.lambda-url.us-east-1.on.aws",
        "dsql.us-east-1.on.aws",
        "rds.amazonaws.com",
        "rds.amazonaws.com.example.com",
        "supabase.co",
        "pooler.supabase.com",
        "abc.supabase.com",
        "abc.notsupabase.co",
        "abc.supabase.co.example.com",
        "pooler.supabase.com.example.com",
        "localhost",
        "db",
        "127.0.0.1",
        "",
    ] {
        assert_eq!(Host::of(host).authority, Authority::Unknown, "{host}");
    }
}

#[test]
fn region_roots_contain_only_that_region() {
    let regions = rds::ROOTS
        .lines()
        .filter_map(|line| line.strip_prefix("# "));
    for region in regions.clone() {
        let pem = shipped(&format!("d.abc.{region}.rds.amazonaws.com")).expect(region);
        let subjects = authorities(pem).map(|parsed| parsed.tbs_certificate.subject.to_string());
        let subjects: Vec<_> = subjects.collect();
        assert_eq!(subjects.len(), 3, "{region}");
        for subject in subjects {
            assert!(subject.contains(&format!("Amazon RDS {region} Root CA ")));
        }
    }
    assert_eq!(regions.count(), 27);
}

/// rustls does not verify the dates of a trust anchor, so this test has to notice the expiry.
#[test]
fn supabase_roots_are_the_published_ones() {
    let mut serials = Vec::new();
    for certificate in authorities(shipped("db.abc.supabase.co").expect("shipped")) {
        let body = certificate.tbs_certificate;
        let subject = body.subject.to_string();
        assert!(subject.contains("CN=Supabase Root 2021 CA"), "{subject}");
        assert_eq!(body.subject, body.issuer);
        let until = body.validity.not_after.to_system_time();
        assert!(until > std::time::SystemTime::now(), "renew {subject}");
        serials.push(body.serial_number.to_string().replace(':', ""));
    }
    let published = [
        "6CBC4CA1DEB63F692D0A2024C67289C2D13D54F6",
        "797FA0A5F9AC456F5AB05911BE3C978C7C5B7E07",
    ];
    assert_eq!(serials, published);
}

fn authorities(pem: &str) -> impl Iterator<Item = Certificate> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).map(|certificate| {
        let certificate = certificate.expect("PEM");
        let parsed = Certificate::from_der(&certificate).expect("X.509");
        let mut store = rustls::RootCertStore::empty();
        store.add(certificate).expect("an authority");
        parsed
    })
}

#[test]
fn pooler_messages_determine_the_kind() {
    use ErrorKind as Kind;
    for (code, message, kind) in [
        (
            "XX000",
            "MaxClientsInSessionMode: max clients reached - in Session mode max clients are \
             limited to pool_size",
            Kind::TooManyConnections,
        ),
        (
            "XX000",
            "(EMAXCONNSESSION) max clients reached in session mode",
            Kind::TooManyConnections,
        ),
        (
            "XX000",
            "Max client connections reached",
            Kind::TooManyConnections,
        ),
        ("XX000", "Tenant or user not found", Kind::TenantNotFound),
        (
            "XX000",
            "(ENOTFOUND) tenant/user postgres.abc not found",
            Kind::TenantNotFound,
        ),
        (
            "08P01",
            "no more connections allowed (max_client_conn)",
            Kind::TooManyConnections,
        ),
        ("08P01", "query_wait_timeout", Kind::TooManyConnections),
        ("08P01", "no such user: app", Kind::RoleMissing),
        ("08P01", "no such database: shop", Kind::DatabaseMissing),
        (
            "08P01",
            "unsupported startup parameter: extra_float_digits",
            Kind::ParameterRefused,
        ),
        (
            "08P01",
            "server login has been failing, try again later (server_login_retry)",
            Kind::Unreachable,
        ),
        (
            "08P01",
            "client_login_timeout (server down)",
            Kind::Unreachable,
        ),
        (
            "08P01",
            "server login failed: FATAL the database is starting",
            Kind::Unreachable,
        ),
        (
            "08P01",
            "server login failed: FATAL password authentication failed for user \"app\"",
            Kind::Unreachable,
        ),
        ("08P01", "connect failed", Kind::Unreachable),
        (
            "08P01",
            "password authentication failed for user \"app\"",
            Kind::Authentication,
        ),
        ("08P01", "SASL authentication failed", Kind::Authentication),
        (
            "XX000",
            "The requested endpoint could not be found, or you don't have access to it.",
            Kind::TenantNotFound,
        ),
        (
            "28000",
            "This RDS Proxy requires TLS connections",
            Kind::Tls,
        ),
        (
            "28000",
            "This RDS proxy has no credentials for the role app. Check the credentials for this \
             role and try again.",
            Kind::Authentication,
        ),
        (
            "0A000",
            "Feature not supported: RDS Proxy currently doesn't support command-line options.",
            Kind::ParameterRefused,
        ),
    ] {
        let known = known_error(code, message, "", false);
        assert_eq!(known.kind, kind, "{code} {message}");
    }
}
