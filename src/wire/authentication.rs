//! Guards authentication: refuses requests that would reveal the password.
//!
//! tokio-postgres answers every request. An impostor of the server, or
//! a man in the middle, would get the password. So the request is
//! looked at before tokio-postgres sees it (manual, "Message Flow", "Start-up").

use std::fmt;

use crate::config::Method;

/// The mechanism that binds the password's proof to the TLS connection.
const BOUND: &[u8] = b"SCRAM-SHA-256-PLUS";

/// Checks what the server asks for before it authenticates the session.
pub(crate) struct Guard {
    permits: Box<dyn Fn(Method) -> bool + Send>,
    /// The proof has to be bound to the TLS connection.
    bound: bool,
}

/// The reason for not answering an authentication request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The server asks for a method that is not permitted.
    Method(Method),
    /// Channel binding is required, and the server does not offer it.
    Unbound,
    /// The request is not one of the protocol.
    Unclear,
}

impl Guard {
    pub(crate) fn new(permits: impl Fn(Method) -> bool + Send + 'static, bound: bool) -> Self {
        Guard {
            permits: Box::new(permits),
            bound,
        }
    }

    fn check(&self, method: Method) -> Result<(), Refused> {
        match (self.permits)(method) {
            true if self.bound && method != Method::Scram => Err(Refused::Unbound),
            true => Ok(()),
            false => Err(Refused::Method(method)),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Method(method) => write!(f, "the server asks for {method}"),
            Refused::Unbound => f.write_str("the server offers no channel binding"),
            Refused::Unclear => f.write_str("the server does not speak PostgreSQL"),
        }
    }
}

impl std::error::Error for Refused {}

/// The state of authentication, and what the guard refused.
#[derive(Default)]
pub(super) struct Authentication {
    /// Until the server let us in.
    pub(super) guard: Option<Guard>,
    asked: bool,
    pub(super) refused: Option<Refused>,
}

impl Authentication {
    /// Refuses what follows: the framing was lost.
    pub(super) fn lost(&mut self) {
        if self.guard.is_some() {
            self.refused.get_or_insert(Refused::Unclear);
        }
    }

    /// Returns whether a message may begin with `tag` now: until the server let us in it asks,
    /// refuses, or offers another version of the protocol (manual, "Start-up"). Others that
    /// speak first, or answer in words, begin with letters that come later.
    pub(super) fn expects(&self, tag: u8) -> bool {
        self.guard.is_none() || b"RENv".contains(&tag)
    }

