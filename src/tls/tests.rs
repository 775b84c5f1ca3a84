use std::time::Instant;

use super::*;
use crate::config::{ClientCertificate, TlsMode};

const RDS: &str = "d.abc.eu-west-1.rds.amazonaws.com";
const SUPABASE: &str = "aws-0-eu-west-1.pooler.supabase.com";

fn rds_pem() -> &'static str {
    let policy = Policy::of(&Tls::default(), RDS);
    policy.shipped.expect("a region that we have")
}

#[test]
fn each_host_has_roots_that_are_read_once() {
    let (client, tls) = (Client::default(), Tls::default());
    for host in [
        "db.example.com",
        RDS,
        RDS,
        "db.example.com",
        "other",
        SUPABASE,
    ] {
        client.prepare(&tls, host).expect("roots");
    }
    let ready = client.ready.lock();
    let shipped: Vec<bool> = ready
        .iter()
        .map(|(policy, _)| policy.shipped.is_some())
        .collect();
    assert_eq!(shipped, [false, true, true]);
}

#[test]
fn unreadable_files_are_named_and_keys_hidden() {
    let secret = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";
    let text = |text: &str| Pem::Text(text.to_owned());
    let client = |certificate: Pem, key: Pem| Tls {
        client: Some(ClientCertificate::new(certificate, key)),
        ..Tls::default()
    };
    let roots = |roots| Tls {
        roots: Some(roots),
        ..Tls::default()
    };
    for (tls, word) in [
        (
            roots(Roots::Pem(Pem::File("nowhere.pem".into()))),
            "nowhere.pem",
        ),
        (
            roots(Roots::Pem(Pem::Text("x".to_owned()))),
            "sslrootcert contains no",
        ),
        (
            roots(Roots::Pem(Pem::Text(
                "-----BEGIN CERTIFICATE-----\nx".to_owned(),
            ))),
            "sslrootcert contains invalid PEM",
        ),
        (client(text("x"), text("y")), "sslcert contains no"),
        (client(text(rds_pem()), text("y")), "sslkey contains no"),
        (
            client(text(rds_pem()), Pem::File("c2VjcmV0".into())),
            "the file of sslkey",
        ),
        (
            roots(Roots::Pem(Pem::File("-----BEGIN c2VjcmV0".into()))),
            "the file of sslrootcert",
        ),
        (
            client(text(rds_pem()), text(secret)),
            "does not belong to sslcert",
        ),
    ] {
        let error = Client::default().prepare(&tls, "db").expect_err(word);
        let shown = format!("{error} {error:?} {tls:?}");
        assert!(shown.contains(word), "{shown}");
        assert!(!shown.contains("c2VjcmV0"), "{shown}");
    }
}

#[test]
fn pem_on_one_line_is_read() {
    let pem = rds_pem();
    let expected = certificates("sslrootcert", &Pem::Text(pem.to_owned())).expect("PEM");
    assert!(!expected.is_empty());
    for line_end in ["\\n", "\\r\\n", " ", "  ", ""] {
        let folded = pem.replace('\n', line_end);
        let found = certificates("sslrootcert", &Pem::Text(folded)).expect(line_end);
        assert!(found == expected, "{line_end:?}");
        // A file that was written from such a variable.
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("ca.pem");
        std::fs::write(&file, pem.replace('\n', line_end)).expect("written");
        let found = certificates("sslrootcert", &Pem::File(file)).expect(line_end);
        assert!(found == expected, "{line_end:?}");
    }
}

#[test]
fn unused_roots_are_not_read() {
    let tls = Tls {
        mode: TlsMode::Encrypt,
        ..Tls::default()
    };
    let client = Client::default();
    client.prepare(&tls, RDS).expect("nothing to read");
    assert!(client.ready.lock()[0].1.verifier.chain.is_none());
}

/// `sslrootcert` replaces the shipped authorities, and `require` verifies what libpq does.
#[test]
fn shipped_roots_are_used_where_none_are_named() {
    let own = Tls {
        roots: Some(Roots::System),
        ..Tls::default()
    };
    let require = Tls {
        mode: TlsMode::Encrypt,
        ..Tls::default()
    };
    for host in [RDS, SUPABASE] {
        assert!(Policy::of(&Tls::default(), host).shipped.is_some());
        for tls in [&own, &require] {
            assert_eq!(Policy::of(tls, host).shipped, None, "{host}");
        }
    }
}

/// Measures what reading authorities costs at a cold start; docs/security.md quotes it.
#[test]
#[ignore = "measures, for docs/security.md"]
fn cost_of_reading_roots_is_printed() {
    let all = Tls {
        roots: Some(Roots::Pem(Pem::Text(
            include_str!("../provider/roots/rds.pem").to_owned(),
        ))),
        ..Tls::default()
    };
    let none = Tls {
        mode: TlsMode::Encrypt,
        ..Tls::default()
    };
    for (what, tls, host) in [
        ("verify nothing", &none, "db.example.com"),
        ("Mozilla's", &Tls::default(), "db.example.com"),
        ("Mozilla's and a region's of RDS", &Tls::default(), RDS),
        ("a PEM of 81 certificates", &all, "db.example.com"),
    ] {
        let mut times: Vec<_> = (0..101)
            .map(|_| {
                let start = Instant::now();
                Client::default().prepare(tls, host).expect("roots");
                start.elapsed()
            })
            .collect();
        let first = times[0];
        times.sort();
        println!(
            "{what}: {first:.1?} the first time, {:.1?} the median",
            times[50]
        );
        assert!(times[50].as_millis() < 1000, "{what}");
    }
}
