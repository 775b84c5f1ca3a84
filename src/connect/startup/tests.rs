mod server;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use server::*;

const BINDING: &[u8] = b"the hash of a certificate";

/// Starts a session at `server`; returns the result and what the server heard.
async fn start(
    server: Server,
    guess: Option<Mechanism>,
    binding: Option<&[u8]>,
    guard: Guard<'_>,
) -> (Result<Started, Failure>, Vec<Vec<u8>>) {
    let mut config = tokio_postgres::Config::new();
    config.password(PASSWORD);
    start_with(&config, server, guess, binding, guard).await
}

async fn start_with(
    config: &tokio_postgres::Config,
    server: Server,
    guess: Option<Mechanism>,
    binding: Option<&[u8]>,
    guard: Guard<'_>,
) -> (Result<Started, Failure>, Vec<Vec<u8>>) {
    let (mut ours, theirs) = tokio::io::duplex(256 * 1024);
    let serving = tokio::spawn(server.serve(theirs));
    let startup = Startup {
        server: config,
        user: "app",
        binding,
        guard,
        guess,
        keys: &Keys::default(),
    };
    let started = startup.run(&mut ours).await;
    // What tokio-postgres does not read.
    drop(ours);
    (started, serving.await.expect("no panic"))
}

fn any() -> Guard<'static> {
    Guard::new(|_| true, false)
}

const GUESSES: [Option<Mechanism>; 3] = [None, Some(Mechanism::Scram), Some(Mechanism::ScramPlus)];

#[tokio::test]
async fn each_method_is_guessed_right_and_wrong() {
    let (scram, plus) = (Some(Mechanism::Scram), Some(Mechanism::ScramPlus));
    for (request, binding, asked) in [
        (TRUST, None, None),
        (TRUST, Some(BINDING), None),
        (CLEARTEXT, None, None),
        (CLEARTEXT, Some(BINDING), None),
        (MD5, None, None),
        (SCRAM, None, scram),
        (SCRAM, Some(BINDING), scram),
        // A server with TLS, and a client that disables channel binding.
        (PLUS, None, scram),
        (PLUS, Some(BINDING), plus),
    ] {
        for guess in GUESSES {
            let server = Server { request, ..HONEST };
            let (started, heard) = start(server, guess, binding, any()).await;
            let shown = format!("{request:?} {binding:?} {guess:?} {started:?} {heard:?}");
            // Without something to bind to there is nothing to guess.
            let guess = guess.filter(|guess| *guess == Mechanism::Scram || binding.is_some());
            if guess.is_some() && guess != asked {
                assert!(matches!(started, Err(Failure::WrongGuess)), "{shown}");
                let told = heard.iter().flatten().copied().collect::<Vec<_>>();
                let told = String::from_utf8_lossy(&told).into_owned();
                assert!(!told.contains(PASSWORD) && !told.contains(",p="), "{shown}");
                continue;
            }
            let started = started.expect(&shown);
            assert_eq!(started.asked, Some(asked), "{shown}");
            assert!(started.answer.starts_with(TRUST), "{shown}");
            let expected = match request {
                TRUST => vec![],
                CLEARTEXT => vec![format!("{PASSWORD}\0").into_bytes()],
                MD5 => {
                    let hash = md5_hash(b"app", PASSWORD.as_bytes(), *b"salt");
                    vec![format!("{hash}\0").into_bytes()]
                }
                _ => heard.clone(),
            };
            assert_eq!(heard, expected, "{shown}");
            if let Some(mechanism) = asked {
                assert_eq!(heard.len(), 2, "{shown}");
                assert!(heard[0].starts_with(mechanism.name().as_bytes()), "{shown}");
            }
        }
    }
}

