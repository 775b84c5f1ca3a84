//! Authentication of the client: certificates, passwords, channel binding.

use super::*;

#[tokio::test]
async fn client_certificate_admits_its_user_alone() {
    let authority = Authority::new().expect("an authority");
    let identity = authority.server(&["localhost"]).expect("one");
    let server = Postgres::builder()
        .tls_with(&authority, identity)
        .rule("hostssl all alice all cert");
    let server = server.start().await.expect("a server");
    server.create_role("alice").await.expect("a role");
    let alice = authority.client("alice").expect("a certificate");
    let (certificate, key) = (file(alice.certificate()), file(alice.key()));
    let as_files = (
        certificate.path().to_str().expect("a path"),
        key.path().to_str().expect("a path"),
    );
    let roots = ("sslrootcert", authority.pem());

    for (certificate, key) in [as_files, (alice.certificate(), alice.key())] {
        let with = [roots, ("sslcert", certificate), ("sslkey", key)];
        let url = url(&server, "alice", "localhost", &with);
        assert_eq!(connect(&url).await.expect("let in"), "true alice");
        // A certificate is no password: `none` allows for it.
        let alone = format!("{url}&require_auth=none");
        assert_eq!(connect(&alone).await.expect("let in"), "true alice");
    }
    let without = url(&server, "alice", "localhost", &[roots]);
    let error = connect(&without).await.expect_err("no certificate");
    let state = error.sqlstate().map(|state| state.code().to_owned());
    assert_eq!(state.as_deref(), Some("28000"), "{error}");

    // One of an authority that the server does not know.
    let stranger = Authority::new().expect("another authority");
    let stranger = stranger.client("alice").expect("a certificate");
    let with = [
        roots,
        ("sslcert", stranger.certificate()),
        ("sslkey", stranger.key()),
    ];
    let said = refused(&url(&server, "alice", "localhost", &with)).await;
    assert_says(
        &said,
        &["localhost rejected the client certificate", "sslcert"],
    );
}

#[tokio::test]
async fn scram_works_with_and_without_channel_binding() {
    let authority = Authority::new().expect("an authority");
    let identity = authority.server(&["localhost"]).expect("a certificate");
    let server = Postgres::builder()
        .auth(Auth::Scram)
        .rule("host all trusted all trust")
        .rule("hostssl all plain all password")
        .tls_with(&authority, identity);
    let server = server.start().await.expect("a server");
    for role in ["trusted", "plain"] {
        server.create_role(role).await.expect("a role");
    }
    let roots = ("sslrootcert", authority.pem());
    let full = ("sslmode", "verify-full");

    for binding in ["disable", "prefer", "require"] {
        let url = |mode| {
            let parameters = [mode, roots, ("channel_binding", binding)];
            url(&server, "postgres", "localhost", &parameters)
        };
        assert_eq!(connect(&url(full)).await.expect(binding), "true postgres");
    }
    let plain = |binding| {
        let parameters = [("sslmode", "disable"), ("channel_binding", binding)];
        url(&server, "postgres", "localhost", &parameters)
    };
    for binding in ["disable", "prefer"] {
        let connected = connect(&plain(binding)).await;
        assert_eq!(connected.expect(binding), "false postgres");
    }
    let contradiction = connect(&plain("require")).await.expect_err("no TLS");
    assert_eq!(contradiction.kind(), ErrorKind::Configuration);

    // Whatever is not SCRAM cannot be bound.
    for role in ["trusted", "plain"] {
        let parameters = [full, roots, ("channel_binding", "require")];
        let said = refused(&url(&server, role, "localhost", &parameters)).await;
        assert_says(&said, &["channel_binding=require", "does not offer it"]);
    }
}

#[tokio::test]
async fn channel_binding_needs_tls() {
    let server = Postgres::builder().auth(Auth::Scram);
    let server = server.start().await.expect("a server");
    let parameters = [("sslmode", "prefer"), ("channel_binding", "require")];
    let said = refused(&url(&server, "postgres", "localhost", &parameters)).await;
    assert_says(&said, &["channel_binding=require", "without TLS"]);
}

