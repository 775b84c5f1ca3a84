//! As much of a server as tells right from wrong.

use std::collections::HashMap;

use bytes::{BufMut, BytesMut};

/// A server that knows its messages, its transaction status and a few texts.
#[derive(Default)]
pub struct Model {
    /// Begins a transaction by itself before a statement outside one: what the client
    /// of a lazily begun transaction is to see.
    pub begins: bool,
    /// Nothing may be executed outside a transaction.
    pub insists: bool,
    /// So many times it does not begin a transaction.
    pub refuses: usize,
    pub(super) started: bool,
    pub(super) pending: BytesMut,
    pub status: Status,
    /// After an error, until the next Sync.
    pub(super) skips: bool,
    /// In COPY mode.
    pub(super) copying: bool,
    pub(super) statements: HashMap<Vec<u8>, Vec<u8>>,
    pub(super) bound: Vec<u8>,
}

/// The transaction status.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub enum Status {
    #[default]
    Idle,
    Begun,
    Failed,
}

struct Failure {
    position: Option<usize>,
}

impl Model {
    /// Returns what it sends in answer.
    pub fn answers(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.pending.extend_from_slice(bytes);
        let mut out = BytesMut::new();
        while let Some(message) = self.next() {
            self.answer(&message, &mut out);
        }
        out.to_vec()
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        let tag = usize::from(self.started);
        let field = self.pending.get(tag..tag + 4)?.try_into().ok()?;
        let length = u32::from_be_bytes(field) as usize + tag;
        if self.pending.len() < length {
            return None;
        }
        Some(self.pending.split_to(length).to_vec())
    }

    fn answer(&mut self, message: &[u8], out: &mut BytesMut) {
        if !self.started {
            self.started = true;
            put(b'R', &[0, 0, 0, 0], out);
            return self.ready(out);
        }
        let (tag, body) = (message[0], &message[5..]);
        // Leftovers of a COPY, and its early Sync, are ignored.
        let copies = b"dcf".contains(&tag);
        if self.skips && tag != b'S' || self.copying != copies {
            return;
        }
        // A simple query that cannot be parsed takes the BEGIN in its text with it.
        let in_vain = tag == b'Q'
            && (string(body).trim_ascii().is_empty() || self.check(string(body)).is_err());
        if self.begins && self.status == Status::Idle && b"QPBE".contains(&tag) && !in_vain {
            if let Err(failure) = self.begin() {
                self.fail(&failure, out);
                if tag == b'Q' {
                    self.skips = false;
                    self.ready(out);
                }
                return;
            }
        }
        let done = match tag {
            b'Q' => {
                let done = self.simple(string(body), out);
                if let Err(failure) = done {
                    self.fail(&failure, out);
                    self.skips = false;
                }
                return self.ready(out);
            }
            b'P' => {
                let name = string(body);
                let text = string(&body[name.len() + 1..]);
                self.parse(name, text).map(|()| put(b'1', &[], out))
            }
            b'B' => {
                let portal = string(body);
                let name = string(&body[portal.len() + 1..]);
                self.bind(name).map(|()| put(b'2', &[], out))
            }
            b'D' => {
                put(b't', &[0, 0], out);
                put(b'n', &[], out);
                Ok(())
            }
            b'E' => {
                let bound = self.bound.clone();
                self.execute(&bound, 0, out)
            }
            b'C' => {
                self.statements.remove(string(&body[1..]));
                put(b'3', &[], out);
                Ok(())
            }
            b'S' => {
                self.skips = false;
                return self.ready(out);
            }
            b'd' if body == b"bad" => Err(Failure { position: None }),
            b'd' => Ok(()),
            b'c' => {
                self.copying = false;
                put(b'C', b"COPY 1\0", out);
                Ok(())
            }
            b'f' => Err(Failure { position: None }),
            other => panic!("what is {}?", char::from(other)),
        };
        if let Err(failure) = done {
            self.fail(&failure, out);
        }
    }