#[tokio::test]
async fn impostors_are_refused() {
    for guess in [None, Some(Mechanism::Scram)] {
        for (lies, expected) in [
            (Lie::Signature, ScramError::Signature),
            (Lie::Iterations, ScramError::Iterations),
            (Lie::Nonce, ScramError::Nonce),
        ] {
            let (started, _) = start(Server { lies, ..HONEST }, guess, None, any()).await;
            let Err(Failure::Scram(error)) = started else {
                panic!("{started:?}")
            };
            assert_eq!(error, expected);
        }
        let lies = Lie::NoSignature;
        let (started, _) = start(Server { lies, ..HONEST }, guess, None, any()).await;
        assert!(matches!(started, Err(Failure::Violation)), "{started:?}");
    }
}

/// The server's error reaches tokio-postgres as it is.
#[tokio::test]
async fn errors_of_the_server_are_handed_on() {
    for guess in [None, Some(Mechanism::Scram)] {
        let wrong = Server {
            password: "another",
            ..HONEST
        };
        let early = Server {
            request: REFUSED,
            ..HONEST
        };
        for server in [wrong, early] {
            let (started, _) = start(server, guess, None, any()).await;
            let started = started.expect("an answer");
            assert_eq!(started.answer, REFUSED);
            assert_eq!(started.asked, None);
        }
    }
    // What a pooler says to a message that it does not expect.
    let server = Server {
        request: UNEXPECTED,
        ..HONEST
    };
    let (started, _) = start(server, Some(Mechanism::Scram), None, any()).await;
    assert!(matches!(started, Err(Failure::WrongGuess)), "{started:?}");
    let (started, _) = start(server, None, None, any()).await;
    assert_eq!(started.expect("an answer").answer, UNEXPECTED);
}

#[tokio::test]
async fn missing_passwords_and_methods_are_handed_on() {
    let without = tokio_postgres::Config::new();
    for request in [CLEARTEXT, MD5, SCRAM, PLUS, GSS, UNKNOWN_SASL] {
        let server = Server { request, ..HONEST };
        let guess = Some(Mechanism::Scram);
        let (started, heard) = start_with(&without, server, guess, None, any()).await;
        assert_eq!(started.expect("an answer").answer, request);
        assert!(heard.is_empty(), "nothing to guess with: {heard:?}");
    }
    for request in [GSS, UNKNOWN_SASL] {
        let (started, _) = start(Server { request, ..HONEST }, None, None, any()).await;
        assert_eq!(started.expect("an answer").answer, request);
    }
}

#[tokio::test]
async fn only_permitted_methods_are_answered() {
    use Method::{Md5, None as Nothing, Password, Scram};
    for (permitted, bound, request, expected) in [
        (&[Nothing][..], false, TRUST, None),
        (&[Scram], false, TRUST, Some(Refusal::Method(Nothing))),
        (&[Scram], false, SCRAM, None),
        (&[Scram], false, PLUS, None),
        (&[Scram], true, PLUS, None),
        (&[Scram], true, SCRAM, Some(Refusal::Unbound)),
        (&[Nothing], true, TRUST, Some(Refusal::Unbound)),
        (&[Password], true, CLEARTEXT, Some(Refusal::Unbound)),
        (&[Password], false, CLEARTEXT, None),
        (&[Md5], false, MD5, None),
        (&[Md5], false, CLEARTEXT, Some(Refusal::Method(Password))),
        (&[Scram], false, MD5, Some(Refusal::Method(Md5))),
        (&[Md5], false, SCRAM, Some(Refusal::Method(Scram))),
    ] {
        let server = Server { request, ..HONEST };
        let permits = |method| permitted.contains(&method);
        for guess in GUESSES {
            let guard = Guard::new(permits, bound);
            let (started, heard) = start(server, guess, Some(BINDING), guard).await;
            let shown = format!("{permitted:?} {bound} {request:?} {guess:?} {started:?}");
            match expected {
                Some(refusal) => {
                    let refused = matches!(started, Err(Failure::Refused(said)) if said == refusal);
                    assert!(refused, "{shown}");
                    // At most the guess, which tells nothing.
                    assert_eq!(heard.len(), usize::from(guess.is_some()), "{shown}");
                }
                None => assert!(
                    matches!(started, Ok(_) | Err(Failure::WrongGuess)),
                    "{shown}"
                ),
            }
        }
    }
}

