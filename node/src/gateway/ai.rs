//! AI calls in OpenAI's dialect: chat completions, plain and streaming, embeddings, and the list of models.
//!
//! The request is read whole, since the model stands in it; the answer is relayed as the provider's bytes.
//! * A stream is metered while it passes (`ai/stream.rs`).
//! * A plain answer is read whole, up to [`PLAIN_BYTES_MAX`], so that its cost can stand in a header; a longer one is
//!   relayed and its usage estimated.
//! * A provider's own 4xx passes through; its refusal of our key does not (`error.rs`).

mod answer;
mod send;
mod stream;

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use hyper::body::Incoming;
use mode_envoy_ai::error::{ErrorBody, ErrorCode};
use mode_envoy_ai::openai::embeddings::EmbeddingsRequest;
use mode_envoy_ai::openai::models as bodies;
use mode_envoy_ai::openai::request::{ChatRequest, RequestError};
use mode_envoy_model::route::BUILT_IN_NAMES;

use super::body::Source;
use super::call::Call;
use super::error::Error;
use super::head::{Subject, content_length};
use super::identify::identify;
use super::limit;
use super::pipeline::Answer;
use super::table::{KeyEntry, ModelEntry};
use super::upload::read_whole;
use super::wall_ms;

pub(crate) use self::stream::{AiStream, Next};

/// The longest plain answer that is read before it is relayed.
const PLAIN_BYTES_MAX: usize = 32 << 20;
const CHAT: &str = BUILT_IN_NAMES[0];
const EMBEDDINGS: &str = BUILT_IN_NAMES[1];
const MODELS: &str = BUILT_IN_NAMES[2];
/// When the models were created is not known; clients only want a number.
const CREATED_UNIX: u64 = 0;

/// A request, and who serves it.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request: AiRequest,
    pub(super) model: Arc<ModelEntry>,
}

/// What a client asks of a model.
#[derive(Debug)]
pub(super) enum AiRequest {
    Chat(ChatRequest),
    Embeddings(EmbeddingsRequest),
}

/// `POST /v1/chat/completions`.
pub(crate) async fn chat(
    call: &mut Call,
    parts: &Parts,
    subject: &Subject<'_>,
    body: Incoming,
) -> Result<Answer, Error> {
    let key = authenticate(call, parts, subject, CHAT)?;
    let body = read_body(call, parts, body).await?;
    let request = ChatRequest::read(body.clone()).map_err(|error| in_dialect(&error))?;
    ask(
        call,
        parts,
        (&key, CHAT),
        body.len(),
        AiRequest::Chat(request),
    )
    .await
}

/// `POST /v1/embeddings`.
pub(crate) async fn embeddings(
    call: &mut Call,
    parts: &Parts,
    subject: &Subject<'_>,
    body: Incoming,
) -> Result<Answer, Error> {
    let key = authenticate(call, parts, subject, EMBEDDINGS)?;
    let body = read_body(call, parts, body).await?;
    let request = EmbeddingsRequest::read(body.clone()).map_err(|error| in_dialect(&error))?;
    // Whatever comes back is no text that a model has made.
    call.has_no_output();
    let request = AiRequest::Embeddings(request);
    ask(call, parts, (&key, EMBEDDINGS), body.len(), request).await
}

