//! Certificates, keys and protocol versions out of the ordinary.

use super::*;

/// A certificate as `openssl` makes it, signed by its own key.
fn openssl(key: &[&str], of_version_1: bool, extension: Option<&str>) -> Identity {
    let directory = tempfile::tempdir().expect("a directory");
    let run = |arguments: &[&str]| {
        let mut openssl = Command::new("openssl");
        let done = openssl.args(arguments).current_dir(&directory).output();
        let done = done.expect("openssl is installed");
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "{arguments:?}: {said}");
        String::from_utf8(done.stdout).expect("text")
    };
    run(&[&["genpkey", "-out", "key.pem"], key].concat());
    let named = ["req", "-new", "-key", "key.pem", "-subj", "/CN=localhost"];
    match of_version_1 {
        true => {
            run(&[&named[..], &["-out", "request.pem"]].concat());
            run(&[
                "x509",
                "-req",
                "-in",
                "request.pem",
                "-signkey",
                "key.pem",
                "-days",
                "30",
                "-out",
                "certificate.pem",
            ]);
            let text = run(&["x509", "-in", "certificate.pem", "-noout", "-text"]);
            assert!(text.contains("Version: 1 "), "{text}");
        }
        false => {
            let names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"];
            let extension = extension.map_or(vec![], |extension| vec!["-addext", extension]);
            let made = ["-x509", "-days", "30", "-out", "certificate.pem"];
            run(&[&named[..], &made, &names, &extension].concat());
        }
    }
    let read = |name| std::fs::read_to_string(directory.path().join(name)).expect("written");
    Identity::of(read("certificate.pem"), read("key.pem"))
}

const P256: [&str; 4] = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
const RSA: [&str; 4] = ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];

/// A server with this certificate, and what `sslmode=verify-full` says of it where the
/// certificate itself is trusted.
async fn with(
    identity: Identity,
    settings: &[(&str, &str)],
    installation: Option<Installation>,
) -> (Postgres, (ErrorKind, String)) {
    let authority = Authority::new().expect("an authority");
    let roots = file(identity.certificate());
    let mut server = Postgres::builder().tls_with(&authority, identity);
    for (name, value) in settings {
        server = server.setting(*name, value);
    }
    if let Some(installation) = installation {
        server = server.installation(installation);
    }
    let server = server.start().await.expect("a server");
    let roots = roots.path().to_str().expect("a path");
    let parameters = [("sslmode", "verify-full"), ("sslrootcert", roots)];
    let said = refused(&url(&server, "postgres", "localhost", &parameters)).await;
    (server, said)
}

/// A certificate that is not verified is not parsed; the server must still prove that it has
/// the key.
#[tokio::test]
async fn odd_certificate_is_refused_when_verified() {
    let critical = "1.3.6.1.4.1.55555.1=critical,ASN1:NULL";
    let unknown = openssl(&P256, false, Some(critical));
    for (identity, version, words) in [
        (openssl(&P256, true, None), "TLSv1.3", "X.509 version 1"),
        (openssl(&P256, true, None), "TLSv1.2", "X.509 version 1"),
        (openssl(&RSA, true, None), "TLSv1.2", "X.509 version 1"),
        (unknown, "TLSv1.3", "1.3.6.1.4.1.55555.1"),
    ] {
        let version = [("ssl_max_protocol_version", version)];
        let (server, said) = with(identity, &version, None).await;
        assert_says(&said, &[words, "sslmode=require"]);
        for mode in ["require", "prefer"] {
            let url = url(&server, "postgres", "localhost", &[("sslmode", mode)]);
            assert_eq!(connect(&url).await.expect(words), "true postgres");
        }
    }
}

#[tokio::test]
async fn unusable_key_is_named() {
    let short = ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"];
    let pss = ["-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048"];
    let p521 = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"];
    for (key, words) in [
        (&short[..], &["1024 bits", "2048 bits or more"][..]),
        (&pss, &["not RSA-PSS"]),
        (&p521, &["not P-521"]),
    ] {
        // Debian's OpenSSL takes no short key at all.
        let lenient = Installation::embedded("17").expect("a server");
        let (server, said) = with(openssl(key, false, None), &[], Some(lenient)).await;
        assert_says(&said, words);
        let url = url(&server, "postgres", "localhost", &[("sslmode", "require")]);
        assert_says(&refused(&url).await, words);
    }
}

#[tokio::test]
async fn server_with_old_tls_alone_is_named() {
    let old = [
        ("ssl_min_protocol_version", "TLSv1"),
        ("ssl_max_protocol_version", "TLSv1.1"),
        ("ssl_ciphers", "DEFAULT@SECLEVEL=0"),
    ];
    let (_server, said) = with(openssl(&RSA, false, None), &old, None).await;
    assert_says(&said, &["TLS 1.2 or newer", "ssl_max_protocol_version"]);
}