#[tokio::test]
async fn messages_arrive_in_any_pieces() {
    for request in [TRUST, CLEARTEXT, MD5, SCRAM] {
        for chunk in [1, 2, 3, 5, 7, 64] {
            let server = Server {
                request,
                chunk,
                ..HONEST
            };
            let (started, _) = start(server, None, None, any()).await;
            assert!(
                started.expect("started").asked.is_some(),
                "{request:?} {chunk}"
            );
        }
    }
}

/// A connection that ends anywhere before AuthenticationOk has not authenticated.
#[tokio::test]
async fn truncated_starts_fail() {
    for request in [TRUST, CLEARTEXT, MD5, SCRAM, PLUS] {
        for guess in [None, Some(Mechanism::Scram)] {
            for cut in 0.. {
                let server = Server {
                    request,
                    cut,
                    ..HONEST
                };
                let (started, _) = start(server, guess, None, any()).await;
                match started {
                    Ok(Started { asked: Some(_), .. }) => break,
                    Ok(started) => assert!(started.answer.is_empty(), "{request:?} {cut}"),
                    Err(failure) => assert!(matches!(failure, Failure::WrongGuess)),
                }
                // A wrong guess ends with the request.
                if cut == request.len() && guess.is_some() && !matches!(request, SCRAM | PLUS) {
                    break;
                }
                assert!(cut < 1000, "{request:?} {guess:?}");
            }
        }
    }
}

#[tokio::test]
async fn other_protocols_and_long_messages_are_refused() {
    const LONG: &[u8] = b"R\x7f\xff\xff\xff\0\0\0\0";
    for request in [
        &b"HTTP/1.1 400 Bad Request"[..],
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\0",
        b"R\0\0\0\x03",
        b"R\0\0\0\x04",
        b"R\0\0\0\x06\0\0",
        b"R\xff\xff\xff\xff\0",
        b"R\0\0\x80\x01\0\0\0\0",
        LONG,
        b"R\0\0\0\x08\0\0\0\x0d",
        b"R\0\0\0\x0b\0\0\0\x05sal",
        b"Z\0\0\0\x05I",
        b"S\0\0\0\x0aname\0v\0",
    ] {
        for guess in [None, Some(Mechanism::Scram)] {
            let (started, _) = start(Server { request, ..HONEST }, guess, None, any()).await;
            assert!(
                matches!(started, Err(Failure::Unclear)),
                "{request:?} {started:?}"
            );
        }
    }
}

