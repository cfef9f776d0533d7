//! A small HTTP/1.1 client for the demo's own calls: one connection a call, bounded in size and time.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

const MAX_ANSWER: usize = 4 << 20;
const WITHIN: Duration = Duration::from_secs(10);

/// An answer, read to its end.
pub(crate) struct Answer {
    pub(crate) status: u16,
    body: Bytes,
}

// === impl Answer ===

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("reading {:?} as JSON", self.text()))
    }

    /// The JSON objects of an event stream, in order.
    pub(crate) fn events(&self) -> Result<Vec<serde_json::Value>> {
        let text = self.text();
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        ensure!(
            text.trim_end().ends_with("data: [DONE]"),
            "the stream was cut: {text:?}"
        );
        data.filter(|data| *data != "[DONE]")
            .map(|data| {
                serde_json::from_str(data).with_context(|| format!("reading event {data:?}"))
            })
            .collect()
    }
}

/// GET without credentials.
pub(crate) async fn get(address: &str, path: &str) -> Result<Answer> {
    send(address, Request::get(path).body(Full::default())?).await
}

/// GET with an API key.
pub(crate) async fn get_with_key(address: &str, path: &str, key: &str) -> Result<Answer> {
    let request = Request::get(path).header(header::AUTHORIZATION, format!("Bearer {key}"));
    send(address, request.body(Full::default())?).await
}

/// POST of a JSON body with an API key.
pub(crate) async fn post(
    address: &str,
    path: &str,
    key: &str,
    body: &serde_json::Value,
) -> Result<Answer> {
    let request = Request::post(path)
        .header(header::AUTHORIZATION, format!("Bearer {key}"))
        .header(header::CONTENT_TYPE, "application/json");
    send(address, request.body(Full::from(body.to_string()))?).await
}

async fn send(address: &str, request: Request<Full<Bytes>>) -> Result<Answer> {
    let what = format!("{} http://{address}{}", request.method(), request.uri());
    tokio::time::timeout(WITHIN, exchange(address, request))
        .await
        .with_context(|| format!("{what}: no answer within {} s", WITHIN.as_secs()))?
        .with_context(|| what.clone())
}

async fn exchange(address: &str, mut request: Request<Full<Bytes>>) -> Result<Answer> {
    request.headers_mut().insert(header::HOST, address.parse()?);
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let receive = async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|e| anyhow::anyhow!("reading the answer: {e}"))?
            .to_bytes();
        Ok(Answer { status, body })
    };
    // The connection is driven for as long as the answer takes, and dropped with it.
    tokio::pin!(receive);
    tokio::select! {
        answer = &mut receive => answer,
        ended = connection => {
            ended?;
            receive.await
        }
    }
}
