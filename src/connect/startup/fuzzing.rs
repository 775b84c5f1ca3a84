//! The entry of the fuzz target.

use tokio::io::{AsyncRead, AsyncWrite};

use super::{Failure, Guard, Keys, Mechanism, Startup};
use crate::config::Method;

/// What a server asked for that let the client in.
#[derive(Debug)]
pub enum Asked {
    /// A SASL mechanism.
    Sasl(Mechanism),
    /// Something else.
    Other,
    /// It did not let the client in.
    Refused,
}

/// Starts a session at a server that may not ask for the password itself.
pub async fn authenticate<T>(
    transport: &mut T,
    password: &str,
    guess: Option<Mechanism>,
    binding: Option<&[u8]>,
) -> Asked
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut server = tokio_postgres::Config::new();
    server.password(password);
    let startup = Startup {
        server: &server,
        user: "app",
        binding,
        guard: Guard::new(|method| method != Method::Password, false),
        guess,
        keys: &Keys::default(),
    };
    match startup.run(transport).await {
        Ok(started) => match started.asked {
            Some(Some(mechanism)) => Asked::Sasl(mechanism),
            Some(None) => Asked::Other,
            None => Asked::Refused,
        },
        Err(Failure::Closed | Failure::Io(_) | Failure::Final(_)) => unreachable!("answered"),
        Err(_) => Asked::Refused,
    }
}
