//! What header fields cross the gateway, in both directions.
//!
//! Invariants:
//! * hop-by-hop fields stop here (RFC 9110, 7.6.1), the ones that `Connection` names included;
//! * the credential that authenticated a request never reaches an upstream;
//! * `x-mode-envoy-*` is the gateway's own, both ways: neither side can speak in its name;
//! * the upstream learns who asked and for which host from `x-forwarded-*`, whose last entry is the gateway's own.

use std::borrow::Cow;
use std::net::IpAddr;

use bytes::{BufMut as _, BytesMut};
use http::header::{
    ACCEPT_ENCODING, ALT_SVC, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE,
    EXPECT, FORWARDED, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::identify::{KEY_HEADERS, bearer};

/// A client's label for its request.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// They name an account at the provider, which is the operator's and none of the client's.
const ACCOUNT: [HeaderName; 2] = [
    HeaderName::from_static("openai-organization"),
    HeaderName::from_static("openai-project"),
];
const OURS: &str = "x-mode-envoy-";
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What a request's fields are written with.
#[derive(Debug)]
pub(crate) struct Forwarding<'a> {
    pub(crate) request_id: &'a HeaderValue,
    /// Whether a key authenticated the request, so that whatever carries one is dropped.
    pub(crate) authenticated: bool,
    pub(crate) to: To<'a>,
}

/// Whom a request goes to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum To<'a> {
    /// A service of the operator, which learns who the client is and which host it asked for.
    Service {
        client: IpAddr,
        host: Option<&'a HeaderValue>,
        /// Whether the client's connection has TLS.
        secure: bool,
    },
    /// A provider, which learns nothing of the client, is shown the gateway's own credential, and is asked for no
    /// encoding that would hide the usage.
    Provider {
        authorization: Option<&'a HeaderValue>,
    },
}

/// Writes the fields of a request as the upstream shall see them, and the empty line.
pub(crate) fn write_fields(out: &mut BytesMut, headers: &HeaderMap, with: &Forwarding<'_>) {
    let named = named_by_connection(headers);
    for (name, value) in headers {
        if !is_dropped(name, value, with)
            && !named
                .iter()
                .any(|option| option.eq_ignore_ascii_case(name.as_str()))
        {
            put(out, name, value.as_bytes());
        }
    }
    let hop_by_hop = |option: &&str| option.eq_ignore_ascii_case(COOKIE.as_str());
    if !matches!(with.to, To::Provider { .. }) && !named.iter().any(hop_by_hop) {
        put_cookies(out, headers);
    }
    put(out, &REQUEST_ID, with.request_id.as_bytes());
    match with.to {
        To::Service {
            client,
            host,
            secure,
        } => {
            put_forwarded_for(out, headers, client);
            let proto: &[u8] = if secure { b"https" } else { b"http" };
            put(out, &FORWARDED_PROTO, proto);
            if let Some(host) = host {
                put(out, &FORWARDED_HOST, host.as_bytes());
            }
        }
        To::Provider { authorization } => {
            put(out, &ACCEPT_ENCODING, b"identity");
            put(out, &CONTENT_TYPE, b"application/json");
            if let Some(authorization) = authorization {
                put(out, &AUTHORIZATION, authorization.as_bytes());
            }
        }
    }
    out.put_slice(b"\r\n");
}

/// Removes from an answer's fields what is not for the client.
pub(crate) fn clean_answer(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<String> = named_by_connection(headers)
            .into_iter()
            .map(str::to_owned)
            .collect();
        for name in named {
            headers.remove(name.as_str());
        }
    }
    for name in [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        PROXY_AUTHENTICATE,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
        REQUEST_ID,
    ] {
        headers.remove(name);
    }
    if headers.keys().any(|name| name.as_str().starts_with(OURS)) {
        let ours: Vec<HeaderName> = headers
            .keys()
            .filter(|name| name.as_str().starts_with(OURS))
            .cloned()
            .collect();
        for name in ours {
            headers.remove(name);
        }
    }
}

/// Removes from a provider's answer what concerns the operator's account or the provider's own host.
pub(crate) fn clean_provider_answer(headers: &mut HeaderMap) {
    clean_answer(headers);
    for name in ACCOUNT.into_iter().chain([SET_COOKIE, ALT_SVC]) {
        headers.remove(name);
    }
}

/// A query without its `key` parameters.
pub(crate) fn without_key(query: &str) -> Option<Cow<'_, str>> {
    let kept: Vec<&str> = query
        .split('&')
        .filter(|pair| !pair.starts_with("key="))
        .collect();
    if kept.is_empty() {
        None
    } else {
        Some(Cow::Owned(kept.join("&")))
    }
}

fn is_dropped(name: &HeaderName, value: &HeaderValue, with: &Forwarding<'_>) -> bool {
    let to_provider = matches!(with.to, To::Provider { .. });
    match *name {
        HOST | CONNECTION | CONTENT_LENGTH | TRANSFER_ENCODING | TE | TRAILER | UPGRADE
        | EXPECT | PROXY_AUTHORIZATION | FORWARDED | COOKIE => true,
        ACCEPT_ENCODING | CONTENT_TYPE => to_provider,
        AUTHORIZATION => to_provider || (with.authenticated && bearer(value).is_some()),
        _ => {
            let text = name.as_str();
            text.starts_with(OURS)
                || [REQUEST_ID, KEEP_ALIVE, PROXY_CONNECTION].contains(name)
                || [FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PROTO].contains(name)
                || (with.authenticated && KEY_HEADERS.contains(name))
                || (to_provider && ACCOUNT.contains(name))
        }
    }
}

/// The fields that a `Connection` field names, beyond those that never cross anyway.
fn named_by_connection(headers: &HeaderMap) -> Vec<&str> {
    let mut named = Vec::new();
    for value in headers.get_all(CONNECTION) {
        for option in value.to_str().unwrap_or_default().split(',').map(str::trim) {
            let known = ["", "close", "keep-alive", "te", "upgrade"];
            if !known.iter().any(|name| option.eq_ignore_ascii_case(name)) {
                named.push(option);
            }
        }
    }
    named
}

/// One field, into which HTTP/2 clients may have cut it (RFC 9113, 8.2.3).
fn put_cookies(out: &mut BytesMut, headers: &HeaderMap) {
    let mut before: &[u8] = b"cookie: ";
    for cookie in headers.get_all(COOKIE) {
        out.put_slice(before);
        out.put_slice(cookie.as_bytes());
        before = b"; ";
    }
    if before == b"; " {
        out.put_slice(b"\r\n");
    }
}

/// What the client says of those before it is kept; the last entry is the one that the gateway saw itself.
fn put_forwarded_for(out: &mut BytesMut, headers: &HeaderMap, client: IpAddr) {
    out.put_slice(b"x-forwarded-for: ");
    for value in headers.get_all(FORWARDED_FOR) {
        out.put_slice(value.as_bytes());
        out.put_slice(b", ");
    }
    out.put_slice(client.to_string().as_bytes());
    out.put_slice(b"\r\n");
}

fn put(out: &mut BytesMut, name: &HeaderName, value: &[u8]) {
    out.put_slice(name.as_str().as_bytes());
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}
