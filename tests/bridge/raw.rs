//! A client that speaks the protocol by itself, in whatever order and pieces.

use std::io;

use bytes::{BufMut, BytesMut};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// One message of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub tag: u8,
    pub body: Vec<u8>,
}

impl Message {
    /// Returns a field of an ErrorResponse.
    pub fn field(&self, name: u8) -> Option<String> {
        let mut fields = self.body.split(|&byte| byte == 0);
        let field = fields.find_map(|field| field.strip_prefix(&[name]))?;
        Some(String::from_utf8_lossy(field).into_owned())
    }
}

pub struct Raw {
    stream: UnixStream,
    read: BytesMut,
    pub user: String,
}

impl Raw {
    /// Connects to the socket of a URL, and sends nothing.
    pub async fn open(url: &str) -> Raw {
        let rest = url.strip_prefix("postgres://").expect("a URL");
        let (user, rest) = rest.split_once('@').expect("a user");
        let (host, _) = rest.split_once(':').expect("a port");
        let path = format!("{}/.s.PGSQL.5432", host.replace("%2F", "/"));
        Raw {
            stream: UnixStream::connect(path).await.expect("it listens"),
            read: BytesMut::new(),
            user: user.to_owned(),
        }
    }

    /// Connects, and says as whom, with further parameters.
    pub async fn start(url: &str, parameters: &[(&str, &str)]) -> Raw {
        let mut raw = Raw::open(url).await;
        let user = raw.user.clone();
        let mut packet = BytesMut::new();
        let all = [("user", user.as_str())]
            .into_iter()
            .chain(parameters.iter().copied());
        frontend::startup_message(all, &mut packet).expect("no NUL");
        raw.send(&packet).await;
        raw
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("sent");
    }

    /// Sends, unless the other end has closed.
    pub async fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// Ends the sending side.
    pub async fn end(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Sends byte after byte, each in a packet of its own.
    pub async fn send_in_pieces(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.send(&[*byte]).await;
            tokio::task::yield_now().await;
        }
    }

    pub async fn byte(&mut self) -> u8 {
        self.stream.read_u8().await.expect("a byte")
    }

    /// Reads the next message; `None` at the end of file.
    pub async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(&[tag, a, b, c, d]) = self.read.first_chunk() {
                let length = u32::from_be_bytes([a, b, c, d]) as usize + 1;
                if self.read.len() >= length {
                    let message = self.read.split_to(length);
                    let body = message[5..].to_vec();
                    return Some(Message { tag, body });
                }
            }
            match self.stream.read_buf(&mut self.read).await {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Reads the next message, and returns whether it is a row with this text. The end of the
    /// connection counts: then the program was refused.
    pub async fn answered_with(&mut self, text: &[u8]) -> bool {
        match self.next().await {
            None => true,
            Some(message) => message.tag == b'D' && message.body.ends_with(text),
        }
    }

    /// Reads until ReadyForQuery, and returns the tags and the status.
    pub async fn ready(&mut self) -> (String, char) {
        let mut tags = String::new();
        loop {
            let message = self.next().await.expect("not the end");
            tags.push(char::from(message.tag));
            if message.tag == b'Z' {
                return (tags, char::from(message.body[0]));
            }
        }
    }

    /// Reads until an ErrorResponse.
    pub async fn error(&mut self) -> Message {
        loop {
            let message = self.next().await.expect("not the end");
            if message.tag == b'E' {
                return message;
            }
        }
    }
}

pub fn query(sql: &str) -> BytesMut {
    let mut out = BytesMut::new();
    frontend::query(sql, &mut out).expect("no NUL");
    out
}

/// Parse, Bind and Execute of an unnamed statement without parameters.
pub fn execute(sql: &str) -> BytesMut {
    let mut out = BytesMut::new();
    frontend::parse("", sql, [], &mut out).expect("no NUL");
    out.put_slice(b"B\0\0\0\x0c\0\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0");
    out
}

pub const SYNC: &[u8] = b"S\0\0\0\x04";
