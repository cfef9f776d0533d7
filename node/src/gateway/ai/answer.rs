//! What a provider's answer becomes for the client, by its status and kind.

use std::future::poll_fn;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use mode_envoy_ai::openai::relay::UsageChunk;
use mode_envoy_ai::openai::request::ChatRequest;
use mode_envoy_ai::openai::{embeddings, response};
use mode_envoy_ai::{estimate, price};

use super::super::body::Source;
use super::super::call::Call;
use super::super::error::Error;
use super::super::pipeline::Answer;
use super::send::Received;
use super::stream::{AiStream, Incoming};
use super::{AiRequest, Asked, PLAIN_BYTES_MAX};
use crate::upstream::{Exchange, UpstreamError};

const MODEL: HeaderName = HeaderName::from_static("x-mode-envoy-model");
const PROVIDER: HeaderName = HeaderName::from_static("x-mode-envoy-provider");
const COST: HeaderName = HeaderName::from_static("x-mode-envoy-cost-usd");

/// As much of a plain answer as is read before it is relayed.
enum Plain {
    Whole(Bytes),
    Long {
        first: Bytes,
        exchange: Box<Exchange>,
    },
}

/// Answers the client with what the provider sent.
pub(super) async fn answer(
    call: &mut Call,
    asked: &Asked,
    received: Received,
) -> Result<Answer, Error> {
    let Received {
        status,
        mut headers,
        body,
        length,
    } = received;
    let kind = Kind::of(&headers);
    name_the_model(&mut headers, asked);
    if !status.is_success() {
        call.nothing_charged();
        return refusal(status, headers, body, length, kind);
    }
    match (kind, &asked.request) {
        (Kind::Stream, AiRequest::Chat(request)) => Ok(stream(request, status, headers, body)),
        (Kind::Json | Kind::Other | Kind::Stream, _) => {
            plain(call, asked, status, headers, body).await
        }
        // Nobody can read it here; its usage is estimated at its end.
        (Kind::Encoded, _) => Ok(as_it_is(status, headers, body, length)),
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Json,
    Stream,
    Encoded,
    Other,
}

impl Kind {
    fn of(headers: &HeaderMap) -> Self {
        let encoding = headers.get(CONTENT_ENCODING).map(HeaderValue::as_bytes);
        if encoding.is_some_and(|encoding| !encoding.eq_ignore_ascii_case(b"identity")) {
            return Self::Encoded;
        }
        let text = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let media_type = text
            .unwrap_or_default()
            .split(';')
            .next()
            .unwrap_or_default()
            .trim();
        if media_type.eq_ignore_ascii_case("text/event-stream") {
            Self::Stream
        } else if media_type.to_ascii_lowercase().ends_with("json") {
            Self::Json
        } else {
            Self::Other
        }
    }
}

/// The provider's own refusal passes through, unless it is of our key, or nothing that a client could read.
fn refusal(
    status: StatusCode,
    headers: HeaderMap,
    body: Incoming,
    length: Option<u64>,
    kind: Kind,
) -> Result<Answer, Error> {
    let code = status.as_u16();
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Err(Error::ProviderKey { status: code })
        }
        _ if status.is_redirection() => Err(Error::ProviderStatus { status: code }),
        _ if status.is_server_error() && kind != Kind::Json => {
            Err(Error::ProviderStatus { status: code })
        }
        _ => Ok(as_it_is(status, headers, body, length)),
    }
}

fn as_it_is(status: StatusCode, headers: HeaderMap, body: Incoming, length: Option<u64>) -> Answer {
    let source = match body {
        Incoming::Exchange(exchange) => Source::Upstream {
            first: Bytes::new(),
            exchange,
            left: length,
        },
        Incoming::Whole(body) => Source::Whole(body),
        Incoming::Frames(frames) => Source::Whole(frames.collect::<Vec<_>>().concat().into()),
    };
    Answer {
        status,
        headers,
        source,
    }
}

fn stream(
    request: &ChatRequest,
    status: StatusCode,
    mut headers: HeaderMap,
    body: Incoming,
) -> Answer {
    // The gateway may take a frame out or add one.
    headers.remove(CONTENT_LENGTH);
    let usage_chunk = if request.client_wants_usage {
        UsageChunk::Shown
    } else {
        UsageChunk::Hidden
    };
    let stream = AiStream::new(body, request.choices, usage_chunk, request.text_bytes);
    Answer {
        status,
        headers,
        source: Source::Ai(Box::new(stream)),
    }
}

async fn plain(
    call: &mut Call,
    asked: &Asked,
    status: StatusCode,
    mut headers: HeaderMap,
    body: Incoming,
) -> Result<Answer, Error> {
    headers.remove(CONTENT_LENGTH);
    let body = match collect(body).await {
        Ok(Plain::Whole(body)) => body,
        Ok(Plain::Long { first, exchange }) => {
            let source = Source::Upstream {
                first,
                exchange,
                left: None,
            };
            return Ok(Answer {
                status,
                headers,
                source,
            });
        }
        Err(error) => return Err(Error::Upstream(error)),
    };
    let (in_band_error, usage, output_bytes) = match &asked.request {
        AiRequest::Chat(_) => {
            let outcome = response::scan(&body);
            (outcome.in_band_error, outcome.usage, outcome.output_bytes)
        }
        AiRequest::Embeddings(_) => {
            let outcome = embeddings::scan(&body);
            (outcome.in_band_error, outcome.usage, 0)
        }
    };
    if let Some(error) = in_band_error {
        call.nothing_charged();
        return Err(Error::InBand(error.message));
    }
    let prompt = asked.request.text_bytes();
    call.took(estimate::reported_or_estimated(usage, prompt, output_bytes));
    if let Some(nano_usd) = call.nano_usd()
        && let Ok(cost) = HeaderValue::try_from(price::format_usd(nano_usd))
    {
        headers.insert(COST, cost);
    }
    Ok(Answer {
        status,
        headers,
        source: Source::Whole(body),
    })
}

async fn collect(body: Incoming) -> Result<Plain, UpstreamError> {
    let mut exchange = match body {
        Incoming::Exchange(exchange) => exchange,
        Incoming::Whole(body) => return Ok(Plain::Whole(body)),
        Incoming::Frames(frames) => {
            return Ok(Plain::Whole(frames.collect::<Vec<_>>().concat().into()));
        }
    };
    let Some(first) = poll_fn(|cx| exchange.poll_data(cx)).await.transpose()? else {
        return Ok(Plain::Whole(Bytes::new()));
    };
    if exchange.is_done() {
        return Ok(Plain::Whole(first));
    }
    let mut whole = BytesMut::from(first);
    while let Some(piece) = poll_fn(|cx| exchange.poll_data(cx)).await.transpose()? {
        whole.extend_from_slice(&piece);
        if whole.len() > PLAIN_BYTES_MAX {
            return Ok(Plain::Long {
                first: whole.freeze(),
                exchange,
            });
        }
    }
    Ok(Plain::Whole(whole.freeze()))
}

fn name_the_model(headers: &mut HeaderMap, asked: &Asked) {
    for (header, name) in [
        (MODEL, &asked.model.name),
        (PROVIDER, &asked.model.provider.name),
    ] {
        if let Ok(value) = HeaderValue::from_str(name) {
            headers.insert(header, value);
        }
    }
}
