//! A plain HTTP service for the demo's route to lead to: it answers every request with a line of JSON.

use std::convert::Infallible;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// A running service; it ends with the value.
pub(crate) struct Shop {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

// === impl Shop ===

impl Shop {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Starts the service on a free port of loopback.
pub(crate) fn start() -> Result<Shop> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))
        .context("starting the demo's HTTP service")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let listener = TcpListener::from_std(listener)?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let service = service_fn(answer);
                // A client that goes away ends its connection; the next one gets its own.
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    Ok(Shop {
        address,
        _tasks: tasks,
    })
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = serde_json::json!({"service": "orders", "path": request.uri().path()}).to_string();
    let mut response = Response::new(Full::from(body));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    Ok(response)
}
