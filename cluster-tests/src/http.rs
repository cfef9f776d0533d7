//! A small HTTP/1.1 client: one connection a call, bounded in size and time, with answers read whole or piece by piece.
//!
//! Dropping a [`Streaming`] answer closes its connection: that is how a client leaves early.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const MAX_ANSWER: usize = 16 << 20;
const WITHIN: Duration = Duration::from_secs(30);

/// The path of chat calls.
pub const CHAT: &str = "/v1/chat/completions";

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The head's fields.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// An answer whose body is still coming.
#[derive(Debug)]
pub struct Streaming {
    /// The status.
    pub status: u16,
    /// The head's fields.
    pub headers: HeaderMap,
    body: Incoming,
    _connection: JoinSet<()>,
}

/// A connection that is kept for several calls, one after the other.
#[derive(Debug)]
pub struct Connection {
    address: String,
    sender: http1::SendRequest<Full<Bytes>>,
    tasks: JoinSet<()>,
}

// === impl Answer ===

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    ///
    /// It is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("reading {:?} as JSON", self.text()))
    }

    /// A field of the head; empty where it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// This answer, if it has the status.
    ///
    /// # Errors
    ///
    /// It has another; the error tells the body.
    pub fn expect(self, status: u16) -> Result<Self> {
        ensure!(
            self.status == status,
            "the answer is {} where {status} was expected: {} (x-mode-envoy-error: {:?})",
            self.status,
            self.text(),
            self.header("x-mode-envoy-error")
        );
        Ok(self)
    }

    /// The JSON objects of an event stream, in order.
    ///
    /// # Errors
    ///
    /// The stream is not complete, or an event is no JSON.
    pub fn events(&self) -> Result<Vec<Value>> {
        let text = self.text();
        ensure!(
            text.trim_end().ends_with("data: [DONE]"),
            "the stream was cut: {text:?}"
        );
        text.lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .filter(|data| *data != "[DONE]")
            .map(|data| {
                serde_json::from_str(data).with_context(|| format!("reading event {data:?}"))
            })
            .collect()
    }
}

// === impl Streaming ===

impl Streaming {
    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    ///
    /// The body was cut, or nothing came for long.
    pub async fn piece(&mut self) -> Result<Option<Bytes>> {
        loop {
            let frame = tokio::time::timeout(WITHIN, self.body.frame()).await;
            match frame.context("waiting for a piece of an answer")? {
                None => return Ok(None),
                Some(frame) => match frame.context("reading an answer")?.into_data() {
                    Ok(data) => return Ok(Some(data)),
                    Err(_trailers) => {}
                },
            }
        }
    }

    /// Reads pieces until what was read contains `text`; returns what was read.
    ///
    /// # Errors
    ///
    /// The body ends or is cut before that.
    pub async fn until(&mut self, text: &str) -> Result<String> {
        let mut read = String::new();
        while !read.contains(text) {
            let piece = self.piece().await?;
            let piece = piece.with_context(|| format!("{text:?} is not in the answer {read:?}"))?;
            read.push_str(&String::from_utf8_lossy(&piece));
        }
        Ok(read)
    }

    /// Reads the body to its end.
    ///
    /// # Errors
    ///
    /// The body was cut, or is larger than a test's answer should be.
    pub async fn finish(mut self) -> Result<Answer> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece().await? {
            body.extend_from_slice(&piece);
            ensure!(
                body.len() <= MAX_ANSWER,
                "the answer is larger than {MAX_ANSWER} bytes"
            );
        }
        Ok(Answer {
            status: self.status,
            headers: self.headers,
            body: body.into(),
        })
    }
}

// === impl Connection ===

impl Connection {
    /// Connects.
    ///
    /// # Errors
    ///
    /// Nobody listens there.
    pub async fn open(address: &str) -> Result<Self> {
        let (sender, tasks) = connect(address).await?;
        Ok(Self {
            address: address.to_owned(),
            sender,
            tasks,
        })
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    ///
    /// The connection was closed, or the answer cut.
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Answer> {
        tokio::time::timeout(WITHIN, async {
            self.sender
                .ready()
                .await
                .context("the connection was closed")?;
            let response = self
                .sender
                .send_request(with_host(request, &self.address)?)
                .await?;
            let (head, body) = response.into_parts();
            let body = body
                .collect()
                .await
                .context("reading an answer")?
                .to_bytes();
            Ok(Answer {
                status: head.status.as_u16(),
                headers: head.headers,
                body,
            })
        })
        .await
        .with_context(|| format!("no answer from {}", self.address))?
    }

    /// Whether the connection still stands.
    pub fn is_open(&self) -> bool {
        !self.sender.is_closed() && !self.tasks.is_empty()
    }
}

// === free functions ===

/// Sends a request and waits for the head of its answer.
///
/// # Errors
///
/// There was no answer.
pub async fn open(address: &str, request: Request<Full<Bytes>>) -> Result<Streaming> {
    let what = format!("{} http://{address}{}", request.method(), request.uri());
    let head = async {
        let (mut sender, tasks) = connect(address).await?;
        let response = sender.send_request(with_host(request, address)?).await?;
        let (head, body) = response.into_parts();
        let status = head.status.as_u16();
        Ok::<_, anyhow::Error>(Streaming {
            status,
            headers: head.headers,
            body,
            _connection: tasks,
        })
    };
    tokio::time::timeout(WITHIN, head)
        .await
        .with_context(|| format!("{what}: no answer within {} s", WITHIN.as_secs()))?
        .context(what)
}

/// Sends a request and reads its answer.
///
/// # Errors
///
/// There was no answer, or it was cut.
pub async fn send(address: &str, request: Request<Full<Bytes>>) -> Result<Answer> {
    open(address, request).await?.finish().await
}

/// GET, with an API key where one is given.
///
/// # Errors
///
/// There was no answer.
pub async fn get(address: &str, path: &str, key: Option<&str>) -> Result<Answer> {
    let mut request = Request::get(path);
    if let Some(key) = key {
        request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
    }
    send(address, request.body(Full::default())?).await
}

/// POST of a JSON body with an API key.
///
/// # Errors
///
/// There was no answer.
pub async fn post(address: &str, path: &str, key: &str, body: &Value) -> Result<Answer> {
    send(address, json_request(path, key, body)?).await
}

/// The POST of a JSON body with an API key.
///
/// # Errors
///
/// The key or the path cannot be sent.
pub fn json_request(path: &str, key: &str, body: &Value) -> Result<Request<Full<Bytes>>> {
    Request::post(path)
        .header(header::AUTHORIZATION, format!("Bearer {key}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from(body.to_string()))
        .map_err(|error| anyhow!("making a request: {error}"))
}

/// A chat request that says `text`.
pub fn chat(model: &str, text: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": text}]})
}

/// A chat request for a stream, with usage at its end.
pub fn chat_stream(model: &str, text: &str) -> Value {
    let mut body = chat(model, text);
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    body
}

async fn connect(address: &str) -> Result<(http1::SendRequest<Full<Bytes>>, JoinSet<()>)> {
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("connecting to {address}"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        // How the connection ended is told to whoever waits for the answer.
        let _ = connection.await;
    });
    Ok((sender, tasks))
}

fn with_host(mut request: Request<Full<Bytes>>, address: &str) -> Result<Request<Full<Bytes>>> {
    if !request.headers().contains_key(header::HOST) {
        request.headers_mut().insert(header::HOST, address.parse()?);
    }
    Ok(request)
}