    /// Processes a message of the type R, at least its first bytes.
    pub(super) fn received(&mut self, body: &[u8]) {
        let Some(guard) = &self.guard else {
            return;
        };
        let kind = body.first_chunk().map(|bytes| i32::from_be_bytes(*bytes));
        let checked = match kind {
            // AuthenticationOk
            Some(0) if self.asked => Ok(()),
            Some(0) => guard.check(Method::None),
            Some(3) => guard.check(Method::Password),
            Some(5) => guard.check(Method::Md5),
            // AuthenticationSASL, with the names of the mechanisms.
            Some(10) => guard.check(Method::Scram).and_then(|()| {
                let mut names = body[4..].split(|&byte| byte == 0);
                if !guard.bound || names.any(|name| name == BOUND) {
                    Ok(())
                } else {
                    Err(Refused::Unbound)
                }
            }),
            // What SASL goes on with, and what tokio-postgres does not do anyway.
            Some(1..=12) => Ok(()),
            _ => Err(Refused::Unclear),
        };
        self.asked = true;
        if kind == Some(0) {
            self.guard = None;
        }
        self.refused = self.refused.or(checked.err());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &[u8] = b"\0\0\0\0";
    const PASSWORD: &[u8] = b"\0\0\0\x03";
    const MD5: &[u8] = b"\0\0\0\x05salt";
    const SASL: &[u8] = b"\0\0\0\x0aSCRAM-SHA-256\0\0";
    const PLUS: &[u8] = b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";

    fn guarded(guard: Guard) -> Authentication {
        Authentication {
            guard: Some(guard),
            ..Authentication::default()
        }
    }

    #[test]
    fn other_protocols_are_recognised() {
        let mut authentication = Authentication::default();
        let all = |authentication: &Authentication| {
            let expected = b"RENvHS2JZKT"
                .iter()
                .filter(|tag| authentication.expects(**tag));
            expected.copied().collect::<Vec<_>>()
        };
        authentication.guard = Some(Guard::new(|_| true, false));
        assert_eq!(all(&authentication), b"RENv");
        authentication.received(OK);
        assert_eq!(all(&authentication), b"RENvHS2JZKT");
        authentication.guard = Some(Guard::new(|_| true, false));
        authentication.received(b"\0\0\0\x63");
        assert_eq!(authentication.refused, Some(Refused::Unclear));
    }

    #[test]
    fn only_permitted_methods_are_answered() {
        use Method::{Md5, None as Nothing, Password, Scram};
        for (permitted, bound, messages, expected) in [
            (&[Nothing][..], false, &[OK][..], None),
            (&[Scram], false, &[OK], Some(Refused::Method(Nothing))),
            (&[Scram], false, &[SASL, OK], None),
            (&[Scram], false, &[PLUS, OK], None),
            (&[Scram], true, &[PLUS, OK], None),
            (&[Scram], true, &[SASL], Some(Refused::Unbound)),
            (&[Nothing], true, &[OK], Some(Refused::Unbound)),
            (&[Password], true, &[PASSWORD], Some(Refused::Unbound)),
            (&[Password], false, &[PASSWORD, OK], None),
            (&[Md5], false, &[MD5, OK], None),
            (&[Md5], false, &[PASSWORD], Some(Refused::Method(Password))),
            (&[Scram], false, &[MD5], Some(Refused::Method(Md5))),
            (&[Md5], false, &[SASL], Some(Refused::Method(Scram))),
            (&[Md5], false, &[b"\0\0"], Some(Refused::Unclear)),
        ] {
            let permits = |method| permitted.contains(&method);
            let mut authentication = guarded(Guard::new(permits, bound));
            for message in messages {
                authentication.received(message);
            }
            let shown = format!("{permitted:?} {bound} {messages:?}");
            assert_eq!(authentication.refused, expected, "{shown}");
        }
    }

    #[test]
    fn nothing_is_refused_after_authentication() {
        let mut authentication = guarded(Guard::new(|_| true, false));
        authentication.received(OK);
        authentication.received(PASSWORD);
        authentication.lost();
        assert_eq!(authentication.refused, None);
    }

    #[test]
    fn framing_must_hold_before_authentication() {
        let mut authentication = guarded(Guard::new(|_| true, false));
        authentication.lost();
        assert_eq!(authentication.refused, Some(Refused::Unclear));
    }

    #[tokio::test]
    async fn refused_request_is_never_passed_on_whole() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        let request = b"R\0\0\0\x08\0\0\0\x03";
        for cut in 1..=request.len() {
            let (ours, mut theirs) = tokio::io::duplex(64);
            let (wire, mut stream) = crate::wire::Wire::new(ours, None, false);
            wire.guard(Guard::new(|_| false, false));
            let (mut seen, mut error) = (Vec::new(), None);
            for chunk in request.chunks(cut) {
                theirs.write_all(chunk).await.expect("room");
                match stream.read_buf(&mut seen).await {
                    Ok(read) => assert_eq!(read, chunk.len()),
                    Err(refused) => error = Some(refused),
                }
            }
            let refusal = Refused::Method(Method::Password);
            assert_eq!(wire.refused(), Some(refusal), "cut at {cut}");
            let error = error.expect("an error in its place").to_string();
            assert_eq!(error, refusal.to_string());
            assert!(seen.len() < request.len(), "cut at {cut}");
        }
    }
}
