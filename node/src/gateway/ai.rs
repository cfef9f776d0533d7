//! AI calls in OpenAI's dialect: chat completions, plain and streaming, and the list of models.
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
use mode_envoy_ai::openai::models as bodies;
use mode_envoy_ai::openai::request::ChatRequest;

use super::body::Source;
use super::call::Call;
use super::error::Error;
use super::head::{Subject, content_length};
use super::identify::identify;
use super::pipeline::Answer;
use super::table::{KeyEntry, ModelEntry};
use super::upload::read_whole;
use super::wall_ms;

pub(crate) use self::stream::{AiStream, Next};

/// The longest plain answer that is read before it is relayed.
const PLAIN_BYTES_MAX: usize = 32 << 20;
const CHAT: &str = "openai.chat_completions";
const MODELS: &str = "openai.models";
/// When the models were created is not known; clients only want a number.
const CREATED_UNIX: u64 = 0;

/// A chat completions request, and who serves it.
#[derive(Debug)]
pub(super) struct Chat {
    pub(super) request: ChatRequest,
    pub(super) model: Arc<ModelEntry>,
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
    let bytes_in = body.len() as u64;
    call.received(bytes_in);
    let request =
        ChatRequest::read(body).map_err(|error| Error::Dialect(ErrorBody::from(&error)))?;
    let model = model_of(call, &key, &request.model)?;
    call.about_model(&key, CHAT, &model);
    if model.provider.unusable {
        return Err(Error::ProviderUnusable);
    }
    call.open(bytes_in, Some(request.text_bytes))?;
    let chat = Chat { request, model };
    let received = send::send(call, &chat, parts).await?;
    answer::answer(call, &chat, received).await
}

/// `GET /v1/models`: those that the key may call.
pub(crate) fn models(
    call: &mut Call,
    parts: &Parts,
    subject: &Subject<'_>,
) -> Result<Answer, Error> {
    let key = authenticate(call, parts, subject, MODELS)?;
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
pub(crate) fn model(
    call: &mut Call,
    parts: &Parts,
    subject: &Subject<'_>,
    id: &str,
) -> Result<Answer, Error> {
    let key = authenticate(call, parts, subject, MODELS)?;
    let model = model_of(call, &key, id)?;
    call.open(0, None)?;
    Ok(json(bodies::one(&model.name, CREATED_UNIX)))
}

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

async fn read_body(call: &Call, parts: &Parts, body: Incoming) -> Result<Bytes, Error> {
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
    read_whole(body, limits.ai_body_bytes, limits.client_idle).await
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