#[tokio::test]
async fn plain_password_needs_verified_tls_or_loopback() {
    let authority = Authority::new().expect("an authority");
    let identity = authority.server(&["localhost", ELSEWHERE]).expect("one");
    let server = Postgres::builder()
        .rule("host all plain all password")
        .rule("host all hashed all md5")
        .auth(Auth::Scram)
        .tls_with(&authority, identity);
    let server = server.start().await.expect("a server");
    for role in ["plain", "hashed"] {
        server.create_role(role).await.expect("a role");
    }
    server
        .execute(&format!(
            "set password_encryption = md5; alter role hashed password '{}'",
            Postgres::PASSWORD
        ))
        .await
        .expect("a password hashed with MD5");

    for (role, method) in [("plain", "password"), ("hashed", "md5")] {
        // On this machine.
        let here = url(&server, role, "localhost", &[("sslmode", "disable")]);
        let connected = connect(&here).await.expect(role);
        assert_eq!(connected, format!("false {role}"));
        // Over TLS that was verified, in full or for whatever name.
        for mode in ["verify-full", "verify-ca"] {
            let parameters = [("sslmode", mode), ("sslrootcert", authority.pem())];
            let verified = url(&server, role, ELSEWHERE, &parameters);
            let connected = connect(&verified).await.expect(role);
            assert_eq!(connected, format!("true {role}"));
        }
        // Without TLS, or unverified: only if the configuration says so.
        for mode in ["disable", "prefer", "require"] {
            let open = url(&server, role, ELSEWHERE, &[("sslmode", mode)]);
            // A wrong one, so that the server would say if it got it.
            let wrong = open.replace(Postgres::PASSWORD, "wrong");
            let said = refused(&wrong).await;
            let asked = format!("asks for the authentication \"{method}\"");
            let remedy = format!("require_auth={method}");
            assert_says(&said, &[&asked, &remedy, "sslmode=verify-full"]);
            let allowed = format!("{open}&require_auth=scram-sha-256,{method}");
            assert!(connect(&allowed).await.is_ok(), "{role} {mode}");
        }
        // Nor anywhere, if that was said.
        for list in ["scram-sha-256", &format!("!{method}")] {
            let forbidden = format!("{here}&require_auth={list}");
            let said = refused(&forbidden).await;
            assert_says(&said, &[method, "which require_auth does not permit"]);
        }
    }
    let heard = |log: &str| log.matches("password authentication failed").count();
    assert_eq!(heard(&server.log()), 0, "{}", server.log());
    let wrong = url(&server, "plain", "localhost", &[("sslmode", "disable")]);
    let wrong = wrong.replace(Postgres::PASSWORD, "wrong");
    assert!(connect(&wrong).await.is_err());
    assert_eq!(heard(&server.log()), 1, "it says if it gets one");
    // SCRAM does not reveal the password.
    for mode in ["disable", "require"] {
        let url = url(&server, "postgres", ELSEWHERE, &[("sslmode", mode)]);
        assert!(connect(&url).await.is_ok(), "scram with {mode}");
    }
}

#[tokio::test]
async fn trust_is_refused_by_require_auth() {
    let server = Postgres::shared().await.expect("a server");
    let trusted = url(server, "postgres", ELSEWHERE, &[("sslmode", "disable")]);
    let connected = connect(&trusted).await;
    assert_eq!(connected.expect("trusted"), "false postgres");
    let none = format!("{trusted}&require_auth=none");
    assert_eq!(connect(&none).await.expect("none"), "false postgres");
    for list in ["scram-sha-256", "!none"] {
        let said = refused(&format!("{trusted}&require_auth={list}")).await;
        assert_says(&said, &["\"none\"", "which require_auth does not permit"]);
    }
}
