//! An OpenAI-compatible provider that trusts nobody: it checks every request, tells exact usage, and remembers which
//! answers it wrote to the end.
//!
//! What it checks: the credential is the provider's own, no header of ours or of the client's credential comes through, a
//! stream asks for usage. A request that breaks a rule is answered with 400 and kept as a complaint, which
//! [`Upstream::check`] turns into a failure of the test. Faults are scripted by upstream model name.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::server::Server;

mod answer;

use self::answer::{Script, Step};

/// The credential that the configuration gives the provider.
pub const PROVIDER_KEY: &str = "sk-upstream-0123456789";

/// How answers for a model go wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// The answer tells no usage.
    NoUsage,
    /// The answer is an error of this status.
    Status(u16),
    /// The connection breaks in the middle of the answer.
    Cut,
    /// A plain answer waits before its head, a stream after its first text, until [`Upstream::release`].
    Held,
}

/// One request that was well-formed, and what became of its answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Seen {
    /// The model that was asked for, by the provider's name.
    pub model: String,
    /// The text of the last message: tests tell calls apart by it.
    pub label: String,
    /// Whether a stream was asked for.
    pub stream: bool,
    /// The input tokens that the answer tells.
    pub prompt_tokens: u64,
    /// The output tokens that the answer tells.
    pub completion_tokens: u64,
    /// Whether the whole answer was written.
    pub finished: bool,
}

/// A running provider.
#[derive(Debug)]
pub struct Upstream {
    server: Server,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    book: Mutex<Book>,
    gate: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Book {
    seen: Vec<Seen>,
    complaints: Vec<String>,
    faults: BTreeMap<String, Fault>,
    delay: Option<Duration>,
}

// === impl Upstream ===

impl Upstream {
    /// Starts a provider.
    ///
    /// # Errors
    ///
    /// There is no free port.
    pub async fn start() -> Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST).await
    }

    /// Starts a provider on an address of this machine.
    ///
    /// # Errors
    ///
    /// There is no free port, or no such address.
    pub async fn start_at(address: Ipv4Addr) -> Result<Self> {
        let shared = Arc::new(Shared {
            book: Mutex::default(),
            gate: watch::Sender::new(false),
        });
        let server = {
            let shared = Arc::clone(&shared);
            Server::start_at(address, move |request| answer(Arc::clone(&shared), request)).await?
        };
        Ok(Self { server, shared })
    }

    /// A configuration that has this provider serve `models`, each by the provider's name `up-` and its own, to a consumer
    /// `mobile-app` of the tenant `acme`.
    pub fn document(&self, models: &[&str]) -> String {
        let models: Vec<_> = models
            .iter()
            .map(|name| {
                format!("  - {{name: {name}, targets: [{{provider: up, model: up-{name}}}]}}")
            })
            .collect();
        let models = models.join("\n");
        let url = self.base_url();
        format!(
            r#"
tenants: [{{name: acme}}]
consumers: [{{name: mobile-app, tenant: acme}}]
providers:
  - {{name: up, protocol: openai, base_url: "{url}", keys: [{{value: {PROVIDER_KEY}}}]}}
models:
{models}
"#
        )
    }

    /// What a provider's `base_url` is.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.server.address())
    }

    /// From now on, answers for this model go wrong.
    pub fn fault(&self, model: &str, fault: Fault) {
        self.shared.book().faults.insert(model.to_owned(), fault);
    }

    /// From now on, every piece of an answer waits so long before it is written, as a model that thinks.
    pub fn slow(&self, delay: Duration) {
        self.shared.book().delay = Some(delay);
    }

    /// Lets everything that is held go on.
    pub fn release(&self) {
        self.shared.gate.send_replace(true);
    }

    /// Every well-formed request so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.book().seen.clone()
    }

    /// The request with this label, if it has come.
    pub fn find(&self, label: &str) -> Option<Seen> {
        self.shared
            .book()
            .seen
            .iter()
            .find(|seen| seen.label == label)
            .cloned()
    }

    /// Fails if any request broke a rule.
    ///
    /// # Errors
    ///
    /// Lists what was wrong.
    pub fn check(&self) -> Result<()> {
        let complaints = self.shared.book().complaints.clone();
        ensure!(
            complaints.is_empty(),
            "what reached the upstream was wrong: {complaints:#?}"
        );
        Ok(())
    }
}

// === impl Shared ===

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finished(&self, index: usize) {
        if let Some(seen) = self.book().seen.get_mut(index) {
            seen.finished = true;
        }
    }
}

