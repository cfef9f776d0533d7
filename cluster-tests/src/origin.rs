//! A plain HTTP service for routes to lead to: it answers every request with what it received, as JSON.

use std::collections::BTreeMap;

use anyhow::Result;
use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde_json::json;

use crate::server::Server;

/// A service that echoes.
#[derive(Debug)]
pub struct Origin {
    server: Server,
}

// === impl Origin ===

impl Origin {
    /// Starts a service that calls itself `name` in its answers.
    ///
    /// # Errors
    ///
    /// There is no free port.
    pub async fn start(name: &'static str) -> Result<Self> {
        let server = Server::start(move |request| echo(name, request)).await?;
        Ok(Self { server })
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }
}

// === free functions ===

async fn echo(name: &'static str, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let headers: BTreeMap<&str, String> = head
        .headers
        .iter()
        .map(|(name, value)| {
            (
                name.as_str(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect();
    let body = match body.collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        Err(error) => format!("the body broke off: {error}"),
    };
    let text = json!({
        "origin": name,
        "method": head.method.as_str(),
        "path": head.uri.to_string(),
        "headers": headers,
        "body": body,
    });
    let mut response = Response::new(Full::from(text.to_string()));
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    let secret = header::HeaderValue::from_static("kept inside");
    response.headers_mut().insert("x-mode-envoy-secret", secret);
    response
}