    fn simple(&mut self, text: &[u8], out: &mut BytesMut) -> Result<(), Failure> {
        // Parsed as a whole before anything of it is executed.
        self.check(text)?;
        if text.trim_ascii().is_empty() {
            put(b'I', &[], out);
        }
        let mut from = 0;
        for statement in text.split(|&byte| byte == b';') {
            if !statement.trim_ascii().is_empty() {
                self.execute(statement, from, out)?;
            }
            from += statement.len() + 1;
        }
        Ok(())
    }

    fn check(&self, text: &[u8]) -> Result<(), Failure> {
        let word = b"nonsense";
        let at = text.windows(word.len()).position(|window| window == word);
        match at {
            Some(at) => Err(Failure {
                position: Some(at + 1),
            }),
            None => Ok(()),
        }
    }

    /// In a failed transaction nothing is accepted but its end.
    fn accepts(&self, text: &[u8]) -> Result<(), Failure> {
        let ends = matches!(text.trim_ascii(), b"commit" | b"rollback");
        if self.status == Status::Failed && !ends {
            Err(Failure { position: None })
        } else {
            Ok(())
        }
    }

    fn begin(&mut self) -> Result<(), Failure> {
        if self.refuses > 0 {
            self.refuses -= 1;
            return Err(Failure { position: None });
        }
        self.status = Status::Begun;
        Ok(())
    }

    fn parse(&mut self, name: &[u8], text: &[u8]) -> Result<(), Failure> {
        self.check(text)?;
        self.accepts(text)?;
        self.statements.insert(name.to_vec(), text.to_vec());
        Ok(())
    }

    fn bind(&mut self, name: &[u8]) -> Result<(), Failure> {
        let text = self.statements.get(name).cloned();
        let text = text.ok_or(Failure { position: None })?;
        self.accepts(&text)?;
        self.bound = text;
        Ok(())
    }

    fn execute(&mut self, text: &[u8], from: usize, out: &mut BytesMut) -> Result<(), Failure> {
        self.accepts(text)?;
        if text == b"own" {
            put(b'D', b"\0\x01\0\0\0\x011", out);
            put(b'C', b"SELECT 1\0", out);
            return Ok(());
        }
        let tag: &[u8] = match text.trim_ascii() {
            b"BEGIN" => {
                self.begin()?;
                b"BEGIN\0"
            }
            text if self.insists && self.status == Status::Idle => {
                panic!("outside a transaction: {}", text.escape_ascii())
            }
            b"commit" if self.status == Status::Failed => {
                self.status = Status::Idle;
                b"ROLLBACK\0"
            }
            b"commit" => {
                self.status = Status::Idle;
                b"COMMIT\0"
            }
            b"rollback" => {
                self.status = Status::Idle;
                b"ROLLBACK\0"
            }
            b"fail" => {
                return Err(Failure {
                    position: Some(from + 1),
                });
            }
            _ => b"SELECT 1\0",
        };
        match text {
            b"copy" => {
                self.copying = true;
                put(b'G', &[0, 0, 0], out);
            }
            _ => put(b'C', tag, out),
        }
        Ok(())
    }

    fn fail(&mut self, failure: &Failure, out: &mut BytesMut) {
        let mut body = b"SERROR\0C42601\0Mno\0".to_vec();
        if let Some(position) = failure.position {
            body.extend(format!("P{position}\0").bytes());
        }
        body.push(0);
        put(b'E', &body, out);
        self.copying = false;
        if self.status == Status::Begun {
            self.status = Status::Failed;
        }
        self.skips = true;
    }

    fn ready(&self, out: &mut BytesMut) {
        let status = match self.status {
            Status::Idle => b'I',
            Status::Begun => b'T',
            Status::Failed => b'E',
        };
        put(b'Z', &[status], out);
    }
}

fn put(tag: u8, body: &[u8], out: &mut BytesMut) {
    out.put_u8(tag);
    out.put_u32(4 + body.len() as u32);
    out.put_slice(body);
}

fn string(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|&byte| byte == 0);
    &bytes[..end.expect("a terminator")]
}