/// Has the model answer that the request names.
async fn ask(
    call: &mut Call,
    parts: &Parts,
    (key, route): (&KeyEntry, &'static str),
    bytes_in: usize,
    request: AiRequest,
) -> Result<Answer, Error> {
    let model = model_of(call, key, request.model())?;
    call.about_model(key, route, &model);
    if model.provider.unusable {
        return Err(Error::ProviderUnusable);
    }
    limit::take(call).await?;
    call.open(bytes_in as u64, Some(request.text_bytes()))?;
    let asked = Asked { request, model };
    let received = send::send(call, &asked, parts).await?;
    answer::answer(call, &asked, received).await
}

fn in_dialect(error: &RequestError) -> Error {
    Error::Dialect(ErrorBody::from(error))
}

/// `GET /v1/models`: those that the key may call.
pub(crate) async fn models(
    call: &mut Call,
    parts: &Parts,
    subject: &Subject<'_>,
) -> Result<Answer, Error> {
    let key = authenticate(call, parts, subject, MODELS)?;
    limit::take(call).await?;
    call.open(0, None)?;
    let view = Rc::clone(call.view());
    let names = view
        .table()
        .models()
        .filter(|model| model.admits(&key.key.tenant, &key.key.consumer))
        .map(|model| &*model.name);
    Ok(json(bodies::list(names, CREATED_UNIX)))
}

/// `GET /v1/models/{id}`.
pub(crate) async fn model(
    call: &mut Call,
    parts: &Parts,
    subject: &Subject<'_>,
    id: &str,
) -> Result<Answer, Error> {
    let key = authenticate(call, parts, subject, MODELS)?;
    let model = model_of(call, &key, id)?;
    limit::take(call).await?;
    call.open(0, None)?;
    Ok(json(bodies::one(&model.name, CREATED_UNIX)))
}

// === impl AiRequest ===

impl AiRequest {
    /// The model that the client asks for.
    fn model(&self) -> &str {
        match self {
            Self::Chat(request) => &request.model,
            Self::Embeddings(request) => &request.model,
        }
    }

    /// Bytes of text in the prompt, for the estimate of its tokens.
    fn text_bytes(&self) -> u64 {
        match self {
            Self::Chat(request) => request.text_bytes,
            Self::Embeddings(request) => request.text_bytes,
        }
    }

    /// Where a provider takes it, behind its base URL.
    fn path(&self) -> &'static str {
        match self {
            Self::Chat(_) => "/chat/completions",
            Self::Embeddings(_) => "/embeddings",
        }
    }

    /// The body for a provider that calls the model so.
    fn rewrite(&self, upstream_model: &str) -> Bytes {
        match self {
            Self::Chat(request) => request.rewrite(upstream_model, true),
            Self::Embeddings(request) => request.rewrite(upstream_model),
        }
    }
}

// === free functions ===

fn authenticate(
    call: &mut Call,
    parts: &Parts,
    subject: &Subject<'_>,
    route: &'static str,
) -> Result<Arc<KeyEntry>, Error> {
    call.may_take_keys()?;
    let view = Rc::clone(call.view());
    let identity = identify(&parts.headers, subject.query, view.table(), wall_ms())?;
    call.about_builtin(&identity.key, route);
    Ok(identity.key)
}

/// A model that the caller may not use is not told from one that does not exist.
fn model_of(call: &Call, key: &KeyEntry, name: &str) -> Result<Arc<ModelEntry>, Error> {
    let model = call.view().table().model(name);
    model
        .filter(|model| model.admits(&key.key.tenant, &key.key.consumer))
        .map(Arc::clone)
        .ok_or_else(|| Error::Dialect(ErrorBody::model_not_found(name)))
}

async fn read_body(call: &mut Call, parts: &Parts, body: Incoming) -> Result<Bytes, Error> {
    let limits = call.worker().limits;
    if let Some(encoding) = parts.headers.get(CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        let message =
            "compressed request bodies are not taken; send the body without content-encoding";
        return Err(Error::Dialect(ErrorBody::new(
            ErrorCode::RequestInvalid,
            message,
        )));
    }
    if content_length(&parts.headers).is_some_and(|length| length > limits.ai_body_bytes) {
        return Err(Error::BodyTooLarge {
            limit: limits.ai_body_bytes,
        });
    }
    let deadline = call.started() + limits.ai_body_timeout;
    let body = read_whole(body, limits.ai_body_bytes, limits.client_idle, deadline).await?;
    call.received(body.len() as u64);
    Ok(body)
}

fn json(body: Bytes) -> Answer {
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Answer {
        status: StatusCode::OK,
        headers,
        source: Source::Whole(body),
    }
}
