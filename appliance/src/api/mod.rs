//! The control API: HTTP on a Unix socket, on a thread of its own. Each request is handed to the background worker,
//! where it runs to its end even if the caller goes away.

mod routes;
mod server;

pub(crate) use server::{ApiError, ApiServer, bind};

use std::future::Future;
use std::sync::Arc;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use labsan_api::{Reply, SCHEMA_VERSION};
use serde::Serialize;

use crate::error::Failure;
use crate::state::Daemon;

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = self.body();
        // What is said of a request that makes no sense quotes it, and it may hold a secret in the wrong place.
        let message = if matches!(self, Self::Request(_)) {
            "the request makes no sense"
        } else {
            body.message.as_str()
        };
        tracing::debug!(code = ?body.code, "refused or failed: {message}");
        let status =
            StatusCode::from_u16(body.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(Reply { schema_version: SCHEMA_VERSION, body })).into_response()
    }
}

/// Run a request on the background worker; its result becomes a reply.
async fn on_worker<T, F, Fut>(daemon: &Arc<Daemon>, work: F) -> Result<Response, Failure>
where
    T: Serialize + Send + 'static,
    F: FnOnce(Arc<Daemon>) -> Fut + Send + 'static,
    Fut: Future<Output = Result<T, Failure>> + 'static,
{
    let here = Arc::clone(daemon);
    let body = daemon.workers.call_background(move || work(here)).await??;
    Ok(Json(Reply::new(body)).into_response())
}
