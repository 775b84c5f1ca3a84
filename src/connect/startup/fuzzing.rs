//! The entry of the fuzz target.

use tokio::io::{AsyncRead, AsyncWrite};

use super::{Failure, Guard, Keys, Mechanism, Startup};
use crate::config::Method;

/// Starts a session at a server that may not ask for the password itself. Returns the mechanism of
/// SASL by which the server let the client in, if it did.
pub async fn authenticate<T>(
    transport: &mut T,
    password: &str,
    guess: Option<Mechanism>,
    binding: Option<&[u8]>,
) -> Option<Mechanism>
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
        Ok(started) => started.asked.flatten(),
        Err(Failure::Closed | Failure::Io(_) | Failure::Final(_)) => unreachable!("answered"),
        Err(_) => None,
    }
}
