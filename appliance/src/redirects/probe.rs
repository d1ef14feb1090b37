//! Is there somebody at an address who answers? One TCP connection, or one GET over it, bounded in what is read.

use std::net::SocketAddr;

use axum::body::Bytes;
use futures_util::future::{Either, select};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;

use crate::config::redirect::Check;
use crate::limits::MAX_CHECK_ANSWER_BYTES;

/// What to ask, and where.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    /// The address that initiators would be sent to.
    pub(super) address: SocketAddr,
    /// What must work there.
    pub(super) check: Check,
    /// The answer must tell how many sessions are there.
    pub(super) wants_count: bool,
}

/// Why a check has failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeError {
    /// Nobody listens, or there is no way.
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    /// Not HTTP, or not all of it.
    #[error("no proper HTTP answer: {0}")]
    Http(#[from] hyper::Error),
    /// The request cannot be put into words.
    #[error("cannot ask: {0}")]
    Request(#[from] axum::http::Error),
    /// It says that it is not well.
    #[error("it answers with HTTP status {0}")]
    Status(u16),
    /// The body is too long, or was cut off.
    #[error("its answer was not received whole, or is longer than {MAX_CHECK_ANSWER_BYTES} bytes")]
    Body,
    /// The body is no count.
    #[error("its answer does not tell the number of sessions, as in {{\"sessions\": 3}}")]
    NoCount,
    /// It took too long.
    #[error("no answer within {0} s")]
    TimedOut(u64),
}

/// The body of an answer with a count; what else is in it does not matter.
#[derive(Deserialize)]
struct Count {
    sessions: u64,
}

impl Probe {
    /// Check once; the number of sessions if that is wanted. Takes as long as the other side does.
    pub(super) async fn run(&self) -> Result<Option<u64>, ProbeError> {
        match &self.check {
            Check::Tcp => connect(self.address).await.map(|_| None),
            Check::Http { port, path } => self.get(SocketAddr::new(self.address.ip(), *port), path).await,
        }
    }

    async fn get(&self, address: SocketAddr, path: &str) -> Result<Option<u64>, ProbeError> {
        let stream = TokioIo::new(connect(address).await?);
        let mut client = hyper::client::conn::http1::Builder::new();
        client.max_buf_size(MAX_CHECK_ANSWER_BYTES);
        let (mut sender, connection) = client.handshake(stream).await?;
        let request = Request::get(path)
            .header("host", address.to_string())
            .header("connection", "close")
            .header("user-agent", "labsan")
            .body(Empty::<Bytes>::new())?;
        let exchange = Box::pin(async move { self.understand(sender.send_request(request).await?).await });
        match select(exchange, Box::pin(connection)).await {
            Either::Left((result, _)) => result,
            // What was received before the connection ended is still to be looked at.
            Either::Right((_, exchange)) => exchange.await,
        }
    }

    async fn understand(&self, response: Response<Incoming>) -> Result<Option<u64>, ProbeError> {
        if !response.status().is_success() {
            return Err(ProbeError::Status(response.status().as_u16()));
        }
        if !self.wants_count {
            return Ok(None);
        }
        let body = Limited::new(response.into_body(), MAX_CHECK_ANSWER_BYTES).collect().await;
        let bytes = body.map_err(|_| ProbeError::Body)?.to_bytes();
        let count: Count = serde_json::from_slice(&bytes).map_err(|_| ProbeError::NoCount)?;
        Ok(Some(count.sessions))
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, ProbeError> {
    TcpStream::connect(address).await.map_err(ProbeError::Connect)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// What a check makes of somebody who answers with this; and what it asked.
    async fn asked(answer: &str, wants_count: bool) -> (Result<Option<u64>, String>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // The port that is asked is not the one that initiators are sent to.
        let check = Check::Http { port: address.port(), path: "/health?of=labsan".into() };
        let probe = Probe { address: SocketAddr::new(address.ip(), 1), check, wants_count };
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            // Whoever is not listened to any more cannot say all of it.
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
            String::from_utf8(request).unwrap()
        };
        let both = async { tokio::join!(probe.run(), serve) };
        // Who asks elsewhere is waited for in vain.
        let (result, request) = tokio::time::timeout(Duration::from_secs(20), both).await.unwrap();
        (result.map_err(|error| error.to_string()), request)
    }

    fn http(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn a_get_of_the_path_is_answered_with_2xx() {
        let (result, request) = asked(&http("200 OK", "fine"), false).await;
        assert_eq!(result, Ok(None));
        assert!(request.starts_with("GET /health?of=labsan HTTP/1.1\r\nhost: 127.0.0.1:"), "{request}");
        assert_eq!(asked("HTTP/1.0 204 No Content\r\n\r\n", false).await.0, Ok(None));
        for (status, code) in [("503 Service Unavailable", 503), ("302 Found", 302), ("404 Not Found", 404)] {
            let expected = Err(format!("it answers with HTTP status {code}"));
            assert_eq!(asked(&http(status, ""), false).await.0, expected);
        }
        for nonsense in ["", "SSH-2.0-OpenSSH\r\n", "HTTP/1.1 200 OK\r\ncontent-le"] {
            let told = asked(nonsense, false).await.0.unwrap_err();
            assert!(told.starts_with("no proper HTTP answer"), "{nonsense:?}: {told}");
        }
    }

    #[tokio::test]
    async fn a_count_of_sessions_is_read_where_it_is_wanted() {
        let told = |body: &str| asked_for_count(http("200 OK", body));
        assert_eq!(told(r#"{"sessions": 7, "name": "san7"}"#).await, Ok(Some(7)));
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"ses\r\n9\r\nsions\":2}\r\n0\r\n\r\n";
        assert_eq!(asked_for_count(chunked.to_owned()).await, Ok(Some(2)));
        for body in ["", "fine", "7", r#"{"sessions": -1}"#, r#"{"session": 1}"#] {
            let told = told(body).await.unwrap_err();
            assert!(told.starts_with("its answer does not tell"), "{body:?}: {told}");
        }
        let cut = "HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{\"sessions\": 7}".to_owned();
        assert!(asked_for_count(cut).await.unwrap_err().starts_with("its answer was not received whole"));
    }

    async fn asked_for_count(answer: String) -> Result<Option<u64>, String> {
        asked(&answer, true).await.0
    }

    #[tokio::test]
    async fn answers_without_end_are_not_taken_in() {
        let spaces = " ".repeat(MAX_CHECK_ANSWER_BYTES);
        let body = asked(&http("200 OK", &format!("{spaces}{{\"sessions\": 1}}")), true).await.0;
        assert!(body.unwrap_err().contains("longer than 16384 bytes"));
        let header = asked(&format!("HTTP/1.1 200 OK\r\nx: {spaces}{spaces}\r\n\r\n"), false).await.0;
        assert!(header.unwrap_err().starts_with("no proper HTTP answer"));
    }

    #[tokio::test]
    async fn whoever_takes_a_connection_passes_and_who_says_nothing_is_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tcp = Probe { address, check: Check::Tcp, wants_count: false };
        assert_eq!(tcp.run().await.unwrap(), None);
        // How long is the caller's affair: a probe that is dropped is over.
        let silent = Probe { check: Check::Http { port: address.port(), path: "/".into() }, ..tcp.clone() };
        assert!(tokio::time::timeout(Duration::from_millis(50), silent.run()).await.is_err());
        drop(listener);
        assert!(tcp.run().await.unwrap_err().to_string().starts_with("cannot connect: "));
    }
}
