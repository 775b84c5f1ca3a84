//! Any answers of a server to the startup packet: no panic, no password in clear text, and no
//! server is believed that does not know the password.
#![no_main]

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use antifreeze::internal::startup::{Mechanism, authenticate};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const PASSWORD: &str = "correct horse battery staple";

/// The first bytes of a nonce in the example of RFC 7677: what the client made up stands in its
/// place.
const NONCE: &[u8; 24] = b"rOprNGfwEbeRWgbNEkqO%hvY";

/// A server that says `answers`, `chunk` bytes at a time.
struct Server {
    answers: Vec<u8>,
    chunk: usize,
    heard: Vec<u8>,
}

fuzz_target!(|data: &[u8]| {
    let [choice, chunk, answers @ ..] = data else {
        return;
    };
    let guess = match choice % 3 {
        0 => None,
        1 => Some(Mechanism::Scram),
        _ => Some(Mechanism::ScramPlus),
    };
    let binding = (choice & 0x80 != 0).then_some(&b"a hash"[..]);
    let mut server = Server {
        answers: answers.to_vec(),
        chunk: usize::from(*chunk) + 1,
        heard: Vec::new(),
    };
    let asked = {
        let start = pin!(authenticate(&mut server, PASSWORD, guess, binding));
        match start.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(asked) => asked,
            Poll::Pending => unreachable!("nothing is waited for"),
        }
    };
    // It cannot know the keys.
    assert_eq!(asked, None);
    let told = |text: &[u8]| {
        server
            .heard
            .windows(text.len())
            .any(|window| window == text)
    };
    assert!(!told(PASSWORD.as_bytes()), "not permitted");
    assert!(server.heard.len() < 1000);
});

impl AsyncRead for Server {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let length = self.answers.len().min(self.chunk).min(buf.remaining());
        let made_up = self
            .heard
            .windows(29)
            .find(|text| text.starts_with(b"n=,r="));
        let place = self.answers.windows(24).position(|text| text == NONCE);
        if let (Some(made_up), Some(at)) = (made_up.map(<[u8]>::to_vec), place) {
            self.answers[at..at + 24].copy_from_slice(&made_up[5..]);
        }
        buf.put_slice(&self.answers[..length]);
        self.answers.drain(..length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Server {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.heard.extend(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
