use super::*;

const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
const SERVER_FIRST: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                            s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

fn exchange(mechanism: Mechanism, binding: Option<&[u8]>) -> Option<Exchange<'_>> {
    Exchange::with_nonce(mechanism, binding, "user", NONCE.to_owned())
}

fn prove(server_first: &str) -> Result<(String, Proven), ScramError> {
    let exchange = exchange(Mechanism::Scram, None).expect("nothing to bind to");
    exchange.prove(server_first.as_bytes(), b"pencil", &Keys::default())
}

/// RFC 7677, section 3.
#[test]
fn example_of_the_rfc_holds() {
    let exchange = exchange(Mechanism::Scram, None).expect("nothing to bind to");
    assert_eq!(exchange.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
    let (last, proven) = prove(SERVER_FIRST).expect("valid");
    assert_eq!(
        last,
        "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
         p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    );
    let verify = |message: &str| proven.verify(message.as_bytes());
    assert_eq!(
        verify("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="),
        Ok(())
    );
    for (message, error) in [
        (
            "v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
            ScramError::Signature,
        ),
        ("v=", ScramError::Signature),
        (
            "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4",
            ScramError::Malformed,
        ),
        (
            "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
            ScramError::Malformed,
        ),
        ("e=other-error", ScramError::Malformed),
        ("", ScramError::Malformed),
    ] {
        assert_eq!(verify(message), Err(error), "{message}");
    }
    assert_eq!(proven.verify(b"v=\xff"), Err(ScramError::Malformed));
}

/// RFC 5802, section 6.
#[test]
fn channel_binding_is_announced() {
    let hash = &[1, 2, 3][..];
    for (mechanism, binding, header) in [
        (Mechanism::Scram, None, Some("n,,")),
        (Mechanism::Scram, Some(hash), Some("y,,")),
        (
            Mechanism::ScramPlus,
            Some(hash),
            Some("p=tls-server-end-point,,"),
        ),
        (Mechanism::ScramPlus, None, None),
    ] {
        let exchange = exchange(mechanism, binding);
        assert_eq!(exchange.as_ref().map(|exchange| exchange.header), header);
        let (Some(exchange), Some(header)) = (exchange, header) else {
            continue;
        };
        assert!(exchange.first().starts_with(header));
        let proven = exchange.prove(SERVER_FIRST.as_bytes(), b"pencil", &Keys::default());
        let (last, _) = proven.expect("valid");
        let bound = last
            .split(',')
            .next()
            .and_then(|field| field.strip_prefix("c="));
        let bound = STANDARD.decode(bound.expect("the channel binding"));
        let hash = if mechanism == Mechanism::ScramPlus {
            hash
        } else {
            &[]
        };
        assert_eq!(bound.expect("base64"), [header.as_bytes(), hash].concat());
    }
}

#[test]
fn malformed_messages_of_the_server_are_refused() {
    for (message, error) in [
        ("", ScramError::Malformed),
        ("r=rOprNGfwEbeRWgbNEkqOx", ScramError::Malformed),
        ("r=rOprNGfwEbeRWgbNEkqOx,s=W22Z", ScramError::Malformed),
        ("r=rOprNGfwEbeRWgbNEkqOx,s=W22,i=1", ScramError::Malformed),
        ("r=rOprNGfwEbeRWgbNEkqOx,s=W22Z,i=0", ScramError::Malformed),
        ("r=rOprNGfwEbeRWgbNEkqOx,s=W22Z,i=-1", ScramError::Malformed),
        (
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22Z,i=99999999999",
            ScramError::Malformed,
        ),
        (
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22Z,i=1,m=x",
            ScramError::Malformed,
        ),
        ("s=W22Z,r=rOprNGfwEbeRWgbNEkqOx,i=1", ScramError::Malformed),
        (
            "m=x,r=rOprNGfwEbeRWgbNEkqOx,s=W22Z,i=1",
            ScramError::Malformed,
        ),
        ("r=other,s=W22Z,i=1", ScramError::Nonce),
        ("r=rOprNGfwEbeRWgbNEkqO,s=W22Z,i=1", ScramError::Nonce),
        (
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22Z,i=100001",
            ScramError::Iterations,
        ),
    ] {
        assert_eq!(prove(message).err(), Some(error), "{message}");
    }
    assert!(prove("r=rOprNGfwEbeRWgbNEkqOx,s=W22Z,i=100000").is_ok());
    for cut in 0..SERVER_FIRST.len() {
        // A shorter number is another number.
        let valid = prove(&SERVER_FIRST[..cut]).is_ok();
        assert_eq!(valid, cut > SERVER_FIRST.len() - "4096".len(), "{cut}");
    }
}

#[test]
fn nonces_differ() {
    let first = || {
        Exchange::new(Mechanism::Scram, None)
            .expect("random")
            .first()
    };
    let nonce = first();
    assert_eq!(nonce.len(), "n,,n=,r=".len() + 24);
    assert_ne!(nonce, first());
}
