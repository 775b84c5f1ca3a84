//! A server in memory that asks for one authentication, honestly or not.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, pbkdf2};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

pub(super) const PASSWORD: &str = "hunter2";

pub(super) const TRUST: &[u8] = b"R\0\0\0\x08\0\0\0\0";
pub(super) const CLEARTEXT: &[u8] = b"R\0\0\0\x08\0\0\0\x03";
pub(super) const MD5: &[u8] = b"R\0\0\0\x0c\0\0\0\x05salt";
pub(super) const SCRAM: &[u8] = b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0";
pub(super) const PLUS: &[u8] = b"R\0\0\0\x2a\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
pub(super) const GSS: &[u8] = b"R\0\0\0\x08\0\0\0\x07";
pub(super) const UNKNOWN_SASL: &[u8] = b"R\0\0\0\x15\0\0\0\x0aOAUTHBEARER\0\0";
pub(super) const REST: &[u8] = b"S\0\0\0\x0bname\0v\0K\0\0\0\x0c\0\0\0\x01\0\0\0\x02Z\0\0\0\x05I";
pub(super) const REFUSED: &[u8] = b"E\0\0\0\x13SFATAL\0C28P01\0\0";
pub(super) const UNEXPECTED: &[u8] = b"E\0\0\0\x13SFATAL\0C08P01\0\0";

/// A server that asks for one authentication.
#[derive(Clone, Copy)]
pub(super) struct Server {
    pub(super) request: &'static [u8],
    pub(super) password: &'static str,
    /// How the server lies.
    pub(super) lies: Lie,
    /// How many bytes it sends at a time.
    pub(super) chunk: usize,
    /// Its messages end after so many bytes.
    pub(super) cut: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lie {
    None,
    /// Another signature.
    Signature,
    /// No signature at all.
    NoSignature,
    Iterations,
    Nonce,
}

pub(super) const HONEST: Server = Server {
    request: SCRAM,
    password: PASSWORD,
    lies: Lie::None,
    chunk: usize::MAX,
    cut: usize::MAX,
};

impl Server {
    async fn send(&mut self, stream: &mut DuplexStream, bytes: &[u8]) -> io::Result<()> {
        let sent = bytes.len().min(self.cut);
        for chunk in bytes[..sent].chunks(self.chunk) {
            stream.write_all(chunk).await?;
        }
        self.cut -= sent;
        if sent < bytes.len() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }

    /// Serves one session; returns what the client sent as answers.
    pub(super) async fn serve(mut self, mut stream: DuplexStream) -> Vec<Vec<u8>> {
        let mut heard = Vec::new();
        let _ = self.authenticate(&mut stream, &mut heard).await;
        drop(stream);
        heard
    }

    async fn authenticate(
        &mut self,
        stream: &mut DuplexStream,
        heard: &mut Vec<Vec<u8>>,
    ) -> io::Result<()> {
        let length = stream.read_u32().await?;
        stream.read_exact(&mut vec![0; length as usize - 4]).await?;
        self.send(stream, self.request).await?;
        match self.request {
            TRUST => {}
            SCRAM | PLUS => {
                let first = answer(stream, heard).await?;
                let first = String::from_utf8_lossy(&first).into_owned();
                let at = first.find("n=,r=").expect("the first message of SCRAM");
                let bare = &first[at..];
                let added = if self.lies == Lie::Nonce {
                    "other"
                } else {
                    &bare[5..]
                };
                let many = if self.lies == Lie::Iterations {
                    100_001
                } else {
                    2
                };
                let server_first =
                    format!("r={added}server,s={},i={many}", STANDARD.encode("salt"));
                self.sasl(stream, 11, &server_first).await?;
                let last = answer(stream, heard).await?;
                let last = String::from_utf8_lossy(&last).into_owned();
                let (without_proof, proof) = last.split_once(",p=").expect("a proof");
                let message = format!("{bare},{server_first},{without_proof}");
                let signature = match self.verify(&message, proof) {
                    Some(signature) => signature,
                    None => {
                        self.send(stream, REFUSED).await?;
                        return Ok(());
                    }
                };
                match self.lies {
                    Lie::NoSignature => {}
                    Lie::Signature => self.sasl(stream, 12, "v=AAAA").await?,
                    _ => self.sasl(stream, 12, &format!("v={signature}")).await?,
                }
                self.send(stream, TRUST).await?;
            }
            _ => {
                answer(stream, heard).await?;
                self.send(stream, TRUST).await?;
            }
        }
        self.send(stream, REST).await?;
        // What else the client sends.
        while answer(stream, heard).await.is_ok() {}
        Ok(())
    }

    async fn sasl(&mut self, stream: &mut DuplexStream, kind: i32, text: &str) -> io::Result<()> {
        let length = i32::try_from(text.len() + 8).expect("short");
        let mut message = b"R".to_vec();
        message.extend(length.to_be_bytes());
        message.extend(kind.to_be_bytes());
        message.extend(text.as_bytes());
        self.send(stream, &message).await
    }

    /// Verifies a proof as a server does (RFC 5802, section 3); returns the signature.
    fn verify(&self, message: &str, proof: &str) -> Option<String> {
        let mut salted = [0; 32];
        let iterations = 2.try_into().expect("not zero");
        let password = self.password.as_bytes();
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            iterations,
            b"salt",
            password,
            &mut salted,
        );
        let sign =
            |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text);
        let client_key = sign(&salted, b"Client Key");
        let stored = digest::digest(&digest::SHA256, client_key.as_ref());
        let signature = sign(stored.as_ref(), message.as_bytes());
        let proof = STANDARD.decode(proof).expect("base64");
        let key: Vec<u8> = proof
            .iter()
            .zip(signature.as_ref())
            .map(|(proof, signature)| proof ^ signature)
            .collect();
        let server_key = sign(&salted, b"Server Key");
        let signature = sign(server_key.as_ref(), message.as_bytes());
        (key == client_key.as_ref()).then(|| STANDARD.encode(signature))
    }
}

/// Reads the body of an answer of the client.
pub(super) async fn answer(
    stream: &mut DuplexStream,
    heard: &mut Vec<Vec<u8>>,
) -> io::Result<Vec<u8>> {
    assert_eq!(stream.read_u8().await?, b'p');
    let length = stream.read_u32().await?;
    let mut body = vec![0; length as usize - 4];
    stream.read_exact(&mut body).await?;
    heard.push(body.clone());
    Ok(body)
}