/// Requests that are out of order do not have the password sent.
#[tokio::test]
async fn second_requests_are_not_answered() {
    for (first, second) in [
        (MD5, CLEARTEXT),
        (MD5, MD5),
        (CLEARTEXT, MD5),
        (CLEARTEXT, SCRAM),
    ] {
        let (mut ours, mut theirs) = tokio::io::duplex(4096);
        let mut config = tokio_postgres::Config::new();
        config.password(PASSWORD);
        theirs.write_all(first).await.expect("room");
        theirs.write_all(second).await.expect("room");
        let startup = Startup {
            server: &config,
            user: "app",
            binding: None,
            guard: any(),
            guess: None,
            keys: &Keys::default(),
        };
        let started = startup.run(&mut ours).await;
        assert!(matches!(started, Err(Failure::Violation)), "{started:?}");
        drop(ours);
        let length = theirs.read_u32().await.expect("the startup packet");
        let mut packet = vec![0; length as usize - 4];
        theirs.read_exact(&mut packet).await.expect("all of it");
        let mut heard = Vec::new();
        answer(&mut theirs, &mut heard).await.expect("one answer");
        let error = theirs.read_u8().await.expect_err("no more");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}

#[tokio::test]
async fn notices_are_kept_up_to_a_limit() {
    let notice = |length: usize| {
        let mut notice = b"N".to_vec();
        notice.extend(u32::try_from(length + 4).expect("short").to_be_bytes());
        notice.resize(5 + length, b'x');
        notice
    };
    for (notices, accepted) in [(1, true), (3, true), (10, false)] {
        let (mut ours, mut theirs) = tokio::io::duplex(1024 * 1024);
        let all = notice(20_000).repeat(notices);
        theirs.write_all(&all).await.expect("room");
        theirs.write_all(TRUST).await.expect("room");
        theirs.write_all(REST).await.expect("room");
        let config = tokio_postgres::Config::new();
        let startup = Startup {
            server: &config,
            user: "app",
            binding: None,
            guard: any(),
            guess: None,
            keys: &Keys::default(),
        };
        let started = startup.run(&mut ours).await;
        assert_eq!(started.is_ok(), accepted, "{notices}");
        if let Ok(started) = started {
            let seen = [TRUST, &all].concat();
            assert!(started.answer.starts_with(&seen));
        }
    }
}

/// tokio-postgres is given a session that it has not begun.
#[tokio::test]
async fn resumed_connection_is_a_session() {
    for guess in [None, Some(Mechanism::Scram)] {
        let (mut ours, theirs) = tokio::io::duplex(4096);
        let serving = tokio::spawn(HONEST.serve(theirs));
        let mut config = tokio_postgres::Config::new();
        config.password(PASSWORD).user("app");
        let keys = Keys::default();
        let startup = Startup {
            server: &config,
            user: "app",
            binding: None,
            guard: any(),
            guess,
            keys: &keys,
        };
        let started = startup.run(&mut ours).await.expect("started");
        let (_, stream) = started.resume(ours, Naming::AsGiven);
        let connected = config.connect_raw(stream, tokio_postgres::NoTls).await;
        let (client, connection) = connected.expect("a session");
        assert_eq!(connection.parameter("name"), Some("v"));
        drop((client, connection));
        assert_eq!(
            serving.await.expect("no panic").len(),
            2,
            "two messages of SCRAM"
        );
    }
}

/// The startup packet of tokio-postgres is swallowed however it is written.
#[tokio::test]
async fn startup_packet_is_swallowed() {
    let packet = b"\0\0\0\x0c\0\x03\0\0ab\0\0";
    let written = [&packet[..], b"Q\0\0\0\x05\0"].concat();
    for cut in 1..=written.len() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let answer = BytesMut::from(TRUST);
        let (wire, mut resumed) = Wire::authenticated(Ok(ours), Naming::AsGiven, answer);
        for chunk in written.chunks(cut) {
            resumed.write_all(chunk).await.expect("room");
        }
        resumed.flush().await.expect("room");
        theirs.write_all(b"live").await.expect("room");
        let mut read = vec![0; TRUST.len() + 4];
        resumed.read_exact(&mut read).await.expect("both");
        assert_eq!(read, [TRUST, b"live"].concat());
        drop((wire, resumed));
        let mut heard = Vec::new();
        theirs.read_to_end(&mut heard).await.expect("all");
        assert_eq!(heard, b"Q\0\0\0\x05\0", "cut at {cut}");
    }
}

#[tokio::test]
async fn broken_connection_is_told_once() {
    let broken: io::Result<DuplexStream> = Err(io::ErrorKind::ConnectionReset.into());
    let (_, mut stream) = Wire::authenticated(broken, Naming::AsGiven, BytesMut::new());
    for kind in [io::ErrorKind::ConnectionReset, io::ErrorKind::NotConnected] {
        let error = stream.read_u8().await.expect_err("broken");
        assert_eq!(error.kind(), kind);
    }
}
