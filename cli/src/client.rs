//! How does raidctl talk to the daemon? HTTP on a Unix socket, one request per connection.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use labsan_api::{ErrorBody, Reply, paths};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::error::CliError;

/// A read is answered at once by a daemon that lives.
const READ_PATIENCE: Duration = Duration::from_secs(30);

/// The way to one daemon.
#[derive(Debug)]
pub(crate) struct Client {
    socket: PathBuf,
}

/// An answer as it came, and as it was understood.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    /// The JSON, to pass on untouched.
    pub(crate) json: serde_json::Value,
    /// The same, typed.
    pub(crate) body: T,
}

impl Client {
    /// The daemon behind this socket.
    pub(crate) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Ask.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Answer<T>, CliError> {
        self.get_within(path, READ_PATIENCE).await
    }

    /// Ask something that may take a while to be answered.
    pub(crate) async fn get_within<T: DeserializeOwned>(
        &self,
        path: &str,
        patience: Duration,
    ) -> Result<Answer<T>, CliError> {
        let call = self.call(Method::GET, path, Vec::new());
        let json = tokio::time::timeout(patience, call)
            .await
            .map_err(|_| CliError::NoAnswer { path: self.socket.clone(), seconds: patience.as_secs() })??;
        let reply: Reply<T> = self.understand(json.clone())?;
        Ok(Answer { json, body: reply.body })
    }

    /// Change something. Waits as long as the daemon works on it.
    pub(crate) async fn send<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &B,
    ) -> Result<Answer<T>, CliError> {
        let bytes = serde_json::to_vec(body).map_err(|error| self.transport(&error))?;
        let json = self.call(method, path, bytes).await?;
        let body = self.understand(json.clone())?;
        Ok(Answer { json, body })
    }

    /// Take something away.
    pub(crate) async fn delete<T: DeserializeOwned>(
        &self,
        route: &str,
        names: &[&str],
    ) -> Result<Answer<T>, CliError> {
        let json = self.call(Method::DELETE, &paths::fill(route, names), Vec::new()).await?;
        let body = self.understand(json.clone())?;
        Ok(Answer { json, body })
    }

    async fn call(&self, method: Method, path: &str, body: Vec<u8>) -> Result<serde_json::Value, CliError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.no_connection(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.transport(&error))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "labsand")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| self.transport(&error))?;
        // The sender goes with the exchange: without it the connection closes, else it would wait for more.
        let exchange = async move {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let bytes = response.into_body().collect().await?.to_bytes();
            Ok::<_, hyper::Error>((status, bytes))
        };
        // The connection's own end is of no interest once the answer is here.
        let (exchanged, _) = tokio::join!(exchange, connection);
        let (status, bytes) = exchanged.map_err(|error| self.transport(&error))?;
        let json: serde_json::Value = serde_json::from_slice(&bytes)
            .map_err(|_| self.transport(&format!("an answer that is no JSON (HTTP status {status})")))?;
        if status.is_success() {
            return Ok(json);
        }
        Err(match serde_json::from_value::<ErrorBody>(json) {
            Ok(body) => CliError::Daemon(body),
            Err(_) => self.transport(&format!("HTTP status {status}")),
        })
    }

    fn understand<T: DeserializeOwned>(&self, json: serde_json::Value) -> Result<T, CliError> {
        serde_json::from_value(json).map_err(|error| {
            self.transport(&format!(
                "an answer that this raidctl does not understand ({error}); are their versions the same?"
            ))
        })
    }

    fn no_connection(&self, error: &io::Error) -> CliError {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory => {
                CliError::NotRunning(self.socket.clone())
            }
            io::ErrorKind::PermissionDenied => CliError::NoPermission(self.socket.clone()),
            _ => self.transport(error),
        }
    }

    fn transport(&self, why: &dyn std::fmt::Display) -> CliError {
        CliError::Transport { path: self.socket.clone(), why: why.to_string() }
    }
}