// === free functions ===

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Response<Script> {
    let (head, body) = request.into_parts();
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        // The gateway gave up while it was sending; there is nobody to answer.
        Err(_) => return error(StatusCode::BAD_REQUEST, "the request broke off"),
    };
    let path = (&head.method, head.uri.path());
    let read = if path == (&Method::POST, "/v1/chat/completions") {
        check_head(&head.headers).and_then(|()| read_body(&body))
    } else {
        Err(format!(
            "{} {} is no path of this provider",
            head.method, head.uri
        ))
    };
    match read {
        Ok(seen) => begin(shared, seen).await,
        Err(complaint) => {
            let response = error(StatusCode::BAD_REQUEST, &complaint);
            shared.book().complaints.push(complaint);
            response
        }
    }
}

async fn begin(shared: Arc<Shared>, seen: Seen) -> Response<Script> {
    let (index, fault, delay) = {
        let mut book = shared.book();
        book.seen.push(seen.clone());
        (
            book.seen.len() - 1,
            book.faults.get(&seen.model).copied(),
            book.delay,
        )
    };
    let mut gate = shared.gate.subscribe();
    if let Some(Fault::Status(status)) = fault {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        return error(status, "this fault was scripted");
    }
    let steps = if seen.stream {
        answer::stream(&seen, fault, gate)
    } else {
        if fault == Some(Fault::Held) {
            // The sender lives as long as `shared`.
            let _ = gate.wait_for(|open| *open).await;
        }
        answer::plain(&seen, fault)
    };
    let steps = match delay {
        Some(delay) => answer::slowly(steps, delay),
        None => steps,
    };
    let kind = if seen.stream {
        "text/event-stream"
    } else {
        "application/json"
    };
    let script = Script::new(steps, move || shared.finished(index));
    with_type(Response::new(script), kind)
}

fn check_head(headers: &HeaderMap) -> Result<(), String> {
    let own = format!("Bearer {PROVIDER_KEY}");
    let credentials: Vec<_> = headers.get_all(header::AUTHORIZATION).iter().collect();
    if credentials != [&own] {
        return Err(format!(
            "authorization is not the provider's key alone: {credentials:?}"
        ));
    }
    for (name, value) in headers {
        let name = name.as_str();
        let value = String::from_utf8_lossy(value.as_bytes());
        let foreign = ["x-api-key", "x-goog-api-key", "api-key", "apikey"].contains(&name);
        if name.starts_with("x-mode-envoy-") || foreign || value.contains("me-") {
            return Err(format!(
                "the header {name}: {value} should not reach an upstream"
            ));
        }
        if name == "accept-encoding" && value != "identity" {
            return Err(format!(
                "accept-encoding: {value}; the gateway has to read the answer"
            ));
        }
    }
    if headers
        .get(header::CONTENT_TYPE)
        .is_none_or(|kind| !kind.as_bytes().starts_with(b"application/json"))
    {
        return Err("the content-type is not application/json".to_owned());
    }
    Ok(())
}

fn read_body(body: &Bytes) -> Result<Seen, String> {
    let body: Value =
        serde_json::from_slice(body).map_err(|error| format!("the body is no JSON: {error}"))?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let model = text(&body["model"]).ok_or_else(|| format!("no model in {body}"))?;
    let last = body["messages"]
        .as_array()
        .and_then(|messages| messages.last());
    let label = last
        .and_then(|message| text(&message["content"]))
        .ok_or_else(|| format!("no text in the last message of {body}"))?;
    let stream = body["stream"].as_bool().unwrap_or(false);
    if stream && body["stream_options"]["include_usage"] != json!(true) {
        return Err(format!("a stream without usage was asked for: {body}"));
    }
    if !stream && !body["stream_options"].is_null() {
        return Err(format!("stream_options without a stream: {body}"));
    }
    let (prompt_tokens, completion_tokens) = tokens(&label);
    Ok(Seen {
        model,
        label,
        stream,
        prompt_tokens,
        completion_tokens,
        finished: false,
    })
}

/// Usage of a call: fixed by its label, and not what an estimate by length would give.
fn tokens(label: &str) -> (u64, u64) {
    let hash = label.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (1_000 + (hash >> 8) % 997, 500 + (hash >> 32) % 499)
}

fn error(status: StatusCode, message: &str) -> Response<Script> {
    let body =
        json!({"error": {"message": message, "type": "upstream", "param": null, "code": null}});
    let mut response = Response::new(Script::new(
        vec![Step::Send(Bytes::from(body.to_string()))],
        || {},
    ));
    *response.status_mut() = status;
    with_type(response, "application/json")
}

fn with_type(mut response: Response<Script>, kind: &'static str) -> Response<Script> {
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
#[path = "upstream/upstream_test.rs"]
mod tests;
